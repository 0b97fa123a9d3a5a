"""Where the bins of a number lie: scales, fitted to values that may not fit in memory.

All but the grid are fitted to training values, and every bin decodes to the mean of the training
values in it, in the quantity's own unit. A scale only says where the edges are, so that every codec
encodes alike: by counting the edges at or below a value.

Quantile bins do not change when values are compressed first by an increasing function, as a
logarithm or an arcsinh: it moves the edges along. Compression matters for bins of equal steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.codecs.scalars.streaming import Chunks, bin_means, exact_quantiles

__all__ = ["SCALES", "Scale", "Table", "error_edges", "fit_table", "grid_table"]

SCALES = ("quantile", "error", "log", "linear", "circular")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Say where bins shall lie.

    Parameters
    ----------
    kind : {"quantile", "error", "log", "linear", "circular"}
        ``quantile``: as many training values in each bin. ``error``: narrow where errors are small
        and values many, such that the mean square error of a round trip, in units of the measured
        errors, is least. ``log``: equal steps of arcsinh(x / softening), so that sign and order are
        kept: linear below the softening, logarithmic above. ``linear``: a grid of `bins` numbers
        from low to high, of which the nearest is taken. ``circular``: quantile bins on a circle.
    bins : int
        Number of bins.
    low, high : float
        Ends of a linear grid.
    softening : float
        Where a log scale turns linear, in the quantity's unit; 0 takes the median error of the
        training values, or, for positive values without errors, a plain logarithm.
    period : float
        Length of the circle.

    Raises
    ------
    ValueError
        If a number does not fit the kind.
    """

    kind: str = "quantile"
    bins: int = 1024
    low: float = 0.0
    high: float = 0.0
    softening: float = 0.0
    period: float = 360.0

    def __post_init__(self) -> None:
        if self.kind not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}; found {self.kind!r}")
        if self.bins < 2:
            raise ValueError(f"a scale needs at least two bins; found {self.bins}")
        if self.kind == "linear" and not -np.inf < self.low < self.high < np.inf:
            raise ValueError(
                f"a linear scale needs finite ends, low < high; found low={self.low}, "
                f"high={self.high}"
            )
        if not 0 <= self.softening < np.inf or not 0 < self.period < np.inf:
            raise ValueError(
                f"softening must not be negative and period must be positive; found "
                f"softening={self.softening}, period={self.period}"
            )


@dataclass(frozen=True)
class Table:
    """Hold the fitted bins of one quantity.

    Parameters
    ----------
    edges : array, shape (bin - 1,)
        Inner edges, increasing; a value belongs to bin ``(edges <= value).sum()``.
    means : array, shape (bin,)
        What each bin decodes to.
    limits : array, shape (2,)
        Range seen in the fit. Of a circle: where it is cut open, and the same place a turn later.
    softening : float
        That of a log scale, as fitted.
    """

    edges: np.ndarray
    means: np.ndarray
    limits: np.ndarray
    softening: float = 0.0


def fit_table(chunks: Chunks, scale: Scale) -> Table:
    """Fit bins to all values that come in chunks.

    Parameters
    ----------
    chunks : callable
        Returns an iterable of (values, inverse variances); called once a pass. NaN is no value.
    scale : Scale
        Where bins shall lie.

    Raises
    ------
    ValueError
        If there are fewer values than bins (a linear scale needs one), some are infinite, or the
        scale needs errors that are not there.
    """
    if scale.kind == "linear":
        grid = grid_table(scale)
        half = (scale.high - scale.low) / (scale.bins - 1) / 2
        border = np.concatenate([[scale.low - half], grid.edges, [scale.high + half]])
        return Table(grid.edges, bin_means(chunks, border), grid.limits)
    _enough(chunks, scale.bins)
    if scale.kind == "circular":
        return _circular(chunks, scale)
    if scale.kind == "log":
        border, softening = _log_border(chunks, scale)
        return Table(border[1:-1], bin_means(chunks, border), border[[0, -1]], softening)
    if scale.kind == "error":
        border = _error_border(chunks, scale.bins)
    else:
        border = exact_quantiles(chunks, np.arange(scale.bins + 1) / scale.bins)
    return Table(border[1:-1], bin_means(chunks, border), border[[0, -1]])


def grid_table(scale: Scale) -> Table:
    """Return a linear grid without any data: each code decodes to itself."""
    codes = np.linspace(scale.low, scale.high, scale.bins)
    return Table(
        codes[:-1] + np.diff(codes) / 2, codes, np.array([scale.low, scale.high], dtype=np.float64)
    )


def error_edges(border: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    """Return the edges, outermost included, of bins that make the weighted square error least.

    Parameters
    ----------
    border : array, shape (cell + 1,)
        Edges of narrow cells with the same number of values in each.
    weights : array, shape (cell,)
        Mean inverse variance of the values in each cell.
    bins : int
        Number of bins wanted.

    Notes
    -----
    With density p of values and weight w, many bins have the least mean of w (x - decoded)² when
    their density is as (p w)^(1/3): Panter & Dite 1951, Proc. IRE 39, 44, equation 17, with the
    weight put to the density (Gray & Neuhoff 1998, IEEE Trans. Inf. Theory 44, 2325, section IV).
    """
    share = np.cbrt(np.diff(border) ** 2 * weights)
    reached = np.concatenate([[0.0], np.cumsum(share)])
    if not reached[-1] > 0:
        return np.interp(np.arange(bins + 1) / bins, np.linspace(0, 1, len(border)), border)
    found = np.interp(np.arange(bins + 1) / bins * reached[-1], reached, border)
    found[[0, -1]] = border[[0, -1]]
    return np.maximum.accumulate(found)


def _enough(chunks: Chunks, bins: int) -> None:
    finite = total = 0
    for values, _ in chunks():
        finite, total = finite + int(np.isfinite(values).sum()), total + len(values)
    if finite < bins:
        raise ValueError(
            f"fitting {bins} bins needs at least as many finite values; found {finite} finite of "
            f"{total}. Use fewer bins or more objects"
        )


def _error_border(chunks: Chunks, bins: int) -> np.ndarray:
    """Return edges of bins that suit the errors; without any, those of least square error."""
    cells = 8 * bins
    border = exact_quantiles(chunks, np.arange(cells + 1) / cells)
    total, count = np.zeros((2, cells))
    for values, ivar in chunks():
        known = np.isfinite(values) & (ivar > 0)
        index = np.searchsorted(border[1:-1], values[known], side="right")
        total += np.bincount(index, weights=ivar[known], minlength=cells)
        count += np.bincount(index, minlength=cells)
    if not count.any():
        return error_edges(border, np.ones(cells), bins)
    there = count > 0
    middle = (border[:-1] + border[1:]) / 2
    # Cells without a known error take that of their neighbours.
    weights = np.interp(middle, middle[there], total[there] / count[there])
    return error_edges(border, weights, bins)


def _log_border(chunks: Chunks, scale: Scale) -> tuple[np.ndarray, float]:
    low, high = exact_quantiles(chunks, np.array([0.0, 1.0]))
    softening = scale.softening or _median_error(chunks)
    steps = np.linspace(0.0, 1.0, scale.bins + 1)
    if softening > 0:
        ends = np.arcsinh(np.array([low, high]) / softening)
        border = softening * np.sinh(ends[0] + (ends[1] - ends[0]) * steps)
    elif low > 0:
        border = np.exp(np.log(low) + np.log(high / low) * steps)
    else:
        raise ValueError(
            f"a log scale of values that are not all positive (the least is {low:g}) needs to know "
            "where noise begins: give errors (ivar), or softening=... in the quantity's unit"
        )
    border[[0, -1]] = low, high
    return np.maximum.accumulate(border), softening


def _median_error(chunks: Chunks) -> float:
    """Return the median 1-sigma error of the values that have one, 0 without any."""

    def errors():
        for values, ivar in chunks():
            known = np.isfinite(values) & (ivar > 0)
            yield 1 / np.sqrt(ivar[known]), ivar[known]

    try:
        return float(exact_quantiles(errors, np.array([0.5]))[0])
    except ValueError:
        return 0.0


def _circular(chunks: Chunks, scale: Scale) -> Table:
    period, bins = scale.period, scale.bins

    def turned(origin: float) -> Chunks:
        def passes():
            for values, ivar in chunks():
                yield origin + np.mod(values - origin, period), ivar

        return passes

    # Cut open where half a bin of values is left before zero, so that zero is within bin 0.
    cut = float(exact_quantiles(turned(0.0), np.array([1 - 0.5 / bins]))[0]) - period
    limits = np.array([cut, cut + period])
    edges = exact_quantiles(turned(cut), np.arange(1, bins) / bins)
    # Bins do not cross the cut: the mean within one is that along the circle.
    means = bin_means(turned(cut), np.concatenate([limits[:1], edges, limits[1:]]))
    return Table(edges, np.mod(means, period), limits)
