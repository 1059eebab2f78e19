"""Confirms, read out of the bytes that the broker sends."""

from __future__ import annotations

from itertools import pairwise

import pika.frame
import pika.spec
from hypothesis import given
from hypothesis import strategies as st

from cdcbridge.broker.confirms import Ack, ack_start, split

START = ack_start(7)
HEARTBEAT = pika.frame.Heartbeat().marshal()


def ack(tag: int, multiple: bool = False, channel: int = 7) -> bytes:
    """A confirm as pika writes it."""
    frame: bytes = pika.frame.Method(channel, pika.spec.Basic.Ack(tag, multiple)).marshal()
    return frame


def nack(tag: int) -> bytes:
    """A refusal as pika writes it."""
    frame: bytes = pika.frame.Method(7, pika.spec.Basic.Nack(tag)).marshal()
    return frame


def test_confirms_are_read() -> None:
    assert list(split(ack(1) + ack(5, multiple=True) + ack(2**64 - 1), START)) == [
        [(1, False), (5, True), (2**64 - 1, False)]
    ]


def test_other_frames_come_whole_and_in_turn() -> None:
    data = ack(1) + nack(2) + HEARTBEAT + ack(3)
    assert list(split(data, START)) == [[(1, False)], nack(2), HEARTBEAT, [(3, False)]]


def test_a_confirm_of_another_channel_is_left_alone() -> None:
    assert list(split(ack(1, channel=8), START)) == [ack(1, channel=8)]


def test_a_confirm_with_a_wrong_end_is_left_to_pika() -> None:
    broken = ack(1)[:-1] + b"\x00"
    assert list(split(broken, START)) == [broken]


def test_a_server_that_speaks_another_protocol_is_left_to_pika() -> None:
    assert list(split(b"AMQP\x00\x00\x09\x01", START)) == [b"AMQP\x00\x00\x09\x01"]


def test_every_truncation_leaves_the_rest_for_later() -> None:
    whole = ack(1) + nack(2) + ack(3) + HEARTBEAT
    for cut in range(len(whole) + 1):
        assert joined(list(split(whole[:cut], START))) == whole[:cut]


def joined(parts: list[list[Ack] | bytes]) -> bytes:
    """The bytes again."""
    return b"".join(
        part if isinstance(part, bytes) else b"".join(ack(tag, multiple) for tag, multiple in part) for part in parts
    )


frames = st.one_of(
    st.builds(ack, st.integers(0, 2**64 - 1), st.booleans()),
    st.builds(nack, st.integers(0, 2**64 - 1)),
    st.just(HEARTBEAT),
)


@given(stream=st.lists(frames, max_size=20), data=st.data())
def test_nothing_is_lost_wherever_the_stream_is_cut(stream: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(stream)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    seen: list[list[Ack] | bytes] = []
    left = b""
    for start, end in pairwise([0, *cuts, len(whole)]):
        parts = list(split(left + whole[start:end], START))
        left = parts.pop() if parts and isinstance(parts[-1], bytes) and parts[-1] not in stream else b""  # type: ignore[assignment]
        seen += parts
    assert left == b""
    assert joined(seen) == whole
