"""Terms over strings: matching, splitting, case."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import re2

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.registry import function
from cdcbridge.engine.reql.runtime import expect, whole

LARGEST_PATTERN_BYTES: Final = 1 << 20
"""The memory that one compiled pattern may take."""


@function("MATCH", 2)
def match(text: Any, pattern: Any) -> dict[str, Any] | None:
    """The first place where a regular expression matches, with its groups; null if there is none.

    Positions count characters. RE2 is RethinkDB's own library; it takes time in proportion to the text, whatever the
    pattern, where Python's `re` can be made to hold up all clients.
    """
    found = _compiled(expect("STRING", pattern)).search(expect("STRING", text))
    if found is None:
        return None
    groups = [_part(found, number) for number in range(1, found.re.groups + 1)]
    return {"str": found[0], "start": found.start(), "end": found.end(), "groups": groups}


def _part(found: Any, number: int) -> dict[str, Any] | None:
    if found[number] is None:
        return None
    return {"str": found[number], "start": found.start(number), "end": found.end(number)}


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False  # it would write to stderr by itself
    options.max_mem = LARGEST_PATTERN_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error as problem:
        raise QueryError(ErrorType.QUERY_LOGIC, f"Error in regexp `{pattern}`: {_text(problem)}") from None
    except UnicodeEncodeError:
        raise QueryError(ErrorType.QUERY_LOGIC, "Error in regexp: it is not valid UTF-8.") from None


def _text(problem: Exception) -> str:
    reason = problem.args[0] if problem.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


@function("SPLIT", 1, 3, grows=True)
def split(text: Any, separator: Any = None, most: Any = None) -> list[str]:
    """A string's parts between separators: blanks if it is null, and between all characters if it is empty.

    `most`: how many times to split, at most; the last part is all the rest.
    """
    times = -1 if most is None else whole(most)
    if times < -1:
        raise QueryError(ErrorType.QUERY_LOGIC, "Error: `split` size argument must be non-negative.")
    text = expect("STRING", text)
    return _characters(text, times) if separator == "" else list(text.split(_separator(separator), times))


def _separator(value: Any) -> str | None:
    return None if value is None else str(expect("STRING", value))


def _characters(text: str, times: int) -> list[str]:
    if times < 0 or times >= len(text):
        return list(text)
    return [*text[:times], text[times:]]


@function("UPCASE", 1)
def upcase(text: Any) -> str:
    return str(expect("STRING", text)).upper()


@function("DOWNCASE", 1)
def downcase(text: Any) -> str:
    return str(expect("STRING", text)).lower()
