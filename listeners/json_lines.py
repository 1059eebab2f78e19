"""Change → text for a program: one JSON document a line. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from listeners.decode import Incoming, Received
from listeners.pretty import readable

_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


class JsonLines:
    """Shows each message as `{"routing_key", "message_id", "timestamp", "headers", "body"}`.

    `timestamp` is in seconds, `null` what the publisher did not set. Header values that JSON lacks become text: dates
    ISO 8601, bytes base64.
    """

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()

    def change(self, received: Received) -> bytes:
        """A change, its body as it came: no number and no escape is rewritten."""
        # Inside JSON's strings a line end is always escaped: those that are left are blanks between tokens.
        return self._line(received, msgspec.Raw(received.body_json.translate(_NO_LINE_ENDS)))

    def unreadable(self, incoming: Incoming, problem: str) -> bytes:
        """A message that is not JSON: its body as a string, and one more key, `problem`."""
        return self._line(incoming, readable(incoming.body), problem=problem)

    def _line(self, message: Incoming | Received, body: Any, **more: str) -> bytes:
        document = {
            "routing_key": message.routing_key,
            "message_id": message.message_id,
            "timestamp": message.timestamp_s,
            "headers": message.headers,
            "body": body,
        }
        return self._encoder.encode(document | more) + b"\n"
