"""The pages build without a warning; README and docs point at what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [p for p in PAGES if "_build" not in p.parts]


@pytest.mark.slow
def test_pages_build_without_warnings(tmp_path):
    pytest.importorskip("myst_nb")
    # All is read and every link followed, but nothing written: `make docs` does that. The cells of
    # the tutorial run in test_examples.py.
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "dummy"]
    command += ["-D", "nb_execution_mode=off", "-d", str(tmp_path / "doctrees")]
    done = subprocess.run(
        [*command, "docs", str(tmp_path / "nothing")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "doctrees/reference/generated/omnisky.adapt.finetuned.doctree").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_point_at_files(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_tree_in_the_readme_is_the_tree():
    tree = re.search(r"```\nomnisky/.*?```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    named = set(re.findall(r"^  (\S+?)/? ", tree, re.MULTILINE))
    there = {p.name for p in (ROOT / "omnisky").iterdir() if not p.name.startswith(("_", "."))}
    assert named == there


def test_a_page_of_explanation_for_every_room():
    rooms = {p.stem for p in (ROOT / "omnisky").iterdir() if not p.name.startswith(("_", "."))}
    pages = {p.stem for p in (ROOT / "docs" / "explanation").glob("*.md")}
    assert rooms - {"storage"} <= pages
