"""Making a broadcast and finding it: names, sizes, and what is there that is none."""

from __future__ import annotations

import errno
import os
import pickle
import stat
from pathlib import Path

import pytest
from broadcast_support import SHM, Child, pair, segments

import aiospin
from aiospin import BroadcastHandle, BroadcastReader, BroadcastWriter, LayoutError


@pytest.fixture
def path():
    """Where the segment of the name that name_of() gives would be; removed at the end."""
    place = Path(f"{SHM}odd-{os.getpid()}")
    yield place
    if place.is_dir() and not place.is_symlink():
        place.rmdir()
    else:
        place.unlink(missing_ok=True)


def name_of(path: Path) -> str:
    return path.name.removeprefix("aiospin-")


def test_handle_is_small_picklable_and_names_the_broadcast():
    with BroadcastWriter.create() as writer:
        handle = pickle.loads(pickle.dumps(writer.handle))
        assert handle == writer.handle
        assert isinstance(handle, BroadcastHandle)
        assert str(handle) == writer.name
        for what in (handle, str(handle)):
            with BroadcastReader.attach(what) as reader:
                assert reader.name == writer.name


def test_name_of_ones_own():
    with BroadcastWriter.create(f"mine-{os.getpid()}.v1") as writer:
        assert writer.name == f"mine-{os.getpid()}.v1"
        assert str(writer.handle) == writer.name


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a/b", "../x", "a b", "x" * 201, "ä", "a\n"])
def test_bad_name(name):
    with pytest.raises(ValueError, match="is no name for a broadcast"):
        BroadcastWriter.create(name)
    with pytest.raises(ValueError, match="is no name for a broadcast"):
        BroadcastReader.attach(name)


@pytest.mark.parametrize("name", [7, b"bytes", 1.5])
def test_name_that_is_no_string(name):
    with pytest.raises(TypeError, match="string"):
        BroadcastWriter.create(name)
    with pytest.raises(TypeError, match="string"):
        BroadcastReader.attach(name)


def test_name_of_a_living_broadcast_is_taken():
    with BroadcastWriter.create() as writer:
        before = segments()
        with pytest.raises(FileExistsError, match="living broadcast"):
            BroadcastWriter.create(writer.name)
        assert segments() == before
        with BroadcastReader.attach(writer.name) as reader:
            writer.send_nowait(b"unharmed")
            assert reader.receive_nowait() == b"unharmed"


def test_name_of_a_dead_writer_is_taken_over():
    with Child("w = BroadcastWriter.create(); tell(w.name); told()") as child:
        name = child.hear()
        child.kill()
    with pytest.raises(aiospin.BrokenResourceError, match=name):
        BroadcastReader.attach(name)
    with BroadcastWriter.create(name) as writer, BroadcastReader.attach(name) as reader:
        writer.send_nowait(b"new")
        assert reader.receive_nowait() == b"new"


def test_name_is_free_again_after_close():
    with BroadcastWriter.create() as writer:
        name = writer.name
    with pytest.raises(FileNotFoundError, match="no broadcast of that name"):
        BroadcastReader.attach(name)
    with BroadcastWriter.create(name):
        pass


def test_name_that_does_not_exist(path):
    with pytest.raises(FileNotFoundError, match="no broadcast of that name") as caught:
        BroadcastReader.attach(name_of(path))
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("size", [0, 1, 88, 4095, 4096, 1 << 16])
@pytest.mark.parametrize("byte", [b"\0", b"\xff", b"g"])
def test_garbage_is_no_segment(path, size, byte):
    path.write_bytes(byte * size)
    with pytest.raises(LayoutError):
        BroadcastReader.attach(name_of(path))


def test_things_that_are_no_files(path):
    name = name_of(path)
    path.mkdir()
    with pytest.raises(LayoutError, match="not a plain file"):
        BroadcastReader.attach(name)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(LayoutError, match="not a plain file"):
        BroadcastReader.attach(name)
    path.unlink()
    with BroadcastWriter.create() as writer:
        path.symlink_to(f"{SHM}{writer.name}")
        with pytest.raises(LayoutError, match="not a plain file"):
            BroadcastReader.attach(name)


@pytest.fixture
def image():
    """The bytes of a healthy segment."""
    with BroadcastWriter.create(capacity=4096, max_readers=1) as writer:
        return bytearray(Path(f"{SHM}{writer.name}").read_bytes())


@pytest.mark.parametrize(
    ("offset", "says"),
    [(0, "magic"), (8, "version"), (24, "capacity"), (33, "max_readers"), (56, "data_offset")],
)
def test_damaged_header(path, image, offset, says):
    image[offset] ^= 0x5A
    path.write_bytes(image)
    with pytest.raises(LayoutError, match=rf"{path} is no healthy segment: .*{says}"):
        BroadcastReader.attach(name_of(path))


def test_truncated_segment(path, image):
    path.write_bytes(image[: len(image) - 64])
    with pytest.raises(LayoutError, match="total_bytes"):
        BroadcastReader.attach(name_of(path))


def test_healthy_segment_without_a_writer(path, image):
    path.write_bytes(image)
    with pytest.raises(aiospin.BrokenResourceError, match="writer"):
        BroadcastReader.attach(name_of(path))


def test_mode_of_the_file():
    with BroadcastWriter.create() as writer:
        found = os.stat(f"{SHM}{writer.name}")
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert found.st_uid == os.geteuid()
    with BroadcastWriter.create(mode=0o666) as writer:
        assert stat.S_IMODE(os.stat(f"{SHM}{writer.name}").st_mode) == 0o666


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_segment_of_somebody_else():
    with BroadcastWriter.create() as writer:
        path = f"{SHM}{writer.name}"
        os.chown(path, 12345, -1)
        with pytest.raises(PermissionError, match="another user"):
            BroadcastReader.attach(writer.name)
        os.chmod(path, 0o666)  # now they share it
        BroadcastReader.attach(writer.name).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_segment_that_this_user_may_not_open():
    with BroadcastWriter.create() as writer:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setuid(12345)
                BroadcastReader.attach(writer.name)
            except PermissionError:
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


def test_too_many_readers():
    writer, readers = pair(max_readers=2, readers=2)
    with writer, readers[0], readers[1]:
        with pytest.raises(aiospin.AiospinError, match=r"all 2 reader slots .* max_readers"):
            BroadcastReader.attach(writer.handle)
        readers[0].close()
        with BroadcastReader.attach(writer.handle) as third:
            writer.send_nowait(b"x")
            assert third.receive_nowait() == readers[1].receive_nowait() == b"x"


@pytest.mark.parametrize(
    ("asked", "given"),
    [(1, 4096), (4096, 4096), (4097, 8192), (1 << 20, 1 << 20), (3 << 20, 4 << 20)],
)
def test_capacity_is_rounded_up_to_a_power_of_two(asked, given):
    with BroadcastWriter.create(capacity=asked) as writer:
        assert writer.capacity == writer.statistics().capacity == given
        assert writer.max_message == given // 2


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 0},
        {"capacity": -1},
        {"capacity": 1 << 47},
        {"max_readers": 0},
        {"max_readers": 1025},
        {"overflow": "explode"},
        {"mode": -1},
        {"mode": 0o1777},
    ],
)
def test_bad_sizes(options):
    before = segments()
    with pytest.raises(ValueError, match=next(iter(options))):
        BroadcastWriter.create(**options)
    assert segments() == before


def test_a_bad_mode_is_told_as_it_was_written():
    with pytest.raises(ValueError, match="mode must be from 0o0 to 0o777, not 0o1777"):
        BroadcastWriter.create(mode=0o1777)


@pytest.mark.parametrize(
    "options", [{"capacity": 1.5}, {"capacity": "1"}, {"max_readers": True}, {"policy": "latency"}]
)
def test_bad_types(options):
    before = segments()
    with pytest.raises(TypeError, match=next(iter(options))):
        BroadcastWriter.create(**options)
    assert segments() == before


def test_not_enough_shared_memory(monkeypatch):
    def full(fd, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = segments()
    with pytest.raises(OSError, match=r"not enough shared memory.* needs \d+ .* \d+ are free") as e:
        BroadcastWriter.create(capacity=1 << 20)
    assert e.value.errno == errno.ENOSPC
    assert segments() == before


def test_more_than_all_shared_memory():
    free = os.statvfs("/dev/shm")
    too_much = 2 * free.f_blocks * free.f_frsize
    if too_much > 1 << 46:
        pytest.skip("this machine's shared memory is not limited")
    before = segments()
    with pytest.raises(OSError, match="not enough shared memory"):
        BroadcastWriter.create(capacity=too_much)
    assert segments() == before


def test_constructors_say_what_to_use():
    with pytest.raises(TypeError, match="create"):
        BroadcastWriter()
    with pytest.raises(TypeError, match="attach"):
        BroadcastReader()


def test_ends_cannot_be_pickled():
    writer, [reader] = pair()
    with writer, reader:
        for end in (writer, reader):
            with pytest.raises(TypeError, match="handle"):
                pickle.dumps(end)


def test_repr():
    writer, [reader] = pair()
    assert repr(writer) == f"<aiospin.BroadcastWriter {writer.name!r}>"
    reader.close()
    writer.close()
    assert repr(reader) == f"<aiospin.BroadcastReader {writer.name!r} closed>"
