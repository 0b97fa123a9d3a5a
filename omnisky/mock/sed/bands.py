"""Broad bands, and synthetic photometry through them."""

from __future__ import annotations

from functools import cache

import numpy as np

from omnisky.mock import tables
from omnisky.mock.sed.grids import COARSE, Grid, rebin

__all__ = ["BANDS", "CANVAS", "band_matrix", "curve"]

BANDS = tuple(
    (
        "decam_g decam_r decam_i decam_z wise_w1 wise_w2 wise_w3 wise_w4 "
        "hsc_g hsc_r hsc_i hsc_z hsc_y gaia_g gaia_bp gaia_rp "
        "sdss_u sdss_g sdss_r sdss_i sdss_z twomass_j twomass_h twomass_ks"
    ).split()
)

# The part of the coarse grid that the bands see in the observer's frame: from below SDSS u.
_FIRST = int(COARSE.position(2900.0))
CANVAS = Grid(start=float(COARSE.wavelength[_FIRST]), stop=COARSE.stop, step=COARSE.step)
OFFSET = _FIRST

# AB nanomaggies of 1e-17 erg s-1 cm-2 A-1, over wavelength squared in Angstrom:
# f_nu = f_lambda lambda^2 / c, and one nanomaggy is 3.6308e-29 erg s-1 cm-2 Hz-1 (Oke & Gunn 1983).
_NANOMAGGIES = 1e-17 / 2.99792458e18 / (10 ** (-0.4 * 48.6) * 1e-9)


def curve(band: str) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths (Angstrom) and response to photons of one band."""
    table = tables.load("filters")
    return table[f"{band}_wavelength"], table[f"{band}_response"]


@cache
def band_matrix() -> np.ndarray:
    """Return what turns f_lambda on `CANVAS` into nanomaggies, shape (pixel, band).

    The AB flux that photon counts give is the integral of f_lambda lambda R over that of
    c R / lambda (Bessell & Murphy 2012, equation A.12).
    """
    columns = []
    for band in BANDS:
        wavelength, response = curve(band)
        seen = rebin(wavelength, response, CANVAS.edges)
        # The first and last pixels a band touches are covered in part: rebin averages over bins.
        weight = seen * CANVAS.wavelength * CANVAS.width
        columns.append(weight * _NANOMAGGIES / np.sum(seen * CANVAS.width / CANVAS.wavelength))
    matrix = np.stack(columns, axis=1)
    matrix.setflags(write=False)
    return matrix
