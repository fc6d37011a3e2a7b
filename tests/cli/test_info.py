"""aiospin info."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
from support import clean

import aiospin
from aiospin.__main__ import main


def test_json_says_what_the_api_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = dataclasses.asdict(aiospin.capabilities())
    assert found["capabilities"] == expected | {"supported": list(expected["supported"])}
    assert list(found["statistics"]) == [
        field.name for field in dataclasses.fields(aiospin.Statistics)
    ]
    assert found["versions"]["aiospin"] == aiospin.__version__
    assert found["machine"]["kernel"]


def test_lines_have_everything_that_json_has(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", "--json"])
    found = json.loads(capsys.readouterr().out)
    main(["info"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [name for section, rows in found.items() for name in (section, *rows)]


def test_it_needs_neither_rich_nor_a_loop_beyond_asyncio() -> None:
    blocked = "import sys; sys.modules.update(rich=None, trio=None, uvloop=None)\n"
    out = clean(blocked + "from aiospin.__main__ import main\nsys.exit(main(['info']))")
    assert aiospin.capabilities().backend in out


def test_an_unknown_command_is_an_error_that_names_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["inform"])
    assert caught.value.code == 2
    assert "info" in capsys.readouterr().err


def test_a_reader_of_the_output_that_leaves_is_no_traceback() -> None:
    source = f"""
        import subprocess
        info = subprocess.Popen([{sys.executable!r}, "-m", "aiospin", "info"],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        info.stdout.close()
        print(info.stderr.read(), info.wait())
        info.stderr.close()
    """
    assert clean(source).split() == ["1"]
