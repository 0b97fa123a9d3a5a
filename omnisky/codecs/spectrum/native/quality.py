"""How well decoded spectra follow the measured ones."""

from __future__ import annotations

import numpy as np
from torch import Tensor, bincount

from omnisky.codecs.spectrum.native.knots import OnKnots

__all__ = ["area_under_roc", "code_usage", "r_squared", "reconstruction"]


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


def code_usage(codes: Tensor, n_codes: int) -> dict[str, float]:
    """Return the share of the vocabulary that is used, and the entropy in bits."""
    count = bincount(codes.flatten(), minlength=n_codes).double()
    share = count / count.sum()
    return {
        "codes_used_fraction": float((count > 0).double().mean()),
        "code_entropy_bits": float(-(share * share.clamp(min=1e-300).log2()).sum()),
    }


def _limit(measured: OnKnots) -> float:
    """Return the R² that the true spectrum would have: the rest is the given noise."""
    good = measured.good
    return float(1 - (1 / measured.ivar[good]).sum() / (good.sum() * measured.flux[good].var()))


def reconstruction(
    measured: OnKnots, decoded: np.ndarray, chance: np.ndarray, seen: np.ndarray
) -> dict[str, float]:
    """Return χ² per pixel, R² and the area under the curve of the mask.

    Parameters
    ----------
    measured : OnKnots
        The spectra.
    decoded : array, shape (object, pixel)
        Decoded flux.
    chance : array, shape (object, pixel)
        Decoded chance that a pixel is good, zero in bins without a token.
    seen : array of bool, shape (object, pixel)
        Pixels in bins with a token.
    """
    good = measured.good
    present = good.any(1)
    chi2 = (((measured.flux - decoded) ** 2 * measured.ivar).sum(1) / good.sum(1).clip(1))[present]
    flux, found = measured.flux[present], decoded[present]
    return {
        "chi2_per_pixel_median": float(np.median(chi2)),
        "chi2_per_pixel_90": float(np.quantile(chi2, 0.9)),
        "r2": r_squared(flux, found, good[present]),
        "r2_limit": _limit(measured),
        "mask_auc": area_under_roc(chance[present].ravel(), good[present].ravel()),
        "mask_auc_in_bins_seen": area_under_roc(chance[seen], good[seen]),
    }
