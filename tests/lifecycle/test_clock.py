"""The system clock is set, processes disagree about the time since the boot: no wait lasts longer or shorter."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from broadcast_support import Child
from lifecycle.exercise import BACKENDS, SKIPPED, WaitPolicy
from support import PATIENCE, clean, interpreter

from aiospin import BroadcastReader, BroadcastWriter

TESTS = Path(__file__).parent.parent

# ---- the clock that can be set ----


@pytest.fixture(scope="module")
def stepping(tmp_path_factory: pytest.TempPathFactory) -> str:
    """LD_PRELOAD for programs whose system clock is set forth and back."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build a clock that can be set with")
    made = subprocess.run([compiler, "-dumpmachine"], check=True, capture_output=True, text=True)
    if not made.stdout.startswith(platform.machine()):  # as under qemu-user
        pytest.skip(f"the C compiler here builds for {made.stdout.strip()}, not for this Python")
    library = tmp_path_factory.mktemp("clock") / "clock_steps.so"
    source = Path(__file__).with_name("clock_steps.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return " ".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)]))


def test_a_clock_that_is_set(stepping: str) -> None:
    """At every look at it: with one, some wait or timeout would come a day late or at once."""
    source = """
        import time
        looks = [time.time() for _ in range(2)]
        assert abs(looks[1] - looks[0]) > 86400, looks
        from lifecycle import exercise
        exercise.everything()
        assert exercise.files() == set()
    """
    clean(source, LD_PRELOAD=stepping, PYTHONPATH=str(TESTS))


# A sleep that ends when the settable clock says so: the kernel would be asked for one by one of these.
DEADLY = """
import ctypes, errno, sys
from lifecycle.seccomp import *
whole, realtime = 0xffffffff, 0
try:
    deny(
        Rule("futex", KILL, argument=1, mask=PRIVATE | ON_REALTIME, value=ON_REALTIME, pointer=3),
        Rule("futex_waitv", KILL, argument=4, mask=whole, value=realtime, pointer=3),
        Rule("clock_nanosleep", KILL, argument=0, mask=whole, value=realtime),
        Rule("timerfd_create", KILL, argument=0, mask=whole, value=realtime),
    )
except UnsupportedError as why:
    print(why)
    sys.exit(77)
"""


@pytest.mark.parametrize("own", [False, True], ids=["somebody's", "aiospin's"])
def test_who_sleeps_by_that_clock_dies(own: bool) -> None:
    sleep = "ctypes.CDLL(None).clock_nanosleep(0, 0, bytes(16), None)"
    exercise = "from lifecycle import exercise; exercise.everything()"
    done = interpreter(DEADLY + (exercise if own else sleep), PYTHONPATH=str(TESTS))
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    assert (done.returncode, done.stderr) == (0 if own else -signal.SIGSYS, "")


# ---- the clock that cannot be set, but differs between time namespaces ----

ELSEWHERE = """
import ctypes, signal
CLONE_NEWTIME, PR_SET_PDEATHSIG = 0x80, 1
before = time.monotonic()
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(CLONE_NEWTIME):
    tell("no time namespaces for this user here:", os.strerror(ctypes.get_errno()))
    sys.exit()
with open("/proc/self/timens_offsets", "w") as offsets:
    offsets.write("monotonic 1000000 0")
child = os.fork()  # who unshares is not in the namespace, its children are
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
assert time.monotonic() - before > 900_000
from lifecycle import exercise
exercise.echo({there!r}, {back!r}, {backend!r}, aiospin.WaitPolicy({mode!r}))
"""


@pytest.mark.parametrize("mode", ["adaptive", "park"])
@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_a_peer_whose_clock_is_eleven_days_ahead(backend: str | None, mode: str) -> None:
    """Its messages come from the future, ours are old when they come: both sides learn nonsense, and go on."""
    there, back = (f"{os.getpid()}-{end}-{backend}-{mode}" for end in ("there", "back"))
    policy = WaitPolicy(mode)
    code = ELSEWHERE.format(there=there, back=back, backend=backend, mode=mode)
    with BroadcastWriter.create(there, policy=policy) as writer, Child(code) as child:
        said = child.hear()
        if said != "there":
            pytest.skip(said)
        with BroadcastReader.attach(back, policy=policy) as reader:
            writer.wait_for_readers_sync(1, PATIENCE)
            for number in range(100):  # far more than prediction needs
                writer.send_sync(bytes([number]))
                assert reader.receive_sync(PATIENCE) == bytes([number])
            with pytest.raises(TimeoutError):
                reader.receive_sync(0.02)
            writer.close()
            child.finish()
