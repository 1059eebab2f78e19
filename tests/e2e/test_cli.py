"""The command line as a process: what it says of itself, and of mistakes made before anything is connected."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from cdcbridge import __version__
from tests.processes import DEADLINE_S, Process, Processes, clean_environment

COMMANDS = ("publish", "engine", "listen", "check", "demo")
NO_PORT = ("--listen", "127.0.0.1:0")
MISCONFIGURED = 2


def complaint(process: Process) -> str:
    """The one line that a command says of a mistake, and nothing else but the log of how far it came."""
    assert process.ended() == MISCONFIGURED, process.stderr
    assert process.stdout == ""
    (line,) = [line for line in process.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("cdcbridge: ")
    return line.removeprefix("cdcbridge: ")


# What it says of itself ----------------------------------------------------------------------------------------------


def test_help_lists_the_commands(processes: Processes) -> None:
    process = processes.cdcbridge("--help")
    assert process.ended() == 0
    assert all(f"\n  {command} " in process.stdout for command in COMMANDS)
    assert process.stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(processes: Processes, command: str) -> None:
    process = processes.cdcbridge(command, "--help")
    assert process.ended() == 0
    assert process.stdout.startswith(f"Usage: cdcbridge {command} ")
    assert process.stderr == ""


@pytest.mark.parametrize(
    "start", [[sys.executable, "-m", "cdcbridge"], [str(Path(sys.executable).parent / "cdcbridge")]]
)
def test_the_version_is_that_of_the_package(processes: Processes, start: list[str]) -> None:
    process = processes.start(*start, "--version")
    assert process.ended() == 0
    assert process.stdout == f"cdcbridge, version {__version__}\n"


def test_help_imports_nothing_heavy() -> None:
    program = "import sys, cdcbridge.cli; print(sorted(sys.modules))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout
    heavy = {"pydantic", "structlog", "pika", "aio_pika", "rethinkdb", "asyncio", "rich", "uvloop", "sqlite3"}
    assert heavy.isdisjoint(ast.literal_eval(told))


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m cdcbridge --help | head -1"
    told = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=clean_environment(), timeout=DEADLINE_S, check=True
    )
    assert told.stdout.startswith("Usage: ")
    assert told.stderr == ""


# Wrong usage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("nope",), "No such command 'nope'; see 'cdcbridge --help'"),
        (("--nope",), "No such option '--nope'; see 'cdcbridge --help'"),
        (("publish", "--xyzzy"), "No such option '--xyzzy'; see 'cdcbridge publish --help'"),
        (("publish", "embedded:", "embedded:"), "unexpected extra argument"),
        (("publish", "--name"), "Option '--name' requires an argument"),
        (("listen",), "Missing argument 'PATTERN...'; see 'cdcbridge listen --help'"),
        (("listen", "#", "--count", "0"), "'--count'"),
        (("listen", "#", "--count", "x"), "'--count'"),
        (("listen", "#", "--format", "xml"), "'xml' is not one of 'pretty', 'json'"),
    ],
)
def test_wrong_usage_is_one_line(processes: Processes, arguments: tuple[str, ...], problem: str) -> None:
    assert problem in complaint(processes.cdcbridge(*arguments))


# Wrong configuration -------------------------------------------------------------------------------------------------

CONFIGURED = [("publish", *NO_PORT), ("engine", *NO_PORT), ("listen", "#"), ("check", *NO_PORT)]
"""The commands that read the configuration."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cdcbridge.toml"


@pytest.mark.parametrize("command", CONFIGURED, ids=lambda command: command[0])
def test_an_unknown_key_is_answered_with_the_nearest(
    processes: Processes, file: Path, command: tuple[str, ...]
) -> None:
    file.write_text("[rabbitmq]\nurI = 'amqp://h'")
    line = complaint(processes.cdcbridge(*command, "--config", str(file)))
    assert line == f"rabbitmq.urI: unknown key in {file}; the nearest known one is rabbitmq.url"


@pytest.mark.parametrize("command", CONFIGURED, ids=lambda command: command[0])
def test_an_unknown_variable_is_answered_with_the_nearest(processes: Processes, command: tuple[str, ...]) -> None:
    line = complaint(processes.cdcbridge(*command, environment={"CDCBRIDGE_RABBITMQ_URL": "amqp://h"}))
    assert line == "CDCBRIDGE_RABBITMQ_URL: unknown variable; the nearest known one is CDCBRIDGE_RABBITMQ__URL"


@pytest.mark.parametrize(
    "command", [("publish", *NO_PORT), ("listen", "#"), ("check",)], ids=lambda command: command[0]
)
def test_a_bad_url_is_explained_without_its_password(processes: Processes, command: tuple[str, ...]) -> None:
    line = complaint(processes.cdcbridge(*command, "--amqp", "amqp://u:s3cret@h:port"))
    assert line.startswith("rabbitmq.url: the value given as --amqp must ")
    assert "amqp://" in line
    assert "s3cret" not in line


def test_a_url_in_the_environment_is_blamed_on_its_variable(processes: Processes) -> None:
    line = complaint(processes.cdcbridge("listen", "#", environment={"AMQP_URL": "localhost"}))
    assert line.startswith("rabbitmq.url: the value in AMQP_URL must ")


def test_a_source_that_nobody_knows_is_answered_with_the_known_ones(processes: Processes, tmp_path: Path) -> None:
    line = complaint(processes.cdcbridge("publish", "oracle://h", "--state", str(tmp_path)))
    assert line.startswith("source: no source for URLs that begin with oracle:; known ones begin with ")
    assert "embedded:" in line


def test_bad_toml_is_answered_with_file_and_line(processes: Processes, file: Path) -> None:
    file.write_text('name = "shop"\nstate =\n')
    line = complaint(processes.cdcbridge("publish", "--config", str(file)))
    assert line.startswith(f"{file}:2: not valid TOML: ")


def test_a_missing_file_is_named(processes: Processes, tmp_path: Path) -> None:
    line = complaint(processes.cdcbridge("publish", "--config", str(tmp_path / "none.toml")))
    assert line.startswith(f"--config: cannot read {tmp_path}/none.toml: No such file or directory")


def test_a_value_of_the_wrong_type_is_named_with_its_place(processes: Processes, file: Path) -> None:
    file.write_text("[publish]\nwindow = 'many'")
    line = complaint(processes.cdcbridge("publish", "--config", str(file)))
    assert line == f"publish.window: 'many' in {file} must be a whole number"


def test_a_bad_template_is_refused_before_anything_starts(processes: Processes, file: Path) -> None:
    file.write_text("[publish]\nrouting_key = '{tabel}.{operation}'")
    line = complaint(processes.cdcbridge("publish", "--config", str(file)))
    assert line.startswith("publish.routing_key: there is no field {tabel}; ")


def test_an_engine_open_to_others_needs_a_password(processes: Processes, tmp_path: Path) -> None:
    line = complaint(processes.cdcbridge("engine", "--state", str(tmp_path), "--listen", "0.0.0.0:0"))
    assert line.startswith("engine.listen: 0.0.0.0:0 can be reached from other machines")


def test_a_pattern_longer_than_255_bytes_is_refused(processes: Processes) -> None:
    line = complaint(processes.cdcbridge("listen", "orders.*", "ä" * 128))
    assert "256 bytes" in line
    assert "255" in line


# The state folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["file", "file/state"])
def test_a_state_folder_that_cannot_be_made_is_named(processes: Processes, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    line = complaint(processes.cdcbridge("publish", *NO_PORT, "--state", str(tmp_path / path)))
    assert line.startswith(f"state: cannot use {tmp_path / path}: Not a directory; ")
    assert "--state" in line


@pytest.mark.parametrize("options", [("--state", "file/state"), ("--data", "file/engine.db")])
def test_a_data_file_that_cannot_be_made_is_named(
    processes: Processes, tmp_path: Path, options: tuple[str, str]
) -> None:
    (tmp_path / "file").touch()
    line = complaint(processes.cdcbridge("engine", *NO_PORT, options[0], str(tmp_path / options[1])))
    assert line.startswith("engine.data: ")
    assert str(tmp_path / "file") in line
