"""What one wait looks at, as the wait loop and the waiter see it (csrc/core/watch.h)."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final

from .._predicate import ELEMENTS, KINDS, MAX_TERMS, OPS, TERM_FORMAT
from . import _futex
from ._buffer import Pin
from ._element import Element

if TYPE_CHECKING:
    from typing_extensions import Buffer

Value: TypeAlias = "int | float | bool | None"


class Watch(Protocol):
    """A predicate over a buffer, a snapshot of one, a ring's reading or writing end."""

    @property
    def notified(self) -> bool:
        """Somebody knocks after a change, so that a sleeper need not look by itself."""

    @property
    def value(self) -> Value:
        """What the last successful look observed."""

    def look(self) -> bool:
        """Is it ready? One thread at a time; never blocks and never raises."""

    def prepare(self) -> Sequence[_futex.Word]:
        """Announce a park and say on which words. None of them: nobody knocks, or there are
        more words than one call takes. The caller looks once more before it sleeps."""

    def release(self) -> None:
        """Let go of the memory. Idempotent."""


def _bits_set(value: int, mask: int) -> bool:
    return value & mask == mask


def _bits_clear(value: int, mask: int) -> bool:
    return not value & mask


_TESTS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    **{name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "bits_set": _bits_set,
    "bits_clear": _bits_clear,
}
_TABLE_BYTES: Final = 1 << MAX_TERMS >> 3


@final
class _Term:
    """One comparison of the program, bound to the buffer."""

    __slots__ = ("_decode", "_elements", "_operand", "_test", "_words", "end", "offset")

    def __init__(self, pin: Pin, packed: bytes) -> None:
        offset, bits, op, kind, width, elements, swapped = struct.unpack(TERM_FORMAT, packed)
        if not (op < len(OPS) and kind < len(KINDS) and elements < len(ELEMENTS)):
            raise ValueError(
                f"malformed predicate program: op {op}, kind {kind}, elements {elements}"
            )
        element = Element(KINDS[kind], width, bool(swapped))
        self._elements = ELEMENTS[elements]
        number = 1 if self._elements == "first" else max(1, (pin.nbytes - offset) // width)
        self._words = pin.words(offset, width, number, "predicate")
        self._decode = None if element.plain else element.decode
        self._test = _TESTS[OPS[op]]
        # The operand has 64 bits whatever the width: already sign-extended, or a double.
        self._operand = Element(KINDS[kind], 1 if KINDS[kind] == "?" else 8, False).decode(bits)
        self.offset: Final = offset
        self.end: Final = offset + width * number

    def match(self) -> Value:
        """The element that makes it true (of "all", the first), None when it is not true."""
        test, operand, decode, words = self._test, self._operand, self._decode, self._words
        if self._elements == "first":
            value = decode(words[0]) if decode else words[0]
            return value if test(value, operand) else None
        if self._elements == "any":
            for value in map(decode, words) if decode else words:
                if test(value, operand):
                    return value
            return None
        first: Value = None
        for value in map(decode, words) if decode else words:
            if not test(value, operand):
                return None
            if first is None:
                first = value
        return first


class _Memory:
    """A pinned buffer whose own words are the ones to sleep on: Word.notify() wakes them."""

    def __init__(self, buffer: Buffer, notified: bool) -> None:
        self._pin = Pin(buffer)
        self.notified = notified
        self._parking: tuple[int, ...] = ()

    def _park_over(self, *ranges: tuple[int, int]) -> None:
        """Sleep on every aligned 32-bit word that these ranges of offsets touch."""
        if not (self.notified and _futex.AVAILABLE):
            return
        base = self._pin.address
        words: set[int] = set()
        for begin, end in ranges:
            if end - begin > 4 * _futex.MAX_WORDS:
                return
            words.update(range(base + begin & ~3, base + end, 4))
        if len(words) <= _futex.MAX_WORDS:
            self._parking = tuple(sorted(words))

    def prepare(self) -> Sequence[_futex.Word]:
        return [_futex.Word(address, _futex.peek(address)) for address in self._parking]

    def release(self) -> None:
        self._pin.release()


@final
class PredicateWatch(_Memory):
    """A compiled predicate (see aiospin._predicate) over a buffer."""

    def __init__(self, buffer: Buffer, program: bytes, notified: bool) -> None:
        size = struct.calcsize(TERM_FORMAT)
        terms, rest = divmod(len(program) - _TABLE_BYTES, size)
        if rest or not 1 <= terms <= MAX_TERMS:
            raise ValueError(f"malformed predicate program: {len(program)} bytes")
        super().__init__(buffer, notified)
        self.value: Value = None
        self._table = int.from_bytes(program[:_TABLE_BYTES], "little")
        try:
            self._terms = [
                _Term(self._pin, program[begin : begin + size])
                for begin in range(_TABLE_BYTES, len(program), size)
            ]
        except BaseException:
            self._pin.release()
            raise
        self._park_over(*((term.offset, term.end) for term in self._terms))

    def look(self) -> bool:
        row = 0
        observed: Value = None
        for index, term in enumerate(self._terms):
            value = term.match()
            if value is not None:
                row |= 1 << index
                if observed is None:
                    observed = value
        if self._table >> row & 1:
            self.value = observed
            return True
        return False


@final
class SnapshotWatch(_Memory):
    """Ready when any byte of the buffer is another than at the last look that said so."""

    value = None

    def __init__(self, buffer: Buffer, notified: bool) -> None:
        super().__init__(buffer, notified)
        self._snapshot = self._pin.view.tobytes()
        self._park_over((0, self._pin.nbytes))

    def look(self) -> bool:
        current = self._pin.view.tobytes()
        if current == self._snapshot:
            return False
        self._snapshot = current
        return True
