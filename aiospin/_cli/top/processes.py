"""The command of a process, if it is the one that is meant.

The pids in a segment are those of the members' own PID namespaces: here the same number may be somebody
else. Who has the file of the segment mapped is the one.
"""

from __future__ import annotations

import os
import shlex


def command_of(pid: int, file: os.stat_result) -> str | None:
    """The command line of a process that has this file mapped.

    :return: None: there is no such process, or nobody may look at it, or it has not.
    """
    try:
        if not _has_mapped(pid, file):
            return None
        with open(f"/proc/{pid}/cmdline", "rb") as lines:
            words = os.fsdecode(lines.read()).split("\0")
    except OSError:
        return None
    return shlex.join(words[:-1]) or None


def _has_mapped(pid: int, file: os.stat_result) -> bool:
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}"
    inode = str(file.st_ino)
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
        # address permissions offset device inode path
        return any(line.split(None, 5)[3:5] == [device, inode] for line in lines)
