"""Every command as a process of its own, against real servers: what it prints, its exit status, its one line of trouble."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from kourou.client.blocking import Client
from tests.integration import node as processes
from tests.integration.command import COMMAND, Ended, Shell, side_by_side
from tests.integration.node import ROOT, Node, Process

FREE_PORTS = ("--port", "0", "--grpc-port", "0", "--http-port", "0")
MESSAGE = {
    "id", "topic", "broker", "queue", "offset", "store_ms", "born_ms", "keys", "tag", "message_group", "lite_topic",
    "properties", "body",
}  # fmt: skip


class Server:
    """A node for all tests of the module; each uses topics and groups of its own."""

    def __init__(self, node: Node, data: Path, shell: Shell) -> None:
        self.node = node
        self.data = data
        self.shell = shell


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("cli")
    with Node(directory / "data") as node:
        yield Server(node, directory / "data", Shell(node.address, directory))


@pytest.fixture
def shell(server: Server) -> Shell:
    return server.shell


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    """With nothing to ask."""
    return Shell(None, tmp_path)


until = partial(processes.until, limit_s=20, pause_s=0.01)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.node.address) as opened:
        yield opened


def keys(value: Any) -> Any:
    """The field names of an object, and of those within it."""
    if isinstance(value, dict):
        return {name: keys(inner) for name, inner in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value else ...


# ---- topics and groups


def test_topics(shell: Shell) -> None:
    define = ("topic", "create", "topics", "--type", "fifo", "--queues")
    assert shell.json(*define, "3") == {"topic": "topics", "type": "fifo", "queues": 3, "created": True}
    again, other, listed, table, described, shown = side_by_side(
        shell.run,
        [
            (*define, "3"),
            (*define, "2"),
            ("topic", "list", "-o", "json"),
            ("topic", "list"),
            ("topic", "describe", "topics", "-o", "json"),
            ("topic", "describe", "topics"),
        ],
    )
    assert again == Ended(0, "topic topics is there already (fifo, 3 queues)\n", "")
    assert (other.status, other.out) == (1, "")
    assert "exists with 3 queues" in other.err
    (topic,) = (topic for topic in listed.json if topic["topic"] == "topics")
    assert topic["placement"] == [["broker-a", 3]]
    assert {"topic", "type", "placement", "created_ms"} <= topic.keys()
    assert re.search(r"^topics +fifo +3 +broker-a x 3 +20\d\d-", table.out, re.MULTILINE)
    assert described.json["type"] == "fifo"
    assert [(q["broker"], q["queue"], q["min"], q["max"]) for q in described.json["queues"]] == [
        ("broker-a", queue, 0, 0) for queue in range(3)
    ]
    assert re.search(r"^messages +0$", shown.out, re.MULTILINE)
    assert shell.json("topic", "delete", "topics") == {"topic": "topics", "deleted": True}
    none = "error: topic 'topics' does not exist\n"
    shell.all_fail([("topic delete topics", none), ("topic describe topics", none)])
    assert shell.json("topic", "delete", "topics", "--missing-ok") == {"topic": "topics", "deleted": False}


def test_groups(shell: Shell, client: Client) -> None:
    created = {"group": "groups", "shape": None, "fifo": False, "max_attempts": 3, "created": True}
    assert shell.json("group", "create", "groups", "--max-attempts", "3") == created
    client.create_topic("grouped", queues=1)
    client.producer().send_many("grouped", [b"0", b"1", b"2"])
    with client.consumer("grouped", group="groups") as consumer:
        assert next(iter(consumer)).body == b"0"
        again, other, listed, table, described, shown = side_by_side(
            shell.run,
            [
                ("group", "create", "groups", "--max-attempts", "3"),
                ("group", "create", "groups"),
                ("group", "list", "-o", "json"),
                ("group", "list"),
                ("group", "describe", "groups", "-o", "json"),
                ("group", "describe", "groups"),
            ],
        )
    assert again == Ended(0, "group groups is there already\n", "")
    assert other.status == 1
    assert "max_attempts" in other.err
    (group,) = (group for group in listed.json if group["group"] == "groups")
    assert {"group", "shape", "fifo", "max_attempts", "created_ms"} <= group.keys()
    assert re.search(r"^groups +stream +no +3 +20\d\d-", table.out, re.MULTILINE)
    assert {"group", "shape", "fifo", "max_attempts", "created_ms", "lag", "members", "queues"} <= described.json.keys()
    (member,), (queue,) = described.json["members"], described.json["queues"]
    assert {"client", "remote", "topic", "mode", "tags", "queues"} <= member.keys()
    assert {"topic", "broker", "queue", "min", "max", "committed", "lag"} <= queue.keys()
    assert re.search(r"^members +1$", shown.out, re.MULTILINE)

    def reset(to: str) -> int:
        (moved,) = shell.json("group", "reset", "groups", "grouped", "--to", to)
        assert (moved["broker"], moved["queue"]) == ("broker-a", 0)
        assert keys(moved) == {"broker": ..., "queue": ..., "from": ..., "to": ...}
        place: int = moved["to"]
        return place

    assert [reset(to) for to in ("-15m", "latest", "offset:2")] == [0, 3, 2]
    shown = shell.done("group", "describe", "groups")
    assert re.search(r"^grouped +broker-a +0 +0 +3 +2 +1$", shown.out, re.MULTILINE)
    shell.all_fail([("group reset groups nowhere --to earliest", "topic 'nowhere' does not exist")])
    assert shell.json("group", "delete", "groups") == {"group": "groups", "deleted": True}
    lines = ("delete groups", "describe groups", "reset groups grouped --to latest")
    shell.all_fail((f"group {line}", "group 'groups' does not exist") for line in lines)


# ---- messages


def test_send_one(shell: Shell, client: Client) -> None:
    client.create_topic("one", queues=1)
    receipt = shell.json("send", "one", "ä body", "--key", "42", "--tag", "new", "--property", "a=b=c", "--property", "d=")
    assert receipt.keys() == {"id", "topic", "broker", "queue", "offset", "store_ms", "recall_handle"}
    assert re.search(r"^id +[0-9A-F]{32}\nqueue +broker-a:0\noffset +1\nstored +20", shell.done("send", "one", "x").out)
    (found,) = client.find("one", id=receipt["id"])
    assert (found.body.decode(), found.keys, found.tag) == ("ä body", ("42",), "new")
    assert found.properties == {"a": "b=c", "d": ""}
    assert shell.done("send", "--server", client_address(shell), "--", "one", "-x").status == 0
    (dashed,) = client.find("one", queue=0, offset=2)
    assert dashed.body == b"-x"


def client_address(shell: Shell) -> str:
    return shell.env["KOUROU_SERVER"]


def test_send_in_order(shell: Shell, client: Client) -> None:
    client.create_topic("fifo", type="fifo", queues=4)
    client.create_topic("normal", queues=1)
    assert "needs a message_group" in shell.fails("send", "fifo", "x")
    assert "needs a topic of type fifo" in shell.fails("send", "normal", "x", "--message-group", "g")
    receipts = [shell.json("send", "fifo", body, "--message-group", "g") for body in "ab"]
    assert [(r["queue"], r["offset"]) for r in receipts] == [(receipts[0]["queue"], 0), (receipts[0]["queue"], 1)]


def test_send_lines(shell: Shell, client: Client) -> None:
    client.create_topic("lines", queues=1)
    sent = shell.json("send", "lines", "--file", "-", "--tag", "t", stdin=b"one\r\n\nthree \xff")
    assert sent | {"seconds": 0} == {"topic": "lines", "sent": 3, "seconds": 0}
    (shell.directory / "some lines").write_bytes(b"four\nfive\n")
    assert re.match(r"sent 2 messages to lines in ", shell.done("send", "lines", "--file", "some lines").out)
    with (shell.directory / "some lines").open("rb") as file:
        subprocess.run(
            [*COMMAND, "send", "lines", "--file", "-"], env=shell.env, stdin=file, check=True, capture_output=True
        )
    with client.consumer("lines", group="lines") as consumer:
        got = list(islice(consumer, 7))
    assert [m.body for m in got] == [b"one", b"", b"three \xff", b"four", b"five", b"four", b"five"]
    assert [m.tag for m in got] == ["t"] * 3 + [None] * 4
    ended = shell.run("send", "lines", "--file", "-")
    assert (ended.status, ended.err) == (0, "standard input is empty: nothing was sent\n")
    assert "nowhere: No such file or directory" in shell.fails("send", "lines", "--file", "nowhere")
    assert "Is a directory" in shell.fails("send", "lines", "--file", str(shell.directory))


def test_receive(shell: Shell, client: Client) -> None:
    client.create_topic("received", queues=1)
    client.producer().send("received", b"zero", key="k", tag="even", properties={"a": "b"})
    between_ms = client.producer().send("received", b"\x1b[31mone\xff", tag="odd").store_ms + 1
    until(lambda: time.time_ns() // 1_000_000 > between_ms, "the clock moves on")
    for body in (b"two", b"three", b"four"):
        client.producer().send("received", body, tag="even" if body != b"three" else "odd")
    lines = shell.done("receive", "received", "--group", "r", "--count", "2").lines
    assert re.fullmatch(r"20[-\d]+ [:.\d]+  broker-a:0:0  k  even  zero", lines[0])
    assert lines[1].endswith(r"broker-a:0:1  -  odd  \x1b[31mone\xff")
    (third,) = map(json.loads, shell.done("receive", "received", "--group", "r", "--count", "1", "-o", "json").lines)
    assert third.keys() == MESSAGE
    assert (third["body"], third["offset"], third["tag"], third["keys"]) == ("two", 2, "even", [])
    ended = shell.run("receive", "received", "--group", "r", "--count", "9", "--timeout", "0.3", "-o", "body")
    assert ended == Ended(1, "three\nfour\n", "error: received 2 of 9 messages; none came for 0.3 s\n")
    assert shell.done("receive", "received", "--group", "r", "--timeout", "0.2").out == ""

    def bodies(group: str, *arguments: str) -> list[str]:
        command = ("receive", "received", "--group", group, "-o", "json", "--timeout", "0.3")
        return [json.loads(line).get("body", "?") for line in shell.done(*command, *arguments).lines]

    assert side_by_side(
        bodies,
        [
            ("r2", "--start", "offset:3"),
            ("r3", "--start", f"time:{between_ms}"),
            ("r4", "--start", "-15m", "--tag", "even"),
            ("r5", "--start", "latest"),
            ("r6", "--broadcast", "--count", "1"),
        ],
    ) == [["three", "four"], ["two", "three", "four"], ["zero", "two", "four"], [], ["zero"]]
    assert shell.fails("receive", "received", "--group", "two words", status=2).startswith("error: group name 'two words'")


def test_bodies_that_are_no_text(shell: Shell, client: Client) -> None:
    client.create_topic("bytes", queues=1)
    client.producer().send("bytes", b"\xff\x00")
    (message,) = map(json.loads, shell.done("receive", "bytes", "--group", "b", "--count", "1", "-o", "json").lines)
    assert message.keys() == MESSAGE - {"body"} | {"body_base64"}
    assert base64.b64decode(message["body_base64"]) == b"\xff\x00"


def test_follow_until_ctrl_c(shell: Shell, client: Client) -> None:
    client.create_topic("followed", queues=1)
    client.producer().send("followed", b"first")
    with shell.follow("receive", "followed", "--group", "f", "-o", "body") as receiving:
        assert receiving.line() == "first"
        client.producer().send("followed", b"second")
        assert receiving.line() == "second"
        assert receiving.interrupt() == (130, "")
    assert client.describe_group("f")["lag"] == 0


def test_ctrl_c_while_standard_input_is_silent(shell: Shell, client: Client) -> None:
    """What was typed before is sent; nothing waits for the next line."""
    client.create_topic("typed", queues=1)
    with shell.follow("send", "typed", "--file", "-") as sending:
        sending.type(b"first\nsec")
        until(lambda: client.describe_topic("typed")["queues"][0]["max"] == 1, "the first line is stored")
        assert sending.interrupt() == (130, "")
    assert client.describe_topic("typed")["queues"][0]["max"] == 1


@pytest.mark.parametrize("form", ["table", "json", "body"])
def test_nobody_reads_on(form: str, shell: Shell, client: Client) -> None:
    """``kourou receive … | head -1``: it leaves with the next message, quietly."""
    topic = f"piped-{form}"
    client.create_topic(topic, queues=1)
    client.producer().send(topic, b"first")
    with shell.follow("receive", topic, "--group", topic, "-o", form) as receiving:
        assert "first" in receiving.line()
        receiving.stop_reading()
        client.producer().send(topic, b"second")
        assert receiving.wait() == (141, "")


@pytest.mark.parametrize("line", ["topic list", "status -o json", "--help", "standalone --print-config", "completion zsh"])
def test_a_pipe_that_is_closed_from_the_start(line: str, shell: Shell) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([*COMMAND, *shlex.split(line)], env=shell.env, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert ended.returncode in (1, 141)  # rich leaves with 1
    assert ended.stderr == b""


def test_output_that_is_closed_or_full(shell: Shell) -> None:
    def through(redirection: str) -> tuple[int, bytes]:
        line = f"{shlex.join(COMMAND)} group list -o json {redirection}"
        ended = subprocess.run(["sh", "-c", line], env=shell.env, stderr=subprocess.PIPE, timeout=60)
        return ended.returncode, ended.stderr

    assert through(">&-") == (0, b"")
    assert through(">/dev/full") == (1, b"error: No space left on device\n")


def test_find(shell: Shell, client: Client) -> None:
    client.create_topic("found", queues=1)
    first = client.producer().send("found", b"one", key="k", tag="t")
    client.producer().send("found", b"x" * 100, keys=["k", "l"])

    def find(*arguments: str) -> Any:
        return shell.json("message", "find", "found", *arguments)

    by_id, by_key, one, by_time = side_by_side(
        find, [("--id", first.id), ("--key", "k"), ("--key", "k", "--limit", "1"), ("--time", "-1h")]
    )
    assert by_id[0].keys() == MESSAGE
    assert [[m["offset"] for m in found] for found in (by_id, by_key, one, by_time)] == [[0], [1, 0], [1], [0, 1]]
    shown = shell.done("message", "find", "found", "--queue", "0", "--offset", "1").out
    assert re.search(r"^[0-9A-F]{32} +broker-a +0 +1 +20.* k, l +- +x{79}…$", shown, re.MULTILINE)
    nothing = "error: topic found holds no such message\n"
    trouble = {
        "message find found --key other": nothing,
        f"message find found --id {'0' * 32}": nothing,
        "message find nowhere --key k": "topic 'nowhere' does not exist",
        "message find found --key k --limit 0": "field 'limit' is 0",
    }
    shell.all_fail(trouble.items())
    assert shell.fails("message", "find", "found", "--key", "other", "-o", "json", out=r"\[\]\n") == nothing


# ---- the rest


def test_status(shell: Shell, server: Server) -> None:
    status = shell.json("status")
    assert status.keys() == {"cluster", "brokers", "members", "troubles"}
    assert status["members"] == []  # a broker alone has none
    assert status["troubles"] == []
    (broker,) = status["cluster"]["brokers"]
    assert {"broker", "broker_id", "address", "epoch", "master", "version", "heard_ms_ago"} <= broker.keys()
    facts = status["brokers"]["broker-a"]
    assert {"log", "disk", "topics", "groups", "messages_in", "messages_out", "flush", "version"} <= facts.keys()
    shown = shell.done("status").out
    assert re.search(rf"^broker-a +0 +{server.node.address} +master ", shown, re.MULTILINE)


def test_bench(shell: Shell) -> None:
    result = shell.json("bench", "--messages", "500", "--serial", "10", "--size", "10", "--queues", "2")
    assert keys(result) == {
        "messages": ..., "size_bytes": ..., "queues": ..., "produce_per_s": ..., "consume_per_s": ...,
        "latency_us": {"p50": ..., "p99": ..., "max": ...},
    }  # fmt: skip
    latency = result["latency_us"]
    assert latency["p50"] <= latency["p99"] <= latency["max"]
    assert "bench" not in shell.done("topic", "list").out + shell.done("group", "list").out


def test_demo(shell: Shell) -> None:
    tree = shell.directory / "tree"
    tree.mkdir()
    (tree / "a.txt").write_text("one\ntwo\n")
    (tree / "b.txt").write_text("three\n")
    summary = shell.json("demo", "tree", "--topic", "shown", "--group", "shown")
    assert summary["exactly_once_in_order"]
    assert (summary["files"], summary["sent"], summary["faults"]) == (2, summary["received"], [])
    (shell.directory / "empty").mkdir()
    shell.all_fail([("demo empty", "there is no text file in empty"), ("demo nowhere", "nowhere does not exist")])


def test_completion_is_installed(tmp_path: Path) -> None:
    shell = Shell(None, tmp_path, {"HOME": str(tmp_path)})
    assert "start a new shell" in shell.done("completion", "bash", "--install").out
    (installed,) = tmp_path.rglob("completions/kourou")
    assert "complete" in installed.read_text()


# ---- trouble


def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_nothing_listens(tmp_path: Path) -> None:
    port = unused_port()
    lines = (
        "topic list",
        "group describe g",
        "send t x",
        "send t --file -",
        "receive t --group g",
        "message find t --key k",
    )
    text = f"error: can't connect to 127.0.0.1:{port}: "
    Shell(f"127.0.0.1:{port}", tmp_path).all_fail((line, text) for line in (*lines, "status", "bench", "demo"))


def test_asked_wrongly(shell: Shell) -> None:
    """More of these, in one process: tests/unit/cli/test_usage.py."""
    wrong = {
        "topic create 'two words'": "topic name 'two words' has characters other than",
        "topic create": "NAME requires an argument (see: kourou topic create --help)",
        "group create 'two words'": "group name 'two words'",
        "message find t --time noon": "'noon' is not a time",
        "nothing": 'Unknown command "nothing"',
    }
    shell.all_fail(wrong.items(), status=2)


def test_a_malformed_server(tmp_path: Path) -> None:
    assert Shell("nonsense:port", tmp_path).fails("status", status=2).startswith("error: KOUROU_SERVER: address ")


@pytest.mark.parametrize(
    ("missing", "line", "wanted"),
    [("cyclopts", "status", "cli"), ("grpc", "standalone --data never", "server"), ("numpy", "log verify data", "server")],
)  # fmt: skip
def test_an_extra_that_is_not_installed(missing: str, line: str, wanted: str, alone: Shell) -> None:
    (alone.directory / "data/log").mkdir(parents=True)
    code = f"import sys; sys.modules[{missing!r}] = None; from kourou.cli.__main__ import main; main({shlex.split(line)!r})"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=alone.env, cwd=alone.directory, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2, ended
    assert re.fullmatch(rf"error: [^\n]+ is not installed; run: pip install 'kourou\[{wanted}\]'\n", ended.stderr)
    assert ended.stdout == ""
    assert not (alone.directory / "never").exists()


def test_servers_that_can_not_start(server: Server, alone: Shell) -> None:
    quiet = ("--log-level", "error")
    (alone.directory / "file").touch()
    taken = f"can't listen on 127.0.0.1:{server.node.port} (data plane)"
    port = shlex.join(("--port", str(server.node.port), "--grpc-port", "0", "--http-port", "0", *quiet))
    free = shlex.join((*FREE_PORTS, *quiet))
    in_use = f"in use by process {server.node.process.pid}"
    trouble = {
        f"standalone --data {shlex.quote(str(server.data))} {free}": in_use,
        f"log rebuild {shlex.quote(str(server.data))}": in_use,
        f"standalone --data file {free}": "--data: file is not a directory",
        f"standalone {port}": taken,
        f"nameserver {port}": taken,
    }
    alone.all_fail(trouble.items())
    assert "can't read none.toml" in alone.fails("standalone", "--config", "none.toml", status=2)


def test_where_options_come_from(tmp_path: Path) -> None:
    (tmp_path / "kourou.toml").write_text('http-port = 1\nname = "broker-x"\n')
    shell = Shell(None, tmp_path, {"KOUROU_HTTP_PORT": "2"})
    for command in ("standalone", "broker"):
        shown = shell.done(command, "--config", "kourou.toml", "--port", "3", "--print-config").out
        for line in (
            r"port +3 +command line",
            r"http-port +2 +environment \(KOUROU_HTTP_PORT\)",
            r"name +broker-x +file \(kourou.toml\)",
            rf"auto-create +{command == 'standalone'} +default",
        ):
            assert re.search(rf"^{line} *$", shown, re.MULTILINE), line
    assert "grpc-port" in shell.done("nameserver", "--print-config").out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kourou.toml"]


# ---- data directories


def test_log_commands(alone: Shell) -> None:
    data = alone.directory / "data"
    with Node(data, "--segment-bytes", "64KiB") as node, Client(node.address) as client:
        client.create_topic("logged", queues=1)
        for number in range(20):
            client.producer().send("logged", bytes([number]) * 10_000)
        assert alone.done("log", "verify", "data").out.endswith("nothing is wrong\n")  # reads beside the broker
        assert node.stop() == 0
    segments = alone.json("log", "inspect", "data")
    assert len(segments) > 2
    assert keys(segments) == [{"segment": ..., "end": ..., "bytes": ..., "index_bytes": ...}]
    position = alone.json("log", "position", "data")
    assert (position["broker"], position["broker_id"], position["epoch"]) == ("broker-a", 0, 1)
    assert position["end"] == segments[-1]["end"]
    assert "END" in alone.done("log", "position", "data").out
    frames = [json.loads(line) for line in alone.done("log", "inspect", "data", "--frames", "-o", "json").lines]
    messages = [frame for frame in frames if frame["kind"] == "messages"]
    assert [frame["queue_offset"] for frame in messages] == list(range(20))
    assert {"log_offset", "size", "epoch", "store_ms", "topic", "queue_id", "records", "crc"} <= messages[0].keys()
    at = messages[5]["log_offset"]
    started = alone.done("log", "inspect", "data", "--start", str(at), "--limit", "1", "-o", "json").json
    assert started == messages[5]
    limited = alone.run("log", "inspect", "data", "--frames", "--limit", "2")
    assert (limited.status, limited.err) == (0, f"there are more: --start {frames[2]['log_offset']}\n")
    assert "every index is there and sound" in alone.done("log", "rebuild", "data").out
    index = min((data / "log").glob("*.idx"), key=lambda path: path.name)
    whole = index.read_bytes()
    index.unlink()
    assert alone.json("log", "rebuild", "data")["rebuilt"] != []
    assert index.read_bytes() == whole
    assert len(alone.json("log", "rebuild", "data", "--all")["rebuilt"]) == len(list((data / "log").glob("*.idx")))
    segment = min((data / "log").glob("*.seg"), key=lambda path: path.name)
    damaged = bytearray(segment.read_bytes())
    damaged[messages[0]["log_offset"] + 5_000] ^= 1
    segment.write_bytes(damaged)
    ended = alone.run("log", "verify", "data", "-o", "json")
    assert (ended.status, ended.err) == (1, f"error: {len(ended.json)} problems in data\n")
    assert keys(ended.json) == [{"file": ..., "start": ..., "end": ..., "text": ...}]
    assert segment.name in ended.json[0]["file"]
    alone.fails("log", "verify", "data", out=r"(?s).*checksum.*")
    alone.all_fail((f"log {command} nowhere", "is not the data directory of a broker") for command in ("inspect", "rebuild"))
    (data / "identity.json").write_text("{")
    assert "identity.json" in alone.fails("log", "position", "data")


# ---- servers


def addresses(process: Process, *, of: str = "") -> dict[str, str]:
    """The addresses that it has printed, by what they are for."""
    found = (re.fullmatch(rf"{of} *(data plane|(?:official )?gRPC|http) +(\S+)", line) for line in process.lines)
    return {match[1]: match[2] for match in found if match is not None}


def test_a_nameserver_and_a_broker(alone: Shell) -> None:
    nameserver = Process("nameserver", *FREE_PORTS)
    broker = None
    try:
        nameserver.wait_for("ready", whole=True)
        at = addresses(nameserver)
        assert at.keys() == {"data plane", "gRPC", "http"}
        shell = Shell(at["data plane"], alone.directory)
        empty = shell.run("status", "-o", "json")
        assert (empty.status, empty.err) == (1, "")
        assert empty.json["troubles"] == ["no broker is registered"]
        broker = Process(
            "broker", "--nameserver", at["gRPC"], "--data", str(alone.directory / "b"), "--name", "b1", *FREE_PORTS
        )
        broker.wait_for("ready", whole=True)
        assert addresses(broker).keys() == {"data plane", "official gRPC", "http"}
        until(lambda: shell.run("status").status == 0, "the broker is registered")
        assert "created topic t" in shell.done("topic", "create", "t").out
        assert shell.json("send", "t", "x")["broker"] == "b1"
        assert "does not exist" in shell.fails("send", "not-created", "x")
        assert broker.stop() == 0
        assert nameserver.stop() == 0
    finally:
        for process in (broker, nameserver):
            if process is not None and process.process.poll() is None:
                process.kill()


def test_ctrl_c_ends_a_server_cleanly(tmp_path: Path) -> None:
    with Node(tmp_path / "data") as node:
        node.process.send_signal(signal.SIGINT)
        assert node.process.wait(20) == 0
    assert "Traceback" not in node.output()


class LocalCluster(Process):
    def __init__(self, data: Path, *arguments: str) -> None:
        super().__init__("cluster", "up", "--port", "0", "--data", str(data), *arguments)

    def children(self) -> list[int]:
        return list(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_local_cluster(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path, "--groups", "2")
    try:
        cluster.wait_for("ready", whole=True)
        for name, official in (("nameserver", "gRPC"), ("broker-a", "official gRPC"), ("broker-b", "official gRPC")):
            assert addresses(cluster, of=name).keys() == {"data plane", official, "http"}, name
        where = addresses(cluster, of="nameserver")["data plane"]
        assert f"clients use: --server {where}, or KOUROU_SERVER={where}" in cluster.lines
        shell = Shell(where, tmp_path)
        shell.done("topic", "create", "spread", "--queues", "4")
        placed = [(q["broker"], q["queue"]) for q in shell.json("topic", "describe", "spread")["queues"]]
        assert placed == [("broker-a", 0), ("broker-a", 1), ("broker-b", 0), ("broker-b", 1)]
        assert shell.json("send", "spread", "--file", "-", stdin=b"1\n2\n")["sent"] == 2
        status = shell.json("status")
        assert [broker["broker"] for broker in status["cluster"]["brokers"]] == ["broker-a", "broker-b"]
        assert status["brokers"].keys() == {"broker-a", "broker-b"}
        children = cluster.children()
        assert len(children) == 3
        assert cluster.stop() == 0
        assert all(map(gone, children))
        assert "Traceback" not in cluster.output()
    finally:
        if cluster.process.poll() is None:
            cluster.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_that_dies(tmp_path: Path) -> None:
    """It is said, the others go on, and the end says that not all was well."""
    cluster = LocalCluster(tmp_path, "--groups", "1")
    try:
        cluster.wait_for("ready", whole=True)
        nameserver, broker = cluster.children()
        os.kill(broker, signal.SIGKILL)
        cluster.wait_for("broker-a ended: exit status -9; the others go on", whole=True)
        assert not gone(nameserver)
        assert cluster.stop() == 1
        assert gone(nameserver)
    finally:
        if cluster.process.poll() is None:
            cluster.stop()


def test_a_cluster_that_does_not_come_up(server: Server, alone: Shell) -> None:
    """The children's last words are the one line; nothing is left behind."""
    said = alone.fails("cluster", "up", "--port", str(server.node.port), "--data", "c", out=r"(?s).*")
    assert said.startswith(f"error: nameserver did not start: can't listen on 127.0.0.1:{server.node.port} (data plane)")
    (alone.directory / "file").touch()
    said = alone.fails("cluster", "up", "--port", "0", "--groups", "1", "--data", "file", out=r"(?s).*")
    assert said.startswith("error: broker-a did not start: ")


# ---- the manual


def test_the_tour_of_the_readme(tmp_path: Path) -> None:
    """Each command of the README's tour, as it stands there, in its order; up to where a cluster's begin."""
    tour = (ROOT / "README.md").read_text().partition("\n## A tour\n")[2].partition("\n## ")[0]
    tour = tour.partition("kourou nameserver")[0]
    lines = [line.partition(" #")[0].strip() for line in re.findall(r"^ {4}(kourou .*)$", tour, re.MULTILINE)]
    assert lines[0].removesuffix(" &") == "kourou standalone --data ./kourou-data"
    said: dict[str, str] = {}
    with Node(tmp_path / "kourou-data") as node:
        shell = Shell(node.address, tmp_path)
        for line in lines[1:]:
            if line.startswith("kourou log"):
                node.stop()
            said[line] = shell.done(*shlex.split(line)[1:]).out
    assert "a message" in said["kourou receive orders --group billing --count 1"]
    assert json.loads(said["kourou topic describe orders -o json"])["topic"] == "orders"
    assert len(said) >= 7
