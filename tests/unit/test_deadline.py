"""Timeouts, the same for every wait: what is refused, what it means, and when it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import aiospin

NEVER = aiospin.eq(1, dtype="I")
READY = aiospin.eq(0, dtype="I")


def _sync(timeout: Any, predicate: Any) -> Any:
    return aiospin.wait_for_flag_sync(bytearray(4), predicate, timeout)


def _await(timeout: Any, predicate: Any) -> Any:
    return asyncio.run(aiospin.wait_for_flag(bytearray(4), predicate, timeout))


def _flag(timeout: Any, predicate: Any) -> Any:
    return asyncio.run(aiospin.Flag(bytearray(4), dtype="I").wait(predicate, timeout))


def _flag_sync(timeout: Any, predicate: Any) -> Any:
    return aiospin.Flag(bytearray(4), dtype="I").wait_sync(predicate, timeout)


@pytest.fixture(params=[_sync, _await, _flag, _flag_sync], ids=lambda wait: wait.__name__)
def wait(request: pytest.FixtureRequest) -> Callable[[Any, Any], Any]:
    found: Callable[[Any, Any], Any] = request.param
    return found


@pytest.mark.parametrize("timeout", [-1, -0.001, float("-inf"), Fraction(-1, 2)])
def test_negative(wait: Callable[[Any, Any], Any], timeout: Any) -> None:
    for predicate in (NEVER, READY):
        with pytest.raises(
            ValueError, match=r"timeout must be at least 0 seconds.*None waits for ever"
        ):
            wait(timeout, predicate)


@pytest.mark.parametrize("timeout", [float("nan"), np.float64("nan"), Decimal("nan")])
def test_nan(wait: Callable[[Any, Any], Any], timeout: Any) -> None:
    with pytest.raises(ValueError, match="not NaN"):
        wait(timeout, READY)


@pytest.mark.parametrize("timeout", [True, False, "1", b"1", [1], object()])
def test_no_number(wait: Callable[[Any, Any], Any], timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
        wait(timeout, READY)


@pytest.mark.parametrize("timeout", [None, 0, 0.0, -0.0, 1, 1e-9, 1e12, float("inf"), Decimal(1)])
def test_ready_whatever_the_timeout(wait: Callable[[Any, Any], Any], timeout: Any) -> None:
    assert wait(timeout, READY) == 0


@pytest.mark.parametrize("timeout", [0, 0.0, 1e-9, 0.01, np.float32(0.01), Fraction(1, 100)])
def test_it_passes(wait: Callable[[Any, Any], Any], timeout: Any) -> None:
    before = aiospin.statistics()
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match=r"eq.1, dtype=uint32.*did not become true"):
        wait(timeout, NEVER)
    assert time.monotonic() - begin >= float(timeout)
    after = aiospin.statistics()
    assert after.waits == before.waits + 1
    assert after.timed_out == before.timed_out + 1


def test_the_error_says_how_long() -> None:
    with pytest.raises(TimeoutError, match=r"within 0\.002 s"):
        _sync(0.002, NEVER)
    with pytest.raises(TimeoutError, match="just now"):
        _sync(0, NEVER)
