"""AMQP 0-9-1 frames of a whole batch of messages, from prepared templates. Pure.

A message is a method frame, a header frame and body frames. Most of the first two is the same for all messages of an
envelope: it is made once, and a message only fills the gaps, with nothing copied but in the one join at the end.

Source: AMQP 0-9-1, sections 2.3.5 (frames), 4.2 (wire format) and the class `basic`; RabbitMQ's errata for the types
of the fields in a table (`S` long string, `l` signed 64 bits).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import chain

from cdcbridge.encode import KEY_HEADER, POSITION_HEADER, TIME_HEADER, Envelope, Message
from cdcbridge.errors import EncodeError

METHOD_FRAME, HEADER_FRAME, BODY_FRAME = 1, 2, 3
FRAME_END = b"\xce"
FRAME_OVERHEAD_BYTES = 8
SHORT_STRING_MAX_BYTES = 255

BASIC_CLASS = 60
PUBLISH_METHOD = 40
MANDATORY = 1
CLASS_AND_WEIGHT = struct.pack(">HH", BASIC_CLASS, 0)
# content_type, headers, delivery_mode, message_id, timestamp, type, app_id: the order in which they are written.
PROPERTY_FLAGS = struct.pack(">H", 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 6 | 1 << 5 | 1 << 3)

TEMPLATES_MAX = 4096
"""More are not kept: a stream that never stops making up tables must not eat the memory."""


class Framer:
    """Makes the frames of messages for one channel; `frame_max` is what the connection has agreed on.

    `mandatory`: the broker gives back what it cannot route.
    """

    def __init__(self, channel: int, frame_max: int, *, mandatory: bool = True) -> None:
        self._channel = channel
        self._payload_max = frame_max - FRAME_OVERHEAD_BYTES
        self._mandatory = mandatory
        self._templates: dict[int, _Template] = {}

    def frames(self, messages: Sequence[Message]) -> bytes:
        """The frames of all `messages`, in order, to be written in one piece.

        Raises:
            EncodeError: one of them does not fit into AMQP's frames; it is named, and none of them may be sent.
        """
        pieces: list[bytes] = []
        for message in messages:
            try:
                self._append(pieces, message)
            except (struct.error, UnicodeEncodeError) as exc:
                raise _refusal(message) from exc
        return b"".join(pieces)

    def _append(self, pieces: list[bytes], message: Message) -> None:
        template = self._templates.get(id(message.envelope)) or self._prepare(message.envelope)
        body, key = message.body, message.key
        position, message_id = message.position.encode(), message.message_id.encode()
        in_table = len(key) + len(position)
        payload = template.payload_bytes + in_table + len(message_id)
        if payload > self._payload_max:
            raise EncodeError(f"message {message.message_id!r}: properties of {payload} bytes do not fit into a frame")
        pieces += (
            template.pack_1(template.part_1, payload, CLASS_AND_WEIGHT, len(body), template.part_2,
                            template.table_bytes + in_table, template.part_3, len(key)),
            key,
            template.pack_4(template.part_4, len(position)),
            position,
            template.pack_5(template.part_5, message.time_ms, template.delivery_mode, len(message_id)),
            message_id,
        )  # fmt: skip
        if 0 < len(body) <= self._payload_max:
            pieces += (template.pack_6(message.timestamp_s, template.part_6, len(body)), body, FRAME_END)
        else:
            pieces += (template.pack_end(message.timestamp_s, template.part_end), *self._split(template, body))

    def _split(self, template: _Template, body: bytes) -> Iterator[bytes]:
        """A body that is not exactly one frame: as many as it needs, none for an empty one."""
        starts = range(0, len(body), self._payload_max)
        parts = (body[start : start + self._payload_max] for start in starts)
        return chain.from_iterable(
            (template.body_start, struct.pack(">I", len(part)), part, FRAME_END) for part in parts
        )

    def _prepare(self, envelope: Envelope) -> _Template:
        if len(self._templates) >= TEMPLATES_MAX:
            self._templates.clear()
        template = _Template(envelope, self._channel, self._mandatory)
        # Found by identity, which is cheaper than a hash over all the texts. The template holds the envelope, so that
        # no other one can get the same identity.
        self._templates[id(envelope)] = template
        return template


class _Template:
    """The bytes that all messages of one envelope share, cut at the gaps that a message fills in.

    `part_N` is what stands before the Nth gap, `pack_N` writes it together with the numbers around it.
    """

    __slots__ = (
        "body_start", "delivery_mode", "envelope", "pack_1", "pack_4", "pack_5", "pack_6", "pack_end",
        "part_1", "part_2", "part_3", "part_4", "part_5", "part_6", "part_end", "payload_bytes", "table_bytes",
    )  # fmt: skip

    def __init__(self, envelope: Envelope, channel: int, mandatory: bool) -> None:
        self.envelope = envelope
        self.delivery_mode = envelope.delivery_mode
        self.body_start = struct.pack(">BH", BODY_FRAME, channel)
        self.part_1 = _publish_frame(envelope, channel, mandatory) + struct.pack(">BH", HEADER_FRAME, channel)
        self.part_2 = PROPERTY_FLAGS + _short("content_type", envelope.content_type)
        constant = b"".join(_short("header", name) + _long(value) for name, value in envelope.headers)
        self.part_3 = constant + _short("header", KEY_HEADER) + b"S"
        self.part_4 = _short("header", POSITION_HEADER) + b"S"
        self.part_5 = _short("header", TIME_HEADER) + b"l"
        self.part_end = _short("type", envelope.type) + _short("app_id", envelope.app_id) + FRAME_END
        self.part_6 = self.part_end + self.body_start
        self.pack_1 = struct.Struct(f">{len(self.part_1)}sI4sQ{len(self.part_2)}sI{len(self.part_3)}sI").pack
        self.pack_4 = struct.Struct(f">{len(self.part_4)}sI").pack
        self.pack_5 = struct.Struct(f">{len(self.part_5)}sqBB").pack
        self.pack_6 = struct.Struct(f">Q{len(self.part_6)}sI").pack
        self.pack_end = struct.Struct(f">Q{len(self.part_end)}s").pack
        self.table_bytes = len(self.part_3) + 4 + len(self.part_4) + 4 + len(self.part_5) + 8
        """The header table without its length, and without key and position."""
        outside = len(CLASS_AND_WEIGHT) + 8 + len(self.part_2) + 4 + 1 + 1 + 8 + len(self.part_end) - len(FRAME_END)
        self.payload_bytes = outside + self.table_bytes
        """The payload of the header frame without key, position and message_id."""


def _publish_frame(envelope: Envelope, channel: int, mandatory: bool) -> bytes:
    """The method frame of `basic.publish`."""
    payload = (
        struct.pack(">HHH", BASIC_CLASS, PUBLISH_METHOD, 0)
        + _short("exchange", envelope.exchange)
        + _short("routing key", envelope.routing_key)
        + bytes([MANDATORY if mandatory else 0])
    )
    return struct.pack(">BHI", METHOD_FRAME, channel, len(payload)) + payload + FRAME_END


def _short(what: str, text: str) -> bytes:
    """A short string: its length in one byte, then UTF-8."""
    encoded = text.encode()
    if len(encoded) > SHORT_STRING_MAX_BYTES:
        raise EncodeError(
            f"{what} {text[:40]!r}… is {len(encoded)} bytes long, and AMQP allows {SHORT_STRING_MAX_BYTES}"
        )
    return bytes([len(encoded)]) + encoded


def _long(text: str) -> bytes:
    """A long string as the value of a header: its type, its length in four bytes, then UTF-8."""
    encoded = text.encode()
    return struct.pack(">cI", b"S", len(encoded)) + encoded


def _refusal(message: Message) -> EncodeError:
    """Why `message` cannot be framed: found out only when it has failed, to keep the checks off the hot path."""
    try:
        _short("message_id", message.message_id)
        message.position.encode()
    except EncodeError as exc:
        return exc
    except UnicodeEncodeError:
        return EncodeError(f"message {message.message_id!r} has text that UTF-8 cannot express")
    return EncodeError(
        f"message {message.message_id!r}: its time is out of range: {message.timestamp_s} s, {message.time_ms} ms"
    )
