"""Fuzzing by coverage (atheris): no crash, no hang, no memory growth, and every answer is one of the protocol's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 300


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 120)
def test_no_bytes_make_the_engine_fail(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed; install it with: .venv/bin/pip install atheris")
    command = [sys.executable, "-m", "tests.soak.fuzz", str(tmp_path), str(SECONDS)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-5000:]
