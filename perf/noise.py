"""The noise of images that come without errors."""

from __future__ import annotations

import numpy as np
from astropy.stats import mad_std, sigma_clip

__all__ = ["sky_scatter"]


def sky_scatter(pixels: np.ndarray) -> float:
    """Return the robust scatter of pixels after sources are clipped; 0 where there are too few."""
    how = {"cenfunc": "median", "stdfunc": "mad_std", "masked": False}
    kept = sigma_clip(pixels.ravel(), sigma=3, maxiters=10, **how)
    return float(mad_std(kept)) if len(kept) >= 100 else 0.0
