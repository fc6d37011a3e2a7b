"""On which CPUs the writer and the reader run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PLACES: Final = ("unpinned", "same", "different")


def cpus_of(place: str) -> tuple[set[int], set[int]]:
    """Those that the writer and the reader may use. "different" are two cores, and not two threads of one, where
    there are two cores.

    :raises ValueError: there is only one CPU.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if place == "unpinned":
        return set(allowed), set(allowed)
    first = allowed[0]
    if place == "same":
        return {first}, {first}
    if len(allowed) == 1:
        raise ValueError(
            "the place 'different' needs two CPUs, and this process may use only one of them"
        )
    siblings = threads_of_core(first)
    others = [cpu for cpu in allowed if cpu not in siblings] or allowed[1:]
    return {first}, {others[0]}


def threads_of_core(cpu: int) -> set[int]:
    """The CPUs that share its core, itself among them, as far as the kernel says."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return parse_cpus(path.read_text(encoding="ascii"))
    except OSError:  # some containers do not show it
        return {cpu}


def parse_cpus(text: str) -> set[int]:
    """The kernel's way to write a set of CPUs: ``0-2,8``."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
