"""Publishes messages in order and says up to which position they are confirmed, across nacks and lost brokers.

Two things run beside each other and share the window of unconfirmed messages: `publish` writes as long as there is
room, and the confirms, as they come in, make room and move the safe position. A task behind them owns the connection:
it alone connects, and after a loss it sends again everything from the lowest unconfirmed message on.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from structlog.typing import FilteringBoundLogger

from cdcbridge.backoff import Backoff
from cdcbridge.broker.confirms import Ack
from cdcbridge.broker.connection import ACCESS_REFUSED, Channel, ChannelRefused, Connection, redacted
from cdcbridge.broker.topology import PRECONDITION_FAILED, declare_exchange
from cdcbridge.change import Position
from cdcbridge.encode import Message
from cdcbridge.errors import BridgeError, BrokerUnavailable, ConfigError, EncodeError, PublishNacked, TransientError
from cdcbridge.inflight import InFlight

WRITE_MESSAGES_MAX = 256
"""Messages in one write: few enough that the first confirms are back before a window is through."""

ROUTING_KEYS_REMEMBERED = 10_000
"""Of unroutable messages, so that each key is logged once. Past that it begins anew: keys can be made without end."""

MESSAGE_OVERHEAD_BYTES = 512
"""What a message in the window takes beside body and key: its objects, and its properties on the wire."""


class Publisher:
    """Confirmed, ordered publishing into one exchange. For one event loop.

    Order: messages reach the broker in the order of the calls. After a nack or a lost connection, everything from the
    lowest unconfirmed message on is sent once more, in order and with the same message ids: there can be repeats, and
    the last occurrences are in order. Loss: none; a position is given to `on_confirmed` only when the broker has
    confirmed every message at or below it.

    An exception out of `on_confirmed`, or one that should not happen, ends the publisher: `publish` and `drained` raise
    it from then on.

    Counters: `published` and `confirmed` count messages, each once, however often it is sent; `returned` counts
    messages that no queue took and `nacked` those that the broker refused, each time; `reconnects` counts new channels
    after the first.
    """

    def __init__(
        self,
        *,
        url: str,
        exchange: str,
        durable: bool | None,
        window: int,
        window_bytes: int,
        on_confirmed: Callable[[Position], None],
        backoff: Backoff,
        log: FilteringBoundLogger,
        connection_name: str,
        heartbeat_s: int = 60,
        on_failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """`durable`: how the exchange is to be; `None` takes it as it is, see `topology`. Nothing connects yet.

        `on_confirmed` is called from the event loop, at most once a turn, with the newest safe position, before the
        room of the messages behind it is given to new ones. `on_failed` gets what ends the publisher, once: that can
        happen while nobody publishes.
        """
        self.published = 0
        self.confirmed = 0
        self.returned = 0
        self.nacked = 0
        self.reconnects = 0
        self._url = url
        self._exchange = exchange
        self._durable = durable
        self._connection_name = connection_name
        self._heartbeat_s = heartbeat_s
        self._on_confirmed = on_confirmed
        self._on_failed = on_failed
        self._backoff = backoff
        self._log = log
        self._inflight: InFlight[Message] = InFlight(max_count=window, max_bytes=window_bytes)
        self._acks: list[Ack] = []
        self._turn_scheduled = False
        self._refusal: PublishNacked | None = None
        self._told: Position | None = None
        self._unroutable: set[str] = set()
        self._connection: Connection | None = None
        self._channel: Channel | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._order = asyncio.Lock()

    async def start(self) -> None:
        """Connect, and declare the exchange. A broker that does not answer is tried for ever, and logged.

        Raises:
            ConfigError: RabbitMQ refuses the login or the exchange (ExchangeMismatch), or the URL makes no sense.
        """
        try:
            channel = await self._connect()
        except TransientError as exc:
            channel = await self._reconnect(exc, retried=TransientError)
        self._keeper = asyncio.create_task(self._keep(channel), name="broker connection")

    async def publish(self, messages: Sequence[Message], position: Position) -> None:
        """Write `messages`; `position` is safe when all of them, and all before them, are confirmed.

        Returns when they are written, which is before they are confirmed. Waits for room in the window, for a live
        connection and for a broker that takes messages. After a cancel the messages written so far are on their way.
        No messages: `position` is safe when everything before it is.

        Raises:
            EncodeError: a message does not fit into AMQP. Those before it may be written, it and the rest are not.
            BrokerUnavailable: the publisher is closed.
        """
        async with self._order:
            sizes = [size_bytes(message) for message in messages]
            written = 0
            while written < len(messages):
                end = written + WRITE_MESSAGES_MAX
                await self._until(partial(self._may_write, sizes[written:end]))
                written += self._write(messages[written:end], sizes[written:end])
            self._raise_failure()
            self._inflight.attach(position)
            self._schedule_turn()

    async def drained(self, grace_s: float) -> bool:
        """Wait until nothing is unconfirmed and `on_confirmed` knows; False if that takes longer than `grace_s`."""
        try:
            async with asyncio.timeout(grace_s):
                await self._until(lambda: not len(self._inflight) and not self._turn_scheduled)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Close the connection. What is unconfirmed stays so; `on_confirmed` is not called any more.

        It waits for RabbitMQ's part in it only where nothing is unconfirmed and the broker takes messages. Else there
        is nothing to gain: the time for confirms was that of `drained`, and what was written goes again next time.
        """
        self._on_failed = None  # an end that was asked for is no failure
        self._fail(BrokerUnavailable("the publisher is closed"))
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        await self._disconnect()

    # Writing.

    def _may_write(self, sizes: Sequence[int]) -> bool:
        """Whether there is a channel that takes messages, and room for all of these sizes, or for a good part of them.

        A write costs as much as a dozen messages: with each confirm followed by a write, half of the time goes there.
        """
        connection, channel = self._connection, self._channel
        if connection is None or channel is None or not channel.is_open:
            return False
        if connection.blocked is not None or self._refusal is not None:
            return False
        fitting = self._inflight.fitting(sizes)
        return fitting == len(sizes) or (fitting > 0 and self._inflight.spacious)

    def _write(self, messages: Sequence[Message], sizes: Sequence[int]) -> int:
        """Write as many of them as there is room for, and say how many that were."""
        assert self._channel is not None
        count = self._inflight.fitting(sizes)
        # Written first: what cannot be framed must not be in the window, where it would take up a delivery tag.
        fitting = messages[:count]
        self._channel.publish(fitting)
        self._inflight.extend(fitting, sizes, [message.position for message in fitting])
        self.published += count
        return count

    # Confirms, returns and alarms: called from within pika, where an exception would end the connection.

    def _on_acks(self, channel: Channel, acks: list[Ack]) -> None:
        if channel is self._channel and not channel.lost.done():
            self._acks += acks
            self._schedule_turn()

    def _on_nack(self, channel: Channel, tag: int, multiple: bool) -> None:
        """A refusal: nothing new is written until all that is under way has its answer, and then all goes again.

        Not at once: RabbitMQ refuses faster than it confirms, and with the channel go the confirms that are still to
        come. A queue with less room than the window would never be seen to take anything.
        """
        if channel is not self._channel or channel.lost.done():
            return
        with self._surfacing():
            self._take_acks()
            refused = self._inflight.item(tag)
            self.nacked += self._inflight.refuse(tag, multiple)
            if self._refusal is None:
                what = f"message {refused.message_id!r} for {refused.envelope.routing_key!r}" if refused else "messages"
                self._refusal = PublishNacked(f"RabbitMQ refused {what}: a queue is full, or failed")
        self._schedule_turn()

    def _on_return(self, routing_key: str, reply_text: str) -> None:
        self.returned += 1
        if routing_key not in self._unroutable:
            if len(self._unroutable) >= ROUTING_KEYS_REMEMBERED:
                self._unroutable.clear()
            self._unroutable.add(routing_key)
            self._log.warning("message_returned", routing_key=routing_key, reply_text=reply_text)

    def _on_blocked(self, reason: str | None) -> None:
        if reason is None:
            self._log.info("broker_blocked", blocked=False)
        else:
            self._log.warning("broker_blocked", blocked=True, reason=reason)
        self._changed.set()

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """Once in a turn of the event loop: all confirms that came in, then the safe position, then the room."""
        self._turn_scheduled = False
        if self._failure is None:
            with self._surfacing():
                self._take_acks()
                self._tell()
                self._end_refused()
        self._changed.set()

    def _take_acks(self) -> None:
        acks, self._acks = self._acks, []
        released = sum(self._inflight.confirm(tag, multiple) for tag, multiple in acks)
        if released:
            self.confirmed += released
            self._backoff.reset()

    def _tell(self) -> None:
        safe = self._inflight.safe
        if safe is not None and safe != self._told:
            self._told = safe
            self._on_confirmed(safe)

    def _end_refused(self) -> None:
        """After a refusal, once everything is answered: end the channel, for the keeper to begin a new one."""
        if self._refusal is not None and self._channel is not None and not self._inflight.unanswered:
            self._channel.close(self._refusal)

    # The connection. Only `start` and, after it, the keeper get here.

    async def _keep(self, channel: Channel) -> None:
        """Have a channel, for ever."""
        with self._surfacing():
            while True:
                await asyncio.wait({channel.lost})
                reason = channel.lost.result()
                self._check_sizes(reason)
                channel = await self._reconnect(reason, retried=(TransientError, ConfigError))
                self.reconnects += 1

    def _check_sizes(self, reason: BridgeError) -> None:
        """Raises an EncodeError if RabbitMQ closed the channel over a message that it would refuse again for ever."""
        size = oversize(reason.text) if isinstance(reason, ChannelRefused) else None
        for message in self._inflight.pending() if size else ():
            if len(message.body) == size:
                raise too_large(message)

    async def _reconnect(
        self, reason: BridgeError, *, retried: type[BridgeError] | tuple[type[BridgeError], ...]
    ) -> Channel:
        """Try until there is a channel; errors other than `retried` end it."""
        while True:
            delay_s = self._backoff.next()
            self._report(reason, delay_s)
            await asyncio.sleep(delay_s)
            try:
                return await self._connect()
            except retried as exc:
                reason = exc

    async def _connect(self) -> Channel:
        """A new channel, on the connection that there is, or on a new one; then what was not confirmed, again."""
        try:
            if self._connection is None or not self._connection.is_open:
                self._connection = await self._open()
            await declare_exchange(self._connection, self._exchange, self._durable)
            channel = await self._connection.channel()
            await channel.confirms(partial(self._on_acks, channel), partial(self._on_nack, channel), self._on_return)
        except BaseException:
            await self._disconnect()
            raise
        self._resume(channel)
        return channel

    async def _open(self) -> Connection:
        return await Connection.open(
            self._url,
            connection_name=self._connection_name,
            heartbeat_s=self._heartbeat_s,
            on_blocked=self._on_blocked,
        )

    def _resume(self, channel: Channel) -> None:
        """Begin on a new channel. Nothing is published between the count of the pending messages and their writing."""
        self._take_acks()
        self._inflight.restart()
        self._refusal = None
        self._channel = channel
        pending = self._inflight.pending()
        for start in range(0, len(pending), WRITE_MESSAGES_MAX):
            channel.publish(pending[start : start + WRITE_MESSAGES_MAX])
        self._log.info("broker_connected", broker=redacted(self._url), exchange=self._exchange, repeated=len(pending))
        if not pending:
            # With messages to repeat, only a confirm proves that things work again.
            self._backoff.reset()
        self._schedule_turn()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            closing = self._failure is not None
            await connection.close(at_once=closing and (len(self._inflight) > 0 or connection.blocked is not None))

    def _report(self, reason: BridgeError, retry_in_s: float) -> None:
        """One line about a loss. An error where somebody must act: we try again all the same."""
        event = "publish_nacked" if isinstance(reason, PublishNacked) else "broker_lost"
        must_act = isinstance(reason, ConfigError) or (
            isinstance(reason, ChannelRefused) and reason.code in (ACCESS_REFUSED, PRECONDITION_FAILED)
        )
        log = self._log.error if must_act else self._log.warning
        log(event, reason=str(reason), retry_in_s=round(retry_in_s, 2), unconfirmed=len(self._inflight))

    # Failing and waiting.

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds. It is looked at whenever something has changed."""
        while True:
            self._raise_failure()
            if condition():
                return
            self._changed.clear()
            await self._changed.wait()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def _surfacing(self) -> Iterator[None]:
        """Around what nobody awaits: an exception goes to those who publish."""
        try:
            yield
        except Exception as exc:  # noqa: BLE001 - passed on, whatever it is
            self._fail(exc)

    def _fail(self, error: Exception) -> None:
        """The first failure ends the publisher; those who wait wake up."""
        if self._failure is None:
            self._failure = error
            if self._on_failed is not None:
                self._on_failed(error)
        self._changed.set()


_OVERSIZE = re.compile(r"message size (\d+) is larger than")


def oversize(text: str) -> int | None:
    """The size in bytes that RabbitMQ's refusal of a message is about; None for another refusal."""
    found = _OVERSIZE.search(text)
    return int(found[1]) if found else None


def too_large(message: Message) -> EncodeError:
    """What to tell of a message that is larger than the broker takes."""
    return EncodeError(
        f"message {message.message_id!r} for {message.envelope.routing_key!r} has a body of {len(message.body)} bytes, "
        "more than RabbitMQ takes; raise max_message_size in its configuration, and start again"
    )


def size_bytes(message: Message) -> int:
    """What `message` counts for in the window's budget."""
    return len(message.body) + len(message.key) + MESSAGE_OVERHEAD_BYTES
