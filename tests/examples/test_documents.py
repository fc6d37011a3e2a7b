"""What README and docs show is run, and what they claim to cover they cover."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aiospin

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# A program, and what it prints where the document says so.
PROGRAM = re.compile(
    r"^```python\n(.*?)^```\n(?:\nprints\n\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)


def programs() -> list[object]:
    return [
        pytest.param(match[1], match[2], id=f"{path.name}-{number}")
        for path in DOCUMENTS
        for number, match in enumerate(PROGRAM.finditer(path.read_text()), 1)
    ]


@pytest.mark.parametrize(("source", "output"), programs())
def test_a_program_in_a_document_runs(source: str, output: str | None, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if output is not None:
        assert done.stdout == output


def test_readme_has_a_program_that_says_what_it_prints() -> None:
    match = PROGRAM.search((ROOT / "README.md").read_text())
    assert match is not None
    assert match[2]


def test_every_public_name_has_a_section() -> None:
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    named = {name for heading in headings for name in re.findall(r"`([\w.]+)", heading)}
    assert set(aiospin.__all__) <= named


@pytest.mark.parametrize("kind", [aiospin.Capabilities, aiospin.Statistics, aiospin.WaitPolicy])
def test_every_field_is_explained(kind: type) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    for field in dataclasses.fields(kind):
        assert f"`{field.name}`" in text, field.name


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
