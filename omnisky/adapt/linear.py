"""Linear probes of mean-pooled tokens: robust ridge and logistic regression in closed form."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from omnisky.adapt.heads import EnsembleHead
from omnisky.adapt.inputs import View
from omnisky.adapt.labels import Labels
from omnisky.model.embeddings import ANSWER_NUMBERS

__all__ = ["fit_linear"]

_PENALTIES = np.logspace(-2, 6, 17)
_INVERSE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_STUDENT_DOF = 4.0
_REWEIGHTINGS = 2
# How much more the decoder's answers may count than the pooled tokens, before the penalty.
_EMPHASES = (1.0, 3.0, 10.0)


def fit_linear(head: EnsembleHead, views: list[View], labels: Labels) -> dict[int, np.ndarray]:
    """Fit the linear part of every member, for every view.

    A view nobody was trained on gets the probe of the fullest one.

    Returns
    -------
    dict of int to array, shape (object, target)
        Leave-one-out residuals of the last member by view, NaN where unknown; none for classes.
    """
    fullest = views[0]
    head.standardise(fullest.features())
    residuals = {}
    for view in views:
        pooled = head.summarise(view.features()).double().cpu().numpy()
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
        weight, offset, residual = _best_ridge(z, column[known], head.shape.answers)
        residuals[known, target] = residual
        _store(head.weight[k, view, :, target], weight / spread)
        _store(head.offset[k, view, target], offset - np.sum(weight * shift / spread))
        width = max(1.4826 * np.median(np.abs(residual)), 1e-4)
        _store(head.log_scale[k, view, target], np.log(width))
    return residuals


def _best_ridge(x: np.ndarray, y: np.ndarray, answers: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Return the ridge regression that emphasises the answers as much as left-out objects like it.

    A penalty that is the same for all features drowns a few that say nearly everything among a
    hundred that say little. Expected values, the first number of each answer, are emphasised once
    more than what is said beside them.
    """
    fits, losses = [], []
    for emphasis in _EMPHASES if answers else (1.0,):
        scale = np.ones(x.shape[1])
        scale[len(scale) - answers :] = emphasis
        scale[len(scale) - answers :: ANSWER_NUMBERS] *= emphasis
        weight, offset, residual = _robust_ridge(x * scale, y)
        fits.append((weight * scale, offset, residual))
        losses.append(np.abs(residual).mean())
    return fits[int(np.argmin(losses))]


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
