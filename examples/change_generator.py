"""A program that changes documents at random, so that there is something to see.

It knows nothing of cdcbridge: it talks to the built-in engine, or to a RethinkDB server, with the official driver.
The password of the user admin is read from the environment variable RETHINKDB_PASSWORD.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from rethinkdb import r
from rethinkdb.errors import ReqlDriverError, ReqlOpFailedError, ReqlRuntimeError

NAMES = ("Ada", "Grace", "Edsger", "Barbara", "Donald", "Frances", "Alan", "Radia")


def create(table: Any) -> Any:
    """A new document."""
    return table.insert({"name": random.choice(NAMES), "visits": 0})


def update(table: Any) -> Any:
    """One more visit in a document picked at random."""
    return table.sample(1).update({"visits": random.randrange(1, 1000)})


def delete(table: Any) -> Any:
    """One document less."""
    return table.sample(1).delete()


OPERATIONS: tuple[Callable[[Any], Any], ...] = (create, create, create, update, update, update, delete, delete)


def main() -> int:
    options = arguments()
    try:
        with connect(options) as connection:
            generate(connection, options)
    except (ReqlDriverError, ReqlRuntimeError) as error:
        print(f"change_generator: {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Create, update and delete documents at random.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=28015)
    parser.add_argument("--db", default="test")
    parser.add_argument("--table", default="mytable")
    parser.add_argument("--interval", type=float, default=0.3, metavar="S", help="seconds between two changes")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N changes; left out: go on for ever")
    return parser.parse_args()


def connect(options: argparse.Namespace) -> Any:
    password = os.environ.get("RETHINKDB_PASSWORD", "")
    return r.connect(options.host, options.port, db=options.db, password=password)


def generate(connection: Any, options: argparse.Namespace) -> None:
    make_table(connection, options.db, options.table)
    table = r.table(options.table)
    create(table).run(connection)
    for _ in itertools.count() if options.count is None else range(options.count - 1):
        time.sleep(options.interval)
        random.choice(OPERATIONS)(table).run(connection)


def make_table(connection: Any, db: str, table: str) -> None:
    """Make database and table where they are missing."""
    for missing in (r.db_create(db), r.db(db).table_create(table)):
        with contextlib.suppress(ReqlOpFailedError):
            missing.run(connection)


if __name__ == "__main__":
    sys.exit(main())
