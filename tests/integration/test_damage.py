"""A disk that is full, a file that cannot be written, a file that is damaged: a clear error, never a wrong answer."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from rethinkdb import r
from rethinkdb.errors import ReqlOpFailedError, ReqlRuntimeError

import cdcbridge.engine
from cdcbridge.engine import local
from cdcbridge.engine.core import Atom, Engine, Plan
from cdcbridge.engine.errors import FileUnusable
from cdcbridge.engine.store import Store
from cdcbridge.errors import StateError
from cdcbridge.sources.embedded import EmbeddedSource

DOCUMENTS = [{"id": number, "text": f"text number {number} " * 20} for number in range(500)]
FLIPS = 60
FIFTY = "r.table_create('t').run(conn)\nfor n in range(50): r.table('t').insert({'id': n}).run(conn)"
PAD = "x" * 20_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def connection(path: Path) -> Iterator[Any]:
    with cdcbridge.engine.open(path) as opened:
        yield opened


def filled(path: Path) -> None:
    with connection(path) as conn:
        r.table_create("t").run(conn)
        r.table("t").insert(DOCUMENTS).run(conn)
        r.table("t").get(0).update({"again": True}).run(conn)


def killed_after(path: Path, program: str) -> None:
    """Run a program on the data file and kill it when it is through, so that the write-ahead log stays."""
    begin = "import sys, os, cdcbridge.engine; from rethinkdb import r\nconn = cdcbridge.engine.open(sys.argv[1])\n"
    wrapped = f"{begin}{program}\nos.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", wrapped, str(path)], check=False)


def copied(path: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in path.parent.glob(f"{path.name}*"):
        shutil.copy(name, folder)
    return folder / path.name


class TestFullDisk:
    def test_a_write_without_room_fails_by_name_and_leaves_nothing(self, small_disk: Path) -> None:
        path = small_disk / "shop.db"
        with connection(path) as conn:
            r.table_create("t").run(conn)
            said = filled_up(conn)
            assert f"Nothing was written: {path}: database or disk is full" in said
            assert r.table("t").count().run(conn) == len(
                list(r.table("t").changes(since=0).limit(kept(path)).run(conn))
            )

    def test_writes_go_on_when_there_is_room_again(self, small_disk: Path) -> None:
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(400_000))
        with connection(small_disk / "shop.db") as conn:
            r.table_create("t").run(conn)
            filled_up(conn)
            ballast.unlink()
            assert r.table("t").insert({"id": "after"}).run(conn)["inserted"] == 1

    def test_a_file_that_cannot_be_made_is_named(self, small_disk: Path) -> None:
        (small_disk / "ballast").write_bytes(bytes(1 << 20))
        with pytest.raises(FileUnusable, match=rf"^{small_disk}/shop.db: .*(full|space)"):
            cdcbridge.engine.open(small_disk / "shop.db")

    def test_what_was_acknowledged_before_is_there_afterwards(self, small_disk: Path) -> None:
        path, ballast = small_disk / "shop.db", small_disk / "ballast"
        ballast.write_bytes(bytes(200_000))
        with connection(path) as conn:
            r.table_create("t").run(conn)
            filled_up(conn)
            before = list(r.table("t").run(conn))
        ballast.unlink()
        with connection(path) as conn:
            assert list(r.table("t").run(conn)) == before


def filled_up(conn: Any) -> str:
    """Write until it fails. Returns the error's text."""
    for number in range(1000):
        try:
            r.table("t").insert({"id": number, "pad": PAD}).run(conn)
        except ReqlOpFailedError as problem:
            return str(problem)
    raise AssertionError("the disk did not fill up")


def kept(path: Path) -> int:
    """How many entries the journal of a file that this process has open has."""
    store = local._registry[os.path.realpath(path)].engine.store
    return store.committed_seq


def test_a_query_that_fails_by_a_bug_undoes_no_other_of_its_group(data_file: Path) -> None:
    def broken(env: Any) -> Any:
        insert.compiled.run(env)
        raise RecursionError

    with closing(Engine.open(data_file)) as engine:
        engine.write([engine.compile(term(r.table_create("t")), {})])
        insert, other = (engine.compile(term(r.table("t").insert({"id": key})), {}) for key in "ab")
        bug = Plan(dataclasses.replace(insert.compiled, run=broken), insert.settings)
        assert [type(answer) for answer in engine.write([bug, other])] == [RecursionError, Atom]
        assert engine.read(engine.compile(term(r.table("t").count()), {})) == Atom(b"1")


def term(query: Any) -> Any:
    """A query as it arrives."""
    return json.loads(json.dumps(query.build(), default=lambda part: part.build()))


class TestReadOnly:
    def test_a_read_only_disk_is_told_by_name(self, small_disk: Path) -> None:
        path = small_disk / "shop.db"
        Store(path).close()
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
        with pytest.raises(FileUnusable, match=rf"^{path}: Read-only file system$"):
            cdcbridge.engine.open(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
    def test_a_read_only_file_is_told_by_name(self, data_file: Path) -> None:
        Store(data_file).close()
        data_file.chmod(0o400)
        with pytest.raises(FileUnusable, match=rf"^{data_file}: attempt to write a readonly database$"):
            cdcbridge.engine.open(data_file)


class TestDamage:
    def test_a_changed_byte_ends_in_an_error_or_changes_nothing(self, tmp_path: Path) -> None:
        filled(tmp_path / "whole.db")
        healthy = (tmp_path / "whole.db").read_bytes()
        chance = random.Random(7)
        found = 0
        for number in range(FLIPS):
            at = chance.randrange(len(healthy))
            path = tmp_path / f"{number}.db"
            path.write_bytes(healthy[:at] + bytes([healthy[at] ^ (1 << chance.randrange(8))]) + healthy[at + 1 :])
            found += not answers_rightly(path)
        assert found > FLIPS // 3

    def test_a_damaged_document_fails_its_readers_and_nobody_else(self, data_file: Path) -> None:
        filled(data_file)
        replace(data_file, b"text number 77 text", b"text number 78 text")
        with connection(data_file) as conn:
            assert r.table("t").get(76).run(conn) == DOCUMENTS[76]
            with pytest.raises(ReqlOpFailedError) as caught:
                r.table("t").get(77).run(conn)
            assert f"The data file cannot be read: {data_file}: it is damaged" in str(caught.value)
            assert r.table("t").get(78).run(conn) == DOCUMENTS[78]

    def test_a_damaged_journal_entry_ends_a_feed_by_name(self, data_file: Path) -> None:
        filled(data_file)
        replace(data_file, b"text number 77 text", b"text number 78 text")
        with connection(data_file) as conn, pytest.raises(ReqlOpFailedError, match="it is damaged"):
            list(r.table("t").changes(since=0).run(conn))

    async def test_a_damaged_journal_entry_stops_the_bridge_by_name(self, data_file: Path) -> None:
        filled(data_file)
        replace(data_file, b"text number 77 text", b"text number 78 text")
        with closing(Engine.open(data_file)) as engine:
            changes = EmbeddedSource(engine).stream(None)
            with pytest.raises(StateError, match=rf"{data_file}: .*damaged"):
                await anext(changes)

    def test_a_header_that_is_none_is_told(self, data_file: Path) -> None:
        filled(data_file)
        replace(data_file, b"SQLite format 3", b"SQLite format 4")
        with pytest.raises(FileUnusable, match=rf"^{data_file}: file is not a database$"):
            cdcbridge.engine.open(data_file)

    def test_a_file_that_was_cut_is_told(self, data_file: Path) -> None:
        filled(data_file)
        os.truncate(data_file, data_file.stat().st_size // 2)
        assert not answers_rightly(data_file)

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
    def test_a_log_that_was_cut_is_told_and_not_just_forgotten(
        self, data_file: Path, tmp_path: Path, share: float
    ) -> None:
        killed_after(data_file, FIFTY)
        log = data_file.with_name(f"{data_file.name}-wal")
        os.truncate(log, int(log.stat().st_size * share))
        with pytest.raises(
            FileUnusable, match=r"it ends with change \d+, and change 50 was acknowledged: engine.db-wal was"
        ):
            cdcbridge.engine.open(data_file)

    def test_a_log_that_is_whole_is_taken_over(self, data_file: Path) -> None:
        killed_after(data_file, FIFTY)
        with connection(data_file) as conn:
            assert r.table("t").count().run(conn) == 50

    def test_a_lost_table_is_told_too(self, data_file: Path) -> None:
        killed_after(data_file, "r.table_create('t').run(conn)")
        os.truncate(data_file.with_name(f"{data_file.name}-wal"), 0)
        with pytest.raises(FileUnusable):
            cdcbridge.engine.open(data_file)

    def test_an_older_copy_is_told_and_can_be_insisted_on(self, data_file: Path, tmp_path: Path) -> None:
        filled(data_file)
        older = copied(data_file, tmp_path / "older")
        with connection(data_file) as conn:
            r.table("t").insert({"id": "later"}).run(conn)
        shutil.copy(older, data_file)
        with pytest.raises(
            FileUnusable, match=rf"the file is an older copy; to go on with it, delete {data_file}.lock$"
        ):
            cdcbridge.engine.open(data_file)
        data_file.with_name(f"{data_file.name}.lock").unlink()
        with connection(data_file) as conn:
            assert r.table("t").count().run(conn) == len(DOCUMENTS)

    def test_a_new_file_in_the_place_of_another_is_no_loss(self, data_file: Path) -> None:
        filled(data_file)
        data_file.unlink()
        with connection(data_file) as conn:
            assert r.table_list().run(conn) == []


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def answers_rightly(path: Path) -> bool:
    """Every document and the whole journal are as they were. False: that was refused, naming the file."""
    expected = [DOCUMENTS[0] | {"again": True}, *DOCUMENTS[1:]]
    try:
        with connection(path) as conn:
            assert list(r.table("t").order_by("id").run(conn)) == expected
            assert [r.table("t").get(number).run(conn) for number in range(0, 500, 7)] == expected[::7]
            feed = list(r.table("t").changes(since=0).limit(501).run(conn))
            assert [change["new_val"] for change in feed] == [*DOCUMENTS, expected[0]]
    except (FileUnusable, ReqlRuntimeError) as problem:
        if str(path) not in str(problem):
            raise
        return False
    return True
