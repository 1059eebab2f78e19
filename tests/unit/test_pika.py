"""What we rely on inside pika. A failure here means: read what pika changed before its new version goes in."""

from __future__ import annotations

import pika
import pika.frame
import pika.spec
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection

from cdcbridge.broker.confirms import Ack
from cdcbridge.broker.connection import _Driver, parameters

HEARTBEAT = pika.frame.Heartbeat().marshal()


class Transport:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """As the transports of pika's adapters."""
        self.written.append(bytes(data))


class Heart:
    """Counts heartbeats, as pika's checker."""

    def __init__(self) -> None:
        self.beats = 0

    def received(self) -> None:
        """As pika's checker."""
        self.beats += 1


class Unconnected(_Driver):
    """A connection without a network."""

    acks: list[Ack]
    _transport: Transport | None

    def _adapter_connect_stream(self) -> None:
        self._transport = Transport()
        self._heartbeat_checker = Heart()


@pytest.fixture
async def driver() -> Unconnected:
    """A connection without a network; its channel 1 publishes."""
    made = Unconnected(parameters("amqp://127.0.0.1/", connection_name="test", heartbeat_s=60))
    assert isinstance(made._transport, Transport), "pika no longer connects in _adapter_connect_stream"
    made.acks = []
    made.read_acks(1, made.acks.extend)
    return made


def ack(tag: int, multiple: bool = False) -> bytes:
    """A confirm on channel 1."""
    frame: bytes = pika.frame.Method(1, pika.spec.Basic.Ack(tag, multiple)).marshal()
    return frame


async def test_frames_go_to_the_transport_as_they_are_and_count_for_the_heartbeat(driver: Unconnected) -> None:
    driver.write(b"frames")
    assert driver._transport is not None
    assert driver._transport.written == [b"frames"]
    assert driver.bytes_sent == len(b"frames")


async def test_nothing_is_written_to_a_connection_that_is_gone(driver: Unconnected) -> None:
    driver._transport = None
    driver.write(b"frames")
    assert driver.bytes_sent == 0


async def test_confirms_are_read_here_and_other_frames_by_pika(driver: Unconnected) -> None:
    driver._on_data_available(ack(1) + HEARTBEAT + ack(2, multiple=True))
    assert driver.acks == [(1, False), (2, True)]
    assert driver._heartbeat_checker.beats == 1


async def test_all_bytes_count_as_received(driver: Unconnected) -> None:
    data = ack(1) + HEARTBEAT + ack(2)
    driver._on_data_available(data)
    assert driver.bytes_received == len(data)
    assert driver.frames_received == 3


async def test_a_frame_may_come_byte_by_byte(driver: Unconnected) -> None:
    for byte in ack(1) + HEARTBEAT + ack(2):
        driver._on_data_available(bytes([byte]))
    assert driver.acks == [(1, False), (2, False)]
    assert driver._heartbeat_checker.beats == 1


@pytest.mark.parametrize(
    "name",
    [
        "_output_marshaled_frames",
        "_on_data_available",
        "_on_connection_workflow_done",
        "_adapter_connect_stream",
    ],
)
def test_the_private_names_are_still_there(name: str) -> None:
    assert callable(getattr(AsyncioConnection, name, None)), f"pika {pika.__version__} has no {name}"
