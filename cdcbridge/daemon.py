"""A process that runs until it is told to end: signals, and what systemd is told.

Source: the protocol of sd_notify(3).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """The wish to end. The first signal is a request; a second one ends the process at once, with status 1."""

    def __init__(self) -> None:
        self._wished = asyncio.Event()

    def request(self) -> None:
        """End, please."""
        if self._wished.is_set():
            os._exit(1)
        self._wished.set()

    async def wait(self) -> None:
        """Until somebody wishes the end."""
        await self._wished.wait()


def run(main: Callable[[Stop], Awaitable[None]]) -> None:
    """Run `main` on an event loop, giving it what SIGTERM and SIGINT set. Raises what it raises."""
    import uvloop

    uvloop.run(_until_done(main))


async def _until_done(main: Callable[[Stop], Awaitable[None]]) -> None:
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop.request)
    await main(stop)


def notify(state: str) -> None:
    """Tell the service manager, if there is one: `READY=1`, `STOPPING=1`. One that does not listen is no error."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as sender:
        sender.connect(address)
        sender.sendall(state.encode())
