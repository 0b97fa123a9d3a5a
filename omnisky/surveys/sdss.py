"""SDSS and BOSS: optical spectra of galaxies, quasars and stars, with ugriz photometry.

Wavelengths are in vacuum and heliocentric. All spectra lie on one grid of log10 wavelength with
steps of 1e-4; each file holds a part of it, so they are placed on the grid of the modality exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omnisky.modalities import Modality, Observations, Scalar, SkyObjects, Spectrum
from omnisky.surveys.fits import header_of, open_fits, table_of, unit_is
from omnisky.surveys.survey import (
    Problems,
    Selection,
    Survey,
    in_batches,
    log_pixels,
    scalar_of,
)

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["SDSS", "SELECTIONS", "Spec", "objects_of", "read", "spec_of"]

_YORK = "2000AJ....120.1579Y"
_BOSS = "2013AJ....145...10D"
_BOLTON = "2012AJ....144..144B"
_FUKUGITA = "1996AJ....111.1748F"
_BANDS = "ugriz"
_CLASSES = ("GALAXY", "QSO", "STAR")


def _flux(kind: str, native: str, band: str, description: str) -> Modality:
    return Modality(
        name=f"sdss_{kind}_{band}",
        kind="scalar",
        survey="sdss",
        unit="nmgy",
        ucd=f"phot.flux;em.opt.{'I' if band == 'z' else band.upper() if band != 'g' else 'B'}",
        column=f"{native}_{band}",
        description=f"SDSS {band} {description}, not corrected for extinction",
        bibcodes=(_YORK, _FUKUGITA),
    )


def _label(name: str, ucd: str, description: str, valid_range=(-np.inf, np.inf)) -> Modality:
    return Modality(
        name=f"sdss_{name}",
        kind="scalar",
        survey="sdss",
        unit="",
        ucd=ucd,
        column=f"specobj.{name}",
        description=description,
        valid_range=valid_range,
        role="label",
        bibcodes=(_YORK, _BOLTON),
    )


_SPECTRUM = Modality(
    name="sdss_spectrum",
    kind="spectrum",
    survey="sdss",
    unit="1e-17 erg s-1 cm-2 Angstrom-1",
    ucd="phot.flux.density;em.wl",
    column="COADD.FLUX",
    description="SDSS or BOSS coadded spectrum, vacuum wavelengths, heliocentric",
    # 3467 to 10471 Angstrom: all that the SDSS and BOSS spectrographs deliver.
    wavelength_nm=(2.54, 1e-4, 4801),
    spacing="log10",
    bibcodes=(_YORK, _BOSS),
)
_Z = _label("z", "src.redshift", "SDSS spectroscopic redshift", (-0.02, 10.0))
_CLASS = _label("class", "src.class", "SDSS spectroscopic class: 0 GALAXY, 1 QSO, 2 STAR", (0, 2))
_ZWARNING = _label("zwarning", "meta.code.error", "SDSS redshift warning flags, 0 is good")
_FLUXES = {
    native: tuple(_flux(kind, native, band, description) for band in _BANDS)
    for kind, native, description in (
        ("psfflux", "psfFlux", "flux of a point source"),
        ("cmodelflux", "cModelFlux", "flux of the composite galaxy model"),
    )
}

SDSS = Survey(
    name="sdss",
    title="Sloan Digital Sky Survey, SDSS and (e)BOSS optical spectra",
    modalities=(_SPECTRUM, _Z, _CLASS, _ZWARNING, *(m for f in _FLUXES.values() for m in f)),
    licence="SDSS data policy, free to use with the acknowledgement",
    acknowledgement=(
        "Funding for the Sloan Digital Sky Survey has been provided by the Alfred P. Sloan "
        "Foundation, the National Science Foundation, the U.S. Department of Energy Office of "
        "Science, and the Participating Institutions. The SDSS website is www.sdss.org."
    ),
    bibtex={
        _YORK: """@article{york2000, author={York, D. G. and others},
  title={The Sloan Digital Sky Survey: Technical Summary},
  journal={AJ}, year={2000}, volume={120}, pages={1579}, doi={10.1086/301513}}""",
        _BOSS: """@article{dawson2013, author={Dawson, K. S. and others},
  title={The Baryon Oscillation Spectroscopic Survey of SDSS-III},
  journal={AJ}, year={2013}, volume={145}, pages={10}, doi={10.1088/0004-6256/145/1/10}}""",
        _BOLTON: """@article{bolton2012, author={Bolton, A. S. and others},
  title={Spectral Classification and Redshift Measurement for the SDSS-III BOSS},
  journal={AJ}, year={2012}, volume={144}, pages={144}, doi={10.1088/0004-6256/144/5/144}}""",
        _FUKUGITA: """@article{fukugita1996, author={Fukugita, M. and others},
  title={The Sloan Digital Sky Survey Photometric System},
  journal={AJ}, year={1996}, volume={111}, pages={1748}, doi={10.1086/117915}}""",
    },
)


def _good_redshift(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return columns["zwarning"] == 0


def _primary(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return columns["specprimary"] == 1


SELECTIONS = {
    "good_redshift": Selection(
        "good_redshift", "Spectra whose redshift carries no warning (ZWARNING = 0)", _good_redshift
    ),
    "primary": Selection("primary", "The best spectrum of each object (SPECPRIMARY = 1)", _primary),
}

_PIXELS = ("flux", "loglam", "ivar", "and_mask")
_FACTS = ("SPECOBJID", "PLUG_RA", "PLUG_DEC", "Z", "Z_ERR", "ZWARNING", "CLASS")
_MORE = ("SPECPRIMARY", "PLATE", "MJD", "FIBERID", "PSFFLUX", "CMODELFLUX")
_MORE += ("PSFFLUX_IVAR", "CMODELFLUX_IVAR")


@dataclass
class Spec:
    """Hold one object of one file, on the common grid.

    Parameters
    ----------
    object_id : str
        SPECOBJID.
    light : dict of str to float
        Position, redshift and the like, by lower-case name.
    fluxes : dict of str to (array, array)
        Photometry: ugriz fluxes and inverse variances.
    flux, ivar, mask, lsf : array, shape (pixel,)
        The spectrum; its line-spread function in nm.
    """

    object_id: str
    light: dict[str, float]
    fluxes: dict[str, tuple[np.ndarray, np.ndarray]]
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    lsf: np.ndarray


def read(
    paths: Iterable[str | os.PathLike],
    *,
    selection: str | Selection | Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
    problems: Problems | None = None,
    batch_size: int = 256,
    bad_flags: int = 0xFFFFFFFF,
) -> Iterator[SkyObjects]:
    """Read ``spec-PLATE-MJD-FIBER.fits`` files, one object a file.

    Parameters
    ----------
    paths : iterable of path
        The files, lite or full.
    selection : str, Selection or callable, optional
        Which objects to keep: one of `SELECTIONS`, ``"all"`` (the default), or a function of the
        columns z, z_err, zwarning, class (0 GALAXY, 1 QSO, 2 STAR), specprimary, plate, mjd and
        fiberid.
    problems : Problems, optional
        Takes what is wrong; without it the first problem is raised.
    batch_size : int
        Objects to hold and yield at a time.
    bad_flags : int
        Bits of ``and_mask`` (set where a pixel was flagged in every exposure) that make a pixel
        bad; all of them by default. ``or_mask`` (flagged in any exposure) marks no pixel bad: the
        coadd has left such exposures out.

    Yields
    ------
    SkyObjects
        With the spectrum, redshift, class, warning and, where the file has it, ugriz photometry.
        The identifier is SPECOBJID as text, since it does not fit into a signed integer. Positions
        are those of the fibre's target (PLUG_RA, PLUG_DEC), not of the plate's centre that the
        primary header calls RA and DEC; they have no epoch.

    Raises
    ------
    ValueError
        If a file is damaged, of another kind, in air wavelengths, in another unit, or off the grid.
    """
    problems = problems or Problems()
    chosen = Selection.choose(selection, SELECTIONS)
    for batch in in_batches(_specs(paths, problems, bad_flags), batch_size):
        # Only columns that all files have: a cut on another one must fail, not drop objects.
        shared = [key for key in batch[0].light if all(key in spec.light for spec in batch)]
        columns = {key: np.array([spec.light[key] for spec in batch]) for key in shared}
        kept = chosen(columns, len(batch))
        if kept.any():
            yield objects_of([spec for spec, keep in zip(batch, kept, strict=True) if keep])


def _specs(
    paths: Iterable[str | os.PathLike], problems: Problems, bad_flags: int
) -> Iterator[Spec]:
    for path in paths:
        spec = None
        with problems.whole_file(path), open_fits(path, lazy=True) as opened:
            spec = _read_one(opened, os.fspath(path), bad_flags)
        if spec is not None:
            yield spec


def _read_one(opened: HDUList, path: str, bad_flags: int) -> Spec:
    cards = header_of(opened, 0)
    if cards.get("VACUUM", True) is not True:
        raise ValueError(
            f"{path}: VACUUM = {cards['VACUUM']!r}; expected vacuum wavelengths, as SDSS delivers. "
            "Fetch the file of the survey"
        )
    unit_is(cards.get("BUNIT"), _SPECTRUM.unit, f"{path}: flux")
    pixels = table_of(opened, 1, _PIXELS, optional=("wdisp",))
    about = table_of(opened, 2, _FACTS, optional=_MORE)
    if len(about["Z"]) != 1:
        raise ValueError(f"{path}, HDU 2: expected one row; found {len(about['Z'])}")
    return spec_of(pixels, about, path, bad_flags)


def spec_of(
    pixels: Mapping[str, np.ndarray],
    about: Mapping[str, np.ndarray],
    path: str,
    bad_flags: int = 0xFFFFFFFF,
) -> Spec:
    """Place the two tables of one object on the common grid.

    Parameters
    ----------
    pixels : mapping of str to array, shape (pixel,)
        Columns flux, loglam, ivar, and_mask and, where known, wdisp.
    about : mapping of str to array, shape (1,) or (1, 5)
        Columns of the object in upper case.
    path : str
        Where they are from, for messages.
    bad_flags : int
        As in `read`.

    Raises
    ------
    ValueError
        If the spectrum is off the grid, or identifier or position cannot be used.
    """
    part = log_pixels(_SPECTRUM, pixels["loglam"], path)
    flux, ivar, mask, lsf = (np.zeros(len(_SPECTRUM.wavelength), dtype=t) for t in "ff?f")
    good = (pixels["ivar"] > 0) & np.isfinite(pixels["ivar"]) & np.isfinite(pixels["flux"])
    good &= (pixels["and_mask"].astype(np.int64) & bad_flags) == 0
    flux[part], ivar[part], mask[part] = pixels["flux"], pixels["ivar"], good
    # Width in pixels of the grid; their size in nm is the step in ln(wavelength).
    width = np.nan_to_num(pixels.get("wdisp", np.zeros(len(good)))).clip(0)
    lsf[part] = width * 1e-4 * np.log(10) * _SPECTRUM.wavelength[part]
    light, fluxes = _facts(about, path)
    name = str(about["SPECOBJID"][0])
    return Spec(name, light, fluxes, flux, ivar, mask, lsf)


def _facts(
    about: Mapping[str, np.ndarray], path: str
) -> tuple[dict[str, float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return the light columns of one object, and its photometry."""
    if not str(about["SPECOBJID"][0]):
        raise ValueError(f"{path}, HDU 2: SPECOBJID is empty. Give the object its identifier")
    light = {
        key.lower(): float(about[key][0])
        for key in ("PLUG_RA", "PLUG_DEC", "Z", "Z_ERR", "ZWARNING", *_MORE[:4])
        if key in about
    }
    name = about["CLASS"][0]
    light["class"] = float(_CLASSES.index(name)) if name in _CLASSES else np.nan
    ra, dec = light["plug_ra"], light["plug_dec"]
    if about["PLUG_RA"].dtype != np.float64 or not (0 <= ra < 360 and abs(dec) <= 90):
        raise ValueError(
            f"{path}, HDU 2: position ({ra}, {dec}) in {about['PLUG_RA'].dtype}; expected float64 "
            "degrees with ra in [0, 360), since float32 is off by up to 0.05 arcsec. Correct it"
        )
    missing = np.full(len(_BANDS), np.nan)
    fluxes = {}
    for native in _FLUXES:
        pair = tuple(
            about[key][0] if key in about else missing
            for key in (native.upper(), f"{native.upper()}_IVAR")
        )
        if any(np.shape(values) != missing.shape for values in pair):
            raise ValueError(f"{path}, HDU 2: {native.upper()} must hold 5 values, for ugriz")
        fluxes[native] = pair
    return light, fluxes


def objects_of(specs: Sequence[Spec]) -> SkyObjects:
    """Make typed objects of some spectra."""

    def column(key: str) -> np.ndarray:
        return np.array([spec.light[key] for spec in specs])

    # A negative error is how the pipeline writes that the fit failed.
    fitted = column("z_err") > 0
    measured: dict[str, Scalar | Spectrum] = {
        _SPECTRUM.name: Spectrum(
            np.stack([spec.flux for spec in specs]),
            np.stack([spec.ivar for spec in specs]),
            np.stack([spec.mask for spec in specs]),
            _SPECTRUM.wavelength,
            np.stack([spec.lsf for spec in specs]),
        ),
        _Z.name: scalar_of(_Z, column("z"), error=column("z_err"), known=fitted),
        _CLASS.name: scalar_of(_CLASS, column("class")),
        _ZWARNING.name: scalar_of(_ZWARNING, column("zwarning")),
    }
    for native, declared in _FLUXES.items():
        values, ivars = (np.stack([s.fluxes[native][i] for s in specs]) for i in (0, 1))
        for i, modality in enumerate(declared):
            # Zero inverse variance is how the photometric pipeline writes "not measured".
            known = np.isfinite(ivars[:, i]) & (ivars[:, i] > 0)
            measured[modality.name] = scalar_of(
                modality, values[:, i], ivar=ivars[:, i], known=known
            )
    return SkyObjects(
        survey="sdss",
        object_id=np.array([spec.object_id for spec in specs]),
        ra_deg=column("plug_ra"),
        dec_deg=column("plug_dec"),
        observations=Observations(measured),
    )
