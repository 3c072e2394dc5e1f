"""The house rules that a tool can check: who may import whom, and what every package must have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("proto", "core", "nameserver", "broker", "client")

# package (longest prefix counts) -> what of ours it may import
ALLOWED: dict[str, tuple[str, ...]] = {
    "kourou.core": ("kourou.core",),
    "kourou.transport": ("kourou.core", "kourou.transport"),
    "kourou.http2": ("kourou.http2",),
    "kourou.runtime": ("kourou.core", "kourou.proto", "kourou.http2", "kourou.runtime"),
    "kourou.proto": ("kourou.proto",),
    "kourou.nameserver.table": ("kourou.core",),
    "kourou.nameserver.edge": (
        "kourou.core",
        "kourou.proto",
        "kourou.http2",
        "kourou.runtime",
        "kourou.transport",
        "kourou.nameserver",
    ),
    "kourou.gateway": ("kourou.core", "kourou.proto", "kourou.http2", "kourou.gateway"),
    "kourou.broker.store": ("kourou.core", "kourou.broker.store"),
    "kourou.broker.machines": ("kourou.core", "kourou.broker.machines"),
    "kourou.broker.services": (
        "kourou.core",
        "kourou.runtime",
        "kourou.broker.store",
        "kourou.broker.machines",
        "kourou.broker.services",
    ),
    "kourou.broker.edge": (
        "kourou.core",
        "kourou.proto",
        "kourou.runtime",
        "kourou.transport",
        "kourou.broker.services",
        "kourou.broker.edge",
    ),
    "kourou.client.logic": ("kourou.core", "kourou.client.logic"),
    "kourou.client": ("kourou.core", "kourou.transport", "kourou.client"),
    "kourou.app": ("kourou",),
    "kourou.cli": ("kourou",),
}
IMPURE = (
    "asyncio", "grpc", "google", "numpy", "socket", "threading", "time", "os", "structlog", "prometheus_client", "tenacity",
)  # fmt: skip
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "kourou.core": IMPURE,
    "kourou.broker.machines": IMPURE,
    "kourou.nameserver.table": IMPURE,
    "kourou.client": ("grpc", "google", "numpy", "structlog", "prometheus_client", "tenacity", "uvloop", "rich", "cyclopts"),
    "kourou.transport": ("grpc", "google", "numpy", "structlog", "prometheus_client", "tenacity", "uvloop"),
    "kourou.http2": ("grpc", "google", "numpy", "structlog", "prometheus_client", "tenacity", "uvloop"),
    "kourou.broker.store": ("asyncio", "grpc", "google", "threading", "structlog", "prometheus_client", "tenacity"),
    "kourou.broker.services": ("grpc", "google", "socket"),
}
ONLY_FILES_TOUCHES_THE_DISK = {"files", "osfile", "ownership"}


def modules() -> Iterator[tuple[str, Path]]:
    for source in SOURCES:
        for path in sorted((ROOT / source).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT / source).with_suffix("").parts)
            if name.startswith("kourou.") and "_pb2" not in name:
                yield name.removesuffix(".__init__"), path


def imports(path: Path) -> Iterator[str]:
    """Everything a file imports, also inside functions; what is only for type checkers does not count."""
    tree = ast.parse(path.read_text())
    checked_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in checked_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield str(node.module)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def rule(name: str, table: dict[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    found = [package for package in table if within(name, package)]
    return table[max(found, key=len)] if found else None


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_point_down(name: str, path: Path) -> None:
    allowed = rule(name, ALLOWED)
    if allowed is None:
        assert name in ("kourou.broker", "kourou.nameserver"), f"{name} is in no layer; add it to the table"
        allowed = ()
    for imported in imports(path):
        if within(imported, "kourou"):
            assert any(within(imported, package) for package in allowed), f"{name} must not import {imported}"
        for package in rule(name, FORBIDDEN) or ():
            assert not within(imported, package), f"{name} must not import {imported}"
        if within(name, "kourou.broker.store") and name.rsplit(".", 1)[1] not in ONLY_FILES_TOUCHES_THE_DISK:
            assert imported not in ("os", "fcntl", "shutil"), f"{name} touches the disk; only files does"


@pytest.mark.parametrize("source", SOURCES)
def test_the_namespace_has_no_init(source: str) -> None:
    """One stray file would hide the four other source roots."""
    assert not (ROOT / source / "kourou/__init__.py").exists()


def test_every_package_says_its_job() -> None:
    folders = {path.parent for _, path in modules()}
    for folder in sorted(folders):
        first = folder / "__init__.py"
        assert first.exists(), f"{folder} has no __init__.py"
        assert ast.get_docstring(ast.parse(first.read_text())), f"{first} has no docstring"


def test_every_root_package_is_typed() -> None:
    for source in SOURCES:
        for package in (ROOT / source / "kourou").iterdir():
            if package.is_dir() and package.name != "__pycache__":
                assert (package / "py.typed").exists(), package
