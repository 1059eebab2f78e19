"""Fuzzing by coverage, as a program: `python -m tests.soak.fuzz FOLDER SECONDS`. Needs atheris.

It ends with status 0 when nothing was found and the memory did not grow.
"""

from __future__ import annotations

import gc
import resource
import struct
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cdcbridge"]):
    from cdcbridge.engine.core import Engine
    from tests.fuzzing import MAGICS, talk

GROWTH_ALLOWED_MB = 100
CLIENTS_BETWEEN_LOOKS = 2000
TABLE = b'[1,[60,["t"]]]\n[1,[56,[[15,["t"]],{"id":1,"a":[2,[1,2]]}]]]'
SEEDS = [
    b'[1,[15,["t"]]]',
    b'[1,[152,[[15,["t"]]]]]',
    b'[1,[56,[[15,["t"]],{"id":1,"a":[2,[1,2]]}]],{"durability":"soft"}]',
    b'[1,[39,[[15,["t"]],[69,[[2,[1]],[17,[[170,[[10,[1]],"a"]],1]]]]]]]',
    b'[1,[53,[[16,[[15,["t"]],1]],{"b":[24,[1,2]]}]],{}]',
    b"[2]",
    b"[3]",
    b"[4]",
    b"[5]",
]


def main(folder: Path, seconds: int) -> None:
    """Fuzz for so long."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / str(number)).write_bytes(b"\3" + seed)
    engine = Engine.open(folder / "engine.db")
    talk(engine, [MAGICS[-1], framed(TABLE)])
    watch = Watch()
    options = [f"-max_total_time={seconds}", "-max_len=2000", "-timeout=30", "-rss_limit_mb=2000"]

    def test(data: bytes) -> None:
        one(engine, data)
        watch.look()

    atheris.Setup([sys.argv[0], *options, str(corpus)], test)
    atheris.Fuzz()


def one(engine: Engine, data: bytes) -> None:
    """A client. The first byte says how far it keeps to the protocol; with 3, each line becomes a query in a frame."""
    how, rest = data[0] % 4 if data else 0, data[1:]
    if how == 3:
        rest = framed(rest)
    talk(engine, [MAGICS[how], rest])


def framed(lines: bytes) -> bytes:
    """Each line as a query."""
    return b"".join(struct.pack("<qI", token, len(text)) + text for token, text in enumerate(lines.split(b"\n")))


class Watch:
    """Looks at the process's memory now and then: once everything has been used, it must not grow."""

    def __init__(self) -> None:
        self._clients = 0
        self._first_mb = 0.0

    def look(self) -> None:
        """One more client was there."""
        self._clients += 1
        if self._clients % CLIENTS_BETWEEN_LOOKS:
            return
        gc.collect()
        now_mb = memory_mb()
        self._first_mb = self._first_mb or now_mb
        assert now_mb - self._first_mb < GROWTH_ALLOWED_MB, f"{self._first_mb} MB have become {now_mb} MB"


def memory_mb() -> float:
    """What the process has in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
