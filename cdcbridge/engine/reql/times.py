"""Terms over dates and times.

A time is a PTYPE<TIME>: seconds since the epoch, to the millisecond, and the offset to show it with. What it looks like
there (its day, its hour) is found by way of `datetime`; so it lies in the years 1 to 9999.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.registry import Call, Fn, function, term
from cdcbridge.engine.reql.runtime import datum, expect, kind_of, whole
from cdcbridge.engine.values import PSEUDO_TYPE, compare, number

TIME = "PTYPE<TIME>"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r"([+-])(\d\d)(?::?(\d\d))?")
_YEAR_AND_MONTH = re.compile(r"(\d{4})(?:-?(\d\d))?")
_YEAR_AND_DAY = re.compile(r"(\d{4})-?(\d{3})")


def time_value(epoch_s: float, zone: str) -> dict[str, Any]:
    """A PTYPE<TIME>: seconds since the epoch, to the millisecond, and the offset to show it with."""
    return {PSEUDO_TYPE: "TIME", "epoch_time": number(round(epoch_s, 3)), "timezone": zone}


def _logic(message: str) -> QueryError:
    return QueryError(ErrorType.QUERY_LOGIC, message)


# Offsets -------------------------------------------------------------------------------------------------------------


def offset(text: Any) -> str:
    """An offset from UTC in its one form, `+01:00`.

    Raises:
        QueryError: it is none.
    """
    if expect("STRING", text) == "Z":
        return "+00:00"
    if not text.startswith(("-", "+")):
        raise _logic(f"Timezone `{text}` does not start with `-` or `+`.")
    if (found := _OFFSET.fullmatch(text)) is None:
        raise _logic(f"`{text}` is not a valid time offset.")
    sign, hours, minutes = found[1], found[2], found[3] or "00"
    if hours > "23":
        raise _logic(f"Hours out of range in `{text}`.")
    if minutes > "59":
        raise _logic(f"Minutes out of range in `{text}`.")
    return f"{sign}{hours}:{minutes}"


def _zone(text: str) -> timezone:
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[4:6])))


def _shown(value: Any) -> datetime:
    """A time as its own clock shows it."""
    expect(TIME, value)
    try:
        return (_EPOCH + timedelta(milliseconds=round(value["epoch_time"] * 1000))).astimezone(_zone(value["timezone"]))
    except (OverflowError, ValueError):
        message = f"Time {value['epoch_time']} is out of range: the years 1 to 9999 can be shown."
        raise _logic(message) from None


def _epoch_s(moment: datetime) -> float:
    return (moment - _EPOCH) / timedelta(seconds=1)


# Making --------------------------------------------------------------------------------------------------------------


@term("NOW", 0)
def now(call: Call) -> Fn:
    """When the query began: the same all through it."""
    return lambda env: time_value(env.context.now_s, "+00:00")


@function("EPOCH_TIME", 1)
def epoch_time(seconds: Any) -> dict[str, Any]:
    return time_value(expect("NUMBER", seconds), "+00:00")


@function("TIME", 0, None)
def make_time(*parts: Any) -> dict[str, Any]:
    """Year, month, day, and perhaps hour, minute and second; the offset comes last."""
    if len(parts) not in (4, 7):
        raise _logic(f"Got {len(parts)} arguments to TIME (expected 4 or 7).")
    year, month, day, *clock = parts[:-1]
    hours, minutes, seconds = clock or (0, 0, 0)
    zone = offset(parts[-1])
    try:
        day_begins = datetime(whole(year), whole(month), whole(day), whole(hours), whole(minutes), tzinfo=_zone(zone))
    except (ValueError, OverflowError) as problem:
        raise _logic(f"Error in time logic: {problem}.") from None
    if not 0 <= expect("NUMBER", seconds) < 60:
        raise _logic("Error in time logic: Seconds out of range.")
    return time_value(_epoch_s(day_begins) + seconds, zone)


@term("ISO8601", 1, options=("default_timezone",))
def iso8601(call: Call) -> Fn:
    """A time from its ISO 8601 text; the driver sends `datetime` objects so."""
    text, default_zone = call.args[0].run, call.option("default_timezone")
    return lambda env: _parsed(expect("STRING", datum(text(env))), default_zone(env))


def _parsed(text: str, default_zone: str | None) -> dict[str, Any]:
    day, mark, clock = text.partition("T")
    try:
        moment = datetime.fromisoformat(_whole_day(day) + mark + clock)
    except (ValueError, OverflowError) as problem:
        raise _logic(f"Invalid date string `{text}`: {problem}") from None
    if moment.tzinfo is None:
        if default_zone is None:
            raise _logic("ISO 8601 string has no time zone, and no default time zone was provided.")
        moment = moment.replace(tzinfo=_zone(offset(default_zone)))
    return time_value(_epoch_s(moment), _offset_of(moment))


def _whole_day(day: str) -> str:
    """Year alone, year and month, year and day of the year: as year, month and day. Others are left as they are."""
    if (found := _YEAR_AND_MONTH.fullmatch(day)) is not None:
        return f"{found[1]}-{found[2] or '01'}-01"
    if (found := _YEAR_AND_DAY.fullmatch(day)) is None:
        return day
    first = datetime(int(found[1]), 1, 1, tzinfo=UTC)
    moment = first + timedelta(days=int(found[2]) - 1)
    if moment.year != first.year:
        raise ValueError("Day of year is out of range")
    return moment.date().isoformat()


def _offset_of(moment: datetime) -> str:
    """`+01:00`, as it stands at the end of the time's own text."""
    return moment.replace(microsecond=0).isoformat()[-6:]


# Taking apart --------------------------------------------------------------------------------------------------------


@function("TO_EPOCH_TIME", 1)
def to_epoch_time(value: Any) -> Any:
    return expect(TIME, value)["epoch_time"]


@function("TO_ISO8601", 1)
def to_iso8601(value: Any) -> str:
    """Its text, with milliseconds if there are any."""
    moment = _shown(value)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")


@function("IN_TIMEZONE", 2)
def in_timezone(value: Any, zone: Any) -> dict[str, Any]:
    """The same moment, to be shown with another offset."""
    return time_value(expect(TIME, value)["epoch_time"], offset(zone))


@function("TIMEZONE", 1)
def timezone_of(value: Any) -> Any:
    return expect(TIME, value)["timezone"]


@function("DATE", 1)
def date(value: Any) -> dict[str, Any]:
    """When its day began."""
    midnight = _shown(value).replace(hour=0, minute=0, second=0, microsecond=0)
    return time_value(_epoch_s(midnight), value["timezone"])


@function("TIME_OF_DAY", 1)
def time_of_day(value: Any) -> Any:
    """The seconds since its day began."""
    moment = _shown(value)
    return _seconds(moment.hour * 3600 + moment.minute * 60 + moment.second, moment)


def _seconds(seconds: int, moment: datetime) -> Any:
    return number(round(seconds + moment.microsecond / 1e6, 3))


def _part(name: str, read: Callable[[datetime], Any]) -> None:
    function(name, 1)(lambda value: read(_shown(value)))


_part("YEAR", lambda moment: moment.year)
_part("MONTH", lambda moment: moment.month)
_part("DAY", lambda moment: moment.day)
_part("DAY_OF_WEEK", datetime.isoweekday)
_part("DAY_OF_YEAR", lambda moment: moment.timetuple().tm_yday)
_part("HOURS", lambda moment: moment.hour)
_part("MINUTES", lambda moment: moment.minute)
_part("SECONDS", lambda moment: _seconds(moment.second, moment))


def _constants(*names: str) -> None:
    """Days of the week or months by their names, the first of which is 1."""
    for value, name in enumerate(names, start=1):
        function(name, 0)(partial(_same, value))


def _same(value: int) -> int:
    return value


_constants("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
_constants(
    "JANUARY", "FEBRUARY", "MARCH", "APRIL", "MAY", "JUNE",
    "JULY", "AUGUST", "SEPTEMBER", "OCTOBER", "NOVEMBER", "DECEMBER",
)  # fmt: skip


# Comparing and counting ----------------------------------------------------------------------------------------------


@term("DURING", 3, options=("left_bound", "right_bound"))
def during(call: Call) -> Fn:
    """Whether a time lies between two others: from the first on, and before the second, unless the bounds say else."""
    runs = [arg.run for arg in call.args]
    left, right = call.option("left_bound", "closed"), call.option("right_bound", "open")

    def run(env: Any) -> bool:
        moment, start, end = (expect(TIME, datum(each(env))) for each in runs)
        after, before = compare(moment, start), compare(moment, end)
        starts = after > 0 or (after == 0 and not is_open("left_bound", left(env)))
        return starts and (before < 0 or (before == 0 and not is_open("right_bound", right(env))))

    return run


def is_open(option: str, value: Any) -> bool:
    """What a bound says.

    Raises:
        QueryError: it is neither `open` nor `closed`.
    """
    if value not in ("open", "closed"):
        raise _logic(f'Expected `open` or `closed` for optarg `{option}` (got "{value}").')
    return bool(value == "open")


def added(left: Any, right: Any) -> Any:
    """A time so many seconds later; one of the two is a time.

    Raises:
        QueryError: the other is no number.
    """
    moment, seconds = (left, right) if kind_of(left) == TIME else (right, left)
    return time_value(moment["epoch_time"] + expect("NUMBER", seconds), moment["timezone"])


def subtracted(left: Any, right: Any) -> Any:
    """The seconds between two times, or a time so many seconds earlier.

    Raises:
        QueryError: `left` is no time, or `right` is neither a time nor a number.
    """
    start = expect(TIME, left)["epoch_time"]
    if kind_of(right) == TIME:
        return number(round(start - right["epoch_time"], 3))
    return time_value(start - expect("NUMBER", right), left["timezone"])
