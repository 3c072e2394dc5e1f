"""Topics as registers: several clients create, delete and look up one name at a time; a new name every so often."""

from __future__ import annotations

from kourou.client import Client, KourouError
from kourou.core.errors import AlreadyExists
from tests.chaos.workers.setting import Setting, came

EACH_MAX = 40  # operations on one name
UNKNOWN_MAX = 3  # of unknown outcome; more would make the search long
EVERY_S = 0.4
TYPES = ("normal", "fifo", "delay")


class Names:
    """Which name it is now."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._number = self._used = self._unknown = 0

    def take(self) -> str:
        self._used += 1
        if self._used > EACH_MAX or self._unknown >= UNKNOWN_MAX:
            self._number, self._used, self._unknown = self._number + 1, 1, 0
        return f"chaos-{self.setting.plan.run}-name-{self._number}"

    def unknown(self) -> None:
        self._unknown += 1


async def work(setting: Setting, names: Names, who: str) -> None:
    rng = setting.rng(who)
    async with Client(setting.servers) as client:
        while not await came(setting.no_more, rng.expovariate(1 / EVERY_S)):
            match rng.choice(("create", "delete", "get", "get")):
                case "create":
                    await create(setting, names, client, who, rng.choice(TYPES))
                case "delete":
                    await delete(setting, names, client, who)
                case _:
                    await get(setting, names, client, who)


async def create(setting: Setting, names: Names, client: Client, who: str, kind: str) -> None:
    name, journal = names.take(), setting.journal
    number = journal.invoke(who, "create", key=name, value=kind)
    try:
        await client.create_topic(name, type=kind, queues=1)
    except AlreadyExists as error:
        journal.refused(number, error)
    except KourouError as error:  # perhaps only the waiting for its route has failed
        names.unknown()
        journal.unknown(number, error)
    else:
        journal.ok(number)
        setting.succeeded(who)


async def delete(setting: Setting, names: Names, client: Client, who: str) -> None:
    name, journal = names.take(), setting.journal
    number = journal.invoke(who, "delete", key=name)
    try:
        await client.delete_topic(name)
    except KourouError as error:
        names.unknown()
        journal.unknown(number, error)
    else:
        journal.ok(number)


async def get(setting: Setting, names: Names, client: Client, who: str) -> None:
    name, journal = names.take(), setting.journal
    number = journal.invoke(who, "get", key=name)
    try:
        value = (await client.describe_topic(name))["type"]
    except KourouError as error:  # not found, too: nameservers say so, and they learn of topics later than brokers
        journal.refused(number, error)
    else:
        journal.ok(number, value=value)
