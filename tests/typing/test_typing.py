"""The types of the public surface, by mypy in strict mode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiospin


def test_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    # The package is looked up as installed, from where the tests found it.
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = True\n")
    found = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", tmp_path / "cache",
            "--no-error-summary", Path(__file__).with_name("sample.py"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(aiospin.__file__).parent.parent)}
        if "site-packages" not in aiospin.__file__
        else None,
        check=False,
    )  # fmt: skip
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_it_says_that_it_is_typed() -> None:
    assert Path(aiospin.__file__).with_name("py.typed").exists()


def test_every_public_name_is_there() -> None:
    for name in aiospin.__all__:
        assert hasattr(aiospin, name)
    assert list(aiospin.__all__) == sorted(aiospin.__all__)
