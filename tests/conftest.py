"""Shared by every layer: `async def test_…` runs under asyncio without a plugin."""

from __future__ import annotations

import asyncio
import inspect
import os
from typing import Any

import pytest
from hypothesis import settings

os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # in a child that is about to be another program its threads must not come back
settings.register_profile("kourou", deadline=None)  # a busy machine is no failure
settings.load_profile("kourou")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    """Run a coroutine test in a fresh event loop in debug mode, with a deadline against hangs."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}

    async def run() -> None:
        async with asyncio.timeout(120):
            await pyfuncitem.obj(**arguments)

    with asyncio.Runner(debug=True) as runner:
        runner.run(run())
    return True
