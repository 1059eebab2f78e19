"""Configuration: one TOML file, `CDCBRIDGE_*` variables and flags become one frozen `Config`.

The highest layer that sets a key wins: flags, then the environment, then the file, then the defaults (of which AMQP_URL
is one, for `rabbitmq.url`). A key `a.b` is `b = …` under `[a]` in the file and `CDCBRIDGE_A__B` in the environment,
where an empty variable counts as unset and a list is separated by commas. Every mistake becomes one `ConfigError` that
names the key, and where the value came from; the value of a secret is never shown.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic import ValidationError as Invalid
from pydantic_core import ErrorDetails

from cdcbridge.errors import ConfigError
from cdcbridge.settings import Address, Config, Refused

__all__ = ["FLAGS", "Address", "Config", "default_state", "keys", "load", "parameters", "variable"]

ENV_PREFIX = "CDCBRIDGE_"
ENV_NESTING = "__"

FLAGS = {
    "name": "--name",
    "source": "SOURCE",
    "tables": "--table",
    "state": "--state",
    "grace_s": "--grace",
    "engine.listen": "--listen",
    "engine.data": "--data",
    "engine.initial_values": "--initial-values",
    "engine.password_file": "--password-file",
    "rabbitmq.url": "--amqp",
    "rabbitmq.exchange.name": "--exchange",
    "rabbitmq.exchange.durable": "--durable",
    "log.level": "--log-level",
    "log.format": "--log-format",
}
"""The keys that a flag, or an argument, can set, and its name."""

_SECRETS = frozenset({"source", "rabbitmq.url", "engine.password"})
_FROM_FILES = {"rabbitmq.url_file": "rabbitmq.url", "engine.password_file": "engine.password"}


@dataclass(frozen=True)
class Layer:
    """Values by dotted key, and where somebody wrote each: the words for an error."""

    values: dict[str, object]
    where: Mapping[str, str]


def load(
    flags: Mapping[str, object] | None = None,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    uses: Collection[str] = ("engine", "rabbitmq"),
) -> Config:
    """The configuration out of all layers.

    Args:
        flags: values by dotted key; `None` and empty sequences count as not given.
        file: the TOML file; when `None`, CDCBRIDGE_CONFIG may name one.
        environ: the environment; `None` is that of the process.
        uses: the sections that the command works with. Files with secrets of another one are not read, so that a
            command need not be allowed to, and its password stays unset.

    Raises:
        ConfigError: the first mistake that was found.
    """
    env = os.environ if environ is None else environ
    path = file or (Path(env[f"{ENV_PREFIX}CONFIG"]) if env.get(f"{ENV_PREFIX}CONFIG") else None)
    layers = [_flag_layer(flags or {}), _env_layer(env), *([_file_layer(path)] if path else []), _ambient_layer(env)]
    layers = [_with_files_read(layer, uses) for layer in layers]
    config = _validated(_merged(layers, env), layers)
    if "engine" in uses:
        _check_open_door(config)
    return config


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key, dotted, with its description."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.description or ""


def variable(key: str) -> str:
    """The environment variable that sets `key`."""
    return ENV_PREFIX + key.replace(".", ENV_NESTING).upper()


def parameters() -> dict[str, str]:
    """The key that each parameter of a command sets, by the name that click gives the parameter."""
    return {flag.lstrip("-").replace("-", "_").lower(): key for key, flag in FLAGS.items()}


def _flag_layer(flags: Mapping[str, object]) -> Layer:
    given = {key: value for key, value in flags.items() if value is not None and value != ()}
    return Layer(given, {key: f"given as {FLAGS.get(key, key)}" for key in given})


def _env_layer(environ: Mapping[str, str]) -> Layer:
    known = {variable(key): key for key, _ in keys()}
    values: dict[str, object] = {}
    for name, value in environ.items():
        if not name.startswith(ENV_PREFIX) or name == f"{ENV_PREFIX}CONFIG":
            continue
        if name not in known:
            nearest = variable(_nearest(_key_meant(name), list(known.values())))
            raise ConfigError(name, "unknown variable", f"the nearest known one is {nearest}")
        if value:
            values[known[name]] = value
    return Layer(values, {key: f"in {variable(key)}" for key in values})


def _file_layer(path: Path) -> Layer:
    values = dict(_flattened(_read_toml(path), path, dict(keys())))
    return Layer(values, dict.fromkeys(values, f"in {path}"))


def _ambient_layer(environ: Mapping[str, str]) -> Layer:
    url = environ.get("AMQP_URL")
    return Layer({"rabbitmq.url": url}, {"rabbitmq.url": "in AMQP_URL"}) if url else Layer({}, {})


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError("--config", f"cannot read {path}: {exc.strerror}", "give the path of a TOML file") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(str(path), f"not UTF-8 text at byte {exc.start}", "save the file as UTF-8") from exc
    except tomllib.TOMLDecodeError as exc:
        raise _toml_error(path, str(exc)) from exc


def _toml_error(path: Path, message: str) -> ConfigError:
    place = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if place is None:
        return ConfigError(str(path), f"not valid TOML: {message}")
    return ConfigError(f"{path}:{place[1]}", f"not valid TOML: {message[: place.start()]}, at column {place[2]}")


def _flattened(
    table: Mapping[str, Any], path: Path, known: Mapping[str, str], prefix: str = ""
) -> Iterator[tuple[str, object]]:
    """A file's tables as dotted keys; unknown ones are refused."""
    for name, value in table.items():
        key = prefix + name
        is_table = any(other.startswith(f"{key}.") for other in known)
        if not is_table and key not in known:
            raise ConfigError(key, f"unknown key in {path}", f"the nearest known one is {_nearest(key, list(known))}")
        if not is_table:
            yield key, value
        elif isinstance(value, dict):
            yield from _flattened(value, path, known, f"{key}.")
        else:
            raise ConfigError(
                key, f"{_shown(key, value)} in {path} must be a table of settings", f"begin it with [{key}]"
            )


def _nearest(name: str, known: Sequence[str]) -> str:
    return max(
        known, key=lambda other: max(_likeness(name.lower(), other), _likeness(_last(name.lower()), _last(other)))
    )


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _key_meant(variable: str) -> str:
    return variable.removeprefix(ENV_PREFIX).replace(ENV_NESTING, ".").lower()


def _with_files_read(layer: Layer, uses: Collection[str]) -> Layer:
    """The layer with what its `…_file` keys point to. A secret given both ways in one layer is ambiguous."""
    values, where = dict(layer.values), dict(layer.where)
    for file_key, key in _FROM_FILES.items():
        if file_key not in values or key.partition(".")[0] not in uses:
            continue
        if key in values:
            raise ConfigError(file_key, f"{key} is set too, {where[key]}", "keep one of the two")
        values[key] = _read_secret(file_key, values[file_key])
        where[key] = f"in {values[file_key]}"
    return Layer(values, where)


def _read_secret(key: str, value: object) -> str:
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(key, f"{_shown(key, value)} must be a path")
    try:
        secret = Path(value).expanduser().read_text(encoding="utf-8").strip("\r\n")
    except (OSError, ValueError, RuntimeError) as exc:
        raise ConfigError(key, f"cannot read {value}: {_reason(exc)}", "give the path of a readable file") from exc
    if not secret:
        raise ConfigError(key, f"{value} is empty", "write the secret into it")
    return secret


def _reason(problem: Exception) -> str:
    match problem:
        case OSError():
            return problem.strerror or str(problem)
        case UnicodeDecodeError():
            return "not UTF-8 text"
        case _:
            return str(problem)


def _merged(layers: Sequence[Layer], environ: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for layer in reversed(layers):
        values |= layer.values
    if "state" not in values:
        values["state"] = default_state(environ)
    values.setdefault("engine.data", _data_beside(values["state"]))
    return values


def _data_beside(state: object) -> object:
    return Path(state, "engine.db") if isinstance(state, str | Path) else Path("engine.db")


def default_state(environ: Mapping[str, str]) -> Path:
    """The state folder of a user, or of the service that systemd runs.

    Raises:
        ConfigError: there is no home folder either.
    """
    if folders := environ.get("STATE_DIRECTORY"):
        return Path(folders.partition(":")[0])
    if environ.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(environ["XDG_STATE_HOME"], "cdcbridge")
    try:
        return Path(environ.get("HOME") or Path.home(), ".local", "state", "cdcbridge")
    except RuntimeError as exc:
        raise ConfigError("state", "there is no home folder to keep it in", "give a folder with --state") from exc


def _validated(values: Mapping[str, object], layers: Sequence[Layer]) -> Config:
    try:
        return Config.model_validate(_nested(values))
    except Invalid as exc:
        raise _config_error(exc.errors()[0], layers) from None  # the original would show values


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {"engine": {}}
    for key, value in values.items():
        *path, name = key.split(".")
        table = tree
        for step in path:
            table = table.setdefault(step, {})
        table[name] = value
    return tree


def _config_error(error: ErrorDetails, layers: Sequence[Layer]) -> ConfigError:
    key = _key_of(error["loc"])
    origin = next((layer for layer in layers if key in layer.values), None)
    where = f" {origin.where[key]}" if origin else ""
    problem, remedy = _complaint(error)
    return ConfigError(key, f"{_shown(key, error['input'])}{where} {problem}", remedy)


def _key_of(location: Sequence[int | str]) -> str:
    """The longest beginning of the location that is a key; behind it stand list indexes and members of unions."""
    known = dict(keys())
    dotted = [".".join(str(step) for step in location[:end]) for end in range(len(location), 0, -1)]
    return next((key for key in dotted if key in known), dotted[0])


_WORDS = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "path_type": "must be a path",
    "tuple_type": "must be a list",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_pattern_mismatch": "must be 1 to 64 letters, digits, dots, dashes or underscores",
}


def _complaint(error: ErrorDetails) -> tuple[str, str]:
    context = error.get("ctx", {})
    if isinstance(refused := context.get("error"), Refused):
        return refused.problem, refused.remedy
    words = _WORDS.get(error["type"])
    return (words.format_map(context) if words else error["msg"].replace("Input should be", "must be")), ""


def _shown(key: str, value: object) -> str:
    if key in _SECRETS:
        return "the value"
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "a table"
        case str() | int() | float() | Path():
            return repr(str(value)) if isinstance(value, str | Path) else str(value)
        case _:
            return "the value"


def _check_open_door(config: Config) -> None:
    engine = config.engine
    if not engine.listen.is_loopback and engine.password is None:
        raise ConfigError(
            "engine.listen",
            f"{engine.listen} can be reached from other machines, and the engine has no password",
            "set engine.password_file or engine.password, or listen on 127.0.0.1",
        )
