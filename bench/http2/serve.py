"""A server with three methods that do nothing: /bench/echo answers at once, /bench/future when its turn of the loop ends
(as a broker does after one fsync for all), /bench/task from a coroutine. Usage: serve.py PORT [own|grpcio]"""

from __future__ import annotations

import asyncio
import gc
import sys

import uvloop

from kourou.http2 import tls
from kourou.http2.call import Call, Kind, Method, Service
from kourou.http2.server import Http2Server
from kourou.runtime.grpcio_host import GrpcioHost

waiting: list[tuple[asyncio.Future[bytes], bytes]] = []


def echo(message: bytes, call: Call) -> bytes:
    return message


def future(message: bytes, call: Call) -> asyncio.Future[bytes]:
    loop = asyncio.get_running_loop()
    if not waiting:
        loop.call_soon(answer)
    reply = loop.create_future()
    waiting.append((reply, message))
    return reply


def answer() -> None:
    for reply, message in waiting:
        if not reply.done():
            reply.set_result(message)
    waiting.clear()


async def task(message: bytes, call: Call) -> bytes:
    return message


SERVICE: Service = {
    "/bench/echo": Method(Kind.UNARY, unary=echo),
    "/bench/future": Method(Kind.UNARY, unary=future),
    "/bench/task": Method(Kind.UNARY, unary=task),
}


async def main(port: int, engine: str) -> None:
    server: Http2Server | GrpcioHost
    server = Http2Server(SERVICE, ssl_context=tls.self_signed()) if engine == "own" else GrpcioHost(SERVICE)
    print(await server.listen("127.0.0.1", port), flush=True)
    gc.freeze()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "own"))
