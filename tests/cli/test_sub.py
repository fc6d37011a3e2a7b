"""aiospin sub: what it writes, how it keeps up or not, and how it ends; and both ends together."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from broadcast_support import scaled
from cli_support import Command, attached, fresh_name, records
from support import PATIENCE, until

import aiospin
from aiospin.__main__ import main

LARGE = 5 << 20  # bytes, of a message in a ring of 16 MiB
BINARY = [b"", b"\0", b"\xff" * 3, bytes(range(256)) * 40, b"", b"last"]


@pytest.fixture
def writer() -> aiospin.BroadcastWriter:
    with aiospin.BroadcastWriter.create(fresh_name(), capacity=64 * 1024) as made:
        yield made


@pytest.mark.parametrize("kind", ["lines", "records"])
def test_it_writes_every_message_and_ends_with_the_broadcast(
    writer: aiospin.BroadcastWriter, kind: str
) -> None:
    messages = BINARY if kind == "records" else [m.replace(b"\n", b"") for m in BINARY]
    with Command("sub", writer.name, "--format", kind) as sub:
        attached(writer)
        for message in messages:
            writer.send_sync(message)
        writer.close()
        expected = records(messages) if kind == "records" else b"\n".join([*messages, b""])
        assert sub.end() == (0, expected, "")


def test_a_message_is_written_when_it_is_there(writer: aiospin.BroadcastWriter) -> None:
    with Command("sub", writer.name) as sub:
        attached(writer)
        for number in range(3):
            writer.send_sync(b"%d" % number)
            assert sub.read(2) == b"%d\n" % number


def test_it_stops_after_as_many_as_it_is_told(writer: aiospin.BroadcastWriter) -> None:
    with Command("sub", writer.name, "--count", 3) as sub:
        attached(writer)
        for number in range(5):
            writer.send_sync(b"%d" % number)
        assert sub.end() == (0, b"0\n1\n2\n", "")


def test_it_waits_for_the_name() -> None:
    name = fresh_name()
    with Command("sub", name, "--wait", "inf") as sub:
        with aiospin.BroadcastWriter.create(name) as writer:
            attached(writer)
            writer.send_sync(b"hello")
        assert sub.end() == (0, b"hello\n", "")


@pytest.mark.parametrize("wait", [[], ["--wait", "0.02"]])
def test_no_broadcast_is_one_sentence(wait: list[str]) -> None:
    with Command("sub", fresh_name(), *wait) as sub:
        status, out, err = sub.end()
    assert (status, out, err.count("\n")) == (1, b"", 1)
    assert err.startswith("aiospin sub: there is no broadcast of that name")


def test_what_is_no_segment_is_one_sentence() -> None:
    name = fresh_name()
    path = f"/dev/shm/aiospin-{name}"
    with open(path, "wb") as file:
        file.write(b"\xff" * 8192)
    try:
        with Command("sub", name) as sub:
            status, out, err = sub.end()
    finally:
        os.unlink(path)
    assert (status, out, err.count("\n")) == (1, b"", 1)


@pytest.mark.parametrize("sent", [0, 5])
def test_a_writer_that_is_killed_is_an_error_after_all_that_it_sent(sent: int) -> None:
    name = fresh_name()
    with Command("pub", name) as pub, Command("sub", name, "--wait", 30) as sub:
        pub.write(b"line\n" * (sent + 1))
        assert sub.read(5) == b"line\n"  # so it is attached
        if sent:
            assert sub.read(5 * sent) == b"line\n" * sent
        pub.process.kill()
        pub.process.wait(PATIENCE)
        message = f"aiospin sub: the writer of the broadcast {name!r} died\n"
        assert sub.end() == (1, b"", message)
    os.unlink(f"/dev/shm/aiospin-{name}")


def test_a_name_that_a_dead_writer_left_is_waited_for_like_none() -> None:
    name = fresh_name()
    with Command("pub", name, "--wait-readers", 0) as pub:
        until(lambda: os.path.exists(f"/dev/shm/aiospin-{name}"))
        pub.process.kill()
        pub.process.wait(PATIENCE)
    with Command("sub", name) as sub:
        assert sub.end() == (1, b"", f"aiospin sub: the writer of the broadcast {name!r} died\n")
    with Command("sub", name, "--wait", 30) as sub:
        with aiospin.BroadcastWriter.create(name) as writer:
            attached(writer)
            writer.send_sync(b"of the new one")
        assert sub.end() == (0, b"of the new one\n", "")


def test_output_that_nobody_reads_any_more_ends_it_quietly(writer: aiospin.BroadcastWriter) -> None:
    with Command("sub", writer.name) as sub:
        attached(writer)
        writer.send_sync(b"seen")
        assert sub.read(5) == b"seen\n"
        sub.process.stdout.close()  # type: ignore[union-attr]
        writer.send_sync(b"unseen")
        sub.process.stdout = None
        assert sub.end()[::2] == (1, "")


def test_so_it_ends_when_nothing_more_comes(writer: aiospin.BroadcastWriter) -> None:
    with Command("sub", writer.name) as sub:
        attached(writer)
        writer.send_sync(b"the only one")
        assert sub.read(13) == b"the only one\n"
        sub.process.stdout.close()  # type: ignore[union-attr]
        sub.process.stdout = None
        assert sub.end()[::2] == (1, "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_by_a_signal_it_is_quiet(
    writer: aiospin.BroadcastWriter, number: int, status: int
) -> None:
    with Command("sub", writer.name) as sub:
        attached(writer)
        writer.send_sync(b"seen")
        assert sub.read(5) == b"seen\n"
        sub.process.send_signal(number)
        assert sub.end() == (status, b"", "")
    assert writer.statistics().readers == ()


def test_closed_standard_output_is_an_error_and_never_the_segment_itself(
    writer: aiospin.BroadcastWriter,
) -> None:
    command = [sys.executable, "-m", "aiospin", "sub", writer.name]
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    done = subprocess.run(closed, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr == "aiospin sub: there is nowhere to write to: standard output is closed\n"


def test_loss_is_counted_exactly_on_stderr_and_the_rest_arrives() -> None:
    total = 5000
    with (
        aiospin.BroadcastWriter.create(
            fresh_name(), capacity=4096, overflow="drop_oldest"
        ) as writer,
        Command("sub", writer.name) as sub,
    ):
        attached(writer)
        writer.send_sync(b"first")
        assert sub.read(6) == b"first\n"
        sub.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, sub.pid, os.WSTOPPED | os.WNOWAIT)
        for number in range(total):
            writer.send_sync(b"%d" % number)
        writer.close()
        sub.process.send_signal(signal.SIGCONT)
        status, out, err = sub.end()
    received = [int(line) for line in out.split()]
    assert status == 0
    assert received == list(range(total - len(received), total))
    assert received
    lost = total - len(received)
    assert err == f"aiospin sub: {lost} messages were overwritten before they were read\n"


def test_more_than_zero_messages_are_to_be_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sub", "x", "--count", "0"])
    assert caught.value.code == 2
    assert "at least 1" in capsys.readouterr().err


# ---- both ends ----


def test_an_output_that_is_not_read_holds_the_input_back_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    name = fresh_name()
    data = b"".join(b"%07d\n" % number for number in range(scaled(200_000, 50_000)))
    (tmp_path / "input").write_bytes(data)
    with (
        (tmp_path / "input").open("rb") as source,
        Command("sub", name, "--wait", 30) as sub,
        Command("pub", name, "--capacity", "64KiB", stdin=source) as pub,
    ):
        assert sub.read(8) == b"0000000\n"
        # A quarter of the input is all that the ring and the pipe can have.
        assert pub.process.poll() is None
        assert sub.end() == (0, data[8:], "")
        assert pub.end() == (0, b"", "")


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_records_of_every_size_come_out_as_they_went_in(tmp_path: Path, overflow: str) -> None:
    name = fresh_name()
    chance = random.Random(7)
    sizes = [0, 1, 63, 64, 65, 1 << 20, LARGE, *(chance.randrange(5000) for _ in range(500))]
    data = records(chance.randbytes(nbytes) for nbytes in sizes)
    (tmp_path / "input").write_bytes(data)
    with (
        (tmp_path / "input").open("rb") as source,
        (tmp_path / "first").open("wb") as first,
        (tmp_path / "second").open("wb") as second,
        Command("sub", name, "--format", "records", "--wait", 30, stdout=first) as one,
        Command("sub", name, "--format", "records", "--wait", 30, stdout=second) as two,
        Command(
            *("pub", name, "--format", "records", "--wait-readers", 2, "--overflow", overflow),
            stdin=source,
        ) as pub,
    ):
        for command in (pub, one, two):
            status, _, err = command.end()
            assert (status, err) == (0, "")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes() == data
