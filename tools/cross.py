"""The cross compiler: zig's C compiler, which brings the C libraries of its targets along.

    python tools/cross.py TARGET       prints a compiler's path; TARGET as aarch64-linux-musl

It comes from PyPI as ziglang and is kept in build/cross: no root, no distribution is needed.
Beside the compiler, TARGET-cc, lies its archiver, TARGET-ar. Where it cannot be had the exit status is 77.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from prerequisite import UnavailableError, alone, output, script, skip

FOLDER = Path(__file__).resolve().parent.parent / "build" / "cross"


def zig() -> Path:
    folder = FOLDER / "zig"
    with alone(FOLDER):
        if not folder.exists():
            # Only a folder that has everything gets its name.
            partial = FOLDER / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            output(
                sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install",
                "--quiet", "--only-binary=:all:", "--target", partial, "ziglang",
            )  # fmt: skip
            partial.rename(folder)
    return folder / "ziglang" / "zig"


def compiler(target: str) -> Path:
    """A C compiler for this target: a single word for CC."""
    program, cache = zig(), FOLDER / "cache"
    caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    script(FOLDER / f"{target}-ar", [program, "ar"], **caches)
    return script(FOLDER / f"{target}-cc", [program, "cc", "-target", target], **caches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    try:
        print(compiler(parser.parse_args().target))
    except UnavailableError as error:
        skip(error)


if __name__ == "__main__":
    main()
