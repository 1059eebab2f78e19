"""What RabbitMQ says about an exchange that is there already, taken apart."""

from __future__ import annotations

import pytest

from cdcbridge.broker.topology import created_durable, mismatch


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        (
            (
                "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'x' in vhost '/': "
                "received 'true' but current is 'false'"
            ),
            ("x", "durable", "true", "false"),
        ),
        (
            (
                "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'it's' in vhost 'a b': "
                "received 'topic' but current is 'fanout'"
            ),
            ("it's", "type", "topic", "fanout"),
        ),
        (
            (
                "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': "
                "received none but current is the value 'other' of type 'longstr'"
            ),
            ("x", "alternate-exchange", "none", "other"),
        ),
        (
            (
                "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': "
                "received the value '10' of type 'signedint' but current is none"
            ),
            ("q", "x-max-length", "10", "none"),
        ),
        (
            (
                "(406) PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': "
                "received 'true' but current is 'false' (406)"
            ),
            ("q", "durable", "true", "false"),
        ),
    ],
)
def test_a_mismatch_names_property_and_values(text: str, facts: tuple[str, str, str, str]) -> None:
    found = mismatch(text)
    assert found is not None
    assert (found.exchange, found.property, found.wanted, found.found) == facts


@pytest.mark.parametrize("text", ["", "NOT_FOUND - no exchange 'x' in vhost '/'", "PRECONDITION_FAILED - unknown"])
def test_other_words_are_no_mismatch(text: str) -> None:
    assert mismatch(text) is None


@pytest.mark.parametrize(
    ("name", "setting", "durable"),
    [
        ("cdcbridge", None, True),
        ("rethinkdb", None, False),
        ("cdcbridge", False, False),
        ("rethinkdb", True, True),
    ],
)
def test_a_new_exchange_is_durable_unless_it_is_the_tutorials(name: str, setting: bool | None, durable: bool) -> None:
    assert created_durable(name, setting) is durable
