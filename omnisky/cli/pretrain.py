"""Train from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

__all__ = ["pretrain", "train_codec"]

Overrides = Annotated[tuple[str, ...], Parameter(name="--set")]


def pretrain(recipe: Path, /, *, overrides: Overrides = (), out: Path | None = None) -> None:
    """Pretrain a model from a recipe.

    A run that was stopped goes on where its last checkpoint is.

    Parameters
    ----------
    recipe : Path
        TOML file.
    overrides : tuple of str
        section.key=value in place of what the recipe says. May be repeated.
    out : Path, optional
        Folder of the run; runs/<recipe> by default.
    """
    from omnisky.train.pretraining import pretrain as run

    _check(recipe, overrides)
    run(recipe, list(overrides), out or Path("runs", recipe.stem))


def train_codec(recipe: Path, /, *, overrides: Overrides = (), out: Path | None = None) -> None:
    """Train a codec from a recipe.

    Parameters
    ----------
    recipe : Path
        TOML file.
    overrides : tuple of str
        section.key=value in place of what the recipe says. May be repeated.
    out : Path, optional
        Folder of the run; runs/<recipe> by default.
    """
    from omnisky.train.codec import train_codec as run

    _check(recipe, overrides)
    run(recipe, list(overrides), out or Path("runs", recipe.stem))


def _check(recipe: Path, overrides: tuple[str, ...]) -> None:
    if not recipe.is_file():
        raise FileNotFoundError(f"no recipe {recipe}; recipes are TOML files, see recipes/")
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not key or not equals:
            raise ValueError(f"--set {item}: expected section.key=value, such as train.steps=10")
