"""Ridge regression baseline: robust, linear or with squares of whitened principal components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from omnisky.baselines.estimator import Baseline, LogTargets, validation_folds

__all__ = ["RidgeBaseline"]

_ALPHAS = np.logspace(-2, 5, 15)
_REWEIGHTINGS = 4


class RidgeBaseline(Baseline):
    """Fit a robust ridge regression for each target on the objects that have it.

    The features are all of them and, if that is better, all squares and products of the first
    whitened principal components. How many components, and the penalty, are chosen by validation
    for each target. Iterated Huber weights keep a few hot stars from bending the fit for the rest.

    Parameters
    ----------
    components : sequence of int
        Numbers of principal components to try; 0 is the plain linear model.
    log_targets : "auto" or tuple of int
        Targets fitted in log10.
    random_state : int
        Seed of the folds.

    Attributes
    ----------
    components_ : list of int
        Number of components chosen, a target.
    alphas_ : list of float
        Penalty chosen, a target.
    """

    def __init__(
        self,
        components: Sequence[int] = (0, 10, 20, 40),
        log_targets: LogTargets = "auto",
        random_state: int = 0,
    ) -> None:
        self.components = components
        self.log_targets = log_targets
        self.random_state = random_state

    def _fit(self, x: np.ndarray, z: np.ndarray) -> None:
        self.components_: list[int] = []
        self.alphas_: list[float] = []
        self._lines: list[tuple[Pipeline, np.ndarray]] = []
        for target in z.T:
            known = np.isfinite(target)
            rows, values = x[known].astype(np.float64), target[known]
            components, alpha = self._choose(rows, values)
            expand = _expansion(components)
            coefficients = _robust_path(_design(expand.fit_transform(rows)), values, [alpha])
            self.components_.append(components)
            self.alphas_.append(alpha)
            self._lines.append((expand, coefficients[:, 0]))

    def _choose(self, x: np.ndarray, z: np.ndarray) -> tuple[int, float]:
        """Return the number of components and the penalty of the least held-out error."""
        folds = validation_folds(len(x), self.random_state)
        smallest = min(x.shape[1], *(len(train) for train, _ in folds))
        tried = [n for n in self.components if n < smallest]
        errors = np.zeros((len(tried), len(_ALPHAS)))
        for i, components in enumerate(tried):
            for train, held in folds:
                expand = _expansion(components).fit(x[train])
                path = _robust_path(_design(expand.transform(x[train])), z[train], _ALPHAS)
                residuals = _design(expand.transform(x[held])) @ path - z[held, None]
                errors[i] += np.median(np.abs(residuals), axis=0)
        best, alpha = np.unravel_index(errors.argmin(), errors.shape)
        return tried[best], float(_ALPHAS[alpha])

    def _predict(self, x: np.ndarray) -> np.ndarray:
        rows = x.astype(np.float64)
        lines = [_design(expand.transform(rows)) @ line for expand, line in self._lines]
        return np.stack(lines, axis=1)


def _expansion(components: int) -> Pipeline:
    """Return the features' expansion: themselves, and quadratic terms of whitened components."""
    if components == 0:
        return make_pipeline(StandardScaler())
    quadratic = make_pipeline(
        PCA(components, whiten=True, svd_solver="full"),
        PolynomialFeatures(2, include_bias=False),
        StandardScaler(),
    )
    return make_pipeline(FeatureUnion([("linear", StandardScaler()), ("quadratic", quadratic)]))


def _design(features: np.ndarray) -> np.ndarray:
    # Quadratic terms far outside the training range would dominate any sum.
    return np.hstack([features.clip(-10, 10), np.full((len(features), 1), 10.0)])


def _robust_path(x: np.ndarray, z: np.ndarray, alphas: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return ridge coefficients, shape (feature, alpha); Huber weights are the middle penalty's."""
    weights = np.ones(len(x))
    alphas = np.asarray(alphas)
    middle = len(alphas) // 2
    for _ in range(_REWEIGHTINGS):
        line = _path(x, z, weights, alphas[middle : middle + 1])[:, 0]
        distance = np.abs(z - x @ line)
        knee = 1.5 * 1.4826 * max(float(np.median(distance)), 1e-9)
        weights = knee / np.maximum(distance, knee)
    return _path(x, z, weights, alphas)


def _path(x: np.ndarray, z: np.ndarray, weights: np.ndarray, alphas: np.ndarray) -> np.ndarray:
    """Solve weighted ridge for several penalties by one eigendecomposition of the smaller Gram."""
    root = np.sqrt(weights)[:, None]
    a, b = x * root, z * root[:, 0]
    wide = len(a) < a.shape[1]
    values, vectors = np.linalg.eigh(a @ a.T if wide else a.T @ a)
    rotated = vectors.T @ (b if wide else a.T @ b)
    solved = vectors @ (rotated[:, None] / (values.clip(min=0)[:, None] + alphas))
    return a.T @ solved if wide else solved
