"""The server that the conformance tools talk to, plaintext and TLS on one port: serve.py CERTIFICATE.pem (written) prints
its port."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

from kourou.http2 import tls
from kourou.http2.server import Http2Server
from tests.compat.http2.interop import SERVICE


async def main(certificate_path: Path) -> None:
    certificate, key = tls.make_certificate(("localhost", "127.0.0.1"))
    certificate_path.write_bytes(certificate)
    with tempfile.NamedTemporaryFile() as key_file:
        key_file.write(key)
        key_file.flush()
        context = tls.own(str(certificate_path), key_file.name)
    server = Http2Server(SERVICE, ssl_context=context)
    print(await server.listen("127.0.0.1", 0), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(Path(sys.argv[1])))
