"""Arrival processes are what they are said to be."""

from __future__ import annotations

import random
import statistics

import pytest

from aiospin._cli.bench import arrivals
from aiospin._cli.bench.arrivals import EVERY, WARM_UP, Due, read_trace, recorded


def gaps(name: str, seconds: float, seed: int = 1) -> list[float]:
    """Those that are counted."""
    return [due.gap for due in arrivals.arrivals(name)(random.Random(seed), seconds)[WARM_UP:]]


@pytest.mark.parametrize("name", EVERY)
def test_it_fills_the_seconds_and_depends_on_nothing_but_the_seed(name: str) -> None:
    found = gaps(name, 5)
    assert sum(found) == pytest.approx(5, rel=0.15)
    assert found == gaps(name, 5)
    assert all(gap >= 0 for gap in found)
    is_random = "~" in name or name in {"poisson", "decode"}
    assert (found != gaps(name, 5, seed=2)) == is_random


@pytest.mark.parametrize("name", EVERY)
def test_however_short_the_time_something_is_counted(name: str) -> None:
    assert len(gaps(name, 1e-6)) >= 1


def test_a_steady_stream_is_steady() -> None:
    assert gaps("0.1ms", 0.01) == [0.0001] * 100


@pytest.mark.parametrize("percent", [1, 5, 20, 100])
def test_jitter_is_uniform_up_to_what_was_said(percent: int) -> None:
    found = gaps(f"7ms~{percent}%", 70)
    share = percent / 100
    assert 0.007 * (1 - share) <= min(found) < 0.007 * (1 - 0.99 * share)
    assert 0.007 * (1 + 0.99 * share) < max(found) <= 0.007 * (1 + share)
    assert statistics.fmean(found) == pytest.approx(0.007, rel=0.02)
    # the standard deviation of a uniform distribution is its width by the root of 12
    assert statistics.pstdev(found) == pytest.approx(2 * share * 0.007 / 12**0.5, rel=0.05)


def test_poisson_gaps_are_exponential() -> None:
    found = gaps("poisson", 140)
    assert len(found) == 20_000
    assert statistics.fmean(found) == pytest.approx(0.007, rel=0.03)
    assert statistics.pstdev(found) == pytest.approx(0.007, rel=0.05)
    longer = sum(gap > 0.014 for gap in found) / len(found)
    assert longer == pytest.approx(2.718281828**-2, rel=0.1)


def test_bursts_are_ten_messages_and_a_pause() -> None:
    found = arrivals.bursts(random.Random(1), 0.1)
    burst = [Due(0.041, "first"), *[Due(0.001, "inside")] * 9]
    assert [due.group for due in found] == [due.group for due in burst] * 7
    assert [due.gap for due in found] == pytest.approx([due.gap for due in burst] * 7)


def test_decoding_is_steps_that_grow_and_a_prefill_before_each_answer() -> None:
    found = gaps("decode", 1000)
    prefills = [gap for gap in found if gap >= arrivals.PREFILL[0]]
    steps = [gap for gap in found if gap < arrivals.PREFILL[0]]
    assert len(steps) / len(prefills) == pytest.approx(arrivals.ANSWER, rel=0.2)
    assert max(prefills) <= arrivals.PREFILL[1]
    assert min(steps) > 0.9 * arrivals.STEP_FIRST
    assert max(steps) < 1.1 * arrivals.STEP_LAST
    begins = [number + 1 for number, gap in enumerate(found) if gap >= arrivals.PREFILL[0]]
    first_steps = [found[number] for number in begins[:-1] if found[number] < arrivals.PREFILL[0]]
    assert statistics.fmean(first_steps) == pytest.approx(arrivals.STEP_FIRST, rel=0.02)


def test_silences_come_after_a_warm_up() -> None:
    found = arrivals.silence(random.Random(1), 10)
    assert [due.gap for due in found] == [0.001] * WARM_UP + [5.0, 5.0]


def test_a_trace_is_played_from_its_beginning_again_and_again() -> None:
    trace = [0.25, 0.5, 1.0]
    found = [due.gap for due in recorded(trace)(random.Random(1), 4.0)]
    assert found[:WARM_UP] == (trace * WARM_UP)[:WARM_UP]
    assert found[WARM_UP:] == [1.0, 0.25, 0.5, 1.0, 0.25, 0.5]


def test_a_trace_is_a_gap_per_line() -> None:
    assert read_trace("# mine\n0.007\n\n 8e-3  # slow\n0\n") == [0.007, 0.008, 0.0]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0.1\nsoon\n", "line 2 must be a gap in seconds, from 0 to 3600, not 'soon'"),
        ("-1\n", "line 1 must be"),
        ("nan\n", "line 1 must be"),
        ("3601\n", "line 1 must be"),
        ("# nothing\n", "there is no gap in it"),
        ("0\n0\n", "its gaps are shorter than 1 µs on average; are they seconds?"),
    ],
)
def test_what_is_no_trace_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_trace(text)


@pytest.mark.parametrize("name", ["", "soon", "7", "7s", "0ms", "7ms~101%", "7ms~", "99999999ms"])
def test_what_is_no_traffic_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"traffic|period"):
        arrivals.arrivals(name)
