"""The tree of commands. Each is imported when it is called, so that ``kourou --help`` stays quick."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from cyclopts import App, CycloptsError, Group, Parameter

from kourou.core.version import VERSION

SERVERS = Group.create_ordered("Servers")
MESSAGES = Group.create_ordered("Messages")
ADMINISTRATION = Group.create_ordered("Administration")
DISK = Group.create_ordered("Data directories")
OTHER = Group.create_ordered("Other")

HELP_FLAGS = {"--help", "-h"}
_NO_DEFAULT = (None, False, ())
_place = count()  # of a command in the list: as they are written below


def _default(value: object) -> str | None:
    """As ``[default: …]`` in a help text; flags that are off and empty lists go without saying."""
    return None if value in _NO_DEFAULT else str(value)


app = App(
    name="kourou",
    help="Kourou: a message-queue cluster. Commands that ask a cluster take --server HOST:PORT or KOUROU_SERVER.",
    help_format="plaintext",
    version=f"kourou {VERSION}",
    result_action="return_value",
    group_commands=OTHER,
    default_parameter=Parameter(show_default=_default),
)


def _lazy(
    parent: App, name: str, where: str, summary: str, group: Group | None = None, *, arguments: str | None = None
) -> None:
    """``arguments``: where the generated usage line says too little."""
    path = name if parent is app else f"{parent.name[0]} {name}"
    usage = f"Usage: kourou {path} [OPTIONS] {arguments}" if arguments is not None else None
    parent.command(f"kourou.cli.{where}", name=name, help=summary, group=group, usage=usage, sort_key=next(_place))


def _branch(name: str, summary: str, group: Group) -> App:
    branch = App(
        name=name,
        help=summary,
        help_format="plaintext",
        result_action="return_value",
        group=group,
        group_commands="Commands",
        sort_key=next(_place),
    )
    app.command(branch)
    return branch


def read_docstring(tokens: Sequence[str]) -> None:
    """Have the command's own help say all of its docstring: the summary stands for it in lists, unimported."""
    if not HELP_FLAGS & set(tokens):
        return
    try:
        _, called, _ = app.parse_commands(tokens)
    except CycloptsError:
        return  # said when it is called
    for each in called:
        if getattr(each.default_command, "__module__", "").startswith("kourou."):
            each.help = None


_lazy(app, "standalone", "servers:standalone", "Run a nameserver and a broker in one process.", SERVERS)
_lazy(app, "nameserver", "servers:nameserver", "Run a nameserver.", SERVERS)
_lazy(app, "proxy", "servers:proxy", "Serve the official API in front of a cluster, at one address.", SERVERS)
_lazy(app, "broker", "servers:broker", "Run a broker.", SERVERS)
_cluster = _branch("cluster", "A whole cluster on this machine.", SERVERS)
_lazy(_cluster, "up", "cluster:up", "Run a nameserver and brokers as processes of their own, until Ctrl-C.")

_lazy(app, "send", "send:send", "Send one message, or each line of a file.", MESSAGES, arguments="TOPIC [BODY]")
_lazy(app, "receive", "receive:receive", "Receive messages as a member of a group.", MESSAGES)
_message = _branch("message", "Stored messages.", MESSAGES)
_lazy(_message, "find", "message:find", "Find messages by id, key, time or place.")
_lazy(_message, "recall", "message:recall", "Take a delayed message back.")
_lazy(_message, "scheduled", "message:scheduled", "List messages that wait for their time.")
_lazy(
    app,
    "demo",
    "demo:demo",
    "Stream a file tree through a topic to two consumers and check the result.",
    MESSAGES,
    arguments="[PATH]",
)
_lazy(app, "bench", "bench:bench", "Measure produce, consume and latency against a running server.", MESSAGES)

_lazy(_message, "explain", "message:explain", "Tell a message's whole life.", arguments="TOPIC [ID]")
_dlq = _branch("dlq", "Dead letters: list, send back, throw away.", MESSAGES)
_lazy(_dlq, "list", "dlq:list_", "List a group's dead letters.")
_lazy(_dlq, "redrive", "dlq:redrive", "Send dead letters back to where they came from.")
_lazy(_dlq, "purge", "dlq:purge", "Throw dead letters away.")
_topic = _branch("topic", "Create, list, describe and delete topics.", ADMINISTRATION)
_lazy(_topic, "create", "topic:create", "Create a topic, if it is not there yet.")
_lazy(_topic, "list", "topic:list_", "List topics.")
_lazy(_topic, "describe", "topic:describe", "Show a topic's queues.")
_lazy(_topic, "delete", "topic:delete", "Delete a topic and its messages.")
_group = _branch("group", "Create, list, describe, reset and delete consumer groups.", ADMINISTRATION)
_lazy(_group, "create", "group:create", "Create a consumer group, if it is not there yet.")
_lazy(_group, "list", "group:list_", "List consumer groups.")
_lazy(_group, "describe", "group:describe", "Show a group's members, offsets and lag.")
_lazy(_group, "reset", "group:reset", "Set where a group reads a topic from.")
_lazy(_group, "update", "group:update", "Change a group's attempts and delays.")
_lazy(_group, "set-subscription", "group:set_subscription", "Set what all members of a shared group get.")
_lazy(_group, "delete", "group:delete", "Delete a group and its offsets.")
_lazy(app, "status", "status:status", "Show the brokers and how they do.", ADMINISTRATION)
_admin = _branch("admin", "Members of a broker group: promote, compare.", ADMINISTRATION)
_lazy(_admin, "promote", "admin:promote", "Make a slave the master of its broker group.", arguments="GROUP --id ID")
_lazy(_admin, "hash", "admin:hash_", "Show the state of each member, by hash.", arguments="GROUP")

_log = _branch("log", "Look at and repair the data directory of a stopped broker.", DISK)
_lazy(_log, "inspect", "log:inspect", "Show segments and frames.")
_lazy(_log, "position", "log:position", "Show how far a member of a broker group is.")
_lazy(_log, "verify", "log:verify", "Check every checksum.")
_lazy(_log, "rebuild", "log:rebuild", "Write the indexes anew from the log.")

_lazy(app, "completion", "completion:completion", "Print, or install, completion for a shell.", OTHER)
