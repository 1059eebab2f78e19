"""Where positions are kept: a SQLite file in the state folder, which one daemon at a time may use.

A save is one small commit without a wait for the disk (`synchronous=NORMAL`), cheap enough to follow every turn of the
event loop. A crash of the process loses none; a power cut may bring back an older position, and so repeats, not gaps.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Protocol

from cdcbridge.change import Position
from cdcbridge.errors import ConfigError, InUse, StateError

FILE: Final = "checkpoints.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoint (
    bridge TEXT PRIMARY KEY,
    identity TEXT NOT NULL,
    position TEXT NOT NULL
) WITHOUT ROWID
"""
_SAVE = "INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?)"
_LOAD = "SELECT identity, position FROM checkpoint WHERE bridge = ?"


class CheckpointStore(Protocol):
    """Saved positions, by the name of the bridge; each belongs to the history `identity` of one source."""

    def load(self, bridge: str, identity: str) -> Position | None:
        """The position saved last; None before the first.

        Raises:
            ConfigError: it was saved for another history, in which it means nothing.
            StateError: it cannot be read.
        """

    def save(self, bridge: str, identity: str, position: Position) -> None:
        """Keep a position in place of the one before.

        Raises:
            StateError: it cannot be written.
        """


class Checkpoints:
    """Positions in `<state folder>/checkpoints.db`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, folder: Path) -> Checkpoints:
        """Open or make the file in a state folder.

        Raises:
            StateError: it cannot be read or written, or is something else.
        """
        path = folder / FILE
        with _translated(path), ExitStack() as undo:
            connection = sqlite3.connect(path, isolation_level=None)
            undo.callback(connection.close)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
            undo.pop_all()
        return cls(path, connection)

    def load(self, bridge: str, identity: str) -> Position | None:
        """See `CheckpointStore.load`."""
        with _translated(self._path):
            row = self._connection.execute(_LOAD, (bridge,)).fetchone()
        if row is None:
            return None
        check_identity(bridge, identity, *row)
        return Position(row[1])

    def save(self, bridge: str, identity: str, position: Position) -> None:
        """See `CheckpointStore.save`."""
        with _translated(self._path):
            self._connection.execute(_SAVE, (bridge, identity, position))

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()


def check_identity(bridge: str, identity: str, saved_identity: str, position: str) -> None:
    """Raises a ConfigError unless the saved position belongs to this source's history."""
    if identity != saved_identity:
        raise ConfigError(
            "state",
            f"position {position} of bridge {bridge!r} was saved for {saved_identity}, and the source is {identity}",
            "bring the old data back, or publish this source from its beginning with another --name",
        )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as problem:
        raise StateError(str(path), str(problem)) from problem


class StateFolder:
    """The folder that one daemon keeps its state in: nobody else may use it meanwhile."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> StateFolder:
        """Make the folder if need be, and lock it for this process.

        Raises:
            InUse: another process has locked it.
            ConfigError: it cannot be made or written.
        """
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise _unusable(path, problem) from problem
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            raise _in_use(path, lock) from problem
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return cls(path, lock)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._lock)


def _unusable(path: Path, problem: OSError) -> ConfigError:
    # mkdir says of a file in its way that it exists, which is not what is wrong with it.
    reason = "Not a directory" if isinstance(problem, FileExistsError) else problem.strerror
    return ConfigError("state", f"cannot use {path}: {reason}", "choose a folder that can be written with --state")


def _in_use(path: Path, lock: int) -> InUse:
    text = os.pread(lock, 20, 0).decode(errors="replace")
    os.close(lock)
    owner = int(text) if text.isdecimal() else None
    who = "another process" if owner is None else f"process {owner}"
    remedy = "stop that daemon, or choose another folder with --state"
    return InUse("state", f"{path} is in use by {who}", remedy, owner)
