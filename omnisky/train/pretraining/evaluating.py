"""Evaluate a run that is over: its model, on its own tokens."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from omnisky.model.model import Model
from omnisky.train.pretraining.matrix import AnyToAny, any_to_any
from omnisky.train.pretraining.tokentable import TokenTable

__all__ = ["evaluate_run"]


def evaluate_run(
    run: str | os.PathLike,
    *,
    objects: int = 256,
    visible: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
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
    device : str or torch.device
        Where to compute.

    Raises
    ------
    FileNotFoundError
        If there is no such run, it is not over, or tokens of it are gone: those that it made, or
        those of an earlier run that its recipe names.
    CheckpointError
        If model or tokens are damaged.
    ValueError
        If model and tokens do not belong together, there is no held-out object, or no such device.
    """
    folder = Path(run)
    if not (folder / "model").is_dir() or not (folder / "recipe.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no model and tokens; give the folder of a run of omnisky pretrain that "
            "is over"
        )
    told = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    training, held_out = _tables(folder, told["data"])
    return any_to_any(
        Model.from_pretrained(folder / "model").to(device).network,
        training,
        held_out,
        objects=objects,
        visible=int(told["evaluation"]["visible"]) if visible is None else visible,
        seed=seed,
    )


def _tables(folder: Path, data: Mapping[str, Any]) -> tuple[list[TokenTable], list[TokenTable]]:
    """Return the tables that a run trained on, and those held out, source by source."""
    training, held_out = [], []
    for number, source in enumerate(data["sources"]):
        if source["tokens"]:
            place = Path(data["path"], source["tokens"])
        else:
            found = sorted((folder / "tokens").glob(f"{number}-*"))
            if len(found) > 1:
                raise ValueError(
                    f"source {number} of {folder} has tokens of several sources, of which its "
                    f"recipe names one: {', '.join(p.name for p in found)}. Move away the others"
                )
            place = found[0] if found else folder / "tokens" / str(number)
        if not place.is_dir():
            raise FileNotFoundError(
                f"the tokens of source {number} of {folder} are gone: there is no {place}"
                + ("; data.path counts from where the run was started" * bool(source["tokens"]))
            )
        held_out.append(TokenTable.open(place / "calibration"))
        if source["weight"]:
            training.append(TokenTable.open(place / "train"))
    return training, held_out
