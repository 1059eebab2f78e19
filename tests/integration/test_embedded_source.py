"""The built-in engine as a source: which histories it tells apart. What every source promises is in tests/contract."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.ast import ReQLEncoder

from cdcbridge.change import Change, Position
from cdcbridge.engine.core import Engine
from cdcbridge.errors import PositionLost
from cdcbridge.sources.embedded import EmbeddedSource


def write(engine: Engine, *queries: Any) -> None:
    for query in queries:
        engine.write([engine.compile(json.loads(ReQLEncoder().encode(query)), {})])
    engine.sync()


async def newest(engine: Engine, count: int, after: Position | None = None, tables: tuple[str, ...] = ()) -> Change:
    """The last of `count` changes behind a position."""
    seen: list[Change] = []
    async for batch in EmbeddedSource(engine, tables).stream(after):
        seen += batch.changes
        if len(seen) >= count:
            break
    return seen[-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The commit time in ms, for the test to set."""
    now_ms = [1_700_000_000_000]
    monkeypatch.setattr(time, "time_ns", lambda: now_ms[0] * 1_000_000)
    return now_ms


async def test_an_older_copy_of_the_file_is_noticed_also_after_new_writes(tmp_path: Path, clock: list[int]) -> None:
    path = tmp_path / "shop.db"
    engine = Engine.open(path)
    write(engine, r.table_create("t"), r.table("t").insert({"id": 1}))
    engine.close()
    copy = shutil.copy(path, tmp_path / "copy.db")
    engine = Engine.open(path)
    write(engine, r.table("t").insert({"id": 2}))
    saved = (await newest(engine, 2)).position
    engine.close()

    older = Engine.open(copy)
    with pytest.raises(PositionLost, match="older copy"):
        await newest(older, 1, saved)
    clock[0] += 60_000
    write(older, r.table("t").insert({"id": 3}), r.table("t").insert({"id": 4}))
    with pytest.raises(PositionLost, match="another change"):
        await newest(older, 1, saved)
    assert (await newest(older, 2)).position != saved
    older.close()


async def test_a_position_of_another_kind_of_source_is_lost_not_misread(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "shop.db")
    for position in ("17", "0/16B3748", "1-2-3", "-", "１-1"):
        with pytest.raises(PositionLost):
            await newest(engine, 1, Position(position))
    engine.close()


async def test_only_the_tables_that_were_asked_for_are_streamed(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "shop.db")
    write(engine, r.db_create("shop"), r.table_create("t"), r.table_create("u"), r.db("shop").table_create("u"))
    write(engine, *(table.insert({"id": 1}) for table in (r.table("t"), r.table("u"), r.db("shop").table("u"))))
    asked = await newest(engine, 1, tables=("shop.u",))
    assert (asked.database, asked.table) == ("shop", "u")
    engine.close()


def test_names_that_no_table_has_are_told(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "shop.db")
    write(engine, r.table_create("t"), r.table_create("u"), r.table_drop("u"))
    assert EmbeddedSource(engine, ("t", "test.t", "u", "shop.t")).missing() == ["shop.t", "u"]
    engine.close()


async def test_a_reader_that_lags_behind_a_drop_still_knows_the_tables_name(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "shop.db")
    write(engine, r.table_create("t"), r.table("t").insert({"id": 1}), r.table_drop("t"), r.table_create("t"))
    write(engine, r.table("t").insert({"id": 1}))
    change = await newest(engine, 2)
    assert (change.table, change.old_val, change.new_val) == ("t", None, b'{"id":1}')
    engine.close()


async def test_a_change_is_not_streamed_before_it_is_durable(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "shop.db")
    write(engine, r.table_create("t"))
    source = EmbeddedSource(engine)
    engine.write([engine.compile(json.loads(ReQLEncoder().encode(r.table("t").insert({"id": 1}))), {})])
    source.woken()
    first = asyncio.ensure_future(anext(aiter(source.stream(None))))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not first.done()
    engine.sync()
    source.woken()
    assert [change.key for change in (await first).changes] == [b"1"]
    engine.close()
