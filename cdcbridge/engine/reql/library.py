"""Every term there is: importing this fills the registry that `compile_query` looks into."""

from cdcbridge.engine.reql import (
    access,
    admin,
    aggregation,
    arithmetic,
    arrays,
    bits,
    cluster,
    control,
    convert,
    documents,
    extremes,
    feeds,
    for_each,
    indexes,
    info,
    joins,
    sequences,
    strings,
    times,
    unsupported,
    writes,
)
from cdcbridge.engine.reql.registry import compile_query

FAMILIES = (
    access, admin, aggregation, arithmetic, arrays, bits, cluster, control, convert, documents, extremes, feeds,
    for_each, indexes, info, joins, sequences, strings, times, unsupported, writes,
)  # fmt: skip

__all__ = ["FAMILIES", "compile_query"]
