"""A private RabbitMQ node in a folder of its own: for the demo where no broker answers, and for the tests.

It listens on the loopback interface only, reads none of the machine's RabbitMQ settings, and brings its own port mapper
(epmd), so that it neither meets another node nor leaves a process behind.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pika
from pika.exceptions import AMQPError

from cdcbridge.errors import BridgeError

HOST = "127.0.0.1"
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 30.0
POLL_S = 0.05
LOG_TAIL_LINES = 15

LOCALHOST = '{host, {127,0,0,1}, ["localhost"]}.\n{lookup, [file, native]}.\n'
"""Erlang's own hosts file: a bare container has no /etc/hosts, and the node's name ends in `@localhost`."""

SERVERS = (
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/rabbitmq/sbin/rabbitmq-server",
    "/opt/homebrew/sbin/rabbitmq-server",
    "/usr/local/sbin/rabbitmq-server",
)


class NodeFailed(BridgeError):
    """A private node did not do what was asked: `problem` says what, `log` holds the last lines that it wrote."""

    def __init__(self, problem: str, log: str = "") -> None:
        super().__init__(problem, log)
        self.problem = problem
        self.log = log

    def __str__(self) -> str:
        return f"{self.problem}; the end of its log:\n{self.log}" if self.log else self.problem


def find_server() -> Path | None:
    """RabbitMQ's start script, `None` where RabbitMQ is not installed.

    Debian's wrapper in /usr/sbin is passed over: it switches to the user rabbitmq, who cannot write into our folder.
    """
    return next((Path(server) for server in SERVERS if os.access(server, os.X_OK)), None)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class PrivateNode:
    """One RabbitMQ node, with user and password `guest`, virtual host `/` and no plugins.

    What it stores survives `stop`, `kill` and `start` in `folder`, and the port stays the same. As a context manager it
    is started, and closed at the end. Not for use from several threads at once.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: where all its files go; `None`: a temporary one that `close` removes."""
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="cdcbridge-rabbitmq-")) if folder is None else folder
        self.port = free_port()
        self._dist_port = free_port()
        self._epmd_port = free_port()
        self._name = f"cdcbridge-{secrets.token_hex(4)}@localhost"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        """The AMQP URL of the virtual host `/`."""
        return f"amqp://guest:guest@{HOST}:{self.port}/%2F"

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    def start(self) -> None:
        """Start the node; returns when an AMQP connection opens.

        Raises:
            NodeFailed: RabbitMQ is not installed, ends early, or does not answer in time. Nothing is left running.
        """
        if self.running:
            return
        server = find_server()
        if server is None:
            raise NodeFailed("RabbitMQ is not installed; install it with: apt-get install rabbitmq-server")
        self._write_settings()
        try:
            self._spawn_guard()
            self._spawn_epmd()
            self._spawn([str(server)], "console.log")
            self._wait("did not answer", START_DEADLINE_S, self._answers)
        except BaseException:
            self._end(signal.SIGKILL)
            raise

    def stop(self) -> None:
        """Stop the node cleanly; it writes what it holds. A node that does not end in time is killed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the node with SIGKILL, as a crash would; returns when its port refuses connections."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the node cleanly and start it again, in the same folder and on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the node, and remove its folder where it made the folder itself."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def ctl(self, *arguments: str, program: str = "rabbitmqctl") -> str:
        """The output of `rabbitmqctl ARGUMENTS`, or of another of RabbitMQ's programs. Takes up to some seconds.

        Raises:
            NodeFailed: the command failed.
        """
        server = find_server()
        command = [str(server.with_name(program) if server else program), "--quiet", *arguments]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise NodeFailed(f"{program} {' '.join(arguments)} failed", (done.stdout + done.stderr).strip())
        return done.stdout

    def log_tail(self) -> str:
        """The last lines of what the node logged, or printed where it did not come as far as its log."""
        for log in (self.folder / "rabbit.log", self.folder / "console.log"):
            if log.exists() and (lines := log.read_text(errors="replace").splitlines()):
                return "\n".join(lines[-LOG_TAIL_LINES:])
        return ""

    def _write_settings(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "conf.d").mkdir(exist_ok=True)
        (self.folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = {HOST}:{self.port}\n")
        (self.folder / "inetrc").write_text(LOCALHOST)
        for name, content in (("enabled_plugins", "[].\n"), ("advanced.config", "[].\n"), ("rabbitmq-env.conf", "")):
            (self.folder / name).write_text(content)

    def _environment(self) -> dict[str, str]:
        """Ours without the settings of other nodes, and with those of this one.

        NOTIFY_SOCKET is left out, too: the node would report to the service manager in the name of its parent.
        """
        foreign = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        loopback = "{127,0,0,1}"
        return environment | {
            "HOME": str(self.folder),
            "ERL_INETRC": str(self.folder / "inetrc"),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_IP_ADDRESS": HOST,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-kernel inet_dist_use_interface {loopback}",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_LOGS": str(self.folder / "rabbit.log"),
            "RABBITMQ_PID_FILE": str(self.folder / "rabbit.pid"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "config"),
        }

    def _spawn_guard(self) -> None:
        """The leader of the node's process group: it ends the group when we die without having stopped the node.

        It waits for the end of a pipe that only we hold open. The group is not that of the terminal, so that ctrl-C
        reaches us and not the node.
        """
        guard = ["/bin/sh", "-c", "read -r _; kill -KILL 0"]
        self._processes = [subprocess.Popen(guard, stdin=subprocess.PIPE, process_group=0)]

    def _spawn_epmd(self) -> None:
        """Our own port mapper, in the foreground: the node would start one as a daemon, which outlives it."""
        epmd = shutil.which("epmd")
        if epmd is None:
            raise NodeFailed("Erlang's port mapper epmd is missing; install it with: apt-get install erlang-base")
        self._spawn([epmd, "-address", HOST, "-port", str(self._epmd_port)], "epmd.log")
        self._wait("has no port mapper", START_DEADLINE_S, lambda: accepts(self._epmd_port))

    def _spawn(self, command: list[str], output: str) -> None:
        """Start a process in the guard's group; what it prints goes into the file `output`."""
        with (self.folder / output).open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=self._processes[0].pid,
            )
        self._processes.append(process)

    def _answers(self) -> bool:
        if not self.running:
            raise NodeFailed("the private RabbitMQ node ended while it started", self.log_tail())
        return accepts(self.port) and opens(self.url)

    def _end(self, how: signal.Signals) -> None:
        """End server, port mapper and guard; afterwards the port is free for a new start."""
        if self._processes:
            end_group(self._processes, how)
            self._processes = []
            self._wait("still listens", STOP_DEADLINE_S, lambda: not accepts(self.port))

    def _wait(self, problem: str, deadline_s: float, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > until:
                raise NodeFailed(f"the private RabbitMQ node {problem} within {deadline_s:.0f} s", self.log_tail())
            time.sleep(POLL_S)


def end_group(members: list[subprocess.Popen[bytes]], how: signal.Signals) -> None:
    """Signal the process group that `members[0]` leads and wait for all members; SIGKILL after a deadline."""
    os.killpg(members[0].pid, how)
    until = time.monotonic() + STOP_DEADLINE_S
    try:
        for member in members:
            member.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        end_group(members, signal.SIGKILL)
    for member in members:
        if member.stdin is not None:
            member.stdin.close()


def accepts(port: int) -> bool:
    """Whether somebody listens on `port` of the loopback interface."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def opens(url: str) -> bool:
    """Whether an AMQP connection to `url` opens."""
    with quiet_pika():
        try:
            pika.BlockingConnection(pika.URLParameters(url)).close()
        except (AMQPError, OSError):
            return False
    return True


@contextlib.contextmanager
def quiet_pika() -> Iterator[None]:
    """Keep pika from logging an attempt that is expected to fail."""
    logger = logging.getLogger("pika")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
