"""Programs run as processes: their output is read while they run, waited for without sleeping, and all are ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Any, Self

DEADLINE_S = 60.0
"""Ends a test that would hang; nothing is asserted about it."""

MOMENT_S = 10.0

FAULTS = ("Traceback (most recent call last)", "fault_caught")
"""What stands in no log, whatever was done to the program."""

_FOREIGN = ("CDCBRIDGE_", "AMQP_URL", "NOTIFY_SOCKET", "STATE_DIRECTORY", "RETHINKDB_")

Event = dict[str, Any]
"""A line of our JSON log."""


class Process:
    """One running program. Threads read what it prints, so that it never waits for us."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.command = command
        self.environment = {**clean_environment(), **environment}
        self._stdout: list[str] = []
        self._stderr: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._open_streams = 2
        self._readers = [
            self._reader(self._process.stdout, self._stdout),
            self._reader(self._process.stderr, self._stderr),
        ]

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return "".join(self._stdout)

    @property
    def stderr(self) -> str:
        """What it has logged so far, and everything else on stderr."""
        return "".join(self._stderr)

    @property
    def log(self) -> list[Event]:
        """The events that it has logged so far."""
        return [json.loads(line) for line in list(self._stderr) if line.startswith("{")]

    def events(self, *names: str) -> list[str]:
        """The names of the events so far, in order; with `names`, only of those."""
        found = [str(entry["event"]) for entry in self.log]
        return [name for name in found if name in names] if names else found

    def event(self, name: str, times: int = 1) -> Event:
        """The event `name`, the `times`-th of its kind, once it has been logged. Fails when the program ends before."""
        self.wait_until(lambda: self.events().count(name) >= times, f"log {name} {times} times")
        return [entry for entry in self.log if entry["event"] == name][times - 1]

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Look at `holds` whenever it has printed or logged a line; fails when it ends or is silent for too long."""
        with self._news:
            in_time = self._news.wait_for(lambda: holds() or not self._open_streams, DEADLINE_S)
            problem = "ended before it did" if in_time else f"did not within {DEADLINE_S:.0f} s"
            assert holds(), f"{self._name} {problem} {what}\n{self._told()}"

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> int:
        """Ask it to end, as a service manager does, and wait; its exit status."""
        self.send(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """End it as a crash would. Everything it had printed by then can be read afterwards."""
        self._process.kill()
        self._reap(DEADLINE_S)

    def end(self) -> None:
        """Leave nothing of it behind: it gets a moment to stop what it has started itself."""
        self._process.terminate()
        try:
            self._process.wait(MOMENT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reap(DEADLINE_S)

    def ended(self) -> int:
        """Wait until it ends by itself; its exit status. No traceback may stand in what it said."""
        status = self._reap(DEADLINE_S)
        self.check_log()
        return status

    def check_log(self) -> None:
        """Fails where something unexpected was logged."""
        assert not any(fault in self.stderr for fault in FAULTS), self._told()

    @property
    def _name(self) -> str:
        return " ".join(self.command[1:4])

    def _reader(self, stream: IO[str] | None, lines: list[str]) -> threading.Thread:
        assert stream is not None
        thread = threading.Thread(target=self._read, args=(stream, lines), daemon=True)
        thread.start()
        return thread

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._open_streams -= 1
            self._news.notify_all()

    def _reap(self, deadline_s: float) -> int:
        try:
            status = self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self._name} did not end within {deadline_s:.0f} s\n{self._told()}") from None
        for reader in self._readers:
            reader.join(deadline_s)
        return status

    def _told(self) -> str:
        return f"--- stdout\n{self.stdout}--- stderr\n{self.stderr}"


class Processes:
    """Starts programs, and kills at the end of the block those that still run."""

    def __init__(self) -> None:
        self._started: list[Process] = []

    def start(self, *command: str, environment: Mapping[str, str] | None = None) -> Process:
        """Run a command with our environment without settings of cdcbridge, and with `environment`."""
        process = Process(list(command), environment or {})
        self._started.append(process)
        return process

    def cdcbridge(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Process:
        """Run `cdcbridge ARGUMENTS`."""
        return self.start(sys.executable, "-m", "cdcbridge", *arguments, environment=environment)

    def python(self, program: str, *arguments: str) -> Process:
        """Run a Python program; what it prints arrives at once."""
        return self.start(sys.executable, "-u", program, *arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in reversed(self._started):
            process.end()


def clean_environment() -> dict[str, str]:
    """Ours, without what configures cdcbridge."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
