"""Sleeping in the kernel on 32-bit words of shared memory, and waking who sleeps there.

The calls go to the same futexes as those of the compiled core (never the PRIVATE kind, for the
words lie in memory that several processes map). FUTEX_WAKE_OP is here for a second reason: the
kernel applies an operation to the word atomically, which is the one way for Python to do that.
Where there is no futex (another system, or a sandbox that denies it), ``wait`` sleeps at most
``FALLBACK_NS`` and returns, so its callers look again by themselves.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from ._clock import FOREVER, now_ns, seconds

MAX_WORDS: Final = 128  # FUTEX_WAITV_MAX of the kernel
FALLBACK_NS: Final = 1_000_000  # ns; ASP_FUTEX_FALLBACK_NS of csrc/core/futex.h

# From the kernel's system call tables; futex_waitv has the same number everywhere.
_SYS_FUTEX: Final = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
_SYS_FUTEX_WAITV: Final = 449

# From linux/futex.h.
_FUTEX_WAKE: Final = 1
_FUTEX_WAKE_OP: Final = 5
_FUTEX_WAIT_BITSET: Final = 9  # unlike FUTEX_WAIT it takes an absolute CLOCK_MONOTONIC deadline
_MATCH_ANY: Final = 0xFFFF_FFFF
_FUTEX2_SIZE_U32: Final = 2
_EVERYBODY: Final = 0x7FFF_FFFF
_CLOCK_MONOTONIC: Final = 1
# The operations that FUTEX_WAKE_OP can apply to a word.
_ADD: Final = 1
_OR: Final = 2
_ANDN: Final = 3


class Word(NamedTuple):
    """Sleep at this address only while the word there is still ``expected``."""

    address: int
    expected: int


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_int64), ("tv_nsec", ctypes.c_int64))


class _Waitv(ctypes.Structure):
    _fields_ = (
        ("val", ctypes.c_uint64),
        ("uaddr", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


_nobody = ctypes.c_uint32(0)  # where nobody ever sleeps
_number = _SYS_FUTEX.get(os.uname().machine, -1) if sys.platform == "linux" else -1
if ctypes.sizeof(ctypes.c_void_p) != 8:
    _number = -1  # a 32-bit process has other numbers and another timespec

if _number >= 0:
    _libc = ctypes.CDLL(None, use_errno=True)
    _syscall = _libc.syscall
    _syscall.restype = ctypes.c_long


def _futex(
    address: int, operation: int, value: int, timeout: int | None, address2: int, value3: int
) -> int:
    """The bare system call, without the GIL. -1 and errno like the kernel's."""
    result: int = _syscall(
        ctypes.c_long(_number),
        ctypes.c_void_p(address),
        ctypes.c_long(operation),
        ctypes.c_ulong(value),
        ctypes.c_void_p(timeout),
        ctypes.c_void_p(address2),
        ctypes.c_ulong(value3),
    )
    return result


def _waitv(words: Sequence[Word], deadline: int | None) -> int:
    waiters = (_Waitv * len(words))(
        *(_Waitv(word.expected, word.address, _FUTEX2_SIZE_U32, 0) for word in words)
    )
    result: int = _syscall(
        ctypes.c_long(_SYS_FUTEX_WAITV),
        ctypes.c_void_p(ctypes.addressof(waiters)),
        ctypes.c_long(len(words)),
        ctypes.c_long(0),
        ctypes.c_void_p(deadline),
        ctypes.c_long(_CLOCK_MONOTONIC),
    )
    return result


def _change(operation: int, operand: int) -> int:
    """FUTEX_OP(operation, operand, FUTEX_OP_CMP_EQ, -2): the comparison decides about a second wake,
    which nobody here wants; a counter that happens to be -2 costs one spurious wake."""
    return operation << 28 | operand << 12 | 0xFFE


def _probe() -> tuple[bool, bool]:
    if _number < 0:
        return False, False
    word = ctypes.c_uint32(0)
    address = ctypes.addressof(word)
    added = _futex(address, _FUTEX_WAKE_OP, 0, None, address, _change(_ADD, 1)) >= 0
    refused = _futex(address, _FUTEX_WAIT_BITSET, 0, None, 0, _MATCH_ANY) == -1
    futex = added and word.value == 1 and refused and ctypes.get_errno() == errno.EAGAIN
    if not futex:  # the word may still be 0, on which the next call would sleep for ever
        return False, False
    ctypes.set_errno(0)
    many = _waitv([Word(address, 0), Word(address, 0)], None) == -1
    return True, many and ctypes.get_errno() == errno.EAGAIN


AVAILABLE, WAITV_AVAILABLE = _probe()


def peek(address: int) -> int:
    """The word at an address. The buffer around it must be pinned."""
    return ctypes.c_uint32.from_address(address).value


def wait(words: Sequence[Word], deadline_ns: int) -> bool:
    """Sleep until one of the words is woken or changed (True), a signal came, or the deadline
    passed.

    It may return for no reason at all. A signal's handler runs as soon as this is back in Python.
    """
    if len(words) > 1 and not WAITV_AVAILABLE:
        words = words[:1]
        deadline_ns = min(deadline_ns, now_ns() + FALLBACK_NS)
    if not AVAILABLE:
        time.sleep(seconds(min(deadline_ns - now_ns(), FALLBACK_NS)))
        return False
    deadline = _Timespec(*divmod(deadline_ns, 1_000_000_000))
    timeout = None if deadline_ns >= FOREVER else ctypes.addressof(deadline)
    if len(words) > 1:
        result = _waitv(words, timeout)
    else:
        ((address, expected),) = words
        result = _futex(address, _FUTEX_WAIT_BITSET, expected, timeout, 0, _MATCH_ANY)
    return result >= 0 or ctypes.get_errno() == errno.EAGAIN


def wake(address: int) -> None:
    """Wake everybody who sleeps on the word, in any process."""
    if AVAILABLE:
        _futex(address, _FUTEX_WAKE, _EVERYBODY, None, 0, 0)


def add_and_wake(address: int, number: int) -> None:
    """Add to the word, atomically, then wake everybody who sleeps on it."""
    _futex(address, _FUTEX_WAKE_OP, _EVERYBODY, None, address, _change(_ADD, number))


def set_bits(address: int, bits: int) -> None:
    """Set bits of the word, atomically. Wakes nobody."""
    _futex(ctypes.addressof(_nobody), _FUTEX_WAKE_OP, 0, None, address, _change(_OR, bits))


def clear_bits(address: int, bits: int) -> None:
    """Clear bits of the word, atomically. Wakes nobody."""
    _futex(ctypes.addressof(_nobody), _FUTEX_WAKE_OP, 0, None, address, _change(_ANDN, bits))
