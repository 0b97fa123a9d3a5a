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
    from omnisky.train.codec import train_codec as run
    from omnisky.train.parallel import in_main_process

    _check(recipe, overrides)
    written = run(recipe, list(overrides), out or Path("runs", recipe.stem))
    if not in_main_process():
        return
    for folder in written.values():
        print(f"{folder}: {_said_of(folder)}")
    if written:
        first = next(iter(written.values()))
        print(f"next: omnisky codec report {first}; omnisky info {first}")


def _said_of(folder: Path) -> str:
    """Return in a few words what a codec folder holds."""
    from omnisky.codecs import load_codec

    codec = load_codec(folder)
    return (
        f"{codec.kind} of {', '.join(codec.modalities)}, {codec.n_tokens} tokens an object from "
        f"{codec.vocab_size} ids"
    )


def _check(recipe: Path, overrides: tuple[str, ...]) -> None:
    if not recipe.is_file():
        raise FileNotFoundError(f"no recipe {recipe}; recipes are TOML files, see recipes/")
    for item in overrides:
        key, equals, _ = item.partition("=")
        if not key or not equals:
            raise ValueError(f"--set {item}: expected section.key=value, such as train.steps=10")
