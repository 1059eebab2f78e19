"""`cdcbridge demo --once`: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

from cdcbridge.broker.node import free_port
from tests.conftest import Broker, require_rabbitmq
from tests.processes import Process, Processes

RECEIVED = re.compile(r"listener +\| orders got a change of type: (\w+)$", re.MULTILINE)
OPERATIONS = {"create", "update", "delete"}
MARK = "MARK_OF_A_TEST"
"""A variable that children inherit: they are found by its value, wherever they belong."""


def demo(processes: Processes, folder: Path, *options: str, **environment: str) -> Process:
    """The demo, once, with a temporary folder and a mark of its own."""
    environment |= {MARK: uuid.uuid4().hex, "TMPDIR": str(folder)}
    return processes.cdcbridge("demo", "--once", *options, environment=environment)


def children(mark: str) -> list[int]:
    """The processes that have `mark` in their environment."""
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if mark.encode() in content(path)]


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended meanwhile, or is another user's


def assert_nothing_left(process: Process, folder: Path) -> None:
    assert children(process.environment[MARK]) == []
    assert list(folder.iterdir()) == []


def test_it_shows_every_kind_of_change_with_a_private_broker(processes: Processes, tmp_path: Path) -> None:
    require_rabbitmq()
    process = demo(processes, tmp_path)
    assert process.ended() == 0, process.stderr
    assert set(RECEIVED.findall(process.stdout)) == OPERATIONS
    assert "Traceback" not in process.stdout
    assert_nothing_left(process, tmp_path)


def test_it_uses_the_broker_that_is_given_and_leaves_nothing_in_it(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    before = exchanges_and_queues(broker)
    settings = {"CDCBRIDGE_TABLES": "others", "CDCBRIDGE_RABBITMQ__URL_FILE": "/nowhere"}
    process = demo(processes, tmp_path, AMQP_URL=broker.url, **settings)
    assert process.ended() == 0, process.stderr
    assert set(RECEIVED.findall(process.stdout)) == OPERATIONS
    assert "private" not in process.stdout
    assert "guest:guest" not in process.stdout + process.stderr
    assert exchanges_and_queues(broker) == before
    assert_nothing_left(process, tmp_path)


def exchanges_and_queues(broker: Broker) -> str:
    listed = [broker.node.ctl(command, "-p", broker.vhost, "name") for command in ("list_exchanges", "list_queues")]
    return "".join(listed)


def test_it_starts_a_private_broker_where_the_given_one_does_not_answer(processes: Processes, tmp_path: Path) -> None:
    require_rabbitmq()
    process = demo(processes, tmp_path, "--amqp", f"amqp://guest:guest@127.0.0.1:{free_port()}/")
    assert process.ended() == 0, process.stderr
    assert "no broker answers at amqp://guest:***@127.0.0.1" in process.stdout
    assert set(RECEIVED.findall(process.stdout)) == OPERATIONS
    assert_nothing_left(process, tmp_path)


def test_it_stops_early_when_asked_to_and_leaves_nothing_behind(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    process = demo(processes, tmp_path, "--amqp", broker.url)
    process.wait_until(lambda: "bridge_ready" in process.stdout, "start its publisher")
    running = children(process.environment[MARK])
    assert len(running) == 3
    assert not any(b"--amqp" in content(Path(f"/proc/{pid}/cmdline")) for pid in running if pid != process.pid)
    assert process.stop() == 0
    assert "Traceback" not in process.stdout
    assert_nothing_left(process, tmp_path)


def test_a_broker_that_refuses_is_told_and_not_replaced(processes: Processes, broker: Broker, tmp_path: Path) -> None:
    process = demo(processes, tmp_path, AMQP_URL=broker.url.replace("guest:guest", "guest:wrong"))
    assert process.ended() == 2
    assert "refused the login" in process.stderr
    assert "wrong" not in process.stdout + process.stderr
    assert_nothing_left(process, tmp_path)


def test_what_is_no_url_is_refused_in_one_line(processes: Processes, tmp_path: Path) -> None:
    process = demo(processes, tmp_path, "--amqp", "garbage")
    assert process.ended() == 2
    assert process.stderr.count("\n") == 1
    assert "not an AMQP URL" in process.stderr


def test_a_reader_that_goes_away_ends_it_quietly(broker: Broker, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    environment = {**os.environ, MARK: mark, "TMPDIR": str(tmp_path), "AMQP_URL": broker.url}
    command = [sys.executable, "-m", "cdcbridge", "demo"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
    assert children(mark) == []
    assert list(tmp_path.iterdir()) == []
