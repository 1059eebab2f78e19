"""Logs: two styles, one list of events, no passwords, no foreign tracebacks."""

from __future__ import annotations

import ast
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

import cdcbridge
from cdcbridge.logs import EVENTS, configure, without_password

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def lines(out: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_without_a_terminal_each_entry_is_one_line_of_json() -> None:
    out = io.StringIO()
    configure(stream=out).info("bridge_ready", broker="127.0.0.1:5672", window=4096)
    (entry,) = lines(out)
    assert list(entry) == ["timestamp", "level", "event", "broker", "window"]
    assert (entry["level"], entry["event"], entry["window"]) == ("info", "bridge_ready", 4096)


def test_on_a_terminal_entries_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    configure(stream=out).info("bridge_ready", window=4096)
    assert "[info     ] bridge_ready" in out.getvalue()
    assert "window=4096" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = Terminal()
    configure(stream=out).info("bridge_ready")
    assert "\x1b" in out.getvalue()


def test_the_style_can_be_asked_for() -> None:
    out = Terminal()
    configure(format="json", stream=out).info("bridge_ready")
    assert len(lines(out)) == 1


def test_entries_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    log = configure("warning", stream=out)
    log.info("bridge_ready")
    log.warning("broker_lost")
    assert [entry["event"] for entry in lines(out)] == ["broker_lost"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://guest:secret@127.0.0.1:5672/%2F", "amqp://guest:***@127.0.0.1:5672/%2F"),
        ("amqp://guest:se@cr:et@host", "amqp://guest:***@host"),
        ("amqp://guest@host:5672/", "amqp://guest@host:5672/"),
        ("http://host:5984/db", "http://host:5984/db"),
        ("postgresql://h/db?user=u&password=secret&x=1", "postgresql://h/db?user=u&password=***&x=1"),
        ("cannot log in at amqp://u:secret@h, sorry", "cannot log in at amqp://u:***@h, sorry"),
        ("no url: a@b", "no url: a@b"),
    ],
)
def test_passwords_are_taken_out_of_urls(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_no_field_shows_a_password() -> None:
    out = io.StringIO()
    url = "amqp://u:secret@h"
    try:
        raise OSError(url)
    except OSError as exc:
        configure(stream=out).error("broker_lost", url=url, urls=[url], about={"url": url}, error=exc, exc_info=True)
    assert "secret" not in out.getvalue()
    assert out.getvalue().count("amqp://u:***@h") == 5


def test_libraries_of_the_broker_are_silent() -> None:
    out = io.StringIO()
    configure(stream=out)
    for name in ("pika.adapters.base_connection", "aio_pika.robust_connection", "aiormq.connection"):
        logging.getLogger(name).critical("the broker died")
    assert out.getvalue() == ""


def test_what_asyncio_reports_is_one_line_without_a_traceback() -> None:
    out = io.StringIO()
    configure(stream=out)
    logging.getLogger("asyncio").error("Task exception\nfuture: <…>", exc_info=ValueError("broken"))
    (entry,) = lines(out)
    assert (entry["event"], entry["detail"], entry["error"]) == ("fault_caught", "Task exception", "ValueError: broken")
    assert "exception" not in entry


def test_what_the_engine_reports_by_an_events_name_is_that_event() -> None:
    out = io.StringIO()
    configure(stream=out)
    extra = {"event": "client_refused", "fields": {"peer": "127.0.0.1:9", "reason": "Wrong password"}}
    logging.getLogger("cdcbridge.engine").warning("client refused: Wrong password", extra=extra)
    (entry,) = lines(out)
    assert (entry["event"], entry["level"], entry["peer"]) == ("client_refused", "warning", "127.0.0.1:9")


def test_a_fault_of_our_own_keeps_its_traceback_in_one_field() -> None:
    out = io.StringIO()
    configure(stream=out)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("cdcbridge.engine").exception("a query failed")
    (entry,) = lines(out)
    assert "Traceback" in str(entry["exception"])


def test_warnings_of_python_become_entries() -> None:
    out = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure(stream=out)
        warnings.warn("coroutine was never awaited", RuntimeWarning, stacklevel=1)
        logging.captureWarnings(False)
    (entry,) = lines(out)
    assert entry["level"] == "warning"
    assert "coroutine was never awaited" in str(entry["detail"])


def test_a_reader_that_went_away_does_not_stop_the_program() -> None:
    configure(stream=Closed()).info("bridge_ready")


def _sources() -> Iterator[Path]:
    project = Path(cdcbridge.__file__).parents[1]
    for package in ("cdcbridge", "listeners"):
        yield from (project / package).rglob("*.py")


def test_only_events_of_the_list_are_logged() -> None:
    used = {event for path in _sources() for event in _events(path)}
    assert used <= set(EVENTS), f"not in logs.EVENTS: {sorted(used - set(EVENTS))}"


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_of_the_list_is_named_where_it_is_logged(event: str) -> None:
    code = "".join(path.read_text() for path in _sources())
    assert code.count(f'"{event}"') > 1


def _events(path: Path) -> Iterator[str]:
    if "engine" in path.parts:  # a library of its own: it logs sentences through the standard library
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_log(node.func):
            event = node.args[0] if node.args else None
            yield str(event.value) if isinstance(event, ast.Constant) else f"{path.name}:{node.lineno}: not a constant"


def _is_log(function: ast.Attribute) -> bool:
    owner = function.value
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return function.attr in LEVELS and name.lstrip("_") in {"log", "logger"}
