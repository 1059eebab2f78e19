"""The bytes of messages, compared with those of pika's own encoder."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

import msgspec
import pika.frame
import pika.spec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.compat import long

from cdcbridge.broker.framing import TEMPLATES_MAX, Framer
from cdcbridge.change import Position
from cdcbridge.encode import Envelope, Message
from cdcbridge.errors import EncodeError

FRAME_MAX = 4096

ENVELOPE = Envelope(
    "cdcbridge",
    "users.create",
    "create",
    (("cdc-table", "users"), ("cdc-operation", "create"), ("cdc-source", "embedded")),
)
MESSAGE = Message(
    ENVELOPE, "shop:42", 1_700_000_000, b'"id-1"', Position("42"), 1_700_000_000_123, b'{"old_val":null,"new_val":{}}'
)

short_texts = st.text(max_size=60)
envelopes = st.builds(
    Envelope,
    short_texts,
    short_texts,
    short_texts,
    st.lists(st.tuples(short_texts, st.text(max_size=300)), max_size=5, unique_by=lambda header: header[0]).map(tuple),
    short_texts,
    st.integers(0, 255),
    short_texts,
)
messages = st.builds(
    Message,
    envelopes,
    short_texts,
    st.integers(0, 2**64 - 1),
    st.binary(max_size=200).filter(lambda key: is_text(key)),
    st.text(max_size=200).map(Position),
    st.integers(-(2**63), 2**63 - 1),
    st.one_of(st.binary(max_size=50), st.integers(0, 3 * FRAME_MAX).map(lambda size: b"x" * size)),
)


def is_text(data: bytes) -> bool:
    """Whether pika would take `data` as text."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def by_pika(message: Message, channel: int, frame_max: int, mandatory: bool = True) -> bytes:
    """The same message through pika. Its order of the header table is that of the dict."""
    envelope = message.envelope
    headers: dict[str, object] = dict(envelope.headers)
    assert not {"cdc-key", "cdc-position", "cdc-time-ms"} & headers.keys()
    headers |= {"cdc-key": message.key.decode(), "cdc-position": message.position, "cdc-time-ms": long(message.time_ms)}
    properties = pika.BasicProperties(
        content_type=envelope.content_type,
        headers=headers,
        delivery_mode=envelope.delivery_mode,
        message_id=message.message_id,
        timestamp=message.timestamp_s,
        type=envelope.type,
        app_id=envelope.app_id,
    )
    method = pika.spec.Basic.Publish(exchange=envelope.exchange, routing_key=envelope.routing_key, mandatory=mandatory)
    step = frame_max - 8
    parts = [message.body[start : start + step] for start in range(0, len(message.body), step)]
    frames = [
        pika.frame.Method(channel, method),
        pika.frame.Header(channel, len(message.body), properties),
        *(pika.frame.Body(channel, part) for part in parts),
    ]
    return b"".join(frame.marshal() for frame in frames)


def changed(**fields: object) -> Message:
    """MESSAGE with other fields."""
    return msgspec.structs.replace(MESSAGE, **fields)


def test_a_message_has_the_bytes_that_pika_gives_it() -> None:
    assert Framer(1, 131072).frames([MESSAGE]) == by_pika(MESSAGE, 1, 131072)


def test_a_batch_is_its_messages_one_after_the_other() -> None:
    batch = [changed(message_id=f"shop:{number}", body=b"x" * number) for number in range(5)]
    framer = Framer(3, 131072)
    assert framer.frames(batch) == b"".join(by_pika(message, 3, 131072) for message in batch)


def test_no_messages_are_no_bytes() -> None:
    assert Framer(1, 131072).frames([]) == b""


def test_messages_can_be_sent_without_mandatory() -> None:
    assert Framer(1, 131072, mandatory=False).frames([MESSAGE]) == by_pika(MESSAGE, 1, 131072, mandatory=False)


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 8176, 8177, 100_000])
def test_a_body_is_split_where_the_frame_ends(size: int) -> None:
    message = changed(body=bytes(index % 251 for index in range(size)))
    assert Framer(1, 4096).frames([message]) == by_pika(message, 1, 4096)


@given(batch=st.lists(messages, min_size=1, max_size=4), channel=st.integers(1, 65535), mandatory=st.booleans())
def test_any_message_has_the_bytes_that_pika_gives_it(batch: list[Message], channel: int, mandatory: bool) -> None:
    framer = Framer(channel, FRAME_MAX, mandatory=mandatory)
    assert framer.frames(batch) == b"".join(by_pika(message, channel, FRAME_MAX, mandatory) for message in batch)


def test_an_envelope_is_not_taken_for_an_older_one_that_is_gone() -> None:
    framer = Framer(1, 131072)
    for number in range(3 * TEMPLATES_MAX):
        message = changed(envelope=msgspec.structs.replace(ENVELOPE, routing_key=f"users{number}.create"))
        frames = framer.frames([message])
        assert f"users{number}.create".encode() in frames


TOO_LONG: Sequence[tuple[str, Message]] = [
    ("message_id", changed(message_id="m" * 256)),
    ("exchange", changed(envelope=msgspec.structs.replace(ENVELOPE, exchange="é" * 128))),
    ("routing key", changed(envelope=msgspec.structs.replace(ENVELOPE, routing_key="r" * 256))),
    ("type", changed(envelope=msgspec.structs.replace(ENVELOPE, type="t" * 256))),
    ("header", changed(envelope=msgspec.structs.replace(ENVELOPE, headers=(("h" * 256, ""),)))),
]


@pytest.mark.parametrize(("what", "message"), TOO_LONG)
def test_a_text_of_more_than_255_bytes_is_named(what: str, message: Message) -> None:
    with pytest.raises(EncodeError, match=f"{what} .* 256 bytes"):
        Framer(1, 131072).frames([MESSAGE, message])


def test_the_longest_texts_that_amqp_allows_go_through() -> None:
    message = changed(message_id="m" * 255, envelope=msgspec.structs.replace(ENVELOPE, routing_key="r" * 255))
    assert Framer(1, 131072).frames([message]) == by_pika(message, 1, 131072)


@pytest.mark.parametrize(
    "fields", [{"timestamp_s": -1}, {"timestamp_s": 2**64}, {"time_ms": 2**63}, {"time_ms": -(2**63) - 1}]
)
def test_a_time_out_of_range_is_named(fields: dict[str, int]) -> None:
    with pytest.raises(EncodeError, match=r"shop:42.* time"):
        Framer(1, 131072).frames([changed(**fields)])


def test_text_that_is_no_unicode_is_named() -> None:
    with pytest.raises(EncodeError, match="UTF-8"):
        Framer(1, 131072).frames([changed(position=Position("\ud800"))])


def test_properties_that_do_not_fit_into_a_frame_are_named() -> None:
    """A broker answers a frame above the agreed size by closing the connection, each time it comes again."""
    with pytest.raises(EncodeError, match=r"shop:42.* fit into a frame"):
        Framer(1, 4096).frames([changed(key=b"k" * 5000)])


def test_properties_that_just_fill_a_frame_go_through() -> None:
    rest = len(by_pika(changed(key=b"", body=b""), 1, 4096)) - len(
        pika.frame.Method(
            1, pika.spec.Basic.Publish(exchange=ENVELOPE.exchange, routing_key=ENVELOPE.routing_key)
        ).marshal()
    )
    letters = "".join(random.Random(1).choices(string.ascii_letters, k=4096 - rest))
    message = changed(key=letters.encode())
    assert Framer(1, 4096).frames([message]) == by_pika(message, 1, 4096)
    with pytest.raises(EncodeError):
        Framer(1, 4096).frames([changed(key=letters.encode() + b"k")])
