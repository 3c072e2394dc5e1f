"""Makes the Python code of our protos again: ``make proto``. The result is checked in and never edited.

The official protocol's stubs go to ``kourou.proto.rocketmq.v2``: ``apache`` is a name that belongs to others.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

HERE = Path(__file__).resolve().parent
OFFICIAL = HERE / "kourou/proto/rocketmq/v2"


def ours() -> int:
    folders = (HERE / "kourou/proto/v1", HERE / "kourou/proto/etcd/v1")
    files = [str(path.relative_to(HERE)) for folder in folders for path in sorted(folder.glob("*.proto"))]
    command = ["protoc", f"-I{HERE}", f"--python_out={HERE}", f"--pyi_out={HERE}", f"--grpc_python_out={HERE}", *files]
    return int(protoc.main(command))


def official() -> int:
    files = sorted(str(path.relative_to(HERE)) for path in (HERE / "apache/rocketmq/v2").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        include = Path(protoc.__file__).parent / "_proto"
        command = ["protoc", f"-I{HERE}", f"-I{include}", f"--python_out={folder}", f"--pyi_out={folder}", *files]
        status = int(protoc.main(command))
        if status:
            return status
        OFFICIAL.mkdir(parents=True, exist_ok=True)
        for made in sorted(Path(folder, "apache/rocketmq/v2").iterdir()):
            text = re.sub(r"\bfrom apache\.rocketmq\.v2\b", "from kourou.proto.rocketmq.v2", made.read_text())
            Path(folder, made.name).write_text(text)
            shutil.move(Path(folder, made.name), OFFICIAL / made.name)
    return 0


if __name__ == "__main__":
    sys.exit(ours() or official())
