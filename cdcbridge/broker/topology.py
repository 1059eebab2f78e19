"""The exchange: made where it is missing, compared where it is there."""

from __future__ import annotations

import re

from cdcbridge.broker.connection import ACCESS_REFUSED, ChannelRefused, Connection
from cdcbridge.errors import ConfigError, ExchangeMismatch

EXCHANGE_SETTING = "rabbitmq.exchange"
EXCHANGE_TYPE = "topic"

TUTORIAL_EXCHANGE = "rethinkdb"
"""The programs of RethinkDB's tutorial declare it themselves, and not durable."""

DEFAULT_EXCHANGE = ""
RESERVED_PREFIX = "amq."

NOT_FOUND = 404
PRECONDITION_FAILED = 406

# What decides whether the routing works. RabbitMQ compares the type first.
ESSENTIAL = ("type", "internal")

_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<property>[^']+)' for (?:exchange|queue) '(?P<name>.*)' in vhost '.*': "
    r"received (?P<wanted>.+) but current is (?P<found>.+?)(?: \(\d+\))?$",
    re.DOTALL,
)
_VALUE = re.compile(r"(?:the value )?'(.*?)'(?: of type '.*')?", re.DOTALL)


def created_durable(name: str, durable: bool | None) -> bool:
    """Whether an exchange that does not exist yet is created durable. `durable` is the setting, `None` if unset.

    Durable unless somebody says otherwise; the tutorial's exchange is as the tutorial's own programs make it, so that
    they can be used beside ours.
    """
    return name != TUTORIAL_EXCHANGE if durable is None else durable


def mismatch(text: str) -> ExchangeMismatch | None:
    """RabbitMQ's words for something that exists with another property, in parts; `None` if they say something else."""
    found = _INEQUIVALENT.search(text.strip())
    if found is None:
        return None
    return ExchangeMismatch(found["name"], found["property"], _value(found["wanted"]), _value(found["found"]))


def _value(text: str) -> str:
    quoted = _VALUE.fullmatch(text)
    return quoted[1] if quoted else text


async def declare_exchange(connection: Connection, name: str, durable: bool | None) -> None:
    """Make sure that the topic exchange `name` is there. `durable` unset: one that exists is used as it is.

    RabbitMQ's own exchanges (the nameless one and `amq.*`) are never made, only used.

    Raises:
        ExchangeMismatch: it exists with another property than was asked for, or is no topic exchange.
        ConfigError: the user may not make it, or it is a reserved name that nothing has.
        BrokerUnavailable: the connection is gone.
    """
    if name == DEFAULT_EXCHANGE:
        return
    exists = (durable is None or name.startswith(RESERVED_PREFIX)) and await _exists(connection, name)
    if exists:
        await _check_usable(connection, name)
    elif name.startswith(RESERVED_PREFIX):
        raise ConfigError(EXCHANGE_SETTING, f"there is no exchange {name!r}", "names with 'amq.' are RabbitMQ's own")
    else:
        await _declare(connection, name, created_durable(name, durable))


async def _exists(connection: Connection, name: str) -> bool:
    channel = await connection.channel()
    try:
        await channel.declare_exchange(name, type=EXCHANGE_TYPE, durable=True, passive=True)
    except ChannelRefused as exc:
        # The question has cost its channel.
        if exc.code == NOT_FOUND:
            return False
        _explain(name, exc)
        raise
    channel.close()
    return True


async def _check_usable(connection: Connection, name: str) -> None:
    """Compare what matters of an exchange that is used as it is; a user without the right to declare must trust it."""
    try:
        await _declare(connection, name, created_durable(name, None))
    except ExchangeMismatch as exc:
        if exc.property in ESSENTIAL:
            raise
    except _NotAllowed:
        pass


async def _declare(connection: Connection, name: str, durable: bool) -> None:
    channel = await connection.channel()
    try:
        await channel.declare_exchange(name, type=EXCHANGE_TYPE, durable=durable)
    except ChannelRefused as exc:
        _explain(name, exc)
        raise
    channel.close()


class _NotAllowed(ConfigError):
    """The user lacks the right to declare the exchange."""


def _explain(name: str, refused: ChannelRefused) -> None:
    """Raise what the operator must mend, if it is something of that kind."""
    if refused.code == PRECONDITION_FAILED and (found := mismatch(refused.text)) is not None:
        raise found from refused
    if refused.code == ACCESS_REFUSED:
        remedy = "give the user the permission 'configure' for it, or have somebody else create the exchange"
        raise _NotAllowed(
            EXCHANGE_SETTING, f"exchange {name!r} cannot be declared: {refused.text}", remedy
        ) from refused
