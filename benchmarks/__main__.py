"""`python -m benchmarks [NAME...]`: run the named figures, all of them without a name, and print them as a table.

Exit status: 0 when each figure reaches what is asked of it, 1 when one does not, 2 when a name is unknown.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks import engine, latency, memory, publish
from benchmarks.harness import Bench, Row, facts, keep_to_two_cores, say, warn_if_busy
from cdcbridge.broker.node import NodeFailed, PrivateNode

FIGURES: Final[dict[str, Callable[[Bench], list[Row]]]] = {
    "publish": publish.run,
    "latency": latency.run,
    "memory": memory.run,
    "engine": engine.run,
}
WITHOUT_BROKER: Final = {"engine"}


def main(names: Sequence[str]) -> int:
    """Run figures and print them. Returns the exit status."""
    if unknown := [name for name in names if name not in FIGURES]:
        say(f"no figure is named {unknown[0]}; there are: {', '.join(FIGURES)}")
        return 2
    warn_if_busy()
    keep_to_two_cores()
    wanted = names or list(FIGURES)
    try:
        with _broker(wanted) as node, TemporaryDirectory(prefix="cdcbridge-bench-") as folder:
            bench = Bench(node.url if node else "", Path(folder))
            rows = [row for name in wanted for row in FIGURES[name](bench)]
            _print([facts(node), "", *table(rows)])
    except NodeFailed as problem:
        say(str(problem))
        return 1
    return 0 if all(row.holds is not False for row in rows) else 1


@contextmanager
def _broker(names: Sequence[str]) -> Iterator[PrivateNode | None]:
    """A private RabbitMQ node, if one of the figures needs one."""
    if set(names) <= WITHOUT_BROKER:
        yield None
        return
    say("starting a private RabbitMQ node")
    with PrivateNode() as node:
        yield node


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as a table in Markdown."""
    cells = [("figure", "asked", "reached", ""), *((row.figure, row.asked, row.reached, row.verdict) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    lines = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _print(lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
