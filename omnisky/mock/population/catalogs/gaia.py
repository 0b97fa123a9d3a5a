"""Gaia-like rows: positions at 2016.0, parallaxes, motions and magnitudes with their errors."""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.catalogs.measure import Sky, offset_deg
from omnisky.mock.population.membership import gaia_magnitude
from omnisky.mock.truth import GALAXY, STAR

__all__ = ["places", "rows"]

Columns = dict[str, np.ndarray]

# Median uncertainties of EDR3 and DR3 (Lindegren et al. 2021, table 4; Riello et al. 2021, figure
# 14) against G, BP or RP.
_MAG = np.array([9.0, 13.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0, 21.0])
_PARALLAX_MAS = np.array([0.02, 0.02, 0.03, 0.045, 0.07, 0.12, 0.23, 0.50, 1.30])
_G_MMAG = np.array([0.3, 0.3, 0.4, 0.6, 1.0, 1.8, 3.0, 6.0, 14.0])
_BP_MMAG = np.array([0.9, 0.9, 2.5, 5.0, 11.0, 25.0, 55.0, 108.0, 220.0])
_RP_MMAG = np.array([0.6, 0.7, 1.8, 3.2, 6.0, 13.0, 28.0, 60.0, 130.0])
# Vega magnitudes of one electron a second (Riello et al. 2021, table 5).
_ONE_ELECTRON = {"g": 25.6873668671, "bp": 25.3385422158, "rp": 24.7478955012}
_POSITION, _MOTION = 0.8, 1.02  # errors of position and motion over that of parallax
_ZERO_POINT_MAS = -0.03
_RVS_LIMIT = 14.0
_ODD = 0x5851F42D4C957F2D  # odd: multiplying by it modulo 2^60 gives each number another one


def source_id(object_id: np.ndarray) -> np.ndarray:
    """Return identifiers like Gaia's: 60 bits without order, one for each number."""
    with np.errstate(over="ignore"):
        mixed = np.asarray(object_id).astype(np.uint64) * np.uint64(_ODD)
    return ((mixed & np.uint64((1 << 60) - 1)) | np.uint64(1 << 60)).astype(np.int64)


def _errors(sky: Sky, g: np.ndarray) -> np.ndarray:
    """Return errors of parallaxes in mas, with the scatter that coverage gives."""
    (scatter,) = sky.draws.normal("gaia coverage")
    return np.exp(np.interp(g, _MAG, np.log(_PARALLAX_MAS)) + 0.15 * scatter)


def _g(sky: Sky) -> np.ndarray:
    return np.minimum(gaia_magnitude(sky.flux("gaia_g"), "gaia_g"), 23.0)


def places(sky: Sky) -> tuple[np.ndarray, np.ndarray]:
    """Return catalogued positions at 2016.0, degrees."""
    error = _POSITION * _errors(sky, _g(sky)) / 1000
    east, north = sky.draws.normal("position gaia", 2)
    return offset_deg(sky.truth["ra"], sky.truth["dec"], error * east, error * north)


def rows(sky: Sky) -> Columns:
    """Return columns of `gaia_source`.

    Parameters
    ----------
    sky : Sky
        The objects; rows of those that are not in Gaia mean nothing.

    Returns
    -------
    dict of array, shape (object,)
        By their names in the archive, in lower case.
    """
    truth, g = sky.truth, _g(sky)
    star, galaxy = truth["kind"] == STAR, truth["kind"] == GALAXY
    error = _errors(sky, g)
    noise = sky.draws.normal("gaia astrometry", 3)
    ra, dec = places(sky)
    columns: Columns = {
        "source_id": source_id(truth["object_id"]),
        "ref_epoch": np.full(len(g), 2016.0),
        "ra": ra,
        "ra_error": _POSITION * error,
        "dec": dec,
        "dec_error": _POSITION * error,
    }
    # Galaxies have positions only: two-parameter solutions.
    for i, (name, key, scale, zero) in enumerate(
        (
            ("parallax", "parallax", 1.0, _ZERO_POINT_MAS),
            ("pmra", "pm_ra", _MOTION, 0.0),
            ("pmdec", "pm_dec", _MOTION, 0.0),
        )
    ):
        value = np.where(star, truth[key], 0.0) + zero + scale * error * noise[i]
        columns[name] = np.where(galaxy, np.nan, value)
        columns[f"{name}_error"] = np.where(galaxy, np.nan, scale * error)
    columns["ruwe"] = _ruwe(sky)
    return {**columns, **_photometry(sky), **_velocity(sky, g)}


def _ruwe(sky: Sky) -> np.ndarray:
    """Return the renormalised unit weight error: near one, more for some binaries."""
    (u,) = sky.draws.uniform("gaia ruwe")
    (normal,) = sky.draws.normal("gaia ruwe")
    wobble = np.where(sky.truth["binary"] & (u < 0.15), 1.3 + 6.0 * u, 0.0)
    value = np.where(sky.truth["kind"] == GALAXY, np.nan, 1.02 * np.exp(0.05 * normal) + wobble)
    return value.astype("f4")


def _photometry(sky: Sky) -> Columns:
    """Return mean magnitudes, fluxes, and fluxes over their errors."""
    columns: Columns = {}
    for band, table in (("g", _G_MMAG), ("bp", _BP_MMAG), ("rp", _RP_MMAG)):
        true = np.minimum(gaia_magnitude(sky.flux(f"gaia_{band}"), f"gaia_{band}"), 25.0)
        error = 1e-3 * np.exp(np.interp(true, _MAG, np.log(table)))
        noise, model = sky.draws.normal(f"gaia {band}", 2)
        # Noise is that of the flux; the zero points hold to some mmag.
        flux = np.maximum(1 + error * np.log(10) / 2.5 * noise, 0.05)
        measured = true - 2.5 * np.log10(flux) + 0.002 * model
        columns[f"phot_{band}_mean_mag"] = measured.astype("f4")
        signal = 2.5 / np.log(10) / error * flux
        columns[f"phot_{band}_mean_flux_over_error"] = signal.astype("f4")
        electrons = 10 ** (0.4 * (_ONE_ELECTRON[band] - measured))
        columns[f"phot_{band}_mean_flux"] = electrons
        columns[f"phot_{band}_mean_flux_error"] = (electrons / signal).astype("f4")
    return columns


def _velocity(sky: Sky, g: np.ndarray) -> Columns:
    """Return radial velocities of bright cool stars (Katz et al. 2023)."""
    (noise,) = sky.draws.normal("gaia velocity")
    teff = np.where(sky.truth["kind"] == STAR, sky.truth["teff"], 0.0)
    there = (g < _RVS_LIMIT) & (teff > 3600) & (teff < 14500)
    error = 0.25 * 10.0 ** (0.28 * np.maximum(g - 10.0, 0.0))
    value = np.where(there, sky.truth["rv"] + error * noise, np.nan)
    error = np.where(there, error, np.nan)
    return {
        "radial_velocity": value.astype("f4"),
        "radial_velocity_error": error.astype("f4"),
    }
