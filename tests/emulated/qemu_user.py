"""Runs the core and the wheel of another architecture, on a CPU that qemu-user emulates.

    python tests/emulated/qemu_user.py [--wheels DIR] [--whole] MACHINE      aarch64 or riscv64
    python tests/emulated/qemu_user.py --brief MACHINE                       what CI has time for

Three things run: every native test (--brief: those of tests/conformance and the short soak); the
conformance programs, on each backend of the architecture; and, with --wheels, Debian's Python of
the architecture with the wheel: waits and broadcasts through the API on each backend, and the part
of the suite that is about the core (--whole: all of it, which takes long).

The emulated WFE, WFET and WRS.STO return at once. So this proves that the instructions are encoded
right, that the path through them works, and that the loop around them loses nothing; not that
anything sleeps or is woken, and the RESULT lines say so.

qemu 10, the first with WFET and Zawrs, and the Python are Debian's packages, unpacked under
build/debian; the compiler is tools/cross.py's. Exit status 77 and "skipped: " with the reason when
something for that is missing.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import cross  # noqa: E402
import debian  # noqa: E402
import platforms  # noqa: E402
import wheels  # noqa: E402
from prerequisite import UnavailableError, alone, output, skip  # noqa: E402

WORK = ROOT / "build" / "emulated"

SUITE = "trixie"  # the first with qemu 10, and with RISC-V
PYTHON = "3.13"

SLOWNESS = 10  # times; the suite has that much more patience here
# A minute of waits, stores and messages on every event loop. The rest takes tens of minutes: an
# interpreter takes a second to start here, and tests/unit alone five minutes of CPU time.
PART = ["tests/broadcast/test_in_place.py", "tests/unit/test_flag.py"]


@dataclass(frozen=True)
class Machine:
    """An architecture, and what it takes to run its programs."""

    name: str
    debian: str
    backends: tuple[str, ...]

    @property
    def qemu(self) -> Path:
        root = debian.unpack(SUITE, debian.architecture(), ["qemu-user"], dependencies=False)
        return root / "usr" / "bin" / f"qemu-{self.name}"

    @property
    def compiler(self) -> Path:
        major, minor = wheels.MACHINES[self.name]
        return cross.compiler(f"{self.name}-linux-gnu.{major}.{minor}")

    @property
    def emulator(self) -> list[str]:
        return [str(self.qemu), "-cpu", "max"]

    @property
    def where(self) -> str:
        version = output(self.qemu, "--version").split()[2]
        return f"qemu-user {version}, -cpu max"


MACHINES = [
    Machine("aarch64", "arm64", ("wfet", "wfe", "isb", "yield", "generic")),
    Machine("riscv64", "riscv64", ("zawrs", "pause", "generic")),
]


def run(title: str, *command: str | Path, cwd: Path = ROOT, **extra: str) -> bool:
    """Run it in sight; whether it went well."""
    print(f"\n--- {title}", flush=True)
    start = time.monotonic()
    environment = wheels.environment(**extra)
    status = subprocess.run(command, cwd=cwd, env=environment, check=False).returncode
    print(f"--- {title}: exit status {status}, {time.monotonic() - start:.0f} s", flush=True)
    return status == 0


def recorded(title: str, where: str, *command: str | Path) -> bool:
    """The same for a program that prints results, which are kept."""
    print(f"\n--- {title}", flush=True)
    with subprocess.Popen(
        command, cwd=ROOT, env=wheels.environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    platforms.record(where, lines)
    if process.returncode != 0:
        print(f"error: exit status {process.returncode}", flush=True)
    return process.returncode == 0


# ---- the core ----


def core(machine: Machine, brief: bool) -> list[bool]:
    """The native tests and the conformance programs, with Debian's C library."""
    compiler = machine.compiler
    libc = debian.unpack(SUITE, machine.debian, ["libc6"])
    runner = [*machine.emulator, "-L", str(libc)]
    chosen = ["NATIVE_TESTS=$(wildcard tests/conformance/test_*.c)"] if brief else []
    passed = [
        run(
            f"native tests, {machine.where}",
            *("make", "--no-print-directory", f"-j{os.cpu_count()}", "native-test", "WERROR="),
            *(f"CC={compiler}", f"AR={str(compiler).removesuffix('cc')}ar"),
            *chosen,
            RUNNER=" ".join(runner),
        )
    ]
    folder = ROOT / "build" / "native" / f"{compiler.name}-test"
    for name, backends in (("test_backend", machine.backends), ("test_fallback", ())):
        title = f"{name}, {machine.name}"
        program = folder / name
        passed.append(recorded(title, machine.where, *runner, program, "--force", *backends))
    return passed


# ---- the wheel ----


def interpreter(machine: Machine, wheel: Path) -> Path:
    """Of a virtual environment with the wheel and what the suite needs."""
    environment = WORK / machine.name
    advertise = WORK / f"advertise-{machine.name}.so"
    base = debian.python(
        *(SUITE, machine.debian, PYTHON, "python3-hypothesis", "python3-numpy", "python3-uvloop"),
        emulator=machine.emulator,
        preload=advertise,
    )
    python = environment / "bin" / "python"
    packages = environment / "lib" / f"python{PYTHON}" / "site-packages"
    with alone(WORK):
        environment.mkdir(exist_ok=True)
        output(
            machine.compiler,
            *("-O2", "-fPIC", "-shared", "-o", advertise),
            *(ROOT / "tests" / "emulated" / "advertise.c", "-ldl"),
        )
        made = environment / "pyvenv.cfg"  # which names the interpreter that it was made with
        if wheels.probe(python) is None or f"{base.parent}\n" not in made.read_text():
            new = ["-m", "venv", "--clear", "--without-pip", "--system-site-packages"]
            output(base, *new, environment)
            # By this machine's pip, ten times as fast: they are of nothing but Python.
            output(
                sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input",
                "install", "--target", packages, "--python-version", PYTHON, "--only-binary=:all:",
                "anyio", "pytest>=9", "pytest-timeout", "rich", "trio",
            )  # fmt: skip
        for old in packages.glob("aiospin*"):
            shutil.rmtree(old)
        shutil.unpack_archive(wheel, packages, "zip")
    return python


def api(machine: Machine, python: Path, whole: bool) -> list[bool]:
    program = ROOT / "tests" / "conformance" / "api_program.py"
    title = f"the API, {machine.name}"
    passed = [recorded(title, machine.where, python, program, *machine.backends)]
    suite: list[str | Path] = [
        *(python, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT),
        *("-p", "no:cacheprovider", f"--timeout={60 * SLOWNESS}"),
        *(ROOT / path for path in (["tests"] if whole else PART)),
    ]
    elsewhere = WORK / "elsewhere"  # where no aiospin lies that could be imported
    elsewhere.mkdir(exist_ok=True)
    passed += [
        run(
            f"the suite, {machine.name}, AIOSPIN_BACKEND={backend}",
            *suite,
            cwd=elsewhere,
            AIOSPIN_BACKEND=backend,
            AIOSPIN_TEST_INSTALLED=str(python.parent.parent),
            AIOSPIN_TEST_SLOWNESS=str(SLOWNESS),
        )
        for backend in (("auto", machine.backends[0]) if whole else machine.backends[:1])
    ]
    return passed


def find_wheel(machine: Machine, folder: Path) -> Path:
    found = sorted(folder.glob(f"aiospin-*-abi3-*{machine.name}.whl"))
    if not found:
        raise UnavailableError(f"there is no abi3 wheel for {machine.name} in {folder}")
    return found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="the folder of the wheel, to be run too")
    parser.add_argument("--whole", action="store_true", help="the whole suite, not a part")
    parser.add_argument("--brief", action="store_true", help="not every native test")
    parser.add_argument("machine", choices=[machine.name for machine in MACHINES])
    options = parser.parse_args()
    (machine,) = (machine for machine in MACHINES if machine.name == options.machine)
    try:
        if machine.name == platform.machine():
            raise UnavailableError("this machine is one: make native-test check-wheels")
        passed = core(machine, options.brief)
        if options.wheels:
            wheel = find_wheel(machine, options.wheels.resolve())
            passed += api(machine, interpreter(machine, wheel), options.whole)
    except UnavailableError as error:
        skip(UnavailableError(f"emulated {machine.name}: {error}"))
    if not all(passed):
        raise SystemExit(f"error: {machine.where}: {passed.count(False)} of {len(passed)} failed")


if __name__ == "__main__":
    main()
