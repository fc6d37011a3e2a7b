"""What the demo sends: some bytes, cut into words that put together again are the same bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiospin

# A word and the white space behind it. The limit keeps a file without any white space from becoming one
# message that does not fit the ring.
_WORD: Final = re.compile(rb"\S{1,4096}\s{0,4096}|\s{1,4096}")


class EmptyTextError(ValueError):
    """There is nothing to send."""


@dataclass(frozen=True)
class Text:
    """What is sent, and where it came from."""

    source: str
    words: tuple[bytes, ...]
    nbytes: int


def load(file: str | None) -> Text:
    """Read FILE, or aiospin's own sources.

    :raises OSError: the file cannot be read.
    :raises EmptyTextError: it is empty.
    """
    if file is not None:
        content, source = Path(file).read_bytes(), file
    else:
        paths = own_sources()
        content = b"".join(path.read_bytes() for path in paths)
        source = f"aiospin's own {len(paths)} source files"
    if not content:
        raise EmptyTextError(f"{source} is empty: there is nothing to broadcast")
    return Text(source, tuple(split(content)), len(content))


def split(content: bytes) -> list[bytes]:
    """Words, with the white space behind each; joined, they are the content."""
    return _WORD.findall(content)


def own_sources() -> list[Path]:
    """README and sources of the checkout that aiospin runs from, or else the installed modules."""
    package = Path(aiospin.__file__).parent
    modules = sorted(package.rglob("*.py"))
    root = package.parent
    if not (root / "csrc").is_dir() or not (root / "README.md").is_file():
        return modules
    return [root / "README.md", *modules, *sorted((root / "csrc").rglob("*.[ch]"))]
