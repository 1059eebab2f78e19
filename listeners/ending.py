"""How work ends before it is done: by a signal, or because nobody wants its result any more."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop(Protocol):
    """Something that asks for the end; an `asyncio.Event` is one."""

    async def wait(self) -> object:
        """Return when the end is asked for."""


@contextlib.contextmanager
def on_signals() -> Iterator[Stop]:
    """A `Stop` that the first SIGINT or SIGTERM sets; a second one is left to the interpreter, and ends it at once."""
    loop, asked = asyncio.get_running_loop(), asyncio.Event()

    def ask() -> None:
        asked.set()
        _release(loop)

    for number in SIGNALS:
        loop.add_signal_handler(number, ask)
    try:
        yield asked
    finally:
        _release(loop)


def _release(loop: asyncio.AbstractEventLoop) -> None:
    for number in SIGNALS:
        loop.remove_signal_handler(number)


async def unless(work: Coroutine[Any, Any, None], *ends: Coroutine[Any, Any, object]) -> None:
    """Run `work` to its end, or until one of `ends` returns: then it is cancelled, and has cleaned up on return.

    What `work` raises is raised here, and so is what an end raises.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in (work, *ends)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def finished(unit: Coroutine[Any, Any, None], grace_s: float) -> None:
    """Await `unit`, which a cancel must not tear apart: it gets `grace_s` to end before the cancel goes on."""
    task = asyncio.ensure_future(unit)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task, grace_s)
        raise


async def _ended(task: asyncio.Future[None], grace_s: float) -> None:
    await asyncio.wait([task], timeout=grace_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
