"""`changes`: from a query over documents to a feed over their changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cdcbridge.engine import journal
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.feeds.elements import Style
from cdcbridge.engine.feeds.feed import Feed, Options
from cdcbridge.engine.feeds.limits import LimitBranch
from cdcbridge.engine.feeds.points import PointBranch
from cdcbridge.engine.feeds.ranges import RangeBranch
from cdcbridge.engine.feeds.watching import Branch, Transform
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import (
    Context,
    Env,
    FilterStep,
    FlattenStep,
    Joined,
    MapStep,
    Picked,
    Row,
    Rows,
    SliceStep,
    Step,
    Stream,
    datum,
    expect,
    kind_of,
    whole,
)
from cdcbridge.engine.reql.system import SystemRows
from cdcbridge.engine.selection import Selection
from cdcbridge.engine.store import Store
from cdcbridge.engine.values import dumps, loads

_FLAGS: Final = ("include_initial", "include_states", "include_offsets", "include_types", "include_seq")
_NOT_PUSHED: Final = ("GROUP", "DISTINCT", "ZIP")
"""Terms before `changes` that it is refused after by name."""

_NON_DETERMINISTIC: Final = "Cannot call `changes` after a non-deterministic function."
_EAGER: Final = "Cannot call `changes` on an eager stream."
_UNORDERED: Final = "Cannot get changes on the first elements of an unordered stream."
_AFTER_LIMIT: Final = (
    "Changefeeds are not supported on queries that have a transformation following a `limit` term.  Transformations "
    "include terms such as `filter`, `map`, `pluck`, etc.  Consider moving the transformation before the `limit` term."
)


@dataclass(frozen=True)
class _Wish:
    """What the query says about its feed; None where it says nothing."""

    include_initial: bool | None
    since: int | None
    options: Options

    @property
    def offsets(self) -> bool:
        return self.options.style.offsets


@term("CHANGES", 1, options=(*_FLAGS, "squash", "changefeed_queue_size", "since"), is_feed=True)
def changes(call: Call) -> Fn:
    """A feed. `include_seq` puts each change's sequence number into its element; `since` goes on behind one."""
    if call.args[0].name in _NOT_PUSHED:
        message = f"Cannot call `changes` after `{call.args[0].name.lower()}`."
        raise QueryError(ErrorType.QUERY_LOGIC, message, call.path)
    source = call.args[0].run
    return lambda env: _feed(env, source(env), _wish(env, call))


def _wish(env: Env, call: Call) -> _Wish:
    given = {name: datum(option.run(env)) for name, option in call.options.items()}
    initial, *others = (expect("BOOL", given[name]) if name in given else None for name in _FLAGS)
    states, offsets, types, seq = map(bool, others)
    since = whole(given["since"]) if given.get("since") is not None else None
    size = env.context.settings.changefeed_queue_size
    options = Options(
        include_seq=seq,
        include_states=states,
        style=Style(types, offsets),
        squash_s=_squash(given.get("squash", False)),
        queue_size=checked_queue_size(given["changefeed_queue_size"]) if "changefeed_queue_size" in given else size,
        resumes=since is not None,
    )
    return _Wish(initial, since, options)


def _squash(value: Any) -> float | None:
    """Seconds between two batches; None where nothing is merged."""
    if type(value) is bool:
        return 0.0 if value else None
    if type(value) not in (int, float):
        raise QueryError(ErrorType.QUERY_LOGIC, f"Expected BOOL or NUMBER but found {kind_of(value)}.")
    if value < 0:
        raise QueryError(ErrorType.QUERY_LOGIC, "Expected BOOL or a positive NUMBER but found a negative NUMBER.")
    return float(value)


def checked_queue_size(value: Any) -> int:
    """How many elements may wait for a feed's reader.

    Raises:
        QueryError: it is no whole number, or not even one.
    """
    if (size := whole(value)) < 1:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Illegal changefeed queue size `{size}`.  (Must be >= 1.)")
    return size


def _feed(env: Env, value: Any, wish: _Wish) -> Stream:
    store = env.context.store
    parts = [_part(env.context, each, wish) for each in _parts(value)]
    if wish.since is not None:
        if wish.include_initial:
            raise QueryError(ErrorType.QUERY_LOGIC, "`since` and `include_initial` cannot be used together.")
        check_since(store, wish.since)
    after = store.committed_seq if wish.since is None else wish.since
    initial = [_begins_with_values(env, by_default, wish) for _, by_default in parts]
    return Stream(env.context, Feed([branch for branch, _ in parts], initial, after, wish.options, store))


def _begins_with_values(env: Env, by_default: bool, wish: _Wish) -> bool:
    """As the feed says; else as the seeds do, where only feeds on the whole table and on given keys do not."""
    if wish.include_initial is not None or wish.since is not None:
        return bool(wish.include_initial)
    return env.context.settings.initial_values == "seed" and by_default


def check_since(store: Store, since: int) -> None:
    """Raises a QueryError unless the journal reaches back to `since`, and as far as it."""
    oldest, _ = journal.ends(store.reader())
    if since < oldest - 1:
        raise journal.Trimmed(since, oldest)
    if since > store.durable_seq:
        message = f"Cannot resume after {since}: the journal ends with sequence number {store.durable_seq}."
        raise QueryError(ErrorType.OP_FAILED, message)


# What is watched -----------------------------------------------------------------------------------------------------

_Part = tuple[Branch, bool]
"""A part of a feed, and whether by the seeds' rule it begins with the values that are there."""


def _parts(value: Any) -> list[Any]:
    """The sequences of a union, each with the steps that follow the union; or the one value that it is."""
    if type(value) is not Stream or type(value.source) is not Joined:
        return [value]
    if any(isinstance(step, SliceStep) for step in value.steps):
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot call `changes` on a slice of a union.")
    found: list[Any] = []
    for part in value.source.parts:
        for each in _parts(part):
            extended = each
            for step in value.steps:
                extended = extended.then(step)
            found.append(extended)
    return found


def _part(context: Context, value: Any, wish: _Wish) -> _Part:
    if type(value) is Row and value.limited is not None:
        value = value.limited
    if type(value) is Row:
        _refuse_offsets(wish, "point subs")
        return PointBranch(value.table, value.key), True
    if type(value) not in (Stream, list):
        raise QueryError(ErrorType.QUERY_LOGIC, f"Cannot call `changes` on {_with_article(kind_of(value))}.")
    source = value.source if type(value) is Stream else None
    if type(source) is SystemRows:
        raise QueryError(ErrorType.QUERY_LOGIC, _of_system_table(value))
    if not isinstance(source, Rows | Picked):
        raise QueryError(ErrorType.QUERY_LOGIC, _EAGER)
    return _selected(context, source, value.steps, wish)


def _of_system_table(value: Stream) -> str:
    if any(isinstance(step, SliceStep) for step in value.steps):
        return "System tables don't support changefeeds on `.limit()`."
    return "System tables don't support changefeeds: they are made when they are read."


def _selected(context: Context, source: Rows | Picked, steps: tuple[Step, ...], wish: _Wish) -> _Part:
    *before, last = steps or (None,)
    size = None
    if isinstance(last, SliceStep):
        size, steps = last, tuple(step for step in before if step is not None)
    transform = _transform(steps)
    selection = _selection(source)
    if size is None or selection.is_empty:
        _refuse_offsets(wish, "empty subs" if selection.is_empty else "range subs")
        return RangeBranch(selection, transform), source.is_slice
    if not source.ordered:
        raise QueryError(ErrorType.QUERY_LOGIC, _UNORDERED)
    return LimitBranch(selection, transform, _limit_of(context, size), wish.offsets), True


def _selection(source: Rows | Picked) -> Selection:
    if isinstance(source, Picked):
        return source.selection
    return Selection(source.table, None, ((source.low, source.high),), source.down)


def _limit_of(context: Context, step: SliceStep) -> int:
    limit = context.settings.array_limit
    if step.start or step.end is None:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot call `changes` on this stream.")
    if step.end > limit:
        message = (
            f"Array size limit `{limit}` exceeded.  (`.limit(X).changes()` is illegal if X is larger than the array "
            "size limit.)"
        )
        raise QueryError(ErrorType.RESOURCE_LIMIT, message)
    return step.end


def _refuse_offsets(wish: _Wish, what: str) -> None:
    if wish.offsets:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Cannot include offsets for {what}.")


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"


# Transformations -----------------------------------------------------------------------------------------------------


def _transform(steps: tuple[Step, ...]) -> Transform | None:
    """The query's steps over one document; None if there are none."""
    if any(isinstance(step, SliceStep) for step in steps):
        raise QueryError(ErrorType.QUERY_LOGIC, _AFTER_LIMIT)
    taken = [_deterministic(step) for step in steps]
    return (lambda doc: _transformed(doc, taken)) if taken else None


def _deterministic(step: Step) -> MapStep | FilterStep:
    if not isinstance(step, MapStep | FilterStep):
        is_pushed = isinstance(step, FlattenStep) and not step.is_join
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot call `changes` after `concat_map`." if is_pushed else _EAGER)
    if not step.deterministic:
        raise QueryError(ErrorType.QUERY_LOGIC, _NON_DETERMINISTIC)
    return step


def _transformed(doc: bytes, steps: list[MapStep | FilterStep]) -> bytes | None:
    """The document after the steps; None where a step leaves it out, makes null of it, or cannot be applied."""
    value = loads(doc)
    try:
        for step in steps:
            if isinstance(step, MapStep):
                value = datum(step.change(value))
            elif not step.keep(value):
                return None
        return None if value is None else dumps(value)
    except QueryError:
        return None
