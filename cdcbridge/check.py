"""`cdcbridge check`: try each thing that the publisher would use, as it would; what is missing is made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing

import click

from cdcbridge import logs, sources
from cdcbridge.broker.connection import Connection, redacted
from cdcbridge.broker.topology import declare_exchange
from cdcbridge.checkpoint import Checkpoints, StateFolder
from cdcbridge.errors import BridgeError, BrokerUnavailable, ConfigError, InUse
from cdcbridge.settings import Config

Trial = Callable[[Config], Awaitable[str]]
"""Tries one thing and tells what was found; raises a BridgeError that says what to mend."""


async def run(config: Config) -> int:
    """Try everything, a line for each thing. Returns the exit status: that of the worst failure."""
    findings = Findings()
    for label, trial in (("state", _state), ("source", _source), ("rabbitmq", _broker)):
        await findings.add(label, trial(config))
    return findings.status


class Findings:
    """Prints a line for each trial, and keeps the exit status. The state folder is tried first.

    Who has the state folder is taken for a publisher that runs already, which then has the data file, too: no failure.
    A data file in the hands of somebody else is one.
    """

    def __init__(self) -> None:
        self.status = 0
        self._publisher: int | None = None

    async def add(self, label: str, trial: Awaitable[str]) -> None:
        """Wait for a trial, and say how it ended."""
        try:
            _say("ok", label, await trial)
        except BridgeError as problem:
            if isinstance(problem, InUse) and self._is_publisher(label, problem.owner):
                _say("in use", label, f"{problem.problem} (a running publisher?)")
            else:
                _say("FAILED", label, str(problem))
                self.status = max(self.status, 2 if isinstance(problem, ConfigError) else 1)

    def _is_publisher(self, label: str, owner: int | None) -> bool:
        if label == "state":
            self._publisher = owner
        return owner is not None and owner == self._publisher


def _say(verdict: str, label: str, text: str) -> None:
    """One line. The setting that a text begins with is not said twice."""
    click.echo(f"{verdict:<6}  {label}: {text.removeprefix(f'{label}: ')}")


async def _state(config: Config) -> str:
    with closing(StateFolder.open(config.state)), closing(Checkpoints.open(config.state)):
        return f"{config.state} can be written, and nobody else uses it"


async def _source(config: Config) -> str:
    async with sources.opened(config, logs.configure("error"), _ignored) as source:
        return source.identity


async def _broker(config: Config) -> str:
    url, exchange = config.rabbitmq.url.get_secret_value(), config.rabbitmq.exchange
    connection = await _connected(url)
    try:
        await declare_exchange(connection, exchange.name, exchange.durable)
    finally:
        await connection.close()
    return f"{redacted(url)} answers, and the exchange {exchange.name!r} is there"


async def _connected(url: str) -> Connection:
    try:
        return await Connection.open(url, connection_name="cdcbridge check", heartbeat_s=0, on_blocked=_ignored)
    except BrokerUnavailable as problem:  # publish would wait for it; here somebody wants to know what to do
        raise BrokerUnavailable(
            f"rabbitmq.url: {problem}; start RabbitMQ there, or name another with --amqp"
        ) from problem


def _ignored(_: object) -> None:
    """What happens to a connection that is closed at once does not matter."""
