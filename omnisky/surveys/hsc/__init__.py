"""Hyper Suprime-Cam SSP: catalogues, patches, cut-out cubes and scenes.

Settled at this door: counts of zero point 27 become nanomaggies, variances become inverse
variances, bits that mark what is wrong become a mask that is True where good, ``_isnull`` columns
become missing values.
"""

from __future__ import annotations

from omnisky.surveys.hsc.catalog import SELECTIONS, extended, read
from omnisky.surveys.hsc.declarations import HSC
from omnisky.surveys.hsc.images import BAD_PLANES, find_patches, read_cutouts
from omnisky.surveys.hsc.scenes import psf_fwhm_arcsec, read_scene

__all__ = [
    "BAD_PLANES",
    "HSC",
    "SELECTIONS",
    "extended",
    "find_patches",
    "psf_fwhm_arcsec",
    "read",
    "read_cutouts",
    "read_scene",
]
