"""Tractor-like rows: fluxes, shapes, types, depths and what Gaia adds."""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.catalogs import gaia
from omnisky.mock.population.catalogs.measure import (
    Sky,
    half_light,
    map_ebv,
    measured_flux,
    seen,
    spread,
)
from omnisky.mock.population.places import holes
from omnisky.mock.truth import GALAXY

__all__ = ["rows"]

Columns = dict[str, np.ndarray]

_OPTICAL = ("G", "R", "I", "Z")
_WISE = ("W1", "W2", "W3", "W4")
# Extinction coefficients of the Legacy Surveys (DR9 description of the catalogues).
_COEFFICIENTS = dict(G=3.214, R=2.165, I=1.592, Z=1.211, W1=0.184, W2=0.113, W3=0.0241, W4=0.00910)
_MJD_MIDDLE, _MJD_SPREAD = 57700.0, 500.0  # 2013 to 2019
_GAIA_FIXES = 19.0  # G to which point sources keep Gaia's position
_BRIGHT, _MEDIUM = 1 << 1, 1 << 11


def rows(sky: Sky) -> Columns:
    """Return columns of a tractor table, without release, brick and number.

    Parameters
    ----------
    sky : Sky
        The objects.

    Returns
    -------
    dict of array, shape (object,)
        By their names in the files, in upper case.
    """
    columns = {**_when(sky), **_optical(sky), **_infrared(sky)}
    columns |= _shapes(sky)
    columns |= _from_gaia(sky)
    year = 2000.0 + (0.5 * (columns["MJD_MIN"] + columns["MJD_MAX"]) - 51544.5) / 365.25
    ra, dec = seen(sky, "legacysurvey", year, "decam_r")
    fixed = columns["REF_CAT"] == "GE"
    known = gaia.places(sky)
    columns["RA"] = np.where(fixed, known[0], ra)
    columns["DEC"] = np.where(fixed, known[1], dec)
    ebv = map_ebv(sky).astype(np.float32)
    columns["EBV"] = ebv
    for band, coefficient in _COEFFICIENTS.items():
        columns[f"MW_TRANSMISSION_{band}"] = (10.0 ** (-0.4 * coefficient * ebv)).astype("f4")
    place = sky.config, sky.truth["ra"], sky.truth["dec"]
    near, wide = holes(*place, 1.5), holes(*place, 2.5)
    columns["MASKBITS"] = np.where(near, _BRIGHT, 0) + np.where(wide & ~near, _MEDIUM, 0)
    columns["MASKBITS"] = columns["MASKBITS"].astype("i4")
    return columns


def _when(sky: Sky) -> Columns:
    first, last = sky.draws.uniform("legacysurvey dates", 2)
    middle = _MJD_MIDDLE + _MJD_SPREAD * (first - 0.5)
    half = 30.0 + 400.0 * last
    return {"MJD_MIN": middle - half, "MJD_MAX": middle + half}


def _optical(sky: Sky) -> Columns:
    here = sky.conditions("legacysurvey")
    radius, _, share = half_light(sky)
    visits = sky.draws.uniform("legacysurvey visits", 4)
    columns: Columns = {}
    for i, band in enumerate(_OPTICAL):
        fwhm = np.ascontiguousarray(here.psf_fwhm[:, i])
        sigma = np.ascontiguousarray(here.sigma[:, i])
        name = f"decam_{band.lower()}"
        flux, ivar = measured_flux(sky, name, sigma * spread(radius, fwhm), "legacysurvey")
        fiber = sky.flux(name) * _in_fiber(radius, share, fwhm)
        columns |= {
            f"FLUX_{band}": flux.astype("f4"),
            f"FLUX_IVAR_{band}": ivar.astype("f4"),
            f"FIBERFLUX_{band}": fiber.astype("f4"),
            f"FIBERTOTFLUX_{band}": fiber.astype("f4"),
            f"PSFSIZE_{band}": fwhm.astype("f4"),
            f"PSFDEPTH_{band}": (1.0 / sigma**2).astype("f4"),
            f"GALDEPTH_{band}": (0.75 / sigma**2).astype("f4"),
            f"NOBS_{band}": np.where(here.deep, 5, 2 + (3 * visits[i]).astype(int)).astype("i2"),
        }
    return columns


def _in_fiber(radius: np.ndarray, share: np.ndarray, fwhm: np.ndarray) -> np.ndarray:
    """Return the share of light in a fibre 1.5 arcsec across, for blurred Gaussian-like light."""
    width = np.sqrt((fwhm / 2.355) ** 2 + ((0.85 - 0.35 * share) * radius) ** 2)
    return -np.expm1(-0.5 * (0.75 / width) ** 2)


def _infrared(sky: Sky) -> Columns:
    here = sky.conditions("wise")
    columns: Columns = {}
    for i, band in enumerate(_WISE):
        sigma = np.ascontiguousarray(here.sigma[:, i])
        flux, ivar = measured_flux(
            sky, f"wise_{band.lower()}", sigma, "legacysurvey", gain=(200.0, 100.0, 5.0, 1.0)[i]
        )
        columns |= {
            f"FLUX_{band}": flux.astype("f4"),
            f"FLUX_IVAR_{band}": ivar.astype("f4"),
            f"PSFDEPTH_{band}": (1.0 / sigma**2).astype("f4"),
            f"NOBS_{band}": np.full(len(flux), 120, dtype="i2"),
        }
    return columns


def _shapes(sky: Sky) -> Columns:
    """Return the type of model and its shape, with errors that grow with noise and blur."""
    truth, here = sky.truth, sky.conditions("legacysurvey")
    radius, q, share = half_light(sky)
    fwhm, sigma = (np.ascontiguousarray(x[:, 1]) for x in (here.psf_fwhm, here.sigma))
    signal = sky.flux("decam_r") / (sigma * spread(radius, fwhm))
    n_r, n_1, n_2, n_index = sky.draws.normal("legacysurvey shape", 4)
    u_type = sky.draws.uniform("legacysurvey type")[0]
    blur = 1 + (0.4 * fwhm / np.maximum(radius, 0.01)) ** 2
    error = np.minimum(np.hypot(0.02, 1.2 * blur / np.maximum(signal, 1.0)), 0.6)
    measured = radius * np.exp(error * n_r)
    significance = signal * radius**2 / (radius**2 + fwhm**2)
    galaxy = truth["kind"] == GALAXY
    index = np.where(truth["bulge_fraction"] >= 1, truth["n_bulge"], 1 + 3.0 * share)
    index = np.clip(index * np.exp(0.12 * n_index), 0.5, 6.0)
    round_ = significance < 6
    simple = u_type < 0.25
    kind = np.select(
        [
            ~galaxy | (significance < 1.5) | (radius < 0.05),
            round_,
            (significance < 30) & (index < 1.8),
            simple & (np.abs(index - 1) < 0.35),
            simple & (np.abs(index - 4) < 0.8),
        ],
        ["PSF", "REX", "EXP", "EXP", "DEV"],
        "SER",
    ).astype("U4")
    extended, flat = kind != "PSF", (kind != "PSF") & (kind != "REX")
    fitted = np.select([kind == "SER", kind == "DEV", extended], [index, 4.0, 1.0], 0.0)
    ellipticity = (1 - q) / (1 + q)
    twice = 2 * np.radians(np.where(galaxy, truth["pa"], 0.0))
    columns = {"TYPE": kind, "SERSIC": fitted.astype("f4")}
    columns["SHAPE_R"] = np.where(extended, measured, 0.0).astype("f4")
    columns["SHAPE_R_IVAR"] = _ivar(np.where(extended, error * measured, 0.0))
    for name, wave, noise in (("E1", np.cos(twice), n_1), ("E2", np.sin(twice), n_2)):
        value = np.clip(ellipticity * wave + 0.7 * error * noise, -0.97, 0.97)
        columns[f"SHAPE_{name}"] = np.where(flat, value, 0.0).astype("f4")
        columns[f"SHAPE_{name}_IVAR"] = _ivar(np.where(flat, 0.7 * error, 0.0))
    return columns


def _ivar(error: np.ndarray) -> np.ndarray:
    return np.where(error > 0, 1.0 / np.where(error > 0, error, 1.0) ** 2, 0.0).astype("f4")


def _from_gaia(sky: Sky) -> Columns:
    """Return what the tractor takes from Gaia: motions and positions of its brighter sources."""
    truth = sky.truth
    source = gaia.rows(sky)
    g = source["phot_g_mean_mag"].astype(np.float64)
    fixed = truth["in_gaia"] & (truth["kind"] != GALAXY) & (g < _GAIA_FIXES)
    columns: Columns = {
        "REF_CAT": np.where(fixed, "GE", "").astype("U2"),
        "REF_ID": np.where(fixed, source["source_id"], 0),
        "REF_EPOCH": np.where(fixed, 2016.0, 0.0).astype("f4"),
    }
    for name, key in (("PMRA", "pmra"), ("PMDEC", "pmdec"), ("PARALLAX", "parallax")):
        columns[name] = np.where(fixed, source[key], 0.0).astype("f4")
        columns[f"{name}_IVAR"] = _ivar(np.where(fixed, source[f"{key}_error"], 0.0))
    for band in ("g", "bp", "rp"):
        values = np.where(fixed, source[f"phot_{band}_mean_mag"], 0.0)
        columns[f"GAIA_PHOT_{band.upper()}_MEAN_MAG"] = values.astype("f4")
    return columns
