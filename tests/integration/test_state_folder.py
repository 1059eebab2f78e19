"""The state folder on a real disk: one daemon at a time, positions that survive, and refusals that name the path."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cdcbridge.change import Position
from cdcbridge.checkpoint import FILE, Checkpoints, StateFolder
from cdcbridge.errors import ConfigError, InUse, StateError

HOLDER = """
import sys
from pathlib import Path
from cdcbridge.checkpoint import Checkpoints, StateFolder
folder = StateFolder.open(Path(sys.argv[1]))
checkpoints = Checkpoints.open(folder.path)
checkpoints.save("shop", "engine 1", "41")
checkpoints.save("shop", "engine 1", "42")
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the folder, and has saved position 42."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


# The folder ----------------------------------------------------------------------------------------------------------


def test_a_new_folder_is_for_its_user_only(tmp_path: Path) -> None:
    with closing(StateFolder.open(tmp_path / "a" / "b")) as folder:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700


def test_the_lock_holds_our_process_id(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("123456789 and more")
    with closing(StateFolder.open(tmp_path)):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_folder_that_was_closed_can_be_opened_again(tmp_path: Path) -> None:
    StateFolder.open(tmp_path).close()
    StateFolder.open(tmp_path).close()


def test_a_folder_in_use_is_refused_with_the_process_that_has_it(tmp_path: Path) -> None:
    with another_process(tmp_path) as process, pytest.raises(InUse) as caught:
        StateFolder.open(tmp_path)
    assert str(caught.value).startswith(f"state: {tmp_path} is in use by process {process.pid}; ")
    assert "--state" in caught.value.remedy
    assert caught.value.owner == process.pid


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    with another_process(tmp_path):
        pass
    StateFolder.open(tmp_path).close()


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ConfigError, match="Not a directory") as caught:
        StateFolder.open(path)
    assert str(caught.value).startswith(f"state: cannot use {path}: ")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="Not a directory"):
        StateFolder.open(tmp_path / "file" / "state")


def test_a_folder_that_cannot_be_written_is_named() -> None:
    """In /proc not even root makes a file."""
    with pytest.raises(ConfigError, match=r"^state: cannot use /proc/self: .*--state") as caught:
        StateFolder.open(Path("/proc/self"))
    assert not isinstance(caught.value, InUse)


# The file of positions -----------------------------------------------------------------------------------------------


def test_positions_outlive_the_process(tmp_path: Path) -> None:
    with closing(Checkpoints.open(tmp_path)) as checkpoints:
        checkpoints.save("shop", "engine 1", Position("42"))
    with closing(Checkpoints.open(tmp_path)) as checkpoints:
        assert checkpoints.load("shop", "engine 1") == "42"


def test_a_save_is_not_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    with another_process(tmp_path):
        pass
    with closing(Checkpoints.open(tmp_path)) as checkpoints:
        assert checkpoints.load("shop", "engine 1") == "42"


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("not a database, but long enough to be read as the header of one: " * 10)
    with pytest.raises(StateError, match="not a database") as caught:
        Checkpoints.open(tmp_path)
    assert caught.value.path == str(tmp_path / FILE)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(StateError, match=FILE):
        Checkpoints.open(tmp_path)


def test_a_save_that_the_disk_refuses_is_a_state_error(tmp_path: Path) -> None:
    with closing(Checkpoints.open(tmp_path)) as checkpoints:
        with closing(sqlite3.connect(tmp_path / FILE)) as other:
            other.execute("DROP TABLE checkpoint")
        with pytest.raises(StateError, match=FILE):
            checkpoints.save("shop", "engine 1", Position("1"))
