"""Figures of how well decoded spectra agree with the measured ones."""

from __future__ import annotations

import numpy as np

from omnisky.modalities import Spectrum

__all__ = ["reconstruction_figures"]


def reconstruction_figures(
    spectra: Spectrum, flux: np.ndarray, bad: np.ndarray, within: np.ndarray
) -> dict[str, float]:
    """Compare measured with decoded spectra.

    Parameters
    ----------
    spectra : Spectrum
        Measured, each with a good pixel.
    flux : array, shape (object, pixel)
        Decoded flux in the same unit.
    bad : array, shape (object, pixel)
        Decoded probability, or any score, that a pixel is bad.
    within : array of bool, shape (pixel,)
        True where the codec can decode; other pixels do not count.

    Returns
    -------
    dict
        ``r2``: 1 - Σ (x - x̂)² / Σ (x - mean)² over all good pixels of all spectra; ``r2_shape``:
        the same after division of each spectrum by its median absolute flux and with the mean of
        its own pixels, so that brightness does not count; ``chi2_per_pixel``: mean over objects of
        the mean of ((x - x̂) / error)² over good pixels of known error, and
        ``chi2_per_pixel_median``; ``mask_auc``: area under the ROC curve of `bad`, left out unless
        there are both good and bad pixels.
    """
    good = spectra.mask & within
    x = np.where(good, spectra.flux, 0.0).astype(np.float64)
    off = np.where(good, flux, 0.0) - x
    count = np.maximum(good.sum(1, keepdims=True), 1)
    scale = np.ma.median(np.ma.array(np.abs(x), mask=~good), axis=1).filled(1.0)[:, None]
    scale = np.where(scale > 0, scale, 1.0)
    spread = np.where(good, x - x.sum(1, keepdims=True) / count, 0.0) / scale
    from_mean = (x - x.sum() / count.sum())[good]
    chi2 = (off**2 * np.where(good, spectra.ivar, 0.0)).sum(1)
    known = (good & (spectra.ivar > 0)).sum(1)
    chi2 = chi2[known > 0] / known[known > 0]
    figures = {
        "r2": 1.0 - np.sum(off**2) / np.sum(from_mean**2),
        "r2_shape": 1.0 - np.sum((off / scale) ** 2) / np.sum(spread**2),
        "chi2_per_pixel": float(np.mean(chi2)) if len(chi2) else np.nan,
        "chi2_per_pixel_median": float(np.median(chi2)) if len(chi2) else np.nan,
    }
    truth = ~spectra.mask[:, within]
    if 0 < truth.sum() < truth.size:
        from sklearn.metrics import roc_auc_score

        figures["mask_auc"] = roc_auc_score(truth.ravel(), bad[:, within].ravel())
    return {name: float(value) for name, value in figures.items()}
