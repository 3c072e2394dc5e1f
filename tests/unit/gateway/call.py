"""A call of the official API that no engine serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping


class FakeCall:
    def __init__(
        self, *, client: str = "c", left_s: float | None = None, message: bytes | None = None, **metadata: str
    ) -> None:
        self.metadata: Mapping[str, str] = {
            "x-mq-client-id": client,
            **{name.replace("_", "-"): value for name, value in metadata.items()},
        }
        self.authority = ""
        self.peer = "192.0.2.1:5000"
        self.local = "192.0.2.2:8081"
        self.secure = False
        self.left_s = left_s
        self.message = message
        self.sent: list[bytes] = []
        self.started = False

    def remaining_s(self) -> float | None:
        return self.left_s

    def on_cancel(self, callback: Callable[[], None]) -> None:
        pass

    async def receive(self) -> bytes | None:
        return self.message

    def start(self) -> None:
        self.started = True

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    async def drain(self) -> None:
        pass
