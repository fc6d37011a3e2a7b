"""Memory of a buffer: pinned, checked, and read and written in whole elements.

An access through a memoryview of the right format is one load or store of the machine for every
aligned element, so no torn value is ever seen. What Python does not offer is order between two
accesses. Strongly ordered machines (x86-64) keep the order of loads and the order of stores by
themselves. Elsewhere, and wherever a store must be seen before a later load, ``fence`` goes
through the atomic operations inside a ``threading.Lock``. That is best effort: it holds on
every CPython and every machine known to us, but no language rule promises it. The compiled core
has real barriers; who needs the promise uses that.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING, Final, Literal

from ._tally import count

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

_CODES: Final[dict[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}
_STRONG: Final = os.uname().machine in ("x86_64", "i686", "i386", "amd64")


def fence() -> None:
    """A full barrier. A fresh lock each time: a shared one could be held for ever after a fork.

    Twice, because one acquire and release let accesses from both sides meet in the middle; a
    release with an acquire behind it does not.
    """
    for _ in range(2):
        lock = threading.Lock()
        lock.acquire()
        lock.release()


if _STRONG:

    def order() -> None:
        """Keep loads in order among themselves, and stores: the machine does."""

    def load(words: memoryview, index: int) -> int:
        """Load with acquire."""
        return words[index]

    def store(words: memoryview, index: int, value: int) -> None:
        """Store with release."""
        words[index] = value

else:
    order = fence

    def load(words: memoryview, index: int) -> int:
        """Load with acquire."""
        value = words[index]
        fence()
        return value

    def store(words: memoryview, index: int, value: int) -> None:
        """Store with release."""
        fence()
        words[index] = value


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer: ctypes' own from_buffer refuses read-only memory, this does not."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_get_buffer.restype = ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None
_PYBUF_SIMPLE: Final = 0


def _address(view: memoryview) -> int:
    raw = _PyBuffer()
    _get_buffer(view, ctypes.byref(raw), _PYBUF_SIMPLE)
    try:
        return raw.buf or 0
    finally:
        _release_buffer(ctypes.byref(raw))


class Pin:
    """A buffer held in place until release(): nobody can close, resize or free it meanwhile."""

    __slots__ = ("_parts", "address", "nbytes", "readonly", "view")

    def __init__(self, buffer: Buffer) -> None:
        self._parts: list[memoryview] | None = None
        try:
            whole = memoryview(buffer)
        except TypeError:
            raise TypeError(
                "expected memory with the buffer protocol (SharedMemory.buf, an mmap, a bytearray, "
                f"a NumPy array ...), not {type(buffer).__name__}"
            ) from None
        if not whole.c_contiguous:
            whole.release()
            raise BufferError(
                "the buffer is not C-contiguous: its elements must lie one after the other, so "
                "pass a contiguous part of it, or its base"
            )
        # A view with a zero in its shape cannot be cast; it has no bytes to look at either.
        self.view = whole.cast("B") if whole.nbytes else memoryview(b"")
        self._parts = [self.view, whole]
        self.nbytes = whole.nbytes
        self.readonly = whole.readonly
        self.address = _address(self.view)
        count("pinned_buffers")

    def words(self, offset: int, width: int, number: int, user: str) -> memoryview:
        """``number`` unsigned elements of ``width`` bytes each at ``offset``, checked for
        ``user``."""
        if self._parts is None:
            raise RuntimeError("the buffer is released")
        end = offset + width * number
        if end > self.nbytes:
            raise ValueError(
                f"the buffer is too short: it has {self.nbytes} bytes, and the {user} needs {end}"
            )
        if (self.address + offset) % width:
            raise ValueError(
                f"the element at offset {offset} is unaligned: its address "
                f"{self.address + offset:#x} is no multiple of its width {width}, so it cannot be "
                "accessed atomically"
            )
        part = self.view[offset:end]
        words = part.cast(_CODES[width])
        self._parts += (part, words)
        return words

    def release(self) -> None:
        """Idempotent."""
        parts, self._parts = self._parts, None
        if parts is not None:
            for part in parts:
                part.release()
            count("pinned_buffers", -1)

    __del__ = release

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
