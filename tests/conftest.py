"""Fixtures that more than one folder of tests uses: private RabbitMQ nodes, fresh virtual hosts, unique names.

A missing server skips its tests at home, with the reason; with CI=true it fails them.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdcbridge.broker.node import HOST, PrivateNode, find_server
from tests.processes import Processes

VHOSTS_AT_ONCE = 10


@dataclasses.dataclass(frozen=True)
class Broker:
    """A virtual host with nothing in it, on the session's node."""

    url: str
    vhost: str
    node: PrivateNode


def missing(server: str, remedy: str) -> None:
    """Skip the test at home, fail it where CI=true."""
    reason = f"{server} is not installed; {remedy}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def require_rabbitmq() -> None:
    """Skip or fail where RabbitMQ is missing."""
    if find_server() is None:
        missing("RabbitMQ", "install it with: apt-get install rabbitmq-server")


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[PrivateNode]:
    """One RabbitMQ node for the whole session, without the right to stop it. Prefer `broker`, which is empty."""
    require_rabbitmq()
    with PrivateNode() as node:
        yield node


@pytest.fixture(scope="module")
def killable_rabbitmq() -> Iterator[PrivateNode]:
    """A second node, for tests that stop, kill and restart it. A test leaves it running."""
    require_rabbitmq()
    with PrivateNode() as node:
        yield node


@pytest.fixture(scope="session")
def vhosts(rabbitmq: PrivateNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Names of virtual hosts, each made and never given out before; made by the batch, as `rabbitmqctl` is slow."""
    return fresh_vhosts(rabbitmq, tmp_path_factory.mktemp("vhosts") / "definitions.json")


@pytest.fixture
def broker(rabbitmq: PrivateNode, vhosts: Iterator[str]) -> Broker:
    """A fresh virtual host on the session's node, for one test."""
    vhost = next(vhosts)
    return Broker(f"amqp://guest:guest@{HOST}:{rabbitmq.port}/{vhost}", vhost, rabbitmq)


@pytest.fixture
def unique() -> Callable[[str], str]:
    """`unique("queue")` is a name that no other test has, for nodes that tests share."""
    return lambda prefix: f"{prefix}-{secrets.token_hex(6)}"


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Starts programs; those that still run are ended with the test."""
    with Processes() as started:
        yield started


def fresh_vhosts(node: PrivateNode, definitions: Path) -> Iterator[str]:
    """Make virtual hosts that the user guest may do everything in, and hand out their names, for ever."""
    node.ctl("await_startup")  # a node takes connections before it takes commands
    for batch in itertools.count():
        names = [f"test-{batch}-{number}" for number in range(VHOSTS_AT_ONCE)]
        definitions.write_text(json.dumps(vhost_definitions(names)))
        node.ctl("import_definitions", str(definitions))
        yield from names


def vhost_definitions(names: list[str]) -> dict[str, object]:
    """What `rabbitmqctl import_definitions` reads."""
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    return {
        "vhosts": [{"name": name} for name in names],
        "permissions": [{"user": "guest", "vhost": name} | everything for name in names],
    }
