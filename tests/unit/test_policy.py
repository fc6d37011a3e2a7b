"""WaitPolicy: what it accepts, its presets, and the process's default."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import pytest
from support import clean, interpreter

import aiospin
from aiospin import WaitPolicy


def test_the_default_is_balanced() -> None:
    assert WaitPolicy() == WaitPolicy.balanced()
    assert WaitPolicy().mode == "adaptive"


def test_presets() -> None:
    latency, powersave = WaitPolicy.latency(), WaitPolicy.powersave()
    assert latency.max_spin > WaitPolicy().max_spin > powersave.max_spin == 0
    assert latency.max_sleep < WaitPolicy().max_sleep < powersave.max_sleep
    assert powersave.mode == "park"


def test_frozen_and_a_value() -> None:
    policy = WaitPolicy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.max_spin = 1.0  # type: ignore[misc]
    assert dataclasses.replace(policy, max_spin=1.0).max_spin == 1.0
    assert len({policy, WaitPolicy(), WaitPolicy.latency()}) == 2
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert repr(policy).startswith("WaitPolicy(mode='adaptive', max_spin=")


@pytest.mark.parametrize("mode", ["adaptive", "thread", "loop", "park"])
def test_modes(mode: Any) -> None:
    assert WaitPolicy(mode=mode).mode == mode


@pytest.mark.parametrize("mode", ["", "spin", None, 1, "Park"])
def test_an_unknown_mode(mode: Any) -> None:
    with pytest.raises(ValueError, match="mode must be one of adaptive, thread, loop, park, not"):
        WaitPolicy(mode=mode)


@pytest.mark.parametrize("name", ["max_spin", "max_sleep"])
def test_bad_seconds(name: str) -> None:
    for seconds in (-1.0, -1e-12, float("nan"), float("inf"), 3601):
        with pytest.raises(ValueError, match=f"{name} must be from .* to 3600 seconds"):
            WaitPolicy(**{name: seconds})  # type: ignore[arg-type]
    for wrong in ("1", None, True, [1.0]):
        with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
            WaitPolicy(**{name: wrong})  # type: ignore[arg-type]


def test_a_sleep_of_nothing_would_be_a_spin() -> None:
    assert WaitPolicy(max_spin=0).max_spin == 0
    with pytest.raises(ValueError, match="max_sleep must be from 1e-06"):
        WaitPolicy(max_sleep=0)


@pytest.mark.parametrize("policy", ["latency", 1, {}, WaitPolicy])
def test_no_policy(policy: Any) -> None:
    with pytest.raises(TypeError, match="policy must be a WaitPolicy"):
        aiospin.wait_for_flag_sync(bytearray(1), aiospin.eq(0), policy=policy)


@pytest.mark.parametrize("name", ["latency", "balanced", "powersave", ""])
def test_the_policy_of_the_environment(name: str) -> None:
    source = "import aiospin; from aiospin._policy import DEFAULT; print(DEFAULT)"
    expected = getattr(WaitPolicy, name or "balanced")()
    assert clean(source, AIOSPIN_POLICY=name) == f"{expected}\n"


def test_an_unknown_policy_in_the_environment() -> None:
    done = interpreter("import aiospin", AIOSPIN_POLICY="fastest")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ValueError: AIOSPIN_POLICY must be one of latency, balanced, powersave, not 'fastest'"
    )


@pytest.mark.parametrize("name", ["predict", "hardware"])
@pytest.mark.parametrize("wrong", ["no", 1, None])
def test_bad_switches(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False, not {wrong!r}"):
        WaitPolicy(**{name: wrong})
