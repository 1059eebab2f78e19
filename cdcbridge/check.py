"""`cdcbridge check`: try each thing that the publisher would use, as it would; what is missing is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing

import click

from cdcbridge import logs, sources
from cdcbridge.broker.connection import Connection, redacted
from cdcbridge.broker.topology import declare_exchange
from cdcbridge.checkpoint import Checkpoints, StateFolder
from cdcbridge.errors import BridgeError, BrokerUnavailable, ConfigError
from cdcbridge.settings import Config

Trial = Callable[[Config], Awaitable[str]]
"""Tries one thing and tells what was found; raises a BridgeError that says what to mend."""


async def run(config: Config) -> int:
    """Try everything, a line for each thing. Returns the exit status: that of the worst failure."""
    status = 0
    for trial in (_state, _source, _broker):
        try:
            click.echo(f"ok      {await trial(config)}")
        except BridgeError as problem:
            click.echo(f"FAILED  {problem}")
            status = max(status, 2 if isinstance(problem, ConfigError) else 1)
    return status


async def _state(config: Config) -> str:
    with closing(StateFolder.open(config.state)), closing(Checkpoints.open(config.state)):
        return f"state: {config.state} can be written, and nobody else uses it"


async def _source(config: Config) -> str:
    async with sources.opened(config, logs.configure("error"), _ignored) as source:
        return f"source: {source.identity}"


async def _broker(config: Config) -> str:
    url, exchange = config.rabbitmq.url.get_secret_value(), config.rabbitmq.exchange
    connection = await _connected(url)
    try:
        await declare_exchange(connection, exchange.name, exchange.durable)
    finally:
        await connection.close()
    return f"rabbitmq: {redacted(url)} answers, and the exchange {exchange.name!r} is there"


async def _connected(url: str) -> Connection:
    try:
        return await Connection.open(url, connection_name="cdcbridge check", heartbeat_s=0, on_blocked=_ignored)
    except BrokerUnavailable as problem:  # publish would wait for it; here somebody wants to know what to do
        raise BrokerUnavailable(
            f"rabbitmq.url: {problem}; start RabbitMQ there, or name another with --amqp"
        ) from problem


def _ignored(_: object) -> None:
    """What happens to a connection that is closed at once does not matter."""
