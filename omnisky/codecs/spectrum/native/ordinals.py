"""Bins of numbers that are not quantiles alone: even ones, and wide ones for long tails."""

from __future__ import annotations

import numpy as np
import torch

from omnisky.codecs.quantisers.quantile import QuantileBins

__all__ = ["even_bins", "fit_wide_bins"]

# Amplitudes are binned out to so many times their median size.
_REACH = 300.0


def even_bins(low: float, high: float, bins: int) -> QuantileBins:
    """Return evenly spaced bins of one quantity; values beyond fall into the outermost."""
    made = QuantileBins(1, bins)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    made.edges.copy_(edges[1:-1])
    made.means.copy_((edges[:-1] + edges[1:]) / 2)
    made.limits.copy_(edges[[0, -1]])
    return made


def fit_wide_bins(bins: QuantileBins, values: np.ndarray) -> None:
    """Fit bins of which half are quantiles and half cover values far beyond the training ones.

    Quantiles alone are coarse in the tails, where unusual objects lie: half the edges are therefore
    even in asinh of the value over its median size.

    Parameters
    ----------
    bins : QuantileBins
        To be fitted.
    values : array, shape (object, quantity)
        Training values.
    """
    for i, column in enumerate(np.asarray(values, dtype=np.float64).T):
        size = max(float(np.median(np.abs(column))), 1e-12)
        n_even = (bins.bins - 1) // 2
        top = np.arcsinh(_REACH)
        even = np.sinh(np.linspace(-top, top, n_even)) * size
        n_quantiles = bins.bins - 1 - n_even
        edges = np.quantile(column, (np.arange(n_quantiles) + 0.5) / n_quantiles)
        edges = np.sort(np.concatenate([even, edges]))
        index = np.searchsorted(edges, column, side="right")
        count = np.bincount(index, minlength=bins.bins)
        total = np.bincount(index, weights=column, minlength=bins.bins)
        border = np.concatenate([edges[:1], edges, edges[-1:]])
        middle = (border[:-1] + border[1:]) / 2
        means = np.where(count > 0, total / np.maximum(count, 1), middle)
        bins.edges[i], bins.means[i] = torch.from_numpy(edges), torch.from_numpy(means)
        bins.limits[i] = torch.tensor([edges[0], edges[-1]], dtype=torch.float64)
