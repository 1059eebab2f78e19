"""URLs of RabbitMQ: what is shown of them, and what they mean."""

from __future__ import annotations

import pytest

from cdcbridge.broker.connection import parameters, redacted
from cdcbridge.errors import ConfigError

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://user:s3cret@host:5672/vhost", "amqp://user:***@host:5672/vhost"),
        ("amqps://user:s3cret@host/%2F?ssl_options={}", "amqps://user:***@host/%2F"),
        ("amqp://user@host/", "amqp://user@host/"),
        ("amqp://host", "amqp://host"),
        ("amqp://:s3cret@host", "amqp://:***@host"),
        ("amqp://user:s3cret@[::1]:5672/", "amqp://user:***@[::1]:5672/"),
        ("amqp://user:a/s3cret@host/", "amqp://user:***@host/"),
        ("amqp://user:a@s3cret@host/", "amqp://user:***@host/"),
        ("amqp://user:a?s3cret@host/", "amqp://user:***@host/"),
        ("amqp://user:a#s3cret@host/", "amqp://user:***@host/"),
        ("user:s3cret@host", "user:***@host"),
        ("amqp:/user:s3cret@host", "amqp:***@host"),
        ("amqp://host/?password=s3cret", "amqp://host/"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@host/",
        "amqpx://user:s3cret@host/",
        "amqp://",
        "user:s3cret@host",
        "",
        "amqp://user:a/s3cret@host/",
        "amqp://user:s3cret@host:port/",
        "amqp://user:s3cret@host:99999/",
        "amqp://user@host/",
        "amqp://user:s3cret@host/?nonsense=1",
        "amqp://user:s3cret@host/?heartbeat=soon",
        "amqp://user:s3cret@[::1/",
    ],
)
def test_what_is_no_amqp_url_is_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parameters(url, connection_name="test", heartbeat_s=60)
    assert caught.value.setting == "rabbitmq.url"
    assert SECRET not in str(caught.value)


def test_a_url_says_where_to_connect() -> None:
    made = parameters("amqp://user:s3cret@host:1234/a%2Fb", connection_name="test", heartbeat_s=60)
    assert (made.host, made.port, made.virtual_host) == ("host", 1234, "a/b")


@pytest.mark.parametrize("url", ["amqp://host", "amqp://host/", "amqp://host/%2F"])
def test_the_virtual_host_is_a_slash_where_the_url_names_none(url: str) -> None:
    assert parameters(url, connection_name="test", heartbeat_s=60).virtual_host == "/"


def test_tls_is_asked_for_by_the_scheme() -> None:
    assert parameters("amqps://host", connection_name="test", heartbeat_s=60).ssl_options is not None


def test_the_heartbeat_is_the_setting_unless_the_url_has_one() -> None:
    assert parameters("amqp://host", connection_name="test", heartbeat_s=17).heartbeat == 17
    assert parameters("amqp://host/?heartbeat=5", connection_name="test", heartbeat_s=17).heartbeat == 5


def test_the_connection_tells_rabbitmq_who_it_is() -> None:
    properties = parameters("amqp://host", connection_name="shop", heartbeat_s=60).client_properties
    assert (properties["product"], properties["connection_name"]) == ("cdcbridge", "shop")
