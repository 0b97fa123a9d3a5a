"""How attentive heads are fitted, alone or with the encoder: gradient descent, early stopping."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.adapt.heads import ENOUGH, EnsembleHead, HeadShape, Unit, blends_of
from omnisky.adapt.inputs import Features, View, batches, endless_batches, on_device, richest, take
from omnisky.adapt.labels import Labels
from omnisky.adapt.linear import fit_linear
from omnisky.adapt.measured import DirectPart
from omnisky.train.parallel import untell

__all__ = [
    "ADAPTATIONS",
    "FitSettings",
    "default_members",
    "evaluate",
    "fit_unit",
    "student_loss",
    "train_direct",
    "train_head",
]

ADAPTATIONS = ("linear", "attentive", "full")
# Passes over the objects, and objects seen in all after which more passes gain little.
_EPOCHS = {"linear": (0, 1), "attentive": (60, 200_000), "full": (30, 60_000)}

# Residuals, in units of the labels' spread, beyond which the loss grows linearly.
_BEND = 0.1
_STUDENT_DOF = 4.0
_SCALE_WEIGHT = 0.05
_WARMUP = 0.05
_TOKEN_KEEP = 0.9
_ENCODER_RATE = 0.1
_WEIGHT_DECAY = 0.1
# Steps on measured numbers: as many as suit so many objects, growing with their square root.
_DIRECT_STEPS, _DIRECT_OBJECTS, _DIRECT_BATCH = 2000, 5000, 128


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """State how a head is trained.

    Parameters
    ----------
    adaptation : {"linear", "attentive", "full"}
        What is trained.
    epochs : int, optional
        Passes over the objects; see `epochs_over`.
    learning_rate : float
        Peak rate of the head; the encoder, if trained, gets a tenth of it.
    modality_dropout : float
        Probability that an object is shown with one kind of modality alone.
    progress : bool
        Show a progress bar.
    """

    adaptation: str
    epochs: int | None
    learning_rate: float
    modality_dropout: float
    progress: bool = False

    def __post_init__(self) -> None:
        if self.epochs is not None and (self.epochs < 0 or self.epochs != int(self.epochs)):
            raise ValueError(f"epochs must be a whole number from 0 up; found {self.epochs!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive; found {self.learning_rate!r}")
        if not 0 <= self.modality_dropout <= 1:
            found = self.modality_dropout
            raise ValueError(f"modality_dropout must lie between 0 and 1; found {found!r}")

    def epochs_over(self, objects: int) -> int:
        """Return the passes over so many objects: those asked for, else what suits their number."""
        if self.epochs is not None:
            return self.epochs
        most, seen = _EPOCHS[self.adaptation]
        return min(most, math.ceil(seen / objects))


def default_members(adaptation: str, objects: int) -> int:
    """Return the size of the ensemble where none is asked for."""
    if adaptation != "attentive":
        return 1
    return 5 if objects < 3000 else 3


def fit_unit(
    shape: HeadShape,
    views: list[View],
    labels: Labels,
    settings: FitSettings,
    network: Any,
) -> tuple[Unit, dict[int, np.ndarray]]:
    """Fit a head on the (given) encoder, or on a copy of it that is trained along.

    Returns
    -------
    unit : Unit
        The fitted head with its encoder.
    residuals : dict of int to array
        Leave-one-out residuals of its linear part, see `fit_linear`.
    """
    head = EnsembleHead(shape).to(views[0].features().x.device)
    residuals = fit_linear(head, views, labels)
    tuned = copy.deepcopy(network) if settings.adaptation == "full" else None
    if tuned is not None:
        untell(tuned)
    if shape.attentive:
        head.standardise_pooled([(view.index, view.features()) for view in views])
        # What is not trained yet is not asked either.
        direct, head.direct = head.direct, None
        train_head(head, views, labels, settings, tuned)
        if direct is not None:
            train_direct(direct, views, labels, settings)
            head.direct = direct
        _choose_shares(head, views, labels, tuned)
    return Unit(head.eval(), network, tuned), residuals


def train_head(
    head: EnsembleHead,
    views: list[View],
    labels: Labels,
    settings: FitSettings,
    network: Any = None,
) -> None:
    """Train the attentive part of all members, and the encoder if one is given.

    Objects held out of a member measure its loss after each epoch; all members keep the one epoch
    at which this loss, over all members, was smallest. That is a single number chosen from all
    objects, so held-out errors stay honest.

    The location is fitted by a Huber loss and the scale by a Student-t likelihood of its residuals
    that does not pull at the location: a joint likelihood stops at the epoch where the scales
    begin to overfit, long before the locations do (measured, dev/LOG.md).

    Parameters
    ----------
    head : EnsembleHead
        Its linear part is fitted; changed in place.
    views : list of View
        Objects under each pattern, encoded.
    labels : Labels
        Targets and who learns from what.
    settings : FitSettings
        How long and how fast.
    network : module, optional
        Encoder to train along with the head, in place.
    """
    rows = labels.train.shape[1]
    batch = int(np.clip(2 ** round(math.log2(max(rows, 2) / 16)), 16, 256))
    epochs = settings.epochs_over(rows)
    steps = epochs * math.ceil(rows / batch)
    optimizer = _optimizer(head, network, settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    best, best_state, waited = math.inf, _snapshot(head, network), 0
    with Progress(disable=not settings.progress, transient=True) as progress:
        bar = progress.add_task("fit", total=epochs)
        for _ in range(epochs):
            for view, picked in batches(views, rows, batch, settings.modality_dropout):
                loss = _batch_loss(head, view, picked, labels, labels.train, network)
                optimizer.zero_grad()
                loss.backward()
                if network is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            held = float(evaluate(head, views, labels, network).mean())
            waited += 1
            if held < best:
                best, best_state, waited = held, _snapshot(head, network), 0
            progress.advance(bar)
            # Late epochs gain from the falling rate, so patience is long.
            if waited > max(10, epochs // 3):
                break
    _restore(head, network, best_state)


def train_direct(
    direct: DirectPart, views: list[View], labels: Labels, settings: FitSettings
) -> None:
    """Train the part that sees measured numbers, like `train_head`, for a fixed number of steps."""
    rows = labels.train.shape[1]
    fullest = richest(views, rows)
    tables = [view.features().measured for view in views]
    each = [t[fullest[v.rows] == i] for i, (v, t) in enumerate(zip(views, tables, strict=True))]
    direct.standardise(torch.cat(each), tables if settings.modality_dropout else each)
    batch = min(_DIRECT_BATCH, rows)
    steps = math.ceil(_DIRECT_STEPS * max(0.3, rows / _DIRECT_OBJECTS) ** 0.5)
    if settings.epochs is not None:
        steps = min(steps, settings.epochs * math.ceil(rows / batch))
    groups = [
        {"params": list(direct.weights), "weight_decay": _WEIGHT_DECAY},
        {"params": list(direct.biases), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    direct.train()
    for view, picked in itertools.islice(
        endless_batches(views, rows, batch, settings.modality_dropout), steps
    ):
        measured = view.features().measured[picked]
        location = direct(measured)
        loss, weight = _losses(
            (location, location), labels, torch.as_tensor(view.rows[picked]), labels.train
        )
        optimizer.zero_grad()
        _over_members(loss, weight).backward()
        optimizer.step()
        schedule.step()
    direct.eval()


@torch.no_grad()
def _choose_shares(head: EnsembleHead, views: list[View], labels: Labels, network: Any) -> None:
    """Blend the parts, each target as its held-out objects like it best in each pattern.

    A pattern that fewer than 100 of them show, and not all, takes the blend that suits them all,
    each in its fullest view.
    """
    blends = blends_of(len(head.shares)).to(head.shares)
    own = {v.index: _blend_losses(head, blends, [v], labels, network) for v in views}
    # What is shown in one view alone need not be asked twice.
    whole = own[views[0].index] if len(views) == 1 else None
    of_all, all_known = whole or _blend_losses(head, blends, views, labels, network)
    for pattern in range(head.shape.views):
        loss, known = own.get(pattern, (of_all, all_known))
        enough = known >= all_known.clamp(max=ENOUGH)
        best = blends[torch.where(enough, loss, of_all).argmin(0)]
        shares = head.shares[:, pattern]
        shares.copy_(torch.where(all_known > 0, best.T, shares))


def _blend_losses(
    head: EnsembleHead, blends: Tensor, views: list[View], labels: Labels, network: Any
) -> tuple[Tensor, Tensor]:
    """Return the mean loss of objects held out and their number, shapes (blend, target), (target,).

    Classes count as one target.
    """
    targets = 1 if labels.classes else head.shape.outputs
    total = blends.new_zeros(len(blends), targets)
    count = blends.new_zeros(targets)
    for pattern, rows, features, frozen in _held(head, views, labels, network):
        parts, log_scale = head.parts(features, pattern, frozen)
        blended = [torch.einsum("p...,p->...", parts, blend) for blend in blends]
        tried = [_losses((location, log_scale), labels, rows, labels.held) for location in blended]
        total += torch.stack([loss.sum((0, 1)) for loss, _ in tried])
        count += tried[0][1].sum((0, 1))
    return total / count.clamp(min=1), count


def _rate(step: int, steps: int) -> float:
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / steps)))


def _optimizer(head: EnsembleHead, network: Any, rate: float) -> torch.optim.Optimizer:
    weights = [head.values, head.inner, head.middle, head.outer]
    small = [head.queries, head.pattern, head.inner_bias, head.middle_bias, head.outer_bias]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": _WEIGHT_DECAY},
        {"params": small},
    ]
    if network is not None:
        trained = [p for p in network.parameters() if p.requires_grad]
        groups.append({"params": trained, "lr": _ENCODER_RATE * rate, "weight_decay": 0.01})
    return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)


def _features(
    head: EnsembleHead, view: View, index: np.ndarray, network: Any, keep: float
) -> Features:
    if network is None:
        return view.features(index)
    assert view.tokens is not None, "only tokens can pass an encoder that is trained"
    tokens = on_device(take(view.tokens, index), network, keep)
    x, mask, answers = network.encode_and_ask(tokens, head.shape.asks)
    return Features(x, mask, answers, view.features(index).measured)


def _batch_loss(
    head: EnsembleHead, view: View, index: np.ndarray, labels: Labels, who: Tensor, network: Any
) -> Tensor:
    """Return the loss summed over members, each averaged over its own objects."""
    head.train()
    if network is not None:
        network.train()
    features = _features(head, view, index, network, _TOKEN_KEEP)
    rows = torch.as_tensor(view.rows[index])
    outputs = head(features, view.index)
    loss, weight = _losses(outputs, labels, rows, who)
    if not labels.classes:
        loss = loss + _SCALE_WEIGHT * _scale_losses(outputs, labels, rows) * weight
    return _over_members(loss, weight)


def _over_members(loss: Tensor, weight: Tensor) -> Tensor:
    """Return the sum over members of the mean over their own objects."""
    return (loss.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)).sum()


def _losses(
    outputs: tuple[Tensor, Tensor], labels: Labels, rows: Tensor, who: Tensor
) -> tuple[Tensor, Tensor]:
    """Return loss and weight, shape (member, object, target), zero where nothing is learned.

    Classes count as one target.
    """
    location = outputs[0]
    target, mine = labels.target[rows].to(location.device), who[:, rows].to(location)[:, :, None]
    if labels.classes:
        repeated = target.repeat(len(location))
        loss = F.cross_entropy(location.flatten(0, 1), repeated, reduction="none")
        return loss.reshape(mine.shape) * mine, mine
    known = ~torch.isnan(target)
    truth = torch.nan_to_num(target).expand_as(location)
    weight = known * mine
    return F.smooth_l1_loss(location, truth, reduction="none", beta=_BEND) * weight, weight


def _scale_losses(outputs: tuple[Tensor, Tensor], labels: Labels, rows: Tensor) -> Tensor:
    """Return the negative log-likelihood of the scales, shape (member, object, target)."""
    location, log_scale = outputs
    target = torch.nan_to_num(labels.target[rows].to(location.device))
    residual = (target - location).detach() * torch.exp(-log_scale)
    return student_loss(residual) + log_scale


def student_loss(residual: Tensor) -> Tensor:
    """Return -ln of a Student-t likelihood of 4 degrees of freedom, but for a constant.

    Outliers count with the logarithm of their distance.
    """
    return 0.5 * (_STUDENT_DOF + 1) * torch.log1p(residual**2 / _STUDENT_DOF)


@torch.no_grad()
def evaluate(head: EnsembleHead, views: list[View], labels: Labels, network: Any = None) -> Tensor:
    """Return the mean loss of the objects held out, each in its fullest view, shape (target,)."""
    return _held_loss(head, _held(head, views, labels, network), labels)


def _held(
    head: EnsembleHead, views: list[View], labels: Labels, network: Any
) -> Iterator[tuple[int, Tensor, Features, Features]]:
    """Yield the objects held out, each in its fullest view: pattern, rows, features.

    Last come the features of the pretrained encoder, which the linear part was fitted to.
    """
    head.eval()
    if network is not None:
        network.eval()
    fullest = richest(views, labels.train.shape[1])
    held = labels.held.any(0).numpy()
    for i, view in enumerate(views):
        mine = np.flatnonzero((fullest[view.rows] == i) & held[view.rows])
        for j in range(0, len(mine), 1024):
            part = mine[j : j + 1024]
            rows = torch.as_tensor(view.rows[part])
            frozen = view.features(part)
            own = frozen if network is None else _features(head, view, part, network, 1.0)
            yield view.index, rows, own, frozen


def _held_loss(
    head: EnsembleHead, held: Iterable[tuple[int, Tensor, Features, Features]], labels: Labels
) -> Tensor:
    total, count = torch.zeros(()), torch.zeros(())
    for pattern, rows, features, frozen in held:
        loss, weight = _losses(head(features, pattern, frozen), labels, rows, labels.held)
        total, count = total + loss.sum((0, 1)).cpu(), count + weight.sum((0, 1)).cpu()
    return torch.atleast_1d(total / count.clamp(min=1))


def _snapshot(head: EnsembleHead, network: Any) -> tuple[dict, dict | None]:
    encoder = None if network is None else copy.deepcopy(network.state_dict())
    return copy.deepcopy(head.state_dict()), encoder


def _restore(head: EnsembleHead, network: Any, state: tuple[dict, dict | None]) -> None:
    head.load_state_dict(state[0])
    if network is not None and state[1] is not None:
        network.load_state_dict(state[1])
