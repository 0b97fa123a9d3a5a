"""Figures of how well spectra decoded by the latent-grid codec agree with the measured ones."""

from __future__ import annotations

import numpy as np

from omnisky.codecs.spectrum.native.quality import area_under_roc, r_squared
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
        the same after division of each spectrum by its median absolute flux, so that each counts
        alike and brightness does not; ``chi2_per_pixel_median`` and ``chi2_per_pixel_90``: median
        and 90 % quantile over objects of the mean of ((x - x̂) / error)² over good pixels of known
        error; ``mask_auc``: area under the ROC curve of `bad`. A figure without any pixel that it
        could be taken of is left out.
    """
    good = spectra.mask & within
    x = np.where(good, spectra.flux, 0.0).astype(np.float64)
    scale = np.ma.median(np.ma.array(np.abs(x), mask=~good), axis=1).filled(1.0)[:, None]
    scale = np.where(scale > 0, scale, 1.0)
    chi2 = (np.where(good, flux - x, 0.0) ** 2 * spectra.ivar).sum(1)
    known = (good & (spectra.ivar > 0)).sum(1)
    figures = {}
    if good.any():
        figures["r2"] = r_squared(x, flux, good)
        figures["r2_shape"] = r_squared(x / scale, flux / scale, good)
    if known.any():
        chi2 = chi2[known > 0] / known[known > 0]
        figures["chi2_per_pixel_median"] = float(np.median(chi2))
        figures["chi2_per_pixel_90"] = float(np.quantile(chi2, 0.9))
    truth = ~spectra.mask[:, within]
    if 0 < truth.sum() < truth.size:
        figures["mask_auc"] = area_under_roc(bad[:, within].ravel(), truth.ravel())
    return figures
