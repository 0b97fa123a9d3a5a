"""Run a pretraining recipe from its data to a model folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from omnisky.codecs.codec import Codec
from omnisky.codecs.loading import load_pretrained
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.model.model import Model
from omnisky.pretrained import codec_folders, is_own, shipped_codecs, shipped_models
from omnisky.train.loop import train
from omnisky.train.parallel import in_main_process
from omnisky.train.pretraining.matrix import AnyToAny, any_to_any
from omnisky.train.pretraining.objective import PretrainingObjective, check_settings
from omnisky.train.pretraining.recipe import PretrainingRecipe
from omnisky.train.pretraining.tokenising import Part, tokenise_sources
from omnisky.train.recipe import read_recipe, write_json

__all__ = ["pretrain"]


def pretrain(
    recipe: str | os.PathLike, overrides: Iterable[str] = (), out: str | os.PathLike = "runs/model"
) -> Model:
    """Pretrain a model as a recipe says and write it to ``<out>/model``.

    Parameters
    ----------
    recipe : path
        A TOML file of a `PretrainingRecipe`.
    overrides : iterable of str
        ``key=value`` settings that replace the recipe's.
    out : path
        Folder of the run; if it holds one that was interrupted, that goes on. Tokens are kept in
        ``<out>/tokens`` and used again.

    Returns
    -------
    Model
        The pretrained model.

    Raises
    ------
    FileExistsError
        If there is a model already.
    FileNotFoundError, ValueError
        If the recipe, its codecs or its data do not fit; see `omnisky.train.read_recipe`.
    """
    plan = read_recipe(recipe, PretrainingRecipe, overrides)
    folder = Path(out)
    if (folder / "model").exists():
        raise FileExistsError(f"{folder / 'model'} exists; choose another --out or remove it")
    codecs: dict[str, Codec] = {}
    for place in _places(plan):
        codecs = {**_codecs_of(place), **codecs}
    torch.manual_seed(plan.train.seed)
    model, tokenizer = _begun(plan, codecs)
    # Before hours may be spent on tokens.
    check_settings(model.network, plan.masking, plan.token_weights)
    parts = tokenise_sources(plan.data, tokenizer, folder)
    model.network.set_dropout(plan.dropout)
    objective = _objective(model, plan, parts)
    train(objective, plan.train, folder, accepted=partial(write_json, plan, folder / "recipe.json"))
    model.network.eval().requires_grad_(True)
    model.network.set_dropout(0.0)
    if in_main_process():
        model.save_pretrained(folder / "model")
        if plan.evaluation.matrix_objects:
            _matrix(model, plan, parts).save(folder)
    return model


def _begun(plan: PretrainingRecipe, codecs: dict[str, Codec]) -> tuple[Model, Tokenizer]:
    """Return the model that training begins with, and the codecs of what it is trained on."""
    if not plan.start_from:
        tokenizer = _chosen(plan, codecs)
        # Divided weights are made where they are kept; nobody needs memory for all of them.
        divided = plan.train.sharding == "fsdp2"
        with torch.device("meta") if divided else nullcontext():
            return Model.from_preset(plan.preset, tokenizer, plan.layout), tokenizer
    base = Model.from_pretrained(plan.start_from)
    # What a base reads, it reads as it learned to; its shared codecs serve new modalities, too.
    shared = {name: codec for codec in base.codecs.values() for name in codec.modalities}
    tokenizer = _chosen(plan, {**base.codecs, **codecs, **shared}, (*base.codecs, *codecs))
    model = base.extended(Tokenizer({**base.codecs, **tokenizer.codecs}))
    if plan.frozen:
        known = dict(base.network.named_parameters())
        if known.keys() == dict(model.network.named_parameters()).keys():
            raise ValueError(
                f"frozen = true leaves nothing to train: {plan.start_from} knows all modalities of "
                "the recipe"
            )
        for name, parameter in model.network.named_parameters():
            parameter.requires_grad_(name not in known)
    return model, tokenizer


def _matrix(model: Model, plan: PretrainingRecipe, parts: Sequence[Part]) -> AnyToAny:
    return any_to_any(
        model.network,
        [part.training for part in parts if part.training is not None],
        [part.held_out for part in parts],
        objects=plan.evaluation.matrix_objects,
        visible=plan.evaluation.visible,
        seed=plan.evaluation.seed,
    )


def _objective(
    model: Model, plan: PretrainingRecipe, parts: Sequence[Part]
) -> PretrainingObjective:
    trained = [(p.training, p.source.weight) for p in parts if p.training is not None]
    return PretrainingObjective(
        model.network,
        [table for table, _ in trained],
        [part.held_out for part in parts],
        plan.masking,
        plan.token_weights,
        weights=[weight for _, weight in trained],
        evaluation=plan.evaluation,
    )


def _places(plan: PretrainingRecipe) -> tuple[str, ...]:
    return (plan.codecs,) if isinstance(plan.codecs, str) else plan.codecs


def _chosen(
    plan: PretrainingRecipe, codecs: dict[str, Codec], names: Sequence[str] = ()
) -> Tokenizer:
    """Return the codecs of the recipe's modalities, in order; by default of these, or of all.

    Raises
    ------
    ValueError
        If a modality has no codec.
    """
    names = tuple(dict.fromkeys(plan.modalities or names or codecs))
    missing = [name for name in names if name not in codecs]
    if missing or not names:
        places = ", ".join(filter(None, (*_places(plan), plan.start_from))) or "codecs = []"
        raise ValueError(
            f"{places} has no codec of {', '.join(missing) or 'anything'}; there are codecs of "
            f"{', '.join(sorted(codecs)) or 'nothing'}"
        )
    return Tokenizer({name: codecs[name] for name in names})


def _codecs_of(place: str) -> dict[str, Codec]:
    """Return the codecs of a folder or model, in our layout or AION-1's, or one that ships."""
    folder = Path(place)
    if not folder.exists() and place in shipped_codecs():
        codec = load_pretrained(place)
        return dict.fromkeys(codec.modalities, codec)
    if not folder.exists():
        folder = shipped_models().get(place, folder)
    found = codec_folders(folder)
    if all(map(is_own, found)):
        inner = folder / "codecs"
        return dict(Tokenizer.from_pretrained(inner if inner.is_dir() else folder).codecs)
    codecs = [load_pretrained(path) for path in found]
    return {name: codec for codec in codecs for name in codec.modalities}
