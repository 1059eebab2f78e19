"""Dates and times: making them, taking them apart, counting with them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rethinkdb import r

from cdcbridge.engine.errors import ErrorType
from tests.reql import NOW_S, failure, run


def time(epoch_s: float, zone: str = "+00:00") -> dict[str, Any]:
    return {"$reql_type$": "TIME", "epoch_time": epoch_s, "timezone": zone}


MOMENT = r.time(2013, 7, 4, 5, 6, 7.089, "-02:30")
EPOCH_S = 1372923367.089


class TestMaking:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (r.time(1970, 1, 2, "Z"), time(86400)),
            (r.time(1970, 1, 1, "+01:00"), time(-3600, "+01:00")),
            (r.time(1970, 1, 1, "+0130"), time(-5400, "+01:30")),
            (MOMENT, time(EPOCH_S, "-02:30")),
            (r.epoch_time(1.23456), time(1.235)),
            (r.iso8601("2013-07-04T05:06:07.089-02:30"), time(EPOCH_S, "-02:30")),
            (r.iso8601("1970-01-01T00:00:01Z"), time(1)),
            (r.iso8601("1970-01-02", default_timezone="-01:00"), time(90000, "-01:00")),
            (r.iso8601("1970", default_timezone="Z"), time(0)),
            (r.iso8601("1970-02", default_timezone="Z"), time(31 * 86400)),
            (r.iso8601("1970-033", default_timezone="Z"), time(32 * 86400)),
            (r.iso8601("1970-W02-1", default_timezone="Z"), time(4 * 86400)),
            (r.iso8601("19700101T000010+00"), time(10)),
        ],
    )
    def test_a_time_is_made_in_many_ways(self, query: Any, value: Any) -> None:
        assert run(query) == value

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.time(2013, 1, 1, 1, "Z"), "Got 5 arguments to TIME (expected 4 or 7)."),
            (r.time(2013, 2, 30, "Z"), "Error in time logic: "),
            (r.time(2013, 1, 1, 0, 0, 60, "Z"), "Error in time logic: Seconds out of range."),
            (r.time(2013, 1, 1, "here"), "Timezone `here` does not start with `-` or `+`."),
            (r.time(2013, 1, 1, "+1"), "`+1` is not a valid time offset."),
            (r.time(2013, 1, 1, "+24:00"), "Hours out of range in `+24:00`."),
            (r.time(2013, 1, 1, "+00:60"), "Minutes out of range in `+00:60`."),
            (r.time("2013", 1, 1, "Z"), "Expected type NUMBER but found STRING."),
            (r.iso8601("2013-01-01"), "ISO 8601 string has no time zone, and no default time zone was provided."),
            (r.iso8601("noon"), "Invalid date string `noon`: "),
            (r.iso8601("2013-366", default_timezone="Z"), "Invalid date string `2013-366`: "),
            (r.epoch_time(1e15).year(), "Time 1000000000000000 is out of range"),
        ],
    )
    def test_what_is_no_time_is_an_error(self, query: Any, message: str) -> None:
        assert failure(query).message.startswith(message)

    def test_now_is_one_moment_all_through_a_query(self) -> None:
        assert run([r.now(), r.now().to_epoch_time()]) == [time(NOW_S), NOW_S]


class TestParts:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (MOMENT.year(), 2013),
            (MOMENT.month(), 7),
            (MOMENT.day(), 4),
            (MOMENT.day_of_week(), 4),
            (MOMENT.day_of_year(), 185),
            (MOMENT.hours(), 5),
            (MOMENT.minutes(), 6),
            (MOMENT.seconds(), 7.089),
            (MOMENT.time_of_day(), 18367.089),
            (MOMENT.timezone(), "-02:30"),
            (MOMENT.to_epoch_time(), EPOCH_S),
            (MOMENT.to_iso8601(), "2013-07-04T05:06:07.089-02:30"),
            (r.epoch_time(0).to_iso8601(), "1970-01-01T00:00:00+00:00"),
            (MOMENT.date().to_iso8601(), "2013-07-04T00:00:00-02:30"),
            (MOMENT.in_timezone("+09:00").day(), 4),
            (MOMENT.in_timezone("+20:00").day(), 5),
            (MOMENT.in_timezone("Z") == MOMENT, True),
            (MOMENT.day_of_week() == r.thursday, True),
            (MOMENT.month() == r.july, True),
            ([r.monday, r.sunday, r.january, r.december], [1, 7, 1, 12]),
        ],
    )
    def test_a_time_shows_them_in_its_own_time_zone(self, query: Any, value: Any) -> None:
        assert run(query) == value

    @given(st.datetimes(datetime(1500, 1, 1), datetime(9000, 1, 1)), st.integers(-720, 720))  # noqa: DTZ001
    def test_a_text_made_of_a_time_is_that_time(self, local: datetime, offset_min: int) -> None:
        moment = local.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
        moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        text = run(r.expr(moment).to_iso8601())
        assert datetime.fromisoformat(text) == moment
        assert run(r.iso8601(text)) == run(r.expr(moment))
        assert run(r.expr(moment).date().hours()) == 0

    def test_only_times_have_them(self) -> None:
        assert failure(r.expr(1).year()).message == "Expected type PTYPE<TIME> but found NUMBER."


class TestCounting:
    @pytest.mark.parametrize(
        ("query", "value"),
        [
            (r.epoch_time(10) + 5, time(15)),
            (r.add(5, r.epoch_time(10)), time(15)),
            (r.add(1, 2, r.epoch_time(10)), time(13)),
            (r.epoch_time(10) - 2.5, time(7.5)),
            (r.epoch_time(10) - r.epoch_time(7.9), 2.1),
            (r.sub(r.epoch_time(10), r.epoch_time(1), 2), 7),
            (MOMENT + 1 - MOMENT, 1),
            (r.epoch_time(5) < r.epoch_time(6), True),
        ],
    )
    def test_seconds_are_added_and_taken_away(self, query: Any, value: Any) -> None:
        assert run(query) == value

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            (r.epoch_time(1) + r.epoch_time(2), "Expected type NUMBER but found PTYPE<TIME>."),
            (r.epoch_time(1) + "a", "Expected type NUMBER but found STRING."),
            (r.expr(1) - r.epoch_time(1), "Expected type NUMBER but found PTYPE<TIME>."),
            (r.epoch_time(1) * 2, "Expected type NUMBER but found PTYPE<TIME>."),
        ],
    )
    def test_what_makes_no_sense_is_an_error(self, query: Any, message: str) -> None:
        assert failure(query).message == message

    @pytest.mark.parametrize(
        ("moment", "options", "inside"),
        [
            (1, {}, True),
            (2, {}, True),
            (3, {}, False),
            (0, {}, False),
            (1, {"left_bound": "open"}, False),
            (3, {"right_bound": "closed"}, True),
        ],
    )
    def test_during_counts_the_beginning_and_not_the_end(
        self, moment: int, options: dict[str, str], inside: bool
    ) -> None:
        query = r.epoch_time(moment).during(r.epoch_time(1), r.epoch_time(3), **options)
        assert run(query) is inside

    def test_during_takes_times(self) -> None:
        assert failure(r.epoch_time(1).during(0, r.now())).type is ErrorType.QUERY_LOGIC


def test_a_datetime_arrives_to_the_millisecond() -> None:
    assert run(datetime(1970, 1, 1, 0, 0, 1, 234567, UTC)) == time(1.235)
