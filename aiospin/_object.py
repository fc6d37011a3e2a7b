"""Objects as messages: pickled, with their large buffers beside the pickle; or through a codec.

An object's buffers (PEP 574: those of NumPy arrays, of PickleBuffer) are not copied into the pickle. They
are written straight to where the message lies, aligned, and read from there. docs/layout.md, Formats, has
the bytes.
"""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from aiospin._errors import AiospinError, LayoutError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_dumps: Final = pickle.dumps

# Formats of a record.
BYTES: Final = 0
PICKLE: Final = 1
PICKLE_BUFFERS: Final = 2
CODEC: Final = 3

_NAMES: Final = {
    BYTES: "raw bytes",
    PICKLE: "a pickled object",
    PICKLE_BUFFERS: "a pickled object",
    CODEC: "an object that a codec has encoded",
}

_ALIGN: Final = 64  # bytes; a line, and as much as any instruction wants
_PHASE: Final = 32  # where a payload begins in such a line, in the ring and in a file of its own
_READ_ONLY: Final = 1 << 63  # in the length of a buffer


class Encoder(Protocol):
    """One half of a codec: ``msgspec.msgpack`` is one, ``msgspec.msgpack.Encoder()`` too."""

    def encode(self, obj: Any, /) -> Buffer: ...


class Decoder(Protocol):
    """The other half. What it returns must not refer to the memory that it is given."""

    def decode(self, buf: Any, /) -> Any: ...


class Frame(NamedTuple):
    """A message that is not in one piece."""

    nbytes: int
    parts: list[tuple[int, Any]]
    """What it is made of, flat buffers of bytes, and at which offset."""


def encode(obj: Any, codec: Encoder | None) -> tuple[int, Buffer | Frame]:
    """The format and the message of an object; its buffers are only referred to."""
    if codec is not None:
        return CODEC, codec.encode(obj)
    buffers: list[pickle.PickleBuffer] = []
    pickled = _dumps(obj, 5, buffer_callback=buffers.append)
    return (PICKLE_BUFFERS, _frame(pickled, buffers)) if buffers else (PICKLE, pickled)


def _frame(pickled: bytes, buffers: list[pickle.PickleBuffer]) -> Frame:
    views = [buffer.raw() for buffer in buffers]
    lengths = [view.nbytes | (_READ_ONLY if view.readonly else 0) for view in views]
    head = struct.pack(f"={2 + len(views)}Q", len(views), len(pickled), *lengths)
    parts: list[tuple[int, Any]] = [(0, head + pickled)]
    end = len(head) + len(pickled)
    for view in views:
        begin = _aligned(end)
        parts.append((begin, view))
        end = begin + view.nbytes
    return Frame(end, parts)


def split(message: memoryview, copy: bool) -> tuple[Buffer, list[Buffer]]:
    """The pickle and the buffers of a message, in memory of their own or in place: for pickle.loads().

    :raises LayoutError: it is none that a healthy writer makes.
    """
    nbytes = message.nbytes
    if nbytes < 16:
        raise _corrupt("it is too short")
    count, pickle_length = struct.unpack_from("=2Q", message)
    begin = 16 + 8 * count
    if begin > nbytes or pickle_length > nbytes - begin:
        raise _corrupt(f"{count} buffers and {pickle_length} bytes of pickle do not fit into it")
    end = begin + pickle_length
    pickled = message[begin:end]
    buffers: list[Buffer] = []
    for word in struct.unpack_from(f"={count}Q", message, 16):
        begin, length = _aligned(end), word & ~_READ_ONLY
        end = begin + length
        if end > nbytes:
            raise _corrupt(f"buffer {len(buffers)} with its {length} bytes does not fit into it")
        buffer = message[begin:end]
        if copy:
            buffers.append(bytes(buffer) if word & _READ_ONLY else bytearray(buffer))
        else:
            buffers.append(buffer)
    if end != nbytes:
        raise _corrupt(f"{nbytes - end} bytes are left over")
    return bytes(pickled) if copy else pickled, buffers


def check_codec(codec: Any, method: str) -> None:
    """:raises TypeError: it is not None, and cannot do what is needed of it."""
    if codec is not None and not callable(getattr(codec, method, None)):
        raise TypeError(
            f"codec must be something with a method {method}(), such as msgspec.msgpack, not {codec!r}"
        )


def check_format(format: int, codec: Decoder | None) -> None:
    """Can a reader with this codec, or none, make an object of such a message?

    :raises AiospinError: no.
    """
    if codec is None and format in (PICKLE, PICKLE_BUFFERS):
        return
    if codec is not None and format == CODEC:
        return
    instead = {
        BYTES: "",
        CODEC: ", or give receive_object() that codec",
    }.get(format, ", or receive_object() of a reader without a codec, which unpickles")
    raise AiospinError(
        f"the next message is {_NAMES[format]}, which this receive_object() does not decode: receive() gets its "
        f"bytes{instead}"
    )


def _aligned(offset: int) -> int:
    """Where the next buffer begins, so that its address is a multiple of 64."""
    return (offset + _ALIGN - 1 - _PHASE) // _ALIGN * _ALIGN + _PHASE


def _corrupt(why: str) -> LayoutError:
    return LayoutError(f"the message is no pickle with buffers: {why}")
