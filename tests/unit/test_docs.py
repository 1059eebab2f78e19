"""What an operator can type, set or read is in docs/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cdcbridge.cli import main
from cdcbridge.config import FLAGS, keys, variable
from cdcbridge.logs import EVENTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for child, subcommand in command.commands.items():
            yield from commands(subcommand, f"{name} {child}")


def options() -> Iterator[tuple[str, str]]:
    """Each command with each of its options, by its longest spelling."""
    for name, command in commands(main, "cdcbridge"):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                yield name, max(parameter.opts, key=len)


def section(name: str) -> str:
    """The part of the page on the command line that is about one command."""
    _, heading, rest = page("command-line.md").partition(f"\n## {name}\n")
    assert heading, f"docs/command-line.md has no section {name!r}"
    return rest.partition("\n## ")[0]


@pytest.mark.parametrize("name", [name for name, _ in commands(main, "cdcbridge")])
def test_every_command_has_a_section(name: str) -> None:
    assert section(name).strip()


@pytest.mark.parametrize(("name", "option"), list(options()))
def test_every_option_stands_in_its_commands_section(name: str, option: str) -> None:
    assert re.search(rf"{re.escape(option)}\b", section(name))


@pytest.mark.parametrize("key", [key for key, _ in keys()])
def test_every_setting_is_documented(key: str) -> None:
    assert f"| `{key}` |" in page("configuration.md")


@pytest.mark.parametrize("key", re.findall(r"(?m)^\| `([a-z_.]+)` \|", page("configuration.md")))
def test_every_documented_setting_exists(key: str) -> None:
    assert key in dict(keys())


def test_the_way_from_a_key_to_its_variable_is_as_documented() -> None:
    assert f"`{variable('rabbitmq.exchange.name')}`" in page("configuration.md")


@pytest.mark.parametrize(("key", "flag"), FLAGS.items())
def test_every_flag_stands_beside_its_key(key: str, flag: str) -> None:
    row = next(line for line in page("configuration.md").splitlines() if line.startswith(f"| `{key}` |"))
    assert f"`{flag}`" in row


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_every_event_is_documented(event: str) -> None:
    assert f"| `{event}` |" in page("operations.md")


@pytest.mark.parametrize("event", re.findall(r"(?m)^\| `([a-z]+_[a-z_]+)` \|", page("operations.md")))
def test_every_documented_event_exists(event: str) -> None:
    assert event in EVENTS


def anchors(markdown: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.+)$", markdown.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("source", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(source: Path) -> None:
    for target, anchor in LINK.findall(source.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path = source.parent / target
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f"{target}#{anchor}"
