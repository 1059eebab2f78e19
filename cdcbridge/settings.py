"""The settings: their names, types, defaults and limits, as one frozen model. `config.py` fills it."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, SecretStr

from cdcbridge.route import DEFAULT_TEMPLATE, Router

DEFAULT_AMQP_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"


class Refused(ValueError):
    """A value that a check turned down: `problem` goes into the error's line, `remedy` after it."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class Address(NamedTuple):
    """Where a server listens. Port 0 lets the system pick one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _address(value: object) -> Address:
    """`host:port`, with brackets around an IPv6 address."""
    match = re.fullmatch(
        r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\s:\[\]/@]+)):(\d{1,5})", value if isinstance(value, str) else ""
    )
    if match is None or int(match[3]) > 65535:
        raise Refused("must be HOST:PORT with a port from 0 to 65535", "for example 127.0.0.1:28015 or [::1]:28015")
    return Address(match[1] or match[2], int(match[3]))


def _path(value: Path) -> Path:
    """An absolute path; `~` is the home folder."""
    if value == Path() or "\0" in str(value):
        raise Refused("must be a path")
    try:
        return value.expanduser().absolute()
    except RuntimeError as exc:
        raise Refused("begins with the home folder of a user who has none") from exc


def _amqp_url(value: SecretStr) -> SecretStr:
    """A URL that names a scheme, a host and at most one vhost. What it says is not shown: a password may be in it."""
    if re.search(r"\s", value.get_secret_value()):
        raise Refused("has white space in it", "take it out, or write a blank of a name or password as %20")
    try:
        url = urlsplit(value.get_secret_value())
        host, _port = url.hostname, url.port
    except ValueError as exc:
        raise Refused(_URL_BROKEN, _URL_REMEDY) from exc
    if url.scheme not in ("amqp", "amqps"):
        raise Refused("must begin with amqp:// or amqps://", _URL_EXAMPLE)
    if not host:
        raise Refused("must name a host", _URL_REMEDY)
    if "/" in url.path[1:]:
        raise Refused("has a slash inside the vhost", "write it as %2F")
    if len(unquote(url.path[1:]).encode()) > 255:
        raise Refused("has a vhost longer than 255 bytes")
    return value


_URL_BROKEN = "must be a URL with a port from 0 to 65535, if it has one"
_URL_EXAMPLE = "for example amqp://user:password@host:5672/vhost"
_URL_REMEDY = f"{_URL_EXAMPLE}; in a name or password write / ? # @ : as %2F %3F %23 %40 %3A"


def _source(value: str) -> str:
    if not re.match(r"[a-z][a-z0-9+.-]*:", value):
        raise Refused("must be a URL", "for example embedded: or embedded:/srv/shop.db")
    return value


def _split(value: object) -> object:
    """A list out of the environment's text."""
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _table(value: str) -> str:
    if not re.fullmatch(r"[^\s.]+(\.[^\s.]+)?", value):
        raise Refused("must be TABLE or DATABASE.TABLE")
    return value


def _template(value: str) -> str:
    Router(value, source="any")
    return value


def _exchange(value: str) -> str:
    if not re.fullmatch(r"[^\x00-\x1f\x7f]+", value) or len(value.encode()) > 255:
        raise Refused("must be 1 to 255 bytes without control characters")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _number(value: object) -> object:
    """TOML's `true` is not 1."""
    if isinstance(value, bool):
        raise Refused("must be a number")
    return value


Whole = Annotated[int, BeforeValidator(_number)]
Seconds = Annotated[float, BeforeValidator(_number)]
FilePath = Annotated[Path, AfterValidator(_path)]


class _Keys(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class EngineConfig(_Keys):
    """`[engine]`: the built-in engine."""

    listen: Annotated[Address, PlainValidator(_address)] = Field(
        default=Address("127.0.0.1", 28015), description="Where the engine takes connections. Port 0 picks a free one."
    )
    data: FilePath = Field(description="The data file. Default: engine.db in the state folder.")
    initial_values: Annotated[Literal["seed", "explicit"], BeforeValidator(_lower)] = Field(
        default="seed",
        description="Which changefeeds begin with the values that are there, where the feed does not say: `seed`, as "
        "RethinkDB up to 2.1, those on a document, a range and the first of an order; `explicit`, as later ones, none.",
    )
    password: SecretStr | None = Field(
        default=None, min_length=1, description="The password of the user admin. Needed to listen beyond this machine."
    )
    password_file: FilePath | None = Field(default=None, description="A file that holds the password.")
    pbkdf2_iterations: Whole = Field(
        default=4096, ge=4096, le=10_000_000, description="How often the password is hashed; clients do the same work."
    )
    tls_cert: FilePath | None = Field(
        default=None, description="The certificate chain (PEM) to take connections with TLS only. Needs tls_key."
    )
    tls_key: FilePath | None = Field(default=None, description="The certificate's private key (PEM).")
    max_query_bytes: Whole = Field(
        default=134_217_727, ge=1024, le=134_217_727, description="The largest query that is read."
    )
    max_cursors: Whole = Field(
        default=10_000, ge=1, description="How many queries and cursors one connection may have open."
    )
    retain_age_s: Seconds | None = Field(
        default=None, ge=0, description="Forget changes that are older, in seconds. Unset: whatever their age."
    )
    retain_count: Whole | None = Field(default=None, ge=1, description="Keep so many changes. Unset: any number.")
    retain_bytes: Whole | None = Field(
        default=None, ge=0, description="Keep so many bytes of changes. Unset: any size."
    )
    retain_hard_bytes: Whole | None = Field(
        default=None, ge=0, description="Keep so many bytes at the most, even of changes that no bridge has confirmed."
    )


class ExchangeConfig(_Keys):
    """`[rabbitmq.exchange]`: the topic exchange that changes are published to."""

    name: Annotated[str, AfterValidator(_exchange)] = Field(
        default="cdcbridge", description="The name of the exchange."
    )
    durable: bool | None = Field(
        default=None,
        description="Whether the exchange survives a restart of the broker. Unset: an existing exchange is used as it "
        "is, a new one is durable, except `rethinkdb`, which is made as RethinkDB's tutorial makes it: not durable.",
    )


class RabbitmqConfig(_Keys):
    """`[rabbitmq]`: the broker."""

    url: Annotated[SecretStr, AfterValidator(_amqp_url)] = Field(
        default=SecretStr(DEFAULT_AMQP_URL), description="The broker's address, with user, password and vhost."
    )
    url_file: FilePath | None = Field(default=None, description="A file that holds the URL.")
    heartbeat_s: Whole = Field(
        default=60, ge=0, le=65535, description="Seconds between heartbeats; 0 switches them off."
    )
    exchange: ExchangeConfig = ExchangeConfig()


class PublishConfig(_Keys):
    """`[publish]`: how changes become messages."""

    window: Whole = Field(
        default=4096, ge=1, le=1_000_000, description="How many messages may be unconfirmed at a time."
    )
    window_bytes: Whole = Field(
        default=64 * 1024 * 1024, ge=4096, description="How many bytes of unconfirmed messages are kept in memory."
    )
    routing_key: Annotated[str, AfterValidator(_template)] = Field(
        default=DEFAULT_TEMPLATE, description="The template of the routing key."
    )


class LogConfig(_Keys):
    """`[log]`: what is written to stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = Field(
        default="info", description="The lowest level that is written."
    )
    format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = Field(
        default="auto", description="auto: console style on a terminal, JSON lines otherwise."
    )


class Config(_Keys):
    """All settings of one run. Made by `load`, never changed afterwards."""

    name: str = Field(
        default="cdcbridge",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="The bridge's name: the key of its checkpoint and the beginning of each message_id.",
    )
    source: Annotated[str, AfterValidator(_source)] = Field(
        default="embedded:", repr=False, description="The database, as a URL. `embedded:` is the built-in engine."
    )
    tables: Annotated[tuple[Annotated[str, AfterValidator(_table)], ...], BeforeValidator(_split)] = Field(
        default=(), description="The tables to publish, each `table` or `database.table`. Empty: all."
    )
    state: FilePath = Field(
        description="The folder for checkpoints and data. Default: $STATE_DIRECTORY, which systemd sets, else "
        "$XDG_STATE_HOME/cdcbridge, else ~/.local/state/cdcbridge."
    )
    grace_s: Seconds = Field(
        default=10.0, ge=0, le=3600, description="Seconds that unconfirmed messages get to be confirmed when we stop."
    )
    engine: EngineConfig
    rabbitmq: RabbitmqConfig = RabbitmqConfig()
    publish: PublishConfig = PublishConfig()
    log: LogConfig = LogConfig()
