# ruff: noqa: T201
"""The listener of RethinkDB's tutorial: a queue of its own, bound to everything from one table; prints what arrives.

Usage: listener.py AMQP_URL
"""

import json
import sys

import pika

rabbit_conn = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
channel = rabbit_conn.channel()
channel.exchange_declare("rethinkdb", exchange_type="topic", durable=False)

queue = channel.queue_declare("", exclusive=True).method.queue
channel.queue_bind(queue, exchange="rethinkdb", routing_key="mytable.*")

print("Listening for changes of mytable")
for method, properties, payload in channel.consume(queue):  # noqa: B007
    change = json.loads(payload)
    tablename, change_type = method.routing_key.split(".")

    print(tablename, "got a change of type:", change_type)
    print(json.dumps(change, indent=True, sort_keys=True))
