"""``kourou completion``: completion for bash, zsh, fish and PowerShell."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

Shell = Literal["bash", "zsh", "fish", "powershell"]


def completion(
    shell: Shell,
    /,
    *,
    install: Annotated[bool, Parameter(negative=(), help="Write it where the shell looks, instead of printing it.")] = False,
) -> None:
    """Print the completion script of a shell (for bash: source <(kourou completion bash)), or install it."""
    from kourou.cli.app import app

    if install:
        print(f"installed {app.install_completion(shell=shell)}; start a new shell to use it")
    else:
        print(app.generate_completion(shell=shell))
