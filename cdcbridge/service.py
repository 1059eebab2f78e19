"""The daemons: parts put together, run until somebody asks for the end, and taken apart in order.

Stopping the publisher is a sequence: the source is read no more; what was sent gets its grace time to be confirmed, and
the position is saved; then the broker, the source (with the engine's clients) and the state folder are let go.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextlib import AsyncExitStack, closing
from typing import Any

from structlog.typing import FilteringBoundLogger

from cdcbridge import sources
from cdcbridge.backoff import Backoff
from cdcbridge.bridge import Bridge
from cdcbridge.broker.connection import redacted
from cdcbridge.broker.publisher import Publisher
from cdcbridge.checkpoint import Checkpoints, StateFolder
from cdcbridge.daemon import Stop, notify
from cdcbridge.encode import Encoder
from cdcbridge.engine_host import hosted_engine
from cdcbridge.errors import BridgeError, ChangeError, StreamError
from cdcbridge.route import Router
from cdcbridge.settings import Config
from cdcbridge.sources.base import Source

RETRY_FIRST_S = 0.2
RETRY_CAP_S = 5.0


class Failure:
    """The first failure of something that runs in the background and that nobody awaits."""

    def __init__(self) -> None:
        self.error: asyncio.Future[BridgeError] = asyncio.get_running_loop().create_future()

    def __call__(self, error: BridgeError) -> None:
        if not self.error.done():
            self.error.set_result(error)


async def run_publisher(config: Config, stop: Stop, log: FilteringBoundLogger) -> None:
    """Publish every change of the configured source until `stop`, then drain.

    Raises:
        ConfigError: the configuration, or what it names, has to be mended first.
        BridgeError: it cannot go on.
    """
    failed = Failure()
    opening = sources.opened(config, log, failed)  # before the first line: refuses the URL of a source that is none
    log.info("bridge_started", name=config.name, source=config.source.partition(":")[0], state=str(config.state))
    async with AsyncExitStack() as stack:
        stack.enter_context(closing(StateFolder.open(config.state)))
        checkpoints = stack.enter_context(closing(Checkpoints.open(config.state)))
        source = await stack.enter_async_context(opening)
        bridge, publisher = _assembled(config, source, checkpoints, failed, log)
        stack.push_async_callback(publisher.close)
        if await _ran(publisher.start(), stop, failed):
            _announce(config, bridge, log)
            await _carried(bridge, stop, failed, config.grace_s)
        log.info("shutdown_requested", grace_s=config.grace_s)
        notify("STOPPING=1")
        drained = await bridge.drain(config.grace_s)
    log.info("shutdown_finished", drained=drained, published=publisher.published, position=bridge.confirmed)


def _assembled(
    config: Config, source: Source, checkpoints: Checkpoints, failed: Failure, log: FilteringBoundLogger
) -> tuple[Bridge, Publisher]:
    exchange, rabbitmq = config.rabbitmq.exchange, config.rabbitmq
    publisher = Publisher(
        url=rabbitmq.url.get_secret_value(),
        exchange=exchange.name,
        durable=exchange.durable,
        window=config.publish.window,
        window_bytes=config.publish.window_bytes,
        on_confirmed=lambda position: bridge.on_confirmed(position),
        on_failed=lambda error: failed(error) if isinstance(error, BridgeError) else None,
        backoff=_backoff(),
        log=log,
        connection_name=f"cdcbridge {config.name}",
        heartbeat_s=rabbitmq.heartbeat_s,
    )
    bridge = Bridge(
        name=config.name,
        source=source,
        publisher=publisher,
        checkpoints=checkpoints,
        router=Router(config.publish.routing_key, source=source.name),
        encoder=Encoder(bridge=config.name, source=source.name, exchange=exchange.name),
        backoff=_backoff(),
        log=log,
    )
    return bridge, publisher


async def _carried(bridge: Bridge, stop: Stop, failed: Failure, grace_s: float) -> None:
    """Run the bridge until `stop`. Where the source or one change ends it, what was sent before is saved first."""
    try:
        await _ran(bridge.run(), stop, failed)
    except (StreamError, ChangeError):
        await bridge.drain(grace_s)
        raise


def _backoff() -> Backoff:
    return Backoff(RETRY_FIRST_S, RETRY_CAP_S, random.Random())


def _announce(config: Config, bridge: Bridge, log: FilteringBoundLogger) -> None:
    broker = redacted(config.rabbitmq.url.get_secret_value())
    log.info("bridge_ready", broker=broker, exchange=config.rabbitmq.exchange.name, position=bridge.confirmed)
    notify("READY=1")


async def run_engine(config: Config, stop: Stop, log: FilteringBoundLogger) -> None:
    """Serve the built-in engine alone until `stop`.

    Raises:
        ConfigError: the data file or the port cannot be had.
        StateError: the disk refuses.
    """
    failed = Failure()
    async with hosted_engine(config.engine, log, failed):
        notify("READY=1")
        await _ran(asyncio.Event().wait(), stop, failed)
        log.info("shutdown_requested", grace_s=config.grace_s)
        notify("STOPPING=1")
    log.info("shutdown_finished")


async def _ran(work: Coroutine[Any, Any, Any], stop: Stop, failed: Failure) -> bool:
    """Run `work` until it ends (True), or until `stop` (False).

    Raises:
        BridgeError: what `work` raised, or what failed in the background meanwhile.
    """
    task, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        waited: set[asyncio.Future[Any]] = {task, stopping, failed.error}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        finished = task.done()
        task.cancel()
        await asyncio.wait({task, stopping})
    if failed.error.done():
        raise failed.error.result()
    if finished:
        task.result()
    return finished
