"""Unpacks Debian's packages beside the system: other architectures, other Pythons, emulators.

    python tools/debian.py unpack SUITE ARCHITECTURE PACKAGE...    prints the folder
    python tools/debian.py python SUITE ARCHITECTURE VERSION       prints the interpreter

Nothing is installed and nothing outside build/debian is written, so no root is needed and the
system's own packages, architectures and package lists stay as they are. apt's settings (mirror,
proxy, keys) are those of this machine, its state is a private one. What was unpacked once is kept.
Without apt, a Debian mirror or the network the exit status is 77, and the last line says why.
"""

from __future__ import annotations

import argparse
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from prerequisite import UnavailableError, alone, output, script, skip

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "debian"

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "riscv64": "riscv64"}
LOADERS = {
    "amd64": "lib64/ld-linux-x86-64.so.2",
    "arm64": "lib/ld-linux-aarch64.so.1",
    "riscv64": "lib/ld-linux-riscv64-lp64d.so.1",
}


def architecture() -> str:
    """Debian's name for this machine's own."""
    for name, machine in MACHINES.items():
        if machine == platform.machine():
            return name
    raise UnavailableError(f"Debian's packages for {platform.machine()} are not known here")


# ---- a private apt ----


def mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    if shutil.which("apt-get") is None:
        raise UnavailableError("there is no apt-get on this machine")
    if not KEYRING.exists():
        raise UnavailableError(f"there is no {KEYRING}: install debian-archive-keyring")
    targets = output(
        "apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)",
        "Identifier: Packages",
    )  # fmt: skip
    for origin, codename, uri in (line.split() for line in targets.splitlines()):
        if origin == "Debian" and not codename.endswith("-security"):
            return uri
    raise UnavailableError(
        "apt has no list of a Debian mirror: check its sources, run apt-get update"
    )


def apt(suite: str, architecture: str) -> tuple[str, ...]:
    """The beginning of an apt-get command with a state of its own, whose lists are up to date."""
    folder = FOLDER / f"apt-{suite}-{architecture}"
    settings = folder / "apt.conf"
    # -c is read last: what a script of the system appends to an update (#clear) does not run here.
    command = ("apt-get", "-c", str(settings), "-qq")
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    (folder / "sources.list").write_text(
        f"deb [arch={architecture} signed-by={KEYRING}] {mirror()} {suite} main\n"
    )
    settings.write_text(
        f'''#clear APT::Update;
#clear APT::Architectures;
#clear DPkg;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Get::List-Cleanup "false";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "0";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
'''
    )
    # Without the option a mirror that cannot be reached is only a warning.
    output(*command, "-o", "APT::Update::Error-Mode=any", "update")
    return command


# ---- unpacking ----


def unpack(
    suite: str, architecture: str, packages: Sequence[str], *, dependencies: bool = True
) -> Path:
    """The folder with these packages, and with what they depend on."""
    kind = architecture if dependencies else f"{architecture}-only"
    folder = FOLDER / f"{suite}-{kind}" / "+".join(packages)
    with alone(FOLDER):
        if not folder.exists():
            fill(folder, apt(suite, architecture), packages, dependencies)
    return folder


def fill(folder: Path, apt_get: Sequence[str], packages: Sequence[str], dependencies: bool) -> None:
    wanted = list(packages)
    if dependencies:
        plan = output(*apt_get, "--simulate", "install", *packages)
        wanted = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    # Only a folder that has everything gets its name.
    partial = folder.parent / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "debs").mkdir(parents=True)
    output(*apt_get, "download", *wanted, cwd=partial / "debs")
    for path in sorted((partial / "debs").iterdir()):
        output("dpkg-deb", "--extract", path, partial)
    shutil.rmtree(partial / "debs")
    # The links that an installed system has; packages no longer carry them.
    for name in ("bin", "lib", "lib64", "sbin"):
        if (partial / "usr" / name).is_dir() and not (partial / name).exists():
            (partial / name).symlink_to(f"usr/{name}")
    # Those that the installation of NumPy's libraries makes, to one of several alternatives.
    for name in ("blas", "lapack"):
        for library in partial.glob(f"usr/lib/*/{name}/*.so.3"):
            (library.parent.parent / library.name).symlink_to(f"{name}/{library.name}")
    partial.rename(folder)


def loader(root: Path, architecture: str) -> list[str | Path]:
    """The beginning of a command that runs a program of this folder, with the C library beside it."""
    # Releases before trixie have the C library in /lib.
    folders = (
        root / prefix / f"{MACHINES[architecture]}-linux-gnu" for prefix in ("lib", "usr/lib")
    )
    return [root / LOADERS[architecture], "--library-path", ":".join(map(str, folders))]


# ---- an interpreter ----


def python(
    suite: str,
    architecture: str,
    version: str,
    *packages: str,
    emulator: Sequence[str | Path] = (),
    preload: Path | None = None,
) -> Path:
    """An interpreter of that version, with which virtual environments can be made.

    Packages are what it can import besides. The emulator is a command that runs programs of the
    architecture, its options included; this machine's own architecture needs none. The library
    to preload is one of the architecture.
    """
    if not emulator and MACHINES[architecture] != platform.machine():
        raise UnavailableError(f"nothing runs {architecture} programs on {platform.machine()}")
    wanted = [f"python{version}-minimal", f"libpython{version}-stdlib", *packages]
    root = unpack(suite, architecture, wanted)
    program = root / "usr" / "bin" / f"python{version}"
    real = program.with_name(f"{program.name}.real")
    with alone(FOLDER):
        if not real.exists():
            program.rename(real)
    # A script in the program's place: an interpreter starts its children by its own name, and
    # the kernel can start neither a foreign program nor one with another C library.
    command: list[str | Path] = [*emulator, "-L", root] if emulator else []
    command += [*loader(root, architecture), "--argv0", '"$0"']
    command += ["--preload", preload] if preload else []
    return script(program, [*command, real])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    tasks = parser.add_subparsers(dest="task", required=True)
    for name in ("unpack", "python"):
        task = tasks.add_parser(name)
        task.add_argument("suite")
        task.add_argument("architecture", choices=MACHINES)
        if name == "unpack":
            task.add_argument("--only", action="store_true", help="without what they depend on")
            task.add_argument("packages", nargs="+", metavar="package")
        else:
            task.add_argument("version")
    options = parser.parse_args()
    try:
        if options.task == "unpack":
            print(
                unpack(
                    options.suite,
                    options.architecture,
                    options.packages,
                    dependencies=not options.only,
                )
            )
        else:
            print(python(options.suite, options.architecture, options.version))
    except UnavailableError as error:
        skip(error)


if __name__ == "__main__":
    main()
