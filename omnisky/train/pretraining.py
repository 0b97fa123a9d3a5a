"""Pretrain the any-to-any transformer by masked modelling on a data set's tokens."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens
from omnisky.data import datasets
from omnisky.modalities import Observations
from omnisky.model.masking import MaskingConfig, sample_masks
from omnisky.model.model import Model
from omnisky.model.transformer import Selection, Transformer
from omnisky.train.config import TrainConfig
from omnisky.train.loop import train
from omnisky.train.parallel import in_main_process
from omnisky.train.recipe import read_recipe, write_json

__all__ = ["PretrainingObjective", "PretrainingRecipe", "pretrain"]


@dataclass(frozen=True, kw_only=True)
class PretrainingRecipe:
    """Say what to pretrain on what.

    Parameters
    ----------
    dataset : str
        Name of a data set; only its train split is used, and calibration to evaluate.
    codecs : str
        Folder with one codec folder a modality.
    modalities : tuple of str
        Which of them the model reads and writes.
    masking : MaskingConfig
        What is hidden.
    train : TrainConfig
        How long and how fast.
    preset : str
        Size of the model.
    start_from : str
        Pretrained model to go on from, its new modalities appended; empty for a fresh one.
    token_weights : dict of str to float
        Weight of one token of a modality in the loss; 1 where nothing is said.
    dropout : float
        Share of what each part of each block says that is left out, against memorising.
    """

    dataset: str
    codecs: str
    modalities: tuple[str, ...]
    masking: MaskingConfig
    train: TrainConfig
    preset: str = "nano"
    start_from: str = ""
    token_weights: dict[str, float] = field(default_factory=dict)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); found {self.dropout!r}")


class PretrainingObjective:
    """Cross-entropy of hidden tokens, as the loop of `omnisky.train` wants it.

    The loss is the sum over the tokens asked for of weight × cross-entropy, divided by the number
    of objects: a mean over objects, so that splitting a batch over processes changes nothing.

    Parameters
    ----------
    module : Transformer
        What is trained.
    tokens, held_out : Tokens
        Training tokens, and tokens to evaluate on.
    masking : MaskingConfig
        What is hidden.
    token_weights : mapping of str to float
        Weight of one token of a modality.
    """

    def __init__(
        self,
        module: Transformer,
        tokens: Tokens,
        held_out: Tokens,
        masking: MaskingConfig,
        token_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.module: nn.Module = module
        self.transformer = module
        self.masking = masking
        self.ids, self.present = module.lay_out(tokens)
        self.held_out = module.lay_out(held_out)
        self.n_examples = len(tokens)
        self.weights = {n: (token_weights or {}).get(n, 1.0) for n in module.names}
        self.hidden = tuple(module.names.index(n) for n in masking.never_visible)
        self.favoured = tuple(module.names.index(n) for n in masking.favoured)
        digest = hashlib.sha256(self.ids.numpy().tobytes() + self.present.numpy().tobytes())
        digest.update(
            json.dumps([module.config.to_dict(), masking.__dict__, self.weights]).encode()
        )
        self.fingerprint = digest.hexdigest()

    def loss(
        self, module: nn.Module, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the mean cross-entropy a token of each modality asked for."""
        present = self.present[indices]
        slots = self.transformer.slot_modality.cpu()
        visible, asked = sample_masks(
            present, slots, self.masking, generator, self.hidden, self.favoured
        )
        ids = self.ids[indices]
        targets = torch.gather(ids, 1, asked.slots).flatten()
        total = torch.zeros(())
        sums: dict[str, list[float]] = {}
        for name, rows, logits in module(ids, visible, asked):
            entropy = F.cross_entropy(logits.float(), targets[rows], reduction="sum")
            total = total + self.weights[name] * entropy
            count = sums.setdefault(name, [0.0, 0])
            count[0] += float(entropy.detach())
            count[1] += len(rows)
        metrics = {f"entropy/{name}": s / n for name, (s, n) in sums.items()}
        return total / len(indices), metrics

    def evaluate(self) -> dict[str, float]:
        """Return the cross-entropy of each modality given all others that may be visible."""
        return {
            f"entropy/{name}": self._entropy_given_others(i)
            for i, name in enumerate(self.transformer.names)
        }

    @torch.no_grad()
    def _entropy_given_others(self, number: int, n_objects: int = 512) -> float:
        ids, present = (t[:n_objects] for t in self.held_out)
        slots = self.transformer.slot_modality
        mine = slots == number
        others = ~mine & ~torch.isin(slots, torch.tensor(self.hidden, dtype=torch.long))
        keep = present[:, mine].any(1) & present[:, others].any(1)
        ids, present = ids[keep], present[keep]
        visible = Selection(others.nonzero()[:, 0].expand(len(ids), -1), present[:, others])
        asked = Selection(mine.nonzero()[:, 0].expand(len(ids), -1), present[:, mine])
        targets = torch.gather(ids, 1, asked.slots).flatten()
        total, count = 0.0, 0
        for _, rows, logits in self.transformer(ids, visible, asked):
            total += float(F.cross_entropy(logits, targets[rows], reduction="sum"))
            count += len(rows)
        return total / max(count, 1)


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
        Folder of the run; if it holds one that was interrupted, that goes on.

    Returns
    -------
    Model
        The pretrained model.
    """
    plan = read_recipe(recipe, PretrainingRecipe, overrides)
    folder = Path(out)
    if (folder / "model").exists():
        raise FileExistsError(f"{folder / 'model'} exists; choose another --out or remove it")
    codecs = Tokenizer.from_pretrained(plan.codecs).codecs
    missing = [name for name in plan.modalities if name not in codecs]
    if missing:
        raise ValueError(f"{plan.codecs} has no codec of {', '.join(missing)}")
    tokenizer = Tokenizer({name: codecs[name] for name in plan.modalities})
    torch.manual_seed(plan.train.seed)
    if plan.start_from:
        model = Model.from_pretrained(plan.start_from).extended(tokenizer)
    else:
        model = Model.from_preset(plan.preset, tokenizer)
    data = datasets.load(plan.dataset)
    training, held_out = (
        tokenizer.encode(_all_of(data[split], plan.modalities))
        for split in ("train", "calibration")
    )
    model.network.set_dropout(plan.dropout)
    objective = PretrainingObjective(
        model.network, training, held_out, plan.masking, plan.token_weights
    )
    if in_main_process():
        write_json(plan, folder / "recipe.json")
    train(objective, plan.train, folder)
    model.network.eval()
    model.network.set_dropout(0.0)
    if in_main_process():
        model.save_pretrained(folder / "model")
    return model


def _all_of(data: datasets.Dataset, names: Iterable[str]) -> Observations:
    """Return observations and labels as one set of modalities."""
    return Observations({**data.observations, **data.labels}).select(*names)
