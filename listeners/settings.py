"""What a listener is asked to do, and the limits of AMQP on it. Pure."""

from __future__ import annotations

import dataclasses
from typing import Literal

from cdcbridge.errors import ConfigError

SHORT_STRING_BYTES = 255
"""AMQP's limit on names and binding keys."""

SHOWN_CHARACTERS = 40


@dataclasses.dataclass(frozen=True)
class ListenSettings:
    """One listener.

    `exchange_durable`: `None` takes the exchange as it is. `queue`: the name of a durable queue, which keeps what
    arrives while nobody listens and every pattern that was ever bound to it; `None` is a queue of this listener's own,
    gone with its connection. `count`: stop after so many messages, `None` never. `prefetch`: how many messages may be
    under way to this listener without an ack.

    Raises:
        ConfigError: a pattern or a name that AMQP cannot carry.
    """

    url: str
    exchange: str
    exchange_durable: bool | None
    patterns: tuple[str, ...]
    queue: str | None = None
    format: Literal["pretty", "json"] = "pretty"
    count: int | None = None
    prefetch: int = 100
    color: bool = False
    heartbeat_s: int = 60

    def __post_init__(self) -> None:
        check_name("rabbitmq.exchange.name", self.exchange)
        if self.queue is not None:
            check_name("queue", self.queue)
        if not self.patterns:
            raise ConfigError("pattern", "none given", "give at least one, as in 'mytable.*', or '#' for everything")
        for pattern in self.patterns:
            check_name("pattern", pattern)


def check_name(setting: str, value: str) -> None:
    """Refuse what does not fit into AMQP's short string, naming how it begins.

    Raises:
        ConfigError: empty, not UTF-8, or longer than 255 bytes.
    """
    if not value:
        raise ConfigError(setting, "is empty")
    shown = value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}…"
    length_bytes = _utf8_length_bytes(setting, value, shown)
    if length_bytes > SHORT_STRING_BYTES:
        problem = f"{shown!r} is {length_bytes} bytes long, and AMQP's limit is {SHORT_STRING_BYTES} bytes"
        raise ConfigError(setting, problem, "make it shorter")


def _utf8_length_bytes(setting: str, value: str, shown: str) -> int:
    try:
        return len(value.encode())
    except UnicodeEncodeError as exc:
        # Bytes of the command line that were not UTF-8 arrive as half surrogate pairs.
        raise ConfigError(setting, f"{shown!a} is not UTF-8") from exc
