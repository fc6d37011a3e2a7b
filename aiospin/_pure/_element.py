"""One element type: kind "u", "i", "f" or "?", width in bytes, and byte order.

Turns the raw bits of an element, as an unsigned integer in the machine's byte order, into a
value and back.
"""

from __future__ import annotations

import operator
import struct
import sys
from typing import Any, Final, SupportsFloat, SupportsIndex, final

from .._predicate import Dtype

_CODES: Final = {
    **{("u", width): code for width, code in zip((1, 2, 4, 8), "BHIQ", strict=True)},
    **{("i", width): code for width, code in zip((1, 2, 4, 8), "bhiq", strict=True)},
    **{("f", width): code for width, code in zip((2, 4, 8), "efd", strict=True)},
    ("?", 1): "?",
}
_NATIVE, _OTHER = ("<", ">") if sys.byteorder == "little" else (">", "<")


@final
class Element:
    __slots__ = ("_struct", "dtype", "plain")

    def __init__(self, kind: str, width: int, swapped: bool) -> None:
        code = _CODES.get((kind, width))
        if code is None:
            raise ValueError(
                f"no element has kind {kind!r} and {width} bytes: u and i have 1, 2, 4 or 8, "
                "f has 2, 4 or 8, ? has 1"
            )
        self.dtype: Final = Dtype(kind, width, swapped)
        self._struct: Final = struct.Struct((_OTHER if swapped else _NATIVE) + code)
        self.plain: Final = kind == "u" and not swapped  # the raw bits are the value

    def decode(self, raw: int) -> Any:
        """The value of raw bits: int, float or bool."""
        if self.plain:
            return raw
        return self._struct.unpack(raw.to_bytes(self._struct.size, sys.byteorder))[0]

    def encode(self, operation: str, value: object) -> int:
        """The raw bits of a value, after every check that the type allows."""
        if self.dtype.kind == "f":
            number = self.number(operation, value)
            try:
                return self._pack(number)
            except OverflowError:
                raise ValueError(f"{value!r} does not fit {self.dtype}") from None
        low, high = self.dtype.limits
        integer = self.integer(operation, value)
        if not low <= integer <= high:
            raise ValueError(f"{integer} does not fit {self.dtype}, which holds {low} to {high}")
        return self._pack(integer)

    def add(self, raw: int, n: object) -> int:
        """The raw bits of the sum: integers wrap, floats become infinite."""
        if self.dtype.kind == "?":
            raise TypeError("add needs a number, and this element is a bool: use exchange or store")
        if self.dtype.kind == "f":
            total = self.decode(raw) + self.number("add", n)
            try:
                return self._pack(total)
            except OverflowError:
                return self._pack(float("inf") if total > 0 else float("-inf"))
        modulus = 1 << 8 * self.dtype.width
        total = (self.decode(raw) + self.integer("add", n)) % modulus
        if self.dtype.kind == "i" and total >= modulus // 2:
            total -= modulus
        return self._pack(total)

    def number(self, operation: str, value: object) -> float:
        if not isinstance(value, SupportsFloat) or isinstance(value, (str, bytes)):
            raise TypeError(f"{operation} on {self.dtype} needs a number, not {value!r}")
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{value!r} does not fit {self.dtype}") from None

    def integer(self, operation: str, value: object) -> int:
        if not isinstance(value, SupportsIndex):
            raise TypeError(f"{operation} on {self.dtype} needs an integer, not {value!r}")
        return operator.index(value)

    def _pack(self, value: object) -> int:
        return int.from_bytes(self._struct.pack(value), sys.byteorder)
