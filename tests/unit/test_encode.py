"""Change → operation → message: the wire contract of docs/message-contract.md."""

from __future__ import annotations

import json

import pytest

from cdcbridge.change import Change, Operation
from cdcbridge.classify import classify
from cdcbridge.encode import Encoder, body
from tests.changes import a_change


@pytest.mark.parametrize(
    ("change", "operation"),
    [
        (a_change(), Operation.CREATE),
        (a_change(old_val=b'{"id":1}', new_val=b'{"id":1,"n":2}'), Operation.UPDATE),
        (a_change(old_val=b'{"id":1}', new_val=None), Operation.DELETE),
        (a_change(snapshot=True), Operation.SNAPSHOT),
    ],
)
def test_a_change_is_classified_by_the_side_that_it_lacks(change: Change, operation: Operation) -> None:
    assert classify(change) is operation


@pytest.mark.parametrize(
    ("old_val", "new_val"), [(None, b'{"id":1}'), (b'{"id":1}', None), (b'{"id":1}', b'{"id":1,"n":[null]}')]
)
def test_the_body_has_both_sides(old_val: bytes | None, new_val: bytes | None) -> None:
    sides = [None if side is None else json.loads(side) for side in (old_val, new_val)]
    assert json.loads(body(old_val, new_val)) == dict(zip(("old_val", "new_val"), sides, strict=True))


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(bridge="shop", source="engine", exchange="changes")


def test_the_message_id_is_the_bridge_and_the_position(encoder: Encoder) -> None:
    assert encoder.message(a_change(17), Operation.CREATE, "orders.create").message_id == "shop:17"


def test_the_timestamp_is_the_commit_time_in_whole_seconds(encoder: Encoder) -> None:
    message = encoder.message(a_change(), Operation.CREATE, "orders.create")
    assert (message.timestamp_s, message.time_ms) == (1_700_000_000, 1_700_000_000_123)


def test_the_envelope_names_exchange_key_and_operation(encoder: Encoder) -> None:
    envelope = encoder.message(a_change(), Operation.CREATE, "orders.create").envelope
    assert (envelope.exchange, envelope.routing_key, envelope.type) == ("changes", "orders.create", "create")
    assert dict(envelope.headers) == {"cdc-table": "orders", "cdc-operation": "create", "cdc-source": "engine"}


def test_messages_of_one_table_and_operation_share_an_envelope(encoder: Encoder) -> None:
    first, second = (encoder.message(a_change(n), Operation.CREATE, "orders.create") for n in (1, 2))
    assert first.envelope is second.envelope


def test_tables_of_one_name_in_two_databases_share_one_only_under_the_same_routing_key(encoder: Encoder) -> None:
    one = encoder.message(a_change(database="a"), Operation.CREATE, "a.orders.create")
    other = encoder.message(a_change(database="b"), Operation.CREATE, "b.orders.create")
    assert [one.envelope.routing_key, other.envelope.routing_key] == ["a.orders.create", "b.orders.create"]
