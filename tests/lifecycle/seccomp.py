"""Denying system calls to the own process, as sandboxes and containers do: a seccomp filter, by ctypes alone.

Imported by child processes too, before aiospin, so that aiospin finds the calls denied from the start.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass
from typing import Final

# AUDIT_ARCH_* of <linux/audit.h>, and the numbers of <asm/unistd.h>.
_MACHINES: Final = {
    "x86_64": (
        0xC000003E,
        {
            "clock_nanosleep": 230,
            "fallocate": 285,
            "fchmod": 91,
            "fcntl": 72,
            "futex": 202,
            "linkat": 265,
            "link": 86,
            "mknod": 133,
            "mknodat": 259,
            "nanosleep": 35,
            "prctl": 157,
            "sched_yield": 24,
            "timerfd_create": 283,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "clock_nanosleep": 115,
            "fallocate": 47,
            "fchmod": 52,
            "fcntl": 25,
            "futex": 98,
            "linkat": 37,
            "mknodat": 33,
            "nanosleep": 101,
            "prctl": 167,
            "sched_yield": 124,
            "timerfd_create": 85,
        },
    ),
}
_MACHINES["riscv64"] = (0xC00000F3, _MACHINES["aarch64"][1])
_EVERYWHERE: Final = {"futex_waitv": 449}

PRIVATE: Final = 128  # flags of a futex operation, <linux/futex.h>
ON_REALTIME: Final = 256
SET_TIMERSLACK: Final = 29  # <linux/prctl.h>
OFD_GETLK, OFD_SETLK = 36, 37  # <asm-generic/fcntl.h>

KILL: Final = -1  # instead of an errno: the process dies, so that no call can be overlooked

_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # of classic BPF, on 32-bit words
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


@dataclass(frozen=True)
class Rule:
    """One kind of call, and what it fails with."""

    call: str
    error: int = errno.EPERM
    argument: int = 0
    mask: int = 0
    """Of the argument's lower half; 0: every such call."""
    value: int = 0
    """What the masked bits have to be."""
    pointer: int | None = None
    """An argument that has to be a pointer to something."""


# glibc itself cannot live without futexes, whose own are private, or have the flag of the wrong clock in
# pthread_join: those of aiospin have neither.
SHARED_FUTEX: Final = Rule("futex", argument=1, mask=PRIVATE | ON_REALTIME)


class UnsupportedError(Exception):
    """No filters on this machine, or none for this process."""


def deny(*rules: Rule) -> None:
    """Let these calls fail from now on, in this process and what it starts."""
    machine = platform.machine()
    if machine not in _MACHINES:
        raise UnsupportedError(f"nobody has written down the system calls of {machine}")
    arch, numbers = _MACHINES[machine]
    code = [_op(_LOAD, _ARCH), _op(_JUMP_EQUAL, arch, 1, 0), _op(_RETURN, _ALLOW)]
    for rule in rules:
        number = (numbers | _EVERYWHERE).get(rule.call)
        if number is not None:  # an older name of a call that newer machines have not
            code += _test(rule, number)
    code.append(_op(_RETURN, _ALLOW))
    _install(b"".join(code), len(code))


def _test(rule: Rule, number: int) -> list[bytes]:
    """Return the verdict if everything fits, fall through if not."""
    checks = [(_NUMBER, None, number, True)]
    if rule.mask:
        checks.append((_ARGUMENTS + 8 * rule.argument, rule.mask, rule.value, True))
    if rule.pointer is not None:  # its upper half: no memory is mapped that low
        checks.append((_ARGUMENTS + 8 * rule.pointer + 4, None, 0, False))
    verdict = _KILL_PROCESS if rule.error == KILL else _ERRNO | rule.error
    code = [_op(_RETURN, verdict)]
    for offset, mask, value, equal in reversed(checks):
        skip = len(code)
        code.insert(0, _op(_JUMP_EQUAL, value, *((0, skip) if equal else (skip, 0))))
        if mask is not None:
            code.insert(0, _op(_AND, mask))
        code.insert(0, _op(_LOAD, offset))
    return code


def _op(code: int, k: int, true: int = 0, false: int = 0) -> bytes:
    """struct sock_filter"""
    return struct.pack("=HBBI", code, true, false, k)


def _install(program: bytes, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    get_seccomp, set_seccomp, mode_filter, no_new_privileges = 21, 22, 2, 38
    if libc.prctl(get_seccomp, 0, 0, 0, 0) < 0:
        raise UnsupportedError("this kernel has no seccomp filters")
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", length, ctypes.addressof(code))  # struct sock_fprog
    pointer = ctypes.cast(ctypes.create_string_buffer(header), ctypes.c_void_p)
    libc.prctl(no_new_privileges, 1, 0, 0, 0)
    if libc.prctl(set_seccomp, mode_filter, pointer.value, 0, 0) < 0:
        error = ctypes.get_errno()
        if error in (errno.EACCES, errno.EPERM):
            raise UnsupportedError("this process may not filter its system calls")
        raise OSError(error, os.strerror(error))
