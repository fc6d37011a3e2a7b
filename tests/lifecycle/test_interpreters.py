"""Free-threaded builds and subinterpreters."""

from __future__ import annotations

import sys
import sysconfig

import pytest
from support import COMPILED, clean

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has no build without the GIL")
@pytest.mark.skipif(not COMPILED, reason="there is no extension that could turn it on")
def test_importing_leaves_the_gil_off() -> None:
    source = """
        import sys, warnings
        warnings.simplefilter("error")
        import aiospin
        word = bytearray(8)
        assert aiospin.wait_for_flag_sync(word, aiospin.eq(0)) == 0
        print(sys._is_gil_enabled(), aiospin.capabilities().backend != "python")
    """
    assert clean(source, PYTHON_GIL="") == "False True\n"


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="interpreters with a GIL of their own came with 3.12"
)
@pytest.mark.parametrize("isolated", [False, True], ids=["shared GIL", "own GIL"])
def test_a_subinterpreter(isolated: bool) -> None:
    """A wait works there, or the import says in an ImportError that it does not."""
    source = """
        import sys
        try:
            import _interpreters as interpreters
            create = lambda own: interpreters.create("isolated" if own else "legacy")
        except ImportError:
            import _xxsubinterpreters as interpreters
            create = lambda own: interpreters.create(isolated=own)
        import aiospin

        INSIDE = '''
        try:
            import aiospin
        except ImportError as error:
            print("refused:", error)
        else:
            word = bytearray(8)
            assert aiospin.wait_for_flag_sync(word, aiospin.eq(0)) == 0
            try:
                aiospin.wait_for_flag_sync(word, aiospin.eq(1), 0.01)
            except TimeoutError:
                print("works")
        '''
        import textwrap
        for _ in range(2):
            interpreter = create(sys.argv[1] == "True")
            error = interpreters.run_string(interpreter, textwrap.dedent(INSIDE))
            assert error is None, error
            interpreters.destroy(interpreter)
        assert aiospin.wait_for_flag_sync(bytearray(1), aiospin.eq(0)) == 0
    """
    lines = clean(source, str(isolated)).splitlines()
    assert len(lines) == 2
    assert all(line == "works" or line.startswith("refused:") for line in lines)
