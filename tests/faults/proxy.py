"""A TCP proxy that breaks connections on demand: the fault between a program and its server."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards connections on `port` to `target_port`, until it is told otherwise. For one event loop.

    A cut is abrupt: what is under way in either direction is lost, as when a machine disappears.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.connected = asyncio.Event()
        """Set with the first connection."""
        self._target_port = target_port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._to_server = asyncio.Event()
        self._to_client = asyncio.Event()
        self._cut_after_bytes: int | None = None
        self.resume()

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.down()

    async def up(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._connected, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Cut all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Cut all connections. New ones are taken."""
        pipes = set(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        if pipes:
            await asyncio.wait(pipes)

    def cut_after(self, size_bytes: int) -> None:
        """Cut all connections when so many more bytes have gone to the server."""
        self._cut_after_bytes = size_bytes

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Forward nothing more in these directions; connections stay, and new ones are taken."""
        if to_server:
            self._to_server.clear()
        if to_client:
            self._to_client.clear()

    def resume(self) -> None:
        """Forward again, first what was held back."""
        self._to_server.set()
        self._to_client.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected.set()
        pipe = asyncio.create_task(self._pipe(reader, writer))
        self._pipes.add(pipe)
        pipe.add_done_callback(self._pipes.discard)
        await asyncio.wait({pipe})

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: both directions, until one ends."""
        with contextlib.suppress(OSError, asyncio.CancelledError):
            async with contextlib.AsyncExitStack() as ends:
                ends.callback(writer.transport.abort)
                target_reader, target_writer = await asyncio.open_connection(HOST, self._target_port)
                ends.callback(target_writer.transport.abort)
                await first_ended(
                    self._forward(reader, target_writer, self._to_server, counted=True),
                    self._forward(target_reader, writer, self._to_client, counted=False),
                )

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_pass: asyncio.Event, *, counted: bool
    ) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await may_pass.wait()
            allowed = self._allowed(len(data)) if counted else len(data)
            writer.write(data[:allowed])
            await writer.drain()
            if allowed < len(data):
                return

    def _allowed(self, size_bytes: int) -> int:
        """How many of these bytes may still go to the server."""
        left = self._cut_after_bytes
        if left is None or left >= size_bytes:
            self._cut_after_bytes = None if left is None else left - size_bytes
            return size_bytes
        self._cut_after_bytes = None
        return left


async def first_ended(*directions: object) -> None:
    """Run them beside each other; when one ends, end the other."""
    tasks = {asyncio.ensure_future(direction) for direction in directions}  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
