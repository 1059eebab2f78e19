"""Control: calling functions, branching, defaults, errors; and values that the engine makes itself."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any

from cdcbridge.engine.errors import ErrorType, QueryError
from cdcbridge.engine.reql.arithmetic import truthy
from cdcbridge.engine.reql.registry import Call, Compiled, Fn, function, term
from cdcbridge.engine.reql.runtime import Env, Grouped, Stream, datum, expect, kind_of, sequence
from cdcbridge.engine.values import MAXVAL, MINVAL, number


def called(compiled: Compiled) -> Callable[[Env], Callable[..., Any]]:
    """The Python function behind an argument that has to be a ReQL function; its results are datums."""

    def find(env: Env) -> Callable[..., Any]:
        plain = compiled.run(env)
        if compiled.arity is None:
            raise QueryError(ErrorType.QUERY_LOGIC, f"Expected type FUNCTION but found {kind_of(plain)}.")
        return lambda *values: datum(plain(*values))

    return find


@term("FUNCALL", 1, None, grouping="passes")
def funcall(call: Call) -> Fn:
    """`do`: the function comes first, then its arguments."""
    function, *args = call.args
    if function.arity is None:
        return function.run
    runs = [arg.run for arg in args]
    return lambda env: function.run(env)(*[run(env) for run in runs])


@term("BRANCH", 3, None, grouping="passes")
def branch(call: Call) -> Fn:
    """Pairs of a test and a result, and a last result for when no test holds."""
    if len(call.args) % 2 == 0:
        raise QueryError(ErrorType.QUERY_LOGIC, "Cannot call `branch` term with an even number of arguments.")
    *pairs, otherwise = [arg.run for arg in call.args]
    tests = list(zip(pairs[::2], pairs[1::2], strict=True))

    def choose(env: Env) -> Any:
        for test, result in tests:
            if truthy(datum(test(env))):
                return result(env)
        return otherwise(env)

    return choose


EMPTY_ERROR = "Empty ERROR term outside a default block."


@term("DEFAULT", 2, grouping="passes")
def default(call: Call) -> Fn:
    """The first argument, or the second where the first is null or does not exist."""
    first, second = call.args

    def run(env: Env) -> Any:
        try:
            value = first.run(env)
            if _goes_on(value) or datum(value) is not None:
                return value
            problem = None
        except QueryError as error:
            if error.type is not ErrorType.NON_EXISTENCE:
                raise
            problem = error
        return instead(second, env, problem)

    return run


def _goes_on(value: Any) -> bool:
    """A stream or groups: something, whatever it will give."""
    return type(value) is Grouped or (type(value) is Stream and not value.array)


def instead(default: Compiled, env: Env, problem: QueryError | None) -> Any:
    """A default's value, or what its function makes of the error's message; `r.error()` raises `problem` again."""
    try:
        if default.arity is None:
            return default.run(env)
        return default.run(env)(problem.message if problem else None)
    except QueryError as error:
        if error.message == EMPTY_ERROR and problem is not None:
            raise problem from None
        raise


@term("ARGS", 1)
def args(call: Call) -> Fn:
    """An array whose elements become arguments of the term around it; the compiler sees to that."""
    values = call.args[0].run
    return lambda env: sequence(env, values(env)).collected()


@term("ERROR", 0, 1)
def error(call: Call) -> Fn:
    """Fail with a message; without one, which only a `default` may contain, as whatever led there."""
    message = call.args[0].run if call.args else None

    def fail(env: Env) -> Any:
        if message is None:
            raise QueryError(ErrorType.USER, EMPTY_ERROR)
        raise QueryError(ErrorType.USER, expect("STRING", datum(message(env))))

    return fail


_NAMES = uuid.UUID("91461c99-f89d-49d2-af96-d8e2e14e9b58")
"""RethinkDB's own namespace: a name gives the same UUID there and here."""


@function("UUID", 0, 1, deterministic=False)
def make_uuid(name: Any = None) -> str:
    """A random UUID, or the one that a string always gives."""
    return str(uuid.uuid4() if name is None else uuid.uuid5(_NAMES, expect("STRING", name)))


@term("RANDOM", 0, 2, options=("float",), deterministic=False)
def make_random(call: Call) -> Fn:
    """A random number: below 1, below a bound, or between two; integral where there are bounds and no `float`."""
    runs = [arg.run for arg in call.args]
    as_float = call.option("float", not runs)

    def make(env: Env) -> Any:
        bounds = [expect("NUMBER", datum(run(env))) for run in runs]
        low, high = (0, *bounds)[-2:] if bounds else (0, 1)
        if as_float(env):
            return number(random.uniform(low, high))
        if not (float(low).is_integer() and float(high).is_integer() and low < high):
            message = f"Lower bound ({low}) is not less than upper bound ({high}), or one of them is no integer."
            raise QueryError(ErrorType.QUERY_LOGIC, message)
        return random.randrange(int(low), int(high))

    return make


@term("MINVAL", 0)
def minval(call: Call) -> Fn:
    return lambda env: MINVAL


@term("MAXVAL", 0)
def maxval(call: Call) -> Fn:
    return lambda env: MAXVAL
