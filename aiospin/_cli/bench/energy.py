"""Energy of the CPU packages, from RAPL, where the kernel shows it.

It is that of everything that runs on the machine, so it says something only where nothing else does. The counters
grow by microjoules and wrap at ``max_energy_range_uj``, after a quarter of an hour at 250 W and 2^18 J. Since 2020
kernels let only root read them, as they can betray what a program computes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

POWERCAP: Final = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Package:
    """One domain of RAPL: a whole CPU package."""

    path: Path
    name: str
    range_uj: int

    def read(self) -> int:
        return int(self.path.joinpath("energy_uj").read_text(encoding="ascii"))


def packages(powercap: Path = POWERCAP) -> tuple[list[Package], str]:
    """Those that can be read, and why there are none, or "".

    Subdomains (cores, graphics) have two colons in their names, and are part of their package.
    """
    if not powercap.is_dir():
        return [], f"there is no {powercap}: the kernel, a container or a virtual machine hides it"
    found = []
    for path in sorted(powercap.glob("intel-rapl:*")):  # also on AMD
        if path.name.count(":") > 1:
            continue
        try:
            name = path.joinpath("name").read_text(encoding="ascii").strip()
            limit = int(path.joinpath("max_energy_range_uj").read_text(encoding="ascii"))
            package = Package(path, name, limit)
            package.read()
        except PermissionError as error:
            return [], f"only root may read {error.filename}"
        except OSError as error:
            return [], f"{error.filename}: {error.strerror}"
        if name.startswith("package"):
            found.append(package)
    return found, "" if found else f"{powercap} has no CPU package"


class Wattmeter:
    """Mean power of all packages together since it was made; reading it now and then is not needed within a wrap."""

    def __init__(self, measured: list[Package]) -> None:
        self._packages = measured
        self._began_ns = time.monotonic_ns()
        self._first = [package.read() for package in measured]

    def watts(self) -> float | None:
        """None where there is nothing to read."""
        if not self._packages:
            return None
        seconds = (time.monotonic_ns() - self._began_ns) / 1e9
        joules = sum(
            # A counter that is smaller than before has wrapped.
            ((package.read() - first) % (package.range_uj + 1)) / 1e6
            for package, first in zip(self._packages, self._first, strict=True)
        )
        return joules / seconds
