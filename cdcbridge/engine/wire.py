"""RethinkDB's client protocol after the handshake: bytes to queries, and answers to bytes. No sockets.

A query is a token, a length and JSON; so is its answer. Values enter and leave as JSON text: an answer is joined from
what the engine stored and never parsed here.

Source: ql2.proto and "Writing RethinkDB drivers" in RethinkDB's documentation.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

import msgspec

from cdcbridge.engine.errors import ClientError, CompileError, ErrorType, QueryError

MAX_QUERY_BYTES = 134217727
"""The largest query; RethinkDB's own limit."""

MAX_ANSWER_BYTES = 2**32 - 1
"""The largest answer: what its length field can hold."""

_HEADER = struct.Struct("<qI")


class QueryType(IntEnum):
    """What a client asks for: the first element of a query."""

    START = 1
    CONTINUE = 2
    STOP = 3
    NOREPLY_WAIT = 4
    SERVER_INFO = 5


class AnswerType(IntEnum):
    """The `t` of an answer."""

    SUCCESS_ATOM = 1
    SUCCESS_SEQUENCE = 2
    SUCCESS_PARTIAL = 3
    WAIT_COMPLETE = 4
    SERVER_INFO = 5
    CLIENT_ERROR = 16
    COMPILE_ERROR = 17
    RUNTIME_ERROR = 18


class Send(msgspec.Struct, frozen=True):
    """Bytes for the client."""

    data: bytes


class Refused(msgspec.Struct, frozen=True):
    """The last bytes for this client, before its connection is closed; `reason` is for people."""

    data: bytes
    reason: str


class Query(msgspec.Struct, frozen=True, gc=False):
    """One frame: `json` has not been looked at."""

    token: int
    json: bytes


class Request(msgspec.Struct, frozen=True):
    """A parsed query. `term` and `options` are those of a START, as they stand in its JSON."""

    type: QueryType
    term: Any = None
    options: dict[str, Any] = {}


class Frames:
    """Cuts a client's bytes into queries, however they arrive."""

    def __init__(self, data: bytes = b"", max_query_bytes: int = MAX_QUERY_BYTES) -> None:
        self._buffer = bytearray(data)
        self._max_query_bytes = max_query_bytes
        self._at = 0
        self._refused = False

    def receive(self, data: bytes) -> None:
        """Take more bytes; `next` hands out what they complete."""
        if not self._refused:
            self._buffer += data

    def next(self) -> Query | Refused | None:
        """The next query, or `None` until more bytes have come. After `Refused` there is nothing more."""
        start = self._at + _HEADER.size
        if len(self._buffer) < start:
            self._compact()
            return None
        token, length = _HEADER.unpack_from(self._buffer, self._at)
        if length > self._max_query_bytes:
            return self._refuse(token, length)
        if len(self._buffer) < start + length:
            self._compact()
            return None
        self._at = start + length
        return Query(token, bytes(self._buffer[start : self._at]))

    def _compact(self) -> None:
        """Forget what has been handed out, once for all queries that came together."""
        del self._buffer[: self._at]
        self._at = 0

    def _refuse(self, token: int, length: int) -> Refused:
        self._refused = True
        self._buffer.clear()
        self._at = 0
        problem = f"Query size ({length}) greater than maximum ({self._max_query_bytes})."
        return Refused(frame(token, error(ClientError(problem))), problem)


def frame(token: int, answer: bytes) -> bytes:
    """An answer as it goes out: in one piece, because drivers wait with a timeout for its first byte only."""
    if len(answer) > MAX_ANSWER_BYTES:
        problem = f"Response size ({len(answer)}) greater than maximum ({MAX_ANSWER_BYTES})."
        answer = error(QueryError(ErrorType.RESOURCE_LIMIT, problem))
    return _HEADER.pack(token, len(answer)) + answer


def parse(query: bytes) -> Request:
    """What a query asks for. The term is not looked at.

    Raises:
        ClientError: it is no query at all.
    """
    try:
        parts = msgspec.json.decode(query)
    except (ValueError, RecursionError) as exc:
        raise ClientError("Client is buggy (failed to deserialize query).") from exc
    if not isinstance(parts, list):
        raise _unparsable(f"Expected a query to be an array, but found {_type_name(parts)}.")
    if not 1 <= len(parts) <= 3:
        raise _unparsable(f"Expected 1 to 3 elements in the top-level query, but found {len(parts)}.")
    kind = _query_type(parts[0])
    if kind is not QueryType.START:
        return Request(kind)
    if len(parts) == 1:
        raise _unparsable("Expected a term in a START query, but found none.")
    return Request(kind, parts[1], _options(parts[2] if len(parts) == 3 else {}))


def atom(json: bytes, *, profile: bool = False) -> bytes:
    """The answer that is one value."""
    return b'{"t":1,"r":[%b]%b}' % (json, _profile(profile))


def batch(items: Iterable[bytes], notes: Sequence[int], *, done: bool, profile: bool = False) -> bytes:
    """Some elements of a sequence; `done`: the last ones."""
    kind = AnswerType.SUCCESS_SEQUENCE if done else AnswerType.SUCCESS_PARTIAL
    numbers = ",".join(map(str, notes)).encode()
    return b'{"t":%d,"r":[%b]%b,"n":[%b]}' % (kind, b",".join(items), _profile(profile), numbers)


def wait_complete() -> bytes:
    """The answer to NOREPLY_WAIT."""
    return b'{"t":4,"r":[]}'


def server_info(json: bytes) -> bytes:
    """The answer to SERVER_INFO."""
    return b'{"t":5,"r":[%b]}' % json


def error(failure: QueryError, *, profile: bool = False) -> bytes:
    """The answer that is an error. Its backtrace is always a list: drivers draw carets from it."""
    answer: dict[str, Any] = {"t": _error_type(failure)}
    if answer["t"] == AnswerType.RUNTIME_ERROR:
        answer["e"] = int(failure.type)
    answer["r"] = [failure.message.encode("utf-8", "replace").decode()]
    answer["b"] = list(failure.path or ())
    if profile:
        answer["p"] = []
    return msgspec.json.encode(answer)


def _error_type(failure: QueryError) -> int:
    if isinstance(failure, ClientError):
        return AnswerType.CLIENT_ERROR
    return AnswerType.COMPILE_ERROR if isinstance(failure, CompileError) else AnswerType.RUNTIME_ERROR


def _profile(wanted: bool) -> bytes:
    """An empty profile where one was asked for: drivers hang on a feed or fail when it is missing."""
    return b',"p":[]' if wanted else b""


def _query_type(number: Any) -> QueryType:
    if _type_name(number) != "NUMBER":
        raise _unparsable(f"Expected a query type as a number, but found {_type_name(number)}.")
    try:
        return QueryType(number)
    except ValueError as exc:
        raise _unparsable(f"Unrecognized QueryType: {number}.") from exc


def _options(options: Any) -> dict[str, Any]:
    if not isinstance(options, dict):
        raise _unparsable(f"Expected global optargs as an object, but found {_type_name(options)}.")
    return options


def _unparsable(problem: str) -> ClientError:
    return ClientError(f"Server could not parse query: {problem}")


def _type_name(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bool():
            return "BOOL"
        case int() | float():
            return "NUMBER"
        case str():
            return "STRING"
        case list():
            return "ARRAY"
        case _:
            return "OBJECT"
