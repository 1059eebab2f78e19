"""Routing keys: templates, escaping, the limit."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcbridge.change import Change, Operation, Position
from cdcbridge.errors import ConfigError, EncodeError
from cdcbridge.route import Router, escape


def a_change(table: str = "users", database: str = "test") -> Change:
    return Change(database, table, b'"1"', None, b"{}", Position("1"), 0)


def key(template: str = "{table}.{operation}", table: str = "users", database: str = "test") -> str:
    return Router(template, source="embedded").routing_key(a_change(table, database), Operation.CREATE)


def test_the_default_is_table_and_operation() -> None:
    assert Router(source="embedded").routing_key(a_change(), Operation.DELETE) == "users.delete"


def test_every_field_can_be_used() -> None:
    assert key("cdc.{source}.{database}.{table}.{operation}") == "cdc.embedded.test.users.create"


def test_each_table_database_and_operation_has_its_own_key() -> None:
    router = Router("{database}.{table}.{operation}", source="embedded")
    found = [
        router.routing_key(a_change(table, database), operation)
        for database in ("a", "b")
        for table in ("t", "u")
        for operation in Operation
        for _ in range(2)
    ]
    assert len(found) == 32
    assert len(set(found)) == 16


def test_a_key_is_made_once() -> None:
    router = Router(source="embedded")
    assert router.routing_key(a_change(), Operation.CREATE) is router.routing_key(a_change(), Operation.CREATE)


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("users", "users"),
        ("order-lines_2", "order-lines_2"),
        ("größe", "größe"),
        ("a.b", "a%2Eb"),
        ("*", "%2A"),
        ("#", "%23"),
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("a%2Eb", "a%252Eb"),
        ("a\u00a0b", "a%C2%A0b"),
        ("\x00", "%00"),
    ],
)
def test_what_would_change_the_words_is_escaped(name: str, escaped: str) -> None:
    assert escape(name) == escaped


@given(st.text())
def test_an_escaped_name_is_one_word_and_can_be_read_back(name: str) -> None:
    escaped = escape(name)
    assert not set(escaped) & set(".*# \t\r\n")
    assert unquote(escaped) == name


def test_a_lone_surrogate_is_escaped_too() -> None:
    assert escape("\ud800") == "%ED%A0%80"


def test_a_dot_in_a_table_name_keeps_two_words() -> None:
    assert key(table="fs.files") == "fs%2Efiles.create"


def test_doubled_braces_are_braces() -> None:
    assert key("{{x}}.{table}") == "{x}.users"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", "the template is empty"),
        ("{tabel}.{operation}", "there is no field {tabel}"),
        ("{}", "there is no field {}"),
        ("{0}", "there is no field {0}"),
        ("{table.__class__}", "there is no field {table.__class__}"),
        ("{table!r}", "formats 'table'"),
        ("{table:>20}", "formats 'table'"),
        ("{table", "is malformed"),
        ("table}", "is malformed"),
        ("{schema}.{table}", "only SQL sources have a {schema}"),
    ],
)
def test_a_bad_template_is_refused_when_the_router_is_made(template: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=r"^publish\.routing_key: ") as caught:
        Router(template, source="embedded")
    assert problem in str(caught.value)


def test_an_unknown_field_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        Router("{tabel}", source="embedded")
    assert caught.value.remedy == "the fields are {source}, {database}, {schema}, {table}, {operation}"


def test_a_key_of_255_bytes_is_taken() -> None:
    assert len(key("{table}", table="x" * 255)) == 255


def test_a_longer_key_is_refused_by_its_bytes_not_its_characters() -> None:
    with pytest.raises(EncodeError, match=r"table test\.ä+, .* has 256 bytes"):
        key("{table}", table="ä" * 128)


def test_a_refused_change_is_named_with_a_remedy() -> None:
    with pytest.raises(EncodeError, match=r"position 1, .*publish\.routing_key, .*--table"):
        key("{table}", table="x" * 256)
