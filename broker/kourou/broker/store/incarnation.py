"""The ``incarnations`` file: which processes have run on this disk, for a group whose master is elected.

A process's nonce is here, durably, before etcd hears of it. So when etcd knows a nonce that the disk does not, the disk is
not the one that etcd knows: it was put back from a backup, and may lack what it had.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from kourou.broker.store.files import Files
from kourou.core.errors import DamagedLog

NAME = "incarnations"
KEPT = 32


@dataclass(frozen=True, slots=True)
class Incarnations:
    nonces: tuple[str, ...]  # the oldest first
    boot: str  # of the machine, when the last of them ran
    clean: bool  # it was closed in good order

    @staticmethod
    def load(files: Files) -> Incarnations:
        """Raises DamagedLog."""
        data = files.read_all(NAME)
        if data is None:
            return Incarnations((), "", True)
        try:
            value = json.loads(data)
            return Incarnations(tuple(str(nonce) for nonce in value["nonces"]), str(value["boot"]), bool(value["clean"]))
        except (ValueError, KeyError, TypeError) as failure:
            raise DamagedLog(f"{NAME} does not parse: {failure!r}; without it this replica counts as empty") from None

    def begun(self, files: Files, nonce: str, boot: str) -> Incarnations:
        """A process begins. Durable on return."""
        return Incarnations((*self.nonces, nonce)[-KEPT:], boot, False)._save(files)

    def running(self, files: Files, boot: str) -> Incarnations:
        """A process begins whose nonce nobody is told. Durable on return."""
        return Incarnations(self.nonces, boot, False)._save(files)

    def closed(self, files: Files) -> Incarnations:
        return Incarnations(self.nonces, self.boot, True)._save(files)

    def _save(self, files: Files) -> Incarnations:
        value = {"nonces": self.nonces, "boot": self.boot, "clean": self.clean}
        files.write_atomic(NAME, [json.dumps(value).encode() + b"\n"])
        return self
