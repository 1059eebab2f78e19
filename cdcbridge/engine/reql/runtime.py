"""What a running query works with: its context, its variables, single rows, and sequences.

A sequence is a source (rows of a table, a list, a feed) and steps over it. Sources hand out their elements one by one;
a feed hands out `PAUSE` where it has nothing new yet, and every step lets that through. So one way of reading serves
streams, which end, and feeds, which do not.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count as counting
from itertools import islice
from typing import Any, ClassVar, Final, Literal, Protocol

from cdcbridge.engine.catalog import DEFAULT_DATABASE, Catalog, Table, selected
from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.selection import HIGHEST_KEY, LOWEST_KEY, Position, Selection
from cdcbridge.engine.store import Store, Transaction
from cdcbridge.engine.values import ARRAY_LIMIT, PSEUDO_TYPE, Bound, dumps, loads, storage_key, type_name

ROWS_PER_PAGE: Final = 256

ENDLESS_RANGE = (
    "Cannot use an infinite stream with an aggregation function (`reduce`, `count`, etc.) or coerce it to an array."
)
UNIONED_FEED: Final = 4

INFINITE_STREAM = "Cannot call a terminal (`reduce`, `count`, etc.) on an infinite stream (such as a changefeed)."


class _Pause:
    def __repr__(self) -> str:
        return "PAUSE"


PAUSE: Final[Any] = _Pause()
"""What a feed hands out when there is nothing new: stop reading, and come back later."""


@dataclass(frozen=True)
class Settings:
    """What one query is run with, from its global optional arguments and the engine's own settings."""

    database: str = DEFAULT_DATABASE
    array_limit: int = ARRAY_LIMIT
    soft: bool = False
    initial_values: Literal["seed", "explicit"] = "seed"
    changefeed_queue_size: int | None = None


@dataclass
class Context:
    """One run of one query."""

    store: Store
    settings: Settings
    transaction: Transaction | None = None
    now_s: float = field(default_factory=lambda: round(time.time(), 3))
    hard: bool = False
    """Set by a write that is to be answered only when it is durable."""

    @property
    def connection(self) -> sqlite3.Connection:
        """Where to read: in a query that writes, from its transaction, else from this thread's connection."""
        return self.store.reader() if self.transaction is None else self.transaction.connection

    @property
    def catalog(self) -> Catalog:
        """The databases and tables that this query sees."""
        return self.store.catalog if self.transaction is None else self.transaction.catalog

    @property
    def writing(self) -> Transaction:
        """The transaction of a query that writes."""
        assert self.transaction is not None, "the compiler marks every query that writes"
        return self.transaction


class Env:
    """The variables in scope at one moment of a run."""

    __slots__ = ("context", "variables")

    def __init__(self, context: Context, variables: dict[int, Any]) -> None:
        self.context = context
        self.variables = variables

    def bind(self, ids: list[int], values: tuple[Any, ...]) -> Env:
        """The scope inside a function that was called with these values."""
        if len(ids) != len(values):
            message = f"Expected function with {len(values)} argument{'' if len(values) == 1 else 's'} but found "
            message += f"function with {len(ids)} argument{'' if len(ids) == 1 else 's'}."
            raise QueryError(ErrorType.QUERY_LOGIC, message)
        return Env(self.context, {**self.variables, **dict(zip(ids, values, strict=True))})


class Row:
    """A document of a table: what `get` gives. `doc` is None where there is none.

    What `min` and `max` give by an index is the first of a `limited` sequence, and looked for when it is asked for.
    """

    __slots__ = ("_doc", "_find", "_key", "limited", "table")

    def __init__(self, table: Table, key: Any, doc: Any) -> None:
        self.table = table
        self.limited: Stream | None = None
        self._find: Callable[[], Any] | None = None
        self._key = key
        self._doc = doc

    @classmethod
    def first_of(cls, limited: Stream, table: Table, find: Callable[[], Any]) -> Row:
        """The first row of a sequence; `find` gives it, or raises a QueryError."""
        row = cls(table, None, None)
        row.limited, row._find = limited, find
        return row

    @property
    def doc(self) -> Any:
        self._look()
        return self._doc

    @property
    def key(self) -> Any:
        self._look()
        return self._key

    def _look(self) -> None:
        if self._find is not None:
            self._doc = self._find()
            self._key, self._find = self._doc[self.table.primary_key], None


# Sources -------------------------------------------------------------------------------------------------------------


class Source(Protocol):
    """Where a sequence's elements come from. `notes` are the protocol's notes about a feed; empty for a stream."""

    @property
    def notes(self) -> tuple[int, ...]: ...

    @property
    def table(self) -> Table | None:
        """The table whose rows these are, if they are rows that can be written."""

    def encoded(self, context: Context) -> Iterator[bytes]:
        """The elements as JSON, or `PAUSE`."""

    def values(self, context: Context) -> Iterator[Any]:
        """The elements as values, or `PAUSE`."""


@dataclass(frozen=True)
class Rows:
    """Documents of a table whose keys lie in `low <= key < high`, in the order of their keys.

    Read a page at a time, with no transaction held in between: a reader may take as long as it likes.
    """

    table: Table
    low: bytes = LOWEST_KEY
    high: bytes = HIGHEST_KEY
    down: bool = False
    ordered: bool = False
    """It was asked for in this order."""
    is_slice: bool = False
    """A range was asked for."""
    notes: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        """The name of its type: all of a table, or a part or an order of it."""
        return "TABLE_SLICE" if self.ordered or self.is_slice else "TABLE"

    def encoded(self, context: Context) -> Iterator[bytes]:
        low, high = self.low, self.high
        while page := self.page(context.connection, low, high, ROWS_PER_PAGE):
            for _, doc in page:
                yield doc
            if len(page) < ROWS_PER_PAGE:
                return
            last = page[-1][0]
            low, high = (low, last) if self.down else (last + b"\0", high)

    def page(self, connection: sqlite3.Connection, low: bytes, high: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """At most `limit` keys and documents between two keys."""
        sql = self.table.scan_down_sql if self.down else self.table.scan_sql
        return selected(connection, self.table, sql, (low, high, limit))

    def values(self, context: Context) -> Iterator[Any]:
        return map(loads, self.encoded(context))


@dataclass(frozen=True)
class Picked:
    """Documents of a table by some keys, or by a secondary index; see `Selection`."""

    selection: Selection
    ordered: bool = False
    """It was asked for in the index's order."""
    is_slice: bool = False
    """A range was asked for."""
    notes: tuple[int, ...] = ()

    @property
    def table(self) -> Table:
        return self.selection.table

    @property
    def is_keys(self) -> bool:
        """Some keys were asked for, one by one."""
        return not self.ordered and not self.is_slice

    @property
    def kind(self) -> str:
        """The name of its type."""
        return "SELECTION<STREAM>" if self.is_keys else "TABLE_SLICE"

    def encoded(self, context: Context) -> Iterator[bytes]:
        found = self.selection.read(context.connection)
        if context.transaction is None:
            return (doc for _, doc in found)
        return self._settled(context, [place for place, _ in found])

    def _settled(self, context: Context, places: list[Position]) -> Iterator[bytes]:
        """As it was when reading began: a write that moves documents in the index must not meet them again."""
        for _, key, primary, _ in places:
            sql = self.table.get_sql
            for (doc,) in selected(context.connection, self.table, sql, (primary or key,)):
                yield doc

    def values(self, context: Context) -> Iterator[Any]:
        return map(loads, self.encoded(context))


@dataclass(frozen=True)
class Items:
    """Elements that are there already; rows of `table`, if it is set."""

    items: Iterable[Any]
    table: Table | None = None
    notes: tuple[int, ...] = ()

    def encoded(self, context: Context) -> Iterator[bytes]:
        return map(dumps, self.items)

    def values(self, context: Context) -> Iterator[Any]:
        return iter(self.items)


@dataclass(frozen=True)
class Made(Iterable[Any]):
    """Elements that are made anew each time that they are read: a variable's sequence may be read many times."""

    make: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.make()


@dataclass(frozen=True)
class Numbers:
    """Integers from `start` on, up to but without `end`; None for no end."""

    start: int
    end: int | None
    table: None = None
    notes: tuple[int, ...] = ()

    def encoded(self, context: Context) -> Iterator[bytes]:
        return map(dumps, self.values(context))

    def values(self, context: Context) -> Iterator[Any]:
        return iter(counting(self.start) if self.end is None else range(self.start, self.end))


@dataclass(frozen=True)
class Joined:
    """Sequences one after the other; changefeeds among them side by side, as none of them ends.

    A row may be among them for a feed to watch; it cannot be read so.
    """

    parts: tuple[Stream | Row, ...]
    table: None = None

    @property
    def _streams(self) -> list[Stream]:
        return [part for part in self.parts if isinstance(part, Stream)]

    @property
    def notes(self) -> tuple[int, ...]:
        """Those of the feeds, if these are of one kind."""
        kinds = {part.source.notes for part in self._streams if part.is_feed}
        return kinds.pop() if len(kinds) == 1 else (UNIONED_FEED,) * bool(kinds)

    @property
    def feeds(self) -> tuple[Any, ...]:
        """The changefeeds of all parts."""
        return tuple(feed for part in self._streams for feed in part.feeds)

    def encoded(self, context: Context) -> Iterator[bytes]:
        return _side_by_side([part.encoded() for part in self._read()])

    def values(self, context: Context) -> Iterator[Any]:
        return _side_by_side([part.values() for part in self._read()])

    def _read(self) -> list[Stream]:
        for part in self.parts:
            if isinstance(part, Row):
                raise _no_sequence(part.doc)
        return self._streams


def _side_by_side(readers: list[Iterator[Any]]) -> Iterator[Any]:
    """Each up to where it ends or has nothing for now; `PAUSE` when all have been asked."""
    while readers:
        for reader in list(readers):
            for value in reader:
                if value is PAUSE:
                    break
                yield value
            else:
                readers.remove(reader)
        if readers:
            yield PAUSE


# Steps ---------------------------------------------------------------------------------------------------------------

Predicate = Callable[[Any], bool]


@dataclass(frozen=True)
class MapStep:
    """Each element replaced. `changeable`: it may stand before `changes`."""

    change: Callable[[Any], Any]
    deterministic: bool = True
    keeps_rows: bool = False

    def over(self, values: Iterator[Any]) -> Iterator[Any]:
        change = self.change
        return (value if value is PAUSE else change(value) for value in values)


@dataclass(frozen=True)
class FilterStep:
    """Only the elements that `keep` wants."""

    keep: Predicate
    deterministic: bool = True
    keeps_rows: bool = True

    def over(self, values: Iterator[Any]) -> Iterator[Any]:
        keep = self.keep
        return (value for value in values if value is PAUSE or keep(value))


@dataclass(frozen=True)
class SliceStep:
    """The elements from number `start` on, up to but without `end`; None for no end."""

    start: int
    end: int | None
    keeps_rows: bool = True

    def over(self, values: Iterator[Any]) -> Iterator[Any]:
        return _sliced(values, self.start, self.end)


def _sliced(values: Iterator[Any], start: int, end: int | None) -> Iterator[Any]:
    seen = 0
    while end is None or seen < end:
        for value in islice(values, 1):
            if value is PAUSE:
                yield value
            else:
                seen += 1
                if seen > start:
                    yield value
            break
        else:
            return


@dataclass(frozen=True)
class FlattenStep:
    """Each element replaced by the elements of a sequence."""

    expand: Callable[[Any], Iterable[Any]]
    is_join: bool = False
    keeps_rows: bool = False

    def over(self, values: Iterator[Any]) -> Iterator[Any]:
        for value in values:
            if value is PAUSE:
                yield value
            else:
                yield from self.expand(value)


@dataclass(frozen=True)
class ScanStep:
    """Elements made of each element and what is carried from one to the next: what `fold` with `emit` does.

    `fold` gives what is carried on, `emit` the elements, and `last` some more at the end.
    """

    base: Any
    fold: Callable[[Any, Any], Any]
    emit: Callable[[Any, Any, Any], Iterable[Any]]
    last: Callable[[Any], Iterable[Any]]
    keeps_rows: bool = False

    def over(self, values: Iterator[Any]) -> Iterator[Any]:
        carried = self.base
        for value in values:
            if value is PAUSE:
                yield value
            else:
                before, carried = carried, self.fold(carried, value)
                yield from self.emit(before, value, carried)
        yield from self.last(carried)


Step = MapStep | FilterStep | SliceStep | FlattenStep | ScanStep


# Sequences -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """A sequence: a source, and steps over it. `array`: it is answered as one array rather than in batches."""

    context: Context
    source: Source
    steps: tuple[Step, ...] = ()
    array: bool = False

    @property
    def is_feed(self) -> bool:
        return bool(self.source.notes)

    @property
    def feeds(self) -> tuple[Any, ...]:
        """The changefeeds (`Feed`) that the elements come from."""
        found: tuple[Any, ...] = getattr(self.source, "feeds", ())
        return found

    @property
    def table(self) -> Table | None:
        """The table whose rows the elements are; None if they are not, and cannot be written."""
        return self.source.table if all(step.keeps_rows for step in self.steps) else None

    def then(self, step: Step) -> Stream:
        """This sequence with one more step."""
        return replace(self, steps=(*self.steps, step))

    def then_first(self, count: int) -> Stream:
        """The first `count` elements of this sequence."""
        return self.then(SliceStep(0, count))

    def values(self) -> Iterator[Any]:
        """The elements; of a feed, with `PAUSE` in between."""
        values = self.source.values(self.context)
        for step in self.steps:
            values = step.over(values)
        return values

    def encoded(self) -> Iterator[bytes]:
        """As `values`, as JSON: without parsing it where no step looks at it."""
        if not self.steps:
            return self.source.encoded(self.context)
        return (value if value is PAUSE else dumps(datum(value)) for value in self.values())

    def finite(self) -> Iterator[Any]:
        """The elements of a sequence that has an end.

        Raises:
            QueryError: it is a feed, or all numbers.
        """
        if self.is_endless:
            raise QueryError(ErrorType.QUERY_LOGIC, ENDLESS_RANGE)
        return self.one_by_one()

    @property
    def is_endless(self) -> bool:
        """It goes on for ever, though not as a feed."""
        cut = any(type(step) is SliceStep and step.end is not None for step in self.steps)
        return type(self.source) is Numbers and self.source.end is None and not cut

    def one_by_one(self) -> Iterator[Any]:
        """The elements of a sequence of which only some may be wanted.

        Raises:
            QueryError: it is a feed.
        """
        if self.is_feed:
            raise QueryError(ErrorType.QUERY_LOGIC, INFINITE_STREAM)
        return self.values()

    def collected(self) -> list[Any]:
        """All elements as an array.

        Raises:
            QueryError: there are more than an array may have, or no end of them.
        """
        limit = self.context.settings.array_limit
        items = [datum(value) for value in islice(self.finite(), limit + 1)]
        if len(items) > limit:
            raise array_limit_exceeded(limit)
        return items


def array_limit_exceeded(limit: int) -> QueryError:
    """RethinkDB's error for an array with more elements than `limit`."""
    message = (
        f"Array over size limit `{limit}`.  To raise the number of allowed elements, modify the `array_limit` option "
        "to `.run` (not available in the Data Explorer), or use an index."
    )
    return QueryError(ErrorType.RESOURCE_LIMIT, message)


def within_limit(env: Env, value: Any) -> Any:
    """A value that has been made; an array of it has at most as many elements as the query may have.

    Raises:
        QueryError: it has more.
    """
    limit = env.context.settings.array_limit
    if type(value) is list and len(value) > limit:
        raise array_limit_exceeded(limit)
    return value


# Groups --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """Elements kept as JSON, which takes a fraction of the memory."""

    items: list[bytes]
    table: None = None
    notes: tuple[int, ...] = ()

    def encoded(self, context: Context) -> Iterator[bytes]:
        return iter(self.items)

    def values(self, context: Context) -> Iterator[Any]:
        return map(loads, self.items)


@dataclass(frozen=True)
class Grouped:
    """What `group` gives: pairs of a group and what there is of it, in the order of the groups.

    Every term that follows is run for each group, up to `ungroup`.
    """

    pairs: list[tuple[Any, Any]]

    def mapped(self, change: Callable[[Any], Any]) -> Grouped:
        """Each group's value changed; a group of which no elements are left is gone."""
        changed = ((group, packed(change(value))) for group, value in self.pairs)
        return Grouped([(group, value) for group, value in changed if not is_empty(value)])

    def data(self) -> list[Any]:
        """The pairs, as plain values."""
        return [[group, datum(value)] for group, value in self.pairs]


def packed(value: Any) -> Any:
    """A value that can be held: a sequence is read, and kept as JSON."""
    if type(value) is not Stream:
        return datum(value)
    source = Packed([dumps(datum(each)) for each in value.finite()])
    return Stream(value.context, source, array=value.array)


def is_empty(value: Any) -> bool:
    """Whether it is a packed sequence of no elements."""
    return type(value) is Stream and type(value.source) is Packed and not value.source.items


# What is it? ---------------------------------------------------------------------------------------------------------


def datum(value: Any) -> Any:
    """The plain value: a row's document, a sequence's elements as an array, anything else as it is."""
    kind = type(value)
    if kind in _DATA:
        return value
    if kind is Row:
        return value.doc
    if kind is Stream:
        return value.collected()
    raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type DATUM but found {kind_of(value)}.")


_DATA: Final = frozenset({type(None), bool, int, float, str, list, dict, Bound})


def sequence(env: Env, value: Any) -> Stream:
    """A stream over anything that has elements.

    Raises:
        QueryError: it has none.
    """
    if type(value) is Stream:
        return value
    value = datum(value)
    if type(value) is list:
        return Stream(env.context, Items(value), array=True)
    raise _no_sequence(value)


def _no_sequence(value: Any) -> QueryError:
    return wrong_type("ARRAY", value, "Cannot convert {found} to SEQUENCE")


def kind_of(value: Any) -> str:
    """The type of anything that a query works with, as messages name it."""
    if type(value) is Stream:
        if isinstance(value.source, Rows | Picked) and not value.steps:
            return value.source.kind
        shape = "ARRAY" if value.array else "STREAM"
        return f"SELECTION<{shape}>" if value.table else shape
    if type(value) is Row:
        return "SELECTION<OBJECT>"
    if type(value) is Grouped:
        streams = any(type(each) is Stream and not each.array for _, each in value.pairs)
        return "GROUPED_STREAM" if streams else "GROUPED_DATA"
    if isinstance(value, NotData):
        return value.kind
    return "FUNCTION" if callable(value) else type_name(value)


class NotData:
    """Something that a term gives to the term around it, and that is no value; `kind` is the name of its type."""

    __slots__ = ()
    kind: ClassVar[str]


def wrong_type(wanted: str, value: Any, text: str = "Expected type {wanted} but found {found}.") -> QueryError:
    """The error for a value of another type; null is a NON_EXISTENCE error, which `default` catches."""
    kind = ErrorType.NON_EXISTENCE if value is None else ErrorType.QUERY_LOGIC
    return QueryError(kind, text.format(wanted=wanted, found=kind_of(value)))


def expect(wanted: str, value: Any) -> Any:
    """`value`, which must be of the named type.

    Raises:
        QueryError: it is not.
    """
    if kind_of(value) != wanted:
        raise wrong_type(wanted, value)
    return value


def whole(value: Any, what: str = "") -> int:
    """A number as an integer.

    Raises:
        QueryError: it is no number, or has a fraction.
    """
    expect("NUMBER", value)
    if isinstance(value, float) and not value.is_integer():
        raise QueryError(ErrorType.QUERY_LOGIC, f"Number not an integer{what}: {value}")
    return int(value)


def key_bytes(value: Any) -> bytes:
    """The stored key for the argument of `get`.

    Raises:
        QueryError: it cannot be a key.
    """
    if value is None:
        raise QueryError(ErrorType.NON_EXISTENCE, "Keys cannot be NULL.")
    return storage_key(value)


def is_plain_object(value: Any) -> bool:
    """An object, and not a pseudo-type."""
    return type(value) is dict and PSEUDO_TYPE not in value
