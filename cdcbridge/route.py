"""Change → routing key: the template, the escaping of names, and AMQP's limit of 255 bytes."""

from __future__ import annotations

from collections.abc import Callable
from string import Formatter

from cdcbridge.change import Change, Operation
from cdcbridge.errors import ConfigError, EncodeError

DEFAULT_TEMPLATE = "{table}.{operation}"
FIELDS = ("source", "database", "schema", "table", "operation")
MAX_BYTES = 255
"""AMQP sends a routing key as a short string. Source: AMQP 0-9-1, section 4.2.5.3."""

_SETTING = "publish.routing_key"
_SPECIAL = frozenset(".*#%")

Part = Callable[[Change, Operation], str]


class Router:
    """Gives each change its routing key, from a template such as `{table}.{operation}`.

    The fields are `FIELDS`; `{source}` is the source's name. Names are written by `escape`, so that a key has as many
    words as its template, whatever the names are, and two names never become one. Keys are kept, one for each table
    and operation.

    Raises:
        ConfigError: the template is empty, is malformed, or asks for a field that does not exist or that the source
            does not have. `{schema}` is a field of SQL sources.
    """

    def __init__(self, template: str = DEFAULT_TEMPLATE, *, source: str) -> None:
        self._parts = _parts(template, source)
        self._keys: dict[tuple[str, str, Operation], str] = {}

    def routing_key(self, change: Change, operation: Operation) -> str:
        """The key for `change`.

        Raises:
            EncodeError: the key is longer than 255 bytes.
        """
        about = (change.database, change.table, operation)
        key = self._keys.get(about)
        if key is None:
            key = self._keys[about] = self._made(change, operation)
        return key

    def _made(self, change: Change, operation: Operation) -> str:
        key = "".join(part(change, operation) for part in self._parts)
        size = len(key.encode())
        if size > MAX_BYTES:
            raise EncodeError(
                f"the change at position {change.position}, in table {change.database}.{change.table}, cannot be sent: "
                f"its routing key has {size} bytes, and RabbitMQ takes {MAX_BYTES}; shorten the template "
                f"{_SETTING}, or leave the table out by naming the others with --table"
            )
        return key


def escape(name: str) -> str:
    """`name` as part of one word of a routing key.

    A dot, `*`, `#`, `%`, white space and whatever else cannot be seen become percent and two hexadecimal digits for
    each byte of UTF-8, as in a URL; all other characters, letters of every script included, stay as they are.
    `urllib.parse.unquote` gives the name back, so two different names never become one.
    """
    if name.isidentifier():
        return name
    return "".join(_percent(character) if _needs_escape(character) else character for character in name)


def _needs_escape(character: str) -> bool:
    return character in _SPECIAL or character.isspace() or not character.isprintable()


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))


def _parts(template: str, source: str) -> list[Part]:
    """The template as functions, one for each piece of text and each field."""
    if not template:
        raise ConfigError(_SETTING, "the template is empty", f"the default is {DEFAULT_TEMPLATE}")
    parts: list[Part] = []
    for text, field, spec, conversion in _pieces(template):
        if text:
            parts.append(_constant(text))
        if field is not None:
            _check_plain(template, field, spec, conversion)
            parts.append(_field(field, source))
    return parts


def _pieces(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(Formatter().parse(template))
    except ValueError as exc:
        raise ConfigError(_SETTING, f"{template!r} is malformed: {exc}", "write fields as {table}") from exc


def _check_plain(template: str, field: str, spec: str | None, conversion: str | None) -> None:
    if spec or conversion:
        raise ConfigError(_SETTING, f"{template!r} formats {field!r}", f"write the field plainly, as {{{field}}}")


def _field(field: str, source: str) -> Part:
    match field:
        case "source":
            return _constant(escape(source))
        case "database":
            return lambda change, operation: escape(change.database)
        case "table":
            return lambda change, operation: escape(change.table)
        case "operation":
            return lambda change, operation: operation.value
        case "schema":
            raise ConfigError(_SETTING, "only SQL sources have a {schema}", "leave it out of the template")
        case _:
            known = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise ConfigError(_SETTING, f"there is no field {{{field}}}", f"the fields are {known}")


def _constant(text: str) -> Part:
    return lambda change, operation: text
