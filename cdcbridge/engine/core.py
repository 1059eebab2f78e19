"""The engine as one object: queries in, answers out, one data file behind it.

It knows no sockets, threads or event loops; `server.py` and `local.py` decide who calls it when. The rules that they keep:

- `compile`, `write` and `open_feed` are called by one thread at a time, the same lock or the same event loop;
- `read` may be called from any thread at any time: each thread has a connection of its own;
- `sync` may be called from any thread, one at a time, also while `write` runs.

A write is visible to every reader when `write` returns, and durable when a `sync` that began after it returns.
Feeds, and the bridge, see a change when it is durable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from cdcbridge.engine.errors import QueryError


class Atom(msgspec.Struct, frozen=True):
    """A finished answer: SUCCESS_ATOM with this one JSON value."""

    json: bytes


class Chunk(msgspec.Struct, frozen=True):
    """Some elements of a sequence, each as JSON, in order. `done`: there are no more, now or later."""

    items: list[bytes]
    done: bool


class Cursor(Protocol):
    """A sequence that is read in chunks: a stream, or a feed, which never ends by itself.

    `notes` go into every PARTIAL and SEQUENCE answer (ResponseNote numbers). `is_feed`: an empty chunk that is not
    `done` means "nothing yet": read again when a commit touches one of `tables`.
    """

    notes: tuple[int, ...]
    is_feed: bool
    tables: frozenset[int]

    def read(self, max_rows: int, max_bytes: int) -> Chunk:
        """The next elements: at least one unless the sequence is at its end, or is a feed with nothing new.

        Raises:
            QueryError: an element cannot be made, or the feed's table is gone. Elements before it have been given
                out; the cursor is dead afterwards.
        """

    def close(self) -> None:
        """Let go of what the cursor holds. Closing twice is fine."""


Answer = Atom | Cursor


class Plan(Protocol):
    """A compiled query. `writes`: it must go through `Engine.write`. `is_feed`: its answer is a feed."""

    writes: bool
    is_feed: bool
    durable: bool
    """For writes: answer only after a `sync` (durability hard, the default)."""


class EngineApi(Protocol):
    """What the protocol rooms use of the engine. `cdcbridge.engine.core.Engine` is the one implementation."""

    def compile(self, term: Any, options: Mapping[str, Any]) -> Plan:
        """A plan for the parsed JSON of a query and its global optional arguments.

        Raises:
            QueryError: also its subclasses CompileError and ClientError.
        """

    def read(self, plan: Plan) -> Answer:
        """Run a plan that does not write.

        Raises:
            QueryError: the query fails.
        """

    def write(self, plans: Sequence[Plan]) -> list[Answer | QueryError]:
        """Run plans that write, in order, in one transaction; each fails or succeeds alone.

        Raises:
            FileUnusable: the transaction could not be committed; none of the plans happened.
        """

    def sync(self) -> frozenset[int]:
        """Make everything written so far durable. Returns the tables that became different, for waking feeds.

        Raises:
            FileUnusable: the disk refused; what was written since the last `sync` may be lost.
        """

    def close(self) -> None:
        """Sync, and let the file go. Cursors end."""
