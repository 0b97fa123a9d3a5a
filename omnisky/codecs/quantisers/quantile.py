"""Quantile bins: a one-dimensional quantiser that decodes to each bin's conditional mean."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["QuantileBins", "find_bins", "padded", "quantile_table"]

# From so many values on, the search without branches is faster.
_MANY = 512
# Values that take the steps together: few enough to stay in the cache.
_BLOCK = 16384


def quantile_table(values: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return bin edges and conditional means of equally filled bins.

    Parameters
    ----------
    values : array, shape (value,)
        Finite training values.
    bins : int
        Number of bins.

    Returns
    -------
    edges : array, shape (bins - 1,)
        Inner edges, increasing; a value belongs to bin ``(edges <= value).sum()``.
    means : array, shape (bins,)
        Mean of the training values in each bin: the estimate with the smallest squared error, so
        that decoding has no half-bin bias. Empty bins (ties) take the middle of their edges.

    Raises
    ------
    ValueError
        If there are fewer values than bins, or some are not finite.
    """
    values = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if len(values) < bins or not np.isfinite(values).all():
        raise ValueError(
            f"fitting {bins} quantile bins needs at least as many finite values; found "
            f"{np.isfinite(values).sum()} finite of {len(values)}. Use fewer bins or more objects"
        )
    edges = np.quantile(values, np.arange(1, bins) / bins)
    index = np.searchsorted(edges, values, side="right")
    count = np.bincount(index, minlength=bins)
    total = np.bincount(index, weights=values, minlength=bins)
    border = np.concatenate([values[:1], edges, values[-1:]])
    middle = (border[:-1] + border[1:]) / 2
    return edges, np.where(count > 0, total / np.maximum(count, 1), middle)


def padded(edges: np.ndarray) -> np.ndarray:
    """Return edges with infinities behind them, so many that a row's length is a power of two.

    Parameters
    ----------
    edges : array, shape (quantity, bin - 1)
        Inner edges, increasing along a row.
    """
    quantities, count = edges.shape
    out = np.full((quantities, 1 << max(1, count.bit_length())), np.inf)
    out[:, :count] = edges
    return out


def find_bins(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return how many edges are at or below each value: the bin that it is in.

    Parameters
    ----------
    table : array, shape (quantity, power of two)
        Edges as `padded` returns them.
    values : array, shape (quantity, object)
        Finite values.

    Notes
    -----
    A binary search branches on its data and so guesses wrong at every second step. For many values
    all of them take each step together, without a branch: three times as fast, same result.
    """
    if values.size < _MANY:
        found = torch.searchsorted(
            torch.from_numpy(table), torch.from_numpy(np.ascontiguousarray(values)), right=True
        )
        return found.numpy()
    found = np.empty(values.shape, dtype=np.int64)
    wide = min(values.shape[1], _BLOCK)
    high = max(1, _BLOCK // wide)
    for row in range(0, len(values), high):
        for column in range(0, values.shape[1], wide):
            part = slice(row, row + high), slice(column, column + wide)
            found[part] = _together(table[part[0]], values[part])
    return found


def _together(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    flat, length = table.reshape(-1), table.shape[1]
    first = (np.arange(len(table)) * length)[:, None]
    position = np.repeat(first, values.shape[1], axis=1)
    step = length // 2
    while step:
        position += (flat.take(position + (step - 1)) <= values) * step
        step //= 2
    return position - first


class QuantileBins(nn.Module):
    """Turn values into bin indices and back, for one or several quantities at once.

    Parameters
    ----------
    n_quantities : int
        Quantities quantised side by side, each with its own bins.
    bins : int
        Bins of each quantity.
    """

    edges: Tensor
    means: Tensor
    limits: Tensor

    def __init__(self, n_quantities: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        double = torch.float64
        self.register_buffer("edges", torch.zeros(n_quantities, bins - 1, dtype=double))
        self.register_buffer("means", torch.zeros(n_quantities, bins, dtype=double))
        self.register_buffer("limits", torch.zeros(n_quantities, 2, dtype=double))

    def fit(self, values: np.ndarray) -> None:
        """Fit bins to training values, shape (object, quantity)."""
        for i, column in enumerate(np.asarray(values, dtype=np.float64).T):
            edges, means = quantile_table(column, self.bins)
            self.edges[i] = torch.from_numpy(edges)
            self.means[i] = torch.from_numpy(means)
            self.limits[i] = torch.tensor([column.min(), column.max()], dtype=torch.float64)

    def encode(self, values: Tensor) -> Tensor:
        """Return bin indices, shape (object, quantity), of values of the same shape."""
        columns = values.to(torch.float64).T.contiguous()
        if values.numel() >= _MANY and not values.is_cuda:
            table = padded(self.edges.numpy())
            return torch.from_numpy(find_bins(table, columns.numpy()).T.copy())
        return torch.searchsorted(self.edges, columns, right=True).T.contiguous()

    def decode(self, indices: Tensor) -> Tensor:
        """Return conditional means, shape (object, quantity)."""
        return torch.gather(self.means, 1, indices.T).T.contiguous()

    def set(self, edges: np.ndarray, means: np.ndarray, limits: np.ndarray) -> None:
        """Take tables made elsewhere.

        Parameters
        ----------
        edges, means, limits : array, shape (quantity, bin - 1), (quantity, bin), (quantity, 2)
            Inner edges; what each bin stands for; the range seen in the fit.
        """
        for held, given in ((self.edges, edges), (self.means, means), (self.limits, limits)):
            held.copy_(torch.from_numpy(np.asarray(given, dtype=np.float64)))

    def outside(self, values: Tensor) -> Tensor:
        """Return True where a value lies outside the range seen in the fit."""
        return (values < self.limits[:, 0]) | (values > self.limits[:, 1])
