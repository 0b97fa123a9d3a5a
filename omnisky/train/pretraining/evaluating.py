"""Evaluate a run that is over: its model, on its own tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path

from omnisky.model.model import Model
from omnisky.train.pretraining.matrix import AnyToAny, any_to_any
from omnisky.train.pretraining.tokentable import TokenTable

__all__ = ["evaluate_run"]


def evaluate_run(
    run: str | os.PathLike, *, objects: int = 256, visible: int | None = None, seed: int = 0
) -> AnyToAny:
    """Return the any-to-any matrix of the model that a run of pretraining made.

    Parameters
    ----------
    run : path
        Folder of the run, with ``model`` and ``tokens``.
    objects : int
        Most held-out objects of a source.
    visible : int, optional
        Most tokens shown of an object, 0 for all; by default as the run's recipe says.
    seed : int
        Seed of the bootstrap.

    Raises
    ------
    FileNotFoundError
        If there is no such run, it is not over, or its tokens are gone.
    CheckpointError
        If model or tokens are damaged.
    ValueError
        If model and tokens do not belong together, or there is no held-out object.
    """
    folder = Path(run)
    held_out = sorted((folder / "tokens").glob("*/calibration/about.json"))
    if not (folder / "model").is_dir() or not held_out:
        raise FileNotFoundError(
            f"{folder} has no model and tokens; give the folder of a run of omnisky pretrain that "
            "is over"
        )
    training = sorted((folder / "tokens").glob("*/train/about.json"))
    if visible is None:
        told = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        visible = int(told["evaluation"]["visible"])
    return any_to_any(
        Model.from_pretrained(folder / "model").network,
        [TokenTable.open(path.parent) for path in training],
        [TokenTable.open(path.parent) for path in held_out],
        objects=objects,
        visible=visible,
        seed=seed,
    )
