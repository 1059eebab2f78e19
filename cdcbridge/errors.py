"""The errors of cdcbridge, arranged by who acts on them.

    BridgeError
    ├── ConfigError        the operator edits the configuration; exit status 2
    │   ├── ExchangeMismatch   the exchange exists with another property
    │   └── InUse              a port, a folder or a file belongs to another process
    ├── TransientError     we retry from the same position
    │   ├── SourceUnavailable
    │   ├── BrokerUnavailable
    │   └── PublishNacked
    ├── StreamError        this source stops
    │   ├── PositionLost       its history is gone, or is another database's
    │   └── ProtocolError      bytes that make no sense, and where
    ├── ChangeError        this one change cannot be handled, and the stream stops with it
    │   ├── EncodeError
    │   └── DecodeError
    └── StateError         the disk refuses: a state folder or a data file cannot be read or written

Facts are attributes, `str()` makes the sentence. Errors of other libraries are translated once, where the I/O
happens, with `raise ... from`.
"""

from __future__ import annotations


class BridgeError(Exception):
    """Anything that cdcbridge raises on purpose. Its text is one line that an operator can act on."""


class ConfigError(BridgeError):
    """The operator must change a setting: `setting` names it, `problem` says what is wrong, `remedy` how to mend it."""

    def __init__(self, setting: str, problem: str, remedy: str = "") -> None:
        super().__init__(setting, problem, remedy)
        self.setting = setting
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        sentence = f"{self.setting}: {self.problem}"
        return f"{sentence}; {self.remedy}" if self.remedy else sentence


class ExchangeMismatch(ConfigError):
    """The exchange exists, and `property` differs from what the configuration asks for."""

    def __init__(self, exchange: str, property: str, wanted: str, found: str) -> None:
        remedy = "choose another name, or delete the exchange"
        super().__init__(
            "rabbitmq.exchange",
            f"exchange {exchange!r} already exists with {property} = {found}, and {property} = {wanted} was asked for",
            f"ask for {property} = {found}, {remedy}" if property == "durable" else remedy,
        )
        self.exchange = exchange
        self.property = property
        self.wanted = wanted
        self.found = found


class InUse(ConfigError):
    """What the setting names belongs to another process, whose id is `owner` where it is known."""

    def __init__(self, setting: str, problem: str, remedy: str = "", owner: int | None = None) -> None:
        super().__init__(setting, problem, remedy)
        self.owner = owner


class TransientError(BridgeError):
    """Worth another try from the same position."""


class SourceUnavailable(TransientError):
    """The database does not answer."""


class BrokerUnavailable(TransientError):
    """RabbitMQ does not answer, or has closed the connection or the channel."""


class PublishNacked(TransientError):
    """RabbitMQ refused to take a message."""


class StreamError(BridgeError):
    """The source cannot go on."""


class PositionLost(StreamError):
    """The history behind `position` is gone: `oldest` is where it begins now, `None` if that is unknown."""

    _REMEDY = "bring the data back that has it, or publish everything from the beginning with another --name"

    def __init__(self, position: str, reason: str, oldest: str | None = None) -> None:
        super().__init__(position, reason, oldest)
        self.position = position
        self.reason = reason
        self.oldest = oldest

    def __str__(self) -> str:
        known = f" (the oldest known position is {self.oldest})" if self.oldest is not None else ""
        return f"cannot go on from position {self.position}: {self.reason}{known}; {self._REMEDY}"


class ProtocolError(StreamError):
    """Bytes that break a protocol: `what`, at byte `offset`."""

    def __init__(self, what: str, offset: int) -> None:
        super().__init__(what, offset)
        self.what = what
        self.offset = offset

    def __str__(self) -> str:
        return f"{self.what} at byte {self.offset}"


class ChangeError(BridgeError):
    """One change or one message that cannot be handled. The stream stops with it, so that none is skipped.

    Setting such a change aside, for the stream to go on, is still to come.
    """


class EncodeError(ChangeError):
    """A change that cannot become a message."""


class DecodeError(ChangeError):
    """A message that is not a change."""


class StateError(BridgeError):
    """`path` cannot be read or written: `problem` is the system's reason."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"
