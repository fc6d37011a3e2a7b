"""aiospin gc, and what it is made of: all that is dead goes, nothing that lives does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cli_support import Command, attach, forbid, fresh_name
from segment_support import HEX, ID, Forged, forge, living
from support import PATIENCE, running, until

import aiospin
from aiospin import _garbage, _segment
from aiospin.__main__ import main

OTHER = "00000000000000ff"  # the id of an earlier segment


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of segments for this test alone."""
    monkeypatch.setattr(_segment, "folder", lambda: tmp_path)
    return tmp_path


def old(path: Path) -> Path:
    """Make a file look older than anything that is still being made."""
    long_ago = path.stat().st_mtime_ns - 2 * _garbage.UNLOCKED_NS
    os.utime(path, ns=(long_ago, long_ago))
    return path


def touch(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"x" * 100)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def gc(*arguments: str) -> int:
    return main(["gc", *arguments])


# ---- one kind of file at a time ----


def test_a_dead_segment_and_all_that_belonged_to_it_goes(folder: Path) -> None:
    forge(folder / "aiospin-x", slots={})
    touch(folder, f"aiospin-x+{HEX}.message-17")
    os.mkfifo(folder / f"aiospin-x+{HEX}.bell-0")
    assert gc() == 0
    assert names(folder) == set()


@pytest.mark.parametrize(
    "header", [{"version": 1}, {"version": 99}, {"capacity": 5}, {"total_bytes": 1 << 40}]
)
def test_a_damaged_one_or_one_of_another_version_goes_when_nobody_has_it(
    folder: Path, header: dict[str, int]
) -> None:
    path = forge(folder / "aiospin-x", header=header)
    with living(path, 900):
        assert gc() == 0
        assert names(folder) == {"aiospin-x"}
    assert gc() == 0
    assert names(folder) == set()


def test_what_was_not_finished_goes_when_nobody_is_at_it(folder: Path) -> None:
    dead = [
        old(touch(folder, f"aiospin-x+{HEX}.new")),
        old(touch(folder, ".aiospin-x.01234567")),
        old(touch(folder, f"aiospin-x+{OTHER}.new")),
    ]
    with living(dead[2], writer=True):
        young = touch(folder, "aiospin-y+0000000000000001.new")
        assert gc() == 0
        assert names(folder) == {dead[2].name, young.name}
    assert gc() == 0
    assert names(folder) == {young.name}


def test_one_that_was_finished_but_for_its_name_goes_at_once(folder: Path) -> None:
    path = forge(folder / "aiospin-x")
    os.link(path, folder / f"aiospin-x+{HEX}.new")  # killed when it had the name
    with living(path, writer=True):
        assert gc() == 0
        assert len(names(folder)) == 2
    assert gc() == 0
    assert names(folder) == set()


def test_a_closed_one_goes_when_its_last_reader_died(folder: Path) -> None:
    path = forge(folder / f"aiospin-x+{HEX}.closed", flags=1)
    message = touch(folder, f"aiospin-x+{HEX}.message-3")
    with living(path, 2):
        assert gc() == 0
        assert names(folder) == {path.name, message.name}
    assert gc() == 0
    assert names(folder) == set()


def test_what_belonged_to_an_earlier_segment_of_the_name_goes(folder: Path) -> None:
    path = forge(folder / "aiospin-x")
    ours = touch(folder, f"aiospin-x+{HEX}.message-1")
    touch(folder, f"aiospin-x+{OTHER}.message-1")
    os.mkfifo(folder / f"aiospin-x+{OTHER}.bell-0")
    touch(folder, f"aiospin-gone+{OTHER}.message-1")
    with living(path, writer=True):
        assert gc() == 0
    assert names(folder) == {path.name, ours.name}


def test_the_bell_of_a_dead_reader_goes_and_that_of_a_living_one_stays(folder: Path) -> None:
    path = forge(folder / "aiospin-x")
    for slot in range(3):
        os.mkfifo(folder / f"aiospin-x+{HEX}.bell-{slot}")
    with living(path, 1, writer=True):
        assert gc() == 0
        assert names(folder) == {path.name, f"aiospin-x+{HEX}.bell-1"}


# ---- what stays ----


@pytest.mark.parametrize(("slots", "writer"), [((), True), ((0,), False), ((3,), True)])
def test_a_segment_that_somebody_has_stays_with_all_that_belongs_to_it(
    folder: Path, slots: tuple[int, ...], writer: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = forge(folder / "aiospin-x")
    touch(folder, f"aiospin-x+{HEX}.message-17")
    with living(path, *slots, writer=writer):
        before = names(folder)
        assert gc() == 0
        assert names(folder) == before
        kept = f"kept {path}: its writer is gone, but some of its readers still read\n"
        assert (kept in capsys.readouterr().out) == (not writer)


def test_what_is_no_segment_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(folder, "aiospin-notes.txt")
    (folder / "aiospin-folder").mkdir()
    os.mkfifo(folder / "aiospin-fifo")
    forge(folder / "elsewhere")
    (folder / "aiospin-link").symlink_to(folder / "elsewhere")
    touch(folder, "other")
    touch(folder, "aiospin-x+0.message-1")  # no id
    touch(folder, f"aiospin-x+{HEX}.message")
    touch(folder, f"aiospin-x+{HEX}.closed-1")
    before = names(folder)
    assert gc() == 0
    assert names(folder) == before
    out = capsys.readouterr().out
    for name in ("notes.txt", "folder", "fifo", "link"):
        assert f"kept {folder}/aiospin-{name}: it is no segment\n" in out


def test_what_belongs_to_a_living_segment_with_a_spoilt_header_stays(folder: Path) -> None:
    path = forge(folder / "aiospin-x", header={"id": 0})
    touch(folder, f"aiospin-x+{HEX}.message-17")
    with living(path, 1):
        before = names(folder)
        gc()
        assert names(folder) == before


def test_only_the_names_that_were_asked_for(folder: Path) -> None:
    for name in ("x", "y", "xx"):
        forge(folder / f"aiospin-{name}")
        touch(folder, f"aiospin-{name}+{OTHER}.message-17")
    assert gc("x", "y") == 0
    assert names(folder) == {"aiospin-xx", f"aiospin-xx+{OTHER}.message-17"}


def test_what_may_not_be_opened_stays_with_all_that_belongs_to_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = forge(folder / "aiospin-x")
    touch(folder, f"aiospin-x+{HEX}.message-17")
    before = names(folder)
    with monkeypatch.context() as patched:
        forbid(patched, "open", path)
        assert gc() == 0
    assert names(folder) == before
    assert f"kept {path}: there is no permission to open it\n" in capsys.readouterr().out


def test_what_only_its_owner_may_remove_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = forge(folder / "aiospin-x")
    forge(folder / "aiospin-y")
    with monkeypatch.context() as patched:
        forbid(patched, "unlink", path)
        assert gc() == 1
    assert names(folder) == {"aiospin-x"}
    message = f"aiospin gc: could not remove {path}: only its owner may remove it\n"
    assert capsys.readouterr().err == message


# ---- what it says ----


def test_a_dry_run_says_the_same_and_touches_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(folder / "aiospin-x", capacity=65536)
    touch(folder, f"aiospin-x+{HEX}.message-17")
    old(touch(folder, f"aiospin-y+{HEX}.new"))
    live = forge(folder / "aiospin-z")
    os.mkfifo(folder / f"aiospin-z+{HEX}.bell-1")
    with living(live, 0, writer=True):
        before = names(folder)
        assert gc("--dry-run") == 0
        assert names(folder) == before
        said = capsys.readouterr().out
        assert gc() == 0
        assert capsys.readouterr().out == said.replace("would remove", "removed")
    lines = said.splitlines()
    size = sum(path.lstat().st_blocks * 512 if path.exists() else 0 for path in folder.iterdir())
    assert size  # what is left is the living one
    assert lines[-1].startswith("would remove 4 files, ")
    amounts = [int(line.split(", ")[1].split(" ")[0].replace(",", "")) for line in lines[:-1]]
    assert sum(amounts) == int(lines[-1].split(", ")[1].split(" ")[0].replace(",", ""))
    assert max(amounts) >= 65536


def test_nothing_to_do_is_no_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gc() == 0
    assert capsys.readouterr().out == f"removed 0 files, 0 bytes, in {folder}\n"


# ---- a name for the next ----


def test_a_dead_name_is_freed(folder: Path) -> None:
    path = forge(folder / "aiospin-x")
    _garbage.remove_dead(path)
    assert names(folder) == set()
    _garbage.remove_dead(path)  # somebody else was quicker


def test_a_living_name_is_not(folder: Path) -> None:
    path = forge(folder / "aiospin-x")
    with living(path, writer=True), pytest.raises(FileExistsError, match="a living broadcast"):
        _garbage.remove_dead(path)
    assert path.read_bytes() == Forged().data()


def test_readers_of_a_dead_writer_keep_what_they_read_under_another_name(folder: Path) -> None:
    path = forge(folder / "aiospin-x")
    message = touch(folder, f"aiospin-x+{HEX}.message-17")
    with living(path, 1):
        _garbage.remove_dead(path)
        assert names(folder) == {f"aiospin-x+{HEX}.closed", message.name}
        assert _garbage.companion(path, ID, "closed").name in names(folder)
        forge(path, header={"id": 5})  # the next one has the name
        with living(path, writer=True):
            assert gc() == 0
            assert names(folder) == {path.name, f"aiospin-x+{HEX}.closed", message.name}
    assert gc() == 0
    assert names(folder) == set()


@pytest.mark.parametrize("kind", ["text", "folder", "link"])
def test_a_file_that_is_no_segment_is_not_taken_for_a_dead_one(folder: Path, kind: str) -> None:
    path = folder / "aiospin-x"
    if kind == "text":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(forge(folder / "elsewhere"))
    with pytest.raises(FileExistsError, match="a file that is no broadcast"):
        _garbage.remove_dead(path)
    assert path in folder.iterdir()


def test_the_second_to_clean_up_leaves_what_the_first_has_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = forge(folder / "aiospin-x")
    take = _garbage._lock.take

    def replaced_just_before(fd: int, byte: int) -> bool:
        path.unlink()
        forge(path, messages=2, head=128)
        return take(fd, byte)

    monkeypatch.setattr(_garbage._lock, "take", replaced_just_before)
    _garbage.remove_dead(path)
    assert path.read_bytes() == Forged(messages=2, head=128).data()
    assert [found.outcome for found in _garbage.sweep(folder)] == []
    assert path.exists()


def test_creators_and_cleaners_of_one_name_do_not_harm_each_other() -> None:
    name = fresh_name()
    path = Path(f"/dev/shm/aiospin-{name}")
    over = threading.Event()

    def clean_up() -> None:
        while not over.is_set():
            for found in _garbage.sweep(path.parent, (name,)):
                assert found.outcome == "removed"

    with running(clean_up), running(clean_up):
        try:
            for number in range(200):
                writer = aiospin.BroadcastWriter.create(name, capacity=4096)
                assert path.exists()
                with aiospin.BroadcastReader.attach(name) as reader:
                    writer.send_nowait(b"%d" % number)
                    assert reader.receive_nowait() == b"%d" % number
                if number % 2:
                    writer.close()
                else:
                    writer._forget()  # it leaves all as it is, like one that was killed
        finally:
            over.set()
    assert gc(name) == 0
    assert not path.exists()


# ---- real processes ----


def test_what_a_killed_writer_and_a_killed_reader_left() -> None:
    name = fresh_name()
    path = Path(f"/dev/shm/aiospin-{name}")
    with Command("pub", name) as pub, Command("sub", name, "--wait", 30) as sub:
        pub.write(b"line\n")
        assert sub.read(5) == b"line\n"
        assert gc(name) == 0
        assert path.exists()
        pub.process.kill()
        pub.process.wait(PATIENCE)
        sub.process.kill()
        sub.process.wait(PATIENCE)
        with Command("gc", name) as command:
            status, out, err = command.end()
        assert (status, err) == (0, "")
        assert out.decode().startswith(f"removed {path}, ")
        assert not path.exists()


def test_a_reader_reads_on_what_a_killed_writer_left() -> None:
    name = fresh_name()
    with Command("pub", name) as pub, attach(name) as reader:
        pub.write(b"one\ntwo\n")
        assert reader.receive_sync(30) == b"one"
        until(lambda: reader.lag)
        pub.process.kill()
        pub.process.wait(PATIENCE)
        assert gc(name) == 0
        assert Path(f"/dev/shm/aiospin-{name}").exists()
        assert reader.receive_sync() == b"two"
        with pytest.raises(aiospin.BrokenResourceError):
            reader.receive_sync()
    assert gc(name) == 0
    assert not Path(f"/dev/shm/aiospin-{name}").exists()
