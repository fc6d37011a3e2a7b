"""``aiospin info``: what to look at first, and to put into a bug report."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import aiospin
from aiospin._policy import DEFAULT
from aiospin._segment import folder

if TYPE_CHECKING:
    import argparse

DISTRIBUTIONS = ("aiospin", "anyio", "uvloop", "trio", "rich")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    found = collect()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return 0
    for section, rows in found.items():
        print(section)
        for name, value in rows.items():
            print(f"  {name:<18} {_text(value)}")
    return 0


def collect() -> dict[str, dict[str, Any]]:
    """Everything, by section; only what JSON can say."""
    memory = os.statvfs(folder())
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in DISTRIBUTIONS},
        },
        "machine": {
            "kernel": f"{platform.system()} {platform.release()}",
            "architecture": platform.machine(),
            "cpus": _usable_cpus(),
            "segment_folder": str(folder()),
            "segment_bytes_free": memory.f_bavail * memory.f_frsize,
        },
        "capabilities": dataclasses.asdict(aiospin.capabilities()),
        "policy": dataclasses.asdict(DEFAULT),
        "environment": {
            name: os.environ.get(name)
            for name in ("AIOSPIN_BACKEND", "AIOSPIN_NO_EXT", "AIOSPIN_POLICY")
        },
        "statistics": dataclasses.asdict(aiospin.statistics()),
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)
