"""Who has a data file open, and how far it is known to be durable: the small file `FILE.lock` beside it.

The owner holds a lock on it, which the system lets go when the process ends. After each flush it notes there, without
waiting for the disk, how far the file is durable. The note is never ahead of the truth; so a data file that ends before
it has lost something that was acknowledged: its write-ahead log was cut or removed, or the file is an older copy.
"""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from cdcbridge.engine.errors import EngineError, FileInUse, FileUnusable

_NOTE_AT: Final = 24
_NOTE: Final = re.compile(rb"([0-9a-f-]{36}) (\d{20}) (\d{20})\n")


class Note(NamedTuple):
    """How far a data file is durable. `schema` is SQLite's schema version, which counts tables made and dropped."""

    identity: str
    seq: int
    schema: int


class Ownership:
    """This process is the only one that opens the file, until `release` or its end."""

    def __init__(self, path: Path) -> None:
        """Raises:
        FileInUse: another process has it open.
        FileUnusable: the folder is missing or cannot be written, or `path` is a folder.
        """
        self._descriptor = _locked(path)
        try:
            self.note = _read_note(self._descriptor)
            os.pwrite(self._descriptor, b"%-*d\n" % (_NOTE_AT - 1, os.getpid()), 0)
        except OSError as problem:
            os.close(self._descriptor)
            raise FileUnusable(str(path), problem.strerror or str(problem)) from problem

    def write_note(self, note: Note) -> None:
        """Remember how far the file is durable; it has to be so already. Failing does no harm: the old note holds."""
        if note == self.note:
            return
        with suppress(OSError):
            os.pwrite(self._descriptor, b"%s %020d %020d\n" % (note.identity.encode(), note.seq, note.schema), _NOTE_AT)
            self.note = note

    def release(self) -> None:
        """Let others open the file."""
        os.close(self._descriptor)


def _locked(path: Path) -> int:
    if path.is_dir():
        raise FileUnusable(str(path), "it is a folder, not a data file")
    try:
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as problem:
        raise FileUnusable(str(path), f"there is no folder {path.parent}") from problem
    except OSError as problem:
        raise FileUnusable(str(path), problem.strerror or str(problem)) from problem
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        raise _in_use(path, descriptor) from problem
    return descriptor


def _in_use(path: Path, descriptor: int) -> EngineError:
    owner = os.pread(descriptor, _NOTE_AT, 0).decode(errors="replace").strip()
    os.close(descriptor)
    return FileInUse(str(path), int(owner) if owner.isdecimal() else None)


def _read_note(descriptor: int) -> Note | None:
    """The last owner's note; None where there is none, or none that makes sense."""
    match = _NOTE.fullmatch(os.pread(descriptor, 80, _NOTE_AT))
    return Note(match[1].decode(), int(match[2]), int(match[3])) if match else None
