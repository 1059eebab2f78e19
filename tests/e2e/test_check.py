"""`cdcbridge check`: a line for each thing, how to mend what is wrong, and the status of the worst."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.conftest import Broker
from tests.processes import Process, Processes

HOST = "127.0.0.1"


def check(processes: Processes, url: str, state: Path, *options: str) -> Process:
    return processes.cdcbridge("check", "--amqp", url, "--state", str(state), "--listen", f"{HOST}:0", *options)


def verdicts(process: Process) -> list[str]:
    return [line.split()[0] for line in process.stdout.splitlines()]


def test_all_is_well(processes: Processes, broker: Broker, tmp_path: Path) -> None:
    process = check(processes, broker.url, tmp_path)
    assert process.ended() == 0
    assert verdicts(process) == ["ok", "ok", "ok"]
    assert str(tmp_path) in process.stdout
    assert "guest:***@" in process.stdout
    assert process.stderr == ""


def test_a_broker_that_does_not_answer_is_a_failure_but_no_mistake(processes: Processes, tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    process = check(processes, f"amqp://u:s3cret@{HOST}:{port}", tmp_path)
    assert process.ended() == 1
    assert verdicts(process) == ["ok", "ok", "FAILED"]
    assert "rabbitmq.url: cannot connect to " in process.stdout
    assert "start RabbitMQ there" in process.stdout
    assert "s3cret" not in process.stdout + process.stderr


def test_every_thing_is_tried_and_the_worst_decides(processes: Processes, broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = check(processes, broker.url, tmp_path / "file", "--data", str(tmp_path / "engine.db"))
    assert process.ended() == 2
    assert verdicts(process) == ["FAILED", "ok", "ok"]


def test_what_a_running_daemon_holds_is_said_to_be_in_use(processes: Processes, broker: Broker, tmp_path: Path) -> None:
    daemon = processes.cdcbridge("publish", "--amqp", broker.url, "--state", str(tmp_path), "--listen", f"{HOST}:0")
    daemon.event("bridge_ready")
    process = check(processes, broker.url, tmp_path)
    assert process.ended() == 0
    assert verdicts(process) == ["in", "in", "ok"]
    assert process.stdout.count(f"in use by process {daemon.pid} (a running publisher?)") == 2
    assert daemon.stop() == 0


def test_a_data_file_that_is_not_the_publishers_is_a_failure(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    engine = processes.cdcbridge("engine", "--data", str(tmp_path / "engine.db"), "--listen", f"{HOST}:0")
    engine.event("engine_ready")
    process = check(processes, broker.url, tmp_path)
    assert process.ended() == 2
    assert verdicts(process) == ["ok", "FAILED", "ok"]
    assert engine.stop() == 0


def test_a_thing_has_one_label_whatever_the_verdict(processes: Processes, broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    good = check(processes, broker.url, tmp_path)
    bad = check(processes, "amqp://127.0.0.1:1", tmp_path / "file", "--data", str(tmp_path / "file" / "engine.db"))
    assert (good.ended(), bad.ended()) == (0, 2)
    labels = [[line[8:].split(":")[0] for line in process.stdout.splitlines()] for process in (good, bad)]
    assert labels == [["state", "source", "rabbitmq"]] * 2
