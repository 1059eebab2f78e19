"""Logs: the fixed list of events, and how they are written: for people on a terminal, as JSON lines otherwise.

All of it goes to stderr; stdout carries data. Facts are fields. Bodies, rows and credentials are not logged; a filter
takes passwords out of URLs all the same, in case one slips into a field.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]

EVENTS: dict[str, str] = {
    "bridge_started": "The publisher runs and begins to connect.",
    "bridge_ready": "Source and broker are connected; changes flow.",
    "engine_ready": "The built-in engine takes connections at this address.",
    "client_refused": "A client of the built-in engine was turned away: a wrong password, or not its protocol.",
    "source_connected": "The database answers, and the stream goes on from this position.",
    "table_missing": "No table has one of these names, which were asked for; it may yet be created.",
    "source_lost": "The database went away; we try again.",
    "position_lost": "The source no longer has the history behind the saved position.",
    "batch_confirmed": "The broker has confirmed everything up to this position; at most once a second.",
    "publish_nacked": "The broker refused a message; it is sent again.",
    "message_returned": "No queue is bound to this routing key; logged once for each key.",
    "broker_connected": "RabbitMQ answers and the exchange is there.",
    "broker_lost": "The connection to RabbitMQ is gone; we try again.",
    "broker_blocked": "RabbitMQ takes no messages for now (memory or disk alarm); we wait.",
    "checkpoint_saved": "A position was written to the state folder (level debug).",
    "listener_ready": "The queue is bound and messages are being received.",
    "message_handled": "A message was printed or processed (level debug).",
    "message_retried": "A message will be handled once more.",
    "shutdown_requested": "A signal asked for the end; what is unconfirmed is being finished.",
    "shutdown_finished": "Everything is closed.",
    "fault_caught": "Something inside the program or a library failed unexpectedly; worth a report.",
}
"""Every event that is ever logged, and what it means."""

_QUIET = ("pika", "aio_pika", "aiormq", "pamqp")
"""Libraries that log each lost connection loudly. The rooms that use them log it once, as an event."""

_OURS = "cdcbridge"
_URL_PASSWORD = re.compile(r"(://[^:/@\s]*):\S*@")
_QUERY_SECRET = re.compile(r"([?&](?:password|passwd|token|secret)=)[^&\s]+", re.IGNORECASE)


def configure(level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> FilteringBoundLogger:
    """Set up logging for the process, and return the logger. `stream` is stderr when it is `None`.

    The format `auto` is console style on a terminal and JSON lines otherwise. Calling it again replaces the setup.
    """
    out = sys.stderr if stream is None else stream
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_common(), *_console(out)] if _for_people(format, out) else [*_common(), *_json()],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *args: Lines(out),
        cache_logger_on_first_use=False,
    )
    log: FilteringBoundLogger = structlog.get_logger().bind()
    _take_over_stdlib(log, tracebacks=level == "debug")
    return log


def wants_color(stream: TextIO) -> bool:
    """Whether colours belong on `stream`: it is a terminal, and NO_COLOR is not set. Source: no-color.org."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A processor that takes passwords out of whatever looks like a URL, in every field."""
    return {key: _redacted(value) for key, value in event.items()}


def without_password(text: str) -> str:
    """`text` with the passwords of its URLs replaced by three asterisks."""
    if "://" not in text:
        return text
    return _QUERY_SECRET.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", text))


class Lines:
    """Writes each log entry as one line. A reader that went away does not stop the program."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write `line` and flush. Lost if nobody can read it: there is no better place to say so."""
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = fatal = log = msg


class _StdlibHandler(logging.Handler):
    """Turns what libraries log into the event `fault_caught`, with the traceback only where it helps a report.

    Our engine is such a library, too. A record of it that is no fault has an attribute `event`, one of `EVENTS`, and
    `fields`.
    """

    def __init__(self, log: FilteringBoundLogger, tracebacks: bool) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._tracebacks = tracebacks

    def emit(self, record: logging.LogRecord) -> None:
        """Log `record` as one event."""
        report = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        if (event := getattr(record, "event", None)) in EVENTS:
            report(event, **getattr(record, "fields", {}))
        else:
            report("fault_caught", **self._fault(record))

    def _fault(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {"logger": record.name, "detail": _first_line(record.getMessage())}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = _brief(record.exc_info[1])
            if self._tracebacks or record.name.startswith(_OURS):
                fields["exc_info"] = record.exc_info
        return fields


def _take_over_stdlib(log: FilteringBoundLogger, tracebacks: bool) -> None:
    logging.basicConfig(handlers=[_StdlibHandler(log, tracebacks)], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def _for_people(format: Format, stream: TextIO) -> bool:
    return format == "console" or (format == "auto" and stream.isatty())


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        redact,
    ]


def _console(stream: TextIO) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=wants_color(stream), pad_event_to=22, exception_formatter=structlog.dev.plain_traceback
    )
    return [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False), renderer]


def _json() -> list[Processor]:
    return [structlog.processors.TimeStamper(fmt="iso"), _in_reading_order, _as_json]


def _in_reading_order(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _as_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=str).decode()


def _redacted(value: Any) -> Any:
    match value:
        case str():
            return without_password(value)
        case list() | tuple():
            return [_redacted(item) for item in value]
        case dict():
            return {key: _redacted(item) for key, item in value.items()}
        case BaseException():
            return without_password(_brief(value))
        case _:
            return value


def _brief(error: BaseException) -> str:
    text = _first_line(str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
