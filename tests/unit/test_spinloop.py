"""spinloop: the call of vLLM's extension, which it can stand in for."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
import types
from typing import Any

import pytest
from support import running, until

import aiospin
from aiospin import spinloop


class Calls:
    """A callback that counts its calls, and answers when its word is set."""

    def __init__(self, word: bytearray) -> None:
        self.word = word
        self.count = 0

    def __call__(self) -> bool:
        self.count += 1
        return self.word[0] == 1


def test_the_signature() -> None:
    assert list(inspect.signature(spinloop).parameters) == ["buffer", "callback", "timeout"]
    word = bytearray(8)
    assert spinloop(buffer=memoryview(word), callback=lambda: True, timeout=1.0) is True
    assert spinloop(word, lambda: True) is True


def test_it_stands_in_for_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the program that imports it would use it."""
    stand_in = types.ModuleType("vllm.spinloop")
    stand_in.spinloop = spinloop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm.spinloop", stand_in)
    namespace: dict[str, Any] = {"word": bytearray(1)}
    exec(
        "from vllm.spinloop import spinloop\nseen = spinloop(word, lambda: word[0] == 0, 5.0)",
        namespace,
    )
    assert namespace["seen"] is True


def test_timeout() -> None:
    begin = time.monotonic()
    assert spinloop(bytearray(8), lambda: False, timeout=0.01) is False
    assert time.monotonic() - begin >= 0.01


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5])
def test_no_timeout(timeout: float) -> None:
    word = bytearray(8)
    calls = Calls(word)
    with running(lambda: spinloop(word, calls, timeout)) as outcome:
        until(lambda: calls.count >= 2)  # it went on after the first no, by the 50 ms
        assert outcome.thread.is_alive()
        word[0] = 1
    assert outcome.value is True


def test_it_calls_after_a_change() -> None:
    word = bytearray(8)
    calls = Calls(word)
    with running(lambda: spinloop(word, calls, 20.0)) as outcome:
        until(lambda: calls.count)
        word[7] = 1
        word[0] = 1
    assert outcome.value is True


def test_only_true_results_end_it() -> None:
    results = iter([False, None, 0, "", "yes"])
    assert spinloop(bytearray(1), lambda: next(results), 20.0) is True
    assert list(results) == []


def test_a_callback_that_raises() -> None:
    def callback() -> bool:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        spinloop(bytearray(1), callback, 1.0)

    turns = iter([False])
    with pytest.raises(StopIteration):
        spinloop(bytearray(1), lambda: next(turns), 20.0)


def test_errors() -> None:
    with pytest.raises(TypeError, match="callback must be callable"):
        spinloop(bytearray(1), True)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        spinloop(None, lambda: True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="NaN"):
        spinloop(bytearray(1), lambda: True, float("nan"))
    for wrong in (None, "1", b"1", [1.0]):
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            spinloop(bytearray(1), lambda: True, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        spinloop(bytearray(1), lambda buffer: True, 0.5)


def test_the_buffer_is_free_afterwards() -> None:
    word = bytearray(8)
    spinloop(word, lambda: True)
    spinloop(word, lambda: False, 0.001)
    word.clear()
    assert aiospin.statistics().pinned_buffers == 0


def test_it_warns_on_the_thread_of_a_loop() -> None:
    async def main() -> None:
        word = bytearray(8)
        assert spinloop(word, lambda: True) is True, "it does not block"
        with pytest.warns(RuntimeWarning, match=r"spinloop\(\) blocks the event loop") as caught:
            assert spinloop(word, lambda: False, 0.001) is False
        assert caught[0].filename == __file__

    asyncio.run(main())
