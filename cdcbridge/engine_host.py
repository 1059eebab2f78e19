"""The built-in engine as a server of this process: its data file opened, its port listened on.

Used by the command `engine`, and by the embedded source, which reads the journal that the server's clients write.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from cdcbridge.engine.core import Engine
from cdcbridge.engine.errors import FileInUse, FileUnusable
from cdcbridge.engine.retention import Retention
from cdcbridge.engine.server import Limits, Server
from cdcbridge.errors import BridgeError, ConfigError, InUse, StateError
from cdcbridge.settings import Address, EngineConfig

Failed = Callable[[BridgeError], None]
"""Called once when something that runs in the background can go on no more."""


@asynccontextmanager
async def hosted_engine(
    config: EngineConfig, log: FilteringBoundLogger, failed: Failed, data: Path | None = None
) -> AsyncIterator[Server]:
    """The engine on its port, until the block ends; then its clients are let go and the file is synced and closed.

    `data` is the file, where it is not the configured one. A disk that refuses while it runs is told to `failed`.

    Raises:
        ConfigError: the file or the port cannot be had.
    """
    tls = _tls(config)
    engine = _opened(data or config.data, config)
    try:
        server = Server(
            engine,
            password=config.password.get_secret_value() if config.password else "",
            iterations=config.pbkdf2_iterations,
            tls=tls,
            limits=Limits(query_bytes=config.max_query_bytes, cursors=config.max_cursors),
            on_fatal=lambda error: failed(StateError(error.path, error.problem)),
        )
        await _listen(server, config.listen)
        try:
            log.info("engine_ready", address=str(Address(*server.address)), data=str(engine.store.path))
            yield server
        finally:
            await server.close()
    finally:
        _close(engine)


def _tls(config: EngineConfig) -> ssl.SSLContext | None:
    cert, key = config.tls_cert, config.tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        given, missing = (
            ("engine.tls_key", "engine.tls_cert") if cert is None else ("engine.tls_cert", "engine.tls_key")
        )
        raise ConfigError(missing, f"not set, but {given} is", "set both, or neither")
    _check_readable("engine.tls_cert", cert)
    _check_readable("engine.tls_key", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, _Encrypted) as problem:
        reason = "the key needs a password" if isinstance(problem, _Encrypted) else problem.reason or str(problem)
        files = f"{cert} and {key} do not serve as a certificate and its key: {reason}"
        raise ConfigError("engine.tls_cert", files, "give a PEM certificate chain and its unencrypted key") from problem
    return context


class _Encrypted(Exception):
    """A key that asks for a password."""


def _no_password() -> str:
    raise _Encrypted


def _check_readable(setting: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as problem:
        raise ConfigError(setting, f"cannot read {path}: {problem.strerror}", "give a readable PEM file") from problem


def _retention(config: EngineConfig) -> Retention:
    return Retention(config.retain_age_s, config.retain_bytes, config.retain_count, config.retain_hard_bytes)


def _opened(path: Path, config: EngineConfig) -> Engine:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return Engine.open(path, config.initial_values, _retention(config))
    except FileInUse as problem:
        remedy = "stop the other process, or choose another file with --data"
        raise InUse("engine.data", str(problem), remedy, problem.owner) from problem
    except FileUnusable as problem:
        raise ConfigError("engine.data", str(problem), "choose another file with --data") from problem
    except OSError as problem:
        raise ConfigError("engine.data", f"{path.parent}: {problem.strerror}", "choose another file") from problem


async def _listen(server: Server, address: Address) -> None:
    try:
        await server.start(*address)
    except OSError as problem:
        raise _not_listening(address, problem) from problem


def _not_listening(address: Address, problem: OSError) -> ConfigError:
    # asyncio puts the address in front of the system's reason; ours names it already.
    reason = (problem.strerror or str(problem)).rpartition(": ")[2]
    what = f"cannot listen on {address}: {reason}"
    match problem.errno:
        case errno.EADDRINUSE:
            remedy = "stop what listens there, or choose another address with --listen (port 0 picks a free one)"
            return InUse("engine.listen", what, remedy)
        case errno.EACCES:
            return ConfigError("engine.listen", what, "choose a port from 1024 on with --listen")
        case _:
            return ConfigError("engine.listen", what, "choose an address of this machine with --listen")


def _close(engine: Engine) -> None:
    try:
        engine.close()
    except FileUnusable as problem:
        raise StateError(problem.path, problem.problem) from problem
