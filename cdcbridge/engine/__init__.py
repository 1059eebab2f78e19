"""The built-in changefeed engine: an embedded document database that RethinkDB's official driver talks to.

In process, with no server:

    from rethinkdb import r
    import cdcbridge.engine

    with cdcbridge.engine.open("shop.db") as conn:
        r.table_create("users").run(conn)
        for change in r.table("users").changes().run(conn):
            ...

Over TCP it is served by `cdcbridge.engine.server.Server`, and by `cdcbridge engine` on the command line; the same
queries run on both, and on a RethinkDB cluster. It imports nothing else of cdcbridge.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdcbridge.engine.core import InitialValues
    from cdcbridge.engine.local import LocalConnection

__all__ = ["open"]


def open(path: Path | str, *, initial_values: InitialValues = "seed") -> LocalConnection:
    """A connection to the engine in this process; see `cdcbridge.engine.local.open`.

    Raises:
        FileInUse: another process has the file open.
        FileUnusable: it cannot be opened or written, or is no data file.
        EngineError: this process has it open with other `initial_values`.
    """
    from cdcbridge.engine import local  # not before: it brings the driver, which the engine's values do without

    return local.open(path, initial_values=initial_values)
