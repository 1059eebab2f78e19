"""A process that is killed at any moment: what it acknowledged is there, and documents and journal agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashes import WAYS, survives

KILLS = 10
"""For each way of reaching the engine."""


@pytest.mark.parametrize("way", WAYS)
def test_what_was_acknowledged_survives_kills_at_random_moments(data_file: Path, way: str) -> None:
    survives(data_file, KILLS, seed=20, way=way)
