"""Options of servers: which place wins, and what is said when one can't be meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kourou.cli.settings import load
from kourou.cli.values import BadValue
from kourou.core.errors import BadRequest
from kourou.core.route import Endpoint


@dataclass(frozen=True)
class Options:
    data: Path = Path("d")
    host: str = "127.0.0.1"
    http_port: int = 8088
    segment_bytes: int = 1024
    ratio: float = 0.5
    auto_create: bool = True
    nameservers: tuple[Endpoint, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.http_port > 65_535:
            raise BadRequest(f"option http_port is {self.http_port}")


def loaded(
    flags: Mapping[str, object] | None = None, environment: Mapping[str, str] | None = None, config: Path | None = None
) -> tuple[Options, dict[str, str]]:
    options, settings = load(Options, flags=flags or {}, config=config, environment=environment or {})
    assert all(setting.value == getattr(options, setting.name) for setting in settings)
    return options, {setting.name: setting.origin for setting in settings}


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "kourou.toml"
    file.write_text('http-port = 1\nhost = "file"\nsegment_bytes = "64KiB"\nratio = 1\nauto-create = false\n')
    environment = {"KOUROU_HTTP_PORT": "2", "KOUROU_HOST": "environment", "KOUROU_NAMESERVERS": "a, b:1"}
    options, origins = loaded({"http_port": 3, "host": None}, environment, file)
    nameservers = (Endpoint("a", 9877), Endpoint("b", 1))
    assert options == Options(Path("d"), "environment", 3, 65_536, 1.0, False, nameservers)
    assert origins == {
        "data": "default",
        "host": "environment (KOUROU_HOST)",
        "http_port": "command line",
        "segment_bytes": f"file ({file})",
        "ratio": f"file ({file})",
        "auto_create": f"file ({file})",
        "nameservers": "environment (KOUROU_NAMESERVERS)",
    }


@pytest.mark.parametrize(
    ("flags", "environment", "text"),
    [
        ({}, {"KOUROU_HTTP_PORT": "x"}, "KOUROU_HTTP_PORT: 'x' is not a whole number"),
        ({}, {"KOUROU_HTTP_PORT": "8k"}, "KOUROU_HTTP_PORT: '8k' is not a whole number"),
        ({}, {"KOUROU_SEGMENT_BYTES": "x"}, "KOUROU_SEGMENT_BYTES: 'x' is not a size"),
        ({"segment_bytes": "x"}, {}, "--segment-bytes: 'x' is not a size"),
        ({}, {"KOUROU_RATIO": "x"}, "KOUROU_RATIO: 'x' is not a number"),
        ({}, {"KOUROU_AUTO_CREATE": "perhaps"}, "KOUROU_AUTO_CREATE: 'perhaps' is not true or false"),
        ({"nameservers": "a:b"}, {}, "--nameserver: address 'a:b' is not host:port"),
        ({"http_port": 99_999}, {}, "option http_port is 99999"),
    ],
)
def test_what_can_not_be_meant(flags: dict[str, object], environment: dict[str, str], text: str) -> None:
    with pytest.raises(BadValue, match=text):
        loaded(flags, environment)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("htp-port = 1", "there is no option htp_port; did you mean http_port?"),
        ("zzz = 1", "there is no option zzz$"),
        ("http-port = true", "http_port: True is not a whole number"),
        ("host = 5", "host: 5 is not a string"),
        ("= 5", "is not TOML"),
        ("nameservers = 5", "nameservers: 5 is not a list of addresses"),
    ],
)
def test_files_that_are_wrong(tmp_path: Path, content: str, text: str) -> None:
    file = tmp_path / "kourou.toml"
    file.write_text(content)
    with pytest.raises(BadValue, match=text):
        loaded(config=file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="can't read .*: No such file or directory"):
        loaded(config=tmp_path / "none.toml")
