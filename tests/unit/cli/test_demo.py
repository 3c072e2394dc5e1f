"""The demo's books: cooked ones are found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kourou.cli.demo import KEY_BYTES_MAX, LINES_MIN, Run, SourceFile, key_of, read_lines, source_files

Line = tuple[str, int, bytes]
SENT: list[Line] = [("k", 0, b"a"), ("k", 1, b"b"), ("m", 0, b"c")]


def run_with(received: list[Line]) -> Run:
    run = Run("t", "g", [SourceFile("k", "py", [b"a", b"b"]), SourceFile("m", "py", [b"c"])])
    for key, _, body in SENT:
        run.count_sent(key, body)
    for key, number, body in received:
        run.count_received(0, key, {"run": run.name, "line": str(number)}, body)
    run.check()
    return run


def test_honest_books() -> None:
    run = run_with([SENT[2], SENT[0], SENT[1]])
    assert run.faults == []
    assert run.summary()["exactly_once_in_order"]
    run.count_received(0, "k", {"run": "earlier", "line": "7"}, b"x")
    assert run.foreign == 1
    assert run.received_count == 3
    assert run.total >= LINES_MIN


@pytest.mark.parametrize(
    ("cook", "text"),
    [
        (lambda lines: lines[:1] + lines[2:], "of k 2 lines were sent and 1 received"),
        (lambda lines: lines + lines[:1], "came twice or too late"),
        (lambda lines: [lines[1], lines[0], lines[2]], "came too early"),
        (lambda lines: [("k", 0, b"X"), *lines[1:]], "received changed or in another order"),
        (lambda lines: [*lines, ("z", 0, b"z")], "z was received and never sent"),
    ],
)
def test_cooked_books(cook: Callable[[list[Line]], list[Line]], text: str) -> None:
    assert any(text in fault for fault in run_with(cook(list(SENT))).faults)


def test_which_files_are_streamed(tmp_path: Path) -> None:
    for name in ("b.py", "a", "sub/c.txt", ".git/x", "node_modules/y", "binary"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0" if name == "binary" else b"1\n2\r\n")
    files = read_lines(list(source_files(tmp_path)))
    assert [(f.key, f.tag, f.lines) for f in files] == [
        ("a", "none", [b"1", b"2"]),
        ("b.py", "py", [b"1", b"2"]),
        ("sub/c.txt", "txt", [b"1", b"2"]),
    ]


def test_keys_are_legal_message_groups() -> None:
    assert key_of("a/b.py") == "a/b.py"
    long = [key_of(f"{'d/' * 60}{i}.py") for i in range(3)]
    assert len(set(long)) == 3
    assert all(len(key.encode()) <= KEY_BYTES_MAX and key.endswith(".py") for key in long)
    assert key_of("a\nb").isprintable()
