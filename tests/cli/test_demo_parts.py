"""The demo's parts: words, percentiles, the choice of loops, the verdict."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiospin.__main__ import main
from aiospin._cli.demo import parent, text
from aiospin._cli.demo.report import Histogram, Received, Sent
from aiospin._cli.demo.view import RichView, verdict
from aiospin._cli.live import RichMissingError


@pytest.mark.parametrize(
    "content",
    [b"two words", b"  before\nand after\t\n", b"\0\xff binary \x85", b"x" * 10_000, b" " * 10_000],
)
def test_words_put_together_are_the_content(content: bytes) -> None:
    assert b"".join(text.split(content)) == content


def test_any_bytes_can_be_cut_and_no_word_is_long() -> None:
    content = random.Random(5).randbytes(100_000)
    words = text.split(content)
    assert b"".join(words) == content
    assert max(map(len, words)) <= 8192


def test_words_are_words() -> None:
    assert text.split(b"one two\nthree") == [b"one ", b"two\n", b"three"]


def test_without_a_file_it_takes_its_own_sources() -> None:
    found = text.load(None)
    names = {path.name for path in text.own_sources()}
    assert "_reader.py" in names
    assert found.nbytes == sum(map(len, found.words)) > 10_000


def test_an_empty_or_missing_file_is_an_error_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").touch()
    assert main(["demo", str(tmp_path / "empty")]) == 2
    assert "nothing to broadcast" in capsys.readouterr().err
    assert main(["demo", str(tmp_path / "missing")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "-1"],
        ["--rate", "nan"],
        ["--seconds", "0"],
        ["--seconds", "inf"],
        ["--readers", "0"],
        ["--readers", "65"],
        ["--policy", "none"],
    ],
)
def test_arguments_without_sense_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", *arguments])
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_percentiles_are_right_to_two_percent() -> None:
    generator = random.Random(7)
    durations = sorted(int(10 ** generator.uniform(0, 9)) for _ in range(5000))
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    for percent in (1, 50, 99, 100):
        exact = durations[max(len(durations) * percent // 100 - 1, 0)]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.02)


def test_percentiles_of_nothing_and_of_zero() -> None:
    histogram = Histogram()
    assert histogram.percentile(50) == 0
    histogram.add(0)
    assert histogram.percentile(99) == 0


def test_a_loop_that_is_missing_is_replaced_with_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "find_spec", lambda name: None if name == "uvloop" else object())
    assert [loop for loop, _ in parent.available_loops()] == ["asyncio", "asyncio", "trio"]
    remarks = [remark for _, remark in parent.available_loops()]
    assert "aiospin[uvloop]" in remarks[1]
    assert (remarks[0], remarks[2]) == ("", "")


def test_without_rich_the_live_table_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(RichMissingError, match=r"aiospin\[cli\]"):
        RichView()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["demo"]) == 2
    assert "aiospin[cli]" in capsys.readouterr().err


def _run(*readers: dict[str, Any]) -> parent.Run:
    def child(failure: str | None = None) -> Any:
        return SimpleNamespace(name="1 (asyncio)", failure=failure)

    run = parent.Run(text.Text("test", (b"x",), 1), 0, 1, "balanced", engine=child())
    run.sent = Sent(10, 100, "abc")
    for row in readers:
        failure = row.pop("failure", None)
        state = Received(**({"messages": 10, "nbytes": 100, "digest": "abc"} | row))
        run.rows.append(parent.ReaderRow(child(failure), "asyncio", state=state))
    return run


def test_equal_digests_are_a_success() -> None:
    good, lines = verdict(_run({}, {}))
    assert good
    assert lines == ["OK: 2 readers received exactly what was sent, 10 words, 100 bytes"]


@pytest.mark.parametrize(
    "reader", [{"digest": "abd"}, {"messages": 9}, {"digest": None}, {"failure": "died"}]
)
def test_one_reader_that_differs_is_a_failure(reader: dict[str, Any]) -> None:
    good, lines = verdict(_run({}, reader))
    assert not good
    assert lines[0] == "FAILED"
    assert len(lines) == 2


def test_an_engine_that_failed_is_a_failure() -> None:
    run = _run({})
    assert run.engine is not None
    run.engine.failure = "died: killed by SIGKILL"
    assert verdict(run) == (False, ["FAILED", "the engine died: killed by SIGKILL"])
