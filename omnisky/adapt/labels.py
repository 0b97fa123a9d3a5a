"""What is to be learned: labels checked, brought to order one, and dealt out to members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d
from torch import Tensor

__all__ = ["Labels", "TargetScale", "read_classes", "read_numbers"]

# Targets within ± this many robust sigmas stay as they are, tails are compressed.
_LINEAR_SIGMAS = 3.0
# Few members leave a seventh of the objects out each; more share all objects among them.
_HELD_PARTS = 7
_FEW = 3


def _require(y: Any) -> None:
    if y is None:
        raise ValueError("FineTunedModel requires y to be passed, but the target y is None")
    # Observations and other mappings, data sets, astropy tables. A DataFrame may have any column.
    if isinstance(y, Mapping) or hasattr(type(y), "targets") or hasattr(y, "colnames"):
        raise TypeError(
            f"y must be an array, shape (object,) or (object, target); found {type(y).__name__}: "
            "a Dataset gives one with .targets('apogee_teff', ...), a table with table['teff']"
        )


def read_numbers(y: Any, objects: int, targets: int | None = None) -> np.ndarray:
    """Return regression labels, shape (object, target), NaN where unknown.

    Raises
    ------
    ValueError
        If y is missing, text, infinite, of a wrong shape or of another length than the objects, or
        has another number of targets than asked for.
    TypeError
        If y is no array: Observations, a data set, a table.
    """
    _require(y)
    y = _as_floats(y)
    if np.isinf(y).any():
        raise ValueError(
            "Input y contains infinity or a value too large for dtype('float64'); mark unknown "
            "labels with NaN"
        )
    if y.ndim not in (1, 2):
        raise ValueError(f"y must have shape (object,) or (object, target); found {y.shape}")
    check_consistent_length(np.empty(objects), y)
    y = y.reshape(len(y), -1)
    if targets is not None and y.shape[1] != targets:
        raise ValueError(f"y has {y.shape[1]} targets, but the model was fitted on {targets}")
    return y


def _as_floats(y: Any) -> np.ndarray:
    """Return labels as float64, NaN where masked; refuse text with a word on classes."""
    try:
        if isinstance(y, np.ma.MaskedArray):
            y = np.ma.filled(y.astype(np.float64), np.nan)
        return check_array(
            y,
            dtype=np.float64,
            ensure_2d=False,
            allow_nd=True,
            ensure_all_finite="allow-nan",
            input_name="y",
        )
    except ValueError as error:
        text = [v for v in np.ravel(np.asarray(y, dtype=object)) if isinstance(v, (str, bytes))]
        if not text:
            raise
        raise ValueError(
            f"y holds text, such as {text[0]!r}, but regression needs numbers; to learn classes, "
            "use FineTunedModel(task='classification')"
        ) from error


def _refuse_missing(y: Any) -> None:
    """Refuse classes that are masked, None or NaN."""
    given = np.atleast_1d(np.ma.asarray(y))
    values, missing = np.ma.getdata(given), np.ma.getmaskarray(given)
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
    elif values.dtype.kind == "O":
        # NaN alone differs from itself.
        unknown = [v is None or (isinstance(v, float) and v != v) for v in values.ravel()]
        missing = missing | np.reshape(unknown, values.shape)
    if np.any(missing):
        rows = np.unique(np.nonzero(missing)[0])
        raise ValueError(
            f"y has {len(rows)} missing classes (masked, None or NaN) of {len(values)}, the first "
            f"in row {rows[0]}; leave these objects out of X and y"
        )


def read_classes(y: Any, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes and the number of each object's class.

    Raises
    ------
    ValueError
        If y is missing, no list of classes, of another length, has one class only, or has masked
        or missing classes.
    TypeError
        If y is no array: Observations, a data set, a table.
    """
    _require(y)
    _refuse_missing(y)
    y = column_or_1d(check_array(y, dtype=None, ensure_2d=False, input_name="y"), warn=True)
    check_classification_targets(y)
    check_consistent_length(np.empty(objects), y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"classification needs at least 2 classes; found one class: {classes[0]}")
    return classes, codes


@dataclass(frozen=True)
class TargetScale:
    """Bring targets to order one and back, whatever their unit and tails.

    With σ = interquartile range / 1.349 and z = (y - median) / σ, t is z up to 3 σ and grows with
    the logarithm beyond: ``t = ± 3 (1 + ln |z / 3|)``. A few stars of 20 000 K would else steer
    every fit.

    Parameters
    ----------
    centre, width : array, shape (target,)
        Median and robust sigma of the known labels, in their unit.
    low, high : array, shape (target,)
        Range of t in training, widened by one; predictions stay inside it.
    """

    centre: np.ndarray
    width: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(cls, y: np.ndarray) -> TargetScale:
        """Learn from labels, shape (object, target), NaN where unknown.

        Raises
        ------
        ValueError
            If a target has no known label.
        """
        empty = np.flatnonzero(np.isnan(y).all(axis=0))
        if len(empty):
            raise ValueError(f"target {empty[0]} of y has no known label; all are NaN")
        quartiles = np.nanpercentile(y, [25, 50, 75], axis=0)
        width = (quartiles[2] - quartiles[0]) / 1.349
        # More than half of the labels equal: the quartiles see no spread.
        width = np.where(width > 0, width, np.nanstd(y, axis=0))
        width = np.where(width > 0, width, 1.0)
        scale = cls(quartiles[1], width, quartiles[1], quartiles[1])
        t = scale.forward(y)
        return cls(quartiles[1], width, np.nanmin(t, axis=0) - 1, np.nanmax(t, axis=0) + 1)

    def forward(self, y: np.ndarray) -> np.ndarray:
        """Return t of labels y."""
        z = (y - self.centre) / self.width
        tail = _LINEAR_SIGMAS * (1 + np.log(np.abs(z).clip(min=_LINEAR_SIGMAS) / _LINEAR_SIGMAS))
        return np.where(np.abs(z) > _LINEAR_SIGMAS, np.sign(z) * tail, z)

    def clip(self, t: np.ndarray) -> np.ndarray:
        """Keep predictions within the range of the training labels."""
        return np.clip(t, self.low, self.high)

    def inverse(self, t: np.ndarray) -> np.ndarray:
        """Return labels y of t."""
        tail = _LINEAR_SIGMAS * np.exp(np.abs(t).clip(min=_LINEAR_SIGMAS) / _LINEAR_SIGMAS - 1)
        return self.centre + self.width * np.where(np.abs(t) > _LINEAR_SIGMAS, np.sign(t) * tail, t)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Hold what is to be learned.

    Parameters
    ----------
    target : tensor, shape (object, target), or LongTensor, shape (object,)
        Scaled targets, NaN where unknown; or class numbers.
    train, held : BoolTensor, shape (member, object)
        Which objects each member learns from, and which it is tested on.
    """

    target: Tensor
    train: Tensor
    held: Tensor

    @property
    def classes(self) -> bool:
        """True if the targets are class numbers."""
        return self.target.ndim == 1

    def each(self) -> list[Labels]:
        """Return the labels as each member sees them."""
        return [
            Labels(target=self.target, train=self.train[k : k + 1], held=self.held[k : k + 1])
            for k in range(len(self.train))
        ]

    @classmethod
    def deal(cls, target: Tensor, members: int) -> Labels:
        """Leave one fold of the objects out of each member, with classes spread over the folds.

        Up to three members leave out a seventh each, so that some objects are never left out.
        With no members, one learns from everything and none is held out.
        """
        n = len(target)
        if members == 0:
            train = torch.ones(1, n, dtype=torch.bool)
            return cls(target=target, train=train, held=~train)
        members = min(members, max(n // 2, 1))
        parts = min(_HELD_PARTS, n) if members <= _FEW else members
        order = torch.randperm(n)
        if target.ndim == 1:
            order = order[torch.argsort(target[order], stable=True)]
        fold = torch.empty(n, dtype=torch.long)
        fold[order] = torch.arange(n) % parts
        held = fold[None, :] == torch.arange(members)[:, None]
        return cls(target=target, train=~held, held=held)
