"""What a listener prints for people."""

from __future__ import annotations

import json

import pytest

from listeners.decode import Incoming, decode
from listeners.pretty import Pretty


def incoming(body: bytes, routing_key: str = "mytable.create") -> Incoming:
    return Incoming(routing_key, None, None, {}, body)


def shown(body: bytes, routing_key: str = "mytable.create", *, color: bool = False) -> str:
    return Pretty(color).change(decode(incoming(body, routing_key))).decode()


def test_a_change_is_shown_as_in_the_tutorial_and_ends_with_a_blank_line() -> None:
    assert shown(b'{"old_val":null,"new_val":{"name":"Ann","id":1}}') == (
        "mytable got a change of type: create\n"
        "{\n"
        '  "new_val": {\n'
        '    "id": 1,\n'
        '    "name": "Ann"\n'
        "  },\n"
        '  "old_val": null\n'
        "}\n"
        "\n"
    )


def test_unicode_is_shown_as_it_is() -> None:
    assert '"naïve 名前 🐇"' in shown('{"a": "naïve 名前 🐇"}'.encode())


def test_without_colours_there_is_no_escape_sequence() -> None:
    assert "\x1b" not in shown(b"{}")


@pytest.mark.parametrize(
    ("operation", "code"), [("create", "32"), ("update", "33"), ("delete", "31"), ("snapshot", "36")]
)
def test_each_operation_has_its_colour(operation: str, code: str) -> None:
    headline = shown(b"{}", f"mytable.{operation}", color=True).splitlines()[0]
    assert headline.endswith(f"\x1b[{code}m{operation}\x1b[0m")


def test_an_unknown_operation_has_no_colour() -> None:
    assert shown(b"{}", "mytable.truncate", color=True).splitlines()[0].endswith("type: truncate")


def test_a_routing_key_without_an_operation_makes_no_claim_about_one() -> None:
    assert shown(b"{}", "mytable").startswith("mytable got a message\n")


@pytest.mark.parametrize("control", ["\x1b", "\x9b", "\x7f", "\x00"])
def test_what_comes_from_the_database_cannot_steer_the_terminal(control: str) -> None:
    everywhere = shown(json.dumps({f"key{control}": f"value{control}"}).encode(), f"table{control}.op{control}")
    assert control not in everywhere
    assert everywhere.count(f"\\u{ord(control):04x}") == 4


def test_a_table_name_cannot_forge_a_second_headline() -> None:
    assert shown(b"{}", "a\nb.create").splitlines()[0] == "a\\u000ab got a change of type: create"


def test_half_a_surrogate_pair_is_shown_as_its_escape() -> None:
    assert '"\\ud800"' in shown(b'{"a": "\\ud800"}')


def test_a_body_nested_too_deeply_to_be_indented_is_shown_as_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*_: object, **__: object) -> str:
        raise RecursionError

    change = decode(incoming(b'{"b": [[1]]}'))
    monkeypatch.setattr(json, "dumps", too_deep)
    assert '{"b": [[1]]}' in Pretty(False).change(change).decode()


def test_a_body_that_is_not_json_is_shown_as_one_quoted_string_beside_the_reason() -> None:
    entry = Pretty(False).unreadable(incoming(b'plain "text"\n\xff\x1b[2J'), "the body is not JSON").decode()
    assert entry == (
        'mytable got a change of type: create (the body is not JSON)\n"plain \\"text\\"\\n\\\\xff\\u001b[2J"\n\n'
    )
