"""aiospin top: known states, as JSON, as lines and in a terminal."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import mmap
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from cli_support import Command, attach, forbid, fresh_name
from segment_support import CLOSED, HEX, ID, PARKED_ON_BELL, Forged, Slot, forge, living
from support import PATIENCE, clean, environment, until

import aiospin
from aiospin import _segment
from aiospin.__main__ import main
from aiospin._cli.top import census, view
from aiospin._cli.top.processes import command_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of segments for this test alone."""
    monkeypatch.setattr(_segment, "folder", lambda: tmp_path)
    return tmp_path


def top(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["top", "--json", "--interval", "0", *arguments]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def only(found: dict[str, Any]) -> dict[str, Any]:
    (segment,) = found["segments"]
    return segment  # type: ignore[no-any-return]


# ---- known states ----


def test_everything_about_a_living_broadcast(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slots = {
        0: Slot(cursor=1280, sequence=15, pid=os.getpid(), parked=1),
        2: Slot(cursor=640, sequence=5, pid=102),
        3: Slot(cursor=1280, sequence=15, pid=103, bell=PARKED_ON_BELL),
    }
    path = forge(folder / "aiospin-x", head=1280, messages=15, slots=slots, writable=1)
    for number, nbytes in ((3, 100), (4, 5000)):
        (folder / f"aiospin-x+{HEX}.message-{number}").write_bytes(bytes(nbytes))
    (folder / "aiospin-x+00000000000000ff.message-1").write_bytes(b"somebody else's")
    with living(path, 0, 3, writer=True):
        before = time.time()
        found = top(capsys)
    assert before <= found["time"] <= time.time()
    segment = only(found)
    rates = {"messages_per_second": None, "bytes_per_second": None}
    reader = {"command": None, "joining": False, **rates}
    assert segment == {
        "name": "x",
        "path": str(path),
        "state": "live",
        "reason": None,
        "file_bytes": path.stat().st_blocks * 512,
        "id": HEX,
        "created": 1_700_000_000.0,
        "overflow": "block",
        "capacity": 4096,
        "used_bytes": 640,
        "max_readers": 4,
        "messages": 15,
        **rates,
        "large_messages": 2,
        "large_bytes": 5100,
        "writer": {"pid": 4241, "command": None, "alive": True, "parked": True},
        "readers": [
            reader
            | {"slot": 0, "pid": os.getpid(), "alive": True, "parked": "word"}
            | {"lag_messages": 0, "lag_bytes": 0},
            reader
            | {"slot": 2, "pid": 102, "alive": False, "parked": None}
            | {"lag_messages": 10, "lag_bytes": 640},
            reader
            | {"slot": 3, "pid": 103, "alive": True, "parked": "bell"}
            | {"lag_messages": 0, "lag_bytes": 0},
        ],
    }


@pytest.mark.parametrize(
    ("flags", "slots", "writer", "state", "reason"),
    [
        (0, (), True, "live", None),
        (0, (1,), True, "live", None),
        (0, (), False, "dead", "nobody uses it: aiospin gc removes it"),
        (0, (1,), False, "dead", "its writer died, 1 reader still reads"),
        (0, (0, 1), False, "dead", "its writer died, 2 readers still read"),
        (CLOSED, (1,), True, "closed", "its writer closed it, 1 reader still reads"),
        (CLOSED, (0, 1), False, "closed", "its writer closed it, 2 readers still read"),
        (CLOSED, (), True, "closed", "its writer closed it, 0 readers still read"),
        (CLOSED, (), False, "dead", "nobody uses it: aiospin gc removes it"),
    ],
)
def test_whether_it_lives(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    flags: int,
    slots: tuple[int, ...],
    writer: bool,
    state: str,
    reason: str | None,
) -> None:
    lines = {slot: Slot() for slot in (0, 1)}
    path = forge(folder / "aiospin-x", flags=flags, slots=lines)
    with living(path, *slots, writer=writer):
        segment = only(top(capsys))
    assert (segment["state"], segment["reason"]) == (state, reason)
    assert segment["writer"]["alive"] == writer
    assert [row["slot"] for row in segment["readers"] if row["alive"]] == list(slots)


def test_one_that_was_closed_under_its_other_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = forge(folder / f"aiospin-x+{HEX}.closed", flags=CLOSED, slots={1: Slot()})
    with living(path, 1):
        segment = only(top(capsys))
    assert (segment["name"], segment["state"]) == ("x", "closed")


def test_what_is_no_healthy_segment_is_a_row_with_the_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(folder / "aiospin-a", header={"version": 1})
    held = forge(folder / "aiospin-b", slots={0: Slot(state=9)})
    whole = Forged().data()
    (folder / "aiospin-c").write_bytes(whole[:700])
    (folder / "aiospin-d").write_bytes(b"hello")
    (folder / "aiospin-e").write_bytes(b"")
    (folder / "aiospin-f").mkdir()
    os.mkfifo(folder / "aiospin-g")
    (folder / "aiospin-h").symlink_to(folder / "aiospin-a")
    forge(folder / f"aiospin-x+{HEX}.new")
    with living(held, 0):
        found = top(capsys)
    rows = {row["name"]: (row["state"], row["reason"]) for row in found["segments"]}
    hint = "; nobody uses it: aiospin gc removes it"
    no_magic = ("foreign", "it has not the magic of a segment")
    not_plain = ("foreign", "it is not a plain file")
    assert rows == {
        "a": ("corrupt", "version is 0x1, should be 0x2" + hint),
        "b": ("corrupt", "reader slot 0 has state 9"),
        "c": (
            "corrupt",
            f"total_bytes is {len(whole)}, but the segment has only 700: it was truncated" + hint,
        ),
        "d": no_magic,
        "e": no_magic,
        "f": not_plain,
        "g": not_plain,
        "h": not_plain,
    }


def test_what_may_not_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, "open", forge(folder / "aiospin-x"))
    segment = only(top(capsys))
    assert (segment["state"], segment["reason"]) == ("unreadable", "Permission denied")


def test_it_looks_and_touches_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = forge(folder / "aiospin-x", slots={1: Slot()})
    path.chmod(0o400)
    before = path.stat()
    top(capsys)
    after = path.stat()
    assert path.read_bytes() == Forged(slots={1: Slot()}).data()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)


def test_only_the_names_that_were_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x", "y", "xx"):
        forge(folder / f"aiospin-{name}")
    assert [row["name"] for row in top(capsys, "x", "y")["segments"]] == ["x", "y"]


# ---- rates ----


def test_rates_are_of_the_time_between_two_looks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((100.0, 102.0, 104.0))
    monkeypatch.setattr(census.time, "monotonic", lambda: next(clock))
    path = folder / "aiospin-x"
    observer = census.Observer(folder)
    forge(path, head=640, messages=5, slots={1: Slot(cursor=0, sequence=0)})
    (first,) = observer.look().segments
    assert first.messages_per_second is None
    forge(path, head=1280, messages=11, slots={1: Slot(cursor=640, sequence=5)})
    (second,) = observer.look().segments
    assert (second.messages_per_second, second.bytes_per_second) == (3.0, 320.0)
    (reader,) = second.readers
    assert (reader.messages_per_second, reader.bytes_per_second) == (2.5, 320.0)
    # Another broadcast of that name, and another reader in the slot: nothing to compare with.
    forge(path, head=0, messages=0, slots={1: Slot()}, header={"id": ID + 1})
    (third,) = observer.look().segments
    assert (third.messages_per_second, third.readers[0].messages_per_second) == (None, None)


# ---- who ----


def test_a_command_is_that_of_a_process_that_has_the_file_mapped(tmp_path: Path) -> None:
    path = forge(tmp_path / "segment")
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        command = command_of(os.getpid(), path.stat())
        assert command is not None
        assert "pytest" in command
    assert command_of(os.getpid(), path.stat()) is None
    assert command_of(2**22 + 1, path.stat()) is None


def test_what_a_terminal_would_obey_is_not_shown_to_it() -> None:
    assert view.printable("a\x1b[31m\nb\u202e é") == "a?[31m?b? é"


# ---- real processes ----


def test_a_slow_reader_a_parked_one_and_a_writer_that_died(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = fresh_name()
    with (
        Command("pub", name, "--wait-readers", 2) as pub,
        attach(name) as slow,
        Command("sub", name) as sub,
    ):
        pub.write(b"one\ntwo\nthree\n")
        assert sub.read(14) == b"one\ntwo\nthree\n"
        assert slow.receive_sync() == b"one"

        def parked() -> dict[str, Any] | None:
            found = only(top(capsys, name))
            return found if found["readers"][1]["parked"] else None

        until(parked)
        found = parked()
        assert found is not None
        assert (found["state"], found["messages"]) == ("live", 3)
        assert found["writer"]["pid"] == pub.pid
        assert f"pub {name}" in found["writer"]["command"]
        first, second = found["readers"]
        assert (first["pid"], first["lag_messages"], first["alive"]) == (os.getpid(), 2, True)
        assert (second["pid"], second["lag_messages"], second["alive"]) == (sub.pid, 0, True)
        assert second["parked"] == "word"
        pub.process.kill()
        pub.process.wait(PATIENCE)
        assert sub.end()[0] == 1
        found = only(top(capsys, name))
        assert (found["state"], found["writer"]["alive"]) == ("dead", False)
        assert found["reason"] == "its writer died, 1 reader still reads"
    assert main(["gc", name]) == 0


def test_a_writer_that_waits_for_room_is_parked(capsys: pytest.CaptureFixture[str]) -> None:
    name = fresh_name()
    with Command("pub", name, "--capacity", "4KiB") as pub, attach(name) as reader:
        pub.write(b"line\n" * 100)
        until(lambda: only(top(capsys, name))["writer"]["parked"])
        found = only(top(capsys, name))
        assert (found["used_bytes"], found["messages"]) == (4096, 64)
        assert found["readers"][0]["lag_messages"] == 64
        assert len(list(zip(range(100), reader.iter_sync(), strict=False))) == 100
        assert pub.end()[0] == 0


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_a_look_into_full_traffic_finds_nothing_wrong(overflow: str) -> None:
    name = fresh_name()
    observer = census.Observer(_segment.folder(), [name])
    with (
        subprocess.Popen(["yes"], stdout=subprocess.PIPE) as source,
        Command("sub", name, "--wait", 30, stdout=subprocess.DEVNULL) as sub,
        Command(
            *("pub", name, "--capacity", "64KiB", "--overflow", overflow), stdin=source.stdout
        ) as pub,
    ):
        try:
            until(lambda: any(row.messages for row in observer.look().segments))
            messages = 0
            for _ in range(100):
                (row,) = observer.look().segments
                assert row.state == "live", row.reason
                assert row.messages is not None
                assert row.messages >= messages
                messages = row.messages
                (reader,) = row.readers
                assert overflow == "drop_oldest" or reader.lag_messages <= 64 * 1024 // 64
                assert row.messages_per_second is None or row.messages_per_second >= 0
                assert reader.messages_per_second is None or reader.messages_per_second >= 0
        finally:
            pub.process.send_signal(signal.SIGTERM)
            assert pub.end()[0] == 143
            source.kill()
            status, _, said = sub.end()
            assert status == 0, said


# ---- how it is shown ----


def test_lines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slots = {slot: Slot(cursor=1280, sequence=15) for slot in range(4)}
    slots[0] = Slot(cursor=640, sequence=5, parked=1)
    slots[2].bell = PARKED_ON_BELL
    path = forge(folder / "aiospin-some", head=1280, messages=15, slots=slots, writable=1)
    forge(folder / "aiospin-sad", header={"version": 7})
    with living(path, 0, 2, 3, writer=True):
        assert main(["top", "--once", "--interval", "0"]) == 0
    out = capsys.readouterr().out
    rows = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    assert rows[0][0].startswith(f"2 broadcasts in {folder}, ")
    assert rows[1] == list(view.COLUMNS)
    assert rows[2][:2] == ["sad", "corrupt"]
    assert rows[3] == ["some", "parked", "4241", "15", "16% of 4 KiB"]
    assert rows[4] == ["reader 0", "parked", "4242", "10", "640 B"]
    assert rows[5] == ["reader 1", "dead", "4242", "0", "0 B"]
    assert rows[6] == ["reader 2", "on bell", "4242", "0", "0 B"]
    assert rows[7] == ["reader 3", "reads", "4242", "0", "0 B"]
    assert out.endswith(
        "\nsad: version is 0x7, should be 0x2; nobody uses it: aiospin gc removes it\n\n"
    )


def test_no_broadcast_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--interval", "0"]) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(rf"no broadcasts in {folder}, [^\n]+ free\n\n", out)


@pytest.mark.parametrize(
    ("nbytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1536, "1.5 KiB"),
        (999 * 1024, "999 KiB"),
        (16 << 20, "16 MiB"),
        (1 << 46, "64 TiB"),
        (None, ""),
    ],
)
def test_sizes_are_short(nbytes: float | None, shown: str) -> None:
    assert view.show_bytes(nbytes) == shown


def test_without_a_terminal_it_goes_on_in_lines_until_it_is_ended() -> None:
    name = fresh_name()
    with Command("top", name, "--interval", "0.01") as command:
        for _ in range(3):
            assert command.process.stdout is not None
            assert command.process.stdout.readline().startswith(b"no broadcasts")
            assert command.process.stdout.readline() == b"\n"
        command.process.send_signal(signal.SIGINT)
        assert command.end()[::2] == (130, "")


def test_no_interval_is_only_for_a_single_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--plain", "--interval", "0"]) == 1
    assert "--interval must be more than 0" in capsys.readouterr().err


def test_closed_standard_output_is_an_error() -> None:
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "aiospin", "top"]
    done = subprocess.run(closed, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr == "aiospin top: there is nowhere to write to: standard output is closed\n"


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_in_a_terminal_it_is_a_table_that_a_key_ends(key: bytes) -> None:
    with aiospin.BroadcastWriter.create(fresh_name()) as writer:
        terminal, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
        settings = termios.tcgetattr(other)
        command = Command(
            *("top", writer.name, "--interval", "0.05"),
            stdin=other,
            stdout=other,
            start_new_session=True,
            env=environment(TERM="xterm", COLUMNS="", LINES=""),
        )
        with command:
            shown = b""
            while writer.name.encode() not in shown:
                assert select.select([terminal], [], [], PATIENCE)[0]
                shown += os.read(terminal, 65536)
            if key == b"q":
                os.write(terminal, b"xq")
            else:  # no terminal of this session turns the key into a signal
                command.process.send_signal(signal.SIGINT)
            while command.process.poll() is None:
                if select.select([terminal], [], [], 0.01)[0]:
                    shown += os.read(terminal, 65536)
            assert command.process.returncode == (0 if key == b"q" else 130)
            assert command.process.stderr is not None
            assert command.process.stderr.read() == b""
        assert termios.tcgetattr(other) == settings
        os.close(terminal)
        os.close(other)


def test_without_rich_the_lines_still_work() -> None:
    source = """
        import sys
        sys.modules["rich"] = None
        from aiospin.__main__ import main
        sys.exit(main(["top", "--once", "--interval", "0", "no-such-broadcast"]))
    """
    assert clean(source).startswith("no broadcasts")


# ---- the document ----


def test_the_document_names_every_field_of_the_schema() -> None:
    text = DOCUMENT.read_text()
    for kind in (census.Census, census.SegmentRow, census.WriterRow, census.ReaderRow):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in text, field.name
    for state in ("live", "closed", "dead", "corrupt", "foreign", "unreadable"):
        assert f'`"{state}"`' in text, state
