"""Runs targets of the Makefile one after the other, all of them whatever the others do, and sums up.

    python tools/check.py TARGET...

What a target printed lies in build/check. At the end: which passed, which failed, and everything that said that it
was skipped, with the reason and how often: a skip is no failure, but nobody shall overlook it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "check"

# "skipped: why" of the tools, "skip  program: skipped: why" of the native tests, "skipped  1.0 s  name" of the
# mutants, and "SKIPPED [3] file: why" of pytest, which counts
SKIPPED = re.compile(r"^(?:SKIPPED \[(?P<count>\d+)\] |skipped[: ] *|skip  )(?P<what>.+)$")


def skips(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in text.splitlines():
        match = SKIPPED.match(line.strip())
        if match:
            found[match["what"]] += int(match["count"] or 1)
    return found


def run(target: str) -> tuple[bool, Counter[str]]:
    """Shows and keeps what it prints; whether it passed, and what it skipped."""
    print(f"---- make {target}", flush=True)
    text = ""
    with (
        (LOGS / f"{target}.log").open("w") as log,
        subprocess.Popen(
            ["make", "--no-print-directory", target],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            log.write(line)
            text += line
    return process.returncode == 0, skips(text)


def main(targets: list[str]) -> int:
    LOGS.mkdir(parents=True, exist_ok=True)
    lines, reasons = [], []
    failed = skipped_in_all = 0
    for target in targets:
        begun = time.monotonic()
        passed, skipped = run(target)
        failed += not passed
        count = sum(skipped.values())
        skipped_in_all += count
        seconds = time.monotonic() - begun
        verdict = "pass" if passed else "FAIL"
        lines.append(f"{verdict}  {target:20} {seconds:6.0f} s  {count} skipped")
        reasons += [f"{target}: {number} x {what}" for what, number in skipped.items()]
    print("---- skipped")
    print("\n".join(reasons) or "nothing")
    print("---- checks")
    print("\n".join(lines))
    print(
        f"check: {len(targets) - failed} passed, {failed} failed; {skipped_in_all} skipped in them"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
