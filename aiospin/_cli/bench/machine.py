"""What measurements depend on and cannot show."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiospin

GOVERNOR: Final = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
QUIET: Final = (
    0.25  # tasks that run or want to, in the mean over a minute; a desktop at rest has fewer
)


@dataclass(frozen=True)
class Machine:
    cpu: str
    cpus: int
    """That this process may use."""
    kernel: str
    python: str
    aiospin: str
    backend: str
    governor: str | None
    load: float
    """Tasks that ran or wanted to, in the mean over the minute before."""


def machine() -> Machine:
    return Machine(
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0)),
        kernel=platform.release(),
        python=platform.python_version(),
        aiospin=aiospin.__version__,
        backend=aiospin.capabilities().backend,
        governor=_governor(),
        load=round(os.getloadavg()[0], 2),
    )


def describe(here: Machine) -> str:
    return (
        f"{here.cpus} CPUs of {here.cpu}, Linux {here.kernel}, Python {here.python}, aiospin {here.aiospin} waiting "
        f"with {here.backend}."
    )


def unrest(here: Machine) -> str:
    """A warning, where other programs take a part in the measurement; else nothing."""
    if here.load <= QUIET:
        return ""
    return (
        f"Other programs were running in the last minute (a load of {here.load:.1f}): on a machine that does nothing "
        "else the numbers would be smaller and say more."
    )


def _governor() -> str | None:
    try:
        return GOVERNOR.read_text(encoding="ascii").strip()
    except OSError:  # virtual machines have none
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()  # kernels of other architectures name no model
