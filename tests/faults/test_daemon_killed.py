"""The daemon, in which the engine lives, is killed again and again while four connections write."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cdcbridge.broker.node import free_port
from tests.conftest import Broker
from tests.guarantees import all_hold, in_sequence, kept, repeats
from tests.processes import Process, Processes
from tests.recording import commits, deliveries, leftover, make_queue, recorded_writes
from tests.workload import Workload, survives_kills

DOCUMENTS = 20_000
KILLS = 10
SEED = 20_260_710
WINDOW = 4096


def published(processes: Processes, broker: Broker, state: Path, port: int) -> Process:
    """The daemon, always with the same state folder and the same port."""
    places = ("--listen", f"127.0.0.1:{port}", "--state", str(state))
    return processes.cdcbridge("publish", "--amqp", broker.url, *places)


def moments() -> list[int]:
    """When to kill: at so many documents written."""
    return sorted(random.Random(SEED).sample(range(1, DOCUMENTS), KILLS))


@survives_kills
@pytest.mark.timeout(240)
def test_nothing_is_lost_when_the_daemon_is_killed_ten_times(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    port, data = free_port(), tmp_path / "engine.db"
    queue = make_queue(broker.url, "cdcbridge", "everything")
    workload = Workload(port, documents=DOCUMENTS, seed=SEED)
    daemon = published(processes, broker, tmp_path, port)
    daemon.event("engine_ready")
    workload.start()
    for moment in moments():
        workload.wait_for(moment)
        daemon.kill()
        daemon.check_log()
        daemon = published(processes, broker, tmp_path, port)
        daemon.event("engine_ready")
        workload.engine_started()
    workload.finish()

    committed = commits(data)
    delivered = deliveries(broker.url, queue, committed[-1].position)
    assert daemon.stop() == 0
    delivered += leftover(broker.url, queue)

    assert commits(data) == committed
    kept(workload.acknowledged, recorded_writes(data))
    all_hold(committed, delivered, window=WINDOW, restarts=KILLS)
    assert repeats(delivered) > 0, "no kill met an unconfirmed message: this run has shown nothing about repeats"
    in_sequence(daemon.events(), "bridge_started", "bridge_ready", "shutdown_requested", "shutdown_finished")
