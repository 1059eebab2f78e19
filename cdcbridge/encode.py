"""Change → message: the body, the properties and the headers. Every name of the wire contract stands here.

What all messages of one routing key share is an `Envelope`, made once; a `Message` is what differs. The broker room
prepares bytes from the envelope once and fills in the rest for each message.
"""

from __future__ import annotations

import msgspec

from cdcbridge.change import Change, Operation, Position

APP_ID = "cdcbridge"
CONTENT_TYPE = "application/json"
DELIVERY_MODE_PERSISTENT = 2

TABLE_HEADER = "cdc-table"
OPERATION_HEADER = "cdc-operation"
SOURCE_HEADER = "cdc-source"
KEY_HEADER = "cdc-key"
POSITION_HEADER = "cdc-position"
TIME_HEADER = "cdc-time-ms"


class Envelope(msgspec.Struct, frozen=True):
    """What all messages of one table and one operation share."""

    exchange: str
    routing_key: str
    type: str
    """AMQP's `type` property: the operation."""
    headers: tuple[tuple[str, str], ...]
    """Headers with one value for all messages of this envelope; AMQP long strings."""
    content_type: str = CONTENT_TYPE
    delivery_mode: int = DELIVERY_MODE_PERSISTENT
    app_id: str = APP_ID


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message: an envelope filled in. `key` (JSON), `position` and `time_ms` travel as headers."""

    envelope: Envelope
    message_id: str
    timestamp_s: int
    key: bytes
    position: Position
    time_ms: int
    body: bytes


class Encoder:
    """Makes messages of one bridge and one source.

    The body is `{"old_val": …, "new_val": …}` with the documents as the source wrote them. The `message_id` is
    `<bridge name>:<position>`: the same change always gets the same id.
    """

    def __init__(self, *, bridge: str, source: str, exchange: str) -> None:
        self._source = source
        self._exchange = exchange
        self._id_prefix = f"{bridge}:"
        self._envelopes: dict[tuple[str, str, Operation], Envelope] = {}

    def message(self, change: Change, operation: Operation, routing_key: str) -> Message:
        """The message for `change`."""
        return self.filled(self.envelope(change.table, operation, routing_key), change)

    def filled(self, envelope: Envelope, change: Change) -> Message:
        """The message for a change of the table and the operation that `envelope` is for."""
        return Message(
            envelope,
            self._id_prefix + change.position,
            change.time_ms // 1000,
            change.key,
            change.position,
            change.time_ms,
            body(change.old_val, change.new_val),
        )

    def envelope(self, table: str, operation: Operation, routing_key: str) -> Envelope:
        """What all messages of one table and one operation share; always the same object."""
        envelope = self._envelopes.get((table, routing_key, operation))
        if envelope is None:
            envelope = Envelope(
                self._exchange,
                routing_key,
                operation.value,
                ((TABLE_HEADER, table), (OPERATION_HEADER, operation.value), (SOURCE_HEADER, self._source)),
            )
            self._envelopes[table, routing_key, operation] = envelope
        return envelope


def body(old_val: bytes | None, new_val: bytes | None) -> bytes:
    """The tutorial's own format: an object with both sides, the absent one `null`."""
    return b'{"old_val":%b,"new_val":%b}' % (old_val or b"null", new_val or b"null")
