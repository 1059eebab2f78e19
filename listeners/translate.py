"""aio-pika's errors → ours, once, where the I/O happens: what the operator must mend, and what another try may mend."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from aio_pika.exceptions import CONNECTION_EXCEPTIONS, AuthenticationError, InvalidFrameError
from aio_pika.exceptions import ProbableAuthenticationError as LoginRefused
from aiormq.exceptions import ChannelAccessRefused

from cdcbridge.errors import BrokerUnavailable, ConfigError

URL = "rabbitmq.url"
DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}

FAILURES = (*CONNECTION_EXCEPTIONS, TimeoutError, EOFError)
"""All that a broken connection makes aio-pika and aiormq raise, except the cancel that `lost` explains."""


def address(url: str) -> str:
    """`url` without user, password and options, for logs and messages.

    Raises:
        ConfigError: it is no AMQP URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]
    except (KeyError, ValueError) as exc:
        raise _not_a_url() from exc
    if not host:
        raise _not_a_url()
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{port}/{parts.path.removeprefix('/')}"


def _not_a_url() -> ConfigError:
    # The URL is not quoted: the broken part may be the password.
    return ConfigError(URL, "is not an AMQP URL", "write it as amqp://user:password@host:5672/vhost")


@contextlib.contextmanager
def connecting(url: str) -> Iterator[None]:
    """Around opening a connection.

    Raises:
        ConfigError: RabbitMQ answers and refuses: user, password, virtual host, TLS. Or the URL makes no sense.
        BrokerUnavailable: it does not answer.
    """
    try:
        with lost():
            yield
    except ValueError as exc:
        raise _not_a_url() from exc
    except BrokerUnavailable as exc:
        if (refusal := _refusal(url, exc.__cause__)) is not None:
            raise refusal from exc
        raise


def _refusal(url: str, cause: BaseException | None) -> ConfigError | None:
    match cause:
        case LoginRefused() | AuthenticationError():
            problem = f"{address(url)} refused the login of user {_user(url)!r}"
            return ConfigError(URL, problem, "check user and password; RabbitMQ lets 'guest' in from its own host only")
        case InvalidFrameError() if "Connection.Close" in str(cause):
            # aiormq drops the broker's words here. The login was fine, so it is the last thing that was asked for.
            problem = f"{address(url)} refused user {_user(url)!r} the virtual host {_vhost(url)!r}"
            return ConfigError(URL, problem, "create it, or give the user permissions in it")
    match cause.__cause__ if cause is not None else None:
        case ssl.SSLCertVerificationError() as tls:
            return ConfigError(URL, f"the certificate of {address(url)} is refused: {tls.verify_message}")
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return ConfigError(URL, f"{address(url)} does not speak TLS", "use amqp://, or the broker's TLS port")
    return None


@contextlib.contextmanager
def lost() -> Iterator[None]:
    """Around anything that is asked of an open connection.

    Raises:
        ConfigError: the user lacks a permission.
        BrokerUnavailable: the connection or the channel is gone, or was closed by this request.
    """
    try:
        yield
    except ChannelAccessRefused as exc:
        raise ConfigError(URL, str(exc), "give the user this permission in RabbitMQ, or use another user") from exc
    except FAILURES as exc:
        raise BrokerUnavailable(reason(exc)) from exc
    except asyncio.CancelledError as exc:
        # aiormq ends what waits on a closed connection with a cancel. One that was meant for this task is counted.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BrokerUnavailable("the connection was closed") from exc


def reason(error: BaseException | None) -> str:
    """Why a connection or a channel ended, in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    words = str(error.args[-1]) if error is not None and error.args else ""
    return words.partition("\n")[0] or "the connection was closed"


def _user(url: str) -> str:
    return unquote(urlsplit(url).username or "guest")


def _vhost(url: str) -> str:
    return unquote(urlsplit(url).path.removeprefix("/")) or "/"
