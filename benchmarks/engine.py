"""Figures `engine`: the built-in engine beside what RethinkDB 2.4 does on a machine like this, and beside bare SQLite.

RethinkDB's numbers are of 2.4 built from source, on two cores, with the driver's client beside it and documents of 300
bytes. Each of its rows is the median of some rounds, on a file that is new for each round.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import msgspec
from rethinkdb import r

from benchmarks.harness import TABLE, Bench, Program, Row, document, percentile, say
from benchmarks.programs.wire_client import as_text
from cdcbridge.engine import wire
from cdcbridge.engine.catalog import Table
from cdcbridge.engine.core import Engine
from cdcbridge.engine.store import Store
from cdcbridge.engine.values import dumps, storage_key

ROUNDS: Final = 3
ROUND_S: Final = 3.0
BATCH: Final = 200
BATCHES: Final = 100
CONNECTIONS: Final = 16
SLOW_FLUSH_MS: Final = 5.0
RATE: Final = 500
WRITES: Final = 5000
FEEDS: Final = 1000
HISTORY: Final = 1_000_000
FEED_ELEMENTS: Final = 20_000
WRITES_BESIDE_FEEDS: Final = 400

_MB: Final = 1_000_000
_keys = itertools.count(0, 1_000_000_000)
"""Where the keys of the next round begin."""


def run(bench: Bench) -> list[Row]:
    """All of them."""
    rows: list[Row] = []
    for figures in (_beside_rethinkdb, _beside_sqlite, _group_commit, _feeds, _long_history):
        rows += figures(bench.folder)
    return rows


# The engine as a process ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """An engine that runs, and how long it took to say that it is ready."""

    port: int
    pid: int
    ready_s: float

    def memory_mb(self) -> float:
        """What it has in memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024 / _MB


@contextlib.contextmanager
def served(data: Path) -> Iterator[Served]:
    """`cdcbridge engine` with this data file."""
    command = [sys.executable, "-m", "cdcbridge", "engine", "--data", str(data), "--listen", "127.0.0.1:0"]
    start_s = time.perf_counter()
    process = subprocess.Popen([*command, "--log-format", "json"], stderr=subprocess.PIPE, text=True)
    try:
        port = int(_ready(process)["address"].rpartition(":")[2])
        yield Served(port, process.pid, time.perf_counter() - start_s)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def _ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stderr is not None
    for line in process.stderr:
        fields: dict[str, Any] = msgspec.json.decode(line)
        if fields["event"] == "engine_ready":
            return fields
    raise RuntimeError(f"the engine ended with status {process.wait()}")


@contextlib.contextmanager
def fresh(folder: Path) -> Iterator[Served]:
    """An engine with a new file that has the table, and nothing in it."""
    data = folder / "fresh.db"
    with served(data) as engine:
        with r.connect("127.0.0.1", engine.port) as connection:
            r.table_create(TABLE).run(connection)
        yield engine
    for file in folder.glob("fresh.db*"):
        file.unlink()


def asked(engine: Served, what: str, *arguments: object) -> Any:
    """What a client program says first."""
    with Program("engine_client", what, engine.port, *arguments) as client:
        return client.line()


# Beside RethinkDB ----------------------------------------------------------------------------------------------------


def _beside_rethinkdb(folder: Path) -> list[Row]:
    rows = []
    for durability, theirs in (("hard", 6100), ("soft", 7400)):
        figure, measure = f"200 a query, {durability}: documents/s", _client("batches", ROUND_S, durability)
        rows.append(_ahead(folder, figure, theirs, measure))
    for connections, durability, theirs in (
        (1, "hard", 610),
        (1, "soft", 1280),
        (16, "hard", 1700),
        (16, "soft", 2440),
    ):
        figure = f"single inserts, {connections} connection{'s' * (connections > 1)}, {durability}: /s"
        rows.append(_ahead(folder, figure, theirs, _client("singles", ROUND_S, durability, connections)))
    rows.append(_ahead(folder, "a table feed under batched inserts: elements/s", 4800, _feed_under_load))
    return [*rows, *_latency(folder)]


def _client(what: str, *arguments: object) -> Callable[[Served], float]:
    """A round of a client's, on keys that are new."""
    return lambda engine: float(asked(engine, what, *arguments, next(_keys)))


def _ahead(folder: Path, figure: str, theirs: float, measure: Callable[[Served], float]) -> Row:
    """The median of some rounds, which should be more than RethinkDB's."""
    say(f"engine: {figure}")
    reached = []
    for _ in range(ROUNDS):
        with fresh(folder) as engine:
            reached.append(measure(engine))
    ours = median(reached)
    return Row(f"engine: {figure}", f"{ours:,.0f}", f"> {theirs:,} (RethinkDB)", ours > theirs)


def _feed_under_load(engine: Served) -> float:
    with Program("engine_client", "feed", engine.port, FEED_ELEMENTS) as reader:
        reader.line()
        with Program("engine_client", "batches", engine.port, 8 * ROUND_S, "hard", next(_keys)) as writer:
            rate: float = reader.line()
            writer.stop()
    return rate


def _latency(folder: Path) -> list[Row]:
    say(f"engine: {WRITES:,} writes, {RATE} a second, beside a feed")
    with fresh(folder) as engine:
        times: list[tuple[float, float]] = asked(engine, "latency", RATE, WRITES, next(_keys))
    sent, told = [pair[0] for pair in times], [pair[1] for pair in times]
    middle, most, behind = percentile(sent, 50), percentile(sent, 99), percentile(told, 99)
    figure = f"engine: at {RATE} writes/s, element after"
    return [
        Row(f"{figure} the write was sent: p50 ms", f"{middle:.2f}", "< 0.8 (RethinkDB)", middle < 0.8),
        Row(f"{figure} the write was sent: p99 ms", f"{most:.2f}", "< 8.5 (RethinkDB)", most < 8.5),
        Row(f"{figure} the write's answer: p99 ms", f"{behind:.2f}", "< 5", behind < 5),
    ]


# Beside SQLite -------------------------------------------------------------------------------------------------------


def _beside_sqlite(folder: Path) -> list[Row]:
    """The engine's part of a batched insert, from the query's bytes to the flush, and the same rows in bare SQLite."""
    say("engine: batched inserts beside bare SQLite")
    ratios = []
    for _ in range(ROUNDS):
        bare_s, engine_s = _bare_sqlite_s(folder / "bare.db"), _engine_s(folder / "fresh.db")
        ratios.append(engine_s / bare_s)
        for file in (*folder.glob("bare.db*"), *folder.glob("fresh.db*")):
            file.unlink()
    ratio = median(ratios)
    return [Row("engine: 200 a query, hard: times bare SQLite's time", f"{ratio:.2f}", "≤ 4", ratio <= 4)]


def _batches() -> Iterator[list[dict[str, Any]]]:
    for first in range(0, BATCHES * BATCH, BATCH):
        yield [document(number) for number in range(first, first + BATCH)]


def _bare_sqlite_s(path: Path) -> float:
    documents = [[(b"%010d" % row["id"], dumps(row)) for row in batch] for batch in _batches()]
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    connection.execute("CREATE TABLE doc (key BLOB PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID")
    connection.execute("CREATE TABLE journal (seq INTEGER PRIMARY KEY, tbl, time_ms, key, old_val, new_val)")
    start_s = time.perf_counter()
    for batch in documents:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO doc VALUES (?, ?)", batch)
        connection.executemany("INSERT INTO journal VALUES (NULL, 1, 1700000000000, ?, NULL, ?)", batch)
        connection.execute("COMMIT")
    spent_s = time.perf_counter() - start_s
    connection.close()
    return spent_s


def _engine_s(path: Path) -> float:
    queries = [as_text(r.table(TABLE).insert(batch)) for batch in _batches()]
    with contextlib.closing(Engine.open(path)) as engine:
        engine.write([engine.compile(wire.parse(as_text(r.table_create(TABLE))).term, {})])
        start_s = time.perf_counter()
        for query in queries:
            request = wire.parse(query)
            engine.write([engine.compile(request.term, request.options)])
            engine.sync()
            if engine.wants_checkpoint:
                engine.checkpoint()
        return time.perf_counter() - start_s


def _group_commit(folder: Path) -> list[Row]:
    """On a disk whose flush takes its time; where a flush is almost free there is nothing to share."""
    say(f"engine: group commit on a disk whose flush takes {SLOW_FLUSH_MS:.0f} ms")
    data = folder / "fresh.db"
    with Program("engine_on_slow_disk", data, SLOW_FLUSH_MS) as program:
        port = program.line()
        with r.connect("127.0.0.1", port) as connection:
            r.table_create(TABLE).run(connection)
        with Program("engine_client", "bare", port, ROUND_S, CONNECTIONS, next(_keys)) as client:
            rate: float = client.line()
    for file in folder.glob("fresh.db*"):
        file.unlink()
    ratio = rate * SLOW_FLUSH_MS / 1000
    figure = f"engine: {CONNECTIONS} connections, hard, {SLOW_FLUSH_MS:.0f} ms a flush: times one flush a write"
    return [Row(figure, f"{ratio:.1f}", "≥ 8", ratio >= 8)]


# Feeds ---------------------------------------------------------------------------------------------------------------


def _feeds(folder: Path) -> list[Row]:
    say(f"engine: {FEEDS:,} idle feeds")
    rows = []
    with fresh(folder) as engine:
        rows.append(_less("engine: memory idle: MB", idle := engine.memory_mb(), 38, " (RethinkDB)"))
        with Program("engine_client", "feeds", engine.port, "table", FEEDS) as client:
            client.line()
            rows.append(_less(f"engine: {FEEDS:,} idle feeds: MB more", engine.memory_mb() - idle, 30))
    with fresh(folder) as engine:
        idle, alone = engine.memory_mb(), _write_s(engine)
        with Program("engine_client", "feeds", engine.port, "point", FEEDS) as client:
            client.line()
            each = (engine.memory_mb() - idle) * 1000 / FEEDS
            rows.append(_less(f"engine: each of {FEEDS:,} point feeds: kB", each, 44, " (RethinkDB)"))
            ratio = _write_s(engine) / alone
    rows.append(_less(f"engine: a write beside {FEEDS:,} point feeds on other keys: times", ratio, 1.3))
    return rows


def _write_s(engine: Served) -> float:
    """The median time of a single write."""
    times = []
    with r.connect("127.0.0.1", engine.port) as connection:
        first = next(_keys)
        for number in range(first, first + WRITES_BESIDE_FEEDS):
            start_s = time.perf_counter()
            r.table(TABLE).insert(document(number)).run(connection)
            times.append(time.perf_counter() - start_s)
    return median(times)


def _less(figure: str, reached: float, asked: float, whose: str = "") -> Row:
    return Row(figure, f"{reached:.2f}", f"< {asked:g}{whose}", reached < asked)


# A long history ------------------------------------------------------------------------------------------------------


def _long_history(folder: Path) -> list[Row]:
    data = folder / "long.db"
    say(f"engine: writing {HISTORY:,} documents into a data file")
    _fill(data, HISTORY)
    say("engine: opening it, and catching up")
    with served(data) as engine:
        start_s = time.perf_counter()
        with r.connect("127.0.0.1", engine.port) as connection:
            assert r.table(TABLE).get(HISTORY // 2).run(connection)["id"] == HISTORY // 2
        first_s, opened_mb = engine.ready_s + time.perf_counter() - start_s, engine.memory_mb()
        seconds: float = asked(engine, "catch_up", HISTORY)
        more_mb = engine.memory_mb() - opened_mb
    for file in folder.glob("long.db*"):
        file.unlink()
    rate = HISTORY / seconds
    return [
        _less(f"engine: {HISTORY:,} documents and entries: s from start to first answer", first_s, 1),
        _less(f"engine: {HISTORY:,} documents and entries: MB", opened_mb, 120),
        Row(f"engine: a feed {HISTORY:,} entries behind: elements/s", f"{rate:,.0f}", "≥ 50,000", rate >= 50_000),
        _less("engine: MB more for that", more_mb, 20),
    ]


def _fill(path: Path, count: int) -> None:
    with contextlib.closing(Store(path)) as store:
        with store.transaction() as transaction:
            table = transaction.create_table(transaction.catalog.database("test"), TABLE, "id", "hard")
        for first in range(0, count, 10_000):
            _put(store, table, range(first, min(first + 10_000, count)))
            store.sync()
            if store.wants_checkpoint:
                store.checkpoint()


def _put(store: Store, table: Table, numbers: range) -> None:
    with store.transaction() as transaction:
        for number in numbers:
            transaction.put(table, storage_key(number), dumps(number), None, dumps(document(number)))
