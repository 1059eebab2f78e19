"""RethinkDB's client protocol with as little work as possible: one query at a time, answers as they come."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec

_LET_ME_IN = struct.pack("<III", 0x400C2D20, 0, 0x7E6970C7)
MORE = b"[2]"
"""Asks for more of the last answer."""

_HEADER = struct.Struct("<qI")
_TOKEN = 1


class WireClient:
    """A connection without a password."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def connected(cls, host: str, port: int) -> WireClient:
        """Past the handshake."""
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 22)
        writer.write(_LET_ME_IN)
        assert await reader.readuntil(b"\0") == b"SUCCESS\0"
        return cls(reader, writer)

    async def said(self, text: bytes) -> bytes:
        """The answer to a query."""
        self._writer.write(_HEADER.pack(_TOKEN, len(text)) + text)
        _, length = _HEADER.unpack(await self._reader.readexactly(_HEADER.size))
        return await self._reader.readexactly(length)


def as_text(query: Any) -> bytes:
    """A query of the driver's as it travels."""
    return b"[1,%b]" % msgspec.json.encode(query.build(), enc_hook=lambda part: part.build())
