"""Connections and channels of RabbitMQ that can be awaited, over pika's callbacks. pika's errors end here.

Nothing reconnects by itself: a lost channel says so in `lost`, and its owner decides.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pika
from pika import exceptions
from pika.adapters.asyncio_connection import AsyncioConnection, _AsyncioIOServicesAdapter
from pika.adapters.utils import connection_workflow, nbio_interface

from cdcbridge import __version__
from cdcbridge.broker.confirms import ACK_BYTES, Ack, ack_start, split
from cdcbridge.broker.framing import Framer
from cdcbridge.encode import Message
from cdcbridge.errors import BrokerUnavailable, ConfigError, TransientError

URL_SETTING = "rabbitmq.url"
URL_EXAMPLE = "write it as amqp://user:password@host:5672/vhost"

SOCKET_DEADLINE_S = 10.0
HANDSHAKE_DEADLINE_S = 15.0
OPEN_DEADLINE_S = 30.0
ANSWER_DEADLINE_S = 30.0
CLOSE_DEADLINE_S = 5.0

ACCESS_REFUSED = 403
CLOSED_HERE = "it was closed on this side"


class ChannelRefused(BrokerUnavailable):
    """RabbitMQ has closed the channel, over something that was asked or sent: its reply `code` and `text`."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"RabbitMQ closed the channel: {self.text} ({self.code})"


def redacted(url: str) -> str:
    """`url` for logs and messages: without its password, and without its options, which can hold secrets, too.

    Works on what is no URL as well, and hides too much rather than too little there.
    """
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    userinfo, at, place = rest.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    place = re.split(r"[?#]", place, maxsplit=1)[0]
    return f"{scheme}{separator}{user}{':***' if colon else ''}{at}{place}"


def parameters(url: str, *, connection_name: str, heartbeat_s: int) -> pika.URLParameters:
    """What pika needs to connect to `url`. Options in the URL win over the arguments.

    Raises:
        ConfigError: it is not an AMQP URL.
    """
    try:
        made = _parsed(url)
    except (ValueError, TypeError) as exc:
        # The parser's words are left out: what it could not read may be a part of the password.
        raise ConfigError(URL_SETTING, f"{redacted(url)} is not an AMQP URL", URL_EXAMPLE) from exc
    options = parse_qs(urlsplit(url).query)
    for name, value in (
        ("heartbeat", heartbeat_s),
        ("socket_timeout", SOCKET_DEADLINE_S),
        ("stack_timeout", HANDSHAKE_DEADLINE_S),
    ):
        if name not in options:
            setattr(made, name, value)
    made.client_properties = {
        "product": "cdcbridge",
        "version": __version__,
        "information": "change data capture into RabbitMQ",
        "connection_name": connection_name,
    }
    return made


def _parsed(url: str) -> pika.URLParameters:
    parts = urlsplit(url)
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        raise ValueError("scheme or host is missing")
    return pika.URLParameters(url)


class Connection:
    """One connection, open from the start. `blocked` is RabbitMQ's reason while it takes no messages, else `None`."""

    def __init__(self, driver: _Driver, on_blocked: Callable[[str | None], None]) -> None:
        self._driver = driver
        self._on_blocked = on_blocked
        self.blocked: str | None = None
        driver.add_on_connection_blocked_callback(self._block)
        driver.add_on_connection_unblocked_callback(self._unblock)

    @classmethod
    async def open(
        cls, url: str, *, connection_name: str, heartbeat_s: int, on_blocked: Callable[[str | None], None]
    ) -> Self:
        """Connect and log in. `on_blocked` is called with the reason, and with `None` when it is over.

        A cancel leaves no connection behind.

        Raises:
            ConfigError: the URL makes no sense, or RabbitMQ refuses the user, the virtual host or the certificate.
            BrokerUnavailable: nobody answers, or not in time, or the connection breaks.
        """
        driver = _Driver(parameters(url, connection_name=connection_name, heartbeat_s=heartbeat_s))
        try:
            async with asyncio.timeout(OPEN_DEADLINE_S):
                error = await asyncio.shield(driver.opened)
        except TimeoutError as exc:
            await driver.end(CLOSE_DEADLINE_S)
            raise BrokerUnavailable(f"{redacted(url)} did not answer within {OPEN_DEADLINE_S:.0f} s") from exc
        except asyncio.CancelledError:
            await driver.end(CLOSE_DEADLINE_S)
            raise
        if error is not None:
            raise _refused(url, error) from error
        return cls(driver, on_blocked)

    @property
    def is_open(self) -> bool:
        """Whether it can be used, as far as we know."""
        return not self._driver.closed.done() and bool(self._driver.is_open)

    async def channel(self) -> Channel:
        """A new channel.

        Raises:
            BrokerUnavailable: the connection is gone.
        """
        opened: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        try:
            channel = Channel(self._driver, self._driver.channel(on_open_callback=_into(opened)))
        except exceptions.AMQPError as exc:
            raise _lost(exc) from exc
        await channel.answer(opened)
        return channel

    async def close(self, *, at_once: bool = False) -> None:
        """Close it, after what was written has gone out; without ceremony if RabbitMQ does not answer in time.

        With `at_once` it gets no time: what was written may be lost.
        """
        await self._driver.end(0 if at_once else CLOSE_DEADLINE_S)

    def _block(self, _: object, frame: Any) -> None:
        self.blocked = str(frame.method.reason)
        self._on_blocked(self.blocked)

    def _unblock(self, *_: object) -> None:
        self.blocked = None
        self._on_blocked(None)


class Channel:
    """One channel. `lost` gets the reason when it is gone, and never an exception: whoever waits for it reads it."""

    def __init__(self, driver: _Driver, channel: Any) -> None:
        self._driver = driver
        self._channel = channel
        self.number: int = channel.channel_number
        self._framer = Framer(self.number, driver.params.frame_max)
        self.lost: asyncio.Future[TransientError] = asyncio.get_running_loop().create_future()
        channel.add_on_close_callback(self._closed)

    @property
    def is_open(self) -> bool:
        """Whether it can be written to."""
        return not self.lost.done() and bool(self._channel.is_open)

    async def answer(self, future: asyncio.Future[object]) -> object:
        """What RabbitMQ answers.

        Raises:
            ChannelRefused: it closed the channel instead.
            BrokerUnavailable: the connection is gone, or nothing came in time.
        """
        awaited: set[asyncio.Future[Any]] = {future, self.lost}
        await asyncio.wait(awaited, timeout=ANSWER_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        if self.lost.done():
            raise self.lost.result()
        if future.done():
            return future.result()
        raise BrokerUnavailable(f"RabbitMQ did not answer within {ANSWER_DEADLINE_S:.0f} s")

    async def declare_exchange(self, name: str, *, type: str, durable: bool, passive: bool = False) -> None:
        """Declare an exchange; `passive` only asks whether there is one.

        Raises:
            ChannelRefused: RabbitMQ refuses (404 absent, 406 other properties, 403 no right) and closes the channel.
            BrokerUnavailable: the channel is gone.
        """
        await self._ask(
            self._channel.exchange_declare, exchange=name, exchange_type=type, durable=durable, passive=passive
        )

    async def confirms(
        self,
        on_acks: Callable[[list[Ack]], None],
        on_nack: Callable[[int, bool], None],
        on_return: Callable[[str, str], None],
    ) -> None:
        """Have RabbitMQ confirm what is published here.

        `on_acks` gets confirms by the run, in order; `on_nack` a tag and whether it stands for all below it;
        `on_return` the routing key and RabbitMQ's words for a message that no queue takes. They must not raise.

        Raises:
            BrokerUnavailable: the channel is gone, or the broker knows no confirms.
        """

        def on_answer(frame: Any) -> None:
            tag, multiple = frame.method.delivery_tag, frame.method.multiple
            if isinstance(frame.method, pika.spec.Basic.Nack):
                on_nack(tag, multiple)
            else:
                on_acks([(tag, multiple)])

        self._channel.add_on_return_callback(lambda _, method, *__: on_return(method.routing_key, method.reply_text))
        self._driver.read_acks(self.number, on_acks)
        await self._ask(self._channel.confirm_delivery, on_answer)

    def publish(self, messages: Sequence[Message]) -> None:
        """Write messages; returns at once. What is written while the connection breaks is lost with it.

        Raises:
            EncodeError: one of them does not fit into AMQP's frames; none is written.
        """
        self._driver.write(self._framer.frames(messages))

    def close(self, reason: TransientError | None = None) -> None:
        """Close it without waiting for RabbitMQ's answer; `lost` gets the reason. Closing twice is fine."""
        if not self.lost.done():
            self.lost.set_result(reason or BrokerUnavailable(CLOSED_HERE))
        if self._channel.is_open:
            self._channel.close()

    async def _ask(self, method: Callable[..., object], *args: object, **options: object) -> None:
        answered: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        try:
            method(*args, callback=_into(answered), **options)
        except exceptions.AMQPError as exc:
            raise _lost(exc) from exc
        await self.answer(answered)

    def _closed(self, _: object, error: Exception) -> None:
        if not self.lost.done():
            self.lost.set_result(_lost(error))


class _Driver(AsyncioConnection):  # type: ignore[misc]
    """pika's connection, with a short cut for each of the two things that happen for every message.

    They go through private names of pika, on purpose: its public ones cost five times the CPU that the rest of
    publishing takes. What is relied on is pinned by tests/unit/test_pika.py, which fails where pika changes it.

    `opened` gets `None`, or what went wrong; `closed` gets the reason for the end of an open connection.
    """

    _frame_buffer: bytes

    def __init__(self, parameters: pika.URLParameters) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[BaseException | None] = loop.create_future()
        self.closed: asyncio.Future[BaseException | None] = loop.create_future()
        self._ack_start = b""
        self._on_acks: Callable[[list[Ack]], None] | None = None
        super().__init__(
            parameters,
            on_open_callback=lambda _: _settle(self.opened, None),
            on_open_error_callback=self._on_not_opened,
            on_close_callback=lambda _, error: _settle(self.closed, error),
            custom_ioloop=_Io(loop),
        )

    def read_acks(self, channel: int, on_acks: Callable[[list[Ack]], None]) -> None:
        """From now on the confirms of this channel go to `on_acks` and not through pika."""
        self._ack_start = ack_start(channel)
        self._on_acks = on_acks

    def write(self, frames: bytes) -> None:
        """Give whole frames to the transport.

        `_output_marshaled_frames` is where pika's own publish ends: it keeps the byte counter from which the heartbeat
        sees that the connection is in use. As a view, because the transport cuts off what the socket has taken and
        writes the rest again: of bytes each cut would be a copy.
        """
        if not self.closed.done() and self._transport is not None:
            self._output_marshaled_frames((memoryview(frames),))

    async def end(self, deadline_s: float) -> None:
        """Close the connection in whatever state it is; drop it where RabbitMQ does not take part in time."""
        ended = {self.opened, self.closed} if not self.opened.done() else {self.closed}
        if self.opened.done() and self.opened.result() is not None:
            return
        if not (self.is_closed or self.is_closing):
            self.close()
        done, _ = await asyncio.wait(ended, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        if not done and self._transport is not None:
            self._transport.abort()
            await asyncio.wait(ended, timeout=CLOSE_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)

    def _on_not_opened(self, _: object, error: BaseException) -> None:
        _settle(self.opened, error)
        _settle(self.closed, error)

    def _on_connection_workflow_done(self, outcome: Any) -> None:
        """Overrides pika's, which fails where its workflow hands over the class of the exception, not an instance.

        It does so when a connection is closed during the handshake.
        """
        aborted = connection_workflow.AMQPConnectionWorkflowAborted
        super()._on_connection_workflow_done(aborted() if outcome is aborted else outcome)

    def _on_data_available(self, data_in: bytes) -> None:
        """Overrides pika's: confirms are taken out here, all other frames go on to pika one by one, in their turn."""
        if self._on_acks is None:
            super()._on_data_available(data_in)
            return
        data = self._frame_buffer + data_in
        self._frame_buffer = b""
        for part in split(data, self._ack_start):
            if isinstance(part, bytes):
                super()._on_data_available(part)
            else:
                self.bytes_received += ACK_BYTES * len(part)
                self.frames_received += len(part)
                self._on_acks(part)


class _Io(_AsyncioIOServicesAdapter):  # type: ignore[misc]
    """pika's I/O, but a look-up of a host reports nothing once it is cancelled.

    pika's own does if the answer is there already, and a connection that was given up would be opened all the same.
    """

    def getaddrinfo(
        self, host: str, port: int, on_done: Callable[[Any], None], socktype: int = 0, proto: int = 0, **rest: int
    ) -> _Lookup:
        """See pika's `AbstractIOServices.getaddrinfo`."""
        answer = self._loop.getaddrinfo(host, port, type=socktype, proto=proto, **rest)
        return _Lookup(asyncio.ensure_future(answer), on_done)


class _Lookup(nbio_interface.AbstractIOReference):  # type: ignore[misc]
    """A look-up of a host that is under way."""

    def __init__(self, answer: asyncio.Future[Any], on_done: Callable[[Any], None]) -> None:
        self._answer = answer
        self._wanted = True
        self._on_done = on_done
        answer.add_done_callback(self._report)

    def cancel(self) -> bool:
        """Stop it; False if it was over already."""
        self._wanted = False
        return self._answer.cancel()

    def _report(self, answer: asyncio.Future[Any]) -> None:
        if self._wanted and not answer.cancelled():
            self._on_done(answer.exception() or answer.result())


def _settle(future: asyncio.Future[BaseException | None], error: BaseException | None) -> None:
    if not future.done():
        future.set_result(error)


def _into(future: asyncio.Future[object]) -> Callable[[object], None]:
    """A callback that puts its argument into `future`."""
    return lambda answer: None if future.done() else future.set_result(answer)


def _lost(error: BaseException) -> BrokerUnavailable:
    """Why a channel or an open connection is gone."""
    match error:
        case exceptions.ChannelClosedByBroker():
            return ChannelRefused(error.reply_code, error.reply_text)
        case exceptions.ConnectionClosedByBroker():
            return BrokerUnavailable(f"RabbitMQ closed the connection: {error.reply_text} ({error.reply_code})")
        case exceptions.ConnectionClosedByClient() | exceptions.ChannelClosedByClient():
            return BrokerUnavailable(CLOSED_HERE)
        case exceptions.AMQPHeartbeatTimeout():
            return BrokerUnavailable("RabbitMQ was silent for longer than the heartbeat allows")
        case exceptions.MethodNotImplemented():
            return BrokerUnavailable(f"the broker cannot do what is needed: {error.args[0]}")
    return BrokerUnavailable(f"the connection to RabbitMQ broke: {_words(error)}")


# pika turns a close of the broker during the login into a guess at the reason, and keeps the broker's words as text.
_CLOSED_BY_BROKER = re.compile(r"ConnectionClosedByBroker: \((\d+)\) ['\"](.*)['\"]", re.DOTALL)


def _refused(url: str, error: BaseException) -> ConfigError | BrokerUnavailable:
    """Why a connection did not open: what the operator must mend, or what another try may mend."""
    place = redacted(url)
    for cause in _causes(error):
        match cause:
            case exceptions.ProbableAuthenticationError() if words := _CLOSED_BY_BROKER.search(str(cause.args[0])):
                return _login_refused(place, words)
            case exceptions.ProbableAccessDeniedError() if words := _CLOSED_BY_BROKER.search(str(cause.args[0])):
                return _vhost_refused(place, words)
            case exceptions.AuthenticationError():
                return ConfigError(URL_SETTING, f"{place} allows no login by user and password")
            case ssl.SSLCertVerificationError():
                return ConfigError(URL_SETTING, f"the certificate of {place} is refused: {cause.verify_message}")
            case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
                return ConfigError(URL_SETTING, f"{place} does not speak TLS", "use amqp://, or the broker's TLS port")
            case socket.gaierror():
                return BrokerUnavailable(f"cannot find the host of {place}: {cause.strerror}")
            # `ConnectionOpenAborted`: pika closes what takes longer than the deadline of the handshake.
            case TimeoutError() | connection_workflow.AMQPConnectorStackTimeout() | exceptions.ConnectionOpenAborted():
                return BrokerUnavailable(f"{place} did not answer in time")
            case exceptions.IncompatibleProtocolError():
                return BrokerUnavailable(f"{place} does not answer as RabbitMQ does")
    return BrokerUnavailable(f"cannot connect to {place}: {_words(list(_causes(error))[-1])}")


def _login_refused(place: str, words: re.Match[str]) -> ConfigError | BrokerUnavailable:
    if int(words[1]) != ACCESS_REFUSED:
        return BrokerUnavailable(f"{place} closed the connection during the login: {words[2]} ({words[1]})")
    remedy = "check user and password; RabbitMQ lets 'guest' in from its own host only"
    return ConfigError(URL_SETTING, f"{place} refused the login", remedy)


def _vhost_refused(place: str, words: re.Match[str]) -> ConfigError | BrokerUnavailable:
    if not words[2].startswith("NOT_ALLOWED"):
        return BrokerUnavailable(f"{place} closed the connection: {words[2]} ({words[1]})")
    remedy = "create the virtual host, or give the user permissions in it"
    return ConfigError(URL_SETTING, f"{place} refused the virtual host: {words[2]}", remedy)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what pika has packed into it, the outermost first."""
    yield error
    match error:
        case connection_workflow.AMQPConnectionWorkflowFailed():
            inner: Any = error.exceptions[-1]
        case connection_workflow.AMQPConnectorPhaseErrorBase():
            inner = error.exception
        case _:
            inner = error.args[0] if error.args else None
    if isinstance(inner, BaseException):
        yield from _causes(inner)


def _words(error: BaseException) -> str:
    """What a foreign error says, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return " ".join(text.split())
