"""The daemon is asked to end while messages are unconfirmed: it waits for them, and saves how far it came."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from rethinkdb import r

from cdcbridge.broker.node import free_port
from tests.conftest import Broker
from tests.faults.proxy import Proxy
from tests.guarantees import all_hold, in_sequence, kept, repeats
from tests.processes import Process, Processes
from tests.recording import commits, deliveries, leftover, make_queue, recorded_writes
from tests.workload import Workload, survives_kills

DOCUMENTS = 6_000
STOPS_AT = (1_500, 4_000)
SEED = 20_260_712
WINDOW = 4096
UNCONFIRMED = 500


def published(processes: Processes, url: str, state: Path, port: int, *options: str) -> Process:
    places = ("--listen", f"127.0.0.1:{port}", "--state", str(state))
    return processes.cdcbridge("publish", "--amqp", url, *places, *options)


@survives_kills
def test_a_daemon_stopped_under_load_goes_on_without_a_repeat(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    port, data = free_port(), tmp_path / "engine.db"
    queue = make_queue(broker.url, "cdcbridge", "everything")
    workload = Workload(port, documents=DOCUMENTS, seed=SEED)
    daemon = published(processes, broker.url, tmp_path, port)
    daemon.event("engine_ready")
    workload.start()
    for moment in STOPS_AT:
        workload.wait_for(moment)
        assert daemon.stop() == 0
        in_sequence(daemon.events(), "bridge_started", "bridge_ready", "shutdown_requested", "shutdown_finished")
        daemon = published(processes, broker.url, tmp_path, port)
        daemon.event("engine_ready")
        workload.engine_started()
    workload.finish()

    committed = commits(data)
    delivered = deliveries(broker.url, queue, committed[-1].position)
    assert daemon.stop() == 0
    delivered += leftover(broker.url, queue)
    kept(workload.acknowledged, recorded_writes(data))
    all_hold(committed, delivered, window=WINDOW, restarts=0)
    assert repeats(delivered) == 0


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[Proxy]:
    """Stands between the daemon and the broker, so that confirms can be held back."""
    async with Proxy(broker.node.port) as started:
        yield started


def through(proxy: Proxy, broker: Broker) -> str:
    """The broker's URL, by way of the proxy."""
    return broker.url.replace(f":{broker.node.port}/", f":{proxy.port}/")


def written(port: int, *ids: int) -> None:
    """Documents in the engine's only table, which is made with the first of them."""
    with r.connect(host="127.0.0.1", port=port) as connection:
        if "orders" not in r.table_list().run(connection):
            r.table_create("orders").run(connection)
        assert r.table("orders").insert([{"id": id} for id in ids]).run(connection)["inserted"] == len(ids)


def newest(state: Path) -> str:
    """The position of the last commit."""
    return commits(state / "engine.db")[-1].position


async def sent_unconfirmed(daemon: Process, proxy: Proxy, broker: Broker, state: Path, port: int) -> int:
    """Write documents whose messages reach the queue, and whose confirms do not come back; how many reached it."""
    queue = make_queue(broker.url, "cdcbridge", "everything")
    await asyncio.to_thread(daemon.event, "bridge_ready")
    proxy.stall(to_server=False)
    await asyncio.to_thread(written, port, *range(UNCONFIRMED))
    return len(await asyncio.to_thread(deliveries, broker.url, queue, newest(state)))


async def after_restart(processes: Processes, broker: Broker, state: Path, port: int) -> int:
    """How many messages come when the daemon is started again and one more document is written."""
    daemon = published(processes, broker.url, state, port)
    await asyncio.to_thread(daemon.event, "bridge_ready")
    await asyncio.to_thread(written, port, UNCONFIRMED)
    found = await asyncio.to_thread(deliveries, broker.url, "everything", newest(state))
    assert await asyncio.to_thread(daemon.stop) == 0
    return len(found)


async def test_what_is_confirmed_within_the_grace_time_is_not_sent_again(
    processes: Processes, proxy: Proxy, broker: Broker, tmp_path: Path
) -> None:
    port = free_port()
    daemon = published(processes, through(proxy, broker), tmp_path, port, "--grace", "60")
    assert await sent_unconfirmed(daemon, proxy, broker, tmp_path, port) == UNCONFIRMED
    daemon.send(signal.SIGTERM)
    await asyncio.to_thread(daemon.event, "shutdown_requested")
    proxy.resume()
    assert await asyncio.to_thread(daemon.ended) == 0
    assert daemon.event("shutdown_finished")["drained"] is True
    assert await after_restart(processes, broker, tmp_path, port) == 1


async def test_what_is_not_confirmed_within_the_grace_time_is_sent_again(
    processes: Processes, proxy: Proxy, broker: Broker, tmp_path: Path
) -> None:
    port = free_port()
    daemon = published(processes, through(proxy, broker), tmp_path, port, "--grace", "0.1")
    assert await sent_unconfirmed(daemon, proxy, broker, tmp_path, port) == UNCONFIRMED
    daemon.send(signal.SIGTERM)
    assert await asyncio.to_thread(daemon.ended) == 0
    assert daemon.event("shutdown_finished")["drained"] is False
    assert await after_restart(processes, broker, tmp_path, port) == UNCONFIRMED + 1
