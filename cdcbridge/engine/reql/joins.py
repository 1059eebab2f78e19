"""Terms that bring two sequences together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cdcbridge.engine.catalog import Table
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.indexes import Index
from cdcbridge.engine.reql.access import find_index, picked, whole_table
from cdcbridge.engine.reql.aggregation import present, reader
from cdcbridge.engine.reql.arithmetic import truthy
from cdcbridge.engine.reql.control import called
from cdcbridge.engine.reql.documents import merged
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import Env, FlattenStep, Items, MapStep, Stream, datum, is_plain_object, sequence

Pair = dict[str, Any]
"""What a join gives: an element as `left` and one as `right`; `zip` makes one object of them."""


@term("INNER_JOIN", 3)
def inner_join(call: Call) -> Fn:
    """Each pair of elements for which a function holds."""
    return _join(call, lambda left, pairs: pairs)


@term("OUTER_JOIN", 3)
def outer_join(call: Call) -> Fn:
    """As `inner_join`, and every element on the left that has no partner, without a right one."""
    return _join(call, lambda left, pairs: _or_alone(left, pairs))


def _or_alone(left: Any, pairs: Iterator[Pair]) -> Iterator[Pair]:
    alone = True
    for pair in pairs:
        alone = False
        yield pair
    if alone:
        yield {"left": left}


def _join(call: Call, of_one: Callable[[Any, Iterator[Pair]], Iterator[Pair]]) -> Fn:
    left, right, test = call.args
    function = called(test)

    def run(env: Env) -> Stream:
        others, holds = _again_and_again(sequence(env, right.run(env))), function(env)

        def partners(value: Any) -> Iterator[Pair]:
            one = datum(value)
            pairs = ({"left": one, "right": other} for other in others() if truthy(holds(one, other)))
            return of_one(one, pairs)

        return sequence(env, left.run(env)).then(FlattenStep(partners, is_join=True))

    return run


def _again_and_again(items: Stream) -> Callable[[], Iterator[Any]]:
    """A way to read a sequence many times. A table is read anew each time: it may be larger than the memory."""
    if type(items.source) is Items:
        values = [datum(value) for value in items.finite()]
        return lambda: iter(values)
    return lambda: map(datum, items.finite())


@term("EQ_JOIN", 3, options=("index", "ordered"))
def eq_join(call: Call) -> Fn:
    """Each element with the documents of a table whose key is what a field or a function gives of the element.

    They come in the order of the elements, which is what `ordered` asks for.
    """
    left, key, right = call.args
    index = call.option("index")

    def run(env: Env) -> Stream:
        table = whole_table(right.run(env))
        join = _Lookup(env, reader(env, key), table, find_index(env, table, index(env)))
        return sequence(env, left.run(env)).then(FlattenStep(join.pairs, is_join=True))

    return run


@dataclass(frozen=True)
class _Lookup:
    """Finds the partners of one element by their key."""

    env: Env
    read: Callable[[Any], Any]
    table: Table
    index: Index | None

    def pairs(self, value: Any) -> Iterator[Pair]:
        left = datum(value)
        for key in present(self.read, (left,)):
            if key is not None:
                for found in picked(self.env, self.table, self.index, [key]).values():
                    yield {"left": left, "right": found}


@term("ZIP", 1)
def zip_(call: Call) -> Fn:
    """The pairs of a join, each as one object in which the right one's fields win."""
    source = call.args[0].run
    return lambda env: sequence(env, source(env)).then(MapStep(_zipped))


def _zipped(value: Any) -> Any:
    pair = datum(value)
    if not is_plain_object(pair) or "left" not in pair:
        raise QueryError(ErrorType.QUERY_LOGIC, "ZIP can only be called on the result of a join.")
    return merged(pair["left"], pair["right"]) if "right" in pair else pair["left"]
