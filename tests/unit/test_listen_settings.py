"""What AMQP and a URL can carry, said before anything is connected."""

from __future__ import annotations

from typing import Any

import pytest

from cdcbridge.errors import ConfigError
from listeners.settings import ListenSettings
from listeners.translate import address


def settings(**changes: Any) -> ListenSettings:
    given: dict[str, Any] = {"url": "amqp://h", "exchange": "e", "exchange_durable": None, "patterns": ("#",)}
    return ListenSettings(**given | changes)


def test_a_pattern_of_255_bytes_is_allowed() -> None:
    assert settings(patterns=("é" * 127 + "x",)).patterns


def test_a_pattern_that_is_too_long_is_named_by_its_beginning_with_the_limit() -> None:
    with pytest.raises(ConfigError) as caught:
        settings(patterns=("mytable.*", "é" * 128))
    assert caught.value.setting == "pattern"
    assert f"'{'é' * 40}…' is 256 bytes long, and AMQP's limit is 255 bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"patterns": ("",)}, "pattern"),
        ({"patterns": ()}, "pattern"),
        ({"patterns": ("\udcff.create",)}, "pattern"),
        ({"exchange": ""}, "rabbitmq.exchange.name"),
        ({"queue": ""}, "queue"),
        ({"queue": "q" * 256}, "queue"),
    ],
)
def test_what_amqp_cannot_carry_is_refused_by_the_name_of_its_setting(changes: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    assert caught.value.setting == setting
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:secret@rabbit/shop?heartbeat=5", "amqp://rabbit:5672/shop"),
        ("amqps://user:secret@rabbit", "amqps://rabbit:5671/"),
        ("amqp://[::1]:5673/%2F", "amqp://[::1]:5673/%2F"),
    ],
)
def test_an_address_is_the_url_without_user_password_and_options(url: str, shown: str) -> None:
    assert address(url) == shown


@pytest.mark.parametrize(
    "url", ["", "rabbit", "http://rabbit", "amqp://", "amqp://u:secret/x@rabbit", "amqp://h:99999"]
)
def test_what_is_no_amqp_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        address(url)
    assert caught.value.setting == "rabbitmq.url"
    assert "secret" not in str(caught.value)
