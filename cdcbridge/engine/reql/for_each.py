"""`for_each`: a write for each element of a sequence, and one answer for all of them."""

from __future__ import annotations

from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.registry import Call, Fn, term
from cdcbridge.engine.reql.runtime import Env, datum, is_plain_object, sequence
from cdcbridge.engine.reql.writes import COUNTERS

NO_WRITE = "FOR_EACH expects one or more basic write queries."


@term("FOR_EACH", 2, writes=True)
def for_each(call: Call) -> Fn:
    """What the function writes for each element; it may give an array of writes."""
    source, function = call.args

    def run(env: Env) -> dict[str, Any]:
        if not function.writes or function.arity is None:
            raise QueryError(ErrorType.QUERY_LOGIC, NO_WRITE)
        write = function.run(env)
        total: dict[str, Any] = dict.fromkeys(COUNTERS, 0)
        for value in list(sequence(env, source.run(env)).finite()):
            for answer in _answers(write(value)):
                total = added(total, answer, env.context.settings.array_limit)
        return total

    return run


def _answers(value: Any) -> list[dict[str, Any]]:
    plain = datum(value)
    answers = plain if type(plain) is list else [plain]
    if not all(map(is_plain_object, answers)):
        raise QueryError(ErrorType.QUERY_LOGIC, NO_WRITE)
    return answers


def added(total: dict[str, Any], answer: dict[str, Any], array_limit: int) -> dict[str, Any]:
    """Two writes' answers as one: counters summed up, lists one after the other, and the first error."""
    merged = dict(total)
    warnings = dict.fromkeys([*total.get("warnings", ()), *answer.get("warnings", ())])
    for name, value in answer.items():
        if name not in merged:
            merged[name] = value
        elif type(value) is int:
            merged[name] += value
        elif type(value) is list:
            merged[name] = (merged[name] + value)[:array_limit]
            if len(merged[name]) < len(total[name]) + len(value):
                warnings[f"Too many {_LISTS.get(name, name)}, array truncated to {array_limit}."] = None
    return merged | ({"warnings": list(warnings)} if warnings else {})


_LISTS = {"generated_keys": "generated keys"}
