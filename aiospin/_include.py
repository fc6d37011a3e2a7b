"""Where the C header of the broadcast is."""

from __future__ import annotations

from pathlib import Path


def get_include() -> str:
    """The folder for a C compiler's ``-I``: with it, ``#include <aiospin/broadcast.h>`` is found."""
    package = Path(__file__).parent
    installed = package / "include"
    # In the source tree it lies with the C code, and setup.py puts it into the package.
    return str(installed if installed.is_dir() else package.parent / "csrc" / "include")
