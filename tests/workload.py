"""Writers that never give up: several driver connections that create, update and delete documents of their own.

Each write is repeated until the engine has acknowledged it, so that all of them have happened in the end. A write that
was cut off may have happened, too; repeating it changes nothing then.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlDriverError

HOST = "127.0.0.1"
DATABASE = "shop"
TABLE = "orders"
WRITERS = 4
BATCHES = (1, 1, 1, 2, 5, 20)
DEADLINE_S = 60.0

survives_kills = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""For tests that kill the engine: the driver forgets the socket of a connection that was reset, without closing it."""

Write = tuple[str, int | None]
"""A document's key, and the `rev` that it has afterwards; `None`: it is deleted."""


class Step(NamedTuple):
    """One query, what it writes, and how many documents it creates."""

    query: Any
    writes: list[Write]
    created: int


class Workload:
    """Creates `documents` documents from four threads, and changes and deletes some of them meanwhile."""

    def __init__(self, port: int, *, documents: int, seed: int) -> None:
        self._port = port
        self._documents = documents
        self._board = _Board(documents)
        todo = [steps(number, documents // WRITERS, seed) for number in range(WRITERS)]
        self._threads = [threading.Thread(target=_Writer(port, self._board).run, args=(work,)) for work in todo]

    @property
    def acknowledged(self) -> list[Write]:
        """Writes that the engine has said are done."""
        return self._board.acknowledged

    def start(self) -> None:
        """Make the table, and let the writers go."""
        with r.connect(host=HOST, port=self._port) as connection:
            r.db_create(DATABASE).run(connection)
            r.db(DATABASE).table_create(TABLE).run(connection)
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def engine_started(self) -> None:
        """The engine takes connections again: writers that were cut off come back."""
        self._board.update(engine_starts=1)

    def allow(self, documents: int) -> None:
        """Create about so many, in all, and wait until more are allowed."""
        self._board.update(allowed=documents - self._board.allowed)

    def wait_for(self, documents: int) -> None:
        """Wait until so many documents have been created."""
        self._board.wait_until(lambda: self._board.created >= documents, f"create {documents} documents")

    def finish(self) -> None:
        """Wait until all writers are through."""
        self.wait_for(self._documents)
        for thread in self._threads:
            thread.join(DEADLINE_S)


class _Board:
    """What the writers and the test tell each other."""

    def __init__(self, allowed: int) -> None:
        self.acknowledged: list[Write] = []
        self.created = 0
        self.allowed = allowed
        self.engine_starts = 0
        self._failure: BaseException | None = None
        self._news = threading.Condition()

    def update(self, *, engine_starts: int = 0, allowed: int = 0) -> None:
        """Add to the counters."""
        with self._news:
            self.engine_starts += engine_starts
            self.allowed += allowed
            self._news.notify_all()

    def note(self, step: Step) -> None:
        """A step has been acknowledged."""
        with self._news:
            self.acknowledged += step.writes
            self.created += step.created
            self._news.notify_all()

    def fail(self, problem: BaseException) -> None:
        """A writer has met what it should not have; everybody who waits hears of it."""
        with self._news:
            self._failure = problem
            self._news.notify_all()

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        with self._news:
            self._news.wait_for(lambda: holds() or self._failure is not None, DEADLINE_S)
            if self._failure is not None:
                raise self._failure
            assert holds(), f"the writers did not {what} within {DEADLINE_S:.0f} s, but created {self.created}"


class _Writer:
    """One thread with one connection at a time."""

    def __init__(self, port: int, board: _Board) -> None:
        self._port = port
        self._board = board
        self._connection: Any = None
        self._seen_starts = 0

    def run(self, todo: Iterator[Step]) -> None:
        """Do all steps, in order."""
        try:
            for step in todo:
                self._board.wait_until(lambda: self._board.created < self._board.allowed, "get leave to go on")
                self._insist(step)
        except BaseException as problem:  # noqa: BLE001 - raised again where somebody waits
            self._board.fail(problem)
        finally:
            self._disconnect()

    def _insist(self, step: Step) -> None:
        """Repeat a step until it is acknowledged; after a loss, when the engine has been started once more."""
        while True:
            try:
                answer = step.query.run(self._connected())
            except ReqlDriverError:
                self._disconnect()
                self._board.wait_until(lambda: self._board.engine_starts > self._seen_starts, "see the engine again")
            else:
                assert answer["errors"] == 0, answer
                self._board.note(step)
                return

    def _connected(self) -> Any:
        if self._connection is None:
            self._seen_starts = self._board.engine_starts
            self._connection = r.connect(host=HOST, port=self._port)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(ReqlDriverError):
                connection.close(noreply_wait=False)


def steps(writer: int, documents: int, seed: int) -> Iterator[Step]:
    """What one writer does, the same for the same seed. Doing a step twice has the effect of doing it once."""
    pick = random.Random(f"{seed} {writer}")
    living: list[str] = []
    created = 0
    for rev in itertools.count(1):
        if created == documents:
            return
        kind = pick.choices(("create", "update", "delete"), (6, 2, 1))[0]
        if kind == "create" or not living:
            count = min(pick.choice(BATCHES), documents - created)
            keys = [f"{writer}-{number:06}" for number in range(created, created + count)]
            created += count
            living += keys
            yield created_step(keys, rev)
        elif kind == "update":
            yield updated_step(pick.choice(living), rev)
        else:
            yield deleted_step(living.pop(pick.randrange(len(living))))


def created_step(keys: list[str], rev: int) -> Step:
    documents = [{"id": key, "rev": rev, "note": "ünïcode · " + "x" * 100} for key in keys]
    batch = documents if len(documents) > 1 else documents[0]
    return Step(table().insert(batch, conflict="update"), [(key, rev) for key in keys], len(keys))


def updated_step(key: str, rev: int) -> Step:
    return Step(table().get(key).update({"rev": rev}), [(key, rev)], 0)


def deleted_step(key: str) -> Step:
    return Step(table().get(key).delete(), [(key, None)], 0)


def table() -> Any:
    return r.db(DATABASE).table(TABLE)
