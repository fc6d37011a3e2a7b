"""The soak in its short form; `make soak` is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from broadcast_support import scaled
from support import PATIENCE, SLOWNESS, environment

SOAK = Path(__file__).parents[1] / "soak" / "soak.py"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_soak(seed):
    """Writers and readers that are killed at random; nothing is lost, torn or out of order."""
    messages = scaled(20_000, 8_000)  # or as many as go into a few seconds
    done = subprocess.run(
        [
            sys.executable,
            SOAK,
            f"--messages={messages}",
            f"--seed={seed}",
            "--kill-every=0.1",
            f"--seconds={3 * SLOWNESS:g}",
        ],
        capture_output=True,
        text=True,
        timeout=20 + PATIENCE,
        env=environment(),
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"seed {seed}" in said
    assert "lost, torn, out of order: 0" in said
    [sent] = re.findall(r"passed: ([\d,]+) messages", said)
    assert int(sent.replace(",", "")) > 100
    [killed] = re.findall(r"killed: (\d+) readers", said)
    assert int(killed) > 0
