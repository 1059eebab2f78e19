"""A listener against a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, BinaryIO

import aio_pika
import pytest
import structlog
from aio_pika.abc import AbstractChannel, AbstractQueue

from cdcbridge.broker.node import free_port
from cdcbridge.errors import ConfigError, ExchangeMismatch, StateError
from listeners import worker
from listeners.subscription import CONNECTION_NAME
from listeners.worker import ListenSettings, listen
from tests.conftest import Broker

HANG_S = 30.0
"""Ends a test that would hang; nothing is asserted about it."""

Entry = MutableMapping[str, Any]


class Log:
    """Keeps what is logged, and lets a test wait for it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._more = asyncio.Event()
        self.logger = structlog.wrap_logger(
            None, processors=[self._keep], wrapper_class=structlog.make_filtering_bound_logger("debug")
        )

    def _keep(self, _: object, level: str, entry: Entry) -> Entry:
        self.entries.append({**entry, "level": level})
        self._more.set()
        raise structlog.DropEvent

    def of(self, event: str) -> list[Entry]:
        return [entry for entry in self.entries if entry["event"] == event]

    async def wait_for(self, event: str, times: int = 1) -> Entry:
        async with asyncio.timeout(HANG_S):
            while len(self.of(event)) < times:
                self._more.clear()
                await self._more.wait()
        return self.of(event)[times - 1]


class Sink(io.BytesIO):
    """An output in memory; a test waits until so many lines are there."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def write(self, data: Any) -> int:
        self._more.set()
        return super().write(data)

    @property
    def documents(self) -> list[Any]:
        return [json.loads(line) for line in self.getvalue().splitlines()]

    @property
    def bodies(self) -> list[Any]:
        return [document["body"] for document in self.documents]

    async def lines(self, count: int) -> list[Any]:
        async with asyncio.timeout(HANG_S):
            while len(self.documents) < count:
                self._more.clear()
                await self._more.wait()
        return self.documents


class Listening:
    """One listener at work, with its output, its log and a way to stop it."""

    def __init__(self, settings: ListenSettings, out: BinaryIO | None = None) -> None:
        self.sink = Sink()
        self.log = Log()
        self.stop = asyncio.Event()
        self._task = asyncio.ensure_future(listen(settings, out or self.sink, self.log.logger, self.stop))

    async def ready(self) -> Entry:
        waiting = asyncio.ensure_future(self.log.wait_for("listener_ready"))
        await asyncio.wait([waiting, self._task], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            waiting.cancel()
            self._task.result()
        return await waiting

    async def end(self) -> int:
        self.stop.set()
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(HANG_S):
            return await self._task

    async def abandon(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


Start = Callable[..., Listening]


@pytest.fixture
async def start(broker: Broker) -> AsyncIterator[Start]:
    """`start(queue="q", …)` starts a listener to everything, as JSON. The end of the test cancels what is left."""
    started: list[Listening] = []

    def begin(out: BinaryIO | None = None, **changes: Any) -> Listening:
        started.append(Listening(settings(broker, **changes), out))
        return started[-1]

    yield begin
    for listening in started:
        await listening.abandon()


@pytest.fixture
async def channel(broker: Broker) -> AsyncIterator[AbstractChannel]:
    """The test's own channel, for publishing and looking into queues."""
    async with await aio_pika.connect(broker.url) as connection:
        yield await connection.channel()


def settings(broker: Broker, **changes: Any) -> ListenSettings:
    given: dict[str, Any] = {
        "url": broker.url,
        "exchange": "cdcbridge",
        "exchange_durable": None,
        "patterns": ("#",),
        "format": "json",
    }
    return ListenSettings(**given | changes)


async def publish(channel: AbstractChannel, *bodies: object, routing_key: str = "mytable.create") -> None:
    exchange = await channel.get_exchange("cdcbridge", ensure=False)
    for body in bodies:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        await exchange.publish(aio_pika.Message(raw), routing_key)


async def left_in(channel: AbstractChannel, queue: str) -> list[Any]:
    """Everything in the queue, taken out of it."""
    bodies = []
    source = await channel.get_queue(queue)
    while (message := await source.get(fail=False, no_ack=True)) is not None:
        bodies.append(json.loads(message.body))
    return bodies


async def a_queue(channel: AbstractChannel, name: str, *bodies: object, **properties: Any) -> AbstractQueue:
    """A durable queue that is bound to everything and holds these."""
    await channel.declare_exchange("cdcbridge", "topic", durable=True)
    queue = await channel.declare_queue(name, **{"durable": True} | properties)
    await queue.bind("cdcbridge", "#")
    await publish(channel, *bodies)
    return queue


async def is_durable(broker: Broker, exchange: str) -> bool:
    """Whether the topic exchange, which exists, is durable."""
    async with await aio_pika.connect(broker.url) as connection:
        try:
            await (await connection.channel()).declare_exchange(exchange, "topic", durable=True)
        except aio_pika.exceptions.ChannelPreconditionFailed:
            return False
        return True


async def cut(broker: Broker) -> None:
    """Close the connections of this virtual host's listeners, from the broker's side."""
    listed = await asyncio.to_thread(broker.node.ctl, "list_connections", "pid", "vhost", "client_properties")
    for pid, vhost, properties in (line.split("\t") for line in listed.splitlines() if line.startswith("<")):
        if vhost == broker.vhost and CONNECTION_NAME in properties:
            await asyncio.to_thread(broker.node.ctl, "close_connection", pid, "cut by a test")


@contextlib.contextmanager
def a_pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The two ends of a pipe."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "wb", buffering=0) as writer:
        yield reader, writer


MORE_THAN_A_PIPE_HOLDS = "x" * 200_000


@pytest.fixture
def full_device() -> Iterator[BinaryIO]:
    """A file on a disk without space."""
    with Path("/dev/full").open("wb", buffering=0) as full:
        yield full


# What is received


async def test_a_star_stands_for_one_word_of_the_routing_key(start: Start, channel: AbstractChannel) -> None:
    listening = start(patterns=("mytable.*",), count=2)
    await listening.ready()
    for key in ("mytable.create", "shop.mytable.create", "other.create", "mytable.delete"):
        await publish(channel, key, routing_key=key)
    assert await listening.ended() == 0
    assert listening.sink.bodies == ["mytable.create", "mytable.delete"]


async def test_a_hash_stands_for_any_words_and_several_patterns_add_up(start: Start, channel: AbstractChannel) -> None:
    listening = start(patterns=("shop.#", "*.delete"), count=3)
    await listening.ready()
    for key in ("shop", "mytable.create", "shop.mytable.create", "mytable.delete"):
        await publish(channel, key, routing_key=key)
    await listening.ended()
    assert listening.sink.bodies == ["shop", "shop.mytable.create", "mytable.delete"]


async def test_the_order_of_the_queue_is_kept(start: Start, channel: AbstractChannel) -> None:
    await a_queue(channel, "work", *range(3_000))
    listening = start(queue="work", count=3_000)
    await listening.ended()
    assert listening.sink.bodies == list(range(3_000))


async def test_properties_and_headers_are_printed(start: Start, channel: AbstractChannel) -> None:
    listening = start(count=1)
    await listening.ready()
    exchange = await channel.get_exchange("cdcbridge")
    headers: dict[str, Any] = {"cdc-table": "mytable", "cdc-time-ms": 1_700_000_000_123}
    message = aio_pika.Message(b"{}", message_id="bridge:7", timestamp=1_700_000_000, headers=headers)
    await exchange.publish(message, "mytable.create")
    await listening.ended()
    assert listening.sink.documents == [
        {
            "routing_key": "mytable.create",
            "message_id": "bridge:7",
            "timestamp": 1_700_000_000,
            "headers": headers,
            "body": {},
        }
    ]


async def test_the_pretty_form_is_that_of_the_tutorial(start: Start, channel: AbstractChannel) -> None:
    listening = start(format="pretty", count=1)
    await listening.ready()
    await publish(channel, {"old_val": None, "new_val": {"id": 1}})
    await listening.ended()
    assert listening.sink.getvalue().startswith(b'mytable got a change of type: create\n{\n  "new_val": {\n    "id": 1')


async def test_a_message_that_is_not_json_is_shown_with_a_warning_and_acked(
    start: Start, channel: AbstractChannel
) -> None:
    queue = await a_queue(channel, "work", b"no json", {"id": 1})
    listening = start(queue="work", count=2)
    await listening.ended()
    assert listening.sink.bodies == ["no json", {"id": 1}]
    [warning] = [entry for entry in listening.log.of("message_handled") if entry["level"] == "warning"]
    assert (warning["routing_key"], "not JSON" in warning["problem"]) == ("mytable.create", True)
    assert "no json" not in str(listening.log.entries)
    assert (await queue.declare()).message_count == 0


# Acks


async def test_a_count_acks_exactly_what_was_printed_and_leaves_the_rest(
    start: Start, channel: AbstractChannel
) -> None:
    await a_queue(channel, "work", *range(20))
    listening = start(queue="work", count=7, prefetch=5)
    assert await listening.ended() == 0
    assert listening.sink.bodies == list(range(7))
    assert await left_in(channel, "work") == list(range(7, 20))


async def test_what_is_printed_is_acked_without_waiting_for_more(start: Start, channel: AbstractChannel) -> None:
    queue = await a_queue(channel, "work", 1)
    listening = start(queue="work")
    await listening.sink.lines(1)
    await listening.end()
    assert (await queue.declare()).message_count == 0


async def test_a_named_queue_keeps_what_arrives_while_nobody_listens(start: Start, channel: AbstractChannel) -> None:
    first = start(queue="work")
    await first.ready()
    await first.end()
    await publish(channel, 1, 2)
    second = start(queue="work", count=2)
    await second.ended()
    assert second.sink.bodies == [1, 2]


async def test_an_unnamed_queue_goes_with_its_listener(start: Start, channel: AbstractChannel) -> None:
    listening = start()
    queue = (await listening.ready())["queue"]
    assert queue.startswith("amq.gen-")
    await listening.end()
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await channel.get_queue(queue)


async def test_after_a_cut_the_message_whose_ack_was_lost_comes_again(
    start: Start, channel: AbstractChannel, broker: Broker
) -> None:
    with a_pipe() as (reader, writer):
        await a_queue(channel, "work", MORE_THAN_A_PIPE_HOLDS)
        listening = start(writer, queue="work", count=2)
        # The message is being printed, and stuck, when the connection goes.
        begin = await asyncio.to_thread(reader.read, 1)
        await cut(broker)
        lines = [begin + await asyncio.to_thread(reader.readline), await asyncio.to_thread(reader.readline)]
        await listening.ended()
    assert [json.loads(line)["body"] for line in lines] == [MORE_THAN_A_PIPE_HOLDS] * 2
    assert listening.log.of("message_retried")
    assert listening.log.of("broker_lost")


async def test_a_cut_is_survived_by_a_named_queue_without_a_loss(
    start: Start, channel: AbstractChannel, broker: Broker
) -> None:
    listening = start(queue="work")
    await listening.ready()
    await publish(channel, 1)
    await listening.sink.lines(1)
    await cut(broker)
    lost = await listening.log.wait_for("broker_lost")
    await publish(channel, 2)
    await listening.log.wait_for("listener_ready", times=2)
    await publish(channel, 3)
    await listening.sink.lines(3)
    assert listening.sink.bodies == [1, 2, 3]
    assert (lost["level"], "guest:guest" in str(lost)) == ("warning", False)


async def test_an_unnamed_queue_is_declared_and_bound_again_after_a_cut(
    start: Start, channel: AbstractChannel, broker: Broker
) -> None:
    listening = start(patterns=("mytable.*",))
    first = await listening.ready()
    await cut(broker)
    second = await listening.log.wait_for("listener_ready", times=2)
    await publish(channel, 1)
    await listening.sink.lines(1)
    assert first["queue"] != second["queue"]


async def test_a_queue_that_is_deleted_under_the_listener_is_declared_again(
    start: Start, channel: AbstractChannel
) -> None:
    listening = start(queue="work")
    await listening.ready()
    await channel.queue_delete("work")
    lost = await listening.log.wait_for("broker_lost")
    await listening.log.wait_for("listener_ready", times=2)
    await publish(channel, 1)
    await listening.sink.lines(1)
    assert "'work' was deleted" in lost["reason"]


# Exchange and queue


async def test_an_exchange_that_is_not_there_is_created_durable(start: Start, broker: Broker) -> None:
    await start().ready()
    assert await is_durable(broker, "cdcbridge")


async def test_the_exchange_of_the_tutorial_is_created_as_the_tutorial_declares_it(
    start: Start, broker: Broker
) -> None:
    await start(exchange="rethinkdb").ready()
    assert not await is_durable(broker, "rethinkdb")


@pytest.mark.parametrize("existing", [True, False])
async def test_an_exchange_is_taken_as_it_is_where_no_durability_is_asked_for(
    start: Start, channel: AbstractChannel, existing: bool
) -> None:
    await channel.declare_exchange("cdcbridge", "topic", durable=existing)
    listening = start(count=1)
    await listening.ready()
    await publish(channel, 1)
    await listening.ended()


@pytest.mark.parametrize(("existing", "wanted"), [(True, False), (False, True)])
async def test_an_exchange_of_another_durability_is_a_mistake_that_names_it(
    start: Start, channel: AbstractChannel, existing: bool, wanted: bool
) -> None:
    await channel.declare_exchange("cdcbridge", "topic", durable=existing)
    with pytest.raises(ExchangeMismatch) as caught:
        await start(exchange_durable=wanted).ended()
    assert caught.value.property == "durable"
    assert (caught.value.wanted, caught.value.found) == (str(wanted).lower(), str(existing).lower())


@pytest.mark.parametrize("asked", [True, None])
async def test_an_exchange_that_knows_no_patterns_is_a_mistake(
    start: Start, channel: AbstractChannel, asked: bool | None
) -> None:
    await channel.declare_exchange("cdcbridge", "direct", durable=True)
    with pytest.raises(ExchangeMismatch) as caught:
        await start(exchange_durable=asked).ended()
    assert (caught.value.property, caught.value.found) == ("type", "direct")


async def test_a_predeclared_exchange_is_listened_to(start: Start) -> None:
    await start(exchange="amq.topic").ready()


async def test_a_reserved_name_is_a_mistake(start: Start) -> None:
    with pytest.raises(ConfigError, match=r"amq\.mine"):
        await start(exchange="amq.mine").ended()


@pytest.mark.parametrize(
    ("properties", "named"), [({"durable": False}, "durable = false"), ({"auto_delete": True}, "auto_delete = true")]
)
async def test_a_queue_that_would_lose_messages_is_a_mistake_that_names_the_property(
    start: Start, channel: AbstractChannel, properties: dict[str, Any], named: str
) -> None:
    await a_queue(channel, "work", **properties)
    with pytest.raises(ConfigError, match=f"queue 'work' already exists with {named}"):
        await start(queue="work").ended()


async def test_a_reserved_name_of_a_queue_is_a_mistake_of_that_setting(start: Start) -> None:
    with pytest.raises(ConfigError, match=r"^queue: queue 'amq\.mine' cannot be declared"):
        await start(queue="amq.mine").ended()


async def test_a_queue_of_another_connection_is_a_mistake(start: Start, channel: AbstractChannel) -> None:
    await channel.declare_queue("work", exclusive=True)
    with pytest.raises(ConfigError, match="queue 'work' is exclusive to another connection"):
        await start(queue="work").ended()


async def test_optional_arguments_of_a_queue_are_its_operators_choice(start: Start, channel: AbstractChannel) -> None:
    await a_queue(channel, "work", 1, arguments={"x-queue-type": "quorum", "x-max-length": 100})
    listening = start(queue="work", count=1)
    await listening.ended()
    assert listening.sink.bodies == [1]


# Connecting


async def test_a_wrong_password_is_a_mistake_that_does_not_print_it(start: Start, broker: Broker) -> None:
    with pytest.raises(ConfigError, match="refused the login of user 'guest'") as caught:
        await start(url=broker.url.replace(":guest@", ":hunter2@")).ended()
    assert "hunter2" not in str(caught.value)


async def test_an_unknown_virtual_host_is_a_mistake_that_names_it(start: Start, broker: Broker) -> None:
    with pytest.raises(ConfigError, match="virtual host 'nowhere'"):
        await start(url=broker.url.replace(broker.vhost, "nowhere")).ended()


async def test_a_port_without_tls_is_a_mistake_for_amqps(start: Start, broker: Broker) -> None:
    with pytest.raises(ConfigError, match="does not speak TLS"):
        await start(url=broker.url.replace("amqp:", "amqps:")).ended()


async def test_a_broker_that_does_not_answer_is_tried_again_until_the_listener_is_stopped(start: Start) -> None:
    port = free_port()
    listening = start(url=f"amqp://guest:secret@127.0.0.1:{port}/")
    lost = await listening.log.wait_for("broker_lost", times=2)
    assert await listening.end() == 0
    assert (lost["level"], lost["broker"]) == ("warning", f"amqp://guest:***@127.0.0.1:{port}/")


# Ends


async def test_a_signal_ends_it_with_status_0(broker: Broker, channel: AbstractChannel) -> None:
    log, sink = Log(), Sink()
    task = asyncio.ensure_future(listen(settings(broker, queue="work"), sink, log.logger))
    await log.wait_for("listener_ready")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await task == 0
    assert [entry["event"] for entry in log.entries][-2:] == ["shutdown_requested", "shutdown_finished"]


async def test_a_reader_that_goes_away_ends_it_quietly_and_the_message_stays(
    start: Start, channel: AbstractChannel
) -> None:
    with a_pipe() as (reader, writer):
        listening = start(writer, queue="work")
        await listening.ready()
        reader.close()
        await publish(channel, 1)
        assert await listening.ended() == 0
    assert await left_in(channel, "work") == [1]
    assert {entry["level"] for entry in listening.log.entries} <= {"info", "debug"}


async def test_a_reader_that_goes_away_is_noticed_while_nothing_arrives(start: Start) -> None:
    with a_pipe() as (reader, writer):
        listening = start(writer)
        await listening.ready()
        reader.close()
        assert await listening.ended() == 0


async def test_a_stop_is_heard_while_the_output_is_stuck_and_the_message_goes_back(
    start: Start, channel: AbstractChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "GRACE_S", 0.01)
    with a_pipe() as (reader, writer):
        await a_queue(channel, "work", MORE_THAN_A_PIPE_HOLDS)
        listening = start(writer, queue="work")
        await asyncio.to_thread(reader.read, 1)
        assert await listening.end() == 0
        assert await left_in(channel, "work") == [MORE_THAN_A_PIPE_HOLDS]


async def test_an_output_that_cannot_be_written_is_an_error_and_the_message_stays(
    start: Start, channel: AbstractChannel, full_device: BinaryIO
) -> None:
    await a_queue(channel, "work", 1)
    with pytest.raises(StateError, match="No space left"):
        await start(full_device, queue="work").ended()
    assert await left_in(channel, "work") == [1]
