"""The handshake of RethinkDB's client protocol: bytes in, events out, until the first query.

V1_0 (SCRAM-SHA-256) is what the drivers since 2.3 speak, V0_4 (the password in the clear) those of 2.0 to 2.2 and some
of other makers. What is older is refused in the words that its drivers show to their users.

Source: "Writing RethinkDB drivers" in RethinkDB's documentation, and the error codes of its server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from cdcbridge.engine.scram import Credentials, Exchange, ScramError
from cdcbridge.engine.wire import Refused, Send

SERVER_VERSION = "2.4.4"
"""The RethinkDB whose protocol is spoken; some drivers look at it."""
MESSAGE_LIMIT_BYTES = 2048

_V0_1, _V0_2, _V0_4, _V1_0 = 0x3F61BA36, 0x723081E1, 0x400C2D20, 0x34C2BDC3
_JSON, _PROTOBUF = 0x7E6970C7, 0x271FFC41
_WRONG_PORT = (
    "Received an unsupported protocol version. This port is for RethinkDB queries."
    " Does your client driver version not match the server?"
)
_NO_PROTOBUF = "The PROTOBUF client protocol is no longer supported"


class Ready(msgspec.Struct, frozen=True):
    """The client is let in. `rest`: what it has sent beyond the handshake, the beginning of its queries."""

    rest: bytes


Event = Send | Ready | Refused


class _Refusal(Exception):
    """The handshake ends: `code` and `message` for a V1_0 client, the message alone for others."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Handshake:
    """One client's handshake.

    `nonce` makes the server's part of the nonce: printable text without a comma, new and unguessable each time.
    """

    def __init__(self, credentials: Credentials, *, nonce: Callable[[], str]) -> None:
        self._credentials = credentials
        self._exchange = Exchange(credentials, nonce())
        self._buffer = bytearray()
        self._modern = False
        self._step: Callable[[], Event | None] | None = self._magic

    def receive(self, data: bytes) -> list[Event]:
        """What follows from these bytes, in order: any number of `Send`, and at the end a `Ready` or a `Refused`.

        After one of these two there are no more events, and whatever is received is dropped.
        """
        self._buffer += data
        events: list[Event] = []
        while self._step is not None and (event := self._advance(self._step)) is not None:
            events.append(event)
        return events

    def _advance(self, step: Callable[[], Event | None]) -> Event | None:
        try:
            return step()
        except (_Refusal, ScramError) as refusal:
            self._step = None
            return Refused(self._refusal(refusal.code, refusal.message), refusal.message)

    def _refusal(self, code: int, message: str) -> bytes:
        if self._modern:
            return _message({"success": False, "error": message, "error_code": code})
        return f"ERROR: {message}\n\0".encode()

    def _magic(self) -> Event | None:
        number = self._number()
        if number is None:
            return None
        if number == _V1_0:
            return self._greeting()
        if number == _V0_4:
            self._step = self._key
            return self._key()
        raise _Refusal(_NO_PROTOBUF if number in (_V0_1, _V0_2) else _WRONG_PORT)

    def _greeting(self) -> Event:
        self._modern = True
        self._step = self._first
        versions = {"min_protocol_version": 0, "max_protocol_version": 0}
        return Send(_message({"success": True, **versions, "server_version": SERVER_VERSION}))

    def _first(self) -> Event | None:
        message = self._object()
        if message is None:
            return None
        _check_versions(message)
        answer = self._exchange.first(_authentication(message))
        self._step = self._final
        return Send(_message({"success": True, "authentication": answer}))

    def _final(self) -> Event | None:
        message = self._object()
        if message is None:
            return None
        answer = self._exchange.final(_authentication(message))
        self._step = self._ready
        return Send(_message({"success": True, "authentication": answer}))

    def _ready(self) -> Event:
        self._step = None
        return Ready(bytes(self._buffer))

    def _key(self) -> Event | None:
        """V0_4: the length of the password, the password, and the number of the protocol that follows."""
        if len(self._buffer) < 4:
            return None
        length = int.from_bytes(self._buffer[:4], "little")
        if length > MESSAGE_LIMIT_BYTES:
            raise _Refusal("Client provided an authorization key that is too long.")
        if len(self._buffer) < 8 + length:
            return None
        key = self._take(4 + length)[4:]
        self._step = self._ready
        return self._old_answer(key, int.from_bytes(self._take(4), "little"))

    def _old_answer(self, key: bytes, protocol: int) -> Event:
        if not self._credentials.admits(key):
            raise _Refusal("Incorrect authorization key.")
        if protocol == _PROTOBUF:
            raise _Refusal(_NO_PROTOBUF)
        if protocol != _JSON:
            raise _Refusal(f"Unrecognized protocol specified: '{protocol}'")
        return Send(b"SUCCESS\0")

    def _number(self) -> int | None:
        if len(self._buffer) < 4:
            return None
        return int.from_bytes(self._take(4), "little")

    def _object(self) -> dict[str, Any] | None:
        """The next message, `None` if it is not complete yet."""
        end = self._buffer.find(0, 0, MESSAGE_LIMIT_BYTES)
        if end < 0:
            if len(self._buffer) >= MESSAGE_LIMIT_BYTES:
                raise _Refusal("Limited read buffer size.", 7)
            return None
        return _parsed(self._take(end + 1)[:-1])

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        message = msgspec.json.decode(text)
    except (ValueError, RecursionError) as exc:
        raise _Refusal("Invalid JSON object.", 8) from exc
    if not isinstance(message, dict):
        raise _Refusal("Failed to convert JSON to datum.", 9)
    return message


def _check_versions(message: dict[str, Any]) -> None:
    version = message.get("protocol_version")
    if isinstance(version, bool) or not isinstance(version, int | float):
        raise _Refusal("Expected a number for `protocol_version`.", 1)
    if version != 0:
        raise _Refusal("Unsupported `protocol_version`.", 2)
    method = message.get("authentication_method")
    if not isinstance(method, str):
        raise _Refusal("Expected a string for `authentication_method`.", 3)
    if method != "SCRAM-SHA-256":
        raise _Refusal("Unsupported `authentication_method`.", 4)


def _authentication(message: dict[str, Any]) -> str:
    authentication = message.get("authentication")
    if not isinstance(authentication, str):
        raise _Refusal("Expected a string for `authentication`.", 5)
    return authentication


def _message(fields: dict[str, Any]) -> bytes:
    return msgspec.json.encode(fields) + b"\0"
