"""What all baselines share: checked labels, well-behaved targets, validation inside the labels."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.stats import skew
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted

from omnisky.baselines.features import ObservationFeatures
from omnisky.modalities import Observations

__all__ = ["Baseline", "LogTargets", "TargetScaler", "relative_error", "validation_folds"]

LogTargets = Literal["auto"] | tuple[int, ...]
_FEWEST_LABELS = 5


class TargetScaler:
    """Standardise targets, those that are positive and skewed in log10; NaN stays NaN.

    Parameters
    ----------
    y : array, shape (object, target)
        Training labels, NaN where unknown.
    log_targets : "auto" or tuple of int
        Columns to take the logarithm of; "auto" takes it where all values are positive and their
        logarithm is less skewed.
    """

    def __init__(self, y: np.ndarray, log_targets: LogTargets = "auto") -> None:
        columns = [c[np.isfinite(c)] for c in y.T]
        if log_targets == "auto":
            self.log = np.array(
                [bool(c.min() > 0 and abs(skew(np.log(c))) < abs(skew(c))) for c in columns]
            )
        else:
            self.log = np.isin(np.arange(y.shape[1]), log_targets)
            wrong = [i for i in np.flatnonzero(self.log) if columns[i].min() <= 0]
            if wrong:
                raise ValueError(
                    f"log_targets={log_targets} needs positive labels; columns {wrong} are not"
                )
        z = self._log(y)
        self.mean, scale = np.nanmean(z, axis=0), np.nanstd(z, axis=0)
        self.scale = np.where(scale > 0, scale, 1.0)
        # A network may extrapolate; 10 ** x must stay finite.
        self.low, self.high = np.nanmin(z, axis=0) - scale, np.nanmax(z, axis=0) + scale

    def _log(self, y: np.ndarray) -> np.ndarray:
        return np.where(self.log, np.log10(np.where(self.log, y, 1.0)), y)

    def transform(self, y: np.ndarray) -> np.ndarray:
        """Return standardised targets, shape (object, target)."""
        return (self._log(y) - self.mean) / self.scale

    def inverse(self, z: np.ndarray) -> np.ndarray:
        """Return targets in their own unit, shape (object, target)."""
        y = (z * self.scale + self.mean).clip(self.low, self.high)
        return np.where(self.log, 10.0 ** np.where(self.log, y, 0.0), y)


def relative_error(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the median absolute error of each target over known labels, shape (target,)."""
    known = np.isfinite(truth)
    error = np.abs(np.where(known, truth, 0) - predicted)
    return np.array(
        [np.median(e[k]) if k.any() else 0.0 for e, k in zip(error.T, known.T, strict=True)]
    )


def validation_folds(
    n: int, random_state: int, most: int = 5
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, validate) indices: folds for few labels, one hold-out where there are many."""
    folds = list(KFold(min(5, n), shuffle=True, random_state=random_state).split(np.arange(n)))
    return folds[: most if n < 1000 else 1]


class Baseline(RegressorMixin, BaseEstimator):
    """Regress labels from observations; see `fit` and `predict`. Base of the four baselines."""

    def fit(self, observations: Observations, y) -> Baseline:
        """Choose settings by validation inside these objects, then fit on all of them.

        Parameters
        ----------
        observations : Observations
            Any modalities; missing values are imputed.
        y : array, shape (object, target) or (object,)
            Labels, NaN where unknown.

        Raises
        ------
        ValueError
            If `y` has another length, an infinity, or a target with fewer than 5 known labels.
        """
        y = np.asarray(y, dtype=np.float64)
        self._one_column = y.ndim == 1
        y = y[:, None] if y.ndim == 1 else y
        if y.ndim != 2 or len(y) != len(observations) or np.isinf(y).any():
            raise ValueError(
                f"y must have shape ({len(observations)}, target), one row an object, NaN where a "
                f"label is unknown and no infinities; found shape {y.shape}"
            )
        counts = np.isfinite(y).sum(axis=0)
        if (counts < _FEWEST_LABELS).any():
            raise ValueError(
                f"each target needs at least {_FEWEST_LABELS} known labels; found {counts.tolist()}"
            )
        labelled = np.isfinite(y).any(axis=1)
        observations, y = observations[labelled], y[labelled]
        self.features_ = ObservationFeatures().fit(observations)
        self.targets_ = TargetScaler(y, self.log_targets)
        self._fit(self.features_.transform(observations), self.targets_.transform(y))
        return self

    def predict(self, observations: Observations) -> np.ndarray:
        """Return labels, shape (object, target), or (object,) if `y` was 1-d."""
        check_is_fitted(self, "targets_")
        y = self.targets_.inverse(self._predict(self.features_.transform(observations)))
        return y[:, 0] if self._one_column else y

    log_targets: LogTargets

    def _fit(self, x: np.ndarray, z: np.ndarray) -> None:
        """Fit standardised targets `z` (NaN unknown) from standardised features `x`."""
        raise NotImplementedError

    def _predict(self, x: np.ndarray) -> np.ndarray:
        """Return standardised targets, shape (object, target)."""
        raise NotImplementedError
