"""What goes wrong between a command and a running server: one clear line, exit status 2, no traceback, no password."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlAuthError, ReqlDriverError

from tests.conftest import Broker
from tests.processes import Process, Processes
from tests.recording import rabbitmq_channel

HOST = "127.0.0.1"
MISCONFIGURED = 2
WRONG = "wr0ng-secret"

V1_0 = struct.pack("<L", 0x34C2BDC3)
"""How a handshake begins."""

ERRORS = (16, 17, 18)
"""CLIENT_ERROR, COMPILE_ERROR, RUNTIME_ERROR."""


def complaint(process: Process) -> str:
    """The one line that a command said before it ended, beside its log."""
    assert process.ended() == MISCONFIGURED, process.stderr
    (line,) = [line for line in process.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("cdcbridge: ")
    assert process.stdout == ""
    return line


def publish(processes: Processes, broker: Broker, state: Path, *options: str) -> Process:
    places = ("--state", str(state), "--listen", f"{HOST}:0")
    return processes.cdcbridge("publish", "--amqp", broker.url, *places, *options)


# Ports and folders that belong to somebody else ----------------------------------------------------------------------


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("command", ["publish", "engine"])
def test_a_port_in_use_is_named(processes: Processes, tmp_path: Path, taken_port: int, command: str) -> None:
    place = f"{HOST}:{taken_port}"
    line = complaint(processes.cdcbridge(command, "--state", str(tmp_path), "--listen", place))
    assert "engine.listen" in line
    assert place in line
    assert "in use" in line
    assert "--listen" in line


def test_a_state_folder_in_use_is_named_with_the_process_that_has_it(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    first = publish(processes, broker, tmp_path)
    first.event("bridge_ready")
    line = complaint(publish(processes, broker, tmp_path))
    assert f"{tmp_path} is in use by process {first.pid}" in line
    assert "--state" in line
    assert first.stop() == 0


def test_a_data_file_in_use_is_named_with_the_process_that_has_it(processes: Processes, tmp_path: Path) -> None:
    data = tmp_path / "shop.db"
    command = ("engine", "--data", str(data), "--listen", f"{HOST}:0")
    first = processes.cdcbridge(*command)
    first.event("engine_ready")
    line = complaint(processes.cdcbridge(*command))
    assert str(data) in line
    assert str(first.pid) in line
    assert first.stop() == 0


def test_an_address_of_another_machine_is_not_said_to_be_in_use(processes: Processes, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    options = ("--listen", "192.0.2.1:0", "--password-file", str(secret))
    line = complaint(processes.cdcbridge("engine", "--state", str(tmp_path), *options))
    assert "cannot listen on 192.0.2.1:0: " in line
    assert line.endswith("; choose an address of this machine with --listen")


def test_the_url_of_an_unknown_source_is_refused_before_anything_is_begun(processes: Processes, tmp_path: Path) -> None:
    process = processes.cdcbridge("publish", "mysql://h/db", "--state", str(tmp_path / "state"))
    assert "no source for URLs that begin with mysql:" in complaint(process)
    assert process.log == []
    assert not (tmp_path / "state").exists()


# A change that cannot be sent ----------------------------------------------------------------------------------------


def test_a_change_that_cannot_be_sent_ends_the_publisher_behind_those_before_it(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    template = {"CDCBRIDGE_PUBLISH__ROUTING_KEY": "{table}.{table}"}
    options = ("--amqp", broker.url, "--state", str(tmp_path), "--listen", f"{HOST}:0")
    daemon = processes.cdcbridge("publish", *options, environment=template)
    with r.connect(host=HOST, port=port_of(daemon)) as connection:
        for table in ("good", "x" * 200):
            r.table_create(table).run(connection)
        r.expr([r.table("good").insert({"id": 1}), r.table("x" * 200).insert({"id": 2})]).run(connection)
        assert daemon.ended() == 1
    (line,) = [line for line in daemon.stderr.splitlines() if not line.startswith("{")]
    assert "x" * 200 in line
    assert "publish.routing_key" in line
    again = processes.cdcbridge("publish", *options, environment=template)
    assert again.ended() == 1
    connected = again.event("source_connected")
    assert str(connected["position"]).startswith("1-")
    assert "at position 2-" in again.stderr


# A broker that refuses -----------------------------------------------------------------------------------------------


TOPIC = {"exchange_type": "topic", "durable": True}


@pytest.mark.parametrize(
    ("command", "made", "options", "property"),
    [
        ("publish", TOPIC | {"exchange_type": "fanout"}, (), "type"),
        ("publish", TOPIC | {"durable": False}, ("--durable",), "durable"),
        ("publish", TOPIC, ("--transient",), "durable"),
        ("publish", TOPIC | {"internal": True}, (), "internal"),
        ("listen", TOPIC | {"exchange_type": "fanout"}, (), "type"),
        ("listen", TOPIC | {"durable": False}, ("--durable",), "durable"),
    ],
)
def test_the_property_in_which_an_exchange_differs_is_named(
    processes: Processes,
    broker: Broker,
    tmp_path: Path,
    command: str,
    made: dict[str, object],
    options: tuple[str, ...],
    property: str,
) -> None:
    with rabbitmq_channel(broker.url) as channel:
        channel.exchange_declare("orders", **made)
    options = ("--exchange", "orders", *options)
    if command == "publish":
        line = complaint(publish(processes, broker, tmp_path, *options))
    else:
        line = complaint(processes.cdcbridge("listen", "#", "--amqp", broker.url, *options))
    assert "'orders'" in line
    assert f"{property} = " in line


def test_an_exchange_that_is_not_durable_is_used_as_it_is_where_nothing_else_was_asked_for(
    processes: Processes, broker: Broker, tmp_path: Path
) -> None:
    with rabbitmq_channel(broker.url) as channel:
        channel.exchange_declare("orders", exchange_type="topic", durable=False)
    daemon = publish(processes, broker, tmp_path, "--exchange", "orders")
    daemon.event("bridge_ready")
    assert daemon.stop() == 0


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"guest:{password}@{parts.hostname}:{parts.port}").geturl()


@pytest.mark.parametrize("command", [("publish", "--listen", f"{HOST}:0"), ("listen", "#"), ("check",)])
def test_a_wrong_password_is_called_that_and_not_shown(
    processes: Processes, broker: Broker, tmp_path: Path, command: tuple[str, ...]
) -> None:
    state = {"CDCBRIDGE_STATE": str(tmp_path), "CDCBRIDGE_ENGINE__LISTEN": f"{HOST}:0"}
    process = processes.cdcbridge(*command, "--amqp", with_password(broker.url, WRONG), environment=state)
    if command[0] == "check":
        assert process.ended() == MISCONFIGURED
        (line,) = [line for line in process.stdout.splitlines() if line.startswith("FAILED")]
    else:
        line = complaint(process)
    assert "rabbitmq.url" in line
    assert "password" in line
    assert WRONG not in process.stdout + process.stderr


def test_a_virtual_host_that_is_not_there_is_named(processes: Processes, broker: Broker, tmp_path: Path) -> None:
    url = broker.url.replace(broker.vhost, "nowhere")
    places = ("--state", str(tmp_path), "--listen", f"{HOST}:0")
    line = complaint(processes.cdcbridge("publish", "--amqp", url, *places))
    assert "nowhere" in line
    assert "guest:guest" not in line


# Clients that do not speak the engine's protocol ---------------------------------------------------------------------


@pytest.fixture
def engine(processes: Processes, tmp_path: Path) -> Process:
    return processes.cdcbridge("engine", "--data", str(tmp_path / "engine.db"), "--listen", f"{HOST}:0")


def port_of(engine: Process) -> int:
    return int(str(engine.event("engine_ready")["address"]).rpartition(":")[2])


def said_last(client: socket.socket) -> bytes:
    """The last of what the engine says before it closes its side."""
    with client.makefile("rb") as stream:
        return stream.read().rstrip(b"\0").rpartition(b"\0")[2]


@pytest.mark.parametrize(
    ("bytes_sent", "refusal"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", b"ERROR: ", id="HTTP"),
        pytest.param(b"\x00" * 64, b"ERROR: ", id="zeros"),
        pytest.param(V1_0 + b"not json\0", b'{"success":false,', id="no JSON"),
        pytest.param(V1_0 + b"[]\0", b'{"success":false,', id="no object"),
        pytest.param(V1_0 + b"{}\0", b'{"success":false,', id="no version"),
    ],
)
def test_a_malformed_handshake_is_refused_and_hurts_no_other_client(
    engine: Process, bytes_sent: bytes, refusal: bytes
) -> None:
    port = port_of(engine)
    with r.connect(host=HOST, port=port) as other, socket.create_connection((HOST, port), 30) as client:
        client.sendall(bytes_sent)
        assert said_last(client).startswith(refusal)
        assert r.expr(1).add(1).run(other) == 2
    assert engine.stop() == 0
    assert engine.events().count("client_refused") == 1


def query(token: int, body: bytes) -> bytes:
    return struct.pack("<QL", token, len(body)) + body


def response(client: socket.socket) -> tuple[int, dict[str, object]]:
    token, size = struct.unpack("<QL", received(client, 12))
    return token, json.loads(received(client, size))


def received(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        assert part, f"the engine hung up after {data!r}"
        data += part
    return data


@pytest.mark.parametrize("body", [b"not json", b"[]", b"[1]", b"[1,[9999]]", b"[77]", b'[1,[15,["no-such-table"]]]'])
def test_a_malformed_query_is_answered_with_an_error_and_hurts_no_other_client(engine: Process, body: bytes) -> None:
    port = port_of(engine)
    with r.connect(host=HOST, port=port) as other, r.connect(host=HOST, port=port) as bad:
        client = bad._instance._socket._socket
        client.sendall(query(77, body))
        token, said = response(client)
        assert token == 77
        assert said["t"] in ERRORS
        assert r.expr(1).add(1).run(other) == 2
        client.sendall(query(78, b"[1,[24,[1,1]]]"))
        assert response(client) == (78, {"t": 1, "r": [2]})
    assert engine.stop() == 0


def test_a_client_that_hangs_up_in_the_middle_hurts_no_other_client(engine: Process) -> None:
    port = port_of(engine)
    with r.connect(host=HOST, port=port) as other:
        with r.connect(host=HOST, port=port) as bad:
            bad._instance._socket._socket.sendall(query(1, b"[1,[24,[1,1]]]")[:-4])
        assert r.expr(1).add(1).run(other) == 2
    assert engine.stop() == 0


def test_a_wrong_password_on_the_engines_port_is_refused_and_hurts_no_other_client(
    processes: Processes, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    places = ("--data", str(tmp_path / "engine.db"), "--listen", f"{HOST}:0")
    engine = processes.cdcbridge("engine", *places, "--password-file", str(secret))
    port = port_of(engine)
    with r.connect(host=HOST, port=port, password="s3cret") as other:
        with pytest.raises((ReqlAuthError, ReqlDriverError), match="password"):
            r.connect(host=HOST, port=port, password=WRONG)
        assert r.expr(1).add(1).run(other) == 2
    assert engine.stop() == 0
    assert engine.events().count("client_refused") == 1
    assert "s3cret" not in engine.stderr
