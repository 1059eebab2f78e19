"""Change → text for a person: the tutorial's form, with colours on a terminal. Pure.

    mytable got a change of type: create
    {
      "new_val": { …

and a blank line, so that each change stands apart and is complete as soon as it is printed.
"""

from __future__ import annotations

import json
from typing import Final

from listeners.decode import Incoming, Received, subject

GREEN, YELLOW, RED, CYAN, BOLD = "32", "33", "31", "36", "1"
COLORS: Final = {"create": GREEN, "update": YELLOW, "delete": RED, "snapshot": CYAN}

# What comes from a database must not steer the terminal: both sets of control characters are shown as escapes. JSON
# text escapes the first set itself, and its line ends are ours.
_CONTROLS = {code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_CONTROLS_IN_JSON = {code: escape for code, escape in _CONTROLS.items() if code >= 0x7F}


class Pretty:
    """Shows each message as a headline and its body as sorted, indented JSON."""

    def __init__(self, color: bool) -> None:
        self._color = color

    def change(self, received: Received) -> bytes:
        """A change: the table, the operation, and both sides."""
        return self._entry(self._headline(received.table, received.operation), indented(received))

    def unreadable(self, incoming: Incoming, problem: str) -> bytes:
        """A message that is not JSON: the problem, and the body as one quoted string."""
        table, operation = subject(incoming.routing_key, incoming.headers)
        headline = f"{self._headline(table, operation)} ({_harmless(problem)})"
        return self._entry(headline, json.dumps(readable(incoming.body), ensure_ascii=False))

    def _headline(self, table: str, operation: str) -> str:
        table = self._painted(_harmless(table), BOLD)
        if not operation:
            return f"{table} got a message"
        return f"{table} got a change of type: {self._painted(_harmless(operation), COLORS.get(operation))}"

    def _painted(self, text: str, color: str | None) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self._color and color else text

    def _entry(self, headline: str, document: str) -> bytes:
        text = f"{headline}\n{document.translate(_CONTROLS_IN_JSON)}\n\n"
        # JSON may hold half a surrogate pair, which UTF-8 cannot; the escape is what stood in the body.
        return text.encode(errors="backslashreplace")


def indented(received: Received) -> str:
    """The body as sorted JSON, indented by two. As it came where it is nested too deeply for that."""
    try:
        return json.dumps(received.body, indent=2, sort_keys=True, ensure_ascii=False)
    except RecursionError:
        return readable(received.body_json)


def readable(body: bytes) -> str:
    r"""The text of a body that may be none: bytes that are not UTF-8 become `\xff`."""
    return body.decode(errors="backslashreplace")


def _harmless(text: str) -> str:
    return text.translate(_CONTROLS)
