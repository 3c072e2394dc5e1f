"""Options of a server from three places: command line, over environment, over TOML file, over defaults.

environment   KOUROU_ and the name in capitals: KOUROU_HTTP_PORT=8088
TOML          the names at top level, with - or _: http-port = 8088
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from kourou.cli.values import BadValue, parse_size
from kourou.core.errors import BadRequest
from kourou.core.route import Endpoint, parse_endpoint

NAMESERVER_GRPC_PORT = 9877

Options = TypeVar("Options")


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective value and where it comes from."""

    name: str
    value: object
    origin: str  # "default", "file …", "environment", "command line"


def load(
    kind: type[Options],
    *,
    flags: Mapping[str, object],
    config: Path | None,
    environment: Mapping[str, str],
    defaults: Mapping[str, object] | None = None,
) -> tuple[Options, list[Setting]]:
    """The options, checked, and the origin of each. ``flags`` holds None for what was not given; ``defaults`` are those
    of a command that differ from the dataclass's. Raises BadValue."""
    hints = get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    names = {field.name for field in fields}
    file = _read(config, names) if config is not None else {}
    given: dict[str, Any] = dict(defaults or {})
    settings: list[Setting] = []
    for field in fields:
        name, origin = field.name, "default"
        variable = f"KOUROU_{name.upper()}"
        if flags.get(name) is not None:
            origin, value = "command line", _convert(_flag(name), name, flags[name], hints[name])
        elif variable in environment:
            origin, value = f"environment ({variable})", _convert(variable, name, environment[variable], hints[name])
        elif name in file:
            origin, value = f"file ({config})", _convert(f"{config}: {name}", name, file[name], hints[name])
        if origin != "default":
            given[name] = value
        settings.append(Setting(name, None, origin))
    try:
        options = kind(**given)
    except BadRequest as failure:
        raise BadValue(str(failure)) from None
    return options, [dataclasses.replace(s, value=getattr(options, s.name)) for s in settings]


def _flag(name: str) -> str:
    return "--nameserver" if name == "nameservers" else f"--{name.replace('_', '-')}"


def _read(path: Path, names: set[str]) -> dict[str, Any]:
    try:
        read = tomllib.loads(path.read_text())
    except OSError as failure:
        raise BadValue(f"can't read {path}: {failure.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise BadValue(f"{path} is not TOML: {failure}") from None
    found = {name.replace("-", "_"): value for name, value in read.items()}
    for name in found:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            raise BadValue(f"{path}: there is no option {name}" + (f"; did you mean {near[0]}?" if near else ""))
    return found


def _convert(where: str, name: str, value: object, hint: Any) -> object:
    """A value of a field's type, from text or from TOML's own types."""
    try:
        if hint is bool:
            return _bool(value)
        if hint is int:
            if not isinstance(value, str):
                return _exactly(int, value)
            return parse_size(value) if name.endswith("_bytes") else int(value)
        if hint is float:
            return float(value) if isinstance(value, str) else float(_exactly((int, float), value))
        if hint in (Path, Path | None):
            return value if isinstance(value, Path) else Path(_exactly(str, value))
        if hint is str:
            return _exactly(str, value)
        if hint == tuple[Endpoint, ...]:
            return parse_endpoints(value)
    except BadRequest as failure:
        raise BadValue(f"{where}: {failure}") from None
    except (TypeError, ValueError):
        raise BadValue(f"{where}: {value!r} is not {_words(hint)}") from None
    raise AssertionError(f"no conversion to {hint}")


def parse_endpoints(value: object) -> tuple[Endpoint, ...]:
    """``host:port[,…]`` or a list of them; nameservers' gRPC addresses."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple):
        raise TypeError(value)
    return tuple(parse_endpoint(part, default_port=NAMESERVER_GRPC_PORT) for part in value)


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("0", "false", "no", "off"):
            return False
    raise ValueError(value)


def _exactly(kind: Any, value: object) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(value)
    return value


def _words(hint: Any) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}.get(
        hint, "a list of addresses"
    )
