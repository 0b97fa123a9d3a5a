"""What spectroscopic surveys state of an object: redshift, class, warnings, target photometry."""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.catalogs import legacysurvey
from omnisky.mock.population.catalogs.measure import (
    Sky,
    half_light,
    measured_flux,
    offset_deg,
    seen,
    spread,
)
from omnisky.mock.population.cosmology import C_KM_S
from omnisky.mock.population.membership import magnitude
from omnisky.mock.truth import GALAXY, STAR

__all__ = ["desi_rows", "sdss_rows"]

Columns = dict[str, np.ndarray]

SDSS_EPOCH = 2003.0
_CLASSES = ("GALAXY", "STAR", "QSO")


def _redshift(sky: Sky, survey: str, error_km_s: tuple, fail: np.ndarray) -> Columns:
    """Measure redshifts: with errors, and for some objects wrong ones.

    Parameters
    ----------
    sky : Sky
        The objects.
    survey : str
        Name for the random numbers.
    error_km_s : (float, float, float)
        Error of galaxies, stars and quasars.
    fail : array, shape (object,)
        Chance that the redshift is wrong; three of four failures carry a warning.
    """
    truth = sky.truth
    u_fail, u_warn, u_z, u_class = sky.draws.uniform(f"redshift {survey}", 4)
    noise, scatter = sky.draws.normal(f"redshift {survey}", 2)
    error = np.asarray(error_km_s)[truth["kind"]] / C_KM_S * (1 + np.maximum(truth["redshift"], 0))
    error = error * np.exp(0.3 * scatter)
    failed = u_fail < fail
    wrong = np.where(truth["kind"] == STAR, 0.4 * u_z, 1.6 * u_z)
    kind = np.array(_CLASSES)[truth["kind"]]
    # Half of the failures also get another class.
    other = np.array(["GALAXY", "GALAXY", "STAR"])[truth["kind"]]
    kind = np.where(failed & (u_class < 0.5), other, kind)
    wrong = np.where(kind == "STAR", 1e-3 * (u_z - 0.5), wrong)
    warned = np.where(failed, u_warn < 0.75, u_warn < 0.25 * fail)
    return {
        "Z": np.where(failed, wrong, truth["redshift"] + error * noise),
        "ERROR": error,
        "WARNED": warned,
        "KIND": kind,
    }


def desi_rows(sky: Sky) -> Columns:
    """Return columns of the fibre map and the redshifts of DESI, without TARGETID.

    Errors and failures: Lan et al. (2023) and Alexander et al. (2023), visual inspection.

    Parameters
    ----------
    sky : Sky
        The objects.

    Returns
    -------
    dict of array, shape (object,)
        By their names in the files, in upper case. Positions and fluxes are those of the target
        catalogue, an earlier reduction of the Legacy-Survey-like images.
    """
    truth = sky.truth
    target = legacysurvey.rows(sky)
    sample = np.where(truth["kind"] == GALAXY, truth["sample"], -1)
    fail = np.choose(truth["kind"], [0.008, 0.01, 0.04]) + np.where(sample == 3, 0.05, 0.0)
    fail = fail * 10.0 ** (0.3 * np.clip(magnitude(sky.flux("decam_r")) - 19.5, 0.0, 3.0))
    found = _redshift(sky, "desi", (12.0, 4.0, 250.0), fail)
    east, north = sky.draws.normal("position desi", 2)
    fixed = target["REF_CAT"] == "GE"
    jitter = np.where(fixed, 0.0, 0.008)
    ra, dec = offset_deg(target["RA"], target["DEC"], jitter * east, jitter * north)
    (chi,) = sky.draws.normal("desi chi2")
    columns: Columns = {
        "TARGET_RA": ra,
        "TARGET_DEC": dec,
        "Z": found["Z"],
        "ZERR": found["ERROR"],
        "ZWARN": np.where(found["WARNED"], 4, 0).astype(np.int64),
        "SPECTYPE": found["KIND"],
        "DELTACHI2": np.where(found["WARNED"], 3.0, 10.0 ** (2.5 + 0.6 * chi)),
        "OBJTYPE": np.full(len(ra), "TGT"),
        "COADD_FIBERSTATUS": np.zeros(len(ra), dtype="i4"),
        "MORPHTYPE": target["TYPE"],
        "REF_EPOCH": np.where(fixed, 2016.0, 2015.5).astype("f4"),
    }
    for name in ("EBV", "PMRA", "PMDEC", "MASKBITS", "SERSIC", "SHAPE_R", "SHAPE_E1", "SHAPE_E2"):
        columns[name] = target[name]
    for band in ("G", "R", "Z", "W1", "W2"):
        columns[f"FLUX_{band}"] = target[f"FLUX_{band}"]
        columns[f"FLUX_IVAR_{band}"] = target[f"FLUX_IVAR_{band}"]
    return columns


def sdss_rows(sky: Sky) -> Columns:
    """Return columns of the table of one object in spec files, without plate, MJD and fibre.

    Errors: Bolton et al. (2012, section 5); failures of 1 per cent for galaxies and 4 for faint.

    Parameters
    ----------
    sky : Sky
        The objects.

    Returns
    -------
    dict of array, shape (object,) or (object, 5)
        By their names in the files, in upper case; fluxes in ugriz, nanomaggies.
    """
    truth = sky.truth
    i = magnitude(sky.flux("sdss_i"))
    fail = np.choose(truth["kind"], [0.008, 0.01, 0.03])
    fail = fail * 10.0 ** (0.4 * np.clip(i - 18.5, 0.0, 2.5))
    found = _redshift(sky, "sdss", (30.0, 10.0, 350.0), fail)
    ra, dec = seen(sky, "sdss", SDSS_EPOCH, "sdss_r")
    columns: Columns = {
        "PLUG_RA": ra,
        "PLUG_DEC": dec,
        "Z": found["Z"].astype("f4"),
        "Z_ERR": found["ERROR"].astype("f4"),
        "ZWARNING": np.where(found["WARNED"], 4, 0).astype("i4"),
        "CLASS": found["KIND"],
        "SPECPRIMARY": np.ones(len(ra), dtype="u1"),
    }
    return {**columns, **_ugriz(sky)}


def _ugriz(sky: Sky) -> Columns:
    """Return fluxes in ugriz of a point and of a galaxy model, with inverse variances."""
    here = sky.conditions("sdss")
    radius, _, _ = half_light(sky)
    point, model, point_ivar, model_ivar = ([] for _ in range(4))
    for i, band in enumerate(here.bands):
        fwhm, sigma = (np.ascontiguousarray(x[:, i]) for x in (here.psf_fwhm, here.sigma))
        flux, ivar = measured_flux(sky, band, sigma * spread(radius, fwhm), "sdss", gain=500.0)
        inside = 1 / (1 + 1.5 * (radius / fwhm) ** 2)  # what a point's profile catches
        model.append(flux)
        model_ivar.append(ivar)
        point.append(flux * inside)
        point_ivar.append(1.0 / (sigma**2 + np.maximum(flux * inside, 0.0) / 500.0))
    columns = dict(PSFFLUX=point, PSFFLUX_IVAR=point_ivar)
    columns |= dict(CMODELFLUX=model, CMODELFLUX_IVAR=model_ivar)
    return {name: np.stack(part, axis=1).astype("f4") for name, part in columns.items()}
