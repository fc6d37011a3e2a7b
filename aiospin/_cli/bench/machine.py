"""What measurements depend on and cannot show."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import aiospin


def machine() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "aiospin": aiospin.__version__,
        "backend": aiospin.capabilities().backend,
    }


def introduction() -> str:
    """The same as a sentence."""
    here = machine()
    return (
        f"{here['cpus']} CPUs of {here['cpu']}, Linux {here['kernel']}, Python {here['python']}, aiospin "
        f"{here['aiospin']} waiting with {here['backend']}."
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()  # kernels of other architectures name no model
