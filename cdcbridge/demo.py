"""The whole bridge in one terminal: a writer, the publisher with its built-in engine, RabbitMQ, and a listener.

Publisher and listener are the commands that a user would type, each a process of its own; what they print stands
behind their name. The writer is a RethinkDB client like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import secrets
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import click
import pika
from pika.exceptions import AMQPError
from rethinkdb import r

from cdcbridge.broker.connection import Connection, redacted
from cdcbridge.broker.node import PrivateNode
from cdcbridge.errors import BridgeError, BrokerUnavailable

EXCHANGE: Final = f"cdcbridge-demo-{secrets.token_hex(3)}"
"""This run's own: two demos on one broker do not see each other's orders."""
TABLE: Final = "orders"
STEPS_WITH_ONCE: Final = 9
DEADLINE_S: Final = 60.0
SECONDS_BETWEEN_CHANGES: Final = 1.0

_COLORS: Final = {"demo": "bright_black", "writer": "magenta", "publisher": "blue", "listener": "cyan"}
_HEADLINE = re.compile(r"got a change of type: (\w+)$")
_THINGS: Final = ("tea", "coffee", "bread", "honey", "apples", "salt")


class DemoFailed(BridgeError):
    """A part of the demo did not do what it should."""


def main(amqp_url: str | None, once: bool) -> int:
    """Run the demo until Ctrl-C, or with `once` until a handful of changes has come through.

    Returns the exit status.

    Raises:
        BridgeError: a part of it failed.
    """
    return asyncio.run(_run(amqp_url, once))


async def _run(amqp_url: str | None, once: bool) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    demo = asyncio.create_task(_demo(amqp_url, once))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({demo, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    demo.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await demo
    return 0


async def _demo(amqp_url: str | None, once: bool) -> None:
    _say("demo", "every change that the writer makes goes through RabbitMQ to the listener" + _how_to_end(once))
    async with AsyncExitStack() as stack:
        url = await _broker(stack, amqp_url)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cdcbridge-demo-")))
        stack.callback(_delete_exchange, url)
        count = STEPS_WITH_ONCE if once else None
        listener = await stack.enter_async_context(_listener(url, count))
        publisher = await stack.enter_async_context(_publisher(url, folder))
        await listener.logged("listener_ready")
        engine = await publisher.logged("engine_ready")
        await publisher.logged("bridge_ready")
        with contextlib.closing(await _connected(engine["address"])) as connection:
            for number, step in enumerate(itertools.islice(steps(), count), start=1):
                await _write(connection, step)
                await listener.shown(number)
                await asyncio.sleep(0 if once else SECONDS_BETWEEN_CHANGES)
        await listener.finished()
        _sum_up(listener.received)


def _how_to_end(once: bool) -> str:
    return "" if once else " (Ctrl-C ends it)"


def _sum_up(received: Counter[str]) -> None:
    counts = ", ".join(f"{count} {operation}{'' if count == 1 else 's'}" for operation, count in received.items())
    _say("demo", f"received through RabbitMQ: {counts}")


def _say(name: str, text: str) -> None:
    try:
        for line in text.splitlines() or [""]:
            click.echo(click.style(f"{name:<9} | ", fg=_COLORS[name]) + line)
    except BrokenPipeError:
        _end_unseen()


def _end_unseen() -> None:
    """Nobody reads on: end as Ctrl-C would, and let what is still printed on the way go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    signal.raise_signal(signal.SIGTERM)


# The broker ----------------------------------------------------------------------------------------------------------


async def _broker(stack: AsyncExitStack, url: str | None) -> str:
    """The broker at `url` if it answers, else a private one, which ends with the stack.

    Raises:
        ConfigError: `url` is no URL of a broker, or the broker refuses it.
    """
    if url is not None:
        if await _answers(url):
            _say("demo", f"broker: {redacted(url)}")
            return url
        _say("demo", f"no broker answers at {redacted(url)}")
    _say("demo", "broker: starting a private RabbitMQ node, stopped at the end; this takes about ten seconds")
    node = PrivateNode()
    stack.callback(node.close)
    await asyncio.to_thread(node.start)
    return node.url


async def _answers(url: str) -> bool:
    try:
        connection = await Connection.open(
            url, connection_name="cdcbridge demo", heartbeat_s=0, on_blocked=lambda reason: None
        )
    except BrokerUnavailable:
        return False
    await connection.close()
    return True


def _delete_exchange(url: str) -> None:
    """Leave nothing behind on a broker that is not ours."""
    with contextlib.suppress(AMQPError, OSError):
        connection = pika.BlockingConnection(pika.URLParameters(url))
        connection.channel().exchange_delete(EXCHANGE)
        connection.close()


# Publisher and listener ----------------------------------------------------------------------------------------------


class Part:
    """A command of ours that runs: its output shown behind its name, the events of its log kept for who waits."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.received: Counter[str] = Counter()
        """Changes that it has shown, by operation."""
        self._name = name
        self._process = process
        self._events: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Condition()
        self._ended = False
        self._reader = asyncio.create_task(self._read_all())

    async def logged(self, event: str) -> dict[str, Any]:
        """The fields of an event, once it has been logged.

        Raises:
            DemoFailed: the process has ended, or takes too long.
        """
        await self._until(lambda: event in self._events, f"log {event}")
        return self._events[event]

    async def shown(self, count: int) -> None:
        """Wait until it has shown so many changes.

        Raises:
            DemoFailed: the process has ended, or takes too long.
        """
        await self._until(lambda: self.received.total() >= count, f"show change number {count}")

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S), self._news:
                await self._news.wait_for(lambda: holds() or self._ended)
        except TimeoutError:
            raise DemoFailed(f"the {self._name} did not {what} within {DEADLINE_S:.0f} s") from None
        if not holds():
            raise DemoFailed(f"the {self._name} ended before it could {what}")

    async def finished(self) -> None:
        """Wait until it ends by itself.

        Raises:
            DemoFailed: it ended with another status than 0.
        """
        status = await self._process.wait()
        await self._reader
        if status:
            raise DemoFailed(f"the {self._name} ended with status {status}")

    async def stopped(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()
        await self._reader

    async def _read_all(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(self._process.stdout, self._show_output))
                tasks.create_task(self._read(self._process.stderr, self._show_log))
        finally:
            async with self._news:
                self._ended = True
                self._news.notify_all()

    async def _read(self, stream: asyncio.StreamReader, show: Callable[[str], None]) -> None:
        async for line in stream:
            show(line.decode().rstrip("\n"))
            async with self._news:
                self._news.notify_all()

    def _show_output(self, line: str) -> None:
        if headline := _HEADLINE.search(click.unstyle(line)):
            self.received[headline[1]] += 1
        _say(self._name, line)

    def _show_log(self, line: str) -> None:
        try:
            fields = json.loads(line)
        except ValueError:
            _say(self._name, line)
            return
        self._events[fields.pop("event")] = fields
        _say(self._name, _in_short(line))


def _in_short(line: str) -> str:
    """A log line without what matters to machines only."""
    fields = json.loads(line)
    event = fields.pop("event")
    told = " ".join(f"{name}={value}" for name, value in fields.items() if name not in ("timestamp", "level"))
    return f"{click.style(event, bold=True)} {told}"


@asynccontextmanager
async def _part(name: str, url: str, *arguments: str) -> AsyncIterator[Part]:
    """A command of ours as a process, stopped when the block ends."""
    command = (sys.executable, "-m", "cdcbridge", *arguments, "--log-format", "json")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=_environment(url), stdout=pipe, stderr=pipe, start_new_session=True
    )
    part = Part(name, process)
    try:
        yield part
    finally:
        await part.stopped()


def _environment(url: str) -> dict[str, str]:
    """Ours with the broker's URL, whose password an argument would show to everybody, and without other settings.

    A user's own could leave out the table of the demo, or name a second URL.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CDCBRIDGE_")}
    return ours | {"CDCBRIDGE_RABBITMQ__URL": url}


def _listener(url: str, count: int | None) -> contextlib.AbstractAsyncContextManager[Part]:
    stop = () if count is None else ("--count", str(count))
    return _part("listener", url, "listen", f"{TABLE}.*", "--exchange", EXCHANGE, *stop)


def _publisher(url: str, folder: Path) -> contextlib.AbstractAsyncContextManager[Part]:
    places = ("--state", str(folder), "--listen", "127.0.0.1:0")
    return _part("publisher", url, "publish", "--exchange", EXCHANGE, *places)


# The writer ----------------------------------------------------------------------------------------------------------

Step = tuple[str, Any]
"""What to tell of a change, and the query that makes it."""


def steps() -> Iterator[Step]:
    """Orders that come, change and go, for ever."""
    pick = random.Random(7)
    table = r.table(TABLE)
    for number in itertools.count(1):
        order = {"id": number, "item": pick.choice(_THINGS), "quantity": pick.randint(1, 9)}
        yield f"creates order {number}", table.insert(order)
        yield f"updates order {number}", table.get(number).update({"quantity": r.row["quantity"] + 1})
        yield f"deletes order {number}", table.get(number).delete()


async def _connected(address: str) -> Any:
    """A connection to the engine, and the table that the orders go into."""
    host, _, port = address.rpartition(":")
    connection = await asyncio.to_thread(r.connect, host, int(port))
    await asyncio.to_thread(r.table_create(TABLE).run, connection)
    return connection


async def _write(connection: Any, step: Step) -> None:
    told, query = step
    _say("writer", told)
    await asyncio.to_thread(query.run, connection)
