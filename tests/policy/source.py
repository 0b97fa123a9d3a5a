"""What the policy tests look at: tracked files, parsed modules, functions."""

import ast
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "omnisky"


@cache
def modules() -> dict[str, ast.Module]:
    """Return the parsed modules of the package by path relative to the root."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text(), str(p)) for p in paths}


def functions(tree: ast.Module):
    """Yield (qualified name, node, public, enclosing class) of every function."""

    def walk(node, prefix, public, owner):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                shown = public and not child.name.startswith("_")
                yield from walk(child, f"{prefix}{child.name}.", shown, child)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                shown = public and not child.name.startswith("_")
                yield f"{prefix}{child.name}", child, shown, owner
                yield from walk(child, f"{prefix}{child.name}.", False, None)
            elif not isinstance(child, ast.expr):
                yield from walk(child, prefix, public, owner)

    yield from walk(tree, "", True, None)


def imported(tree: ast.Module, *, top_level_only: bool = False):
    """Yield the dotted names that a module imports."""
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def files() -> list[Path]:
    """Return the files that are, or would be, under version control."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
