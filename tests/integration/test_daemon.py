"""Signals, and what the service manager is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdcbridge import daemon

STUBBORN = """
import asyncio, os, signal
from cdcbridge import daemon
async def main(stop):
    os.kill(os.getpid(), signal.{first})
    await stop.wait()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.Event().wait()
daemon.run(main)
"""


@pytest.mark.parametrize("number", daemon.SIGNALS)
def test_a_signal_is_a_request_to_stop(number: signal.Signals) -> None:
    async def main(stop: daemon.Stop) -> None:
        os.kill(os.getpid(), number)
        await stop.wait()

    daemon.run(main)


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_signal_ends_the_process_at_once(first: str) -> None:
    told = subprocess.run([sys.executable, "-c", STUBBORN.format(first=first)], capture_output=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (1, b"", b"")


def test_what_main_raises_comes_out() -> None:
    async def main(stop: daemon.Stop) -> None:
        raise LookupError

    with pytest.raises(LookupError):
        daemon.run(main)


async def test_a_request_wakes_all_who_wait() -> None:
    stop = daemon.Stop()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(stop.wait())
        stop.request()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's socket, named in the environment."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@cdcbridge-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(name.replace("@", "\0", 1))
        listening.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


def test_the_service_manager_is_told(manager: socket.socket) -> None:
    daemon.notify("READY=1")
    assert manager.recv(100) == b"READY=1"


def test_without_a_service_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    daemon.notify("READY=1")


def test_a_service_manager_that_does_not_listen_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    daemon.notify("READY=1")
