"""What can go wrong in the engine, in the terms of RethinkDB's protocol.

    EngineError
    ├── QueryError      a query fails; the client gets it as an answer and goes on
    ├── FileInUse       another process has the data file open
    └── FileUnusable    the data file cannot be opened, read or written; the engine stops taking writes
        ├── DiskFull        a write found no room and did not happen; others may, once there is room
        └── FileUnreadable  a query met a part of the file that is damaged or cannot be read; the engine goes on

Source: error types and response types of RethinkDB's ql2.proto.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorType(IntEnum):
    """The `e` of a RUNTIME_ERROR answer; the driver picks its exception class by it."""

    INTERNAL = 1000000
    RESOURCE_LIMIT = 2000000
    QUERY_LOGIC = 3000000
    NON_EXISTENCE = 3100000
    OP_FAILED = 4100000
    OP_INDETERMINATE = 4200000
    USER = 5000000
    PERMISSION_ERROR = 6000000


class EngineError(Exception):
    """Anything that the engine raises on purpose."""


class QueryError(EngineError):
    """A query that fails while it runs: a RUNTIME_ERROR answer.

    `path` leads from the root of the query to the failing term: positions and names of optional arguments, outermost
    first. It is `None` until the term's wrapper has filled it in; the driver draws its carets from it.
    """

    def __init__(self, type: ErrorType, message: str, path: tuple[int | str, ...] | None = None) -> None:
        super().__init__(message)
        self.type = type
        self.message = message
        self.path = path


class CompileError(QueryError):
    """A query that cannot run at all: a COMPILE_ERROR answer, `ReqlServerCompileError` in the driver."""

    def __init__(self, message: str, path: tuple[int | str, ...] | None = None) -> None:
        super().__init__(ErrorType.QUERY_LOGIC, message, path)


class ClientError(QueryError):
    """Bytes that are no query: a CLIENT_ERROR answer, `ReqlDriverError` in the driver."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorType.QUERY_LOGIC, message, ())


class FileInUse(EngineError):
    """`path` is open in another process, whose id is `owner` where it is known."""

    def __init__(self, path: str, owner: int | None) -> None:
        who = f"process {owner}" if owner is not None else "another process"
        super().__init__(f"{path} is in use by {who}")
        self.path = path
        self.owner = owner


class FileUnusable(EngineError):
    """`path` cannot be opened, read or written; `problem` is the reason, as SQLite or the system gives it."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class DiskFull(FileUnusable):
    """There is no room to write to `path`."""


class FileUnreadable(FileUnusable):
    """What a query wanted to read from `path` is damaged, or cannot be read."""
