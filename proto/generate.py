"""Makes the Python code of our protos again: ``make proto``. The result is checked in and never edited."""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent


def main() -> int:
    files = sorted(str(path.relative_to(HERE)) for path in (HERE / "kourou/proto/v1").glob("*.proto"))
    command = ["protoc", f"-I{HERE}", f"--python_out={HERE}", f"--pyi_out={HERE}", f"--grpc_python_out={HERE}", *files]
    return int(protoc.main(command))


if __name__ == "__main__":
    sys.exit(main())
