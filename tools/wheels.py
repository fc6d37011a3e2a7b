"""Builds the sdist and the wheels, audits them, and runs the test suite from each of them.

    python tools/wheels.py pythons            the Pythons of this machine that are used
    python tools/wheels.py build DIR          the sdist, and from it every wheel they can build
    python tools/wheels.py audit DIR          tags, contents, size, what the core links, abi3audit
    python tools/wheels.py test DIR           the suite on every Python, from the installed wheels
    python tools/wheels.py test-next DIR      the same on newer Pythons, those of Debian sid

The wheels are built from the unpacked sdist and tested from another folder, so neither a file that
the sdist lacks nor one that lies only in the source tree can make a test pass. Pythons are looked
for in $AIOSPIN_PYTHONS (paths), in the virtual environment that runs this, on PATH and in pyenv.

The wheels of every machine are compiled here, against an old C library, by the cross compiler
(cross.py); without it only those of this machine, by $CC against the C library that it has.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cross
import debian
from prerequisite import UnavailableError, skip

ROOT = Path(__file__).resolve().parent.parent
VENVS = ROOT / "build" / "venvs"

# The machines that wheels are for, and the glibc that they are content with: that of manylinux2014
# and, on RISC-V, the first there was.
MACHINES = {"x86_64": (2, 17), "aarch64": (2, 17), "riscv64": (2, 27)}
NEXT = ["3.14", "3.15"]  # the Pythons of Debian sid

# As a library of its own UndefinedBehaviorSanitizer would set AddressSanitizer's log_path, for both have
# a function of that name, and write to stderr itself, where a test's capture is lost when it ends the process.
SANITIZED_LINKING = "-static-libubsan -Wl,-Bsymbolic"

MAX_CORE_BYTES = 150_000  # size of the compiled core in a wheel
ELF_MACHINES = {"x86_64": "X86-64", "aarch64": "AArch64", "riscv64": "RISC-V"}
# The second is part of the first since glibc 2.34; the loaders come with it.
LIBC = {"libc.so.6", "libpthread.so.0", "ld-linux-aarch64.so.1", "ld-linux-riscv64-lp64d.so.1"}

PROBE = """
import json, os, platform, sys, sysconfig, venv
print(json.dumps({
    "machine": platform.machine(),
    "version": sys.version_info[:3],
    "usable": sys.implementation.name == "cpython" and sys.version_info.releaselevel == "final",
    "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "include": sysconfig.get_paths()["include"],
    "multiarch": sysconfig.get_config_var("MULTIARCH"),
}))
"""


# Most of a suite is waiting for other processes and for timeouts.
SUITES_AT_A_TIME = 2
PRINTING = threading.Lock()


def say(text: str) -> None:
    print(f"\n--- {text}", flush=True)


def environment(**extra: str) -> dict[str, str]:
    """This process's, less what changes which aiospin is built, imported or used."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIOSPIN_") and name not in {"PYTHONPATH", "PYTHONHOME"}
    }
    return kept | extra


def run(*command: str | Path, **extra: str) -> str:
    """What it printed, with ``extra`` in its environment; a failure ends this program."""
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        print(result.stdout, end="", flush=True)
        raise SystemExit(f"error: {shlex.join(map(str, command))}: exit status {result.returncode}")
    return result.stdout


# ---- the Pythons of this machine ----


@dataclass(frozen=True)
class Python:
    """An interpreter that was found and ran."""

    path: Path
    machine: str
    version: tuple[int, int, int]
    free_threaded: bool
    include: Path
    multiarch: str | None

    @property
    def headers(self) -> bool:
        return (self.include / "Python.h").exists()

    @property
    def tag(self) -> str:
        return f"cp{self.version[0]}{self.version[1]}{'t' * self.free_threaded}"

    @property
    def limited_api(self) -> bool:
        return self.version >= (3, 11, 0) and not self.free_threaded

    def __str__(self) -> str:
        version = ".".join(map(str, self.version))
        machine = f" for {self.machine}" if self.machine != platform.machine() else ""
        return f"CPython {version}{' free-threaded' * self.free_threaded}{machine}"


def candidates() -> list[Path]:
    """Where a Python may be, in order of preference."""
    paths = [Path(path) for path in os.environ.get("AIOSPIN_PYTHONS", "").split()]
    paths.append(Path(sys.executable))
    # All of PATH: a pyenv shim answers to a name that it then cannot run, and hides one that could.
    for folder in map(Path, os.get_exec_path()):
        paths += [
            path for path in folder.glob("python3.*") if re.fullmatch(r"python3\.\d+t?", path.name)
        ]
    if shutil.which("pyenv"):
        root = run("pyenv", "root").strip()
        paths += sorted(Path(root, "versions").glob("*/bin/python3"), reverse=True)
    return paths


def probe(path: Path) -> Python | None:
    """None for one that does not run, cannot make a virtual environment, or is not for us."""
    try:
        answer = subprocess.run(
            [path, "-c", PROBE], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    facts = json.loads(answer)
    major, minor, micro = facts["version"]
    if not facts["usable"] or (major, minor) < (3, 10):
        return None
    return Python(
        path,
        facts["machine"],
        (major, minor, micro),
        facts["free_threaded"],
        Path(facts["include"]),
        facts["multiarch"],
    )


def pythons() -> list[Python]:
    """One interpreter of each version, oldest first."""
    with ThreadPoolExecutor() as pool:
        found = [python for python in pool.map(probe, candidates()) if python is not None]
    first: dict[str, Python] = {}
    for python in found:
        first.setdefault(python.tag, python)
    return sorted(first.values(), key=lambda python: (python.version, python.free_threaded))


def default(found: list[Python]) -> Python:
    """The one that runs this, or else the oldest."""
    return next((python for python in found if python.path == Path(sys.executable)), found[0])


def venv(python: Python, name: str) -> Path:
    """The interpreter of build/venvs/NAME, which is made unless it is there."""
    interpreter = VENVS / name / "bin" / "python"
    present = probe(interpreter)
    if present is None or present.version != python.version:
        run(python.path, "-m", "venv", "--clear", "--without-pip", VENVS / name)
    return interpreter


def pip(interpreter: Path, command: str, *arguments: str | Path, **extra: str) -> None:
    """This environment's pip, at work in another: none has to have one, nor one new enough."""
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--python", interpreter)
    run(sys.executable, "-m", "pip", *options, command, *arguments, **extra)


# ---- build ----


def builders(found: list[Python]) -> list[Python]:
    """Those that compile: the oldest with the limited API, and each that has none."""
    able = [python for python in found if python.headers]
    limited = [python for python in able if python.limited_api]
    return [python for python in able if not python.limited_api] + limited[:1]


def cross_compiled(python: Python, machine: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """The arguments for pip and the environment that make its wheel one of that machine."""
    major, minor = MACHINES[machine]
    compiler = cross.compiler(f"{machine}-linux-gnu.{major}.{minor}")
    # The headers are the same for all of these machines, 64-bit and little-endian. Debian's
    # pyconfig.h includes another, named after the machine: this one is it for all of them.
    name = Path(python.include.name, "pyconfig.h")
    configuration = python.include.parent / str(python.multiarch) / name
    if configuration.exists():
        copy = folder / f"{machine}-linux-gnu" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(configuration, copy)
    return [f"--config-settings=--build-option=--plat-name=manylinux_{major}_{minor}_{machine}"], {
        "CC": str(compiler),
        "LDSHARED": f"{compiler} -shared",
        "CFLAGS": f"-I{folder}",
        "SETUPTOOLS_EXT_SUFFIX": f".cpython-{python.tag[2:]}-{machine}-linux-gnu.so",
    }


def build(folder: Path, found: list[Python], sanitize: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    able = builders([default(found)] if sanitize else found)
    if not able:
        raise SystemExit(
            "error: none of these Pythons has its headers (Debian: python3-dev, Fedora: "
            f"python3-devel): {', '.join(f'{python} {python.path}' for python in found)}"
        )
    say("sdist")
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT)
    (sdist,) = folder.glob("*.tar.gz")

    say("wheels")
    machines, missing = [], ""
    if not sanitize:  # a sanitizer's library belongs to this machine's own compiler
        try:
            cross.zig()
            machines = list(MACHINES)
        except UnavailableError as error:
            missing = f"skipped: the wheels for other machines: no cross compiler: {error}"
    here = {"AIOSPIN_SANITIZE": sanitize, "LDFLAGS": SANITIZED_LINKING} if sanitize else {}
    with tempfile.TemporaryDirectory() as headers, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = []
        for python in able:
            interpreter = venv(python, python.tag)
            recipes = [cross_compiled(python, machine, Path(headers)) for machine in machines]
            for options, extra in recipes or [([], here)]:
                arguments: list[str | Path] = ["--no-deps", "--wheel-dir", folder, *options, sdist]
                jobs.append(pool.submit(pip, interpreter, "wheel", *arguments, **extra))
        for job in jobs:
            job.result()
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>9,} bytes  {path.name}")
    if missing:
        print(missing)


# ---- audit ----


def audit(folder: Path) -> None:
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"error: no wheel in {folder}")
    for wheel in wheels:
        core, size = audit_wheel(wheel)
        print(f"{wheel.name}: {core}, {size:,} bytes, links only libc", flush=True)


def audit_wheel(wheel: Path) -> tuple[str, int]:
    """The name and the size of its compiled core; an end of the program if anything is wrong."""
    python_tag, abi_tag, platform_tag = wheel.stem.split("-")[-3:]
    machine = re.sub(r"^(linux|manylinux_\d+_\d+)_", "", platform_tag)
    suffix = r"\.abi3\.so" if abi_tag == "abi3" else rf"\.cpython-{abi_tag[2:]}-{machine}-.*\.so"
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as temporary:
        names = set(archive.namelist())
        cores = [name for name in names if name.endswith(".so")]
        if len(cores) != 1 or not re.fullmatch(rf"aiospin/_native{suffix}", cores[0]):
            raise SystemExit(f"error: {wheel.name} has {cores}, not one _native of {python_tag}")
        if missing := {"aiospin/__init__.py", "aiospin/py.typed", "aiospin/_native.pyi"} - names:
            raise SystemExit(f"error: {wheel.name} lacks {sorted(missing)}")
        if foreign := {name for name in names if not name.startswith(("aiospin/", "aiospin-"))}:
            raise SystemExit(f"error: {wheel.name} installs {sorted(foreign)} beside aiospin")
        core = Path(archive.extract(cores[0], temporary))
        size = core.stat().st_size
        if size > MAX_CORE_BYTES:
            raise SystemExit(f"error: the core in {wheel.name} has {size:,} bytes")
        needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "--dynamic", core)))
        if needed - LIBC:
            raise SystemExit(f"error: the core in {wheel.name} links {sorted(needed - LIBC)}")
        header = run("readelf", "--file-header", core)
        if not re.search(rf"Machine: .*{ELF_MACHINES.get(machine, '')}\n", header):
            raise SystemExit(f"error: the core in {wheel.name} is for another machine:\n{header}")
        glibc = max(
            (int(major), int(minor))
            for major, minor in re.findall(
                r"Name: GLIBC_(\d+)\.(\d+)", run("readelf", "--version-info", core)
            )
        )
        promise = re.match(r"manylinux_(\d+)_(\d+)_", platform_tag)
        if promise and glibc > (int(promise[1]), int(promise[2])):
            raise SystemExit(f"error: {wheel.name} needs glibc {glibc[0]}.{glibc[1]}")
    if abi_tag == "abi3":
        run(sys.executable, "-m", "abi3audit", "--strict", wheel)
    return core.name, size


# ---- test ----


def oldest_anyio() -> str:
    """The lower bound that pyproject.toml promises, as a pin."""
    bound = re.search(r'"anyio>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    if bound is None:
        raise SystemExit('error: no "anyio>=…" among the dependencies in pyproject.toml')
    return f"anyio=={bound[1]}"


def install(folder: Path, python: Python, name: str, *pins: str) -> Path:
    """The interpreter of an environment with aiospin from its wheel, and what the tests need."""
    interpreter = venv(python, name)
    # In two steps, so that no index is asked for aiospin itself.
    pip(
        interpreter, "install", "--force-reinstall", "--no-deps", "--no-index",
        "--find-links", folder, "--only-binary=:all:", "aiospin",
    )  # fmt: skip
    # uvloop has wheels for free-threaded Pythons from 3.14 on.
    loops = python.version >= (3, 14, 0) or not python.free_threaded
    needed = (
        ["aiospin[test]"] if loops else ["aiospin[cli,trio]", "numpy", "pytest", "pytest-timeout"]
    )
    pip(interpreter, "install", "--prefer-binary", *needed, *pins)
    return interpreter


def suite(title: str, interpreter: Path, arguments: list[str], **extra: str) -> bool:
    """Whether the whole suite passed. What it said comes in one piece, since several run at a time."""
    with tempfile.TemporaryDirectory() as elsewhere, tempfile.TemporaryFile() as output:
        status = subprocess.run(
            [
                interpreter, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT,
                "-p", "no:cacheprovider", *arguments,
                ROOT / "tests",
            ],
            cwd=elsewhere,
            env=environment(AIOSPIN_TEST_INSTALLED=str(interpreter.parent.parent), **extra),
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode  # fmt: skip
        output.seek(0)
        with PRINTING:
            say(title)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
    return status == 0


def test(folder: Path, found: list[Python], arguments: list[str]) -> None:
    # The oldest of several Pythons gets the oldest anyio as well; the others the newest.
    pins = {found[0]: [oldest_anyio()]} if len(found) > 1 else {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(install, folder, python, python.tag, *pins.get(python, []))
            for python in found
        ]
    ready = [job.result() for job in jobs]
    python = default(found)
    interpreter = ready[found.index(python)]
    with ThreadPoolExecutor(SUITES_AT_A_TIME) as pool:
        runs = {
            "pure Python": pool.submit(
                suite,
                f"the suite on {python}, pure Python",
                interpreter,
                arguments,
                AIOSPIN_NO_EXT="1",
            )
        }
        for python, interpreter in zip(found, ready, strict=True):
            runs[python.tag] = pool.submit(suite, f"the suite on {python}", interpreter, arguments)
    failed = [name for name, job in runs.items() if not job.result()]
    if failed:
        raise SystemExit(f"error: the suite failed on {', '.join(failed)}")


def test_next(folder: Path, arguments: list[str]) -> None:
    """The suite on Pythons that no released distribution has yet."""
    try:
        found = [probe(debian.python("sid", debian.architecture(), version)) for version in NEXT]
    except UnavailableError as error:
        skip(error)
    failed = []
    for version, python in zip(NEXT, found, strict=True):
        if python is None:
            failed.append(f"{version}, which does not run")
            continue
        interpreter = install(folder, python, f"{python.tag}-next")
        if not suite(f"the suite on {python}", interpreter, arguments):
            failed.append(version)
    if failed:
        raise SystemExit(f"error: the suite failed on CPython {', '.join(failed)}")


def core_leaks(report: str) -> list[str]:
    """The blocks that the core left behind. Those of the interpreter, of numpy and of the compilers that
    tests run are their own affair; the core's Python objects are counted by tests/lifecycle."""
    return [block for block in report.split("\n\n") if "leak of" in block and "csrc/" in block]


def test_sanitized(folder: Path, python: Python, arguments: list[str]) -> None:
    """The suite on a core built with AddressSanitizer, whose run-time library the interpreter, not
    built with it, has to load first. Each process writes its own report: some are meant to die, or
    nobody reads what they say."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    library = run(*compiler, "-print-file-name=libasan.so").strip()
    interpreter = install(folder, python, f"{python.tag}-sanitized")
    with tempfile.TemporaryDirectory() as reports:
        passed = suite(
            f"the suite on {python}, AddressSanitizer and UndefinedBehaviorSanitizer",
            interpreter,
            arguments,
            LD_PRELOAD=library,
            PYTHONMALLOC="malloc",  # pymalloc hides what is freed from the sanitizer
            ASAN_OPTIONS=f"detect_leaks=1:log_path={reports}/asan",
            LSAN_OPTIONS="exitcode=0",  # most leaks are not ours
            UBSAN_OPTIONS=f"print_stacktrace=1:log_path={reports}/ubsan",
        )
        errors, leaks, uncounted = [], [], 0
        for path in sorted(Path(reports).iterdir()):
            report = path.read_text(errors="replace")
            leaks += core_leaks(report)
            uncounted += "LeakSanitizer has encountered a fatal error" in report
            if "ERROR: AddressSanitizer" in report or "runtime error:" in report:
                errors.append(report)
    print("\n\n".join(errors + leaks), end="\n" if errors or leaks else "")
    if uncounted:
        print(f"skipped: the leaks of {uncounted} processes: LeakSanitizer could not stop them")
    print(f"sanitizers: {len(errors)} errors, {len(leaks)} leaks of the core")
    if not passed or errors or leaks:
        raise SystemExit("error: the suite failed under the sanitizers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["pythons", "build", "audit", "test", "test-next"])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "dist")
    parser.add_argument("--only", metavar="TAG", help="one Python, as cp312")
    parser.add_argument(
        "--sanitize", metavar="LIST", default="", help="as AIOSPIN_SANITIZE; one Python"
    )
    options, rest = parser.parse_known_args()  # what is left over is for pytest
    if rest and not options.task.startswith("test"):
        parser.error(f"unrecognized arguments: {shlex.join(rest)}")

    folder = options.folder.resolve()
    found = pythons()
    if options.only:
        found = [python for python in found if python.tag == options.only]
        if not found:
            raise SystemExit(f"error: there is no {options.only}; see `{sys.argv[0]} pythons`")
    if options.task == "pythons":
        for python in found:
            print(f"{python.tag:<7} {python.path}{'' if python.headers else ', without headers'}")
    elif options.task == "build":
        build(folder, found, options.sanitize)
    elif options.task == "audit":
        audit(folder)
    elif options.task == "test-next":
        test_next(folder, rest)
    elif options.sanitize:
        test_sanitized(folder, default(found), rest)
    else:
        test(folder, found, rest)


if __name__ == "__main__":
    main()
