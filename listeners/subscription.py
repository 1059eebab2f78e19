"""A queue, bound to its patterns and delivering into an inbox, for as long as one connection lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aiormq.exceptions import (
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)

from cdcbridge.broker.topology import (
    ESSENTIAL,
    EXCHANGE_SETTING,
    EXCHANGE_TYPE,
    RESERVED_PREFIX,
    created_durable,
    mismatch,
)
from cdcbridge.errors import BrokerUnavailable, ConfigError
from listeners.inbox import Inbox
from listeners.settings import ListenSettings
from listeners.translate import connecting, lost, reason

CONNECT_DEADLINE_S = 15.0
SET_UP_DEADLINE_S = 30.0
CLOSE_DEADLINE_S = 5.0
CONNECTION_NAME = "cdcbridge listen"


@contextlib.asynccontextmanager
async def connected(settings: ListenSettings) -> AsyncIterator[AbstractConnection]:
    """A connection that nothing reconnects: the worker owns that. Closing it returns what was not acked to its queue.

    Raises:
        ConfigError: RabbitMQ refuses the user, the password or the virtual host.
        BrokerUnavailable: it does not answer.
    """
    with connecting(settings.url):
        connection = await aio_pika.connect(
            settings.url,
            timeout=CONNECT_DEADLINE_S,
            heartbeat=settings.heartbeat_s,
            client_properties={"connection_name": CONNECTION_NAME},
        )
    try:
        yield connection
    finally:
        with contextlib.suppress(BrokerUnavailable), lost():
            await asyncio.wait_for(connection.close(), CLOSE_DEADLINE_S)


async def subscribe(connection: AbstractConnection, settings: ListenSettings) -> tuple[str, Inbox]:
    """Declare the exchange and the queue, bind the patterns, start the deliveries. Returns the queue's name.

    Raises:
        ConfigError: exchange or queue exist with other properties, or the user lacks a permission.
        BrokerUnavailable: the connection was lost, or the broker is not ready.
    """
    with lost():
        async with asyncio.timeout(SET_UP_DEADLINE_S):
            await declare_exchange(connection, settings.exchange, settings.exchange_durable)
            queue = await declare_queue(connection, settings.queue)
            for pattern in settings.patterns:
                await queue.bind(settings.exchange, pattern)
            return queue.name, await _deliveries(queue, settings)


async def declare_exchange(connection: AbstractConnection, name: str, durable: bool | None) -> None:
    """Make sure that the topic exchange is there, by the same rule as the publisher.

    With `durable` unset one that exists is used as it is, also by a user without the right to declare it; so are
    RabbitMQ's own, `amq.*`.

    Raises:
        ExchangeMismatch: it exists with another property than was asked for, or is no topic exchange.
        ConfigError: the user may not make it.
    """
    as_it_is = (durable is None or name.startswith(RESERVED_PREFIX)) and await _exchange_exists(connection, name)
    channel = await _channel(connection)
    try:
        await channel.declare_exchange(name, EXCHANGE_TYPE, durable=created_durable(name, durable))
    except ChannelPreconditionFailed as exc:
        found = mismatch(str(exc))
        if found is None or not as_it_is or found.property in ESSENTIAL:
            raise found or ConfigError(EXCHANGE_SETTING, str(exc)) from exc
    except ChannelAccessRefused as exc:
        if not as_it_is:
            remedy = "use a name that is not reserved, or a user with the permission 'configure' for it"
            raise ConfigError(EXCHANGE_SETTING, f"exchange {name!r} cannot be declared: {exc}", remedy) from exc
    else:
        await channel.close()


async def _exchange_exists(connection: AbstractConnection, name: str) -> bool:
    channel = await _channel(connection)
    try:
        await channel.declare_exchange(name, passive=True)
    except ChannelNotFoundEntity:
        # The question has cost its channel.
        return False
    await channel.close()
    return True


async def declare_queue(connection: AbstractConnection, name: str | None) -> AbstractQueue:
    """A queue on a channel of its own: durable where it has a name, else exclusive and named by RabbitMQ.

    Optional arguments that a queue was created with (its type, limits, a dead-letter exchange) are its operator's
    choice and stay.

    Raises:
        ConfigError: a queue of this name exists that is not durable, deletes itself, or is another connection's; or
            the user may not make it.
    """
    channel = await _channel(connection)
    if name is None:
        return await channel.declare_queue(exclusive=True)
    try:
        return await channel.declare_queue(name, durable=True)
    except ChannelPreconditionFailed as exc:
        _refuse_other_properties(name, exc)
    except ChannelLockedResource as exc:
        problem = f"queue {name!r} is exclusive to another connection"
        raise ConfigError("queue", problem, "choose another name") from exc
    except ChannelAccessRefused as exc:
        remedy = "use a name that is not reserved, or a user with the permission 'configure' for it"
        raise ConfigError("queue", f"queue {name!r} cannot be declared: {exc}", remedy) from exc
    return await (await _channel(connection)).declare_queue(name, passive=True)


def _refuse_other_properties(name: str, error: ChannelPreconditionFailed) -> None:
    found = mismatch(str(error))
    if found is None:
        raise ConfigError("queue", str(error)) from error
    if not found.property.startswith("x-"):
        problem = f"queue {name!r} already exists with {found.property} = {found.found}"
        remedy = f"choose another name, or delete it: a listener's queue has {found.property} = {found.wanted}"
        raise ConfigError("queue", problem, remedy) from error


async def _channel(connection: AbstractConnection) -> AbstractChannel:
    return await connection.channel(publisher_confirms=False)


async def _deliveries(queue: AbstractQueue, settings: ListenSettings) -> Inbox:
    """Start the deliveries of `queue`. The inbox learns when they end, for whatever reason."""
    inbox = Inbox(keep_after_loss=settings.queue is None)
    channel = queue.channel

    def channel_closed(_: object, error: BaseException | None) -> None:
        inbox.lose(reason(error))

    def consumer_cancelled(_: Any) -> None:
        inbox.lose(f"queue {queue.name!r} was deleted, or its node went away")

    channel.close_callbacks.add(channel_closed)
    # Without this a listener whose queue is deleted waits for ever: neither connection nor channel end.
    (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(consumer_cancelled)
    await channel.set_qos(prefetch_count=settings.prefetch)
    await queue.consume(inbox.put)
    return inbox
