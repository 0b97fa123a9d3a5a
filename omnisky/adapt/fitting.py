"""How heads are fitted: linear probes in closed form, attentive heads by gradient descent."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.adapt.heads import EnsembleHead, HeadShape, Unit
from omnisky.adapt.inputs import View, on_device, take
from omnisky.adapt.labels import Labels

__all__ = ["FitSettings", "evaluate", "fit_linear", "fit_unit", "train_head"]

_PENALTIES = np.logspace(-2, 6, 17)
_INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_STUDENT_DOF = 4.0
_REWEIGHTINGS = 2
_WARMUP = 0.05
_TOKEN_KEEP = 0.9
_ENCODER_RATE = 0.1
_WEIGHT_DECAY = 0.05


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """State how a head is trained.

    Parameters
    ----------
    epochs : int
        Passes over the objects.
    learning_rate : float
        Peak rate of the head; the encoder, if trained, gets a tenth of it.
    modality_dropout : float
        Probability that an object is shown with one kind of modality alone.
    progress : bool
        Show a progress bar.
    """

    epochs: int
    learning_rate: float
    modality_dropout: float
    progress: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.epochs != int(self.epochs):
            raise ValueError(f"epochs must be a whole number from 0 up; found {self.epochs!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive; found {self.learning_rate!r}")
        if not 0 <= self.modality_dropout <= 1:
            found = self.modality_dropout
            raise ValueError(f"modality_dropout must lie between 0 and 1; found {found!r}")


def fit_unit(
    shape: HeadShape,
    views: list[View],
    labels: Labels,
    settings: FitSettings,
    network: Any,
    adaptation: str,
) -> tuple[Unit, dict[int, np.ndarray]]:
    """Fit a head on the (given) encoder, or on a copy of it that is trained along.

    Returns
    -------
    unit : Unit
        The fitted head with its encoder.
    residuals : dict of int to array
        Leave-one-out residuals of its linear part, see `fit_linear`.
    """
    head = EnsembleHead(shape).to(views[0].features()[0].device)
    residuals = fit_linear(head, views, labels)
    tuned = copy.deepcopy(network) if adaptation == "full" else None
    if shape.attentive:
        train_head(head, views, labels, settings, tuned)
    own = tuned is not None
    return Unit(head.eval(), tuned if own else network, own), residuals


def fit_linear(head: EnsembleHead, views: list[View], labels: Labels) -> dict[int, np.ndarray]:
    """Fit the linear part of every member, for every view.

    A view nobody was trained on gets the probe of the fullest one.

    Returns
    -------
    dict of int to array, shape (object, target)
        Leave-one-out residuals of the last member by view, NaN where unknown; none for classes.
    """
    fullest = views[0]
    head.standardise_tokens(*fullest.features())
    residuals = {}
    for view in views:
        pooled = head.pool(*view.features()).double().cpu().numpy()
        rows = torch.as_tensor(view.rows)
        target = labels.target[rows].numpy()
        for k, mine in enumerate(labels.train[:, rows].numpy()):
            if labels.classes:
                _set_logistic(head, k, view.index, pooled[mine], target[mine])
            else:
                fitted = _set_ridge(head, k, view.index, pooled[mine], target[mine])
                residuals[view.index] = np.full((labels.target.shape), np.nan)
                residuals[view.index][view.rows[mine]] = fitted
    fitted_views = {view.index for view in views}
    for missing in set(range(head.shape.views)) - fitted_views:
        for part in (head.weight, head.offset, head.log_scale):
            part[:, missing] = part[:, fullest.index]
    return residuals


def _standardise(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shift, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 1e-6, spread, 1.0)
    return (x - shift) / spread, shift, spread


def _store(part: Tensor, value: np.ndarray | float) -> None:
    part.copy_(torch.as_tensor(value, dtype=part.dtype))


def _set_ridge(head: EnsembleHead, k: int, view: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Fit one target after the other; return leave-one-out residuals, NaN where unknown."""
    residuals = np.full(y.shape, np.nan)
    for target, column in enumerate(y.T):
        known = ~np.isnan(column)
        if known.sum() < 2:
            continue
        z, shift, spread = _standardise(x[known])
        weight, offset, residual = _robust_ridge(z, column[known])
        residuals[known, target] = residual
        _store(head.weight[k, view, :, target], weight / spread)
        _store(head.offset[k, view, target], offset - np.sum(weight * shift / spread))
        width = max(1.4826 * np.median(np.abs(residual)), 1e-4)
        _store(head.log_scale[k, view, target], np.log(width))
    return residuals


def _robust_ridge(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Return weights, offset and leave-one-out residuals of a ridge regression.

    The penalty is the one with the smallest leave-one-out loss, in closed form. Two reweightings
    by a Student-t likelihood keep outliers from steering it.
    """
    weight = np.ones(len(y))
    for _ in range(_REWEIGHTINGS):
        *_, residual = _weighted_ridge(x, y, weight)
        sigma = 1.4826 * np.median(np.abs(residual)) + 1e-9
        weight = (_STUDENT_DOF + 1) / (_STUDENT_DOF + (residual / sigma) ** 2)
    return _weighted_ridge(x, y, weight)


def _weighted_ridge(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray]:
    root = np.sqrt(weight)
    x_mean, y_mean = np.average(x, axis=0, weights=weight), np.average(y, weights=weight)
    centred, target = (x - x_mean) * root[:, None], (y - y_mean) * root
    values, vectors = np.linalg.eigh(centred.T @ centred)
    rotated = centred @ vectors
    shrunk = 1.0 / (values.clip(min=0)[:, None] + _PENALTIES)
    leverage = (rotated**2) @ shrunk + (weight / weight.sum())[:, None]
    fitted = rotated @ (shrunk * (rotated.T @ target)[:, None])
    left_out = (target[:, None] - fitted) / (1 - leverage).clip(min=1e-3) / root[:, None]
    sigma = 1.4826 * np.median(np.abs(left_out), axis=0).min() + 1e-9
    best = int(np.argmin(np.log1p((left_out / sigma) ** 2 / _STUDENT_DOF).mean(0)))
    coefficient = vectors @ (shrunk[:, best] * (rotated.T @ target))
    return coefficient, float(y_mean - x_mean @ coefficient), left_out[:, best]


def _set_logistic(head: EnsembleHead, k: int, view: int, x: np.ndarray, y: np.ndarray) -> None:
    """Fit class logits; classes without an object here stay improbable."""
    found, counts = np.unique(y, return_counts=True)
    offset = np.full(head.shape.outputs, -10.0)
    offset[found] = 0.0
    if len(found) > 1:
        z, shift, spread = _standardise(x)
        model = _logistic(z, y, _inverse_penalty(z, y, counts.min()))
        weight, bias = model.coef_, model.intercept_
        if len(found) == 2:
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        full = np.zeros((x.shape[1], head.shape.outputs))
        full[:, found] = weight.T / spread[:, None]
        _store(head.weight[k, view], full)
        offset[found] = bias - weight @ (shift / spread)
    _store(head.offset[k, view], offset)


def _logistic(x: np.ndarray, y: np.ndarray, inverse_penalty: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # Stopping early is a slightly stronger penalty, no error.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=inverse_penalty, max_iter=300).fit(x, y)


def _inverse_penalty(x: np.ndarray, y: np.ndarray, rarest: int) -> float:
    """Choose the strength by three-fold log-loss; a class with too few objects allows no choice."""
    if rarest < 3:
        return 1.0
    folds = list(StratifiedKFold(3, shuffle=True, random_state=0).split(x, y))
    losses = [
        np.mean(
            [
                log_loss(y[test], _logistic(x[train], y[train], c).predict_proba(x[test]))
                for train, test in folds
            ]
        )
        for c in _INVERSE_PENALTIES
    ]
    return _INVERSE_PENALTIES[int(np.argmin(losses))]


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

    Parameters
    ----------
    head : EnsembleHead
        Its linear part is fitted; changed in place.
    views : list of View
        Objects under each pattern; encoded unless a network is given.
    labels : Labels
        Targets and who learns from what.
    settings : FitSettings
        How long and how fast.
    network : module, optional
        Encoder to train along with the head, in place.
    """
    rows = labels.train.shape[1]
    batch = int(np.clip(2 ** round(math.log2(max(rows, 2) / 16)), 16, 256))
    steps = settings.epochs * math.ceil(rows / batch)
    optimizer = _optimizer(head, network, settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    # The linear probe alone is the one to beat.
    best, best_state, waited = evaluate(head, views, labels, network), _snapshot(head, network), 0
    with Progress(disable=not settings.progress, transient=True) as progress:
        bar = progress.add_task("fit", total=settings.epochs)
        for _ in range(settings.epochs):
            for view, picked in _batches(views, rows, batch, settings.modality_dropout):
                loss = _batch_loss(head, view, picked, labels, labels.train, network)
                optimizer.zero_grad()
                loss.backward()
                if network is not None:
                    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            held = evaluate(head, views, labels, network)
            waited += 1
            if held < best:
                best, best_state, waited = held, _snapshot(head, network), 0
            progress.advance(bar)
            # Late epochs gain from the falling rate, so patience is long.
            if waited > max(10, settings.epochs // 3):
                break
    _restore(head, network, best_state)


def _rate(step: int, steps: int) -> float:
    warmup = max(1, round(_WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / steps)))


def _optimizer(head: EnsembleHead, network: Any, rate: float) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": [head.values, head.inner, head.outer], "weight_decay": _WEIGHT_DECAY},
        {"params": [head.queries, head.pattern, head.inner_bias, head.outer_bias]},
    ]
    if network is not None:
        trained = [p for p in network.parameters() if p.requires_grad]
        groups.append({"params": trained, "lr": _ENCODER_RATE * rate, "weight_decay": 0.01})
    return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)


def _batches(
    views: list[View], objects: int, size: int, dropout: float
) -> Iterator[tuple[View, np.ndarray]]:
    """Yield one epoch in random order: each object once, in one of its views."""
    richest = _richest(views, objects)
    options = np.full((len(views), objects), -1.0)
    for i, view in enumerate(views):
        if view.index > 0 or len(views) == 1:
            options[i, view.rows] = torch.rand(len(view.rows)).numpy()
    alone = (torch.rand(objects).numpy() < dropout) & (options.max(0) >= 0)
    chosen = np.where(alone, options.argmax(0), richest)
    batches = []
    for i, view in enumerate(views):
        mine = np.flatnonzero(chosen[view.rows] == i)
        mine = mine[torch.randperm(len(mine)).numpy()]
        batches += [(view, mine[j : j + size]) for j in range(0, len(mine), size)]
    for i in torch.randperm(len(batches)).tolist():
        yield batches[i]


def _richest(views: list[View], objects: int) -> np.ndarray:
    """Return the position of the fullest view of each object; views are sorted so."""
    richest = np.zeros(objects, dtype=int)
    for i in reversed(range(len(views))):
        richest[views[i].rows] = i
    return richest


def _features(view: View, index: np.ndarray, network: Any, keep: float) -> tuple[Tensor, Tensor]:
    if network is None:
        return view.features(index)
    assert view.tokens is not None, "only tokens can pass an encoder that is trained"
    return network.encode(on_device(take(view.tokens, index), network, keep))


def _batch_loss(
    head: EnsembleHead, view: View, index: np.ndarray, labels: Labels, who: Tensor, network: Any
) -> Tensor:
    """Return the loss summed over members, each averaged over its own objects."""
    head.train()
    if network is not None:
        network.train()
    x, mask = _features(view, index, network, _TOKEN_KEEP)
    rows = torch.as_tensor(view.rows[index])
    loss, weight = _losses(head(x, mask, view.index), labels, rows, who)
    return (loss.sum(1) / weight.sum(1).clamp(min=1)).sum()


def _losses(
    outputs: tuple[Tensor, Tensor], labels: Labels, rows: Tensor, who: Tensor
) -> tuple[Tensor, Tensor]:
    """Return loss and weight, shape (member, object), zero where nothing is to be learned."""
    location, log_scale = outputs
    device = location.device
    target, mine = labels.target[rows].to(device), who[:, rows].to(device)
    if labels.classes:
        members = len(location)
        loss = F.cross_entropy(
            location.flatten(0, 1), target.repeat(members), reduction="none"
        ).reshape(members, -1)
        return loss * mine, mine.to(loss.dtype)
    known = (~torch.isnan(target)).to(location.dtype)
    residual = (torch.nan_to_num(target) - location) * torch.exp(-log_scale)
    # Student-t: outliers count with the logarithm of their distance.
    tail = 0.5 * (_STUDENT_DOF + 1) * torch.log1p(residual**2 / _STUDENT_DOF)
    weight = known * mine[:, :, None]
    return ((tail + log_scale) * weight).sum(-1), weight.sum(-1)


@torch.no_grad()
def evaluate(head: EnsembleHead, views: list[View], labels: Labels, network: Any = None) -> float:
    """Return the mean loss of the objects held out, each in its fullest view."""
    head.eval()
    if network is not None:
        network.eval()
    richest = _richest(views, labels.train.shape[1])
    held = labels.held.any(0).numpy()
    total, count = 0.0, 0.0
    for i, view in enumerate(views):
        mine = np.flatnonzero((richest[view.rows] == i) & held[view.rows])
        for j in range(0, len(mine), 1024):
            part = mine[j : j + 1024]
            x, mask = _features(view, part, network, 1.0)
            rows = torch.as_tensor(view.rows[part])
            loss, weight = _losses(head(x, mask, view.index), labels, rows, labels.held)
            total, count = total + float(loss.sum()), count + float(weight.sum())
    return total / max(count, 1.0)


def _snapshot(head: EnsembleHead, network: Any) -> tuple[dict, dict | None]:
    encoder = None if network is None else copy.deepcopy(network.state_dict())
    return copy.deepcopy(head.state_dict()), encoder


def _restore(head: EnsembleHead, network: Any, state: tuple[dict, dict | None]) -> None:
    head.load_state_dict(state[0])
    if network is not None and state[1] is not None:
        network.load_state_dict(state[1])
