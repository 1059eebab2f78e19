"""The private RabbitMQ node that the demo and the tests start."""

from __future__ import annotations

from collections.abc import Iterator

import pika
import pytest

from cdcbridge.broker.node import NodeFailed, PrivateNode, accepts, opens
from tests.conftest import Broker

PERSISTENT = pika.BasicProperties(delivery_mode=2)


def put(url: str, queue: str, body: bytes) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True)
        channel.basic_publish("", queue, body, PERSISTENT, mandatory=True)


def take(url: str, queue: str) -> bytes | None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        body: bytes | None = connection.channel().basic_get(queue, auto_ack=True)[2]
        return body


def test_a_started_node_opens_connections(rabbitmq: PrivateNode) -> None:
    assert opens(rabbitmq.url)


def test_a_confirmed_message_survives_a_kill(killable_rabbitmq: PrivateNode) -> None:
    put(killable_rabbitmq.url, "kept", b"still here")
    killable_rabbitmq.kill()
    assert not accepts(killable_rabbitmq.port)
    killable_rabbitmq.start()
    assert take(killable_rabbitmq.url, "kept") == b"still here"


def test_each_broker_fixture_is_a_virtual_host_of_its_own(broker: Broker, vhosts: Iterator[str]) -> None:
    assert broker.vhost in broker.node.ctl("list_vhosts")
    assert broker.vhost != next(vhosts)
    put(broker.url, "mine", b"x")
    assert take(broker.url, "mine") == b"x"


def test_a_failed_ctl_command_says_why(rabbitmq: PrivateNode) -> None:
    with pytest.raises(NodeFailed, match="delete_vhost nowhere failed"):
        rabbitmq.ctl("delete_vhost", "nowhere")
