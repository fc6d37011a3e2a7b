"""aiospin pub: what it makes of its input, what readers see, and how it ends."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from broadcast_support import scaled
from cli_support import Command, attach, fresh_name, records

import aiospin
from aiospin.__main__ import main
from aiospin._cli.errors import CommandError
from aiospin._cli.stream import LineSplitter, RecordSplitter

MESSAGES = [b"", b"x", b"\0\xff\r", b"", bytes(70_000), b"\x03\0\0\0" * 5, b"y" * 63]


# ---- messages out of chunks ----


def cut(data: bytes, seed: int) -> list[bytes]:
    """The same bytes in pieces: single bytes, a few, many."""
    chance = random.Random(seed)
    pieces, begin = [], 0
    while begin < len(data):
        end = begin + chance.choice((1, 1, 2, 5, 1000, 100_000))
        pieces.append(data[begin:end])
        begin = end
    return pieces


@pytest.mark.parametrize("seed", range(20))
def test_records_are_the_same_however_the_stream_is_cut(seed: int) -> None:
    splitter = RecordSplitter()
    found = [record for chunk in cut(records(MESSAGES), seed) for record in splitter.feed(chunk)]
    assert found + splitter.finish() == MESSAGES


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_are_the_same_however_the_stream_is_cut(seed: int, end: bytes) -> None:
    splitter = LineSplitter()
    stream = b"\n".join(MESSAGES) + end
    found = [line for chunk in cut(stream, seed) for line in splitter.feed(chunk)]
    assert found + splitter.finish() == MESSAGES


def test_an_empty_stream_has_no_messages() -> None:
    assert LineSplitter().finish() == RecordSplitter().finish() == []


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"\x05\0", "its prefix has 4 bytes, and 2 came"),
        (b"\x05\0\0\0", "5 bytes are announced, and 0 came"),
        (b"hello", "1819043176 bytes are announced, and 1 came"),
    ],
)
def test_half_a_record_is_an_error_that_says_what_is_missing(rest: bytes, reason: str) -> None:
    splitter = RecordSplitter()
    assert splitter.feed(records([b"whole"]) + rest) == [b"whole"]
    with pytest.raises(CommandError, match=reason):
        splitter.finish()


# ---- the command ----


@pytest.mark.parametrize("kind", ["lines", "records"])
def test_readers_get_every_message_and_then_the_end(kind: str) -> None:
    name = fresh_name()
    stream = records(MESSAGES) if kind == "records" else b"\n".join([*MESSAGES, b""])
    with Command("pub", name, "--format", kind) as pub, attach(name) as reader:
        assert pub.end(stream) == (0, b"", "")
        assert list(reader.iter_sync()) == MESSAGES


def test_a_message_leaves_when_it_is_there_not_when_the_input_ends() -> None:
    name = fresh_name()
    with Command("pub", name) as pub, attach(name) as reader:
        pub.write(b"one\ntw")
        assert reader.receive_sync(30) == b"one"
        pub.write(b"o\n")
        assert reader.receive_sync(30) == b"two"
        assert pub.end(b"no newline")[0] == 0
        assert list(reader.iter_sync()) == [b"no newline"]


def test_it_waits_for_as_many_readers_as_it_is_told() -> None:
    name = fresh_name()
    with (
        Command("pub", name, "--wait-readers", 2) as pub,
        attach(name) as first,
    ):
        pub.write(b"line\n")
        with attach(name) as second:
            assert pub.end()[0] == 0
            assert list(first.iter_sync()) == list(second.iter_sync()) == [b"line"]


def test_without_readers_it_sends_to_nobody_when_told_so() -> None:
    with Command("pub", fresh_name(), "--wait-readers", 0) as pub:
        assert pub.end(b"a\n" * 100_000) == (0, b"", "")


@pytest.mark.parametrize("extra", [["--wait-readers", "3"], []])
def test_readers_that_do_not_come_are_a_timeout(extra: list[str]) -> None:
    name = fresh_name()
    with Command("pub", name, "--timeout", 0.01, *extra) as pub:
        wanted = extra[1] if extra else "1"
        message = f"aiospin pub: only 0 of {wanted} readers attached to {name!r} within 0.01 s\n"
        assert pub.end(b"") == (1, b"", message)


def test_a_reader_that_makes_no_room_is_a_timeout_that_names_it() -> None:
    name = fresh_name()
    with (
        Command("pub", name, "--capacity", "4KiB", "--timeout", "0.01") as pub,
        attach(name) as reader,
    ):
        status, _, err = pub.end(b"x" * 100 + b"\n" + b"line\n" * 1000)
        assert status == 1
        said = (
            f"the broadcast {name!r} had no room within 0.01 s: it waits for the reader in slot 0"
        )
        assert said in err
        assert err.count("\n") == 1
        assert reader.receive_sync() == b"x" * 100


def test_a_reader_that_is_killed_holds_nobody_up(tmp_path: Path) -> None:
    name = fresh_name()
    lines = [b"%d" % number for number in range(scaled(100_000, 10_000))]
    (tmp_path / "input").write_bytes(b"\n".join(lines))
    with (
        (tmp_path / "input").open("rb") as source,
        Command("sub", name, "--wait", 30) as sub,
        Command("pub", name, "--wait-readers", 2, "--capacity", "64KiB", stdin=source) as pub,
        attach(name) as reader,
    ):
        assert sub.read(2) == b"0\n"
        # Its output is not read, so it cannot have got far, and the ring has a tenth of the input, or less.
        sub.process.kill()
        assert list(reader.iter_sync()) == lines
        assert pub.end() == (0, b"", "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_by_a_signal_it_closes_what_it_sent(number: int, status: int) -> None:
    name = fresh_name()
    with Command("pub", name) as pub, attach(name) as reader:
        pub.write(b"one\ntwo\nthr")
        assert [reader.receive_sync(30), reader.receive_sync(30)] == [b"one", b"two"]
        pub.process.send_signal(number)
        assert list(reader.iter_sync()) == []
        assert (pub.process.wait(30), pub.end()[2]) == (status, "")


def test_half_a_record_ends_it_after_the_whole_ones() -> None:
    name = fresh_name()
    with Command("pub", name, "--format", "records") as pub, attach(name) as reader:
        status, _, err = pub.end(records([b"a", b"b"]) + b"\x09\0\0\0nine")
        assert (status, err.count("\n")) == (1, 1)
        assert "in the middle of a record: 9 bytes are announced, and 4 came" in err
        assert list(reader.iter_sync()) == [b"a", b"b"]


def test_a_name_that_lives_is_refused_in_one_sentence() -> None:
    with aiospin.BroadcastWriter.create(fresh_name()) as writer:
        with Command("pub", writer.name) as pub:
            status, _, err = pub.end(b"")
        assert status == 1
        assert err.startswith("aiospin pub: a living broadcast has that name")
        assert err.count("\n") == 1


def test_closed_standard_input_is_an_error_and_never_the_segment_itself() -> None:
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "aiospin", "pub", "name"]
    done = subprocess.run(closed, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "aiospin pub: there is nothing to read: standard input is closed\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a/b"], "'a/b' is no name for a broadcast"),
        (["x", "--capacity", "many"], "'many' is no size"),
        (["x", "--capacity", "1.5XiB"], "'1.5XiB' is no size"),
        (["x", "--max-readers", "1025"], "from 1 to 1024, not '1025'"),
        (["x", "--timeout", "-1"], "must be a number of seconds, at least 0, not '-1'"),
        (["x", "--timeout", "nan"], "not 'nan'"),
        (["x", "--format", "csv"], "'csv'"),
        (["x", "--overflow", "drop"], "'drop'"),
    ],
)
def test_arguments_that_make_no_sense(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["pub", *arguments])
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


def test_more_readers_to_wait_for_than_may_attach(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", "x", "--max-readers", "2", "--wait-readers", "3"]) == 1
    assert "--max-readers lets 2 attach" in capsys.readouterr().err


def test_the_help_says_the_formats_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("pub", "sub"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert "4 bytes, the length as a little-endian unsigned integer" in shown
