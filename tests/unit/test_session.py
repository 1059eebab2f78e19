"""One client's queries and cursors, without a socket: what is answered, when, and what is not."""

from __future__ import annotations

import json
import logging
import struct
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdcbridge.engine.core import Engine
from cdcbridge.engine.errors import ErrorType, FileUnusable, QueryError
from cdcbridge.engine.session import Session, Watchers
from tests.fake_engine import FakeCursor, FakeEngine, ManualExecutor, news_of

START, CONTINUE, STOP, NOREPLY_WAIT, SERVER_INFO = 1, 2, 3, 4, 5
ATOM, SEQUENCE, PARTIAL, WAIT_COMPLETE, INFO, CLIENT_ERROR, COMPILE_ERROR, RUNTIME_ERROR = 1, 2, 3, 4, 5, 16, 17, 18
TABLE = 1


class Client:
    """A session, and what it has sent to its client."""

    def __init__(self, *, eager: bool = True) -> None:
        self.engine = FakeEngine()
        self.executor = ManualExecutor(self.engine, eager=eager)
        self.watchers = Watchers()
        self.progress = 0
        self.sent: list[bytes] = []
        engine = cast(Engine, self.engine)
        self.session = Session(engine, self.executor, self.sent.append, self.watchers, self._progressed)

    def ask(self, token: int, *query: Any) -> list[tuple[int, dict[str, Any]]]:
        self.session.receive(token, json.dumps(query).encode())
        return self.answers()

    def start(self, token: int, *term: Any, **options: Any) -> list[tuple[int, dict[str, Any]]]:
        return self.ask(token, START, list(term), options)

    def answers(self) -> list[tuple[int, dict[str, Any]]]:
        """What has been sent since the last time, by token."""
        sent, self.sent[:] = list(self.sent), []
        return [(struct.unpack_from("<q", frame)[0], json.loads(frame[12:])) for frame in sent]

    def commit(self, *items: Any, cursor: int = 0) -> list[tuple[int, dict[str, Any]]]:
        """Give a feed elements and wake it."""
        self.engine.cursors[cursor].items.extend(items)
        self.watchers.wake(news_of(TABLE))
        return self.answers()

    def run(self) -> list[tuple[int, dict[str, Any]]]:
        self.executor.run()
        return self.answers()

    def _progressed(self) -> None:
        self.progress += 1


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def slow() -> Client:
    """A client whose queries run only when the test says so."""
    return Client(eager=False)


def sequence(*items: Any, notes: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"t": SEQUENCE, "r": list(items), "n": list(notes)}


def partial(*items: Any, notes: tuple[int, ...] = ()) -> dict[str, Any]:
    return {"t": PARTIAL, "r": list(items), "n": list(notes)}


def not_cached(token: int) -> tuple[int, dict[str, Any]]:
    return token, {"t": CLIENT_ERROR, "r": [f"Token {token} not in stream cache."], "b": []}


class TestStart:
    def test_a_value_is_answered_as_an_atom(self, client: Client) -> None:
        assert client.start(0, "value", {"a": [1]}) == [(0, {"t": ATOM, "r": [{"a": [1]}]})]

    def test_a_short_stream_is_answered_whole(self, client: Client) -> None:
        assert client.start(0, "stream", 2) == [(0, sequence(0, 1))]

    def test_an_empty_stream_is_answered_as_ended(self, client: Client) -> None:
        assert client.start(0, "stream", 0) == [(0, sequence())]

    def test_the_first_batch_is_a_quarter_of_the_others(self, client: Client) -> None:
        [(_, first)] = client.start(0, "stream", 1000, max_batch_bytes=80)
        [(_, second)] = client.ask(0, CONTINUE)
        assert (len(str(first["r"]).replace(" ", "")), first["t"]) == (
            len(str(list(range(15))).replace(" ", "")),
            PARTIAL,
        )
        assert len(second["r"]) == 40

    def test_a_batch_has_at_most_max_batch_rows(self, client: Client) -> None:
        assert client.start(0, "stream", 5, max_batch_rows=2) == [(0, partial(0, 1))]
        assert client.ask(0, CONTINUE) == [(0, partial(2, 3))]
        assert client.ask(0, CONTINUE) == [(0, sequence(4))]

    def test_a_write_is_answered_when_it_is_done(self, slow: Client) -> None:
        assert slow.start(0, "insert", 1) == []
        assert slow.run() == [(0, {"t": ATOM, "r": [{"inserted": 1}]})]

    def test_answers_of_different_tokens_may_overtake_each_other(self, slow: Client) -> None:
        slow.start(0, "stream", 1)
        assert slow.start(1, "feed", TABLE) == [(1, partial(notes=(1,)))]
        assert slow.run() == [(0, sequence(0))]

    def test_a_token_in_use_is_refused(self, client: Client) -> None:
        client.start(3, "feed", TABLE)
        duplicate = (3, {"t": CLIENT_ERROR, "r": ["ERROR: duplicate token 3"], "b": []})
        assert client.start(3, "value", 1) == [duplicate]
        assert client.ask(3, NOREPLY_WAIT) == [duplicate]
        assert client.ask(3, SERVER_INFO) == [duplicate]

    def test_a_token_is_free_after_its_last_answer(self, client: Client) -> None:
        client.start(3, "stream", 1)
        assert client.start(3, "value", 1) == [(3, {"t": ATOM, "r": [1]})]

    def test_a_profile_is_in_every_answer_to_start(self, client: Client) -> None:
        terms = [["value", 1], ["stream", 1], ["feed", TABLE], ["insert", 1]]
        answers = [answer for token, term in enumerate(terms) for answer in client.start(token, *term, profile=True)]
        assert [answer["p"] for _, answer in answers] == [[]] * 4

    def test_without_a_wish_for_it_there_is_no_profile(self, client: Client) -> None:
        assert "p" not in client.start(0, "value", 1, profile=False)[0][1]

    def test_server_info_has_id_name_and_proxy(self, client: Client) -> None:
        [(token, answer)] = client.ask(8, SERVER_INFO)
        assert (token, answer["t"], sorted(answer["r"][0])) == (8, INFO, ["id", "name", "proxy"])


class TestErrors:
    def test_a_failing_query_is_answered_with_type_text_and_path(self, client: Client) -> None:
        answer = {"t": RUNTIME_ERROR, "e": 3100000, "r": ["No."], "b": [0, "index"]}
        assert client.start(0, "fail", "NON_EXISTENCE", "No.") == [(0, answer)]

    def test_a_query_that_does_not_compile_is_a_compile_error(self, client: Client) -> None:
        assert client.start(0, "nonsense") == [(0, {"t": COMPILE_ERROR, "r": ["No such term."], "b": [0]})]

    def test_a_query_that_is_nested_too_deeply_is_a_compile_error(self, client: Client) -> None:
        assert client.start(0, "deep")[0][1]["t"] == COMPILE_ERROR

    def test_an_unknown_global_option_is_a_compile_error(self, client: Client) -> None:
        answer = {"t": COMPILE_ERROR, "r": ["Unrecognized global optional argument `x`."], "b": []}
        assert client.start(0, "value", 1, x=1) == [(0, answer)]

    @pytest.mark.parametrize("name", ["max_batch_rows", "max_batch_bytes", "first_batch_scaledown_factor"])
    @pytest.mark.parametrize("value", [0, -1, "many", None, True, [1]])
    def test_an_impossible_size_is_refused(self, client: Client, name: str, value: Any) -> None:
        [(_, answer)] = client.start(0, "stream", 1, **{name: value})
        assert (answer["t"], answer["e"]) == (RUNTIME_ERROR, ErrorType.QUERY_LOGIC)
        assert name in answer["r"][0]

    def test_bytes_that_are_no_query_are_answered_and_the_session_lives_on(self, client: Client) -> None:
        client.session.receive(4, b"\xff\xfe")
        assert client.answers() == [
            (4, {"t": CLIENT_ERROR, "r": ["Client is buggy (failed to deserialize query)."], "b": []})
        ]
        assert client.start(5, "value", 1) == [(5, {"t": ATOM, "r": [1]})]

    def test_a_bug_is_told_in_few_words_and_logged_in_full(
        self, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR, "cdcbridge.engine"):
            [(_, answer)] = client.start(0, "bug")
        assert (answer["t"], answer["e"]) == (RUNTIME_ERROR, ErrorType.INTERNAL)
        assert "secret" not in answer["r"][0]
        assert "ZeroDivisionError" in caplog.text
        assert client.start(0, "value", 1) == [(0, {"t": ATOM, "r": [1]})]

    def test_an_unusable_file_leaves_the_write_indeterminate_and_names_the_file(self, client: Client) -> None:
        client.executor.write = lambda plan, done: done(FileUnusable("/data/shop.db", "disk I/O error"))  # type: ignore[method-assign]
        [(_, answer)] = client.start(0, "insert", 1)
        assert (answer["t"], answer["e"]) == (RUNTIME_ERROR, ErrorType.OP_INDETERMINATE)
        assert "/data/shop.db: disk I/O error" in answer["r"][0]


class TestContinue:
    def test_a_stream_goes_on_until_its_end(self, client: Client) -> None:
        client.start(0, "stream", 3, max_batch_rows=2)
        assert client.ask(0, CONTINUE) == [(0, sequence(2))]

    def test_after_the_end_it_is_answered_that_there_is_no_cursor(self, client: Client) -> None:
        client.start(0, "stream", 1)
        assert client.ask(0, CONTINUE) == [not_cached(0)]
        assert client.ask(0, STOP) == [not_cached(0)]

    def test_the_same_goes_for_a_token_never_seen(self, client: Client) -> None:
        assert client.ask(99, CONTINUE) == [not_cached(99)]

    def test_two_at_a_time_are_answered_one_after_the_other(self, slow: Client) -> None:
        slow.start(0, "stream", 5, max_batch_rows=2)
        slow.run()
        slow.ask(0, CONTINUE)
        slow.ask(0, CONTINUE)
        assert len(slow.executor.jobs) == 1
        assert slow.run() == [(0, partial(2, 3)), (0, sequence(4))]

    def test_one_that_comes_before_the_answer_to_start_is_answered_after_it(self, slow: Client) -> None:
        slow.start(0, "stream", 3, max_batch_rows=2)
        assert slow.ask(0, CONTINUE) == []
        assert slow.run() == [(0, partial(0, 1)), (0, sequence(2))]

    def test_those_left_when_the_stream_ends_are_told_so(self, slow: Client) -> None:
        slow.start(0, "stream", 1)
        slow.ask(0, CONTINUE)
        assert slow.run() == [(0, sequence(0)), not_cached(0)]

    def test_an_error_ends_the_stream_after_the_elements_before_it(self, client: Client) -> None:
        client.start(0, "stream", 3, max_batch_rows=1)
        client.engine.cursors[0].items = FakeCursor([1, QueryError(ErrorType.USER, "stop")]).items
        assert client.ask(0, CONTINUE) == [(0, partial(1))]
        assert client.ask(0, CONTINUE) == [(0, {"t": RUNTIME_ERROR, "e": 5000000, "r": ["stop"], "b": []})]
        assert client.ask(0, CONTINUE) == [not_cached(0)]
        assert client.engine.cursors[0].closed

    def test_a_long_queue_of_them_is_answered(self, client: Client) -> None:
        client.start(0, "feed", TABLE, max_batch_rows=1)
        client.session.hold()
        for _ in range(5000):
            client.ask(0, CONTINUE)
        client.engine.cursors[0].items.extend(range(5000))
        client.session.resume()
        assert [answer["r"] for _, answer in client.answers()] == [[number] for number in range(5000)]


class TestFeeds:
    def test_the_start_is_answered_at_once_even_with_nothing(self, client: Client) -> None:
        assert client.start(0, "feed", TABLE) == [(0, partial(notes=(1,)))]

    def test_a_continue_waits_for_the_first_element(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        assert client.ask(0, CONTINUE) == []
        assert client.commit({"new_val": 1}) == [(0, partial({"new_val": 1}, notes=(1,)))]

    def test_a_commit_that_gives_nothing_is_no_answer(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        assert client.commit() == []
        assert client.commit("a") == [(0, partial("a", notes=(1,)))]

    def test_what_came_before_the_continue_is_given_at_once(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.commit("a", "b")
        assert client.ask(0, CONTINUE) == [(0, partial("a", "b", notes=(1,)))]

    def test_a_commit_without_a_continue_is_no_answer(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        assert client.commit("a") == []

    def test_only_commits_to_its_tables_wake_it(self, client: Client) -> None:
        client.start(0, "feed", 7)
        client.ask(0, CONTINUE)
        assert client.commit("a") == []
        client.watchers.wake(news_of(7))
        assert client.answers() == [(0, partial("a", notes=(1,)))]

    def test_each_of_two_waiting_continues_waits_for_its_own_element(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        client.ask(0, CONTINUE)
        assert client.commit("a") == [(0, partial("a", notes=(1,)))]
        assert client.commit("b") == [(0, partial("b", notes=(1,)))]

    def test_stop_answers_the_waiting_continue_and_itself(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        assert client.ask(0, STOP) == [(0, sequence()), (0, sequence())]
        assert client.engine.cursors[0].closed
        assert client.commit("a") == []

    def test_an_error_ends_the_feed_and_frees_its_token(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        [(_, answer)] = client.commit(QueryError(ErrorType.OP_FAILED, "Changefeed aborted (unavailable)."))
        assert (answer["t"], answer["e"]) == (RUNTIME_ERROR, ErrorType.OP_FAILED)
        assert client.ask(0, CONTINUE) == [not_cached(0)]

    def test_a_client_that_does_not_read_gets_nothing_until_it_reads(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        client.session.hold()
        assert client.commit("a") == []
        assert client.commit("b") == []
        client.session.resume()
        assert client.answers() == [(0, partial("a", "b", notes=(1,)))]

    def test_a_feed_of_two_tables_is_answered_once(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.engine.cursors[0].topics = frozenset({TABLE, 2})
        client.ask(0, CONTINUE)
        client.engine.cursors[0].items.append("a")
        client.watchers.wake(news_of(TABLE, 2))
        assert client.answers() == [(0, partial("a", notes=(1,)))]


class TestNews:
    def test_a_feed_is_told_where_the_first_news_begins_and_of_what_it_came_with(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        client.watchers.wake(news_of(TABLE, seq=7, upto=9))
        client.watchers.wake(news_of(TABLE, seq=10, upto=10))
        assert client.engine.cursors[0].notified == [(7, 9), (10, 10)]

    def test_only_the_first_news_counts_while_the_client_does_not_read(self, client: Client) -> None:
        """What the second one is about is not where the feed has to go on."""
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        client.session.hold()
        client.watchers.wake(news_of(TABLE, seq=7))
        client.watchers.wake(news_of(TABLE, seq=8))
        assert client.engine.cursors[0].notified == [(7, 1)]

    def test_of_two_topics_the_first_news_counts(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.engine.cursors[0].topics = frozenset({TABLE, 2})
        client.ask(0, CONTINUE)
        news = news_of(TABLE, seq=7)
        news.topics[2] = 5
        client.watchers.wake(news)
        assert client.engine.cursors[0].notified == [(5, 1)]

    def test_a_document_s_feed_is_left_alone_by_other_documents(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.engine.cursors[0].topics = frozenset({(TABLE, b"1")})
        client.ask(0, CONTINUE)
        client.watchers.wake(news_of(TABLE, (TABLE, b"2")))
        assert client.engine.cursors[0].notified == []
        client.watchers.wake(news_of(TABLE, (TABLE, b"1"), (TABLE, b"2")))
        assert client.engine.cursors[0].notified == [(1, 1)]

    def test_later_news_is_merged_behind_earlier_one(self) -> None:
        news = news_of(1, seq=3, upto=4)
        news.merge(news_of(1, 2, seq=5, upto=6))
        assert (news.topics, news.upto) == ({1: 3, 2: 5}, 4)


class TestFeedsFarBehind:
    @pytest.fixture
    def behind(self, slow: Client) -> Client:
        """A client with a feed that is far behind, and that has been asked for its elements."""
        slow.start(0, "feed", TABLE)
        slow.answers()
        slow.engine.cursors[0].is_far_behind = True
        slow.engine.cursors[0].items.append("a")
        slow.ask(0, CONTINUE)
        return slow

    def test_they_are_read_where_nobody_waits(self, behind: Client) -> None:
        assert behind.answers() == []
        assert behind.run() == [(0, partial("a", notes=(1,)))]

    def test_news_that_comes_meanwhile_is_not_missed(self, behind: Client) -> None:
        cursor = behind.engine.cursors[0]
        cursor.items.clear()

        def hear() -> None:
            cursor.on_read = lambda: None
            cursor.is_far_behind = False
            cursor.items.append("b")
            behind.watchers.wake(news_of(TABLE))

        cursor.on_read = hear
        assert behind.run() == [(0, partial("b", notes=(1,)))]
        assert cursor.notified == []

    def test_a_start_is_answered_at_once(self, client: Client) -> None:
        client.engine.far_behind = True
        assert client.start(0, "feed", TABLE) == [(0, partial(notes=(1,)))]


class TestFeedsThatLetChangesComeTogether:
    def test_a_batch_waits_for_its_time(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        cursor = client.engine.cursors[0]
        cursor.delay_s = 5.0
        client.ask(0, CONTINUE)
        assert client.commit("a") == []
        assert client.commit("b") == []
        [(delay_s, serve)] = client.executor.timers
        assert delay_s == 5.0
        cursor.delay_s = 0.0
        serve()
        assert client.answers() == [(0, partial("a", "b", notes=(1,)))]

    def test_it_comes_early_when_much_has_come_together(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.engine.cursors[0].delay_s = 5.0
        client.ask(0, CONTINUE)
        client.engine.cursors[0].delay_s = 0.0
        assert client.commit("a") == [(0, partial("a", notes=(1,)))]

    def test_a_timer_of_a_feed_that_is_over_does_nothing(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.engine.cursors[0].delay_s = 5.0
        client.ask(0, CONTINUE)
        client.ask(0, STOP)
        client.executor.timers[0][1]()
        assert client.answers() == []


class TestStop:
    def test_an_idle_stream_is_ended_with_one_answer(self, client: Client) -> None:
        client.start(0, "stream", 5, max_batch_rows=1)
        assert client.ask(0, STOP) == [(0, sequence())]
        assert client.engine.cursors[0].closed
        assert client.ask(0, CONTINUE) == [not_cached(0)]

    def test_a_stream_that_is_being_read_is_ended_and_closed_when_nobody_reads_it(self, slow: Client) -> None:
        slow.start(0, "stream", 5, max_batch_rows=1)
        slow.run()
        slow.ask(0, CONTINUE)
        assert slow.ask(0, STOP) == [(0, sequence()), (0, sequence())]
        assert not slow.engine.cursors[0].closed
        assert slow.run() == []
        assert slow.engine.cursors[0].closed

    def test_one_that_comes_before_the_answer_to_start_is_answered_after_it(self, slow: Client) -> None:
        slow.start(0, "stream", 5, max_batch_rows=1)
        assert slow.ask(0, STOP) == []
        assert slow.run() == [(0, sequence()), (0, sequence())]
        assert slow.engine.cursors[0].closed

    def test_a_value_is_answered_all_the_same(self, slow: Client) -> None:
        slow.start(0, "value", 1)
        slow.ask(0, STOP)
        assert slow.run() == [(0, {"t": ATOM, "r": [1]}), (0, sequence())]


class TestNoreply:
    @pytest.mark.parametrize("term", [["value", 1], ["insert", 1], ["stream", 9], ["nonsense"], ["fail", "USER", "x"]])
    def test_nothing_is_answered_not_even_errors(self, client: Client, term: list[Any]) -> None:
        assert client.start(0, *term, noreply=True) == []
        assert client.start(0, "value", 1) == [(0, {"t": ATOM, "r": [1]})]

    def test_a_literal_term_counts_too(self, client: Client) -> None:
        assert client.start(0, "value", 1, noreply=[1, True]) == []

    def test_noreply_false_is_answered(self, client: Client) -> None:
        assert client.start(0, "value", 1, noreply=False) != []

    def test_a_feed_that_nobody_reads_is_let_go(self, client: Client) -> None:
        client.start(0, "feed", TABLE, noreply=True)
        assert client.engine.cursors[0].closed

    def test_its_token_has_no_cursor_while_it_runs(self, slow: Client) -> None:
        slow.start(0, "insert", 1, noreply=True)
        assert slow.ask(0, CONTINUE) == [not_cached(0)]

    def test_waiting_with_nothing_to_wait_for_ends_at_once(self, client: Client) -> None:
        assert client.ask(0, NOREPLY_WAIT) == [(0, {"t": WAIT_COMPLETE, "r": []})]

    def test_waiting_ends_when_all_earlier_ones_are_done(self, slow: Client) -> None:
        slow.start(0, "insert", 1, noreply=True)
        slow.start(1, "insert", 2, noreply=True)
        assert slow.ask(2, NOREPLY_WAIT) == []
        slow.executor.jobs.popleft()()
        assert slow.answers() == []
        assert slow.run() == [(2, {"t": WAIT_COMPLETE, "r": []})]

    def test_waiting_does_not_wait_for_later_ones(self, slow: Client) -> None:
        slow.start(0, "insert", 1, noreply=True)
        slow.ask(1, NOREPLY_WAIT)
        slow.start(2, "insert", 2, noreply=True)
        slow.executor.jobs.popleft()()
        assert slow.answers() == [(1, {"t": WAIT_COMPLETE, "r": []})]

    def test_feeds_and_other_queries_are_not_waited_for(self, slow: Client) -> None:
        slow.start(0, "feed", TABLE)
        slow.ask(0, CONTINUE)
        slow.start(1, "insert", 1)
        assert (2, {"t": WAIT_COMPLETE, "r": []}) in slow.ask(2, NOREPLY_WAIT)


class TestClose:
    def test_all_cursors_are_let_go_and_nothing_is_answered(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        client.start(1, "stream", 5, max_batch_rows=1)
        client.answers()
        client.session.close()
        assert [cursor.closed for cursor in client.engine.cursors] == [1, 1]
        assert client.commit("a") == []

    def test_a_query_that_is_running_is_let_go_when_it_has_run(self, slow: Client) -> None:
        slow.start(0, "stream", 5, max_batch_rows=1)
        slow.session.close()
        assert slow.run() == []
        assert slow.engine.cursors[0].closed

    def test_a_stream_that_is_being_read_is_let_go_when_it_has_been_read(self, slow: Client) -> None:
        slow.start(0, "stream", 5, max_batch_rows=1)
        slow.run()
        slow.ask(0, CONTINUE)
        slow.session.close()
        assert slow.run() == []
        assert slow.engine.cursors[0].closed


class TestRunning:
    def test_queries_count_until_they_have_run(self, slow: Client) -> None:
        slow.start(0, "stream", 5, max_batch_rows=1)
        slow.start(1, "insert", 1, noreply=True)
        assert slow.session.running == 2
        slow.run()
        assert (slow.session.running, slow.progress) == (0, 2)

    def test_a_waiting_feed_does_not_count(self, client: Client) -> None:
        client.start(0, "feed", TABLE)
        client.ask(0, CONTINUE)
        assert client.session.running == 0

    def test_failures_count_down_too(self, client: Client) -> None:
        client.start(0, "nonsense")
        client.start(0, "bug", noreply=True)
        assert client.session.running == 0


QUERIES = st.one_of(
    st.tuples(st.sampled_from([CONTINUE, STOP, NOREPLY_WAIT, SERVER_INFO])),
    st.tuples(
        st.just(START),
        st.sampled_from(
            [["value", 1], ["stream", 4], ["feed", TABLE], ["insert", 1], ["nonsense"], ["fail", "USER", "x"]]
        ),
        st.fixed_dictionaries({}, optional={"noreply": st.booleans(), "max_batch_rows": st.integers(0, 2)}),
    ),
)
EVENTS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3), QUERIES),
    st.tuples(st.sampled_from(["run", "commit", "hold", "resume"])),
)


class TestAnyOrder:
    @given(st.lists(EVENTS, max_size=60), st.booleans())
    def test_every_request_gets_exactly_one_answer_in_the_end(self, events: list[Any], eager: bool) -> None:
        client = Client(eager=eager)
        expected = 0
        for event in events:
            match event:
                case ("ask", token, query):
                    expected += not (
                        query[0] == START and query[2].get("noreply") and token not in client.session._queries
                    )
                    client.session.receive(token, json.dumps(query).encode())
                case ("run",):
                    client.executor.run()
                case ("commit",):
                    for cursor in client.engine.cursors:
                        cursor.items.extend("x" if cursor.is_feed else [])
                    client.watchers.wake(news_of(TABLE))
                case ("hold",):
                    client.session.hold()
                case ("resume",):
                    client.session.resume()
        client.session.resume()
        client.executor.run()
        stopped = [token for token, query in client.session._queries.items() if query.asked]
        for token in stopped:  # only feeds with nothing to say may still owe an answer
            assert client.session._queries[token].in_place
            client.session.receive(token, b"[3]")
        assert len(client.sent) == expected + len(stopped)
        assert client.session.running == 0

    @given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=100)), max_size=10))
    def test_no_bytes_make_it_raise(self, queries: list[tuple[int, bytes]]) -> None:
        client = Client()
        for token, query in queries:
            client.session.receive(token, query)
        assert len(client.sent) == len(queries)
