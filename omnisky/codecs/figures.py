"""Figures that codecs of several kinds report: how near, and how well the vocabulary is used."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["area_under_roc", "chi2_figures", "code_usage", "r_squared", "usage_figures"]


def usage_figures(counts: Tensor) -> dict[str, float]:
    """Return how well a vocabulary is used.

    Parameters
    ----------
    counts : Tensor, shape (code,)
        How often each code was chosen.

    Returns
    -------
    dict
        ``codes_used``, the fraction chosen at all, and ``code_entropy_bits``, the entropy of the
        choices; log2 of the vocabulary would be the best.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    entropy = -(share * share.clamp(min=1e-300).log2()).sum()
    return {
        "codes_used": float((counts > 0).double().mean()),
        "code_entropy_bits": abs(float(entropy)),
    }


def code_usage(codes: Tensor, n_codes: int) -> dict[str, float]:
    """Return what a report says of the codes chosen.

    Parameters
    ----------
    codes : LongTensor
        Codes chosen, of any shape.
    n_codes : int
        Size of the vocabulary.

    Returns
    -------
    dict
        ``codes_used_fraction`` and ``code_entropy_bits``; see `usage_figures`.
    """
    told = usage_figures(torch.bincount(codes.flatten(), minlength=n_codes))
    return {
        "codes_used_fraction": told["codes_used"],
        "code_entropy_bits": told["code_entropy_bits"],
    }


def chi2_figures(chi2: np.ndarray, good: np.ndarray) -> dict[str, float]:
    """Return χ² a pixel: 0 for a copy with its noise, 1 for a perfect model without.

    Parameters
    ----------
    chi2 : array, shape (object, ...)
        ((measured - decoded) / error)² of each pixel.
    good : array of bool, shape (object, ...)
        Pixels that count; objects without any do not.

    Returns
    -------
    dict
        ``chi2_per_pixel_median`` and ``chi2_per_pixel_90``: median and 90 % quantile over objects
        of the mean over pixels. Empty where no pixel counts.
    """
    axes = tuple(range(1, good.ndim))
    count = good.sum(axes)
    if not count.any():
        return {}
    total = np.where(good, chi2, 0).sum(axes, dtype=np.float64)
    of_object = total[count > 0] / count[count > 0]
    return {
        "chi2_per_pixel_median": float(np.median(of_object)),
        "chi2_per_pixel_90": float(np.quantile(of_object, 0.9)),
    }


def r_squared(flux: np.ndarray, decoded: np.ndarray, good: np.ndarray) -> float:
    """Return 1 - Σ(flux - decoded)² / Σ(flux - mean)² over all good pixels of all objects.

    Parameters
    ----------
    flux, decoded : array, shape (object, pixel)
        What was measured (or is true) and what was decoded.
    good : array of bool, shape (object, pixel)
        Pixels that count.
    """
    wanted, found = flux[good].astype(np.float64), decoded[good].astype(np.float64)
    return float(1 - ((wanted - found) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum())


def area_under_roc(score: np.ndarray, positive: np.ndarray) -> float:
    """Return the chance that a positive scores higher than a negative; NaN if all are alike.

    Parameters
    ----------
    score : array, shape (pixel,)
        Scores.
    positive : array of bool, shape (pixel,)
        What they should tell.
    """
    from scipy.stats import rankdata

    n = int(positive.sum())
    if n in (0, len(positive)):
        return float("nan")
    rank = rankdata(score)[positive].sum()
    return float((rank - n * (n + 1) / 2) / (n * (len(positive) - n)))
