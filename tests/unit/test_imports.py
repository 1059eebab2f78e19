"""Imports point one way: values ← pure steps ← I/O ← bridge, worker ← command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cdcbridge", "listeners")

PURE = {
    "cdcbridge.backoff",
    "cdcbridge.broker.confirms",
    "cdcbridge.broker.framing",
    "cdcbridge.change",
    "cdcbridge.classify",
    "cdcbridge.encode",
    "cdcbridge.engine.errors",
    "cdcbridge.engine.handshake",
    "cdcbridge.engine.scram",
    "cdcbridge.engine.values",
    "cdcbridge.engine.wire",
    "cdcbridge.errors",
    "cdcbridge.inflight",
    "cdcbridge.route",
    "listeners.decode",
    "listeners.json_lines",
    "listeners.pretty",
    "listeners.settings",
}
"""Values and steps: what goes in alone decides what comes out."""

LOOPS = {"cdcbridge.bridge", "listeners.worker"}
"""They tie the parts together; only the command line knows them."""

COMMAND_LINE = {"cdcbridge.__main__", "cdcbridge.cli", "cdcbridge.demo", "cdcbridge.service"}

IMPURE = {
    "aio_pika", "aiohttp", "aiormq", "asyncio", "http", "logging", "multiprocessing", "os", "pika", "pymongo",
    "rethinkdb", "selectors", "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess", "threading", "uvloop",
}  # fmt: skip
"""Event loops, sockets, processes, clients, files and logs."""


def module_files() -> dict[str, Path]:
    """Every module by its dotted name; a package by the name of its folder."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    return {dotted(file): file for file in files}


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path) -> Iterator[str]:
    """What `file` imports anywhere, functions and type checking included; relative imports are not in use."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from (full if (full := f"{module}.{name.name}") in FILES else module for name in names)
            case ast.ImportFrom():
                yield "a relative import"


FILES = module_files()
IMPORTS = {module: set(imported(file)) for module, file in FILES.items()}


def inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def offences(modules: set[str], refused: set[str]) -> list[str]:
    """`A imports B` for each of `modules` that imports something inside one of `refused`."""
    return [
        f"{module} imports {target}"
        for module in sorted(modules)
        for target in sorted(IMPORTS[module])
        if any(inside(target, package) for package in refused)
    ]


def within(package: str) -> set[str]:
    return {module for module in FILES if inside(module, package)}


def test_every_module_named_here_exists() -> None:
    assert (PURE | LOOPS | COMMAND_LINE) - {"cdcbridge.__main__"} <= FILES.keys()


def test_no_import_is_relative() -> None:
    assert offences(set(FILES), {"a relative import"}) == []


def test_pure_modules_do_no_io() -> None:
    assert offences(PURE, IMPURE) == []


def test_pure_modules_use_only_pure_modules_of_ours() -> None:
    ours = {module for module in FILES if module not in PURE and module not in PACKAGES}
    assert [offence for offence in offences(PURE, ours) if offence.rpartition(" ")[2] not in PURE] == []


def test_the_engine_is_a_library_of_its_own() -> None:
    others = {module for module in FILES if not inside(module, "cdcbridge.engine")} - {"cdcbridge"}
    assert offences(within("cdcbridge.engine"), others) == []


def test_no_source_imports_another() -> None:
    sources = within("cdcbridge.sources") - {"cdcbridge.sources", "cdcbridge.sources.base"}
    assert [offence for source in sources for offence in offences({source}, sources - {source})] == []


def test_listeners_know_no_source_no_engine_and_no_bridge() -> None:
    assert offences(within("listeners"), {"cdcbridge.sources", "cdcbridge.engine", "cdcbridge.bridge"}) == []


def test_the_publisher_knows_no_listener() -> None:
    assert offences(within("cdcbridge") - COMMAND_LINE, {"listeners"}) == []


def test_only_the_command_line_imports_the_loops() -> None:
    assert offences(set(FILES) - COMMAND_LINE - LOOPS, LOOPS) == []


def test_nothing_imports_the_command_line() -> None:
    assert offences(set(FILES) - COMMAND_LINE, COMMAND_LINE) == []


@pytest.mark.parametrize("loop", sorted(LOOPS))
def test_the_loops_do_not_know_each_other(loop: str) -> None:
    assert offences({loop} & FILES.keys(), LOOPS - {loop}) == []
