"""The publisher against a real RabbitMQ, through a proxy where a connection has to break."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random
from types import CoroutineType
from typing import Any
from urllib.parse import urlsplit

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from cdcbridge.backoff import Backoff
from cdcbridge.broker.publisher import Publisher
from cdcbridge.change import Change, Operation, Position
from cdcbridge.encode import Encoder, Message
from cdcbridge.errors import BrokerUnavailable, ConfigError, EncodeError, ExchangeMismatch
from tests.conftest import Broker
from tests.faults.proxy import Proxy
from tests.recorded_log import RecordedLog

EXCHANGE = "changes"
QUEUE = "all"

FOR_EVER_S = 3600.0
"""A wait of this length hangs the test, which ends it."""

Opened = Callable[..., "Bridge"]


class Bridge:
    """A publisher, and what it has reported."""

    def __init__(self, url: str, **options: Any) -> None:
        self.recorded = RecordedLog()
        self.safe: list[Position] = []
        settings: dict[str, Any] = {
            "url": url,
            "exchange": EXCHANGE,
            "durable": True,
            "window": 4096,
            "window_bytes": 64 * 1024 * 1024,
            "on_confirmed": self.safe.append,
            "backoff": Backoff(first_s=0.05, cap_s=0.2, rng=Random(1)),
            "log": self.recorded.log,
            "connection_name": "test",
        }
        self.publisher = Publisher(**settings | options)

    async def send(self, first: int, last: int, *, batch: int = 500) -> None:
        """Publish the messages `first` to `last`."""
        for start in range(first, last + 1, batch):
            end = min(start + batch - 1, last)
            await self.publisher.publish(messages(start, end), Position(str(end)))


@pytest.fixture
async def bridge(broker: Broker) -> AsyncIterator[Opened]:
    """Makes publishers, and closes them at the end; no task outlives them."""
    made: list[Bridge] = []

    def open(url: str = broker.url, **options: Any) -> Bridge:
        made.append(Bridge(url, **options))
        return made[-1]

    yield open
    for one in made:
        await one.publisher.close()
    assert not left_behind()


def left_behind() -> list[asyncio.Task[Any]]:
    """Tasks that are not those of the tests and of pytest."""
    return [
        task
        for task in asyncio.all_tasks()
        if isinstance(coroutine := task.get_coro(), CoroutineType)
        and not any(part in coroutine.cr_code.co_filename for part in ("/tests/", "pytest_asyncio", "asyncio/streams"))
    ]


@pytest.fixture
def channel(broker: Broker) -> Iterator[BlockingChannel]:
    """A channel in the virtual host of this test."""
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    yield connection.channel()
    if connection.is_open:
        connection.close()


@pytest.fixture
def queue(channel: BlockingChannel) -> str:
    """A queue that gets everything from the exchange."""
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    return bound_queue(channel)


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[Proxy]:
    """A proxy in front of RabbitMQ."""
    async with Proxy(broker.node.port) as made:
        yield made


def through(proxy: Proxy, broker: Broker) -> str:
    """The broker's URL by way of the proxy."""
    parts = urlsplit(broker.url)
    return parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{proxy.port}").geturl()


def bound_queue(channel: BlockingChannel, **arguments: Any) -> str:
    """Declare the queue with these optional arguments and bind it to everything."""
    channel.queue_declare(QUEUE, durable=True, arguments=arguments)
    channel.queue_bind(QUEUE, EXCHANGE, "#")
    return QUEUE


def message(number: int, size: int = 20, table: str = "users") -> Message:
    """The message for the change at position `number`."""
    document = b'{"id":%d,"x":"%s"}' % (number, b"x" * size)
    change = Change("shop", table, b"%d" % number, None, document, Position(str(number)), 1_700_000_000_123 + number)
    return Encoder(bridge="test", source="embedded", exchange=EXCHANGE).message(
        change, Operation.CREATE, f"{table}.create"
    )


def messages(first: int, last: int) -> list[Message]:
    """The messages `first` to `last`."""
    return [message(number) for number in range(first, last + 1)]


def received(channel: BlockingChannel) -> list[tuple[Any, Any, bytes]]:
    """Everything that waits in the queue, in order: method, properties, body."""
    taken: list[tuple[Any, Any, bytes]] = []
    waiting = channel.queue_declare(QUEUE, passive=True).method.message_count
    if waiting:
        for delivery in channel.consume(QUEUE, auto_ack=True):
            taken.append(delivery)
            if len(taken) == waiting:
                break
        channel.cancel()
    return taken


def numbers(channel: BlockingChannel) -> list[int]:
    """The positions of everything in the queue; each message must have the id that belongs to its position."""
    found = received(channel)
    assert all(one.message_id == f"test:{one.headers['cdc-position']}" for _, one, _ in found)
    return [int(properties.headers["cdc-position"]) for _, properties, _ in found]


def last_occurrences(found: list[int]) -> list[int]:
    """Each number once, where it stands for the last time."""
    return list(reversed(dict.fromkeys(reversed(found))))


def upto(last: int) -> list[int]:
    """1 to `last`."""
    return list(range(1, last + 1))


# The message and the window.


async def test_every_property_and_header_arrives(bridge: Opened, channel: BlockingChannel, queue: str) -> None:
    one = bridge()
    await one.publisher.start()
    await one.publisher.publish([message(7)], Position("7"))
    assert await one.publisher.drained(30)
    [(method, properties, body)] = received(channel)
    assert (method.exchange, method.routing_key) == (EXCHANGE, "users.create")
    assert body == b'{"old_val":null,"new_val":{"id":7,"x":"xxxxxxxxxxxxxxxxxxxx"}}'
    assert {name: value for name, value in vars(properties).items() if value is not None} == {
        "content_type": "application/json",
        "delivery_mode": 2,
        "message_id": "test:7",
        "timestamp": 1_700_000_000,
        "type": "create",
        "app_id": "cdcbridge",
        "headers": {
            "cdc-table": "users",
            "cdc-operation": "create",
            "cdc-source": "embedded",
            "cdc-key": "7",
            "cdc-position": "7",
            "cdc-time-ms": 1_700_000_000_130,
        },
    }


@pytest.mark.parametrize("window", [1, 7, 4096])
async def test_many_messages_are_confirmed_in_order(
    bridge: Opened, channel: BlockingChannel, queue: str, window: int
) -> None:
    count = 10_000 if window > 1 else 300
    one = bridge(window=window)
    await one.publisher.start()
    await one.send(1, count)
    assert await one.publisher.drained(60)
    assert numbers(channel) == upto(count)
    assert one.safe == sorted(set(one.safe), key=int)
    assert one.safe[-1] == str(count)
    assert (one.publisher.published, one.publisher.confirmed) == (count, count)


async def test_a_budget_of_bytes_holds_and_a_larger_message_goes_alone(
    bridge: Opened, channel: BlockingChannel, queue: str
) -> None:
    one = bridge(window_bytes=100_000)
    await one.publisher.start()
    for number, size in enumerate([1000, 50_000, 60_000, 2_000_000, 10], start=1):
        await one.publisher.publish([message(number, size)], Position(str(number)))
    assert await one.publisher.drained(60)
    assert numbers(channel) == upto(5)


async def test_a_batch_without_messages_is_confirmed_behind_those_before_it(bridge: Opened, queue: str) -> None:
    one = bridge()
    await one.publisher.start()
    await one.publisher.publish([], Position("nothing yet"))
    assert await one.publisher.drained(30)
    assert one.safe == ["nothing yet"]
    await one.publisher.publish([message(1)], Position("1"))
    await one.publisher.publish([], Position("skipped"))
    assert await one.publisher.drained(30)
    assert one.safe[-1] == "skipped"


async def test_calls_at_the_same_time_are_not_mixed(bridge: Opened, channel: BlockingChannel, queue: str) -> None:
    one = bridge(window=3)
    await one.publisher.start()
    await asyncio.gather(one.send(1, 50), one.send(51, 100))
    assert await one.publisher.drained(30)
    assert numbers(channel) == upto(100)


async def test_a_message_that_amqp_cannot_carry_harms_no_other(
    bridge: Opened, channel: BlockingChannel, queue: str
) -> None:
    one = bridge()
    await one.publisher.start()
    await one.send(1, 3)
    with pytest.raises(EncodeError, match="message_id"):
        await one.publisher.publish([message(10**300)], Position("4"))
    await one.send(5, 6)
    assert await one.publisher.drained(30)
    assert numbers(channel) == [1, 2, 3, 5, 6]
    assert one.safe[-1] == "6"


async def test_an_unroutable_message_is_counted_and_its_key_logged_once(bridge: Opened) -> None:
    one = bridge()
    await one.publisher.start()
    await one.send(1, 3)
    await one.publisher.publish([message(4, table="orders")], Position("4"))
    assert await one.publisher.drained(30)
    assert one.publisher.returned == 4
    assert [(entry["routing_key"], entry["reply_text"]) for entry in one.recorded.of("message_returned")] == [
        ("users.create", "NO_ROUTE"),
        ("orders.create", "NO_ROUTE"),
    ]
    assert one.safe[-1] == "4"


# Connections that break.


async def test_nothing_is_lost_and_order_kept_when_the_connection_is_cut_again_and_again(
    bridge: Opened, channel: BlockingChannel, queue: str, broker: Broker, proxy: Proxy
) -> None:
    one = bridge(through(proxy, broker), window=200)
    await one.publisher.start()
    for start in range(1, 3000, 600):
        proxy.cut_after(100_000)
        await one.send(start, start + 599, batch=50)
    assert await one.publisher.drained(60)
    found = numbers(channel)
    assert last_occurrences(found) == upto(3000)
    assert one.publisher.reconnects >= 3
    assert one.publisher.confirmed == one.publisher.published == 3000
    assert one.safe == sorted(set(one.safe), key=int)


async def test_what_was_stored_and_not_confirmed_is_repeated_with_its_id(
    bridge: Opened, channel: BlockingChannel, queue: str, broker: Broker, proxy: Proxy
) -> None:
    one = bridge(through(proxy, broker))
    await one.publisher.start()
    proxy.stall(to_server=False)
    await one.send(1, 10)
    await asyncio.to_thread(wait_until_stored, channel, 10)
    assert one.safe == []
    await proxy.cut()
    proxy.resume()
    assert await one.publisher.drained(30)
    found = numbers(channel)
    assert sorted(found) == sorted(upto(10) * 2)
    assert last_occurrences(found) == upto(10)


def wait_until_stored(channel: BlockingChannel, count: int) -> None:
    """Ask until the queue holds so many messages."""
    while channel.queue_declare(QUEUE, passive=True).method.message_count < count:
        pass


async def test_a_loss_is_logged_in_one_line_and_so_is_the_return(
    bridge: Opened, queue: str, broker: Broker, proxy: Proxy
) -> None:
    one = bridge(through(proxy, broker))
    await one.publisher.start()
    await proxy.cut()
    lost = await one.recorded.wait_for("broker_lost")
    await one.recorded.wait_for("broker_connected", 2)
    assert lost["log_level"] == "warning"
    assert "\n" not in lost["reason"]
    assert [entry["event"] for entry in one.recorded.entries] == ["broker_connected", "broker_lost", "broker_connected"]


async def test_a_broker_that_is_not_there_yet_is_waited_for(
    bridge: Opened, channel: BlockingChannel, queue: str, broker: Broker, proxy: Proxy
) -> None:
    await proxy.down()
    one = bridge(through(proxy, broker))
    starting = asyncio.create_task(one.publisher.start())
    await one.recorded.wait_for("broker_lost", 2)
    await proxy.up()
    await starting
    await one.send(1, 3)
    assert await one.publisher.drained(30)
    assert numbers(channel) == upto(3)


async def test_a_start_can_be_cancelled_while_the_broker_is_silent(
    bridge: Opened, broker: Broker, proxy: Proxy
) -> None:
    proxy.stall()
    one = bridge(through(proxy, broker))
    starting = asyncio.create_task(one.publisher.start())
    await proxy.connected.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting


async def test_an_exchange_that_is_deleted_is_made_again(bridge: Opened, channel: BlockingChannel) -> None:
    one = bridge()
    await one.publisher.start()
    channel.exchange_delete(EXCHANGE)
    await one.send(1, 5)
    assert await one.publisher.drained(30)
    assert "NOT_FOUND" in one.recorded.of("broker_lost")[0]["reason"]
    assert one.safe[-1] == "5"


async def test_a_refusal_at_a_reconnect_is_an_error_and_tried_again(
    bridge: Opened, channel: BlockingChannel, queue: str, broker: Broker, proxy: Proxy
) -> None:
    one = bridge(through(proxy, broker))
    await one.publisher.start()
    await proxy.down()
    channel.exchange_delete(EXCHANGE)
    channel.exchange_declare(EXCHANGE, "topic", durable=False)
    await proxy.up()
    sending = asyncio.create_task(one.send(1, 5))
    refused = await one.recorded.wait_for("broker_lost", log_level="error")
    assert "durable = false" in refused["reason"]
    channel.exchange_delete(EXCHANGE)
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    channel.queue_bind(QUEUE, EXCHANGE, "#")
    await sending
    assert await one.publisher.drained(30)
    assert numbers(channel) == upto(5)


# A broker that does not take messages.


async def test_what_a_full_queue_refuses_is_sent_again_in_order(
    bridge: Opened, channel: BlockingChannel, broker: Broker
) -> None:
    channel.exchange_declare(EXCHANGE, "topic", durable=True)
    bound_queue(channel, **{"x-max-length": 3, "x-overflow": "reject-publish"})
    one = bridge()
    await one.publisher.start()
    await one.send(1, 20)
    nacked = await one.recorded.wait_for("publish_nacked")
    assert nacked["log_level"] == "warning"
    assert one.safe[-1] == "3"
    found: list[int] = []
    while not await one.publisher.drained(0.05):
        found += numbers(channel)
    found += numbers(channel)
    assert last_occurrences(found) == upto(20)
    assert one.publisher.nacked >= 17
    assert one.safe[-1] == "20"
    assert one.publisher.confirmed == 20


async def test_an_alarm_stops_publishing_until_it_is_over(
    bridge: Opened, channel: BlockingChannel, queue: str, broker: Broker
) -> None:
    one = bridge(window=1)
    await one.publisher.start()
    with memory_alarm(broker):
        await one.publisher.publish([message(1)], Position("1"))
        blocked = await one.recorded.wait_for("broker_blocked")
        assert (blocked["log_level"], blocked["blocked"]) == ("warning", True)
        waiting = asyncio.create_task(one.publisher.publish([message(2)], Position("2")))
        assert not await one.publisher.drained(0.05)
        assert not waiting.done()
    await waiting
    assert await one.publisher.drained(30)
    assert (await one.recorded.wait_for("broker_blocked", 2))["blocked"] is False
    assert numbers(channel) == upto(2)


@contextlib.contextmanager
def memory_alarm(broker: Broker) -> Iterator[None]:
    """The broker is short of memory."""
    broker.node.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        yield
    finally:
        broker.node.ctl("set_vm_memory_high_watermark", "0.4")


async def test_drained_gives_up_after_its_grace(bridge: Opened, queue: str, broker: Broker, proxy: Proxy) -> None:
    one = bridge(through(proxy, broker))
    await one.publisher.start()
    proxy.stall()
    await one.send(1, 1)
    assert not await one.publisher.drained(0.05)
    assert one.safe == []
    proxy.resume()
    assert await one.publisher.drained(30)


# Failures and the end.


async def test_an_exception_out_of_on_confirmed_reaches_the_caller(bridge: Opened, queue: str) -> None:
    def refuse(_: Position) -> None:
        raise OSError("disk full")

    one = bridge(on_confirmed=refuse)
    await one.publisher.start()
    await one.publisher.publish([message(1)], Position("1"))
    with pytest.raises(OSError, match="disk full"):
        await one.publisher.drained(30)
    with pytest.raises(OSError, match="disk full"):
        await one.publisher.publish([message(2)], Position("2"))


async def test_close_releases_those_who_wait(bridge: Opened, broker: Broker, proxy: Proxy) -> None:
    one = bridge(through(proxy, broker), window=1)
    await one.publisher.start()
    proxy.stall()
    await one.send(1, 1)
    waiting = asyncio.create_task(one.send(2, 2))
    await asyncio.sleep(0)
    proxy.resume()
    await asyncio.gather(one.publisher.close(), asyncio.wait({waiting}))
    assert isinstance(waiting.exception(), BrokerUnavailable)


async def test_close_does_not_wait_for_a_broker_that_owes_confirms(
    bridge: Opened, broker: Broker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdcbridge.broker.connection.CLOSE_DEADLINE_S", FOR_EVER_S)
    one = bridge(through(proxy, broker))
    await one.publisher.start()
    proxy.stall()
    await one.send(1, 1)
    assert not await one.publisher.drained(0.05)
    await one.publisher.close()


async def test_the_keys_of_unroutable_messages_are_remembered_up_to_a_limit(
    bridge: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdcbridge.broker.publisher.ROUTING_KEYS_REMEMBERED", 2)
    one = bridge()
    await one.publisher.start()
    for number, table in enumerate(("a", "b", "a", "c", "a"), start=1):
        await one.publisher.publish([message(number, table=table)], Position(str(number)))
    assert await one.publisher.drained(30)
    logged = [entry["routing_key"] for entry in one.recorded.of("message_returned")]
    assert logged == ["a.create", "b.create", "c.create", "a.create"]


async def test_nothing_is_reported_after_close(bridge: Opened, queue: str) -> None:
    one = bridge()
    await one.publisher.start()
    await one.send(1, 100)
    before = list(one.safe)
    await one.publisher.close()
    assert one.safe == before


async def test_closing_twice_and_before_the_start_is_fine(bridge: Opened) -> None:
    one = bridge()
    await one.publisher.close()
    await one.publisher.close()


# What the operator must mend.


@pytest.mark.parametrize(
    ("declared", "durable", "property", "wanted", "found"),
    [
        ({"exchange_type": "topic", "durable": False}, True, "durable", "true", "false"),
        ({"exchange_type": "topic", "durable": True}, False, "durable", "false", "true"),
        ({"exchange_type": "fanout", "durable": True}, True, "type", "topic", "fanout"),
        ({"exchange_type": "fanout", "durable": False}, None, "type", "topic", "fanout"),
        ({"exchange_type": "topic", "durable": True, "internal": True}, None, "internal", "false", "true"),
        ({"exchange_type": "topic", "durable": True, "auto_delete": True}, True, "auto_delete", "false", "true"),
    ],
)
async def test_another_exchange_of_that_name_is_refused_by_property(
    bridge: Opened,
    channel: BlockingChannel,
    declared: dict[str, Any],
    durable: bool | None,
    property: str,
    wanted: str,
    found: str,
) -> None:
    channel.exchange_declare(EXCHANGE, **declared)
    with pytest.raises(ExchangeMismatch) as caught:
        await bridge(durable=durable).publisher.start()
    mismatch = caught.value
    assert (mismatch.exchange, mismatch.property, mismatch.wanted, mismatch.found) == (
        EXCHANGE,
        property,
        wanted,
        found,
    )


@pytest.mark.parametrize("durable", [True, False])
async def test_without_a_setting_an_exchange_is_used_as_it_is(
    bridge: Opened, channel: BlockingChannel, durable: bool
) -> None:
    channel.exchange_declare(EXCHANGE, "topic", durable=durable)
    bound_queue(channel)
    one = bridge(durable=None)
    await one.publisher.start()
    await one.send(1, 3)
    assert await one.publisher.drained(30)
    assert numbers(channel) == upto(3)


@pytest.mark.parametrize(("name", "durable"), [("cdcbridge", True), ("rethinkdb", False)])
async def test_without_a_setting_a_new_exchange_is_durable_unless_it_is_the_tutorials(
    bridge: Opened, channel: BlockingChannel, name: str, durable: bool
) -> None:
    await bridge(exchange=name, durable=None).publisher.start()
    channel.exchange_declare(name, "topic", durable=durable)


@pytest.mark.parametrize("name", ["", "amq.topic"])
async def test_rabbitmqs_own_exchanges_are_used_as_they_are(bridge: Opened, name: str) -> None:
    await bridge(exchange=name, durable=None).publisher.start()


async def test_a_reserved_name_that_nothing_has_is_refused(bridge: Opened) -> None:
    with pytest.raises(ConfigError, match=r"amq\.nothing"):
        await bridge(exchange="amq.nothing").publisher.start()


@pytest.mark.parametrize(
    ("part", "replacement", "words"),
    [
        ("guest:guest@", "guest:s3cret@", "refused the login"),
        ("/test-", "/absent-", "refused the virtual host.*absent"),
    ],
)
async def test_a_refused_login_names_the_setting_and_not_the_password(
    bridge: Opened, broker: Broker, part: str, replacement: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        await bridge(broker.url.replace(part, replacement)).publisher.start()
    assert caught.value.setting == "rabbitmq.url"
    assert caught.value.remedy
    assert "s3cret" not in str(caught.value)
    assert "***" in str(caught.value)


async def test_a_connection_that_breaks_during_the_login_is_not_taken_for_a_wrong_password(
    bridge: Opened, broker: Broker, proxy: Proxy
) -> None:
    proxy.cut_after(20)
    one = bridge(through(proxy, broker))
    await one.publisher.start()
    assert one.recorded.of("broker_lost")[0]["log_level"] == "warning"


@pytest.fixture
def small_messages_only(broker: Broker) -> Iterator[int]:
    """RabbitMQ takes no message of more bytes than this, while the test runs."""
    set_limit = "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})."
    broker.node.ctl("eval", set_limit.format(100_000))
    yield 100_000
    broker.node.ctl("eval", set_limit.format(134_217_728))


async def test_a_message_that_the_broker_never_takes_ends_the_publisher_by_name(
    broker: Broker, bridge: Opened, small_messages_only: int
) -> None:
    failures: list[Exception] = []
    one = bridge(on_failed=failures.append)
    await one.publisher.start()
    large = message(2, size=small_messages_only)
    await one.publisher.publish([message(1), large], Position("2"))
    with pytest.raises(EncodeError, match=r"test:2.*max_message_size"):
        await one.publisher.drained(60)
    assert [type(failure) for failure in failures] == [EncodeError]
    assert "2" not in one.safe
