"""How a message is shown."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from kourou.cli.values import format_time

if TYPE_CHECKING:
    from kourou.client import ReceivedMessage, SharedMessage


def message_json(message: ReceivedMessage | SharedMessage) -> dict[str, Any]:
    """All that is known. A body that is UTF-8 is ``body``, any other ``body_base64``."""
    return {
        "id": message.id,
        "topic": message.topic,
        "broker": message.broker,
        "queue": message.queue,
        "offset": message.offset,
        "store_ms": message.store_ms,
        "born_ms": message.born_ms,
        "keys": list(message.keys),
        "tag": message.tag,
        "message_group": message.message_group,
        "lite_topic": message.lite_topic,
        "properties": message.properties,
        **({"attempt": message.attempt} if hasattr(message, "attempt") else {}),
        **_body(message.body),
    }


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}


def message_line(message: ReceivedMessage | SharedMessage) -> str:
    """Time, place, key, tag, attempt (shared groups) and body on one line; control characters are shown escaped."""
    attempt = getattr(message, "attempt", None)
    return "  ".join(
        (
            format_time(message.store_ms),
            f"{message.broker}:{message.queue}:{message.offset}",
            _plain(",".join(message.keys) or "-"),
            _plain(message.tag or "-"),
            *(() if attempt is None else (f"attempt {attempt}",)),
            body_text(message.body),
        )
    )


def body_text(body: bytes, *, characters_max: int = 0) -> str:
    text = _plain(body.decode(errors="backslashreplace"))
    if characters_max and len(text) > characters_max:
        return text[: characters_max - 1] + "…"
    return text


def _plain(text: str) -> str:
    """What a terminal may be given: a body must not steer it."""
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)
