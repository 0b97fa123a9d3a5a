"""What pyproject.toml declares is what the code imports, and the wheel holds what it needs."""

import subprocess
import sys
import tomllib
import zipfile

import pytest
from source import PACKAGE, ROOT, imported, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Distributions whose import name differs.
IMPORT_NAMES = {"scikit-learn": "sklearn", "huggingface-hub": "huggingface_hub"}


def names(requirements: list[str]) -> set[str]:
    plain = {r.partition(">")[0].partition("[")[0].partition("=")[0].strip() for r in requirements}
    return {IMPORT_NAMES.get(n, n) for n in plain}


def test_declared_dependencies_are_those_imported():
    used = {name.split(".")[0] for tree in modules().values() for name in imported(tree)}
    used -= {*sys.stdlib_module_names, "omnisky", ""}
    extras = PROJECT["optional-dependencies"]
    optional = names(extras["stars"]) | names(extras["track"]) | names(extras["data"])
    core = names(PROJECT["dependencies"])
    assert used - core - optional == set(), "imported but not declared"
    assert core - used == set(), "declared but not imported"


def test_torch_range_and_tested_version():
    assert "torch>=2.9,<3" in PROJECT["dependencies"]
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_all_is_the_sum_of_the_extras():
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == [f"omnisky[{','.join(n for n in extras if n != 'all')}]"]


def test_wheel_holds_code_weights_and_data(tmp_path):
    pytest.importorskip("hatchling")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if n.startswith("omnisky/")}
        entry = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert b"omnisky = omnisky.cli:main" in archive.read(entry)
    there = {
        str(p.relative_to(ROOT))
        for p in PACKAGE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and not p.name.startswith(".")
    }
    assert held == there
