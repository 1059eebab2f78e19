"""What a listener reads out of a message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcbridge.errors import DecodeError
from listeners.decode import Incoming, decode, parsed, subject

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def a_message(
    body: bytes = b"{}", routing_key: str = "mytable.create", headers: dict[str, Any] | None = None
) -> Incoming:
    return Incoming(routing_key, "bridge:7", 1_700_000_000, headers or {}, body)


def test_headers_name_table_and_operation() -> None:
    headers = {"cdc-table": "my.table", "cdc-operation": "update"}
    assert subject("another%2Ekey", headers) == ("my.table", "update")


def test_without_headers_the_routing_key_is_split_at_its_last_dot() -> None:
    assert subject("shop.mytable.delete", {}) == ("shop.mytable", "delete")


def test_one_header_of_the_two_is_not_enough() -> None:
    assert subject("mytable.create", {"cdc-table": "other"}) == ("mytable", "create")


def test_a_header_that_is_no_text_is_passed_over() -> None:
    assert subject("mytable.create", {"cdc-table": b"\xff", "cdc-operation": 1}) == ("mytable", "create")


def test_a_routing_key_without_a_dot_is_all_table() -> None:
    assert subject("mytable", {}) == ("mytable", "")


def test_a_message_keeps_its_properties_and_its_body() -> None:
    body = b'{"old_val": null, "new_val": {"id": 1}}'
    received = decode(a_message(body, headers={"cdc-key": "1"}))
    assert (received.message_id, received.timestamp_s, received.headers) == (
        "bridge:7",
        1_700_000_000,
        {"cdc-key": "1"},
    )
    assert received.body == {"old_val": None, "new_val": {"id": 1}}
    assert received.body_json == body


@given(JSON_VALUES)
def test_any_json_value_is_a_body(value: Any) -> None:
    assert parsed(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON: Expecting value at character 0"),
        (b"{} {}", "the body is not JSON: Extra data at character 3"),
        (b'{"secret": ', "the body is not JSON: Expecting value at character 11"),
        (b'{"secret": NaN}', "the body is not JSON: NaN is not a JSON value"),
        (b'"\xff"', "the body is not UTF-8: invalid start byte at byte 1"),
        ('{"a": 1}'.encode("utf-16"), "the body is not UTF-8: invalid start byte at byte 0"),
        (b"[" * 100_000, "the body is nested too deeply"),
        (b"9" * 5_000, "the body is not JSON: Exceeds the limit"),
    ],
)
def test_a_body_that_is_not_json_is_refused_with_the_reason_and_none_of_its_text(body: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(a_message(body))
    assert str(caught.value).startswith(reason)
    assert "secret" not in str(caught.value)
