# ruff: noqa: T201
"""The publisher of RethinkDB's tutorial: every change of a table goes into a topic exchange.

Usage: publisher.py ENGINE_PORT AMQP_URL
"""

import contextlib
import json
import sys

import pika
from rethinkdb import r

exchange = "rethinkdb"


def type_of_change(change):
    """Which of the three topics a change belongs to."""
    if change["old_val"] is None:
        return "create"
    if change["new_val"] is None:
        return "delete"
    return "update"


rethink_conn = r.connect(host="127.0.0.1", port=int(sys.argv[1]))
for missing in (r.db_create("change_example"), r.db("change_example").table_create("mytable")):
    with contextlib.suppress(r.errors.ReqlRuntimeError):
        missing.run(rethink_conn)

rabbit_conn = pika.BlockingConnection(pika.URLParameters(sys.argv[2]))
channel = rabbit_conn.channel()
channel.exchange_declare(exchange, exchange_type="topic", durable=False)

table_changes = r.db("change_example").table("mytable").changes()

feed = table_changes.run(rethink_conn)
print("Waiting for changes of mytable")
for change in feed:
    routing_key = "mytable." + type_of_change(change)
    channel.basic_publish(exchange, routing_key, json.dumps(change))
