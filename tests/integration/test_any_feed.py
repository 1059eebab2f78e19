"""Any feed over any history: its elements, applied to its initial values, always give what the query gives now."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rethinkdb import r
from rethinkdb.errors import ReqlNonExistenceError, ReqlTimeoutError

from cdcbridge.engine.feeds import feed as feed_module
from cdcbridge.engine.feeds import limits, ranges, watching
from cdcbridge.engine.local import LocalConnection

KEYS = st.integers(0, 7)
NUMBERS: st.SearchStrategy[Any] = st.sampled_from([None, 0, 1, 2, 3, {}])
TAGS = st.one_of(st.none(), st.just("a"), st.lists(st.sampled_from(["a", "b", "c", None]), max_size=3))
DOCUMENTS = st.fixed_dictionaries({"id": KEYS}, optional={"n": NUMBERS, "tags": TAGS})
WRITES = st.one_of(
    st.builds(lambda doc: lambda t: t.insert(doc, conflict="replace"), DOCUMENTS),
    st.builds(lambda doc: lambda t: t.insert(doc, conflict="update"), DOCUMENTS),
    st.builds(lambda docs: lambda t: t.insert(docs, conflict="replace"), st.lists(DOCUMENTS, max_size=6)),
    st.builds(lambda key: lambda t: t.get(key).delete(), KEYS),
    st.builds(lambda n: lambda t: t.filter({"n": n}).update({"n": n + 1}), st.integers(0, 2)),
    st.builds(lambda n: lambda t: t.between(n, 9, index="n").update({"n": r.row["n"] - 1}), st.integers(0, 3)),
    st.builds(lambda low, high: lambda t: t.between(low, high).delete(), KEYS, KEYS),
)

Query = Callable[[Any], Any]
QUERIES: dict[str, Query] = {
    "table": lambda t: t,
    "point": lambda t: t.get(3),
    "filter": lambda t: t.filter(r.row["n"] > 1),
    "map": lambda t: t.map(lambda row: {"m": row["n"].default(0)}).filter(lambda row: row["m"] != 2),
    "bracket": lambda t: t["n"],
    "without": lambda t: t.has_fields("tags").without("n"),
    "between": lambda t: t.between(2, 6),
    "between, ends": lambda t: t.between(2, 6, left_bound="open", right_bound="closed").pluck("id"),
    "between nothing": lambda t: t.between(6, 2),
    "get_all": lambda t: t.get_all(1, 4, 1, 6),
    "between, index": lambda t: t.between(1, r.maxval, index="n"),
    "get_all, index": lambda t: t.get_all(2, 0, 2, index="n"),
    "get_all, multi": lambda t: t.get_all("a", "c", index="tags"),
    "between, multi": lambda t: t.between("a", "b", right_bound="closed", index="tags").filter(r.row["id"] > 2),
    "between, compound": lambda t: t.between([1, r.minval], [2, r.maxval], index="n and id"),
    "between, function": lambda t: t.between(-2, 0, index="negative").pluck("n"),
    "order_by": lambda t: t.order_by(index="n"),
    "first by key": lambda t: t.order_by(index="id").limit(3),
    "last by key": lambda t: t.order_by(index=r.desc("id")).limit(2),
    "first by index": lambda t: t.order_by(index="n").limit(3),
    "last by index": lambda t: t.order_by(index=r.desc("n")).limit(4),
    "first, multi": lambda t: t.order_by(index="tags").limit(4),
    "last, multi": lambda t: t.order_by(index=r.desc("tags")).limit(3),
    "first, filter": lambda t: t.order_by(index="n").filter(r.row["id"] % 2 == 0).limit(2),
    "first, pluck": lambda t: t.order_by(index="id").pluck("n").limit(3),
    "first of between": lambda t: t.between(1, 3, index="n").order_by(index="n").limit(2),
    "last of between": lambda t: t.between(2, 7).order_by(index=r.desc("id")).limit(2),
    "none": lambda t: t.order_by(index="n").limit(0),
    "min": lambda t: t.min(index="n"),
    "max": lambda t: t.max(index="negative"),
    "union": lambda t: t.filter(r.row["n"] > 1).union(t.between(2, 5, index="id"), t.get_all(3)),
    "union of limits": lambda t: (
        t.order_by(index="n").limit(2).union(t.order_by(index=r.desc("id")).limit(1), t.get_all("a", index="tags"))
    ),
    "union, map": lambda t: t.between(0, 3).union(t.between(5, 7)).pluck("n"),
}
LIMITS = [name for name in QUERIES if name.startswith(("first", "last", "none", "min", "max"))]

anything = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def waiting(feed: Any) -> list[Any]:
    """All elements that a feed has to give now."""
    elements = []
    try:
        while True:
            elements.append(feed.next(wait=False))
    except ReqlTimeoutError:
        return elements


def as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def answer(query: Any, conn: LocalConnection) -> list[Any]:
    """What a query gives now, as a list; without a document, nothing. A null is never in a feed's set."""
    try:
        found = query.run(conn)
    except ReqlNonExistenceError:
        return []
    if found is None:
        return []
    return [found] if type(found) is dict else [value for value in found if value is not None]


def apply(state: Counter[str], element: dict[str, Any]) -> None:
    """Follow a feed: the bag of values after an element, which has to fit to the bag before it."""
    old, new = element.get("old_val"), element.get("new_val")
    assert "old_val" not in element or "new_val" not in element or old != new
    if old is not None:
        assert state[as_text(old)] > 0, f"a gap before {element}"
        state[as_text(old)] -= 1
    if new is not None:
        state[as_text(new)] += 1


def bag(values: list[Any]) -> Counter[str]:
    return Counter(map(as_text, values))


@pytest.fixture(params=list(QUERIES))
def watched(request: pytest.FixtureRequest) -> Query:
    return QUERIES[request.param]


@pytest.fixture
def fresh(conn: LocalConnection, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Gives tables that are new, with indexes. All is read in very small steps."""
    for module in (feed_module, ranges, watching):
        monkeypatch.setattr(module, "ENTRIES_PER_READ", 2)
    monkeypatch.setattr(ranges, "ROWS_PER_PAGE", 3)
    monkeypatch.setattr(limits, "_ROWS_PER_LOOK", 2)
    monkeypatch.setattr(limits, "SPARE", 1)
    monkeypatch.setattr(limits, "_FOUND_AT_ONCE", 0)
    monkeypatch.setattr(feed_module, "ENTRIES_PER_SCAN", 5)
    names: Iterator[int] = itertools.count()

    def make() -> Any:
        name = f"fresh{next(names)}"
        r.table_create(name).run(conn, durability="soft")
        t = r.table(name)
        for index in (
            t.index_create("n"),
            t.index_create("tags", multi=True),
            t.index_create("n and id", [r.row["n"], r.row["id"]]),
            t.index_create("negative", lambda row: row["n"] * -1),
        ):
            index.run(conn)
        return t

    return make


class TestAnyHistory:
    @anything
    @given(
        before=st.lists(WRITES, max_size=6),
        writes=st.lists(st.tuples(WRITES, st.integers(0, 3)), max_size=15),
        squash=st.booleans(),
        data=st.data(),
    )
    def test_elements_applied_to_initial_values_give_what_the_query_gives(
        self,
        conn: LocalConnection,
        fresh: Any,
        watched: Query,
        before: list[Any],
        writes: list[tuple[Any, int]],
        squash: bool,
        data: st.DataObject,
    ) -> None:
        t = fresh()
        for write in before:
            write(t).run(conn)
        options = {"include_initial": True, "include_seq": True, "squash": squash}
        feed = watched(t).changes(**options).run(conn, max_batch_rows=1)
        state: Counter[str] = Counter()
        known: list[tuple[int, Counter[str]]] = []

        def follow(element: dict[str, Any]) -> None:
            apply(state, element)
            if "seq" in element:
                known.append((element["seq"], state.copy()))

        for write, reads in writes:
            write(t).run(conn)
            for _ in range(reads):
                try:
                    follow(feed.next(wait=False))
                except ReqlTimeoutError:
                    break
        for element in waiting(feed):
            follow(element)
        assert +state == bag(answer(watched(t), conn))
        assert [seq for seq, _ in known] == sorted({seq for seq, _ in known})
        if known:  # every number that was given out can be gone on behind
            seq, then = data.draw(st.sampled_from(known), label="cut")
            for element in waiting(watched(t).changes(since=seq).run(conn)):
                apply(then, element)
            assert +then == +state

    @anything
    @given(writes=st.lists(WRITES, max_size=15), data=st.data())
    def test_a_feed_that_was_cut_goes_on_as_if_it_had_not_been(
        self, conn: LocalConnection, fresh: Any, watched: Query, writes: list[Any], data: st.DataObject
    ) -> None:
        t = fresh()
        feed = watched(t).changes(include_seq=True, include_initial=False).run(conn)
        for write in writes:
            write(t).run(conn)
        elements = waiting(feed)
        cuts = [0, *(place for place, element in enumerate(elements, start=1) if "seq" in element)]
        cut = data.draw(st.sampled_from(cuts), label="cut")
        first = next((element["seq"] - 1 for element in elements if "seq" in element), 0)
        since = elements[cut - 1]["seq"] if cut else first
        resumed = watched(t).changes(include_seq=True, since=since).run(conn, max_batch_rows=2)
        assert elements[:cut] + waiting(resumed) == elements
        assert not elements or "seq" in elements[-1]

    @pytest.mark.parametrize("name", LIMITS)
    @anything
    @given(before=st.lists(WRITES, max_size=6), writes=st.lists(WRITES, max_size=15), squash=st.booleans())
    def test_offsets_keep_a_list_in_the_query_s_order(
        self, conn: LocalConnection, fresh: Any, name: str, before: list[Any], writes: list[Any], squash: bool
    ) -> None:
        t, query = fresh(), QUERIES[name]
        for write in before:
            write(t).run(conn)
        feed = query(t).changes(include_initial=True, include_offsets=True, squash=squash).run(conn)
        shown: list[Any] = []
        for write in [*writes, lambda t: t.get(0).delete()]:
            for element in waiting(feed):
                if element.get("old_offset") is not None:
                    assert shown.pop(element["old_offset"]) == element["old_val"]
                if element["new_offset"] is not None:
                    shown.insert(element["new_offset"], element["new_val"])
            assert shown == answer(query(t), conn)
            write(t).run(conn)
