"""Nothing executable is loaded from a file, and no file tells where it was written."""

import ast
import re

import numpy as np
import pytest
from source import PACKAGE, files, imported, modules

FORBIDDEN_IMPORTS = {"pickle", "dill", "joblib", "torchvision", "timm", "shelve", "marshal"}


@pytest.mark.parametrize("path", sorted(modules()))
def test_forbidden_imports(path):
    assert not {n.split(".")[0] for n in imported(modules()[path])} & FORBIDDEN_IMPORTS


def is_true(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True


@pytest.mark.parametrize("path", sorted(modules()))
def test_no_pickles_are_loaded(path):
    for node in ast.walk(modules()[path]):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        keywords = {k.arg: k.value for k in node.keywords}
        where = f"{path}:{node.lineno} {call}"
        assert not is_true(keywords.get("allow_pickle")), f"{where} allows pickles"
        if call == "torch.load":
            assert is_true(keywords.get("weights_only")), f"{where} needs weights_only=True"
        assert call not in ("eval", "exec", "os.system"), where


# Tables of numbers, which NumPy reads without unpickling anything.
TABLES = PACKAGE / "mock" / "tables"


def test_no_weights_in_executable_formats():
    suffixes = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".bin"}
    found = [p for p in PACKAGE.rglob("*") if p.suffix in suffixes]
    assert not [p for p in found if p.parent != TABLES or p.suffix != ".npz"]


@pytest.mark.parametrize("path", sorted(TABLES.glob("*.npz")), ids=lambda p: p.name)
def test_shipped_tables_hold_no_objects(path):
    with np.load(path, allow_pickle=False) as stored:
        assert stored.files
        assert {stored[name].dtype.kind for name in stored.files} <= set("biufUS")


# Written in parts, so that this file does not match itself.
HOSTS = ["py" + "pi" + r"\.(org|python)", "files" + r"\.pythonhosted", "art" + "ifactory"]
HOSTS += ["down" + r"load\.pytorch", "no" + r"de\.npm", "regis" + r"try\.npm"]
FOLDERS = ["wo" + "rk", "t" + "mp", "ro" + "ot", "ho" + "me", "Us" + "ers", "o" + "pt"]
MACHINE = re.compile(
    r"(?<![\w.~*)}\]-])/(" + "|".join(FOLDERS) + r")/\w|" + "|".join(HOSTS), re.IGNORECASE
)


def test_no_paths_of_a_machine_and_no_registry_hosts():
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE.search(line):
                found.append(f"{path.name}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)
