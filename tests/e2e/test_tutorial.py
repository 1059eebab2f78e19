"""The three programs of RethinkDB's tutorial, as processes: against the built-in engine, and with our publisher."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.conftest import Broker
from tests.processes import Process, Processes

PROGRAMS = Path(__file__).parent / "tutorial"
ROUNDS = 5

HEADLINE = re.compile(r"mytable got a change of type: (\w+)\n")
END_OF_CHANGE = "}\n"

Change = tuple[str, dict[str, Any]]
"""The operation, and the change as the tutorial's protocol has it."""


def tutorial(processes: Processes, program: str, *arguments: str) -> Process:
    return processes.python(str(PROGRAMS / f"{program}.py"), *arguments)


def port_of(daemon: Process) -> str:
    """The port that the engine in a daemon of ours listens on."""
    return str(daemon.event("engine_ready")["address"]).rpartition(":")[2]


def listener(processes: Processes, url: str) -> Process:
    """The tutorial's listener, once its queue is bound."""
    process = tutorial(processes, "listener", url)
    process.wait_until(lambda: "Listening" in process.stdout, "listen")
    return process


def changes_made(processes: Processes, port: str) -> list[Change]:
    """What the change generator did, once it has ended."""
    process = tutorial(processes, "change_generator", port, str(ROUNDS))
    assert process.ended() == 0, process.stderr
    return [tuple(json.loads(line)) for line in process.stdout.splitlines()]


def changes_printed(process: Process, count: int) -> list[Change]:
    """What the listener has printed, once that is `count` changes."""
    process.wait_until(lambda: process.stdout.count("\n" + END_OF_CHANGE) >= count, f"print {count} changes")
    _, *texts = HEADLINE.split(process.stdout)
    return [(kind, json.loads(change)) for kind, change in zip(texts[::2], texts[1::2], strict=True)]


def test_the_tutorials_three_programs_run_against_the_engine(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    engine = processes.cdcbridge("engine", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "engine.db"))
    publisher = tutorial(processes, "publisher", port_of(engine), broker.url)
    publisher.wait_until(lambda: "Waiting" in publisher.stdout, "open its feed")
    listening = listener(processes, broker.url)
    made = changes_made(processes, port_of(engine))
    assert changes_printed(listening, len(made)) == made
    assert engine.stop() == 0


def test_our_publisher_takes_the_place_of_the_tutorials(processes: Processes, broker: Broker, tmp_path: Path) -> None:
    places = ("--listen", "127.0.0.1:0", "--state", str(tmp_path))
    bridge = processes.cdcbridge("publish", "--exchange", "rethinkdb", "--amqp", broker.url, *places)
    bridge.event("bridge_ready")
    listening = listener(processes, broker.url)
    made = changes_made(processes, port_of(bridge))
    assert changes_printed(listening, len(made)) == made
    assert bridge.stop() == 0


def test_our_publisher_uses_the_exchange_that_the_tutorials_listener_made(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    listening = listener(processes, broker.url)
    places = ("--listen", "127.0.0.1:0", "--state", str(tmp_path))
    bridge = processes.cdcbridge("publish", "--exchange", "rethinkdb", "--amqp", broker.url, *places)
    made = changes_made(processes, port_of(bridge))
    assert {operation for operation, _ in made} == {"create", "update", "delete"}
    assert changes_printed(listening, len(made)) == made
    assert bridge.stop() == 0
