"""What a listener prints for programs."""

from __future__ import annotations

import datetime
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from listeners.decode import Incoming, decode
from listeners.json_lines import JsonLines


def incoming(body: bytes, **headers: Any) -> Incoming:
    return Incoming("mytable.update", "bridge:7", 1_700_000_000, headers, body)


def line(body: bytes, **headers: Any) -> bytes:
    return JsonLines().change(decode(incoming(body, **headers)))


def test_a_line_holds_the_five_documented_keys() -> None:
    assert json.loads(line(b'{"old_val": 1, "new_val": 2}', source="embedded")) == {
        "routing_key": "mytable.update",
        "message_id": "bridge:7",
        "timestamp": 1_700_000_000,
        "headers": {"source": "embedded"},
        "body": {"old_val": 1, "new_val": 2},
    }


def test_properties_that_the_publisher_did_not_set_are_null() -> None:
    document = json.loads(JsonLines().change(decode(Incoming("a.b", None, None, {}, b"0"))))
    assert (document["message_id"], document["timestamp"], document["headers"]) == (None, None, {})


@given(st.recursive(st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)))
def test_a_body_of_many_lines_becomes_one_line_with_the_same_value(value: Any) -> None:
    body = json.dumps(value, indent=2).replace("\n", "\r\n").encode()
    assert line(body).count(b"\n") == 1
    assert b"\r" not in line(body)
    assert json.loads(line(body))["body"] == value


def test_numbers_and_escapes_of_the_body_are_not_rewritten() -> None:
    body = b'{"n":1.10,"big":123456789012345678901234567890,"e":1E2,"s":"\\ud800\\u00e9"}'
    assert line(body).endswith(b'"body":' + body + b"}\n")


def test_header_values_that_json_lacks_become_text() -> None:
    when = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert json.loads(line(b"{}", when=when, raw=b"\xff"))["headers"] == {"when": "2024-01-02T03:04:05Z", "raw": "/w=="}


def test_a_body_that_is_not_json_is_a_string_and_the_problem_has_a_key() -> None:
    document = json.loads(JsonLines().unreadable(incoming(b"plain\n\xff"), "the body is not UTF-8"))
    assert document["body"] == "plain\n\\xff"
    assert document["problem"] == "the body is not UTF-8"
