"""Configuration: layers, checks, and one clear line for each mistake. The only I/O is files in a temporary folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcbridge.config import FLAGS, Address, Config, default_state, keys, load, variable
from cdcbridge.errors import ConfigError

HOME = {"HOME": "/home/ann"}
SECRET = "s3cret-word"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cdcbridge.toml"


def url(config: Config) -> str:
    return config.rabbitmq.url.get_secret_value()


def error(
    flags: dict[str, object] | None = None, environ: dict[str, str] | None = None, file: Path | None = None
) -> str:
    """What an operator reads."""
    with pytest.raises(ConfigError) as caught:
        load(flags, environ={**HOME, **(environ or {})}, file=file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layers --------------------------------------------------------------------------------------------------------------


def test_nothing_given_is_enough() -> None:
    config = load(environ=HOME)
    assert (config.name, config.source, config.tables, config.grace_s) == ("cdcbridge", "embedded:", (), 10.0)
    assert config.state == Path("/home/ann/.local/state/cdcbridge")
    assert config.engine.data == Path("/home/ann/.local/state/cdcbridge/engine.db")
    assert config.engine.listen == Address("127.0.0.1", 28015)
    assert url(config) == "amqp://guest:guest@127.0.0.1:5672/%2F"
    assert (config.rabbitmq.exchange.name, config.rabbitmq.exchange.durable) == ("cdcbridge", None)
    assert (config.publish.window, config.publish.window_bytes) == (4096, 64 * 1024 * 1024)


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(file: Path) -> None:
    file.write_text('name = "file"\ngrace_s = 1\n[publish]\nwindow = 1\n')
    environ = {**HOME, "CDCBRIDGE_NAME": "env", "CDCBRIDGE_GRACE_S": "2"}
    config = load({"name": "flag"}, file=file, environ=environ)
    assert (config.name, config.grace_s, config.publish.window, config.log.level) == ("flag", 2.0, 1, "info")


def test_a_layer_changes_only_the_keys_that_it_sets(file: Path) -> None:
    file.write_text('[rabbitmq]\nheartbeat_s = 5\nexchange.name = "shop"\n')
    config = load({"rabbitmq.exchange.durable": False}, file=file, environ=HOME)
    assert (config.rabbitmq.heartbeat_s, config.rabbitmq.exchange.name) == (5, "shop")
    assert config.rabbitmq.exchange.durable is False


def test_flags_that_were_not_given_do_not_count() -> None:
    environ = {**HOME, "CDCBRIDGE_NAME": "env", "CDCBRIDGE_TABLES": "a,b"}
    config = load({"name": None, "tables": ()}, environ=environ)
    assert (config.name, config.tables) == ("env", ("a", "b"))


def test_every_key_can_be_set_in_the_environment() -> None:
    environ = {
        "CDCBRIDGE_NAME": "n",
        "CDCBRIDGE_SOURCE": "embedded:/d",
        "CDCBRIDGE_TABLES": "t, db.u ,",
        "CDCBRIDGE_STATE": "/s",
        "CDCBRIDGE_GRACE_S": "0.5",
        "CDCBRIDGE_ENGINE__LISTEN": "[::1]:0",
        "CDCBRIDGE_ENGINE__DATA": "/e",
        "CDCBRIDGE_ENGINE__PASSWORD": "p",
        "CDCBRIDGE_ENGINE__INITIAL_VALUES": "Explicit",
        "CDCBRIDGE_ENGINE__PBKDF2_ITERATIONS": "5000",
        "CDCBRIDGE_ENGINE__TLS_CERT": "/c",
        "CDCBRIDGE_ENGINE__TLS_KEY": "/k",
        "CDCBRIDGE_ENGINE__MAX_QUERY_BYTES": "5000",
        "CDCBRIDGE_ENGINE__MAX_CURSORS": "5",
        "CDCBRIDGE_ENGINE__RETAIN_AGE_S": "1.5",
        "CDCBRIDGE_ENGINE__RETAIN_COUNT": "10",
        "CDCBRIDGE_ENGINE__RETAIN_BYTES": "1000",
        "CDCBRIDGE_ENGINE__RETAIN_HARD_BYTES": "2000",
        "CDCBRIDGE_RABBITMQ__URL": "amqps://h",
        "CDCBRIDGE_RABBITMQ__HEARTBEAT_S": "0",
        "CDCBRIDGE_RABBITMQ__EXCHANGE__NAME": "x",
        "CDCBRIDGE_RABBITMQ__EXCHANGE__DURABLE": "false",
        "CDCBRIDGE_PUBLISH__WINDOW": "7",
        "CDCBRIDGE_PUBLISH__WINDOW_BYTES": "5000",
        "CDCBRIDGE_PUBLISH__ROUTING_KEY": "{database}",
        "CDCBRIDGE_LOG__LEVEL": "DEBUG",
        "CDCBRIDGE_LOG__FORMAT": "json",
    }
    missing = {variable(key) for key, _ in keys()} - set(environ)
    assert missing == {"CDCBRIDGE_ENGINE__PASSWORD_FILE", "CDCBRIDGE_RABBITMQ__URL_FILE"}
    config = load(environ=environ)
    assert config.tables == ("t", "db.u")
    assert config.engine.listen == Address("::1", 0)
    assert config.engine.password is not None
    assert config.engine.password.get_secret_value() == "p"
    assert (url(config), config.rabbitmq.exchange.durable, config.log.level) == ("amqps://h", False, "debug")


def test_an_empty_variable_counts_as_unset() -> None:
    environ = {**HOME, "CDCBRIDGE_ENGINE__PASSWORD": "", "CDCBRIDGE_NAME": "", "CDCBRIDGE_CONFIG": "", "AMQP_URL": ""}
    assert load(environ=environ) == load(environ=HOME)


def test_a_variable_can_name_the_file(file: Path) -> None:
    file.write_text('name = "shop"')
    assert load(environ={**HOME, "CDCBRIDGE_CONFIG": str(file)}).name == "shop"


def test_the_flag_for_the_file_wins_over_the_variable(file: Path) -> None:
    file.write_text('name = "shop"')
    assert load(file=file, environ={**HOME, "CDCBRIDGE_CONFIG": "/nowhere"}).name == "shop"


def test_amqp_url_replaces_the_default_and_nothing_else(file: Path) -> None:
    environ = {**HOME, "AMQP_URL": "amqp://ambient"}
    assert url(load(environ=environ)) == "amqp://ambient"
    file.write_text('[rabbitmq]\nurl = "amqp://file"')
    assert url(load(environ=environ, file=file)) == "amqp://file"
    environ["CDCBRIDGE_RABBITMQ__URL"] = "amqp://ours"
    assert url(load(environ=environ, file=file)) == "amqp://ours"


def test_every_flag_sets_a_key_that_exists() -> None:
    assert set(FLAGS) <= {key for key, _ in keys()}


def test_every_key_is_described() -> None:
    assert all(description for _, description in keys())


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(environ=HOME).name = "other"


# Secrets -------------------------------------------------------------------------------------------------------------


def test_a_secret_can_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("amqp://u:p@h\n")
    (tmp_path / "password").write_text("word with spaces \r\n")
    config = load(
        {"engine.password_file": tmp_path / "password"},
        environ={**HOME, "CDCBRIDGE_RABBITMQ__URL_FILE": str(tmp_path / "url")},
    )
    assert url(config) == "amqp://u:p@h"
    assert config.engine.password is not None
    assert config.engine.password.get_secret_value() == "word with spaces "


def test_a_secret_given_higher_up_wins_over_the_file_of_a_lower_layer(tmp_path: Path, file: Path) -> None:
    (tmp_path / "url").write_text("amqp://file")
    file.write_text(f'[rabbitmq]\nurl_file = "{tmp_path}/url"')
    assert url(load({"rabbitmq.url": "amqp://flag"}, file=file, environ=HOME)) == "amqp://flag"


def test_a_secret_given_twice_in_one_place_is_refused(file: Path) -> None:
    file.write_text('[rabbitmq]\nurl = "amqp://h"\nurl_file = "/x"')
    assert error(file=file).startswith(f"rabbitmq.url_file: rabbitmq.url is set too, in {file}; keep one")


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8")]
)
def test_a_secrets_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    said = error({"engine.password_file": path})
    assert said.startswith("engine.password_file: ")
    assert str(path) in said
    assert problem in said


def test_a_secrets_file_in_the_home_of_nobody_is_no_traceback() -> None:
    assert "cannot read ~nobody-has-this-name/x" in error(
        environ={"CDCBRIDGE_RABBITMQ__URL_FILE": "~nobody-has-this-name/x"}
    )


def test_no_secret_shows_in_a_printed_configuration() -> None:
    config = load(
        {"rabbitmq.url": f"amqp://u:{SECRET}@h", "source": f"embedded:{SECRET}", "engine.password": SECRET},
        environ=HOME,
    )
    assert SECRET not in repr(config)
    assert SECRET not in str(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rabbitmq.url", f"amqp://u:{SECRET}@h:x"),
        ("rabbitmq.url", f"http://u:{SECRET}@h"),
        ("rabbitmq.url", f"u:{SECRET}"),
        ("rabbitmq.url", [SECRET]),
        ("engine.password", [SECRET]),
        ("source", f"//u:{SECRET}@h"),
    ],
)
def test_no_secret_shows_in_an_error(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        load({key: value}, environ=HOME)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


# Names that do not exist ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "key", "nearest"),
    [
        ('nmae = "x"', "nmae", "name"),
        ("[rabbitmq]\nuri = 'x'", "rabbitmq.uri", "rabbitmq.url"),
        ("url = 'x'", "url", "rabbitmq.url"),
        ("[publish]\nwindow_size = 1", "publish.window_size", "publish.window"),
        ("[rabbitmq.exchange]\nname = 'x'\ntransient = true", "rabbitmq.exchange.transient", "rabbitmq.exchange.name"),
        ("[rabbit]\nurl = 'x'", "rabbit", "rabbitmq.url"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(file: Path, toml: str, key: str, nearest: str) -> None:
    file.write_text(toml)
    assert error(file=file) == f"{key}: unknown key in {file}; the nearest known one is {nearest}"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("CDCBRIDGE_NMAE", "CDCBRIDGE_NAME"),
        ("CDCBRIDGE_RABBITMQ_URL", "CDCBRIDGE_RABBITMQ__URL"),
        ("CDCBRIDGE_ENGINE__PASWORD", "CDCBRIDGE_ENGINE__PASSWORD"),
        ("CDCBRIDGE_URL", "CDCBRIDGE_RABBITMQ__URL"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known_one(name: str, nearest: str) -> None:
    assert error(environ={name: SECRET}) == f"{name}: unknown variable; the nearest known one is {nearest}"


@given(st.from_regex(r"[a-z_]{1,20}", fullmatch=True).filter(lambda name: name not in {key for key, _ in keys()}))
def test_every_unknown_variable_is_refused(name: str) -> None:
    if name != "config":
        assert "unknown variable" in error(environ={variable(name): "x"})


# Values that cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("name", "a b", "'a b' {where} must be 1 to 64 letters, digits, dots, dashes or underscores"),
        ("name", "x" * 65, "must be 1 to 64 letters"),
        ("tables", "a.b.c", "must be TABLE or DATABASE.TABLE"),
        ("grace_s", "-1", "'-1' {where} must be at least 0"),
        ("grace_s", "soon", "'soon' {where} must be a number"),
        ("grace_s", "nan", "must be"),
        ("engine.listen", "28015", "'28015' {where} must be HOST:PORT"),
        ("engine.listen", "::1:28015", "must be HOST:PORT"),
        ("engine.listen", "127.0.0.1:70000", "port from 0 to 65535"),
        ("rabbitmq.heartbeat_s", "70000", "'70000' {where} must be at most 65535"),
        ("rabbitmq.heartbeat_s", "1.5", "must be a whole number"),
        ("rabbitmq.exchange.name", "x" * 256, "must be 1 to 255 bytes"),
        ("rabbitmq.exchange.durable", "maybe", "'maybe' {where} must be true or false"),
        ("publish.window", "0", "'0' {where} must be at least 1"),
        ("publish.window_bytes", "1", "must be at least 4096"),
        ("log.level", "loud", "'loud' {where} must be 'debug', 'info', 'warning' or 'error'"),
        ("log.format", "xml", "must be 'auto', 'console' or 'json'"),
        ("source", "shop.db", "the value {where} must be a URL"),
        ("rabbitmq.url", "localhost:5672", "the value {where} must begin with amqp:// or amqps://"),
        ("rabbitmq.url", "http://h", "must begin with amqp:// or amqps://"),
        ("rabbitmq.url", "amqp://", "must name a host"),
        ("rabbitmq.url", "amqp://h/a b", "the value {where} has white space in it"),
        ("rabbitmq.url", " amqp://h", "has white space in it"),
        ("rabbitmq.url", "amqp://u:p#w@h", "must be a URL with a port"),
        ("rabbitmq.url", "amqp://h:x", "must be a URL with a port"),
        ("rabbitmq.url", "amqp://h:70000", "must be a URL with a port from 0 to 65535"),
        ("rabbitmq.url", "amqp://[::1", "must be a URL"),
        ("rabbitmq.url", "amqp://h/a/b", "has a slash inside the vhost; write it as %2F"),
        ("rabbitmq.url", "amqp://h/" + "x" * 256, "vhost longer than 255 bytes"),
    ],
)
def test_a_bad_value_is_answered_with_the_key_its_origin_and_what_is_allowed(
    key: str, value: str, problem: str
) -> None:
    said = error(environ={variable(key): value})
    assert said.startswith(f"{key}: ")
    assert problem.format(where=f"in {variable(key)}") in said


@pytest.mark.parametrize(
    ("toml", "problem"),
    [
        ("name = 5", "name: 5 in {file} must be text"),
        ("tables = 5", "tables: 5 in {file} must be a list"),
        ("tables = [5]", "tables: 5 in {file} must be text"),
        ("grace_s = true", "grace_s: true in {file} must be a number"),
        ("state = 5", "state: 5 in {file} must be a path"),
        ("state = ''", "state: '' in {file} must be a path"),
        ("rabbitmq = 5", "rabbitmq: 5 in {file} must be a table of settings; begin it with [rabbitmq]"),
        ("[name]\nx = 1", "name: a table in {file} must be text"),
        ("[publish]\nwindow = 1.5", "publish.window: 1.5 in {file} must be a whole number"),
        ("[publish]\nwindow = []", "publish.window: the value in {file} must be a whole number"),
        ("[engine]\npassword = ''", "engine.password: the value in {file} must not be empty"),
        ("[engine]\nlisten = 5", "engine.listen: 5 in {file} must be HOST:PORT"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(file: Path, toml: str, problem: str) -> None:
    file.write_text(toml)
    assert error(file=file).startswith(problem.format(file=file))


def test_a_flag_is_named_as_it_was_typed() -> None:
    assert error({"grace_s": "x"}) == "grace_s: 'x' given as --grace must be a number"


def test_a_bad_url_out_of_a_file_is_blamed_on_that_file(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("http://h")
    assert f"the value in {path} must begin with amqp://" in error({"rabbitmq.url_file": path})


def test_a_bad_template_is_refused_with_the_known_fields() -> None:
    said = error(environ={"CDCBRIDGE_PUBLISH__ROUTING_KEY": "{tabel}"})
    assert said.startswith("publish.routing_key: there is no field {tabel}; the fields are {source}, ")


# Files ---------------------------------------------------------------------------------------------------------------


def test_bad_toml_is_answered_with_file_and_line(file: Path) -> None:
    file.write_text('name = "x"\n\nstate = \n')
    assert re.match(rf"{re.escape(str(file))}:3: not valid TOML: .*, at column 9$", error(file=file))


def test_toml_that_ends_too_early_is_answered_with_the_file(file: Path) -> None:
    file.write_text('name = "x')
    assert error(file=file).startswith(str(file))


def test_a_file_in_another_encoding_is_named(file: Path) -> None:
    file.write_bytes(b'name = "\xff"')
    assert error(file=file) == f"{file}: not UTF-8 text at byte 8; save the file as UTF-8"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert f"--config: cannot read {tmp_path}/none: No such file" in error(file=tmp_path / "none")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "Is a directory" in error(file=tmp_path)


# Where state is kept -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"STATE_DIRECTORY": "/var/lib/cdcbridge", "XDG_STATE_HOME": "/x"}, "/var/lib/cdcbridge"),
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x"}, "/x/cdcbridge"),
        ({"XDG_STATE_HOME": "relative"}, "/home/ann/.local/state/cdcbridge"),
        ({}, "/home/ann/.local/state/cdcbridge"),
    ],
)
def test_state_is_kept_where_the_system_wants_it(environ: dict[str, str], folder: str) -> None:
    assert default_state({**HOME, **environ}) == Path(folder)


def test_paths_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    config = load({"state": "state", "engine.data": "~/shop.db"}, environ=HOME)
    assert (config.state, config.engine.data) == (tmp_path / "state", Path("/home/ann/shop.db"))


def test_the_engines_data_is_beside_the_state() -> None:
    assert load({"state": "/s"}, environ=HOME).engine.data == Path("/s/engine.db")


# An open door --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:28015", "[::]:28015", "db.example:28015", "192.0.2.1:0"])
def test_listening_beyond_this_machine_needs_a_password(address: str) -> None:
    said = error({"engine.listen": address})
    assert said.startswith(
        f"engine.listen: {address} can be reached from other machines, and the engine has no password"
    )
    assert "engine.password_file" in said
    assert str(load({"engine.listen": address, "engine.password": "p"}, environ=HOME).engine.listen) == address


def test_a_command_without_the_engine_asks_nothing_of_its_settings(tmp_path: Path) -> None:
    flags = {"engine.listen": "0.0.0.0:1", "engine.password_file": tmp_path / "none"}
    assert load(flags, environ=HOME, uses=("rabbitmq",)).engine.password is None


def test_a_command_without_rabbitmq_does_not_read_its_secrets(tmp_path: Path) -> None:
    load({"rabbitmq.url_file": tmp_path / "none"}, environ=HOME, uses=("engine",))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.1.2.3:1", "localhost:1", "[::1]:1"])
def test_listening_on_this_machine_needs_none(address: str) -> None:
    assert str(load({"engine.listen": address}, environ=HOME).engine.listen) == address
