"""Native predicates by their public constructors: what they accept, what they see, what they say."""

from __future__ import annotations

import array
import ctypes
import mmap
import operator
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import aiospin
from aiospin import (
    Predicate,
    bits_clear,
    bits_set,
    eq,
    ge,
    gt,
    le,
    lt,
    ne,
    wait_for_flag_sync,
)

ALL = (eq, ne, lt, le, gt, ge, bits_set, bits_clear)
ORDERED = {eq: operator.eq, ne: operator.ne, lt: operator.lt, le: operator.le, gt: operator.gt,
           ge: operator.ge}  # fmt: skip
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
FLOATS = ["float16", "float32", "float64"]

Operation = Callable[..., Predicate]


def look(buffer: Any, predicate: Predicate) -> Any:
    """What a look sees; None when the predicate does not hold."""
    try:
        return wait_for_flag_sync(buffer, predicate, 0)
    except TimeoutError:
        return None


# ---- what they see ----


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("operation", ORDERED, ids=lambda operation: operation.__name__)
def test_comparisons(operation: Operation, order: str, dtype: str) -> None:
    kind = np.dtype(dtype).newbyteorder(order)
    seen: list[Any] = [0, 1, 5, 100]
    if not dtype.startswith("u"):
        seen += [-1, -100]
    if dtype.startswith("float"):
        seen += [0.5, float("inf"), float("-inf")]
    for value in seen:
        data = np.array([value], dtype=kind)
        for operand in (5, 0, *(() if dtype.startswith("u") else (-1,))):
            expected = ORDERED[operation](value, operand)
            found = look(data.view("u1"), operation(operand, dtype=kind))
            assert found == (value if expected else None)
            if found is not None:
                assert type(found) is (float if dtype.startswith("float") else int)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_limits_of_an_integer(dtype: str) -> None:
    limits = np.iinfo(dtype)
    for value in (limits.min, limits.max):
        data = np.array([value], dtype=dtype)
        assert look(data, eq(value)) == value
        assert look(data, ne(value)) is None
        assert (look(data, lt(limits.max)) is None) == (value == limits.max)
        assert (look(data, gt(limits.min)) is None) == (value == limits.min)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bits(dtype: str) -> None:
    top = 1 << (8 * np.dtype(dtype).itemsize - 1)
    seen = -top if dtype.startswith("i") else top
    data = np.array([seen], dtype=dtype)
    assert look(data, bits_set(top, dtype=dtype)) == seen
    assert look(data, bits_set(top | 1, dtype=dtype)) is None
    assert look(data, bits_set(0, dtype=dtype)) == seen
    assert look(data, bits_clear(1, dtype=dtype)) == seen
    assert look(data, bits_clear(top, dtype=dtype)) is None
    if dtype.startswith("i"):
        assert look(data, bits_set(-top, dtype=dtype)) == seen
        assert bits_set(-1, dtype=dtype) != bits_set(top, dtype=dtype)


def test_a_bool() -> None:
    for raw in (0, 1, 2, 255):
        data = bytearray([raw])
        found = look(data, eq(True, dtype="?"))
        assert found is (True if raw else None)
        assert look(data, eq(False, dtype="bool")) is (None if raw else False)
        assert look(data, ne(False, dtype=np.dtype("bool"))) is (True if raw else None)


def test_nan_in_memory_equals_nothing() -> None:
    data = array.array("d", [float("nan")])
    for operation in (eq, lt, le, gt, ge):
        assert look(data, operation(1.0)) is None
    assert look(data, ne(1.0)) != look(data, ne(1.0))  # NaN itself


def test_a_float_operand_is_rounded_to_its_element() -> None:
    """A writer that stores 0.1 stores the nearest float32; eq(0.1) has to see it."""
    data = struct.pack("f", 0.1)
    assert look(bytearray(data), eq(0.1, dtype="float32")) == struct.unpack("f", data)[0]


@pytest.mark.parametrize(
    ("predicate", "seen"),
    [
        (eq(1, dtype="I"), None),
        (eq(2, dtype="I"), 2),
        (eq(1, dtype="I", elements="any"), 1),
        (ge(3, dtype="I", elements="any"), 3),
        (ge(0, dtype="I", elements="all"), 2),
        (ge(1, dtype="I", elements="all"), None),
        (eq(3, dtype="I", offset=8), 3),
        (le(1, dtype="I", offset=4, elements="all"), None),
        (le(3, dtype="I", offset=4, elements="all"), 1),
        (eq(2, dtype="I", offset=4, elements="any"), None),
        (eq(3, dtype="Q", offset=8), 3),
    ],
    ids=repr,
)
def test_elements_and_offset(predicate: Predicate, seen: int | None) -> None:
    assert look(array.array("I", [2, 1, 3, 0]), predicate & ge(0, dtype="I", offset=12)) == seen


def test_elements_reach_as_far_as_whole_ones_go() -> None:
    data = bytearray(struct.pack("HHB", 1, 1, 9))
    assert look(data, eq(1, dtype="H", elements="all")) == 1


def test_elements_of_several_dimensions() -> None:
    data = np.zeros((3, 4), dtype="u2")
    data[2, 3] = 7
    assert look(data, eq(7, elements="any")) == 7
    assert look(data, eq(7, elements="all")) is None


def test_and_or_with_several_dtypes() -> None:
    data = bytearray(struct.pack("<IHxxdq", 5, 6, 7.5, -8))
    first, second = eq(5, dtype="I"), eq(6, dtype="H", offset=4)
    third, fourth = gt(7, dtype="d", offset=8), lt(0, dtype="q", offset=16)
    no = eq(0, dtype="I")
    assert look(data, first & second & third & fourth) == 5
    assert look(data, no | second) == 6, "the leftmost that is true speaks"
    assert look(data, (no | third) & fourth) == 7.5
    assert look(data, no | (first & no) | fourth) == 5 or look(data, no | fourth) == -8
    assert look(data, no & first) is None
    assert look(data, (no & first) | (first & no)) is None
    assert look(data, (no | first) & (second | no)) == 5


def test_eight_comparisons_and_no_more() -> None:
    eight = eq(0, dtype="B")
    for offset in range(1, 8):
        eight &= eq(offset, dtype="B", offset=offset)
    data = bytearray(range(8))
    assert look(data, eight) == 0
    data[7] = 0
    assert look(data, eight) is None
    for combine in (operator.and_, operator.or_):
        with pytest.raises(ValueError, match="at most 8 comparisons, this one has 9"):
            combine(eight, eq(1))
        with pytest.raises(ValueError, match="this one has 16"):
            combine(eight, eight)


@pytest.mark.parametrize(
    "buffer",
    [
        array.array("i", [-3, 1]),
        np.array([-3, 1], dtype="i4"),
        np.array([-3, 1], dtype=">i4"),
        (ctypes.c_int32 * 2)(-3, 1),
        memoryview(struct.pack("ii", -3, 1)).cast("i"),
    ],
    ids=["array", "numpy", "numpy big-endian", "ctypes", "read-only memoryview"],
)
def test_the_buffers_own_dtype(buffer: Any) -> None:
    assert look(buffer, eq(-3)) == -3
    assert look(buffer, ge(-2)) is None
    assert look(buffer, eq(1, offset=4)) == 1
    assert look(buffer, lt(5, elements="all")) == -3


def test_buffers_without_a_format_are_bytes() -> None:
    with mmap.mmap(-1, 4096) as memory:
        memory[0] = 200
        for buffer in (memory, bytes(memory), bytearray(memory), memoryview(memory)):
            assert look(buffer, eq(200)) == 200
            if isinstance(buffer, memoryview):
                buffer.release()


@pytest.mark.parametrize(
    ("names", "width"),
    [
        (["b", "B", "int8", "uint8", "i1", "u1", "c", "?", "bool", "bool_", "b1", "|u1"], 1),
        (["h", "H", "e", "int16", "float16", "<u2", ">u2", "=h", "!H", "f2"], 2),
        (["i", "I", "f", "=l", "<L", "float32", "uint32", "u4", "@I", ">i4"], 4),
        (["q", "Q", "d", "l", "n", "N", "float64", "int64", "u8", "f8", "!d"], 8),
    ],
)
def test_names_of_dtypes(names: list[str], width: int) -> None:
    for name in names:
        predicate = eq(1, dtype=name)
        look(bytearray(8)[:width], predicate)
        with pytest.raises(ValueError, match="too short"):
            look(bytearray(8)[: width - 1], predicate)


@pytest.mark.parametrize("name", ["u4", ">i8", "f2", "float64", "bool", "uint16"])
def test_numpys_own_dtypes(name: str) -> None:
    dtype = np.dtype(name)
    data = np.ones(1, dtype=dtype)
    assert look(data.view("u1"), eq(1, dtype=dtype)) == 1
    assert eq(1, dtype=dtype) == eq(1, dtype=dtype.str)


# ---- what they refuse ----


@pytest.mark.parametrize(
    "dtype", ["x", "", "uint33", "u3", "f1", "int", "complex64", "II", "<", ">n", "4s", "float8"]
)
def test_an_unknown_dtype(dtype: str) -> None:
    with pytest.raises(ValueError, match="unknown dtype") as caught:
        eq(1, dtype=dtype)
    assert "uint8" in str(caught.value), "it says what would be right"


@pytest.mark.parametrize("dtype", [4, b"I", int, object()])
def test_no_dtype_at_all(dtype: object) -> None:
    with pytest.raises(TypeError, match="dtype must be a struct code such as 'I'"):
        eq(1, dtype=dtype)


@pytest.mark.parametrize(
    ("value", "dtype", "limits"),
    [
        (256, "uint8", "0 to 255"),
        (-1, "uint8", "0 to 255"),
        (128, "int8", "-128 to 127"),
        (-(1 << 63) - 1, "q", "to 9223372036854775807"),
        (1 << 64, "Q", "0 to 18446744073709551615"),
        (2, "?", "0 to 1"),
        (10**40, "u4", "0 to 4294967295"),
    ],
)
@pytest.mark.parametrize("operation", ALL, ids=lambda operation: operation.__name__)
def test_a_value_that_does_not_fit(
    operation: Operation, value: int, dtype: str, limits: str
) -> None:
    if operation in (bits_set, bits_clear) and (value, dtype) == (128, "int8"):
        assert operation(value, dtype=dtype) == operation(value, dtype=dtype)  # the sign bit
        return
    with pytest.raises(ValueError, match=rf"{value} does not fit|which holds .*{limits}"):
        operation(value, dtype=dtype)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1e39, "float32"), (70000.0, "float16"), (10**400, "float64")],
    ids=["float32", "float16", "float64"],
)
def test_a_float_that_does_not_fit(value: float, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"does not fit {dtype}"):
        ge(value, dtype=dtype)


def test_a_value_is_checked_against_the_buffer_when_that_names_the_dtype() -> None:
    assert look(array.array("H", [300]), eq(300)) == 300
    with pytest.raises(ValueError, match="300 does not fit uint8, which holds 0 to 255"):
        look(bytearray(8), eq(300))


@pytest.mark.parametrize("value", [1.0, 0.5, np.float32(1)])
def test_a_float_for_an_integer(value: float) -> None:
    with pytest.raises(TypeError, match="eq on uint32 needs an integer"):
        eq(value, dtype="uint32")


@pytest.mark.parametrize("value", ["1", b"1", None, [1], object()])
def test_a_value_that_is_no_number(value: Any) -> None:
    with pytest.raises(TypeError, match="eq compares with a number"):
        eq(value)
    with pytest.raises(TypeError, match="eq compares with a number"):
        eq(value, dtype="float64")


def test_nan() -> None:
    for operation in (eq, ne, lt, le, gt, ge):
        with pytest.raises(ValueError, match=rf"{operation.__name__}\(nan\)"):
            operation(float("nan"), dtype="float64")
        with pytest.raises(ValueError, match=rf"{operation.__name__}\(nan\)"):
            operation(float("nan"))


@pytest.mark.parametrize("operation", [bits_set, bits_clear])
def test_bits_of_a_float(operation: Operation) -> None:
    with pytest.raises(TypeError, match=f"{operation.__name__} needs an integer dtype, not float"):
        operation(1, dtype="float32")
    with pytest.raises(TypeError, match="needs an integer"):
        look(array.array("d", [1.0]), operation(1))


@pytest.mark.parametrize("elements", ["every", "", None, 1, "First"])
def test_bad_elements(elements: Any) -> None:
    with pytest.raises(ValueError, match="elements must be 'first', 'all' or 'any'"):
        eq(1, elements=elements)


def test_a_bad_offset() -> None:
    for offset in (-1, 1 << 63):
        with pytest.raises(ValueError, match=r"offset must be (at least 0|less than 2..63) bytes"):
            eq(1, offset=offset)
    for wrong in ("0", 1.0, None):
        with pytest.raises(TypeError, match="offset must be a whole number of bytes"):
            eq(1, offset=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["H", "I", "Q", "d"])
def test_an_unaligned_element(dtype: str) -> None:
    with pytest.raises(ValueError, match=r"offset 1 is unaligned.*atomic"):
        look(bytearray(64), eq(1, dtype=dtype, offset=1))
    memory = mmap.mmap(-1, 4096)
    with memory, memoryview(memory) as whole, whole[2:] as part:
        assert look(part, eq(0, dtype="I", offset=2)) == 0, "the address counts, not the offset"
        with pytest.raises(ValueError, match="unaligned"):
            look(part, eq(0, dtype="I"))


@pytest.mark.parametrize("elements", ["first", "all", "any"])
def test_a_buffer_that_is_too_short(elements: Any) -> None:
    for nbytes, offset in ((0, 0), (3, 0), (4, 4), (4, 1 << 40), (8, (1 << 63) - 1)):
        with pytest.raises(ValueError, match="the buffer is too short"):
            look(bytearray(nbytes), eq(1, dtype="I", offset=offset, elements=elements))


@pytest.mark.parametrize("buffer", [None, 5, "text", [1], object()])
def test_no_buffer(buffer: Any) -> None:
    for predicate in (eq(1), eq(1, dtype="I")):
        with pytest.raises(TypeError, match=r"SharedMemory\.buf, .*mmap, .*bytearray"):
            look(buffer, predicate)


def test_a_buffer_with_gaps() -> None:
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        look(np.zeros(16, dtype="u4")[::2], eq(1))
    with pytest.raises((BufferError, ValueError), match="contiguous"):
        look(memoryview(bytearray(16))[::2], eq(1, dtype="I"))


def test_a_released_or_closed_buffer() -> None:
    view = memoryview(bytearray(8))
    view.release()
    with pytest.raises(ValueError, match="released"):
        look(view, eq(1, dtype="I"))
    memory = mmap.mmap(-1, 4096)
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        look(memory, eq(1, dtype="I"))


def test_a_buffer_whose_elements_are_no_numbers() -> None:
    for buffer in (np.zeros(2, dtype="c16"), np.zeros(2, dtype="i4,f4")):
        with pytest.raises(ValueError, match=r"say which word is meant with dtype="):
            look(buffer, eq(1))
        assert look(buffer, eq(0, dtype="I")) == 0


def test_and_or_or_not_instead_of_operators() -> None:
    predicate = eq(1)
    for misuse in (
        lambda: predicate and ne(2),
        lambda: predicate or ne(2),
        lambda: not predicate,
        lambda: bool(predicate),
        lambda: 0 if predicate else 1,
    ):
        with pytest.raises(TypeError, match=r"combine predicates with & and \|"):
            misuse()


@pytest.mark.parametrize("combine", [operator.and_, operator.or_])
@pytest.mark.parametrize("other", [1, True, None, "x", lambda: True])
def test_combined_with_something_else(combine: Callable[..., Any], other: Any) -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        combine(eq(1), other)
    with pytest.raises(TypeError, match="unsupported operand"):
        combine(other, eq(1))


def test_no_predicate() -> None:
    for wrong in (1, True, None, "x"):
        with pytest.raises(TypeError, match="the predicate must be a native one"):
            look(bytearray(4), wrong)  # type: ignore[arg-type]


# ---- as objects ----


def test_equality_and_hash() -> None:
    made = [
        eq(1), eq(2), ne(1), eq(1, dtype="I"), eq(1, dtype="i"), eq(1, offset=4),
        eq(1, elements="all"), eq(1, dtype=">I"), eq(1) & eq(2), eq(1) | eq(2), eq(2) & eq(1),
        bits_set(1), bits_clear(1),
    ]  # fmt: skip
    assert len(set(made)) == len(made)
    for i, one in enumerate(made):
        for j, other in enumerate(made):
            assert (one == other) is (i == j)
            assert (one != other) is (i != j)
    assert eq(1, dtype="I") == eq(1, dtype="uint32") == eq(1, dtype="u4")
    assert hash(eq(1, dtype="I")) == hash(eq(1, dtype="uint32"))
    assert eq(1) & ne(2) == eq(1) & ne(2)
    assert eq(1) != "eq(1)"


def test_repr() -> None:
    assert repr(eq(1)) == "<aiospin predicate eq(1)>"
    predicate = (ge(5, dtype="I", offset=8) | eq(0, elements="any")) & bits_set(3, dtype=">H")
    assert repr(predicate) == (
        "<aiospin predicate ((ge(5, dtype=uint32, offset=8) | eq(0, elements=any))"
        " & bits_set(3, dtype=byte-swapped uint16))>"
    )


def test_reuse_on_buffers_of_different_dtypes() -> None:
    predicate = eq(200)
    assert look(bytearray([200]), predicate) == 200
    assert look(array.array("H", [200]), predicate) == 200
    assert look(array.array("d", [200.0]), predicate) == 200.0
    with pytest.raises(ValueError, match="200 does not fit int8"):
        look(array.array("b", [1]), predicate)
    assert look(bytearray([200]), predicate) == 200


def test_the_public_name() -> None:
    assert isinstance(eq(1) & eq(2), aiospin.Predicate)
    assert eq.__doc__ is not None
    assert "equals" in eq.__doc__


# ---- NumPy's scalars ----


@pytest.mark.parametrize(
    ("data", "value", "where", "seen"),
    [
        (b"\1", np.True_, {"dtype": "?"}, True),
        (np.uint32(3).tobytes(), np.int64(3), {"dtype": np.uint32}, 3),
        (np.float32(0.5).tobytes(), np.float16(0.5), {"dtype": np.float32}, 0.5),
        (b"\0\7", np.array(7), {"dtype": "B", "offset": np.int32(1)}, 7),
    ],
    ids=["bool", "integer", "float", "array of no dimensions"],
)
def test_numpys_scalars(data: bytes, value: Any, where: dict[str, Any], seen: Any) -> None:
    assert look(np.frombuffer(data, dtype="u1"), eq(value, **where)) == seen
