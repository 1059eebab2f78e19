"""The values that all files speak in: a change, its operation, and its position."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

import msgspec

Position = NewType("Position", str)
"""Where a source's history stands after one change, as text.

Opaque: only the source that made it reads it, and the order of positions is the order in which that source hands
them out. Unique for each change of one source, and a stream can be resumed right after any of them.
"""


class Operation(StrEnum):
    """What a change did to its document."""

    CREATE = "create"
    UPDATE = "update"
    DELETE = "delete"
    SNAPSHOT = "snapshot"


class Change(msgspec.Struct, frozen=True, gc=False):
    """One committed change of one document.

    Documents travel as the JSON text that the source stored, UTF-8 bytes, so that a change which no step rewrites is
    never parsed. `None` is the absent side: `old_val` of a create, `new_val` of a delete; never both.
    """

    database: str
    table: str
    key: bytes
    """The primary key, as JSON."""
    old_val: bytes | None
    new_val: bytes | None
    position: Position
    time_ms: int
    """When the change was committed, in milliseconds since the epoch."""
    snapshot: bool = False
    """True for an initial value: the document as it stood, not something that happened to it."""


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Changes in commit order, and the position behind the last of them.

    `changes` may be empty: the source moved on past changes that nobody asked for.
    """

    changes: list[Change]
    position: Position
