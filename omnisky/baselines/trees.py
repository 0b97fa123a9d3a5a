"""Gradient-boosted trees baseline: scikit-learn's histogram trees with the absolute error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor

from omnisky.baselines.estimator import Baseline, LogTargets, relative_error, validation_folds

__all__ = ["TreesBaseline"]

_GRID = (
    {"learning_rate": 0.05, "max_iter": 400, "max_leaf_nodes": 8, "loss": "absolute_error"},
    {"learning_rate": 0.05, "max_iter": 400, "max_leaf_nodes": 31, "loss": "absolute_error"},
    {"learning_rate": 0.05, "max_iter": 400, "max_leaf_nodes": 8, "loss": "squared_error"},
)


class TreesBaseline(Baseline):
    """Fit boosted trees for each target on the objects that have it.

    Trees cut one feature at a time, so the pixels of spectra are given as principal components;
    everything else as it is.

    Parameters
    ----------
    grid : sequence of dict, optional
        Settings of `HistGradientBoostingRegressor` to choose from by validation.
    components : int
        Principal components of the pixels.
    log_targets : "auto" or tuple of int
        Targets fitted in log10.
    random_state : int
        Seed of folds and trees.
    """

    def __init__(
        self,
        grid: Sequence[Mapping] = _GRID,
        components: int = 40,
        log_targets: LogTargets = "auto",
        random_state: int = 0,
    ) -> None:
        self.grid = grid
        self.components = components
        self.log_targets = log_targets
        self.random_state = random_state

    def _fit(self, x: np.ndarray, z: np.ndarray) -> None:
        pixels = x[:, : self.features_.n_pixels_]
        n_components = min(self.components, *pixels.shape)
        self.pca_ = PCA(n_components, svd_solver="full").fit(pixels) if n_components else None
        x = self._rotate(x)
        self.settings_: list[Mapping] = []
        self.models_: list[HistGradientBoostingRegressor] = []
        for target in z.T:
            known = np.isfinite(target)
            best = self._choose(x[known], target[known])
            self.settings_.append(best)
            self.models_.append(self._model(best).fit(x[known], target[known]))

    def _rotate(self, x: np.ndarray) -> np.ndarray:
        n_pixels = self.features_.n_pixels_
        if self.pca_ is None:
            return x
        return np.hstack([self.pca_.transform(x[:, :n_pixels]), x[:, n_pixels:]])

    def _model(self, settings: Mapping) -> HistGradientBoostingRegressor:
        return HistGradientBoostingRegressor(
            early_stopping=False, random_state=self.random_state, **settings
        )

    def _choose(self, x: np.ndarray, z: np.ndarray) -> Mapping:
        if len(self.grid) == 1:
            return self.grid[0]
        folds = validation_folds(len(x), self.random_state, most=3)
        errors = np.zeros((len(self.grid), len(folds)))
        for i, settings in enumerate(self.grid):
            for j, (train, held) in enumerate(folds):
                predicted = self._model(settings).fit(x[train], z[train]).predict(x[held])
                errors[i, j] = relative_error(z[held, None], predicted[:, None])[0]
        return self.grid[int(errors.mean(axis=1).argmin())]

    def _predict(self, x: np.ndarray) -> np.ndarray:
        x = self._rotate(x)
        return np.stack([model.predict(x) for model in self.models_], axis=1)
