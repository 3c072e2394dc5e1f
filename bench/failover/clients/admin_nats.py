"""admin_nats.py WHERE create STREAM…, or WHERE step-down STREAM; exit status 1 if it did not work."""

from __future__ import annotations

import asyncio
import sys

from nats.js.api import StorageType, StreamConfig
from send_nats import connected


async def main(where: str, what: str, *streams: str) -> None:
    connection = await connected(where)
    for name in streams:
        if what == "create":
            config = StreamConfig(name=name, subjects=[name], num_replicas=3, storage=StorageType.FILE)
            await connection.jetstream().add_stream(config)
        else:
            await connection.request(f"$JS.API.STREAM.LEADER.STEPDOWN.{name}", b"", timeout=10)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
