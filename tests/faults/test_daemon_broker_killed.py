"""The broker is killed while four connections write: under way, in the backlog that comes of it, with the daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cdcbridge.broker.node import PrivateNode, free_port
from tests.guarantees import all_hold, in_sequence, kept
from tests.processes import Process, Processes
from tests.recording import commits, deliveries, leftover, make_queue, recorded_writes
from tests.workload import Workload, survives_kills

DOCUMENTS = 20_000
DOCUMENTS_OF_BOTH = 8_000
SEED = 20_260_711
WINDOW = 4096

STORY = (
    "bridge_started",
    "engine_ready",
    "broker_connected",
    "bridge_ready",
    "broker_lost",
    "broker_connected",
    "broker_lost",
    "broker_connected",
    "shutdown_requested",
    "shutdown_finished",
)
"""What a reader of the log can follow."""


def killed_twice(node: PrivateNode, daemon: Process, workload: Workload) -> None:
    """While the writers write, the broker dies, comes back, dies in the backlog that has come of it, and comes back."""
    workload.allow(14_000)
    workload.wait_for(5_000)
    node.kill()
    daemon.event("broker_lost")
    workload.wait_for(14_000)
    node.start()
    daemon.event("batch_confirmed", times=daemon.events().count("batch_confirmed") + 1)
    workload.allow(DOCUMENTS)
    node.kill()
    workload.finish()
    node.start()


@pytest.mark.timeout(240)
def test_nothing_is_lost_when_the_broker_is_killed_twice(
    processes: Processes, killable_rabbitmq: PrivateNode, unique: Callable[[str], str], tmp_path: Path
) -> None:
    node, data = killable_rabbitmq, tmp_path / "engine.db"
    exchange = unique("exchange")
    queues = [make_queue(node.url, exchange, unique(kind), kind) for kind in ("classic", "quorum")]
    node.restart()  # what a quorum queue needs to survive a kill is written by a clean stop
    port = free_port()
    daemon = published(processes, node, exchange, tmp_path, port)
    daemon.event("bridge_ready")
    workload = Workload(port, documents=DOCUMENTS, seed=SEED)
    workload.start()
    killed_twice(node, daemon, workload)

    committed = commits(data)
    histories = [deliveries(node.url, queue, committed[-1].position) for queue in queues]
    assert daemon.stop() == 0
    kept(workload.acknowledged, recorded_writes(data))
    for queue, history in zip(queues, histories, strict=True):
        restarts = daemon.events().count("broker_connected") - 1
        all_hold(committed, history + leftover(node.url, queue), window=WINDOW, restarts=restarts)
    in_sequence(daemon.events(), *STORY)


@survives_kills
@pytest.mark.timeout(240)
def test_nothing_is_lost_when_daemon_and_broker_are_killed_together(
    processes: Processes, killable_rabbitmq: PrivateNode, unique: Callable[[str], str], tmp_path: Path
) -> None:
    node, data, exchange, port = killable_rabbitmq, tmp_path / "engine.db", unique("exchange"), free_port()
    queue = make_queue(node.url, exchange, unique("classic"))
    workload = Workload(port, documents=DOCUMENTS_OF_BOTH, seed=SEED)
    daemon = published(processes, node, exchange, tmp_path, port)
    daemon.event("engine_ready")
    workload.start()
    workload.wait_for(DOCUMENTS_OF_BOTH // 2)
    node.kill()
    daemon.kill()
    daemon = published(processes, node, exchange, tmp_path, port)
    daemon.event("broker_lost")
    workload.engine_started()
    workload.finish()
    node.start()

    committed = commits(data)
    delivered = deliveries(node.url, queue, committed[-1].position)
    assert daemon.stop() == 0
    kept(workload.acknowledged, recorded_writes(data))
    all_hold(committed, delivered + leftover(node.url, queue), window=WINDOW, restarts=1)
    in_sequence(daemon.events(), "bridge_started", "engine_ready", "broker_lost", "broker_connected", "bridge_ready")


def published(processes: Processes, node: PrivateNode, exchange: str, state: Path, port: int) -> Process:
    places = ("--listen", f"127.0.0.1:{port}", "--state", str(state))
    return processes.cdcbridge("publish", "--amqp", node.url, "--exchange", exchange, *places)
