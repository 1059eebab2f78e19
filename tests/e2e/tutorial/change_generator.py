# ruff: noqa: T201
"""Something to listen to: documents of the tutorial's table come, change and go. Prints each change that it made.

Usage: change_generator.py ENGINE_PORT ROUNDS
"""

import contextlib
import json
import sys

from rethinkdb import r

table = r.db("change_example").table("mytable")


def create(number):
    return table.insert({"title": f"Page {number}", "visits": 0, "tags": ["ä", None, 1.5]}, return_changes=True)


def update(number):
    return table.sample(1).update({"visits": r.row["visits"] + number}, return_changes=True)


def delete(number):
    return table.sample(1).delete(return_changes=True)


with r.connect(host="127.0.0.1", port=int(sys.argv[1])) as conn:
    for missing in (r.db_create("change_example"), r.db("change_example").table_create("mytable")):
        with contextlib.suppress(r.errors.ReqlRuntimeError):
            missing.run(conn)
    for number in range(1, int(sys.argv[2]) + 1):
        for operation in (create, create, update, delete):
            (change,) = operation(number).run(conn)["changes"]
            print(json.dumps([operation.__name__, change]))
