"""Writers that are killed at random moments, and what has to be true of the data file afterwards."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from cdcbridge.engine import journal
from cdcbridge.engine.store import Store

WAYS: Final = ("in process", "over TCP")
MOST_LINES: Final = 150
"""A writer is killed after it has acknowledged a random number of writes up to this one."""
MOST_S: Final = 0.005
"""And a random time up to this one."""

WRITER = """
import asyncio, itertools, json, sys, threading
from concurrent.futures import Future
from rethinkdb import r
import cdcbridge.engine
from cdcbridge.engine import store
from cdcbridge.engine.core import Engine
from cdcbridge.engine.server import Server

store.LOG_BYTES_TO_CHECKPOINT, store.LOG_BYTES_TO_RESTART = 50_000, 100_000
path, run, way = sys.argv[1:]

def serve(ready):
    async def serving():
        server = Server(Engine.open(path))
        await server.start("127.0.0.1", 0)
        ready.set_result(server.address)
        await asyncio.Event().wait()
    asyncio.run(serving())

def server_address():
    ready = Future()
    threading.Thread(target=serve, args=(ready,), daemon=True).start()
    return ready.result()

if way == "in process":
    connect = lambda: cdcbridge.engine.open(path)
else:
    address = server_address()
    connect = lambda: r.connect(*address)

def written(query, operation, key, conn):
    answer = query.run(conn)
    assert answer["errors"] == 0, answer
    sys.stdout.write(json.dumps([operation, key]) + "\\n")
    sys.stdout.flush()

def write(writer):
    with connect() as conn:
        for number in itertools.count():
            key = [run, writer, number]
            pad = "x" * (number % 7 * 300)
            written(r.table("t").insert({"id": key, "pad": pad}), "create", key, conn)
            written(r.table("t").get(key).update({"seen": True}), "update", key, conn)
            if number % 3 == 0:
                written(r.table("t").get(key).delete(), "delete", key, conn)
            if number % 10 == 0:
                both = [[run, writer, number, side] for side in "ab"]
                written(r.table("t").insert([{"id": key} for key in both]), "create", both[0], conn)

with connect() as conn:
    if "t" not in r.table_list().run(conn):
        r.table_create("t").run(conn)
    for writer in range(2):
        threading.Thread(target=write, args=(writer,), daemon=True).start()
    threading.Event().wait()
"""


class Write(NamedTuple):
    operation: str
    key: str
    """As JSON."""


class Contents(NamedTuple):
    """What is in the data file."""

    entries: list[journal.Row]
    documents: dict[str, Any]
    """By key, as JSON."""


def survives(path: Path, kills: int, seed: int, way: str) -> None:
    """Kill writers of one file at random moments, and look after each what is left of what they were told.

    Raises:
        AssertionError: something that was acknowledged is missing, or documents and journal do not agree.
    """
    chance = random.Random(f"{seed} {way}")
    acknowledged: set[Write] = set()
    for run in range(kills):
        acknowledged.update(killed(path, run, way, chance))
        check(acknowledged, contents(path))


def check(acknowledged: set[Write], after: Contents) -> None:
    """See `survives`."""
    assert acknowledged <= operations(after.entries)
    assert [row[0] for row in after.entries] == list(range(1, len(after.entries) + 1))
    assert replayed(after.entries) == after.documents
    assert not [key for key in after.documents if half_of(key) not in after.documents], "half a query"


def killed(path: Path, run: int, way: str, chance: random.Random) -> Iterator[Write]:
    """What a writer acknowledged before it was killed: a moment after it had acknowledged a number of writes."""
    command = [sys.executable, "-c", WRITER, str(path), str(run), way]
    lines = chance.randint(1, MOST_LINES)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        for _ in range(lines):
            line = writer.stdout.readline()
            if not line:
                pytest.fail(f"the writer ended by itself: {writer.stderr.read()}")
            yield parsed(line)
        time.sleep(chance.random() * MOST_S)  # the moment itself is random, too
        writer.kill()
        rest = writer.stdout.read()
    yield from (parsed(line) for line in rest.splitlines(keepends=True) if line.endswith("\n"))


def parsed(line: str) -> Write:
    operation, key = json.loads(line)
    return Write(operation, json.dumps(key, separators=(",", ":")))


def contents(path: Path) -> Contents:
    store = Store(path)
    try:
        table = store.catalog.table("test", "t")
        entries: list[journal.Row] = []
        while more := journal.read(store.reader(), len(entries), store.durable_seq, 10_000):
            entries += more
        bodies = [json.loads(body) for (body,) in store.reader().execute(f"SELECT body FROM doc_{table.number}")]
    finally:
        store.close()
    return Contents(entries, {json.dumps(body["id"], separators=(",", ":")): body for body in bodies})


def replayed(entries: list[journal.Row]) -> dict[str, Any]:
    """The documents that a journal makes, each entry of which has to fit to those before it."""
    documents: dict[str, Any] = {}
    for seq, _, _, key, old, new in entries:
        name = key.decode()
        assert documents.pop(name, None) == (None if old is None else json.loads(old)), f"entry {seq} does not fit"
        if new is not None:
            documents[name] = json.loads(new)
    return documents


def operations(entries: list[journal.Row]) -> set[Write]:
    def operation(row: journal.Row) -> str:
        return "create" if row[4] is None else "delete" if row[5] is None else "update"

    return {Write(operation(row), row[3].decode()) for row in entries}


def half_of(key: str) -> str:
    """The key that was inserted by the same query; the key itself where it came alone."""
    return key.replace('"a"', '"b"') if '"a"' in key else key.replace('"b"', '"a"')
