"""Budgets: short files, short functions, few parameters, every public thing explained."""

import ast
from functools import cache

import pytest
from source import PACKAGE, ROOT, functions, modules

FILE_LINES = 400
FUNCTION_LINES = 40
PARAMETERS = 7
PACKAGE_DATA_BYTES = 25_000_000
README_LINES = 150
ROOM_FILES = 12
# Exceptions, each with its reason. Keep it short.
ALLOWED: set[str] = set()

PATHS = sorted(modules())


def lines_of(function) -> int:
    """Count lines of the body; parameters have their own budget, docstrings may be long."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", PATHS)
def test_file_length(path):
    assert len((ROOT / path).read_text().splitlines()) <= FILE_LINES


@pytest.mark.parametrize("path", PATHS)
def test_function_length(path):
    long = {name: lines_of(node) for name, node, *_ in functions(modules()[path])}
    long = {n: k for n, k in long.items() if k > FUNCTION_LINES and f"{path}:{n}" not in ALLOWED}
    assert not long


def is_estimator(owner: ast.ClassDef | None) -> bool:
    """Tell a scikit-learn estimator: its parameters are its interface, flat by contract."""
    if owner is None:
        return False
    names = {ast.unparse(b).rpartition(".")[2] for b in owner.bases}
    return any("Estimator" in n or "Baseline" in n or n.endswith("Mixin") for n in names)


@pytest.mark.parametrize("path", PATHS)
def test_few_parameters(path):
    many = {}
    for name, node, _, owner in functions(modules()[path]):
        if node.name == "__init__" and is_estimator(owner):
            continue
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        count = len([n for n in names if n not in ("self", "cls")])
        if count > PARAMETERS and f"{path}:{name}" not in ALLOWED:
            many[name] = count
    assert not many


@cache
def documented() -> set[str]:
    """Return Class.method of every documented method; an override inherits the docstring."""
    return {
        f"{owner.name}.{node.name}"
        for tree in modules().values()
        for _, node, _, owner in functions(tree)
        if owner is not None and ast.get_docstring(node)
    }


@cache
def bases() -> dict[str, tuple[str, ...]]:
    """Return the names of the bases of every class."""
    return {
        node.name: tuple(ast.unparse(b).partition("[")[0].rpartition(".")[2] for b in node.bases)
        for tree in modules().values()
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def inherited(owner: str, method: str) -> bool:
    """Tell whether a class further up documents the method."""
    return any(
        f"{base}.{method}" in documented() or inherited(base, method)
        for base in bases().get(owner, ())
    )


def explained(node, owner) -> bool:
    """Tell whether a function has a docstring, its own or an inherited one, or needs none."""
    decorators = [ast.unparse(d) for d in node.decorator_list]
    if any("overload" in d or d.endswith(".setter") for d in decorators):
        return True
    if owner is not None and any("Protocol" in ast.unparse(b) for b in owner.bases):
        return True  # the class docstring lists the members
    # torch documents Module.forward; the class docstring says what ours does.
    if ast.get_docstring(node) or (owner is not None and node.name == "forward"):
        return True
    return owner is not None and inherited(owner.name, node.name)


@pytest.mark.parametrize("path", PATHS)
def test_everything_public_has_a_docstring(path):
    tree = modules()[path]
    assert ast.get_docstring(tree), f"{path} has no module docstring"
    missing = [
        name
        for name, node, public, owner in functions(tree)
        if public and not explained(node, owner)
    ]
    missing += [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is None
    ]
    assert not missing


def test_no_rooms_for_odds_and_ends():
    banned = {"utils", "helpers", "common", "misc", "v2"}
    assert not [p for p in PATHS if banned & set(p.removesuffix(".py").split("/"))]
    for room in [p for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"]:
        assert len(list(room.glob("*.py"))) <= ROOM_FILES, f"{room.name} has too many files"


def test_package_data_fits():
    data = [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    assert sum(p.stat().st_size for p in data) <= PACKAGE_DATA_BYTES


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES
