"""How well decoded spectra follow the measured ones."""

from __future__ import annotations

import numpy as np

from omnisky.codecs.figures import area_under_roc, chi2_figures, r_squared
from omnisky.codecs.spectrum.native.knots import OnKnots

__all__ = ["reconstruction"]


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
    chi2 = (measured.flux - decoded) ** 2 * measured.ivar
    flux, found = measured.flux[present], decoded[present]
    return {
        **chi2_figures(chi2, good),
        "r2": r_squared(flux, found, good[present]),
        "r2_limit": _limit(measured),
        "mask_auc": area_under_roc(chance[present].ravel(), good[present].ravel()),
        "mask_auc_in_bins_seen": area_under_roc(chance[seen], good[seen]),
    }
