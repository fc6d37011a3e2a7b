"""The Python side of engine.c: takes every step of an engine written in C.

python examples/engine_reader.py NAME
"""

from __future__ import annotations

import asyncio
import sys

import aiospin


async def main(name: str) -> None:
    steps = lost = 0
    try:
        async with aiospin.BroadcastReader.attach(name) as reader:
            while True:
                try:
                    messages = await reader.receive_many()
                except aiospin.LaggedError as lagged:
                    lost += lagged.skipped
                    continue
                for message in messages:
                    number = int.from_bytes(message[:8], "little")
                    assert number == steps + lost, f"step {number} came after {steps + lost - 1}"
                    steps += 1
    except aiospin.EndOfStream:
        print(f"{steps} steps, {lost} lost; the engine is done")
    except aiospin.BrokenResourceError:
        print(f"{steps} steps, {lost} lost; the engine died")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: engine_reader.py NAME")
    asyncio.run(main(sys.argv[1]))
