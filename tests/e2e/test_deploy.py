"""Every command line in deploy/ and docker-compose.yml, run as a process against a private broker.

Paths, hosts and ports are replaced by private ones; nothing else of a command line is.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdcbridge.config import load
from cdcbridge.route import Router
from tests.conftest import Broker
from tests.processes import DEADLINE_S, Process, Processes

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "cdcbridge.service"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
EXAMPLE = ROOT / "deploy" / "cdcbridge.toml"
CDCBRIDGE = str(Path(sys.executable).with_name("cdcbridge"))


# --- systemd ---------------------------------------------------------------------------------------------------------


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser


@pytest.fixture
def exec_start(tmp_path: Path) -> list[str]:
    """The unit's command line, with its program and its configuration file where they are here."""
    config = tmp_path / "cdcbridge.toml"
    config.write_text(EXAMPLE.read_text().replace("/var/lib/cdcbridge", str(tmp_path / "state")))
    replaced = {"/opt/cdcbridge/bin/cdcbridge": CDCBRIDGE, "/etc/cdcbridge/cdcbridge.toml": str(config)}
    return [replaced.get(word, word) for word in shlex.split(unit()["Service"]["ExecStart"])]


@pytest.fixture
def notify_socket(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which systemd hears from a service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(DEADLINE_S)
        yield receiver


def heard(receiver: socket.socket, state: str) -> bool:
    """Wait until `state` arrives; other states may come before it."""
    while state not in receiver.recv(4096).decode().splitlines():
        pass
    return True


def test_the_service_says_when_it_is_ready_and_when_it_stops(
    exec_start: list[str], notify_socket: socket.socket, broker: Broker, processes: Processes
) -> None:
    environment = {
        "NOTIFY_SOCKET": str(notify_socket.getsockname()),
        "CDCBRIDGE_RABBITMQ__URL": broker.url,
        "CDCBRIDGE_ENGINE__LISTEN": "127.0.0.1:0",
    }
    run = processes.start(*exec_start, environment=environment)
    run.event("bridge_ready")
    assert heard(notify_socket, "READY=1")
    run.send(signal.SIGTERM)
    assert heard(notify_socket, "STOPPING=1")
    assert run.ended() == 0


def test_a_wrong_configuration_ends_the_service_with_the_status_that_is_not_restarted(
    exec_start: list[str], tmp_path: Path, processes: Processes
) -> None:
    (tmp_path / "cdcbridge.toml").write_text("nmae = 'shop'\n")
    run = processes.start(*exec_start)
    assert str(run.ended()) == unit()["Service"]["RestartPreventExitStatus"]
    assert "nmae" in run.stderr


def test_the_service_has_time_to_finish_what_is_unconfirmed(tmp_path: Path) -> None:
    assert float(unit()["Service"]["TimeoutStopSec"]) > load(environ={"HOME": str(tmp_path)}).grace_s


def test_the_state_folder_of_the_example_is_the_one_that_systemd_makes() -> None:
    config = load(file=EXAMPLE, environ={"HOME": "/nowhere"})
    assert config.state == Path("/var/lib") / unit()["Service"]["StateDirectory"]


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/cdcbridge/bin/cdcbridge", CDCBRIDGE))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert UNIT.name not in done.stderr


def commented_out(toml: str) -> str:
    """The example with its commented-out settings in force."""
    return re.sub(r"(?m)^# ?(\[[a-z.]+\]|[a-z_]+ = .*)$", r"\1", toml)


def test_what_the_example_comments_out_is_the_default(tmp_path: Path) -> None:
    everything = tmp_path / "everything.toml"
    everything.write_text(commented_out(EXAMPLE.read_text()))
    assert len(tomllib.loads(everything.read_text())) > len(tomllib.loads(EXAMPLE.read_text()))
    environ = {"HOME": str(tmp_path)}
    assert load(file=everything, environ=environ) == load(file=EXAMPLE, environ=environ)
    assert Router(load(file=everything, environ=environ).publish.routing_key, source="embedded")


# --- the image -------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each with its arguments as one line."""
    text = re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def last(instruction: str) -> str:
    return next(arguments for name, arguments in reversed(instructions()) if name == instruction)


def build_arguments() -> list[str]:
    """The image's `pip wheel`, without the folders in it."""
    command = next(arguments for name, arguments in instructions() if name == "RUN" and "pip wheel" in arguments)
    return [word for word in shlex.split(command) if word not in ("/src", "/wheels", "--wheel-dir")]


def test_the_image_builds_a_wheel_with_both_packages(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for path in ("cdcbridge", "listeners"):
        shutil.copytree(ROOT / path, source / path, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / path, source / path)
    offline = ["--no-build-isolation", "--quiet", "--wheel-dir", str(tmp_path / "wheels"), str(source)]
    subprocess.run([sys.executable, "-m", *build_arguments(), *offline], check=True)
    names = zipfile.ZipFile(next((tmp_path / "wheels").glob("*.whl"))).namelist()
    assert {"cdcbridge/__init__.py", "cdcbridge/py.typed", "listeners/worker.py", "listeners/py.typed"} <= set(names)


def test_what_the_image_copies_is_let_through_to_the_build() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {"cdcbridge", "listeners", "pyproject.toml", "README.md", "LICENSE", "deploy/requirements.lock"} == allowed
    assert all((ROOT / path).exists() for path in allowed)


def pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9-]+)==(\S+)", lock.read_text()))


def test_the_image_installs_the_versions_that_the_tests_ran_with() -> None:
    tested, shipped = pins(ROOT / "requirements.lock"), pins(ROOT / "deploy" / "requirements.lock")
    assert shipped.items() <= tested.items()
    assert not {"pytest", "mypy", "ruff", "hypothesis"} & shipped.keys()


def test_the_image_does_not_run_as_root() -> None:
    assert last("USER") not in ("root", "0")


# --- compose ---------------------------------------------------------------------------------------------------------


def services() -> dict[str, Any]:
    """The services, with each `${NAME:-default}` replaced by its default."""
    text = (ROOT / "docker-compose.yml").read_text()
    return dict(yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))["services"])


def service_command(service: dict[str, Any]) -> list[str]:
    """What the service runs: its own entrypoint or the image's, then its command or the image's."""
    entrypoint = service.get("entrypoint") or json.loads(last("ENTRYPOINT"))
    return [*entrypoint, *(service.get("command") or json.loads(last("CMD")))]


def here(command: list[str], replaced: dict[str, str]) -> list[str]:
    """The command with what only exists in the containers replaced."""
    programs = {"cdcbridge": CDCBRIDGE, "python": sys.executable}
    return [programs.get(command[0], command[0]), *(replaced.get(word, word) for word in command[1:])]


def service_environment(service: dict[str, Any], url: str) -> dict[str, str]:
    """The service's variables, with the broker's address replaced by `url`."""
    return {name: url if name.endswith("URL") else str(value) for name, value in service["environment"].items()}


def published(processes: Processes, broker: Broker, state: Path) -> tuple[Process, str]:
    """The service `publisher`, ready, on a free port of all interfaces, and that port."""
    publisher = services()["publisher"]
    environment = service_environment(publisher, broker.url) | {"CDCBRIDGE_STATE": str(state)}
    command = here(service_command(publisher), {"0.0.0.0:28015": "0.0.0.0:0"})
    process = processes.start(*command, environment=environment)
    process.event("bridge_ready")
    return process, process.event("engine_ready")["address"].rpartition(":")[2]


def test_the_services_of_the_compose_file_work_together(broker: Broker, tmp_path: Path, processes: Processes) -> None:
    writer, listener = services()["writer"], services()["listener"]
    publishing, port = published(processes, broker, tmp_path / "state")
    listen = [*here(service_command(listener), {}), "--count", "5"]
    listening = processes.start(*listen, environment=service_environment(listener, broker.url))
    listening.event("listener_ready")
    places = {"/examples/change_generator.py": str(ROOT / "examples" / "change_generator.py")}
    write = here(service_command(writer), places | {"publisher": "127.0.0.1", "0.5": "0"})
    writing = processes.start(
        *write, "--port", port, "--count", "200", environment=service_environment(writer, broker.url)
    )
    assert writing.ended() == 0
    assert listening.ended() == 0
    assert publishing.stop() == 0
    assert listening.stdout.startswith("mytable got a change of type: create\n")


def test_the_health_check_of_the_publisher_connects_to_its_port(
    broker: Broker, tmp_path: Path, processes: Processes
) -> None:
    kind, *check = services()["publisher"]["healthcheck"]["test"]
    assert kind == "CMD"
    publishing, port = published(processes, broker, tmp_path / "state")
    assert processes.start(*here([word.replace("28015", port) for word in check], {})).ended() == 0
    assert publishing.stop() == 0


def test_the_health_check_of_the_broker_passes_on_a_running_node(broker: Broker) -> None:
    kind, program, quiet, *arguments = services()["rabbitmq"]["healthcheck"]["test"]
    assert (kind, quiet) == ("CMD", "--quiet")
    broker.node.ctl(*arguments, program=program)


def test_services_wait_only_for_services_that_exist_and_can_be_healthy() -> None:
    for service in services().values():
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert services()[other]["healthcheck"]


def test_the_publisher_has_time_to_finish_before_it_is_killed(tmp_path: Path) -> None:
    grace_s = float(services()["publisher"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > load(environ={"HOME": str(tmp_path)}).grace_s
