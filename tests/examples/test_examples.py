"""Every example, started by the lines at its head; and what asyncio_server.py claims about slow clients."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import aiospin

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS_MORE = "NAME"  # a line with this stands for what the reader has to put there


def lines_at_the_head(path: Path) -> list[str]:
    head = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = [line.strip() for line in head.splitlines() if line.strip().startswith("python ")]
    return [line.partition("  ")[0] for line in lines]


def commands() -> list[str]:
    return [line for path in EXAMPLES for line in lines_at_the_head(path) if NEEDS_MORE not in line]


def test_every_example_says_how_to_run_it() -> None:
    assert EXAMPLES
    for path in EXAMPLES:
        assert any(f"examples/{path.name}" in line for line in lines_at_the_head(path)), path.name


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_it_runs(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *shlex.split(command)[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert done.stdout


@pytest.fixture
def server_example() -> ModuleType:
    path = ROOT / "examples" / "asyncio_server.py"
    spec = importlib.util.spec_from_file_location("asyncio_server_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_slow_client_is_dropped_and_holds_nobody_up(
    server_example: ModuleType, run_asyncio: Any
) -> None:
    message = bytes(64 * 1024)
    count = 1000  # 64 MiB: more than a connection over loopback takes in unread

    async def main() -> None:
        with aiospin.BroadcastWriter.create() as writer:
            async with aiospin.BroadcastReader.attach(writer.handle) as reader:
                server = server_example.Server(reader, backlog=8)
                listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
                async with listening:
                    port = listening.sockets[0].getsockname()[1]
                    relay = asyncio.create_task(server.relay())
                    slow, slow_writer = await asyncio.open_connection("127.0.0.1", port)
                    quick, quick_writer = await asyncio.open_connection("127.0.0.1", port)
                    await server.wait_for_clients(2)
                    digest = hashlib.sha256()
                    for _ in range(count):
                        await writer.send(message)
                        assert int.from_bytes(await quick.readexactly(4), "big") == len(message)
                        digest.update(await quick.readexactly(len(message)))
                    writer.close()
                    assert await quick.read() == b""
                    await relay
                    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                        await slow.readexactly(count * (4 + len(message)))
                    for stream in (slow_writer, quick_writer):
                        stream.close()
                        try:
                            await stream.wait_closed()
                        except ConnectionError:
                            pass
                assert digest.digest() == hashlib.sha256(message * count).digest()

    run_asyncio(main)
