"""What every store of positions promises: the one in the state folder, and the shipped one in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cdcbridge.change import Position
from cdcbridge.checkpoint import Checkpoints, CheckpointStore
from cdcbridge.errors import ConfigError
from cdcbridge.testing import MemoryCheckpoints


@pytest.fixture(params=["sqlite", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CheckpointStore]:
    if request.param == "memory":
        yield MemoryCheckpoints()
    else:
        with closing(Checkpoints.open(tmp_path)) as checkpoints:
            yield checkpoints


def test_before_the_first_save_there_is_no_position(store: CheckpointStore) -> None:
    assert store.load("shop", "engine 1") is None


def test_the_position_saved_last_is_the_one_loaded(store: CheckpointStore) -> None:
    store.save("shop", "engine 1", Position("9"))
    store.save("shop", "engine 1", Position("10"))
    assert store.load("shop", "engine 1") == "10"


def test_bridges_do_not_see_each_others_positions(store: CheckpointStore) -> None:
    store.save("shop", "engine 1", Position("9"))
    store.save("stock", "engine 2", Position("3"))
    assert store.load("shop", "engine 1") == "9"
    assert store.load("stock", "engine 2") == "3"
    assert store.load("other", "engine 1") is None


def test_a_position_of_another_history_is_refused_and_kept(store: CheckpointStore) -> None:
    store.save("shop", "engine 1", Position("9"))
    with pytest.raises(ConfigError) as caught:
        store.load("shop", "engine 2")
    said = str(caught.value)
    assert "position 9 of bridge 'shop' was saved for engine 1, and the source is engine 2" in said
    assert "--name" in said
    assert store.load("shop", "engine 1") == "9"


def test_a_save_may_change_the_history(store: CheckpointStore) -> None:
    store.save("shop", "engine 1", Position("9"))
    store.save("shop", "engine 2", Position("1"))
    assert store.load("shop", "engine 2") == "1"


def test_any_text_is_a_position(store: CheckpointStore) -> None:
    position = Position('{"seq": "1-g1AAA", "é": [0]}')
    store.save("shop'; --", "ïdentity", position)
    assert store.load("shop'; --", "ïdentity") == position
