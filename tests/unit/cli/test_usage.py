"""The command line as it is read: every help text, every example of the documents, and what is said about mistakes."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from kourou.cli.__main__ import run
from kourou.cli.app import app

ROOT = Path(__file__).resolve().parents[3]


def commands(parent: App = app, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name in parent:
        if not name.startswith("-"):
            yield from commands(parent[name], (*path, name))


COMMANDS = list(commands())


def test_all_commands_are_found() -> None:
    assert len(COMMANDS) > 25
    assert ("cluster", "up") in COMMANDS


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """At each level: a usage line, a sentence, and nothing that only a machine would write."""
    assert run([*path, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    usage, blank, sentence, *rest = shown.out.splitlines()
    assert usage.startswith(" ".join(("Usage: kourou", *path)))
    assert blank == ""
    assert re.match(r"[A-Z]", sentence)
    text = "\n".join(rest)
    for noise in ("[ARGS]", "[default: False]", "[default: ()]", "``", "None"):
        assert noise not in shown.out
    for line in text.splitlines():
        if (found := re.match(r"│\s+(?:\*\s+)?(--?[a-z][a-z -]*?)(?:  |│)", line)) is not None:
            assert re.search(r"[a-z]", line[found.end() :]) or line.rstrip(" │").endswith(found[1]), line


def test_help_says_all_that_the_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    run(["receive", "-h"])
    assert "A message counts as received once it is printed." in capsys.readouterr().out


def test_commands_stand_in_the_order_of_their_use(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    shown = re.findall(r"^│ ([a-z]+) ", capsys.readouterr().out, re.MULTILINE)
    used = ["standalone", "nameserver", "broker", "cluster", "send", "receive", "topic", "group", "log"]
    assert [name for name in shown if name in used] == used


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert re.fullmatch(r"kourou \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("nothing", 'Unknown command "nothing"'),
        ("topic nothing", 'Unknown command "nothing"'),
        ("topic create", "NAME requires an argument (see: kourou topic create --help)"),
        ("topic create a b", "unexpected: b (see: kourou topic create --help)"),
        ("topic create a --queues x", '--queues: unable to convert "x" into int'),
        ("topic create a --queues 0", "--queues must be above 0"),
        ("topic create a --type fast", 'Invalid value "fast" for --type'),
        ("topic list --output xml", 'Invalid value "xml" for --output'),
        ("send t", "give a BODY or --file"),
        ("send t body --file x", "give a BODY or --file, not both"),
        ("send t body --property a", "property 'a' is not NAME=VALUE"),
        ("send t body --deadline 0", "--deadline must be above 0"),
        ("send t body --deadline nan", "--deadline must be above 0"),
        ("send t body --server a:b", "--server: address 'a:b' is not host:port with a port from 1 to 65535"),
        ("send t body --server a:70000", "--server: address 'a:70000' is not host:port"),
        ("send t body --server ,", "--server: ',' names no server"),
        ("demo --server a:b", "--server: address 'a:b' is not host:port"),
        ("receive t", "--group requires an argument"),
        ("receive t --group g --count 0", "--count must be above 0"),
        ("receive t --group g --timeout 0", "--timeout must be above 0"),
        ("receive t --group g --start soon", "'soon' is not a place to start"),
        ("receive t --group g --start offset:x", "'x' is not an offset"),
        ("group reset g t --to never", "'never' is not a place to start"),
        ("message find t", "say what to find: --id, --key, --time, or --queue with --offset"),
        ("message find t --queue 1", "say what to find"),
        ("message find t --key k --id 0", "say what to find"),
        ("message find t --time noon", "'noon' is not a time"),
        ("bench --messages 0", "must be above 0"),
        ("bench --size big", "'big' is not a size"),
        ("standalone --port 99999", "option port is 99999; from 0 to 65535 is allowed"),
        ("standalone --segment-bytes big", "--segment-bytes: 'big' is not a size"),
        ("standalone --flush never", 'Invalid value "never" for --flush'),
        ("broker", "a broker needs --nameserver HOST:PORT"),
        ("broker --nameserver a:b", "--nameserver: address 'a:b' is not host:port"),
        ("cluster up --groups 0", "--groups must be from 1 to 26"),
        ("completion tcsh", 'Invalid value "tcsh" for SHELL'),
    ],
)
def test_mistakes_are_said_in_one_line(line: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, one line on standard error, before anything is connected to or written."""
    assert run(shlex.split(line)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", shown.err)
    assert text in shown.err


def test_a_malformed_kourou_server_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("KOUROU_SERVER", "a:b")
    assert run(["topic", "list"]) == 2
    assert capsys.readouterr().err == "error: KOUROU_SERVER: address 'a:b' is not host:port with a port from 1 to 65535\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "kourou" in script
    assert "describe" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def examples() -> Iterator[str]:
    """Every line of a code block that starts with the command; the options of servers that are in tables are not here."""
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for line in re.findall(r"^ {4}(?:\$ )?(kourou .*)$", file.read_text(), re.MULTILINE):
            yield line.partition(" #")[0].rstrip(" &")


@pytest.mark.parametrize("line", sorted(set(examples())))
def test_examples_of_the_documents_are_right(line: str) -> None:
    """Read as the command would read them; not run."""
    _, _, unknown = app.parse_known_args(shlex.split(line)[1:])[:3]
    assert not unknown
    app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)
