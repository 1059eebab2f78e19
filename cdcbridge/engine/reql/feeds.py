"""`changes`: from a query over documents to a feed over their changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.feed import Feed, Transform, Watched, check_since
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import (
    HIGHEST_KEY,
    LOWEST_KEY,
    Env,
    FilterStep,
    FlattenStep,
    MapStep,
    Row,
    Rows,
    Step,
    Stream,
    datum,
    expect,
    kind_of,
    whole,
)
from cdcbridge.engine.values import dumps, loads

_LATER = ("squash", "changefeed_queue_size", "include_states", "include_offsets", "include_types")


@dataclass(frozen=True)
class _Wish:
    """What the query says about its feed; None where it says nothing."""

    include_initial: bool | None
    include_seq: bool
    since: int | None


@term("CHANGES", 1, options=("include_initial", "include_seq", "since", *_LATER), is_feed=True)
def changes(call: Call) -> Fn:
    """A feed. `include_seq` puts each change's sequence number into its element; `since` goes on behind one."""
    for option in _LATER:
        if option in call.options:
            _refuse_unless_default(call, option)
    source = call.args[0].run
    initial, include_seq, since = (call.option(name) for name in ("include_initial", "include_seq", "since"))

    def open_feed(env: Env) -> Stream:
        wish = _Wish(_flag(initial(env)), bool(_flag(include_seq(env))), _position(since(env)))
        return _feed(env, source(env), wish)

    return open_feed


def _refuse_unless_default(call: Call, option: str) -> None:
    given = call.options[option]
    if not (given.constant and given.value is False):
        raise QueryError(ErrorType.QUERY_LOGIC, f"not supported yet: CHANGES with {option}", (*call.path, option))


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(expect("BOOL", value))


def _position(value: Any) -> int | None:
    return None if value is None else whole(value)


def _feed(env: Env, value: Any, wish: _Wish) -> Stream:
    watched = _watched(value)
    store = env.context.store
    if wish.since is not None:
        if wish.include_initial:
            raise QueryError(ErrorType.QUERY_LOGIC, "`since` and `include_initial` cannot be used together.")
        check_since(store, wish.since)
    after = store.committed_seq if wish.since is None else wish.since
    return Stream(env.context, Feed(watched, after, _begins_with_values(env, watched, wish), wish.include_seq))


def _begins_with_values(env: Env, watched: Watched, wish: _Wish) -> bool:
    """As the feed says; else as the seeds do, where feeds of one document and of a range begin with values."""
    if wish.include_initial is not None or wish.since is not None:
        return bool(wish.include_initial)
    is_range = (watched.low, watched.high) != (LOWEST_KEY, HIGHEST_KEY)
    return env.context.settings.initial_values == "seed" and (watched.is_point or is_range)


def _watched(value: Any) -> Watched:
    if type(value) is Row:
        return Watched(value.table, key=value.key, is_point=True)
    if type(value) not in (Stream, list):
        raise QueryError(ErrorType.QUERY_LOGIC, f"Cannot call `changes` on {_with_article(kind_of(value))}.")
    if type(value) is list or type(value.source) is not Rows:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot call `changes` on an eager stream.")
    rows = value.source
    return Watched(rows.table, rows.low, rows.high, transform=_transform(value))


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"


def _transform(query: Stream) -> Transform | None:
    """The query's steps over one document; None if there are none."""
    steps: list[MapStep | FilterStep] = []
    for step in query.steps:
        if not isinstance(step, MapStep | FilterStep):
            raise QueryError(ErrorType.QUERY_LOGIC, _refusal(step))
        if not step.deterministic:
            message = "Cannot call `changes` after a non-deterministic function."
            raise QueryError(ErrorType.QUERY_LOGIC, message)
        steps.append(step)
    return (lambda doc: _transformed(doc, steps)) if steps else None


def _refusal(step: Step) -> str:
    if isinstance(step, FlattenStep):
        return "Cannot call `changes` after `concat_map`."
    return "Cannot get changes on the first elements of an unordered stream."


def _transformed(doc: bytes, steps: list[MapStep | FilterStep]) -> bytes | None:
    """The document after the steps. One that a step leaves out, or cannot be applied to, is not in the set."""
    value = loads(doc)
    try:
        for step in steps:
            if isinstance(step, MapStep):
                value = datum(step.change(value))
            elif not step.keep(value):
                return None
        return dumps(value)
    except QueryError:
        return None
