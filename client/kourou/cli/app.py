"""The tree of commands. Each is imported when it is called, so that ``kourou --help`` stays quick."""

from __future__ import annotations

from cyclopts import App, Group

from kourou.core.version import VERSION

SERVERS = Group.create_ordered("Servers")
MESSAGES = Group.create_ordered("Messages")
ADMINISTRATION = Group.create_ordered("Administration")
DISK = Group.create_ordered("Data directories")
OTHER = Group.create_ordered("Other")

app = App(
    name="kourou",
    help="Kourou: a message-queue cluster. Commands that ask a cluster take --server HOST:PORT or KOUROU_SERVER.",
    help_format="plaintext",
    version=f"kourou {VERSION}",
    result_action="return_value",
    group_commands=OTHER,
)


def _lazy(parent: App, name: str, where: str, summary: str, group: Group | None = None) -> None:
    parent.command(f"kourou.cli.{where}", name=name, help=summary, group=group)


def _branch(name: str, summary: str, group: Group) -> App:
    branch = App(
        name=name,
        help=summary,
        help_format="plaintext",
        result_action="return_value",
        group=group,
        group_commands="Commands",
    )
    app.command(branch)
    return branch


_lazy(app, "standalone", "servers:standalone", "Run a nameserver and a broker in one process.", SERVERS)
_lazy(app, "nameserver", "servers:nameserver", "Run a nameserver.", SERVERS)
_lazy(app, "broker", "servers:broker", "Run a broker.", SERVERS)
_cluster = _branch("cluster", "A whole cluster on this machine.", SERVERS)
_lazy(_cluster, "up", "cluster:up", "Run a nameserver and brokers as processes of their own, until Ctrl-C.")

_lazy(app, "send", "send:send", "Send one message, or each line of a file.", MESSAGES)
_lazy(app, "receive", "receive:receive", "Receive messages as a member of a group.", MESSAGES)
_message = _branch("message", "Stored messages.", MESSAGES)
_lazy(_message, "find", "message:find", "Find messages by id, key, time or place.")
_lazy(app, "demo", "demo:demo", "Stream a file tree through a topic to two consumers and check the result.", MESSAGES)
_lazy(app, "bench", "bench:bench", "Measure produce, consume and latency against a running server.", MESSAGES)

_topic = _branch("topic", "Create, list, describe and delete topics.", ADMINISTRATION)
_lazy(_topic, "create", "topic:create", "Create a topic; done already is done.")
_lazy(_topic, "list", "topic:list_", "List topics.")
_lazy(_topic, "describe", "topic:describe", "Show a topic's queues.")
_lazy(_topic, "delete", "topic:delete", "Delete a topic and its messages.")
_group = _branch("group", "Create, list, describe, reset and delete consumer groups.", ADMINISTRATION)
_lazy(_group, "create", "group:create", "Create a consumer group; done already is done.")
_lazy(_group, "list", "group:list_", "List consumer groups.")
_lazy(_group, "describe", "group:describe", "Show a group's members, offsets and lag.")
_lazy(_group, "reset", "group:reset", "Have a group read a topic from somewhere else on.")
_lazy(_group, "delete", "group:delete", "Delete a group and its offsets.")
_lazy(app, "status", "status:status", "Show the brokers and how they do.", ADMINISTRATION)

_log = _branch("log", "Look at and repair the data directory of a stopped broker.", DISK)
_lazy(_log, "inspect", "log:inspect", "Show segments and frames.")
_lazy(_log, "verify", "log:verify", "Check every checksum.")
_lazy(_log, "rebuild", "log:rebuild", "Write the indexes anew from the log.")

_lazy(app, "completion", "completion:completion", "Print, or install, completion for a shell.", OTHER)
