"""What the figures share: two cores, a daemon as a process, queues, a filled journal, and the rows of the table."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import queue
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Final, Self

import pika
from pika.adapters.blocking_connection import BlockingChannel
from rethinkdb import r

from cdcbridge.broker.node import PrivateNode
from cdcbridge.change import Position
from cdcbridge.checkpoint import Checkpoints
from cdcbridge.engine import local
from cdcbridge.engine.core import Engine
from cdcbridge.sources.embedded import parsed

EXCHANGE: Final = "cdcbridge"
BRIDGE: Final = "cdcbridge"
TABLE: Final = "orders"
DOCUMENT_BYTES: Final = 300
DOCUMENTS_PER_INSERT: Final = 1000
DEADLINE_S: Final = 300.0
POLL_S: Final = 0.01

BUSY_LOAD: Final = 0.5

_CORES: Final = 2
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Bench:
    """Where the figures are taken: a broker of their own, and a folder that is removed at the end."""

    url: str
    folder: Path


@dataclass(frozen=True)
class Row:
    """One line of the table. `holds` is None where nothing is asked."""

    figure: str
    reached: str
    asked: str = ""
    holds: bool | None = None

    @property
    def verdict(self) -> str:
        return {True: "reached", False: "MISSED", None: ""}[self.holds]


def say(text: str) -> None:
    """Tell whoever waits what is going on."""
    sys.stderr.write(f"==> {text}\n")
    sys.stderr.flush()


def answer(value: object) -> None:
    """What a program of `benchmarks.programs` tells the benchmark that has started it."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def keep_to_two_cores() -> None:
    """Everything that is started from here on, RabbitMQ too, shares two cores: figures of two machines compare."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:_CORES])


def warn_if_busy() -> None:
    """Say so when others use the machine: ratios suffer too, for a daemon that waits a lot finds its caches cold."""
    load = os.getloadavg()[0]
    if load > BUSY_LOAD:
        say(f"the load of this machine is {load:.1f} before the start: the figures will be worse than it is")


def facts(node: PrivateNode | None) -> str:
    """The machine, in one line."""
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    if node is not None:
        versions += f", RabbitMQ {node.ctl('version').strip()}, pika {pika.__version__}"
    return f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {platform.machine()}, {versions}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share / 100 * len(ordered)))]


def spread(values: Sequence[float], form: str) -> str:
    """The median, and from where to where the values go."""
    return f"{median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


# The journal ---------------------------------------------------------------------------------------------------------


def document(number: int) -> dict[str, Any]:
    """A document whose JSON has `DOCUMENT_BYTES` bytes."""
    plain = {"id": number, "customer": f"customer-{number % 1000:03d}", "paid": number % 2 == 0, "note": ""}
    missing = DOCUMENT_BYTES - len(json.dumps(plain, separators=(",", ":")))
    return plain | {"note": "x" * missing}


def filled(path: Path, count: int) -> str:
    """Make a data file whose journal has `count` creates. Returns the identity that positions in it belong to."""
    say(f"writing {count:,} documents into a data file")
    with contextlib.closing(local.open(path)) as connection:
        r.table_create(TABLE).run(connection)
        for start in range(0, count, DOCUMENTS_PER_INSERT):
            batch = [document(number) for number in range(start, min(start + DOCUMENTS_PER_INSERT, count))]
            answer = r.table(TABLE).insert(batch, durability="soft").run(connection)
            assert answer["inserted"] == len(batch), answer
    return identity(path)


def identity(path: Path) -> str:
    """The identity of a data file that nobody has open."""
    with contextlib.closing(Engine.open(path)) as opened:
        return f"engine:{opened.store.identity}"


# RabbitMQ ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bound_queue(url: str, name: str, arguments: dict[str, Any]) -> Iterator[None]:
    """A durable queue that gets everything, made with the exchange, and deleted at the end."""
    with _channel(url) as channel:
        channel.exchange_declare(EXCHANGE, "topic", durable=True)
        channel.queue_declare(name, durable=True, arguments=arguments)
        channel.queue_bind(name, EXCHANGE, "#")
    try:
        yield
    finally:
        with _channel(url) as channel:
            channel.queue_delete(name)


def message_ids(url: str, name: str) -> list[str]:
    """The ids of all messages in a queue, in order; the queue is empty afterwards."""
    ids: list[str] = []
    with _channel(url) as channel:
        count = channel.queue_declare(name, passive=True).method.message_count
        channel.basic_qos(prefetch_count=2000)
        for method, properties, _ in channel.consume(name, auto_ack=True, inactivity_timeout=5):
            if method is None:
                break
            ids.append(properties.message_id)
            if len(ids) >= count:
                break
    return ids


@contextlib.contextmanager
def _channel(url: str) -> Iterator[BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


# Processes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A point of time, and the CPU time (user and system, all threads) that a process had used by then."""

    at_ns: int
    cpu_ns: int


class CpuClock:
    """The CPU time of another process, to the nanosecond; /proc counts in hundredths of a second."""

    def __init__(self, pid: int) -> None:
        clock = ctypes.c_int()
        if error := _LIBC.clock_getcpuclockid(pid, ctypes.byref(clock)):
            raise OSError(error, os.strerror(error))
        self._clock = clock.value

    def moment(self) -> Moment:
        """Now."""
        return Moment(time.monotonic_ns(), time.clock_gettime_ns(self._clock))


class Program:
    """One of `benchmarks.programs`, running."""

    def __init__(self, name: str, *arguments: object) -> None:
        command = [sys.executable, "-m", f"benchmarks.programs.{name}", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._name = name

    def line(self) -> Any:
        """The next JSON document that it prints. RuntimeError if it ends without one."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise RuntimeError(f"{self._name} ended with status {self._process.wait()}")
        return json.loads(text)

    def stop(self) -> None:
        """It has done enough."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._process.kill()
        self._process.communicate()


@dataclass(frozen=True)
class Logged:
    """An event of the daemon's log, and when it was read."""

    event: str
    fields: dict[str, Any]
    moment: Moment


class Daemon:
    """`cdcbridge publish` as a process, with a fresh state folder. As a context manager it is stopped at the end."""

    def __init__(self, bench: Bench, data: Path, *, window: int) -> None:
        self._state = bench.folder / "state"
        command = ["publish", "--amqp", bench.url, "--exchange", EXCHANGE, "--state", str(self._state)]
        settings = {"CDCBRIDGE_PUBLISH__WINDOW": str(window), "CDCBRIDGE_ENGINE__DATA": str(data)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cdcbridge", *command, "--listen", "127.0.0.1:0", "--log-format", "json"],
            stderr=subprocess.PIPE,
            env=os.environ | settings,
            text=True,
        )
        self._clock = CpuClock(self._process.pid)
        self._log: queue.SimpleQueue[Logged | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()

    def logged(self, event: str) -> Logged:
        """Wait for an event. What is logged before it is passed over.

        Raises:
            RuntimeError: the daemon ends without it.
        """
        while (entry := self._log.get(timeout=DEADLINE_S)) is not None:
            if entry.event == event:
                return entry
        raise RuntimeError(f"the daemon ended with status {self._process.wait()} before it logged {event}")

    def confirmed(self, identity: str, seq: int) -> Moment:
        """Wait until everything up to `seq` is confirmed, and that is saved.

        Raises:
            TimeoutError: it takes too long.
        """
        until_s = time.monotonic() + DEADLINE_S
        with contextlib.closing(Checkpoints.open(self._state)) as checkpoints:
            while _seq(checkpoints.load(BRIDGE, identity)) < seq:
                if time.monotonic() > until_s or self._process.poll() is not None:
                    raise TimeoutError(f"the daemon has not come to {seq}")
                time.sleep(POLL_S)
            return self._clock.moment()

    def memory_bytes(self, line: str = "VmRSS") -> int:
        """What it has in memory now, or with `VmHWM` what it had at the most."""
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        (found,) = [text.split() for text in status.splitlines() if text.startswith(f"{line}:")]
        return int(found[1]) * 1024

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            moment = self._clock.moment()
            if line.startswith("{"):
                fields = json.loads(line)
                self._log.put(Logged(fields.pop("event"), fields, moment))
            else:
                sys.stderr.write(line)
        self._log.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._reader.join()
        shutil.rmtree(self._state, ignore_errors=True)


def _seq(position: Position | None) -> int:
    """The number of the journal's entry that a position is behind; 0 for none."""
    return 0 if position is None else parsed(position)[0]
