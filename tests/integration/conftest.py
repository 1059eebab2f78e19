"""Fixtures of the engine's tests: a data file of the test's own, reached by the official driver, in process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r

import cdcbridge.engine
from cdcbridge.engine.local import LocalConnection


@pytest.fixture
def data_file(tmp_path: Path) -> Path:
    """Where `conn` keeps its data."""
    return tmp_path / "engine.db"


@pytest.fixture
def conn(data_file: Path) -> Iterator[LocalConnection]:
    """The driver's connection to an engine of the test's own."""
    with cdcbridge.engine.open(data_file) as connection:
        yield connection


@pytest.fixture
def t(conn: LocalConnection) -> Any:
    """The query `r.table("t")`; the table is there, and empty."""
    r.table_create("t").run(conn)
    return r.table("t")
