"""What keeps the engine's server safe: TLS, slow hashing, and limits of what one client may cost."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlResourceLimitError, ReqlServerCompileError

from cdcbridge import logs
from cdcbridge.config import load
from cdcbridge.engine.core import Engine
from cdcbridge.engine.server import MAX_RUNNING, Limits, Server
from cdcbridge.engine_host import hosted_engine
from cdcbridge.errors import BridgeError, ConfigError
from tests.conftest import missing

HOST = "127.0.0.1"
WAIT_S = 30.0
"""Longer than anything here takes; a test that needs it fails."""
MAGIC_1_0 = struct.pack("<I", 0x34C2BDC3)
MAGIC_0_4 = struct.pack("<I", 0x400C2D20)
JSON = struct.pack("<I", 0x7E6970C7)


@asynccontextmanager
async def serving(path: Path, **options: Any) -> AsyncIterator[Server]:
    """A server in the test's own loop; what blocks has to go into a thread."""
    engine = Engine.open(path)
    server = Server(engine, close_grace_s=0.01, **options)
    await server.start(HOST, 0)
    try:
        yield server
    finally:
        await server.close()
        engine.close()


@asynccontextmanager
async def raw(server: Server) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client past the handshake, that sends what it likes."""
    reader, writer = await asyncio.open_connection(*server.address)
    writer.write(MAGIC_0_4 + struct.pack("<I", 0) + JSON)
    assert await reader.readuntil(b"\0") == b"SUCCESS\0"
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def ask(writer: asyncio.StreamWriter, token: int, *query: Any) -> None:
    text = json.dumps(query).encode()
    writer.write(struct.pack("<qI", token, len(text)) + text)


async def answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    _, length = struct.unpack("<qI", await reader.readexactly(12))
    found: dict[str, Any] = json.loads(await reader.readexactly(length))
    return found


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for this machine that nobody has signed, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", f"subjectAltName=DNS:localhost,IP:{HOST}"]
    try:
        subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    except FileNotFoundError:
        missing("openssl", "install it with: apt-get install openssl")
    return cert, key


def config(tmp_path: Path, **engine: Any) -> Any:
    flags = {"state": tmp_path, "engine.listen": f"{HOST}:0"} | {
        f"engine.{key}": value for key, value in engine.items()
    }
    return load(flags, environ={}).engine


@asynccontextmanager
async def hosted(tmp_path: Path, **engine: Any) -> AsyncIterator[Server]:
    """The engine as the commands run it, with these settings."""
    failures: list[BridgeError] = []
    async with hosted_engine(config(tmp_path, **engine), logs.configure("error"), failures.append) as server:
        yield server
    assert not failures


class TestTls:
    @pytest.mark.filterwarnings("ignore:ssl:DeprecationWarning")  # by the driver
    async def test_the_driver_connects_with_the_certificate(
        self, tmp_path: Path, certificate: tuple[Path, Path]
    ) -> None:
        cert, key = certificate
        async with hosted(tmp_path, tls_cert=cert, tls_key=key, password="secret") as server:
            trusting = {"ssl": {"ca_certs": str(cert)}, "password": "secret"}
            conn = await asyncio.to_thread(r.connect, HOST, server.address[1], **trusting)
            assert await asyncio.to_thread(r.expr("x" * 3_000_000).count().run, conn) == 3_000_000
            await asyncio.to_thread(conn.close)

    async def test_a_client_without_tls_gets_nothing(self, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
        cert, key = certificate
        async with hosted(tmp_path, tls_cert=cert, tls_key=key) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(MAGIC_1_0 * 20)
            assert b"success" not in await asyncio.wait_for(reader.read(), WAIT_S)
            writer.close()

    async def test_a_refusal_reaches_the_client(self, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
        cert, key = certificate
        async with hosted(tmp_path, tls_cert=cert, tls_key=key) as server:
            context = ssl.create_default_context(cafile=cert)
            reader, writer = await asyncio.open_connection(*server.address, ssl=context)
            writer.write(b"GET / HTTP/1.0\r\n\r\n")
            assert (await reader.readuntil(b"\0")).startswith(b"ERROR: Received an unsupported protocol version.")
            writer.close()
            await writer.wait_closed()

    async def test_one_without_the_other_is_a_mistake(self, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
        with pytest.raises(
            ConfigError, match=r"^engine.tls_key: not set, but engine.tls_cert is; set both, or neither$"
        ):
            await refused(tmp_path, tls_cert=certificate[0])

    async def test_a_missing_file_is_named(self, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
        with pytest.raises(ConfigError, match=r"^engine.tls_key: cannot read /nowhere/key.pem: No such file"):
            await refused(tmp_path, tls_cert=certificate[0], tls_key="/nowhere/key.pem")

    async def test_a_key_of_something_else_is_a_mistake(self, tmp_path: Path, certificate: tuple[Path, Path]) -> None:
        cert, _ = certificate
        with pytest.raises(ConfigError, match=r"^engine.tls_cert: .*do not serve as a certificate and its key"):
            await refused(tmp_path, tls_cert=cert, tls_key=cert)

    async def test_a_key_with_a_password_is_a_mistake_and_asks_nobody(
        self, tmp_path: Path, certificate: tuple[Path, Path]
    ) -> None:
        cert, key = certificate
        locked = tmp_path / "locked.pem"
        locked.write_bytes(encrypted(key))
        with pytest.raises(ConfigError, match=r"the key needs a password; give a PEM .* unencrypted key$"):
            await refused(tmp_path, tls_cert=cert, tls_key=locked)


def encrypted(key: Path) -> bytes:
    command = ["openssl", "pkcs8", "-topk8", "-in", str(key), "-passout", "pass:x"]
    return subprocess.run(command, check=True, capture_output=True).stdout


async def refused(tmp_path: Path, **engine: Any) -> None:
    async with hosted(tmp_path, **engine):
        pytest.fail("it was taken")


class TestPassword:
    async def test_the_iterations_are_those_of_the_configuration(self, tmp_path: Path) -> None:
        async with hosted(tmp_path, password="secret", pbkdf2_iterations=20_000) as server:
            assert await iterations(server) == 20_000
            await asyncio.to_thread(lambda: r.connect(HOST, server.address[1], password="secret").close())

    async def test_it_can_come_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "password").write_text("secret\n")
        async with hosted(tmp_path, password_file=tmp_path / "password") as server:
            await asyncio.to_thread(lambda: r.connect(HOST, server.address[1], password="secret").close())


async def iterations(server: Server) -> int:
    """What the server asks a client to do."""
    reader, writer = await asyncio.open_connection(*server.address)
    first = {"protocol_version": 0, "authentication_method": "SCRAM-SHA-256", "authentication": "n,,n=admin,r=abc"}
    writer.write(MAGIC_1_0 + json.dumps(first).encode() + b"\0")
    await reader.readuntil(b"\0")
    said = json.loads((await reader.readuntil(b"\0"))[:-1])["authentication"]
    writer.close()
    await writer.wait_closed()
    fields = dict(part.split("=", 1) for part in said.split(","))
    assert len(base64.b64decode(fields["s"])) == 16
    return int(fields["i"])


class TestLimits:
    async def test_a_query_that_is_too_large_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        async with (
            serving(tmp_path / "x.db", limits=Limits(query_bytes=2000)) as server,
            raw(server) as (reader, writer),
        ):
            writer.write(struct.pack("<qI", 7, 2001))
            assert (await answer(reader))["r"] == ["Query size (2001) greater than maximum (2000)."]
            assert await reader.read() == b""

    async def test_one_cursor_too_many_is_refused_and_closing_one_makes_room(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "x.db", limits=Limits(cursors=3)) as server:
            await asyncio.to_thread(open_too_many_cursors, server)

    async def test_nesting_has_a_limit(self, tmp_path: Path) -> None:
        total = r.expr(1)
        for _ in range(250):
            total = total + 1
        async with serving(tmp_path / "x.db") as server:
            with pytest.raises(ReqlServerCompileError, match="Query nested deeper than 200 levels"):
                await asyncio.to_thread(run, server, total)

    async def test_nested_json_that_would_exhaust_the_stack_is_an_answer(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "x.db") as server, raw(server) as (reader, writer):
            text = b"[1," + b"[" * 500_000 + b"]" * 500_000 + b"]"
            writer.write(struct.pack("<qI", 1, len(text)) + text)
            assert (await answer(reader))["t"] == 16

    async def test_an_array_has_a_limit(self, tmp_path: Path) -> None:
        async with serving(tmp_path / "x.db") as server:
            with pytest.raises(ReqlResourceLimitError, match="Array over size limit `5`"):
                await asyncio.to_thread(run, server, r.expr([1] * 4).concat_map(lambda x: [x, x]), array_limit=5)

    async def test_a_silent_client_costs_a_bounded_amount_of_memory(self, tmp_path: Path) -> None:
        """It asks for far more than is kept for it, and reads nothing."""
        size, limits = 50_000, Limits(unread_bytes=100_000)
        async with (
            serving(tmp_path / "x.db", limits=limits) as server,
            raw(server) as (_, writer),
            raw(server) as other,
        ):
            first, second = server._clients
            for token in range(5000):
                ask(writer, token, 1, "x" * size)
            while (kept := first.unread_bytes + second.unread_bytes) <= limits.unread_bytes:
                ask(other[1], 1, 1, "still there?")
                assert (await answer(other[0]))["r"] == ["still there?"]
            assert kept <= limits.unread_bytes + (MAX_RUNNING + 1) * size


def run(server: Server, query: Any, **options: Any) -> Any:
    with r.connect(*server.address) as conn:
        return query.run(conn, **options)


def open_too_many_cursors(server: Server) -> None:
    with r.connect(*server.address) as conn:
        r.table_create("t").run(conn)
        feeds = [r.table("t").changes().run(conn) for _ in range(3)]
        with pytest.raises(ReqlResourceLimitError, match=r"Too many open cursors on this connection \(limit 3\)"):
            r.table("t").changes().run(conn)
        feeds.pop().close()
        r.table("t").insert({"id": 1}).run(conn)
        assert feeds[0].next(wait=WAIT_S)["new_val"] == {"id": 1}
