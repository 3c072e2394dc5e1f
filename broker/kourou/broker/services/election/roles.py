"""What the elector's decisions do to the rest of the broker: implemented where roles change (``app.failover``)."""

from __future__ import annotations

from typing import Protocol

from kourou.broker.machines.election import Follow, Lead, Position

__all__ = ["Follow", "Lead", "Position", "Roles"]


class Roles(Protocol):
    """One call at a time, in the order in which they were decided; ``fence`` and ``decided`` come at any time."""

    def fence(self, reason: str) -> None:
        """This broker is no longer the master, from this moment on: nothing is confirmed, answered or promised any more.

        It becomes a slave without a master by itself.
        """
        ...

    async def quiet(self) -> Position:
        """End the session with the master; nothing is acknowledged in it afterwards. Where the log ends."""
        ...

    async def lead(self, term: Lead) -> None:
        """Begin the epoch: its frame, sessions; serve when that frame is confirmed."""
        ...

    async def follow(self, master: Follow) -> None: ...

    async def wait(self, reason: str) -> None:
        """There is no master: be a slave that nobody sends anything."""
        ...

    def decided(self, epoch: int, sss: tuple[int, ...], elr: tuple[int, ...]) -> None:
        """The sets of this term in etcd."""
        ...

    def renewed(self) -> None:
        """The lease was extended: what stood still may go on."""
        ...

    async def drain(self, to: int | None) -> bool:
        """Append nothing more for clients; has ``to`` everything, confirmed, within a second or two?"""
        ...

    def resume(self) -> None:
        """Go on appending."""
        ...

    async def ask_pledge(self, replica: int, address: str, epoch: int) -> bool:
        """Does another member promise not to campaign? Raises KourouError when it does not answer."""
        ...

    def position(self) -> Position:
        """Where the log ends now."""
        ...

    def load(self) -> dict[str, float]:
        """How much there is to do, for people."""
        ...

    def halt(self, reason: str) -> None:
        """Stop, until an operator has decided."""
        ...
