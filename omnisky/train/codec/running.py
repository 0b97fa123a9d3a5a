"""Run a codec recipe from its data to codec folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisky.codecs.codec import Codec, LearnedCodec
from omnisky.modalities import Measurement
from omnisky.train.codec.fitting import fit_codec
from omnisky.train.codec.objective import CodecObjective
from omnisky.train.codec.recipe import CodecRecipe, LearnedRecipe
from omnisky.train.codec.sources import Part, open_parts
from omnisky.train.loop import train
from omnisky.train.parallel import in_main_process
from omnisky.train.recipe import read_recipe, write_json
from omnisky.train.sampler import preserve_random_state

__all__ = ["train_codec"]


def train_codec(
    recipe: str | os.PathLike, overrides: Iterable[str] = (), out: str | os.PathLike = "runs/codecs"
) -> dict[str, Path]:
    """Train every codec of a recipe and write each into a folder of its own.

    Started by ``torchrun`` on several processes, one of them writes.

    Parameters
    ----------
    recipe : path
        A TOML file of a `CodecRecipe`.
    overrides : iterable of str
        ``key=value`` settings that replace the recipe's.
    out : path
        Folder of codec folders: ``<out>/<modality>/``, or ``<out>/<kind>/`` for a codec of several
        modalities. The run of a learned codec is kept in ``<out>/<name>-run``; if it was
        interrupted before its codec was written, it goes on.

    Returns
    -------
    dict of str to Path
        Codec folders by name.

    Raises
    ------
    FileExistsError
        If a codec folder exists already.
    FileNotFoundError, ValueError
        If the recipe or its data do not fit; see `omnisky.train.read_recipe`.
    """
    plan = read_recipe(recipe, CodecRecipe, overrides)
    folder, learned = Path(out), plan.learned
    codec = None
    if learned is not None and plan.train is not None:
        with preserve_random_state():
            torch.manual_seed(plan.train.seed)
            codec = learned.build()
    written = {} if codec is None else {_name_of(codec, learned): folder}
    written |= dict.fromkeys(plan.scalars.modalities if plan.scalars else (), folder)
    written = {name: folder / name for name in written}
    if in_main_process():
        for path in written.values():
            if path.exists():
                raise FileExistsError(f"{path} exists; choose another --out or remove it")
    codecs: dict[str, Codec] = {}
    report = {}
    if codec is not None and learned is not None:
        name = _name_of(codec, learned)
        report = _train_learned(codec, learned, plan, written[name])
        codecs[name] = codec
    if in_main_process():
        if plan.scalars is not None:
            for name in plan.scalars.modalities:
                codecs[name] = fit_codec(name, plan.scalars, plan.sources, folder)
        # Last, and one right after the other: what was interrupted before has written no codec.
        for name, found in codecs.items():
            extra = partial(_write_report, report) if found is codec else None
            found.save(written[name], extra=extra)
    return written


def _write_report(report: dict[str, Any], work: Path) -> None:
    write_json(report, work / "report.json")


def _name_of(codec: Codec, learned: LearnedRecipe | None) -> str:
    """Return the name of a codec's folder."""
    if learned is not None and learned.name:
        return learned.name
    one = len(codec.modalities) == 1
    return codec.modality if one else codec.kind.removesuffix("-codec")


def _train_learned(
    codec: LearnedCodec, learned: LearnedRecipe, plan: CodecRecipe, final: Path
) -> dict[str, Any]:
    """Train a codec and return its report, made in the main process alone."""
    assert plan.train is not None, "checked before"
    run = final.with_name(f"{final.name}-run")
    parts = open_parts(plan.sources, codec.trained_modalities, run, learned.held_out)
    codec.fit(_samples(parts, learned.samples))
    objective = CodecObjective(codec, parts)
    train(objective, plan.train, run, accepted=partial(write_json, plan, run / "recipe.json"))
    if not in_main_process():
        return {}
    report = _report(objective, plan)
    codec.eval().cpu()
    return report


def _samples(parts: Sequence[Part], count: int) -> dict[str, Measurement]:
    """Return training objects of each modality, evenly spaced in its first source."""
    samples: dict[str, Measurement] = {}
    for part in parts:
        if part.modality not in samples:
            n = len(part.training)
            index = np.arange(n) if n <= count else np.linspace(0, n - 1, count).astype(np.int64)
            found = part.training.read(index)
            samples[part.modality] = found[found.present]
    return samples


def _report(objective: CodecObjective, plan: CodecRecipe) -> dict[str, Any]:
    """Return what is kept beside the codec: figures on held-out objects of each source."""
    return {
        "split": "calibration",
        "steps": plan.train.steps if plan.train else 0,
        "sources": [
            {
                "modality": part.modality,
                "source": str(part.source),
                "mock": part.source.mock is not None,
                "objects_trained_on": len(part.training),
                "objects": len(part.held_out),
                "figures": objective.report(part) if len(part.held_out) else {},
            }
            for part in objective.parts
        ],
    }
