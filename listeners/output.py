"""Where messages are printed: a stream that may be slow, stuck or closed, and must not hold up the event loop.

A pager that waits for a key stops the pipe behind it for minutes. A loop that is stuck in `write` sends no heartbeats,
loses its queue and cannot be ended by a signal, so a thread does the writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import stat
import threading
from collections.abc import Iterator
from typing import BinaryIO

from cdcbridge.errors import StateError

_Job = tuple[bytes, "asyncio.Future[None]"]


class OutputClosed(Exception):
    """Nobody reads any more, as after `| head -1`. Not a mistake: there is nothing left to do."""


class Output:
    """One stream, written from one event loop.

    Bytes go straight to the stream's file descriptor: nothing stays in a buffer that would be written, and fail, when
    the interpreter ends. A stream without a descriptor, in memory, is written in place.
    """

    def __init__(self, stream: BinaryIO) -> None:
        stream.flush()
        self._stream = stream
        self._fd = _descriptor(stream)
        self._closed = asyncio.Event()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        if self._fd is not None:
            # A daemon, as a write that is stuck must not keep the process alive.
            threading.Thread(target=self._serve, args=(self._fd,), name="output", daemon=True).start()

    async def write(self, data: bytes) -> None:
        """Return when the system has taken all of `data`. After a cancel any part of it may have been written.

        Raises:
            OutputClosed: nobody reads any more.
            StateError: the system refuses, as with a full disk.
        """
        try:
            await self._write(data)
        except BrokenPipeError as exc:
            raise OutputClosed from exc
        except OSError as exc:
            raise StateError("output", exc.strerror or str(exc)) from exc

    async def closed(self) -> None:
        """Return when the reader of a pipe goes away, also while nothing is written; for other streams never."""
        with _watched(self._fd, self._closed):
            await self._closed.wait()

    def close(self) -> None:
        """End the thread, once it has written what it was given. The stream stays open: it is its owner's."""
        self._jobs.put(None)

    async def _write(self, data: bytes) -> None:
        if self._fd is None:
            self._stream.write(data)
            self._stream.flush()
            return
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._jobs.put((data, written))
        await written

    def _serve(self, fd: int) -> None:
        while (job := self._jobs.get()) is not None:
            data, written = job
            outcome = _write_all(fd, data)
            # The loop may have ended while we were stuck; nobody waits any more then.
            with contextlib.suppress(RuntimeError):
                written.get_loop().call_soon_threadsafe(_settle, written, outcome)


def _descriptor(stream: BinaryIO) -> int | None:
    try:
        return stream.fileno()
    except OSError:
        return None


def _write_all(fd: int, data: bytes) -> OSError | None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            # Whoever started us shares a descriptor that does not block.
            select.select([], [fd], [])
        except OSError as exc:
            return exc
    return None


def _settle(written: asyncio.Future[None], outcome: OSError | None) -> None:
    if written.done():
        return
    if outcome is None:
        written.set_result(None)
    else:
        written.set_exception(outcome)


@contextlib.contextmanager
def _watched(fd: int | None, closed: asyncio.Event) -> Iterator[None]:
    """Set `closed` when the last reader of the pipe `fd` is gone. What is no pipe is not watched."""
    if fd is None or not stat.S_ISFIFO(os.fstat(fd).st_mode):
        yield
        return
    loop = asyncio.get_running_loop()
    # The writing end of a pipe is never readable; the event that it does report is the error of having no reader.
    loop.add_reader(fd, _note_closed, fd, closed)
    try:
        yield
    finally:
        loop.remove_reader(fd)


def _note_closed(fd: int, closed: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(fd)
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):
        closed.set()
