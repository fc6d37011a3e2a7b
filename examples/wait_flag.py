"""One process writes a word of shared memory, another awaits it.

python examples/wait_flag.py
"""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.shared_memory import SharedMemory

import aiospin


def words(memory: SharedMemory) -> tuple[aiospin.Flag, aiospin.Flag]:
    """What the two processes have in common: a question and an answer."""
    assert memory.buf is not None  # it is only after close()
    return (
        aiospin.Flag(memory.buf, dtype="int64", offset=0),
        aiospin.Flag(memory.buf, dtype="int64", offset=8),
    )


def writer(name: str) -> None:
    """The other process: answers with the double of what it is asked."""
    memory = SharedMemory(name)
    question, answer = words(memory)
    asked = question.wait_sync(aiospin.ne(0), timeout=10)
    answer.store(2 * asked)
    answer.notify()
    memory.close()


async def main() -> None:
    memory = SharedMemory(create=True, size=64)
    process = multiprocessing.get_context("spawn").Process(target=writer, args=(memory.name,))
    process.start()
    question, answer = words(memory)
    try:
        question.store(21)
        question.notify()
        print("the answer is", await answer.wait(aiospin.ne(0), timeout=10))
    finally:
        # Nothing refers to the memory any more when an await has ended, by whatever cause.
        memory.close()
        memory.unlink()
        process.join()


if __name__ == "__main__":
    asyncio.run(main())
