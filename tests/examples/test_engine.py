"""The engine in C and its client, built from the header alone, against readers and writers in Python."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from broadcast_support import Child
from support import COMPILED, PATIENCE, settled, until

import aiospin

ROOT = Path(__file__).parents[2]
INCLUDE = aiospin.get_include()
STRICT = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wpedantic", "-Werror"]

COMPILERS = {
    "gcc-c11": ["gcc", "-std=c11"],
    "clang-c11": ["clang", "-std=c11"],
    "g++-c++17": ["g++", "-x", "c++", "-std=c++17"],
    "clang++-c++17": ["clang++", "-x", "c++", "-std=c++17"],
}
BELL_PARKED = 3
LARGE_OF_4096 = 5000  # bytes; in a file of its own where the capacity is 4096


def compiler(kind: str) -> list[str]:
    command = COMPILERS[kind]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]} on this machine")
    return [*command, "-O2", *STRICT, "-I", INCLUDE]


def compile_(command: list[str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False
    )


class Programs:
    """The two examples, built."""

    def __init__(self, command: list[str], folder: Path) -> None:
        for name in ("engine", "engine_client"):
            done = compile_(command, ROOT / "examples" / f"{name}.c", "-o", folder / name)
            assert (done.returncode, done.stderr) == (0, "")
        self._folder = folder

    @contextmanager
    def engine(self, name: str, **options: object) -> Iterator[subprocess.Popen[str]]:
        """An engine that has created its broadcast."""
        words: list[str] = []
        for option, value in options.items():
            words.append("--" + option.replace("_", "-"))
            words += [] if value is True else [str(value)]
        with self._running("engine", name, *words, first=f"broadcasting as {name}") as process:
            yield process

    @contextmanager
    def client(self, name: str) -> Iterator[subprocess.Popen[str]]:
        """A client that has attached."""
        with self._running("engine_client", name, first="attached") as process:
            yield process

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return compile_([str(self._folder / program)], *arguments)

    @contextmanager
    def _running(
        self, program: str, *arguments: str, first: str
    ) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [self._folder / program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            assert line == first, process.communicate(timeout=PATIENCE)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


# One compiler and language suffices to run: the two differ in what they accept.
@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    found = next((kind for kind, command in COMPILERS.items() if shutil.which(command[0])), None)
    if found is None:
        pytest.skip("there is no C compiler on this machine")
    return Programs(compiler(found), tmp_path_factory.mktemp("engine"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name with this process's pid, which conftest.py looks for afterwards."""
    chosen = f"{os.getpid()}-engine"
    yield chosen
    for path in Path("/dev/shm").glob(f"aiospin-{chosen}*"):  # of an engine that was killed
        path.unlink()


def step(number: int, size: int) -> bytes:
    """The message of a step, as examples/engine.c makes it."""
    return number.to_bytes(8, "little") + bytes([number & 0xFF]) * (size - 8)


def ended(process: subprocess.Popen[str]) -> str:
    """What a program printed that ended well."""
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, ""), out
    return out


# ---- the header ----


def test_it_comes_with_the_package() -> None:
    text = (ROOT / "csrc" / "include" / "aiospin" / "broadcast.h").read_text()
    assert Path(INCLUDE, "aiospin", "broadcast.h").read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMPILERS)
def test_the_examples_compile_without_a_warning(kind: str, tmp_path: Path) -> None:
    Programs(compiler(kind), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMPILERS)
def test_it_is_included_twice_and_in_two_files(kind: str, tmp_path: Path) -> None:
    command = compiler(kind)
    include = "#include <aiospin/broadcast.h>\n"
    (tmp_path / "one.c").write_text(
        include * 2 + "const char *other(void);\n"
        "int main(void) { return other() == aiospin_strerror(AIOSPIN_OK); }\n"
    )
    (tmp_path / "two.c").write_text(
        include + "const char *other(void);\n"
        "const char *other(void) { return aiospin_strerror(AIOSPIN_END); }\n"
    )
    done = compile_(command, tmp_path / "one.c", tmp_path / "two.c", "-o", tmp_path / "program")
    assert (done.returncode, done.stderr) == (0, "")
    assert compile_([str(tmp_path / "program")]).returncode == 0


@pytest.mark.parametrize("kind", ["gcc-c11", "clang-c11"])
def test_it_says_what_it_needs(kind: str, tmp_path: Path) -> None:
    program = tmp_path / "program.c"
    program.write_text(
        "#include <stdio.h>\n#include <aiospin/broadcast.h>\nint main(void) { return 0; }\n"
    )
    command = compiler(kind)
    done = compile_(command, "-fsyntax-only", program)
    assert done.returncode != 0
    assert "compile with -std=gnu11, or include it before any other header" in done.stderr
    done = compile_([*command, "-std=gnu11"], "-fsyntax-only", program)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no cc on this machine")
def test_the_build_lines_in_the_examples_and_the_documentation_work(tmp_path: Path) -> None:
    lines = {
        line
        for path in (*(ROOT / "examples").glob("engine*.c"), ROOT / "docs" / "c.md")
        for line in re.findall(r"^[ *]*(cc .+)$", path.read_text(), re.MULTILINE)
    }
    assert len(lines) >= 3
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for line in lines:
        done = subprocess.run(
            re.sub(r" -o (\w+)$", rf" -o {tmp_path}/\1", line),
            shell=True,
            cwd=ROOT,
            # without a word about the source tree, which `python -c` imports here, and which need not be built
            env=os.environ | {"PATH": path, "AIOSPIN_NO_EXT": "1"},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), line
    assert {path.name for path in tmp_path.iterdir()} == {"engine", "engine_client"}


@pytest.mark.slow
def test_the_programs_in_the_documentation_work(name: str, tmp_path: Path) -> None:
    found = next((kind for kind, command in COMPILERS.items() if shutil.which(command[0])), None)
    if found is None:
        pytest.skip("there is no C compiler on this machine")
    sources = re.findall(
        r"^```c\n(.*?)^```$", (ROOT / "docs" / "c.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for program, source in zip(("sends", "receives"), sources, strict=True):
        (tmp_path / "program.c").write_text(source.replace('"engine"', f'"{name}"'))
        done = compile_(compiler(found), tmp_path / "program.c", "-o", tmp_path / program)
        assert (done.returncode, done.stderr) == (0, "")
    with subprocess.Popen([tmp_path / "sends"]) as sender:
        until(Path(f"/dev/shm/aiospin-{name}").exists)
        done = compile_([str(tmp_path / "receives")])
        assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    assert sender.returncode == 0


# ---- an engine in C, readers in Python ----

SHAPES: dict[str, dict[str, Any]] = {
    "one at a time": {"steps": 5000, "size": 64},
    "batches": {"steps": 20000, "size": 40, "batch": 100},
    "large": {"steps": 200, "size": LARGE_OF_4096, "capacity": 4096},
    "large batches": {"steps": 200, "size": LARGE_OF_4096, "capacity": 4096, "batch": 10},
}


async def receive_all(reader: aiospin.BroadcastReader, size: int, many: bool) -> tuple[int, int]:
    """How many messages came and how many were lost; each was whole and in its place."""
    expected = lost = 0
    async with reader:
        while True:
            try:
                messages = await reader.receive_many() if many else [await reader.receive()]
            except aiospin.LaggedError as lagged:
                lost += lagged.skipped
                expected += lagged.skipped
                continue
            except aiospin.EndOfStream:
                return expected - lost, lost
            for message in messages:
                assert message == step(expected, size)
                expected += 1


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
@pytest.mark.parametrize("shape", SHAPES)
def test_readers_in_asyncio(
    programs: Programs, name: str, run_asyncio: Any, shape: str, overflow: str
) -> None:
    options = SHAPES[shape] | ({"drop_oldest": True} if overflow == "drop_oldest" else {})

    async def main() -> list[tuple[int, int]]:
        results: list[tuple[int, int]] = []

        async def read(many: bool) -> None:
            reader = aiospin.BroadcastReader.attach(name)
            results.append(await receive_all(reader, options["size"], many))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read, False)
            tasks.start_soon(read, True)
        return results

    with programs.engine(name, readers=2, **options) as engine:
        results = run_asyncio(main)
        assert f"{options['steps']} steps" in ended(engine)
    for came, lost in results:
        assert came + lost == options["steps"]
        assert lost == 0 or overflow == "drop_oldest"
    assert not list(Path("/dev/shm").glob(f"aiospin-{name}*"))


@pytest.mark.parametrize("size", [64, LARGE_OF_4096])
def test_a_reader_that_sleeps_through_it_all_learns_how_much_it_lost(
    programs: Programs, name: str, size: int
) -> None:
    with programs.engine(name, drop_oldest=True, capacity=4096, steps=1000, size=size) as engine:
        reader = aiospin.BroadcastReader.attach(name)
        ended(engine)
        with pytest.raises(aiospin.LaggedError) as caught:
            reader.receive_sync()
        skipped = caught.value.skipped
        assert 1000 - 4096 // 64 <= skipped < 1000
        assert list(reader.iter_sync()) == [step(n, size) for n in range(skipped, 1000)]
        reader.close()
    assert not list(Path("/dev/shm").glob(f"aiospin-{name}*"))


@pytest.mark.skipif(not COMPILED, reason="the stand-in parks in its waiter thread")
def test_the_engine_rings_the_doorbell(programs: Programs, name: str, run_asyncio: Any) -> None:
    def bell() -> int:
        with Path(f"/dev/shm/aiospin-{name}").open("rb") as segment:
            segment.seek(48)  # readers_offset
            segment.seek(int.from_bytes(segment.read(8), sys.byteorder) + 24)
            return int.from_bytes(segment.read(4), sys.byteorder)

    async def main() -> None:
        policy = aiospin.WaitPolicy(mode="park")
        async with aiospin.BroadcastReader.attach(name, policy=policy) as reader:
            assert await reader.receive() == step(0, 64)
            parked = 0
            for number in range(1, 20):
                async with anyio.create_task_group() as tasks:

                    async def receive(number: int = number) -> None:
                        assert await reader.receive(PATIENCE) == step(number, 64)

                    tasks.start_soon(receive)
                    await anyio.lowlevel.checkpoint()
                    await anyio.lowlevel.checkpoint()
                    parked += bell() == BELL_PARKED
            # All but the first wait or two, before the engine had opened it; but a machine that is busy
            # may come late to some.
            assert parked > 5

    with programs.engine(name, steps=20, interval_us=20_000) as engine:
        run_asyncio(main)
        ended(engine)


@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
@pytest.mark.parametrize("size", [64, LARGE_OF_4096])
def test_an_engine_that_is_killed(
    programs: Programs, name: str, run_asyncio: Any, size: int, overflow: str
) -> None:
    options = {"drop_oldest": True} if overflow == "drop_oldest" else {}
    count = 20 if size == 64 else 3  # which 4096 bytes of capacity have room for

    async def main(engine: subprocess.Popen[str]) -> None:
        with aiospin.BroadcastReader.attach(name) as reader:
            # It has published all that it will before a very long pause.
            await settled(lambda: reader.lag == count)
            engine.kill()
            engine.wait(PATIENCE)
            for number in range(count):
                assert await reader.receive(PATIENCE) == step(number, size)
            before = time.monotonic()
            with pytest.raises(aiospin.BrokenResourceError):
                await reader.receive(PATIENCE)
            assert time.monotonic() - before < PATIENCE / 10

    with programs.engine(
        name, steps=1000, batch=count, size=size, capacity=4096, interval_us=60_000_000, **options
    ) as engine:
        run_asyncio(main, engine)
    # The next one takes the name over, and leaves nothing of the dead one.
    with programs.engine(name, steps=1, size=size, capacity=4096) as engine:
        with aiospin.BroadcastReader.attach(name) as reader:
            assert list(reader.iter_sync()) == [step(0, size)]
        ended(engine)
    assert not list(Path("/dev/shm").glob(f"aiospin-{name}*"))


READ_NOTHING = """
reader = BroadcastReader.attach(sys.argv[1])
tell("attached")
told()
"""


def test_a_stopped_reader_holds_the_engine_up_and_a_dead_one_does_not(
    programs: Programs, name: str
) -> None:
    with (
        programs.engine(name, readers=2, steps=1000, capacity=4096) as engine,
        Child(READ_NOTHING, name) as child,
        aiospin.BroadcastReader.attach(name) as reader,
    ):
        child.expect("attached")
        child.stop()
        for came in range(4096 // 128):  # a record of 64 bytes needs two units of 64
            assert reader.receive_sync(PATIENCE) == step(came, 64)
        with pytest.raises(TimeoutError):
            reader.receive_sync(0.2)
        child.kill()
        for number in range(came + 1, 1000):
            assert reader.receive_sync(PATIENCE) == step(number, 64)
        ended(engine)


def test_an_engine_does_not_take_a_living_name(programs: Programs, name: str) -> None:
    with aiospin.BroadcastWriter.create(name) as writer:
        done = programs.run("engine", name)
        assert done.returncode == 1
        assert f"a living broadcast has the name {name}" in done.stderr
        with aiospin.BroadcastReader.attach(writer.handle) as reader:
            writer.send_nowait(b"undisturbed")
            assert reader.receive_nowait() == b"undisturbed"


# ---- a writer in Python, a client in C ----


def messages_of(shape: str) -> list[bytes]:
    sizes = {
        "small": [n % 100 for n in range(3000)],
        "large": [LARGE_OF_4096 + n for n in range(100)],
        "mixed": [n * n % (2 * LARGE_OF_4096) for n in range(300)],
    }[shape]
    return [bytes([n & 0xFF]) * size for n, size in enumerate(sizes)]


def totals(messages: list[bytes], lost: int = 0) -> str:
    nbytes, checksum = sum(map(len, messages)), sum(map(sum, messages))
    return f"{len(messages)} messages, {nbytes} bytes, {lost} lost, checksum {checksum}\n"


@pytest.mark.parametrize("shape", ["small", "large", "mixed"])
def test_a_client_in_c(programs: Programs, name: str, run_asyncio: Any, shape: str) -> None:
    messages = messages_of(shape)

    async def main() -> str:
        async with aiospin.BroadcastWriter.create(name, capacity=4096) as writer:
            with programs.client(name) as client:
                for message in messages:
                    await writer.send(message)
                writer.close()
                return await anyio.to_thread.run_sync(ended, client)

    assert run_asyncio(main) == totals(messages)
    assert not list(Path("/dev/shm").glob(f"aiospin-{name}*"))


@pytest.mark.parametrize("shape", ["small", "large", "mixed"])
def test_a_client_in_c_that_may_lose_messages(programs: Programs, name: str, shape: str) -> None:
    messages = messages_of(shape)
    with (
        aiospin.BroadcastWriter.create(name, capacity=4096, overflow="drop_oldest") as writer,
        programs.client(name) as client,
    ):
        for message in messages:
            writer.send_sync(message)
        writer.close()
        counts = list(map(int, re.findall(r"\d+", ended(client))))
        assert counts[0] + counts[2] == len(messages)
        assert counts[1] <= sum(map(len, messages))


def test_a_stopped_client_in_c_learns_how_much_it_lost(programs: Programs, name: str) -> None:
    messages = messages_of("mixed")
    with (
        aiospin.BroadcastWriter.create(name, capacity=4096, overflow="drop_oldest") as writer,
        programs.client(name) as client,
        aiospin.BroadcastReader.attach(name) as reader,
    ):
        client.send_signal(signal.SIGSTOP)
        os.waitpid(client.pid, os.WUNTRACED)
        for message in messages:
            writer.send_sync(message)
        client.send_signal(signal.SIGCONT)
        with pytest.raises(aiospin.LaggedError) as caught:
            reader.receive_sync(PATIENCE)
        writer.close()
        lost = caught.value.skipped
        assert ended(client) == totals(messages[lost:], lost)


WRITE_AND_HANG = """
writer = BroadcastWriter.create(sys.argv[1], capacity=4096)
tell("created")
told()
for size in (10, 5000, 20):
    writer.send_sync(bytes([1]) * size)
tell("sent")
told()
"""


def test_a_client_in_c_outlives_its_writer(programs: Programs, name: str) -> None:
    with Child(WRITE_AND_HANG, name) as child:
        child.expect("created")
        with programs.client(name) as client:
            child.tell()
            child.expect("sent")
            child.kill()
            out, err = client.communicate(timeout=PATIENCE)
    assert (client.returncode, out) == (3, totals([bytes([1]) * size for size in (10, 5000, 20)]))
    assert "the writer died" in err


def test_a_client_in_c_says_what_is_wrong(programs: Programs, name: str) -> None:
    done = programs.run("engine_client", name)
    assert done.returncode == 1
    assert "has the writer created it" in done.stderr
    done = programs.run("engine_client", "../etc/passwd")
    assert done.returncode == 1
    assert "the name must be" in done.stderr
    path = Path(f"/dev/shm/aiospin-{name}")
    path.write_bytes(bytes(4096))
    path.chmod(0o600)
    done = programs.run("engine_client", name)
    assert done.returncode == 1
    assert "magic is 0" in done.stderr
