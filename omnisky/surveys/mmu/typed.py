"""Columns of the Multimodal Universe as typed measurements, one function a data set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from omnisky.modalities import (
    Coefficients,
    Image,
    Measurement,
    Modality,
    Observations,
    Scalar,
    SkyObjects,
    Spectrum,
)
from omnisky.surveys.desi import DESI
from omnisky.surveys.gaia import GAIA
from omnisky.surveys.hsc import HSC
from omnisky.surveys.legacysurvey import LEGACYSURVEY
from omnisky.surveys.mmu.files import text
from omnisky.surveys.sdss import SDSS
from omnisky.surveys.survey import Survey, scalar_of

__all__ = ["COEFFICIENTS", "light_columns", "objects_of"]

Rows = Mapping[str, np.ndarray]
COEFFICIENTS = ("spectral_coefficients.coeff", "spectral_coefficients.coeff_error")
_NO_VARIANCE = 1e37  # nan_to_num made the largest float of 1 / 0
_COUNTS = 10 ** (-0.4 * (27.0 - 22.5))  # nanomaggies of an HSC count
# Positions from 1 were given to Cutout2D, which counts from 0. Its windows start at whole pixels:
# objects lie 1.5 to 0.5 pixels left of and below the centre, and nothing tells where in between.
_OFFSET = -1.0
_TYPES = {"PSF": 1, "REX": 2, "EXP": 3, "DEV": 4, "SER": 5, "DUP": 6}
_SURVEYS = {s.name: s for s in (LEGACYSURVEY, HSC, SDSS, DESI, GAIA)}


@cache
def light_columns(dataset: str) -> tuple[str, ...]:
    """Return the columns without pixels that a data set may have."""
    if dataset == "legacysurvey":
        bands = (f"FLUX_{b}" for b in ("G", "R", "I", "Z", "W1", "W2", "W3", "W4"))
        return (*bands, "SHAPE_R", "SHAPE_E1", "SHAPE_E2", "EBV", "TYPE")
    if dataset == "hsc":
        shapes = ("11", "22", "12")
        return tuple(
            name
            for b in "grizy"
            for name in (
                *(f"a_{b}", f"{b}_cmodel_mag", f"{b}_cmodel_magerr", f"{b}_extendedness_value"),
                *(f"{b}_sdssshape_psf_shape{s}" for s in shapes),
            )
        )
    if dataset == "sdss":
        return ("Z", "Z_ERR", "ZWARNING")
    if dataset == "desi":
        fluxes = (f"FLUX{i}_{b}" for i in ("", "_IVAR") for b in "GRZ")
        return ("Z", "ZERR", "ZWARN", "EBV", *fluxes)
    flat = (
        *("parallax", "parallax_error", "pmra", "pmdec", "ref_epoch"),
        *(f"phot_{b}_mean_mag" for b in ("g", "bp", "rp")),
        *(f"phot_{b}_mean_flux_over_error" for b in ("g", "bp", "rp")),
    )
    structs = (f"{'photometry' if n.startswith('phot') else 'astrometry'}.{n}" for n in flat)
    return (*flat, *structs)


def objects_of(path: str | os.PathLike, dataset: str, ids: np.ndarray, rows: Rows) -> SkyObjects:
    """Make the objects of a data set from its columns.

    Raises
    ------
    ValueError
        If the pixels are not those of this data set.
    """
    survey = _SURVEYS[dataset]
    make: dict[str, Callable[..., dict[str, Measurement]]] = {
        "legacysurvey": _legacysurvey,
        "hsc": _hsc,
        "sdss": _sdss,
        "desi": _desi,
        "gaia": _gaia,
    }
    moving: dict[str, Any] = {}
    if dataset == "gaia":
        pm_ra, pm_dec = (_column(rows, f"astrometry.{n}") for n in ("pmra", "pmdec"))
        known = np.isfinite(pm_ra) & np.isfinite(pm_dec)
        epoch = _column(rows, "astrometry.ref_epoch")
        epoch = np.where(np.isfinite(epoch), epoch, 2016.0)  # all of it is of DR3
        moving = {"epoch": Scalar(epoch)}
        moving |= {"pm_ra": Scalar(pm_ra, mask=known), "pm_dec": Scalar(pm_dec, mask=known)}
    return SkyObjects(
        survey=dataset,
        object_id=ids,
        ra_deg=rows["ra"].astype(np.float64),
        dec_deg=rows["dec"].astype(np.float64),
        observations=Observations(make[dataset](path, survey, rows)),
        **moving,
    )


def _column(rows: Rows, name: str) -> np.ndarray:
    """Return a column of numbers, NaN without it; flat in version 1, in a struct in 1.5."""
    found = rows.get(name, rows.get(name.rpartition(".")[2]))
    if found is None:
        return np.full(len(rows["ra"]), np.nan)
    return found.astype(np.float64)


def _declared(survey: Survey) -> dict[str, Modality]:
    return {m.name: m for m in survey.modalities}


def _legacysurvey(path: str | os.PathLike, survey: Survey, rows: Rows) -> dict[str, Measurement]:
    known = _declared(survey)
    found: dict[str, Measurement] = {
        "legacysurvey_image": _images(path, known["legacysurvey_image"], rows, "des-")
    }
    names = [n for n in light_columns("legacysurvey") if n != "TYPE"]
    for name in names:
        declared = known[f"legacysurvey_{name.lower()}"]
        found[declared.name] = scalar_of(declared, _column(rows, name))
    codes = np.full(len(rows["ra"]), np.nan)
    if "TYPE" in rows:
        codes = np.array([_TYPES.get(t, np.nan) for t in text(rows["TYPE"]).tolist()])
    found["legacysurvey_type"] = scalar_of(known["legacysurvey_type"], codes)
    return found


def _hsc(path: str | os.PathLike, survey: Survey, rows: Rows) -> dict[str, Measurement]:
    known = _declared(survey)
    found: dict[str, Measurement] = {
        "hsc_image": _images(path, known["hsc_image"], rows, "hsc-", factor=_COUNTS)
    }
    for b in "grizy":
        magnitude, error = _column(rows, f"{b}_cmodel_mag"), _column(rows, f"{b}_cmodel_magerr")
        xx, yy, xy = (_column(rows, f"{b}_sdssshape_psf_shape{s}") for s in ("11", "22", "12"))
        area = xx * yy - xy**2
        width = 2 * np.sqrt(2 * np.log(2)) * np.where(area > 0, area, np.nan) ** 0.25
        values = {
            f"hsc_{b}_cmodel_mag": (magnitude, error),
            f"hsc_a_{b}": (_column(rows, f"a_{b}"), None),
            f"hsc_{b}_extendedness": (_column(rows, f"{b}_extendedness_value"), None),
            f"hsc_psfsize_{b}": (width, None),
        }
        for name, (value, sigma) in values.items():
            found[name] = scalar_of(known[name], value, error=sigma)
    return found


def _images(
    path: str | os.PathLike, declared: Modality, rows: Rows, prefix: str, factor: float = 1.0
) -> Image:
    """Make images, in the order of the survey's bands."""
    names = np.char.lower(text(rows["image.band"]))
    expected = [f"{prefix}{band}" for band in declared.bands]
    order = [names[0].tolist().index(b) if b in names[0] else -1 for b in expected]
    if (names != names[0]).any() or -1 in order or names.shape[1] != len(order):
        raise ValueError(
            f"{path}: images of {declared.survey} have the bands {expected} in one order; found "
            f"{np.unique(names).tolist()}. The file is of another data set; name it"
        )
    scale = rows["image.scale"]
    if not np.allclose(scale, declared.pixel_scale_arcsec or 0.0, rtol=1e-3):
        raise ValueError(
            f"{path}: pixels of {declared.survey} are {declared.pixel_scale_arcsec} arcsec wide; "
            f"found {np.unique(scale)[:3].tolist()}. The file is of another data set; name it"
        )
    flux, ivar = (rows[f"image.{part}"][:, order] for part in ("flux", "ivar"))
    mask = rows["image.mask"].astype(bool)
    mask = np.broadcast_to(mask[:, None], flux.shape) if mask.ndim == 3 else mask[:, order]
    with np.errstate(invalid="ignore"):
        good = mask & np.isfinite(flux) & (ivar > 0) & (ivar < _NO_VARIANCE)
    width = np.nan_to_num(rows["image.psf_fwhm"][:, order], posinf=0.0).clip(0)
    return Image(
        np.where(good, flux, 0) * np.float32(factor),
        np.where(good, ivar, 0) / np.float32(factor**2),
        good,
        declared.bands,
        declared.pixel_scale_arcsec or 0.0,
        width,
        np.full((len(flux), 2), _OFFSET, np.float32),
    )


def _spectra(path: str | os.PathLike, declared: Modality, rows: Rows) -> Spectrum:
    """Make spectra: put each pixel where it lies on the survey's grid."""
    start, step, pixels = declared.wavelength_nm or (0.0, 1.0, 0)
    angstrom = rows["spectrum.lambda"].astype(np.float64)
    there = np.isfinite(angstrom) & (angstrom > 0)
    nm = np.where(there, angstrom, 10.0) / 10
    log = declared.spacing == "log10"
    position = ((np.log10(nm) if log else nm) - start) / step
    pixel = np.rint(position).astype(np.int64)
    off = there & ((np.abs(position - pixel) > 0.1) | (pixel < 0) | (pixel >= pixels))
    if off.any():
        row = int(np.flatnonzero(off.any(axis=1))[0])
        raise ValueError(
            f"{path}: a wavelength of {angstrom[row][off[row]][0]:.3f} Angstrom (object {row} of "
            f"its batch) is not on the grid of {declared.name}. The file is of another data set, "
            "or resampled"
        )
    values = {p: rows[f"spectrum.{p}"].astype(np.float64) for p in ("flux", "ivar", "lsf_sigma")}
    # Their masks are True where bad.
    good = there & ~rows["spectrum.mask"].astype(bool) & np.isfinite(values["flux"])
    good &= np.isfinite(values["ivar"]) & (values["ivar"] > 0)
    width = values["lsf_sigma"] * (step * np.log(10) * nm if log else step)
    width = np.where(there & np.isfinite(width), width, 0).clip(0)
    shape = (len(angstrom), pixels)
    flux, ivar, lsf, mask = (
        np.zeros(shape, np.float32),
        *np.zeros((2, *shape)),
        np.zeros(shape, bool),
    )
    which, place = np.nonzero(there)
    for target, source in ((flux, values["flux"]), (ivar, values["ivar"]), (lsf, width)):
        target[which, pixel[which, place]] = np.where(good | (target is lsf), source, 0)[there]
    mask[which, pixel[which, place]] = good[there]
    return Spectrum(flux, ivar, mask, declared.wavelength, lsf)


def _sdss(path: str | os.PathLike, survey: Survey, rows: Rows) -> dict[str, Measurement]:
    known = _declared(survey)
    error = _column(rows, "Z_ERR")
    return {
        "sdss_spectrum": _spectra(path, known["sdss_spectrum"], rows),
        # A negative error is how the pipeline writes that the fit failed.
        "sdss_z": scalar_of(known["sdss_z"], _column(rows, "Z"), error=error, known=error > 0),
        "sdss_zwarning": _flags(known["sdss_zwarning"], rows, "ZWARNING", good=False),
    }


def _desi(path: str | os.PathLike, survey: Survey, rows: Rows) -> dict[str, Measurement]:
    known = _declared(survey)
    z, error = _column(rows, "Z"), _column(rows, "ZERR")
    found: dict[str, Measurement] = {
        "desi_spectrum": _spectra(path, known["desi_spectrum"], rows),
        "desi_z": scalar_of(known["desi_z"], z, error=error),
        "desi_zwarn": _flags(known["desi_zwarn"], rows, "ZWARN", good=True),
        "desi_ebv": scalar_of(known["desi_ebv"], _column(rows, "EBV")),
    }
    for b in "grz":
        flux, ivar = _column(rows, f"FLUX_{b.upper()}"), _column(rows, f"FLUX_IVAR_{b.upper()}")
        measured = True if np.isnan(ivar).all() else ivar > 0
        declared = known[f"desi_flux_{b}"]
        found[declared.name] = scalar_of(declared, flux, ivar=ivar, known=measured)
    return found


def _flags(declared: Modality, rows: Rows, name: str, *, good: bool) -> Scalar:
    """Return warning flags; of a bool only "no warning" is known, which `good` stands for."""
    values = rows.get(name)
    if values is None or values.dtype != bool:
        return scalar_of(declared, _column(rows, name))
    return scalar_of(declared, np.where(values == good, 0.0, np.nan))


def _gaia(path: str | os.PathLike, survey: Survey, rows: Rows) -> dict[str, Measurement]:
    known = _declared(survey)
    value, error = (rows[name].astype(np.float64) for name in COEFFICIENTS)
    declared = known["gaia_xp_coefficients"]
    if value.shape[1:] != (declared.size,) or error.shape != value.shape:
        raise ValueError(
            f"{path}: Gaia has {declared.size} coefficients, 55 of BP then 55 of RP; found shapes "
            f"{value.shape} and {error.shape}. Fetch the file again"
        )
    good = np.isfinite(value) & (error > 0) & np.isfinite(error)
    ivar = np.where(good, 1 / np.where(good, error, 1) ** 2, 0)
    found: dict[str, Measurement] = {
        declared.name: Coefficients(np.where(good, value, 0), ivar, good)
    }
    parallax, sigma = (_column(rows, f"astrometry.{n}") for n in ("parallax", "parallax_error"))
    found["gaia_parallax"] = scalar_of(known["gaia_parallax"], parallax, error=sigma)
    for b in ("g", "bp", "rp"):
        ratio = _column(rows, f"photometry.phot_{b}_mean_flux_over_error")
        wide = np.divide(2.5 / np.log(10), ratio, out=np.full(len(ratio), np.nan), where=ratio > 0)
        magnitude = _column(rows, f"photometry.phot_{b}_mean_mag")
        found[f"gaia_{b}"] = scalar_of(known[f"gaia_{b}"], magnitude, error=wide)
    return found
