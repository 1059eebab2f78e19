"""A connection to a server that takes connections and never says a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cdcbridge.broker.connection import Connection
from cdcbridge.errors import BrokerUnavailable

HANDSHAKE_DEADLINE_S = 0.3
GREETING = b"AMQP\x00\x00\x09\x01"


class Silent:
    """A server that reads and never answers. `greeted` is set when a client has begun the handshake."""

    def __init__(self) -> None:
        self.greeted = asyncio.Event()
        self.url = ""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it hangs up."""
        if await reader.read(len(GREETING)) == GREETING:
            self.greeted.set()
        await reader.read()
        writer.close()


@pytest.fixture
async def faults() -> AsyncIterator[list[dict[str, Any]]]:
    """What callbacks raise while the test runs; there must be nothing."""
    caught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
    yield caught
    assert caught == []


@pytest.fixture
async def silent(faults: list[dict[str, Any]]) -> AsyncIterator[Silent]:
    """A server that never answers; its URL leaves the handshake a moment."""
    made = Silent()
    async with await asyncio.start_server(made.connected, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        made.url = f"amqp://guest:guest@127.0.0.1:{port}/?stack_timeout={HANDSHAKE_DEADLINE_S}"
        yield made


async def opened(url: str) -> Connection:
    return await Connection.open(url, connection_name="test", heartbeat_s=60, on_blocked=lambda _: None)


async def test_a_server_that_never_answers_is_said_not_to(silent: Silent) -> None:
    with pytest.raises(BrokerUnavailable, match=r"^amqp://guest:\*\*\*@127.0.0.1:\d+/ did not answer in time$"):
        await opened(silent.url)


async def test_opening_can_be_given_up_during_the_handshake(silent: Silent) -> None:
    opening = asyncio.create_task(opened(silent.url))
    await silent.greeted.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


@pytest.mark.parametrize("turns", range(12))
async def test_opening_can_be_given_up_at_any_moment(silent: Silent, turns: int) -> None:
    opening = asyncio.create_task(opened(silent.url))
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    for _ in range(12):  # a connection that went on all the same would fail by then
        await asyncio.sleep(0)
