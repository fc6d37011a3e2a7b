"""Native predicates: data that says when a word is ready, compiled for a buffer's element type.

A predicate is up to eight terms ("the element at offset 8 is at least 5") and a truth table over
them, so ``&`` and ``|`` nest freely and the compiled core evaluates any combination without a
branch per operator. The program handed to the core is::

    32 bytes             truth table: bit i is the answer when the true terms are the set bits of i
    24 bytes per term    offset u64, operand u64, op u8, kind u8, width u8, elements u8,
                         swapped u8, three zero bytes

The operand holds the value's bits: two's complement sign-extended to 64 bits, or an IEEE 754
double for float elements (already rounded to their precision).
"""

from __future__ import annotations

import operator
import re
import struct
import sys
from dataclasses import dataclass
from typing import Any, Final, Literal, SupportsFloat, SupportsIndex

Elements = Literal["first", "all", "any"]

MAX_TERMS: Final = 8  # the width of the truth table's index: 2**8 bits are 32 bytes
TERM_FORMAT: Final = "<QQ5B3x"

OPS: Final = ("eq", "ne", "lt", "le", "gt", "ge", "bits_set", "bits_clear")
ELEMENTS: Final = ("first", "all", "any")
KINDS: Final = ("u", "i", "f", "?")


@dataclass(frozen=True)
class Dtype:
    """An element type: kind "u", "i", "f" or "?", width in bytes, and whether bytes are swapped."""

    kind: str
    width: int
    swapped: bool = False

    def __str__(self) -> str:
        name = {"u": "uint", "i": "int", "f": "float", "?": "bool"}[self.kind]
        text = name if self.kind == "?" else f"{name}{8 * self.width}"
        return f"byte-swapped {text}" if self.swapped else text

    @property
    def code(self) -> str:
        """The struct code of this element in the machine's byte order."""
        return {"u": "BHIQ", "i": "bhiq", "f": " efd", "?": "?"}[self.kind][
            self.width.bit_length() - 1
        ]

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer that an element holds."""
        if self.kind == "?":
            return 0, 1
        bits = 8 * self.width
        return (
            (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
            if self.kind == "i"
            else (0, (1 << bits) - 1)
        )


_STRUCT_KINDS: Final = {
    **dict.fromkeys("BHILQNc", "u"),
    **dict.fromkeys("bhilqn", "i"),
    **dict.fromkeys("efd", "f"),
    "?": "?",
}
_NUMPY_NAME: Final = re.compile(r"(uint|int|float)(8|16|32|64)|bool_?")
_NUMPY_CODE: Final = re.compile(r"([uif])([1248])|b1")
_SWAPPED_ORDERS: Final = ">!" if sys.byteorder == "little" else "<"


def parse_dtype(dtype: object) -> Dtype:
    """Understand a struct code ("I", "<q"), a NumPy-style name ("uint32", "u4") or a ``numpy.dtype``."""
    if isinstance(dtype, Dtype):
        return dtype
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(dtype, type) and issubclass(dtype, numpy.generic):
        dtype = numpy.dtype(dtype)  # numpy.uint32 is the way most people write it
    text = getattr(dtype, "str", dtype)
    if not isinstance(text, str):
        raise TypeError(
            f"dtype must be a struct code such as 'I' or a name such as 'uint32', not {dtype!r}"
        )
    order, code = (text[0], text[1:]) if text[:1] in tuple("@=<>!|") else ("@", text)
    swapped = order in _SWAPPED_ORDERS
    found: Dtype | None = None
    if len(code) == 1 and code in _STRUCT_KINDS:
        try:
            width = struct.calcsize(("@" if order == "|" else order) + code)
        except struct.error:  # n and N have no standard size
            width = 0
        if width:
            found = Dtype(_STRUCT_KINDS[code], width, swapped and width > 1)
    elif (match := _NUMPY_CODE.fullmatch(code)) or (match := _NUMPY_NAME.fullmatch(code)):
        if match[1] is None:
            found = Dtype("?", 1)
        else:
            width = int(match[2]) if len(match[1]) == 1 else int(match[2]) // 8
            if not (match[1][0] == "f" and width == 1):
                found = Dtype(match[1][0], width, swapped and width > 1)
    if found is None:
        raise ValueError(
            f"unknown dtype {text!r}: use a struct code (b B h H i I l L q Q e f d ?) or a name such as "
            "'uint8', 'int32', 'u8', 'float64', 'bool'"
        )
    return found


def buffer_dtype(struct_format: str | None, itemsize: int) -> Dtype:
    """The element type of a buffer, from its own format; the itemsize decides where ctypes' formats lie."""
    text = struct_format or "B"
    order, code = (text[0], text[1:]) if text[:1] in tuple("@=<>!") else ("@", text)
    kind = _STRUCT_KINDS.get(code)
    if kind is None or itemsize not in (1, 2, 4, 8):
        raise ValueError(
            f"the buffer's elements have the format {text!r} ({itemsize} bytes), which is no number of "
            "width 1, 2, 4 or 8: say which word is meant with dtype= (and offset=)"
        )
    return Dtype(kind, itemsize, order in _SWAPPED_ORDERS and itemsize > 1)


def dtype_of_buffer(buf: Any) -> Dtype:
    """The element type of a buffer.

    :raises TypeError: no buffer.
    :raises ValueError: a buffer whose elements are no numbers.
    """
    try:
        view = memoryview(buf)
    except TypeError:
        raise TypeError(
            f"a buffer is needed (SharedMemory.buf, mmap, bytearray, a NumPy array ...), not {type(buf)!r}"
        ) from None
    with view:
        return buffer_dtype(view.format, view.itemsize)


def _check_value(op: str, value: object, dtype: Dtype) -> int:
    """The operand bits of a value, after every check that its dtype allows."""
    if dtype.kind == "f":
        if op.startswith("bits_"):
            raise TypeError(f"{op} needs an integer dtype, not {dtype}")
        if not isinstance(value, SupportsFloat) or isinstance(value, (str, bytes)):
            raise TypeError(f"{op} on {dtype} needs a number, not {value!r}")
        # "<", because a native "f" turns what does not fit into infinity
        code = "<" + {2: "e", 4: "f", 8: "d"}[dtype.width]
        try:
            (number,) = struct.unpack(code, struct.pack(code, float(value)))
        except OverflowError:
            raise ValueError(f"{value!r} does not fit {dtype}") from None
        return int(struct.unpack("<Q", struct.pack("<d", number))[0])
    if not isinstance(value, SupportsIndex):
        raise TypeError(f"{op} on {dtype} needs an integer, not {value!r}")
    integer = operator.index(value)
    low, high = dtype.limits
    if op.startswith("bits_") and dtype.kind == "i":
        high = (1 << (8 * dtype.width)) - 1  # a mask may name the sign bit either way
    if not low <= integer <= high:
        raise ValueError(f"{integer} does not fit {dtype}, which holds {low} to {high}")
    if op.startswith("bits_") and integer >= 0 and dtype.kind == "i":
        integer -= (integer >> (8 * dtype.width - 1)) << (8 * dtype.width)
    return integer & 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True)
class Term:
    """One comparison. ``dtype`` None means the buffer's own."""

    op: str
    value: Any
    dtype: Dtype | None
    offset: int
    elements: Elements

    def pack(self, default: Dtype | None) -> bytes:
        dtype = self.dtype or default
        assert dtype is not None
        return struct.pack(
            TERM_FORMAT,
            self.offset,
            _check_value(self.op, self.value, dtype),
            OPS.index(self.op),
            KINDS.index(dtype.kind),
            dtype.width,
            ELEMENTS.index(self.elements),
            dtype.swapped,
        )

    def __str__(self) -> str:
        extras = "".join(
            f", {name}={value!s}"
            for name, value, default in (
                ("dtype", self.dtype, None),
                ("offset", self.offset, 0),
                ("elements", self.elements, "first"),
            )
            if value != default
        )
        return f"{self.op}({self.value!r}{extras})"


class Predicate:
    """When a word is ready. Made by :func:`eq`, :func:`ge` and their kin, combined with ``&`` and
    ``|``.

    Immutable, hashable, and reusable for any number of waits on any buffers.
    """

    __slots__ = ("_programs", "_table", "_terms", "_text")

    def __init__(self, terms: tuple[Term, ...], table: int, text: str) -> None:
        self._terms = terms
        self._table = table
        self._text = text
        # by default element type; None where every term names its own
        self._programs: dict[object, bytes] = {}
        if all(term.dtype for term in terms):
            self._programs[None] = self._compile(None)

    def _compile(self, default: Dtype | None) -> bytes:
        return self._table.to_bytes(32, "little") + b"".join(
            term.pack(default) for term in self._terms
        )

    def program_for(self, buf: Any, default: Dtype | None = None) -> bytes:
        """The bytes that the core evaluates on this buffer.

        :param default: element type of terms without one; the buffer's own when None.
        :raises TypeError: no buffer.
        :raises ValueError: a buffer whose elements are no numbers, or a value that does not fit
            them.
        """
        program = self._programs.get(None)
        if program is not None:
            return program
        key = dtype_of_buffer(buf) if default is None else default
        program = self._programs.get(key)
        if program is None:
            program = self._compile(key)
            self._programs[key] = program
        return program

    def _combine(self, other: Predicate, symbol: str) -> Predicate:
        if not isinstance(other, Predicate):
            return NotImplemented
        terms = self._terms + other._terms
        if len(terms) > MAX_TERMS:
            raise ValueError(
                f"a predicate combines at most {MAX_TERMS} comparisons, this one has {len(terms)}"
            )
        left_count = len(self._terms)
        table = 0
        for row in range(1 << len(terms)):
            left = self._table >> (row & ((1 << left_count) - 1)) & 1
            right = other._table >> (row >> left_count) & 1
            table |= (left & right if symbol == "&" else left | right) << row
        return Predicate(terms, table, f"({self._text} {symbol} {other._text})")

    def __and__(self, other: Predicate) -> Predicate:
        return self._combine(other, "&")

    def __or__(self, other: Predicate) -> Predicate:
        return self._combine(other, "|")

    def __bool__(self) -> bool:
        raise TypeError(
            "a predicate has no truth value by itself: combine predicates with & and |, not with "
            "'and' and 'or', and pass it to the wait instead of returning it from a callable"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Predicate):
            return NotImplemented
        return (self._terms, self._table) == (other._terms, other._table)

    def __hash__(self) -> int:
        return hash((self._terms, self._table))

    def __repr__(self) -> str:
        return f"<aiospin predicate {self._text}>"


def check_offset(offset: object) -> int:
    """An offset in bytes.

    :raises TypeError: no integer.
    :raises ValueError: negative, or beyond any buffer.
    """
    if isinstance(offset, bool) or not isinstance(offset, SupportsIndex):
        raise TypeError(f"offset must be a whole number of bytes, not {offset!r}")
    value = operator.index(offset)
    if value < 0:
        raise ValueError(f"offset must be at least 0 bytes, not {value}")
    if value >= 1 << 63:
        raise ValueError(f"offset must be less than 2**63 bytes, not {value}")
    return value


def _scalar(value: Any) -> Any:
    """A NumPy scalar as the Python number that it is; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


def _term(op: str, value: Any, dtype: object, offset: int, elements: Elements) -> Predicate:
    if elements not in ELEMENTS:
        raise ValueError(f"elements must be 'first', 'all' or 'any', not {elements!r}")
    offset = check_offset(offset)
    value = _scalar(value)
    if not isinstance(value, (SupportsIndex, SupportsFloat)) or isinstance(value, (str, bytes)):
        raise TypeError(f"{op} compares with a number, not with {value!r}")
    if value != value:
        raise ValueError(f"{op}(nan) can never be met sensibly: NaN compares false with everything")
    parsed = None if dtype is None else parse_dtype(dtype)
    term = Term(op, value, parsed, offset, elements)
    if parsed is not None:
        term.pack(None)  # a value that does not fit is refused here, where it was written
    return Predicate((term,), 0b10, str(term))


_DOC = """{meaning}

    :param value: the number to compare with; must fit the element type.
    :param dtype: element type, as a struct code ("I", "q") or a NumPy-style name ("uint32"); taken from
        the buffer's own format when not given.
    :param offset: where the first element lies, in bytes from the start of the buffer.
    :param elements: "first" looks at the one element at ``offset``; "all" and "any" at every element
        from there to the end of the buffer.
    :raises ValueError: unknown dtype, negative offset, or a value that does not fit the dtype.
    :raises TypeError: a value that is no number of the dtype's kind.
    """


def eq(
    value: float, *, dtype: object = None, offset: int = 0, elements: Elements = "first"
) -> Predicate:
    return _term("eq", value, dtype, offset, elements)


def ne(
    value: float, *, dtype: object = None, offset: int = 0, elements: Elements = "first"
) -> Predicate:
    return _term("ne", value, dtype, offset, elements)


def lt(
    value: float, *, dtype: object = None, offset: int = 0, elements: Elements = "first"
) -> Predicate:
    return _term("lt", value, dtype, offset, elements)


def le(
    value: float, *, dtype: object = None, offset: int = 0, elements: Elements = "first"
) -> Predicate:
    return _term("le", value, dtype, offset, elements)


def gt(
    value: float, *, dtype: object = None, offset: int = 0, elements: Elements = "first"
) -> Predicate:
    return _term("gt", value, dtype, offset, elements)


def ge(
    value: float, *, dtype: object = None, offset: int = 0, elements: Elements = "first"
) -> Predicate:
    return _term("ge", value, dtype, offset, elements)


def bits_set(
    value: int, *, dtype: object = None, offset: int = 0, elements: Elements = "first"
) -> Predicate:
    return _term("bits_set", value, dtype, offset, elements)


def bits_clear(
    value: int, *, dtype: object = None, offset: int = 0, elements: Elements = "first"
) -> Predicate:
    return _term("bits_clear", value, dtype, offset, elements)


for _function, _meaning in (
    (eq, "Ready when the element equals ``value``."),
    (ne, "Ready when the element differs from ``value``."),
    (lt, "Ready when the element is less than ``value``."),
    (le, "Ready when the element is less than or equal to ``value``."),
    (gt, "Ready when the element is greater than ``value``."),
    (ge, "Ready when the element is greater than or equal to ``value``."),
    (bits_set, "Ready when every bit of the mask ``value`` is set in the element."),
    (bits_clear, "Ready when every bit of the mask ``value`` is clear in the element."),
):
    _function.__doc__ = _DOC.format(meaning=_meaning)
