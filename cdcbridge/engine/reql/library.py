"""Every term there is: importing this fills the registry that `compile_query` looks into."""

from cdcbridge.engine.reql import access, admin, arithmetic, control, documents, feeds, sequences, writes
from cdcbridge.engine.reql.registry import compile_query

FAMILIES = (access, admin, arithmetic, control, documents, feeds, sequences, writes)

__all__ = ["FAMILIES", "compile_query"]
