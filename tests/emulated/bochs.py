"""Runs the conformance programs and the wheel on CPUs that Bochs emulates, with every x86 wait instruction.

    python tests/emulated/bochs.py [--wheels FOLDER] [--only MACHINE] PROGRAMS

Bochs really executes MONITORX/MWAITX, UMONITOR/UMWAIT and TPAUSE: a wait lasts until its time is up, or
until the other CPU stores. Each machine below is booted with Debian's kernel from a CD image that this
makes; its only file system is an initramfs with the programs, which are linked statically, and
Debian's Python with the wheel. What they prove comes back through the serial port as lines
RESULT, which are recorded for the table in docs/platforms.md.

Bochs, the kernel and Python are Debian's packages, unpacked under build/debian; what this makes lies in
build/emulated. Exit status 77 and "skipped: " with the reason when something for that is missing.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import os
import platform
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import debian  # noqa: E402
import platforms  # noqa: E402
from prerequisite import UnavailableError, output, skip  # noqa: E402

WORK = ROOT / "build" / "emulated"
PROGRAM = ROOT / "tests" / "conformance" / "api_program.py"
BACKEND, FALLBACK = "test_backend", "test_fallback"

LIMIT_S = 600  # of a machine; with Python it takes a tenth of that, but the host may be busy

HOST_SUITE = "trixie"  # the first with Bochs 3.0; 2.7 lacks UMWAIT, and no store wakes its MWAITX
GUEST_SUITE = "bookworm"  # its Python is 3.11, the oldest that the abi3 wheel is for
GUEST_PYTHON = "3.11"


@dataclass(frozen=True)
class Machine:
    """A CPU model of Bochs, twice, and what is shown on it."""

    model: str
    features: tuple[str, ...]  # that the model does not have by itself
    chosen: str  # the backend that has to be the best
    backends: tuple[str, ...] = ()  # whose conformance is shown; the choice is shown on all
    python: bool = False  # show them from Python too

    @property
    def name(self) -> str:
        return "+".join([self.model, *self.features])

    @property
    def cpu(self) -> str:
        return f'{self.model}, add_features="{",".join(self.features)}"'


# Cannon Lake has neither instruction by itself, so that each combination of feature bits can be had from
# it; Ryzen is AMD's own model with MWAITX. Newer models do not boot Debian's kernel.
MACHINES = [
    Machine(
        "corei3_cnl", ("waitpkg", "mwaitx"), "mwaitx",
        ("mwaitx", "umwait", "tpause", "pause", "generic"), python=True,
    ),
    Machine("corei3_cnl", ("waitpkg",), "umwait"),
    Machine("corei3_cnl", (), "pause"),
    Machine("ryzen", (), "mwaitx", ("mwaitx", "pause")),
]  # fmt: skip


# ---- what the machines are made of ----


@dataclass(frozen=True)
class Parts:
    """What all of them share."""

    emulator: Path  # an unpacked Debian with Bochs and what makes its disks
    kernel: Path
    shell: Path  # busybox
    programs: Sequence[Path]
    python: Path | None  # a tree to lie in the guest's root


def emulator() -> Path:
    return debian.unpack(
        HOST_SUITE, "amd64",
        ["bochs", "bochs-term", "bochsbios", "vgabios", "genisoimage", "isolinux", "syslinux-common"],
    )  # fmt: skip


def foreign(root: Path, program: str) -> list[str | Path]:
    """The beginning of a command that runs a program of an unpacked Debian with its own libraries."""
    libraries = root / "usr" / "lib" / "x86_64-linux-gnu"
    return [
        root / debian.LOADERS["amd64"], "--library-path", f"{libraries}:{libraries}/pulseaudio",
        root / "usr" / "bin" / program,
    ]  # fmt: skip


def kernel() -> Path:
    """The kernel of the guests: Debian's smallest, without the programs that its package asks for."""
    unpacked = debian.FOLDER / f"{GUEST_SUITE}-amd64-only"
    images = sorted(unpacked.glob("linux-image-*/boot/vmlinuz-*"))
    if not images:
        plan = output(
            *debian.apt(GUEST_SUITE, "amd64"), "--simulate", "install", "linux-image-cloud-amd64"
        )
        (package,) = {
            name
            for name in re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
            if re.match(r"linux-image-\d", name)
        }
        folder = debian.unpack(GUEST_SUITE, "amd64", [package], dependencies=False)
        images = sorted(folder.glob("boot/vmlinuz-*"))
    return images[-1]


def shell() -> Path:
    root = debian.unpack(GUEST_SUITE, "amd64", ["busybox-static"])
    return next(path for path in (root / "bin/busybox", root / "usr/bin/busybox") if path.exists())


UNUSED = [
    "test",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "distutils",
    "ensurepip",
    "tkinter",
    "turtledemo",
    "__pycache__",
]


def guest_python(wheel: Path) -> Path:
    """A tree with Debian's Python, the wheel and what that depends on, compiled: an emulated CPU
    would take longer to compile them than for everything else."""
    interpreter = debian.python(GUEST_SUITE, "amd64", GUEST_PYTHON)
    real = interpreter.with_name(f"{interpreter.name}.real")
    root = interpreter.parent.parent.parent
    tree = WORK / "python"
    shutil.rmtree(tree, ignore_errors=True)
    standard = f"usr/lib/python{GUEST_PYTHON}"
    shutil.copytree(root / standard, tree / standard, ignore=shutil.ignore_patterns(*UNUSED))
    site = tree / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # From the index that this machine's pip uses: they are pure Python.
    output(
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install",
        "--target", site, "--python-version", GUEST_PYTHON, "--only-binary=:all:", "anyio",
    )  # fmt: skip
    shutil.copy(PROGRAM, site)
    for folder in (tree / standard, site):
        # Beside the sources, whose times of change a CD would not keep, and which are then not needed.
        subprocess.run([interpreter, "-m", "compileall", "-q", "-b", folder], check=True)
        for source in folder.rglob("*.py"):
            source.unlink()
    (tree / "usr" / "bin").mkdir()
    shutil.copy(real, tree / "usr" / "bin" / "python3")
    extensions = [*(tree / standard / "lib-dynload").glob("*.so"), *site.rglob("*.so")]
    needed = {debian.LOADERS["amd64"]}
    for line in output("readelf", "--dynamic", real, *map(str, extensions)).splitlines():
        if name := re.search(r"\(NEEDED\).*\[(.+)\]", line):
            # where the packages of the one or the other release put their libraries
            needed |= {f"{prefix}/x86_64-linux-gnu/{name[1]}" for prefix in ("lib", "usr/lib")}
    for path in needed:
        if (root / path).exists():  # an extension that needs more than these is not imported here
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, tree / path)
    return tree


# ---- one machine's disk ----


def archive(trees: dict[str, Path], texts: dict[str, str]) -> bytes:
    """A cpio archive of files, folders and texts, in the "newc" format that the kernel unpacks."""
    entries: dict[str, tuple[int, bytes]] = {}
    for name, path in trees.items():
        found = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
        for part in found:
            inside = os.path.normpath(Path(name) / part.relative_to(path))
            entries[inside] = (
                (0o40755, b"")
                if part.is_dir()
                else (0o100644 | part.stat().st_mode & 0o111, part.read_bytes())
            )
    for name, text in texts.items():
        entries[name] = (0o100755, text.encode())
    for name in list(entries):
        for parent in Path(name).parents:
            entries.setdefault(str(parent), (0o40755, b""))
    pieces = []
    for number, name in enumerate([*sorted(set(entries) - {"."}), "TRAILER!!!"], 1):
        mode, data = entries.get(name, (0, b""))
        links = 2 if mode & 0o40000 else 1
        fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        pieces += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
    return b"".join(pieces)


INIT = """#!/bin/busybox sh
for name in mount mkdir uname stty poweroff; do /bin/busybox ln -s busybox /bin/$name; done
PATH=/bin:/usr/bin
mkdir -p /proc /sys /dev /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
exec > /dev/ttyS0 2>&1 < /dev/null
echo "GUEST Linux $(uname -r)"
{commands}
stty -F /dev/ttyS0 -echo  # returns when the port has sent everything
poweroff -f
"""


def commands(machine: Machine, parts: Parts) -> list[str]:
    """What the guest runs."""
    found = [f"/{FALLBACK}"]
    if machine.backends:
        found.append(f"/{BACKEND} {' '.join(machine.backends)}")
    if machine.python and parts.python is not None:
        # pure Python shows nothing of an instruction, and generic has none
        names = [name for name in machine.backends if name != "generic"]
        found.append(
            f"PYTHONHOME=/usr PYTHONPATH=/site python3 /site/{PROGRAM.stem}.pyc {' '.join(names)}"
        )
    return found


def initramfs(machine: Machine, parts: Parts) -> bytes:
    trees = {program.name: program for program in parts.programs}
    trees["bin/busybox"] = parts.shell
    if machine.python and parts.python is not None:
        trees["."] = parts.python
    lines = [
        f'{command}; echo "GUEST exit status $? of {command}"'
        for command in commands(machine, parts)
    ]
    init = INIT.replace("{commands}", "\n".join(lines))
    return gzip.compress(archive(trees, {"init": init}), 1)


# idle=halt: while the other CPU idles in the kernel's own MWAIT, Bochs ends every wait at once.
CMDLINE = (
    "initrd=/initrd.gz console=ttyS0,115200 nokaslr mitigations=off loglevel=3 panic=-1 tsc=reliable "
    "idle=halt"
)


def disk(folder: Path, parts: Parts, initrd: bytes) -> None:
    contents = folder / "cd"
    loader = contents / "isolinux"
    loader.mkdir(parents=True)
    shutil.copy(parts.emulator / "usr/lib/ISOLINUX/isolinux.bin", loader)
    shutil.copy(parts.emulator / "usr/lib/syslinux/modules/bios/ldlinux.c32", loader)
    (loader / "isolinux.cfg").write_text(
        f"DEFAULT test\nPROMPT 0\nTIMEOUT 1\nLABEL test\n KERNEL /vmlinuz\n APPEND {CMDLINE}\n"
    )
    shutil.copy(parts.kernel, contents / "vmlinuz")
    (contents / "initrd.gz").write_bytes(initrd)
    subprocess.run(
        [
            *foreign(parts.emulator, "genisoimage"), "-quiet", "-o", folder / "cd.iso",
            "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot",
            "-boot-load-size", "4", "-boot-info-table", contents,
        ],
        check=True,
    )  # fmt: skip


# ---- running one ----

# All names are short, because Bochs's display writes them into fields of a fixed size.
SETTINGS = """config_interface: textconfig
display_library: term
cpu: model={cpu}, count=2, ips=50000000, quantum=16, reset_on_triple_fault=0
megs: 512
romimage: file=root/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=root/usr/share/vgabios/vgabios.bin
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=cd.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial
log: bochs.log
panic: action=fatal
error: action=ignore
info: action=report
clock: sync=none, time0=1700000000
"""
ROWS, COLUMNS = 25, 80  # of the terminal that is its display


def boot(machine: Machine, root: Path, folder: Path) -> str:
    """What the machine wrote to its serial port until it switched itself off."""
    (folder / "root").symlink_to(root)
    (folder / "bochsrc").write_text(SETTINGS.format(cpu=machine.cpu))
    (folder / "debugger").write_text("c\n")  # Debian's Bochs has one compiled in: "continue"
    environment = os.environ | {
        "LTDL_LIBRARY_PATH": "root/usr/lib/x86_64-linux-gnu/bochs/plugins",
        "BXSHARE": "root/usr/share/bochs",
        "TERM": "xterm",
        "TERMINFO": "/lib/terminfo",
    }
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    with (folder / "terminal").open("wb") as terminal:
        process = subprocess.Popen(
            ["nice", *foreign(root, "bochs-bin"), "-q", "-f", "bochsrc", "-rc", "debugger"],
            stdin=its, stdout=its, stderr=its, env=environment, cwd=folder, start_new_session=True,
        )  # fmt: skip
        os.close(its)
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
        signal.alarm(LIMIT_S)
        try:
            while True:
                terminal.write(os.read(ours, 65536))
        except OSError:  # the other end is closed: it has ended
            pass
        finally:
            os.close(ours)
            process.wait()
            signal.alarm(0)
    serial = folder / "serial"
    return serial.read_text(errors="replace") if serial.exists() else ""


def version(folder: Path) -> str:
    found = re.search(
        r"Bochs x86 Emulator (\S+)", (folder / "bochs.log").read_text(errors="replace")
    )
    return found[1] if found else "of unknown version"


def shortcomings(machine: Machine, parts: Parts, lines: list[str]) -> list[str]:
    """What should have come back and did not."""
    found = [
        f"{command}: it did not run to its end and pass"
        for command in commands(machine, parts)
        if f"GUEST exit status 0 of {command}" not in lines
    ]
    results = [platforms.parse(line) for line in lines if line.startswith("RESULT ")]
    verdicts = {r["backend"]: r["verdict"] for r in results if r["suite"] == "backend"}
    chosen = [r["chosen"] for r in results if r["suite"] == "fallback" and r["masked"] == "-"]
    for backend in machine.backends:
        expected = "sleeps" if backend in ("mwaitx", "umwait") else "pauses"
        if verdicts.get(backend) != expected:
            found.append(f"{backend}: {verdicts.get(backend, 'no result')}, not {expected}")
    if chosen != [machine.chosen]:
        found.append(f"auto chose {' '.join(chosen) or 'nothing'}, not {machine.chosen}")
    return found


def run(machine: Machine, parts: Parts) -> bool:
    """Whether all that it is to show came back."""
    folder = WORK / machine.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = time.monotonic()
    disk(folder, parts, initramfs(machine, parts))
    said = boot(machine, parts.emulator, folder)
    # without what the kernel says, which has the time before it
    lines = [line.strip() for line in said.splitlines() if not re.match(r"\[ *\d", line)]
    where = f"Bochs {version(folder)}, {' + '.join([machine.model, *machine.features])}"
    print(f"--- {where}: {time.monotonic() - start:.0f} s", *lines, sep="\n", flush=True)
    platforms.record(where, lines)
    lacks = shortcomings(machine, parts, lines)
    for lack in lacks:
        print(f"error: {where}: {lack}")
    if lacks:
        print(f"its serial port, its log and its screen are in {folder}", flush=True)
    return not lacks


def find_wheel(folder: Path) -> Path:
    """The one that Debian's Python in the guest can import."""
    tag = f"cp{GUEST_PYTHON.replace('.', '')}-abi3"
    found = sorted(folder.glob(f"aiospin-*-{tag}-*x86_64.whl"))
    if not found:
        raise UnavailableError(
            f"there is no {tag} wheel for x86-64 in {folder}: building it takes Python {GUEST_PYTHON}"
        )
    return found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "programs", type=Path, help=f"the folder of {BACKEND} and {FALLBACK}, static"
    )
    parser.add_argument("--wheels", type=Path, help="the folder of the wheel, to be run too")
    parser.add_argument(
        "--only", metavar="MACHINE", help=f"of {', '.join(m.name for m in MACHINES)}"
    )
    options = parser.parse_args()
    machines = [machine for machine in MACHINES if options.only in (None, machine.name)]
    if not machines:
        parser.error(f"there is no machine {options.only}")
    try:
        if platform.machine() != "x86_64":
            raise UnavailableError(
                f"the programs are x86-64's, this machine is {platform.machine()}"
            )
        parts = Parts(
            emulator(),
            kernel(),
            shell(),
            [options.programs / BACKEND, options.programs / FALLBACK],
            guest_python(find_wheel(options.wheels)) if options.wheels else None,
        )
    except UnavailableError as error:
        skip(error)
    passed = [run(machine, parts) for machine in machines]
    raise SystemExit(not all(passed))


if __name__ == "__main__":
    main()
