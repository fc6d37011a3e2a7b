"""The bench: what it makes of canned results, and a tiny run of it, end to end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from cli_support import Command, dies, fails

import aiospin
from aiospin.__main__ import main
from aiospin._cli.bench import arrivals, energy, machine, pacing, places, plot, recommend
from aiospin._cli.bench import scope as scopes
from aiospin._cli.bench.arrivals import WARM_UP, Due
from aiospin._cli.bench.candidates import CANDIDATES, LONGEST, SHORTEST, MovingAverage, learner
from aiospin._cli.bench.crew import Crew, CrewError
from aiospin._cli.bench.measure import ALL, Run, Taken, judge
from aiospin._cli.bench.numbers import Latency, spread
from aiospin._cli.bench.results import Part, Results, as_json, frontier, overall, points
from aiospin._cli.bench.scope import ScopeError, scope
from aiospin._cli.bench.table import table

if TYPE_CHECKING:
    pass

PART = Part("1ms", "asyncio", "unpinned")
OTHER = Part("50ms", "asyncio", "unpinned")


def run(us: float, cpu: float, gap_us: float = 1000.0, watts: float | None = None) -> Run:
    """A run with one latency."""
    return Run(gap_us / 1e6 * 100, {ALL: Latency(100, us, us, us, us, cpu)}, watts)


def canned() -> Results:
    return {
        PART: {
            "balanced": [run(10, 0.2), run(11, 0.3), run(12, 0.4)],
            "powersave": [run(25, 0.01)] * 3,
            "spin": [run(8, 1.0)] * 3,
            "fixed-2ms": [run(30, 0.9)] * 3,
        },
        OTHER: {
            "balanced": [run(40, 0.01, 50_000)] * 3,
            "powersave": [run(40, 0.001, 50_000)] * 3,
            "spin": [run(20, 1.0, 50_000)] * 3,
            "fixed-2ms": [run(50, 0.04, 50_000)] * 3,
        },
    }


# ---- what is compared ----


def test_policies_are_what_they_are_called() -> None:
    assert len({one.letter for one in CANDIDATES.values()}) == len(CANDIDATES)
    for one in CANDIDATES.values():
        if one.expression is not None:
            assert eval(one.expression, {"WaitPolicy": aiospin.WaitPolicy}).mode == one.policy.mode
    assert CANDIDATES["spin"].policy.spin_ns == 3600 * 10**9
    assert CANDIDATES["fixed-1s"].policy.spin_ns == 10**9
    assert CANDIDATES["fixed-2ms"].policy.spin_ns == 2_000_000
    assert not CANDIDATES["fixed-2ms"].policy.predict


def test_the_moving_average_is_the_formula() -> None:
    average = MovingAverage(CANDIDATES["average"].policy)
    assert average.grace == SHORTEST, "nothing is known"
    now = 10**9
    for _ in range(2):  # a gap of 1 ms: B^2/T is B/2, 0.25 ms
        policy = average.arrived(now)
        now += 1_000_000
    assert average.grace == pytest.approx(0.25e-3)
    assert policy.max_spin == pytest.approx(0.25e-3, abs=1e-6)
    average.arrived(now + 7_000_000)  # a gap of 8 ms: T becomes 1 + 7/8 ms
    assert average.grace == pytest.approx(0.25e-6 / 1.875e-3)


@pytest.mark.parametrize(
    ("gap_ns", "grace"), [(100_000, LONGEST), (10_000_000_000, SHORTEST), (5_000_000, 0.05e-3)]
)
def test_the_moving_average_has_limits(gap_ns: int, grace: float) -> None:
    average = MovingAverage(CANDIDATES["average"].policy)
    for number in range(100):
        policy = average.arrived(10**9 + number * gap_ns)
    assert policy.max_spin == pytest.approx(grace)
    assert not policy.predict


def test_only_the_moving_average_learns_outside_the_reader() -> None:
    assert [name for name, one in CANDIDATES.items() if learner(one)] == ["average"]


# ---- what is selected ----


def test_one_of_each_kind_is_the_default_and_all_is_everything() -> None:
    common, everything = scope(), scope(preset="all")
    assert set(common.traffic) < set(everything.traffic)
    assert len(everything.traffic) == 5 * 4 + 4
    assert common.policies == everything.policies == tuple(CANDIDATES)
    assert common.places == ("unpinned",)
    assert everything.total > 5 * common.total


def test_quick_is_quick() -> None:
    assert scope(preset="quick").total < 55


def test_a_trace_alone_is_measured_alone() -> None:
    assert list(scope(trace=[0.01]).traffic) == ["trace"]
    assert list(scope(traffic=["1ms"], trace=[0.01]).traffic) == ["1ms", "trace"]


def test_every_policy_gets_the_same_gaps_and_every_run_others() -> None:
    chosen = scope(traffic=["poisson"], seconds=1)
    part = Part("poisson", "asyncio", "unpinned")
    assert chosen.messages(part, 0) == chosen.messages(part, 0) != chosen.messages(part, 1)


def test_a_loop_that_is_missing_is_left_out_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    found = scope()
    assert "uvloop" not in found.loops
    assert {"asyncio", "blocking"} <= set(found.loops)
    assert any(line.startswith("uvloop is left out: ") for line in found.left_out)
    assert scope(preset="quick").loops == ("asyncio",)
    with pytest.raises(ScopeError, match=r"uvloop cannot be measured: .*pip install uvloop"):
        scope(loops=["uvloop"])


def test_different_cores_need_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert scopes.scope(preset="all").places == ("unpinned", "same")
    with pytest.raises(ScopeError, match="needs two CPUs"):
        scope(places=["different"])
    assert places.cpus_of("same") == ({3}, {3})


def test_different_cores_are_no_threads_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(places, "threads_of_core", lambda cpu: {0, 1} if cpu < 2 else {2, 3})
    assert places.cpus_of("different") == ({0}, {2})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert places.cpus_of("different") == ({0}, {1}), "there is no other core"
    assert places.cpus_of("unpinned") == ({0, 1}, {0, 1})


def test_cpus_are_read_as_the_kernel_writes_them() -> None:
    assert places.parse_cpus("0-2,8\n") == {0, 1, 2, 8}


# ---- one run ----


def test_a_late_message_moves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        clock[0] += seconds

    monkeypatch.setattr(
        pacing, "time", type("Time", (), {"monotonic": lambda: clock[0], "sleep": sleep})
    )
    for number in pacing.paced([Due(1.0)] * 4):
        clock[0] += 2.5 if number == 1 else 0.25  # what sending takes
    assert slept == [1.0, 0.75, 0.75]


def test_percentiles_are_of_what_was_taken() -> None:
    found = Latency.of([1000 * number for number in range(1, 1001)], 0.5)
    assert (found.messages, found.p50_us, found.p99_us, found.p999_us) == (1000, 501, 991, 1000)
    assert found.mean_us == pytest.approx(sum(range(1, 991)) / 990)
    assert Latency.of([7000], 0.5) == Latency(1, 7, 7, 7, 7, 0.5)


def test_groups_are_judged_apart_and_the_warm_up_is_not() -> None:
    messages = [Due(1.0, "first")] * WARM_UP + [Due(1.0, "first"), Due(1.0, "inside")]
    found = judge(messages, Taken([10**9] * WARM_UP + [5000, 3000], 2.0, 0.5, 60.0))
    assert {group: one.p50_us for group, one in found.latency.items()} == {
        ALL: 5.0,
        "first": 5.0,
        "inside": 3.0,
    }
    assert found.latency[ALL].cpu == 0.25
    assert (found.gap_us, found.watts) == (1e6, 60.0)


@pytest.mark.parametrize(
    ("function", "why"),
    [(fails, "ValueError: on purpose"), (dies, "dies process ended by SIGKILL")],
)
def test_a_process_that_fails_ends_the_measurement(function: object, why: str) -> None:
    with pytest.raises(CrewError, match=why), Crew() as crew:
        crew.hear(crew.start(function))  # type: ignore[arg-type]


# ---- energy ----


def domain(folder: Path, path: str, name: str, uj: int) -> Path:
    found = folder / path
    found.mkdir(parents=True)
    found.joinpath("name").write_text(f"{name}\n")
    found.joinpath("max_energy_range_uj").write_text("999999\n")
    found.joinpath("energy_uj").write_text(f"{uj}\n")
    return found


def test_power_is_that_of_all_packages_also_when_a_counter_wraps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = domain(tmp_path, "intel-rapl:0", "package-0", 500_000)
    second = domain(tmp_path, "intel-rapl:1", "package-1", 900_000)
    domain(tmp_path, "intel-rapl:0:0", "core", 1)
    domain(tmp_path, "intel-rapl:2", "psys", 1)
    found, why = energy.packages(tmp_path)
    assert ([one.name for one in found], why) == (["package-0", "package-1"], "")
    now = 0
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    meter = energy.Wattmeter(found)
    now = 2 * 10**9
    first.joinpath("energy_uj").write_text("700000")
    second.joinpath("energy_uj").write_text("100000")
    assert meter.watts() == pytest.approx((0.2 + 0.2) / 2)


def test_energy_that_cannot_be_read_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert energy.packages(tmp_path / "none")[1].startswith(f"there is no {tmp_path}/none")
    assert energy.packages(tmp_path) == ([], f"{tmp_path} has no CPU package")
    path = domain(tmp_path, "intel-rapl:0", "package-0", 1) / "energy_uj"
    allowed = Path.read_text

    def refuse(self: Path, *arguments: str, **options: str) -> str:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return allowed(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert energy.packages(tmp_path) == ([], f"only root may read {path}")
    assert energy.Wattmeter([]).watts() is None


# ---- what is made of results ----


def test_the_frontier_is_what_nothing_beats_in_both() -> None:
    measured = points(canned()[PART])
    assert [one.policy for one in frontier(measured)] == ["powersave", "balanced", "spin"]


def test_several_parts_together_are_geometric_means_of_times() -> None:
    found = {one.policy: one for one in overall(canned())}
    assert found["balanced"].p50_us == pytest.approx((11 * 40) ** 0.5)
    assert found["balanced"].cpu == pytest.approx((0.3 + 0.01) / 2)
    partly = canned()
    del partly[OTHER]["spin"]
    assert "spin" not in {one.policy for one in overall(partly)}


def test_the_cheapest_policy_is_recommended_and_the_price_decides() -> None:
    one_part = {PART: canned()[PART]}
    # 50 x 11 + 300, 50 x 25 + 10, 50 x 8 + 1000
    found = recommend.recommend(one_part, 50)
    assert found is not None
    assert (found.policy, found.expression) == ("balanced", "WaitPolicy.balanced()")
    assert found.excess["powersave"] == pytest.approx(1260 / 850)
    assert found.sentence == (
        "Use WaitPolicy.balanced(): where a second of latency is worth 50 s of CPU, it is the cheapest; its median "
        "latency is 11.0 µs at 30.0% of a core, that of spin 8.0 µs at 100.0% and that of powersave 25.0 µs at 1.00%."
    )
    assert found.doubt == ""
    cheap, dear = recommend.recommend(one_part, 1), recommend.recommend(one_part, 1e6)
    assert cheap is not None
    assert dear is not None
    assert (cheap.policy, dear.policy) == ("powersave", "spin")
    assert dear.sentence.endswith(
        "its median latency is 8.0 µs at 100.0% of a core, that of powersave 25.0 µs at 1.00%."
    )


def test_a_tie_goes_to_the_default_and_baselines_are_never_recommended() -> None:
    tie = {PART: {"balanced": [run(10.4, 0)], "loop": [run(10, 0)], "fixed-1s": [run(1, 0)]}}
    found = recommend.recommend(tie, 50)
    assert found is not None
    assert found.policy == "balanced"
    tie[PART]["loop"] = [run(9, 0)]
    found = recommend.recommend(tie, 50)
    assert found is not None
    assert found.policy == "loop"
    assert recommend.recommend({PART: {"fixed-1s": [run(1, 0)]}}, 50) is None


def test_runs_that_do_not_agree_are_told() -> None:
    measured = {"powersave": [run(10, 0)] * 3, "spin": [run(20, 0), run(30, 0), run(5, 0)]}
    found = recommend.recommend({PART: measured}, 50)
    assert found is not None
    assert found.policy == "powersave"
    assert found.doubt.startswith("The runs do not agree: of 3, taken alone, 1 for spin.")


def test_the_table_has_medians_spread_and_the_frontier() -> None:
    lines = table(PART, canned()[PART], 25)
    assert lines[1] == "1ms, asyncio, unpinned: 100 messages a run"
    assert " ".join(lines[2].split()) == "policy p50 us p99 us p99.9 us reader CPU cost"
    assert lines[3].startswith("* balanced ")
    assert "11.0 (10.0 to 12.0)" in lines[3]
    assert "30.0% (20.0% to 40.0%)" in lines[3]
    assert [line[0] for line in lines[3:]] == ["*", "*", "*", " "]
    costs = [float(line.split()[-1]) for line in lines[3:]]
    assert min(costs) == 1
    assert spread([7.0], str) == "7.0"


def test_the_table_has_power_where_every_run_has_it() -> None:
    runs = {"spin": [run(1, 1, watts=60.04)], "powersave": [run(2, 0, watts=20.0)]}
    lines = table(PART, runs, 25)
    assert lines[2].endswith("package W")
    assert lines[3].endswith("60.0")
    runs["spin"] = [run(1, 1)]
    assert not table(PART, runs, 25)[2].endswith("package W")


def test_the_plot_has_a_point_for_each_policy_and_the_frontier() -> None:
    root = ElementTree.fromstring(plot.svg(canned(), "on <this> & that"))
    name = "{http://www.w3.org/2000/svg}"
    panels = [one for one in root.findall(f"{name}g") if one.get("transform")]
    assert len(panels) == 3, "all together, and two parts"
    for panel in panels:
        assert len(panel.findall(f"{name}g[@class='point']")) == 4
        assert len(panel.findall(f"{name}path[@class='frontier']")) == 1
    tips = [tip.text for tip in panels[1].iter(f"{name}title")]
    assert "balanced: 11.0 µs at 30.0%" in tips
    places = {
        panel_point[0].text: (
            float(panel_point[1].get("cx", "")),
            float(panel_point[1].get("cy", "")),
        )
        for panel_point in panels[1].findall(f"{name}g[@class='point']")
    }
    slow, fast = places["powersave: 25.0 µs at 1.00%"], places["spin: 8.0 µs at 100.0%"]
    assert slow[0] < fast[0], "more CPU is to the right"
    assert slow[1] < fast[1], "more latency is above, where y is smaller"


def test_the_plot_in_characters_has_them_too() -> None:
    lines = plot.text(points(canned()[PART]), recommend.excess({PART: canned()[PART]}, 50))
    grid = "\n".join(line.partition("|")[2] for line in lines)
    assert all(grid.count(letter) == 1 for letter in "BPS2")
    assert sum(line.endswith("on the frontier") for line in lines) == 3
    assert lines[-4].split() == [
        "B",
        "balanced",
        "11.0",
        "µs",
        "30.0%",
        "cost",
        "1.00",
        "on",
        "the",
        "frontier",
    ]


@pytest.mark.parametrize("cpu", [0.0, 1e-9, 1.0, 3.0])
@pytest.mark.parametrize("us", [0.01, 10.0, 1e7])
def test_anything_can_be_plotted(us: float, cpu: float) -> None:
    results: Results = {PART: {"spin": [run(us, cpu)], "balanced": [run(us, cpu)]}}
    ElementTree.fromstring(plot.svg(results, "same"))
    grid = "\n".join(
        line for line in plot.text(points(results[PART]), {"spin": 1, "balanced": 1}) if "|" in line
    )
    assert "SB" in grid, "two points on one place stand side by side"


def test_the_json_has_every_run() -> None:
    recommendation = recommend.recommend(canned(), 50)
    found = json.loads(
        json.dumps(as_json(machine.machine(), {}, "no reason", canned(), recommendation))
    )
    assert (found["schema"], found["no_energy"]) == (1, "no reason")
    assert len(found["results"]) == 8
    first = found["results"][0]
    assert (first["traffic"], first["policy"], first["frontier"]) == ("1ms", "balanced", True)
    assert [one["latency"]["all"]["p50_us"] for one in first["runs"]] == [10, 11, 12]
    assert found["recommendation"]["policy"] == "balanced"


def test_the_document_names_everything() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    section = text.partition("\n## bench\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([^`\n]+)`", section))
    found = as_json(machine.machine(), {}, "", canned(), recommend.recommend(canned(), 50))
    run_of_it = found["results"][0]["runs"][0]
    for part in (found, found["machine"], found["recommendation"], found["results"][0], run_of_it):
        assert set(part) <= named
    assert set(run_of_it["latency"]["all"]) <= named
    assert {*CANDIDATES, *arrivals.NAMED, *places.PLACES, *scopes.ALL_LOOPS} <= named


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 0.0, 0.0))
    assert "a load of 4.0" in machine.unrest(machine.machine())
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.0, 0.0))
    assert machine.unrest(machine.machine()) == ""


# ---- the command ----


@pytest.mark.parametrize(
    "arguments",
    [
        ["--traffic", "soon"],
        ["--policy", "best"],
        ["--loop", "curio"],
        ["--place", "moon"],
        ["--seconds", "0"],
        ["--seconds", "inf"],
        ["--runs", "0"],
        ["--price", "nan"],
        ["--quick", "--all"],
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *arguments])
    assert caught.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def test_files_that_cannot_be_used_are_told_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--json", str(tmp_path / "no" / "file")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert main(["bench", "--trace", str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "bad").write_text("soon\n")
    assert main(["bench", "--trace", str(tmp_path / "bad")]) == 1
    assert "line 1 must be a gap in seconds" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_run_from_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("0.002\n0.001\n")
    arguments = [
        *("--trace", tmp_path / "trace", "--seconds", 0.031, "--runs", 1, "--place", "same"),
        *("--policy", "balanced", "average", "--loop", "asyncio", "blocking"),
        *("--json", tmp_path / "found.json", "--plot", tmp_path / "found.svg"),
    ]
    with Command("bench", *arguments) as command:
        status, out, err = command.end()
    assert (status, err) == (0, "")
    found = json.loads((tmp_path / "found.json").read_text())
    lines = [(one["loop"], one["policy"]) for one in found["results"]]
    assert lines == [
        ("asyncio", "balanced"),
        ("asyncio", "average"),
        ("blocking", "balanced"),
        ("blocking", "average"),
    ]
    for one in found["results"]:
        (measured,) = one["runs"]
        latency = measured["latency"]["all"]
        assert latency["messages"] == 20
        assert 0 < latency["p50_us"] <= latency["p99_us"] <= latency["p999_us"]
        assert 0 < latency["cpu"] <= 1.5
        assert measured["seconds"] >= 0.02
    assert found["recommendation"]["policy"] == "balanced"
    text = out.decode()
    assert "trace, asyncio, same: 20 messages a run" in text
    assert "Use WaitPolicy.balanced(): " in text
    ElementTree.fromstring((tmp_path / "found.svg").read_text())


def test_what_was_measured_before_a_failure_is_shown_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left = [run(10, 0.2), run(20, 0.1)]

    def measure(*_: object) -> Run:
        if not left:
            raise CrewError("the reader process ended by SIGKILL")
        return left.pop()

    monkeypatch.setattr("aiospin._cli.bench.measure.measure", measure)
    arguments = ["--traffic", "1ms", "10ms", "--loop", "asyncio", "--runs", "1", "--plain"]
    arguments += ["--policy", "balanced", "powersave", "--json", str(tmp_path / "json")]
    assert main(["bench", *arguments]) == 1
    out, err = capsys.readouterr()
    assert err == "aiospin bench: the reader process ended by SIGKILL\n"
    assert "Use WaitPolicy.powersave(): " in out
    assert len(json.loads((tmp_path / "json").read_text())["results"]) == 2


def test_a_terminal_gets_a_bar_beside_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setattr("aiospin._cli.bench.measure.measure", lambda *_: run(10, 0.2))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    arguments = ["--traffic", "1ms", "10ms", "--loop", "asyncio", "--policy", "balanced", "spin"]
    assert main(["bench", *arguments]) == 0
    out, err = capsys.readouterr()
    assert "100%" in err
    assert "10ms, asyncio, unpinned: spin" in err
    assert "\x1b" not in out
    assert out.count("messages a run") == 2


def test_a_bar_needs_rich_and_plain_needs_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aiospin._cli.bench.measure.measure", lambda *_: run(10, 0.2))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    arguments = ["bench", "--traffic", "1ms", "--loop", "asyncio", "--runs", "1"]
    assert main(arguments) == 1
    assert "the progress bar needs rich: pip install 'aiospin[cli]'" in capsys.readouterr().err
    assert main([*arguments, "--plain"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_ctrl_c_ends_it_and_shows_what_there_is(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    arguments = ["--traffic", "1ms", "1000ms", "--seconds", "0.05", "--runs", "1"]
    arguments += ["--policy", "powersave", "--loop", "asyncio", "--json", str(found)]
    process = subprocess.Popen(
        [sys.executable, "-m", "aiospin", "bench", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C goes to all processes of a group
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "powersave" in line:  # the first part is done, and the second takes 51 s
            break
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (130, "aiospin bench: ended early by Ctrl-C\n")
    assert "Use WaitPolicy.powersave(): " in out
    assert [one["traffic"] for one in json.loads(found.read_text())["results"]] == ["1ms"]
