"""Seeing and depth of each survey at each object: shared by images, catalogues and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.mock.population.config import UniverseConfig
from omnisky.mock.population.draws import Draws

__all__ = ["SURVEY_BANDS", "Conditions", "conditions"]

SURVEY_BANDS: dict[str, tuple[str, ...]] = {
    "legacysurvey": ("decam_g", "decam_r", "decam_i", "decam_z"),
    "wise": ("wise_w1", "wise_w2", "wise_w3", "wise_w4"),
    "hsc": ("hsc_g", "hsc_r", "hsc_i", "hsc_z", "hsc_y"),
    "sdss": ("sdss_u", "sdss_g", "sdss_r", "sdss_i", "sdss_z"),
}

# Median FWHM in arcsec and 5 sigma depth of a point source, AB, of surveys without mock images.
# WISE: Schlafly et al. (2019); SDSS: York et al. (2000), Abazajian et al. (2009).
_FWHM = {
    "wise": (6.1, 6.4, 6.5, 12.0),
    "sdss": (1.53, 1.44, 1.32, 1.26, 1.29),
}
_DEPTH = {
    "wise": (21.2, 20.5, 16.9, 14.9),
    "sdss": (22.2, 23.1, 22.7, 22.2, 20.7),
}
# Scatter of seeing from field to field in ln, of depth in mag.
_SCATTER = {"wise": (0.01, 0.1), "sdss": (0.08, 0.12)}
_FIELD_DEG = 0.25


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Hold how a survey saw some objects.

    Parameters
    ----------
    bands : tuple of str
        Names of the bands.
    psf_fwhm : array, shape (object, band)
        Width of the point-spread function, arcsec.
    depth : array, shape (object, band)
        AB magnitude of a point source measured at 5 sigma.
    deep : array of bool, shape (object,)
        Whether it lies in the deep part of the survey.
    """

    bands: tuple[str, ...]
    psf_fwhm: np.ndarray
    depth: np.ndarray
    deep: np.ndarray

    @property
    def sigma(self) -> np.ndarray:
        """Error of the flux of a point source against the sky, nanomaggies, (object, band)."""
        return 10.0 ** (0.4 * (22.5 - self.depth)) / 5


def conditions(config: UniverseConfig, ra: np.ndarray, dec: np.ndarray, survey: str) -> Conditions:
    """Return seeing and depth of a survey at positions on the sky.

    Those of surveys with images are the images'; others are drawn for fields of a quarter degree.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    ra, dec : array, shape (object,)
        Degrees.
    survey : str
        One of `SURVEY_BANDS`.

    Raises
    ------
    ValueError
        If the survey is unknown.
    """
    if survey not in SURVEY_BANDS:
        raise ValueError(f"no survey {survey!r}; there are {', '.join(SURVEY_BANDS)}")
    if survey not in _FWHM:
        return _imaged(config, ra, dec, survey)
    n_bands = len(SURVEY_BANDS[survey])
    field = Draws(config.seed, _cell(ra, dec, _FIELD_DEG)).normal(f"field {survey}", 2 * n_bands)
    seeing, scatter = _SCATTER[survey]
    fwhm = np.asarray(_FWHM[survey])[:, None] * np.exp(seeing * field[:n_bands])
    depth = np.asarray(_DEPTH[survey])[:, None] + scatter * field[n_bands:]
    # Worse seeing spreads a point source over more sky: depth goes with 2.5 log FWHM.
    depth = depth - 2.5 / np.log(10) * seeing * field[:n_bands]
    return Conditions(
        bands=SURVEY_BANDS[survey],
        psf_fwhm=np.ascontiguousarray(fwhm.T),
        depth=np.ascontiguousarray(depth.T),
        deep=np.zeros(len(field[0]), dtype=bool),
    )


def _imaged(config: UniverseConfig, ra: np.ndarray, dec: np.ndarray, survey: str) -> Conditions:
    """Return the conditions under which images are taken, one field after the other."""
    from omnisky.mock.images.instruments import INSTRUMENTS, conditions_at

    instrument = INSTRUMENTS[survey]
    shape = (len(ra), len(instrument.sed_bands))
    fwhm, sigma, deep = np.empty(shape), np.empty(shape), np.zeros(len(ra), dtype=bool)
    for i, (x, y) in enumerate(zip(ra.tolist(), dec.tolist(), strict=True)):
        here = conditions_at(config.seed, instrument, x, y)
        fwhm[i] = [psf.fwhm_arcsec for psf in here.psfs]
        sigma[i], deep[i] = here.sigma, here.deep
    # From the noise of a pixel to that of a point: the area of a Gaussian of that width.
    area = 4 * np.pi * (fwhm / 2.3548 / instrument.pixel_scale_arcsec) ** 2
    depth = 22.5 - 2.5 * np.log10(5 * sigma * np.sqrt(area))
    return Conditions(bands=instrument.sed_bands, psf_fwhm=fwhm, depth=depth, deep=deep)


def _cell(ra: np.ndarray, dec: np.ndarray, side: float) -> np.ndarray:
    """Return the numbers of cells of a grid in declination and, row by row, in right ascension."""
    row = np.floor((np.asarray(dec) + 90.0) / side)
    columns = np.maximum(
        np.round(360.0 / side * np.cos(np.radians((row + 0.5) * side - 90.0))), 1.0
    )
    column = np.floor(np.asarray(ra) / 360.0 * columns)
    return (row * 1_000_000 + column).astype(np.int64)
