"""A client that sends anything: its bytes go through the handshake and the session of a real engine.

Whatever it sends, `Fuzzed` raises only where the engine did wrong: where an answer is none of the protocol's, where one
speaks of a bug in the engine, or where something is left when the client is gone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from cdcbridge.engine.core import Answer, Engine, Plan
from cdcbridge.engine.errors import ErrorType
from cdcbridge.engine.handshake import Handshake
from cdcbridge.engine.handshake import Ready as LetIn
from cdcbridge.engine.scram import Credentials
from cdcbridge.engine.session import Session, Watchers, attempt
from cdcbridge.engine.wire import AnswerType, Frames, Query, Refused, Send

T = TypeVar("T")

MAX_QUERY_BYTES: Final = 1 << 16
MAGICS: Final = (b"", b"\xc3\xbd\xc2\x34", b"\x20\x2d\x0c\x40", b"\x20\x2d\x0c\x40\0\0\0\0\xc7\x70\x69\x7e")
"""The beginnings of handshakes; the last one is a whole one."""

_CREDENTIALS: Final = Credentials("", salt=b"0123456789abcdef", iterations=1)
_HEADER: Final = struct.Struct("<qI")


class AtOnce:
    """Runs everything when it is asked for."""

    def __init__(self, engine: Engine, watchers: Watchers) -> None:
        self._engine = engine
        self._watchers = watchers

    def read(self, job: Callable[[], T], done: Callable[[T | Exception], None]) -> None:
        """See `Executor.read`."""
        done(attempt(job))

    def write(self, plan: Plan, done: Callable[[Answer | Exception], None]) -> None:
        """See `Executor.write`."""
        (answer,) = self._engine.write([plan])
        tables = self._engine.sync()
        done(answer)
        self._watchers.wake(tables)

    def later(self, delay_s: float, job: Callable[[], None]) -> None:
        """See `Executor.later`: no time passes here."""
        job()


class Fuzzed:
    """One connection to an engine that outlives it."""

    def __init__(self, engine: Engine) -> None:
        self.answers = 0
        self._handshake: Handshake | None = Handshake(_CREDENTIALS, nonce=lambda: "n")
        self._frames = Frames()
        self._watchers = Watchers()
        self._session = Session(engine, AtOnce(engine, self._watchers), self._answered, self._watchers, max_cursors=50)
        self._open = True

    def receive(self, data: bytes) -> None:
        """Some bytes of the client's."""
        if self._handshake is not None:
            self._shake_hands(self._handshake, data)
        elif self._open:
            self._frames.receive(data)
            self._serve()

    def ask(self, token: int, query: Any) -> None:
        """A whole query, after a whole handshake."""
        text = json.dumps(query).encode()
        self.receive(_HEADER.pack(token, len(text)) + text)

    def close(self) -> None:
        """The client goes away."""
        self._session.close()
        assert not self._session._queries
        assert not self._watchers._waiting

    def _shake_hands(self, handshake: Handshake, data: bytes) -> None:
        for event in handshake.receive(data):
            match event:
                case Send(said) | Refused(said, _):
                    assert said.endswith(b"\0")
                    self._open = isinstance(event, Send)
                case LetIn(rest):
                    self._handshake = None
                    self._frames = Frames(rest, MAX_QUERY_BYTES)
                    self._serve()

    def _serve(self) -> None:
        while (query := self._frames.next()) is not None:
            if isinstance(query, Query):
                self._session.receive(query.token, query.json)
            else:
                self._answered(query.data)
                self._open = False
        assert len(self._frames._buffer) <= MAX_QUERY_BYTES + _HEADER.size

    def _answered(self, frame: bytes) -> None:
        _, length = _HEADER.unpack_from(frame)
        assert length == len(frame) - _HEADER.size
        check_answer(json.loads(frame[_HEADER.size :]))
        self.answers += 1


def check_answer(answer: dict[str, Any]) -> None:
    """Raises AssertionError unless it is one of the protocol's, and speaks of no bug."""
    kind = AnswerType(answer["t"])
    assert isinstance(answer["r"], list)
    if kind is AnswerType.RUNTIME_ERROR:
        assert ErrorType(answer["e"]) is not ErrorType.INTERNAL, answer["r"]
    if kind >= AnswerType.CLIENT_ERROR:
        assert isinstance(answer["r"][0], str)
        assert isinstance(answer["b"], list)


def talk(engine: Engine, chunks: Iterable[bytes]) -> int:
    """One client from its first byte to its last. Returns how many answers it got."""
    client = Fuzzed(engine)
    for chunk in chunks:
        client.receive(chunk)
    client.close()
    return client.answers
