"""A thousand kills at seeded random moments: nothing acknowledged is lost, and documents and journal agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crashes import WAYS, survives

FILES = 10
KILLS_PER_FILE = 50


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(FILES))
def test_what_was_acknowledged_survives(tmp_path: Path, seed: int, way: str) -> None:
    survives(tmp_path / "engine.db", KILLS_PER_FILE, seed, way)
