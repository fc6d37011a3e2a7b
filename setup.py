"""Compiles ``aiospin._native``; everything else about the project is in pyproject.toml.

Three variables change what is built:

``AIOSPIN_NO_EXT=1``
    nothing is compiled: a pure Python package, tagged py3-none-any.
``AIOSPIN_DEBUG=1``
    no optimisation, debug information, and the core's assertions (``ASP_DEBUG``).
``AIOSPIN_SANITIZE=address,undefined`` (or ``thread``)
    instrumented by the compiler's sanitizers.

One build against the limited API serves the Python that compiles, 3.11 at least, and all later
ones; not earlier ones, whatever API is asked for: since 3.12 the headers hand None out without
counting the reference, on which 3.11 aborts. 3.10 has no ``Py_buffer`` in its limited API and
free-threaded Pythons have no limited API at all, so each of those gets a build of its own.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CCompilerError, PlatformError

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
LIMITED_API = sys.version_info >= (3, 11) and not FREE_THREADED

SANITIZERS = ("address", "thread", "undefined")

WAY_OUT = """

aiospin's core is C and needs a C compiler and Python's headers:
    Debian, Ubuntu    apt install gcc libc6-dev python3-dev
    Fedora, RHEL      dnf install gcc python3-devel
To install without the core instead (pure Python, same API, higher latency), say so:
    AIOSPIN_NO_EXT=1 pip install aiospin"""


def switch(name: str) -> bool:
    value = os.environ.get(name, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"error: {name} must be 0 or 1, not {value!r}")
    return value == "1"


def sanitizers() -> list[str]:
    names = [name for name in os.environ.get("AIOSPIN_SANITIZE", "").split(",") if name]
    unknown = sorted(set(names) - set(SANITIZERS))
    if unknown or {"address", "thread"} <= set(names):
        raise SystemExit(
            "error: AIOSPIN_SANITIZE is a comma-separated list of address, thread, undefined, "
            f"without address and thread together; it is {','.join(names)!r}"
        )
    return names


class BuildExt(build_ext):
    """Says in words what is missing, before the compiler says it in its own."""

    def build_extensions(self) -> None:
        compiler = self.compiler.compiler_so[0]
        if shutil.which(compiler) is None:
            raise PlatformError(f"there is no C compiler {compiler!r} on this machine." + WAY_OUT)
        include_dirs = [Path(path) for path in self.compiler.include_dirs]
        if not any((path / "Python.h").exists() for path in include_dirs):
            raise PlatformError(
                f"Python.h of Python {sys.version.split()[0]} is not in "
                f"{' or '.join(map(str, include_dirs))}." + WAY_OUT
            )
        try:
            super().build_extensions()
        except CCompilerError as error:
            raise PlatformError(
                f"{error}: the C core did not compile, see above." + WAY_OUT
            ) from error


class BuildPy(build_py):
    """Puts the C header, which lies with the C code, into the package: ``aiospin.get_include()``."""

    header = "include/aiospin/broadcast.h"

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "aiospin", self.header)
            self.mkpath(str(target.parent))
            self.copy_file(f"csrc/{self.header}", str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        header = str(Path(self.build_lib, "aiospin", self.header))
        return [*super().get_outputs(include_bytecode), header]


def native() -> Extension:
    compile_args = ["-std=gnu11", "-fvisibility=hidden", "-Wall", "-Wextra"]
    link_args = []
    macros: list[tuple[str, str | None]] = []
    undef_macros = []

    sanitize = sanitizers()
    debug = switch("AIOSPIN_DEBUG")
    if debug:
        compile_args += ["-O0", "-g3"]
        macros.append(("ASP_DEBUG", None))
        undef_macros.append("NDEBUG")
    elif sanitize:
        # Python's own flags have -fwrapv, under which no signed overflow is an error.
        compile_args += ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-wrapv"]
    else:
        # Python's own flags have -g; what ships carries neither symbols nor unused functions.
        compile_args += ["-O2", "-g0", "-ffunction-sections", "-fdata-sections"]
        if sys.platform.startswith("linux"):
            link_args += ["-Wl,--gc-sections", "-Wl,-s"]
    if sanitize:
        flag = "-fsanitize=" + ",".join(sanitize)
        compile_args += [flag, "-fno-sanitize-recover=all"]
        link_args.append(flag)
    if LIMITED_API:
        macros.append(("Py_LIMITED_API", f"0x03{sys.version_info[1]:02X}0000"))

    return Extension(
        "aiospin._native",
        sources=sorted(
            glob("csrc/core/*.c")
            + glob("csrc/arch/**/*.c", recursive=True)
            + glob("csrc/python/*.c")
        ),
        depends=sorted(glob("csrc/**/*.h", recursive=True)),
        include_dirs=["csrc/core", "csrc/arch"],
        define_macros=macros,
        undef_macros=undef_macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        py_limited_api=LIMITED_API,
    )


NO_EXT = switch("AIOSPIN_NO_EXT")

setup(
    ext_modules=[] if NO_EXT else [native()],
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
    options={"bdist_wheel": {"py_limited_api": f"cp3{sys.version_info[1]}"}}
    if LIMITED_API and not NO_EXT
    else {},
)
