"""Incoming message → change: what a listener is handed. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from cdcbridge.encode import OPERATION_HEADER, TABLE_HEADER
from cdcbridge.errors import DecodeError


class Incoming(msgspec.Struct, frozen=True):
    """A message as it came out of a queue. `None`: the publisher did not set the property."""

    routing_key: str
    message_id: str | None
    timestamp_s: int | None
    headers: dict[str, Any]
    body: bytes


class Received(msgspec.Struct, frozen=True):
    """A message that was understood.

    `body` is the parsed JSON, by contract `{"old_val": …, "new_val": …}`, and `body_json` the same as it came.
    `operation` is empty where neither a header nor the routing key tells it.
    """

    routing_key: str
    message_id: str | None
    timestamp_s: int | None
    headers: dict[str, Any]
    body: Any
    body_json: bytes
    table: str
    operation: str


def decode(incoming: Incoming) -> Received:
    """The change in `incoming`.

    Raises:
        DecodeError: the body is not JSON. The reason says where, and quotes nothing of the body.
    """
    table, operation = subject(incoming.routing_key, incoming.headers)
    return Received(
        incoming.routing_key,
        incoming.message_id,
        incoming.timestamp_s,
        incoming.headers,
        parsed(incoming.body),
        incoming.body,
        table,
        operation,
    )


def subject(routing_key: str, headers: Mapping[str, Any]) -> tuple[str, str]:
    """Table and operation: from the headers, else from the routing key split at its last dot.

    The tutorial's publisher sends no headers; a routing key without a dot is all table.
    """
    table, operation = headers.get(TABLE_HEADER), headers.get(OPERATION_HEADER)
    if isinstance(table, str) and isinstance(operation, str):
        return table, operation
    before, dot, after = routing_key.rpartition(".")
    return (before, after) if dot else (routing_key, "")


def parsed(body: bytes) -> Any:
    """The JSON value of `body`, UTF-8.

    Raises:
        DecodeError: it is not UTF-8, not JSON, or nested too deeply to be read.
    """
    try:
        # Decoded here: json.loads would also take UTF-16 and UTF-32, which the contract does not have.
        return json.loads(body.decode(), parse_constant=_not_json)
    except UnicodeDecodeError as exc:
        raise DecodeError(f"the body is not UTF-8: {exc.reason} at byte {exc.start}") from exc
    except json.JSONDecodeError as exc:
        raise DecodeError(f"the body is not JSON: {exc.msg} at character {exc.pos}") from exc
    except RecursionError as exc:
        raise DecodeError("the body is nested too deeply") from exc
    except ValueError as exc:
        raise DecodeError(f"the body is not JSON: {exc}") from exc


def _not_json(constant: str) -> NoReturn:
    # Python's own encoder writes these; a consumer of the JSON form could not read them.
    raise ValueError(f"{constant} is not a JSON value")
