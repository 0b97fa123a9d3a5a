"""HSC-like rows: CModel magnitudes, extinction, extendedness, moments."""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.catalogs.measure import (
    Sky,
    half_light,
    map_ebv,
    measured_flux,
    seen,
    spread,
)
from omnisky.mock.truth import GALAXY

__all__ = ["rows"]

Columns = dict[str, np.ndarray]

BANDS = ("g", "r", "i", "z", "y")
EPOCH = 2017.0
# Extinction over E(B-V) in the bands of HSC (Aihara et al. 2018, section 5.4).
_COEFFICIENTS = (3.240, 2.276, 1.633, 1.263, 1.075)
_FWHM_OF_SIGMA = 2.354820045


def rows(sky: Sky) -> Columns:
    """Return columns of the forced table, without the identifier.

    Parameters
    ----------
    sky : Sky
        The objects.

    Returns
    -------
    dict of array, shape (object,)
        By their names in the database, in lower case. Magnitudes that cannot be are NaN.
    """
    ra, dec = seen(sky, "hsc", EPOCH, "hsc_i")
    columns: Columns = {"ra": ra, "dec": dec, "isprimary": np.ones(len(ra), dtype=bool)}
    here = sky.conditions("hsc")
    radius, q, _ = half_light(sky)
    ebv = map_ebv(sky)
    squeeze = sky.draws.normal("hsc psf shape", 2 * len(BANDS))
    for i, band in enumerate(BANDS):
        fwhm, sigma = (np.ascontiguousarray(x[:, i]) for x in (here.psf_fwhm, here.sigma))
        noise = sigma * spread(radius, fwhm)
        flux, ivar = measured_flux(sky, f"hsc_{band}", noise, "hsc", gain=2e5)
        positive = flux > 0
        safe = np.where(positive, flux, 1.0)
        error = 2.5 / np.log(10) / (safe * np.sqrt(ivar))
        magnitude = np.where(positive, 22.5 - 2.5 * np.log10(safe), np.nan)
        columns[f"{band}_cmodel_mag"] = magnitude.astype("f4")
        columns[f"{band}_cmodel_magerr"] = np.where(positive, error, np.nan).astype("f4")
        columns[f"a_{band}"] = (_COEFFICIENTS[i] * ebv).astype("f4")
        wide = _extendedness(sky, band, (radius / fwhm) ** 2, safe * np.sqrt(ivar))
        columns[f"{band}_extendedness_value"] = wide
        columns |= _moments(sky, band, (radius, q, fwhm), squeeze[2 * i : 2 * i + 2])
    return columns


def _extendedness(sky: Sky, band: str, excess, signal) -> np.ndarray:
    """Return 1 where the light is wider than a point's, as CModel less PSF flux says above 0.015.

    Bosch et al. (2018, section 4.9.10). Bright points stay points; faint galaxies get lost.
    """
    (noise,) = sky.draws.normal(f"hsc extended {band}")
    measured = 0.5 * excess + noise * 1.1 / np.maximum(signal, 3.0)
    return (measured > 0.015).astype("f4")


def _moments(sky: Sky, band: str, light: tuple, squeeze: np.ndarray) -> Columns:
    """Return second moments in arcsec^2 of the PSF and of the object.

    Directions are those of the pixels: 11 along x (to the west), 22 along y (to the north).
    """
    radius, q, fwhm = light
    sigma2 = (fwhm / _FWHM_OF_SIGMA) ** 2
    e1, e2 = 0.02 * squeeze[0], 0.02 * squeeze[1]
    psf = {"11": sigma2 * (1 + e1), "22": sigma2 * (1 - e1), "12": sigma2 * e2}
    pa = np.radians(np.where(sky.truth["kind"] == GALAXY, sky.truth["pa"], 0.0))
    major = 0.7 * radius**2  # adaptive moments weigh the core: half the full second moment
    minor = major * q**2
    north, west = np.cos(pa), -np.sin(pa)
    own = {
        "11": major * west**2 + minor * north**2,
        "22": major * north**2 + minor * west**2,
        "12": (major - minor) * north * west,
    }
    columns: Columns = {}
    for part in ("11", "22", "12"):
        columns[f"{band}_sdssshape_psf_shape{part}"] = psf[part].astype("f4")
        columns[f"{band}_sdssshape_shape{part}"] = (psf[part] + own[part]).astype("f4")
    return columns
