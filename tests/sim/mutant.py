"""One rule of the product changed on purpose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    seeds: int  # the budget
    target: Any
    attribute: str
    replacement: Any
    failover: bool = False
    full: bool = False

    @contextmanager
    def applied(self) -> Iterator[None]:
        with ExitStack() as stack:
            for place in _places(self.target, self.attribute):
                stack.enter_context(mock.patch.object(place, self.attribute, self.replacement))
            yield


def _places(target: Any, attribute: str) -> list[Any]:
    """A function of a module is replaced wherever it was imported to."""
    if not isinstance(target, ModuleType):
        return [target]
    original = getattr(target, attribute)
    loaded = [module for name, module in list(sys.modules.items()) if name.startswith(("kourou.broker.", "tests.sim."))]
    return [module for module in loaded if vars(module).get(attribute) is original]
