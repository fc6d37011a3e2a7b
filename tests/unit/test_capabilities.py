"""Which core and which wait instruction are used: chosen at import, by the environment, and reported."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from support import COMPILED, clean, interpreter

import aiospin

REPORT = "import aiospin; c = aiospin.capabilities(); print(c.backend); print(c.why)"
NEEDS_COMPILED = pytest.mark.skipif(
    not COMPILED, reason="the stand-in has no backends to choose from"
)
NAMES = ("mwaitx", "umwait", "tpause", "pause", "wfet", "wfe", "isb", "yield", "zawrs", "generic")


def test_capabilities() -> None:
    found = aiospin.capabilities()
    assert found.backend in found.supported
    assert found.why
    assert found.monitor_line_size >= 0
    assert found == aiospin.capabilities()
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.backend = "x"  # type: ignore[misc]
    if sys.platform == "linux":
        assert found.futex


def test_statistics_are_frozen_counters() -> None:
    before = aiospin.statistics()
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.waits = 0  # type: ignore[misc]
    assert all(isinstance(value, int) and value >= 0 for value in dataclasses.astuple(before))
    aiospin.wait_for_flag_sync(bytearray(1), aiospin.eq(0))
    after = aiospin.statistics()
    assert (after.waits, after.ready) == (before.waits + 1, before.ready + 1)
    assert after.pinned_buffers == before.pinned_buffers


# ---- AIOSPIN_BACKEND ----


@pytest.mark.parametrize("backend", ["", "auto", *aiospin.capabilities().supported])
def test_a_supported_backend(backend: str) -> None:
    used, why = clean(REPORT, AIOSPIN_BACKEND=backend).splitlines()
    assert used == (backend if backend not in ("", "auto") else aiospin.capabilities().backend)
    assert why


@pytest.mark.parametrize("backend", aiospin.capabilities().supported)
def test_every_supported_backend_waits(backend: str) -> None:
    source = """
        import threading, aiospin
        word = bytearray(64)
        flag = aiospin.Flag(word, dtype="Q")
        policy = aiospin.WaitPolicy.latency()
        for step in range(1, 200):
            threading.Thread(target=flag.store, args=(step,)).start()
            assert aiospin.wait_for_flag_sync(word, aiospin.ge(step, dtype="Q"), 20, policy=policy) == step
        try:
            aiospin.wait_for_flag_sync(word, aiospin.eq(0, dtype="Q"), 0.02, policy=policy)
        except TimeoutError:
            print("timed out")
    """
    assert clean(source, AIOSPIN_BACKEND=backend) == "timed out\n"


@pytest.mark.parametrize("backend", ["abacus", "PAUSE", "pause "])
def test_an_unknown_backend(backend: str) -> None:
    done = interpreter("import aiospin", AIOSPIN_BACKEND=backend)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: ")
    assert repr(backend) in last or backend in last
    assert aiospin.capabilities().supported[0] in last, "it names what this machine has"


@pytest.mark.parametrize("backend", sorted({*NAMES} - {*aiospin.capabilities().supported}))
def test_a_backend_that_this_machine_has_not(backend: str) -> None:
    done = interpreter("import aiospin", AIOSPIN_BACKEND=backend)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: ")
    assert backend in last
    assert aiospin.capabilities().supported[0] in last


# ---- the stand-in ----


def test_no_extension_by_request() -> None:
    used, why = clean(REPORT, AIOSPIN_NO_EXT="1").splitlines()
    assert used == "python"
    assert "AIOSPIN_NO_EXT=1" in why


def test_the_python_backend() -> None:
    used, why = clean(REPORT, AIOSPIN_BACKEND="python", AIOSPIN_NO_EXT="").splitlines()
    assert used == "python"
    assert "AIOSPIN_BACKEND=python" in why


@NEEDS_COMPILED
def test_no_extension_by_request_is_the_default_off() -> None:
    for off in ("", "0"):
        assert clean(REPORT, AIOSPIN_NO_EXT=off).splitlines()[0] == aiospin.capabilities().backend


def test_a_switch_that_is_none() -> None:
    done = interpreter("import aiospin", AIOSPIN_NO_EXT="yes")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: AIOSPIN_NO_EXT must be 0 or 1, not 'yes'"


def test_the_stand_in_has_no_instructions() -> None:
    done = interpreter("import aiospin", AIOSPIN_NO_EXT="1", AIOSPIN_BACKEND="pause")
    assert done.returncode == 1
    assert "needs the compiled core" in done.stderr.splitlines()[-1]


BROKEN = """
    import sys, warnings

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "aiospin._native":
                raise ImportError("undefined symbol: asp_nothing")

    sys.meta_path.insert(0, Broken())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import aiospin
        import aiospin._core
        word = bytearray(4)
        aiospin.Flag(word, dtype="I").store(5)
        assert aiospin.wait_for_flag_sync(word, aiospin.eq(5, dtype="I")) == 5
    for warning in caught:
        print(warning.category.__name__, warning.message)
    for _ in range(2):
        print(aiospin.capabilities().backend, aiospin.capabilities().why)
"""


def test_an_extension_that_cannot_be_imported() -> None:
    """One warning that says why, and capabilities() says so ever after."""
    warning, *reports = clean(BROKEN, AIOSPIN_NO_EXT="", AIOSPIN_BACKEND="").splitlines()
    assert warning.startswith("RuntimeWarning aiospin runs in pure Python")
    assert "undefined symbol: asp_nothing" in warning
    assert "AIOSPIN_NO_EXT=1" in warning, "it says how to accept it"
    assert len(reports) == 2
    for report in reports:
        assert report.startswith("python ")
        assert "undefined symbol: asp_nothing" in report


def test_the_warning_can_be_accepted() -> None:
    _, *reports = ["", *clean(BROKEN, AIOSPIN_NO_EXT="1", AIOSPIN_BACKEND="").splitlines()]
    assert len(reports) == 2, "no warning"
