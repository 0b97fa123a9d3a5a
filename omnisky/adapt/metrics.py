"""Figures of merit of predictions, with bootstrap intervals; NumPy only.

Residuals are *prediction minus truth*; entries that are NaN (label unknown) are left out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = [
    "bias",
    "bootstrap_interval",
    "coverage",
    "r2",
    "robust_scatter",
    "sigma_nmad",
    "standard_deviation",
]


def _known(values) -> np.ndarray:
    """Return the entries that are not NaN; an empty set has no statistic."""
    values = np.asarray(values, dtype=np.float64)
    known = values[~np.isnan(values)]
    if known.size == 0:
        raise ValueError(
            f"no known value among {values.size}; a figure of merit needs at least one object "
            "with a known label"
        )
    return known


def robust_scatter(residual) -> float:
    r"""Return the scatter from the median absolute deviation.

    .. math:: \sigma = 1.4826 \; \mathrm{median}\,|r_i - \mathrm{median}(r)|

    Equals the standard deviation for a normal distribution and ignores outliers.

    Parameters
    ----------
    residual : array
        Prediction minus truth, in the unit of the label; NaN where unknown.

    Returns
    -------
    float
        Scatter in the unit of the residuals.

    Examples
    --------
    >>> round(robust_scatter([-1.0, 0.0, 1.0, 50.0]), 4)
    1.4826
    """
    known = _known(residual)
    return float(1.4826 * np.median(np.abs(known - np.median(known))))


def sigma_nmad(residual, truth) -> float:
    r"""Return the normalised scatter of photometric redshifts.

    .. math:: \sigma_\mathrm{NMAD} = 1.4826 \; \mathrm{median}
        \left|\frac{r_i}{1 + z_i} - \mathrm{median}\,\frac{r}{1 + z}\right|

    as in Brammer, van Dokkum & Coppi (2008), ApJ 686, 1503, equation 5.

    Parameters
    ----------
    residual, truth : array, shape (object,)
        Prediction minus true redshift, and the true redshift.
    """
    return robust_scatter(np.asarray(residual) / (1.0 + np.asarray(truth)))


def bias(residual) -> float:
    r"""Return the median residual, :math:`\mathrm{median}(r)`, in the unit of the label.

    Examples
    --------
    >>> bias([0.1, 0.2, 9.0])
    0.2
    """
    return float(np.median(_known(residual)))


def standard_deviation(residual) -> float:
    r"""Return :math:`\sqrt{\frac{1}{n}\sum_i (r_i - \bar r)^2}`; outliers count in full."""
    return float(np.std(_known(residual)))


def r2(residual, truth) -> float:
    r"""Return the coefficient of determination.

    .. math:: R^2 = 1 - \frac{\sum_i r_i^2}{\sum_i (y_i - \bar y)^2}

    Parameters
    ----------
    residual, truth : array, shape (object,)
        Prediction minus truth, and the truth; an object with either unknown is left out.

    Returns
    -------
    float
        1 for perfect predictions, 0 for the mean of the truths; NaN if the truths are all equal.
    """
    residual, truth = np.asarray(residual, np.float64), np.asarray(truth, np.float64)
    known = ~np.isnan(residual) & ~np.isnan(truth)
    error, target = _known(residual[known]), truth[known]
    total = np.sum((target - target.mean()) ** 2)
    return float(1.0 - np.sum(error**2) / total) if total > 0 else float("nan")


def coverage(truth, lower, upper) -> float:
    r"""Return the fraction of truths inside their interval.

    .. math:: \frac{1}{n}\sum_i \mathbf{1}[\,l_i \le y_i \le u_i\,]

    Examples
    --------
    >>> coverage([1.0, 2.0, 3.0, 4.0], [0.0] * 4, [3.5] * 4)
    0.75
    """
    truth = np.asarray(truth, dtype=np.float64)
    inside = (np.asarray(lower) <= truth) & (truth <= np.asarray(upper))
    return float(_known(np.where(np.isnan(truth), np.nan, inside)).mean())


def bootstrap_interval(
    statistic: Callable[..., float], *arrays, n: int = 1000, seed: int = 0, level: float = 0.68
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic (Efron 1979, Ann. Statist. 7, 1).

    Objects are drawn with replacement, the same ones from every array.

    Parameters
    ----------
    statistic : callable
        Called with the resampled arrays, returns a number; for example `robust_scatter`.
    *arrays : array, shape (object, ...)
        What it is called with, one row an object.
    n : int
        Number of resamples.
    seed : int
        Fixes the resamples.
    level : float
        Probability inside the interval, between 0 and 1.

    Returns
    -------
    lower, upper : float
        Quantiles (1 - level)/2 and (1 + level)/2 of the resampled statistic.

    Raises
    ------
    ValueError
        If the level is outside (0, 1), or the arrays are empty or of different lengths.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1 (exclusive); found {level!r}")
    columns = [np.asarray(a) for a in arrays]
    lengths = {len(c) for c in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"bootstrap needs arrays of one length, one row an object; found {sorted(lengths)}"
        )
    size = lengths.pop()
    rng = np.random.default_rng(seed)
    picks = (rng.integers(0, size, size) for _ in range(n))
    values = [statistic(*(c[pick] for c in columns)) for pick in picks]
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)
