"""Queries that need no database, built by the official driver and run by the engine's compiler."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from rethinkdb import r
from rethinkdb.ast import ReQLEncoder

from cdcbridge.engine.errors import QueryError
from cdcbridge.engine.reql.library import compile_query
from cdcbridge.engine.reql.runtime import Context, Env, Grouped, Settings, datum
from cdcbridge.engine.store import Store

NOW_S = 12.5
"""What `r.now` gives here."""


def run(query: Any, **settings: Any) -> Any:
    """The value of a query that needs no database; groups as pairs."""
    context = Context(cast(Store, None), Settings(**settings), now_s=NOW_S)
    value = compile_query(json.loads(ReQLEncoder().encode(r.expr(query)))).run(Env(context, {}))
    return value.data() if isinstance(value, Grouped) else datum(value)


def failure(query: Any, **settings: Any) -> QueryError:
    """The error that a query ends with."""
    with pytest.raises(QueryError) as caught:
        run(query, **settings)
    return caught.value
