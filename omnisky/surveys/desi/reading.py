"""Read DESI coadds and the redshifts that go with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omnisky.modalities import Observations, Scalar, SkyObjects, Spectrum
from omnisky.surveys.desi.arms import Arms, Columns
from omnisky.surveys.desi.declarations import (
    EBV,
    FLUXES,
    SELECTIONS,
    SPECTRUM,
    SPECTYPE,
    TYPES,
    ZWARN,
    Z,
)
from omnisky.surveys.fits import checked, columns_of, open_fits, table_of, unit_is
from omnisky.surveys.survey import Problems, Selection, scalar_of

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["objects_of", "read"]

_PLACE = ("TARGETID", "TARGET_RA", "TARGET_DEC")
_FACTS = ("OBJTYPE", "COADD_FIBERSTATUS", "PMRA", "PMDEC", "REF_EPOCH", "EBV", "MORPHTYPE")
_FACTS += tuple(f"FLUX_{band.upper()}" for band in FLUXES)
_FACTS += tuple(f"FLUX_IVAR_{band.upper()}" for band in FLUXES)
_REDSHIFT = ("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE")
_UNITS = {"TARGET_RA": "deg", "TARGET_DEC": "deg", "PMRA": "mas yr-1", "PMDEC": "mas yr-1"}
_UNITS |= {"REF_EPOCH": "yr", "EBV": "mag"} | {f"FLUX_{b.upper()}": "nmgy" for b in FLUXES}


def read(
    paths: Iterable[str | os.PathLike],
    *,
    redshifts: Sequence[str | os.PathLike] | None = None,
    selection: str | Selection | Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
    problems: Problems | None = None,
    batch_size: int = 256,
) -> Iterator[SkyObjects]:
    """Read ``coadd-*.fits`` files: those of data releases, and those of mini-SV without errors.

    Parameters
    ----------
    paths : iterable of path
        The coadds.
    redshifts : sequence of path, optional
        The redrock or zbest file of each coadd, joined by TARGETID. Without it, the file beside
        the coadd whose name has ``redrock`` or ``zbest`` instead of ``coadd``; redshifts are
        absent if there is none.
    selection : str, Selection or callable, optional
        Which objects to keep: one of `SELECTIONS`, by default ``"targets"``; ``"all"``; or a
        function of the columns of fibre map and redshifts, in lower case.
    problems : Problems, optional
        Takes what is wrong; without it the first problem is raised.
    batch_size : int
        Objects to hold and yield at a time.

    Yields
    ------
    SkyObjects
        With the merged spectrum, redshift, type, warning, and photometry of the targeting.

    Raises
    ------
    ValueError
        If a file is damaged, of another kind, incomplete, in another unit or off the grid.
    """
    problems = problems or Problems()
    chosen = Selection.choose(selection, SELECTIONS, default="targets")
    paths = list(paths)
    if redshifts is not None and len(redshifts) != len(paths):
        raise ValueError(f"{len(paths)} coadds but {len(redshifts)} redshift files; give one each")
    beside = [_beside(path) for path in paths] if redshifts is None else redshifts
    for path, redshift in zip(paths, beside, strict=True):
        with problems.whole_file(path), open_fits(path, lazy=True) as opened:
            yield from _read_one(opened, redshift, chosen, problems, batch_size)


def _beside(path: str | os.PathLike) -> Path | None:
    """Return the redshift file that belongs to a coadd by its name, if it is there."""
    path = Path(path)
    plain = path.name.removesuffix(".gz")
    for kind in ("redrock", "zbest"):
        for name in (plain, f"{plain}.gz"):
            other = path.with_name(name.replace("coadd", kind, 1))
            if plain.startswith("coadd") and other.is_file():
                return other
    return None


def _read_one(
    opened: HDUList,
    redshift: str | os.PathLike | None,
    chosen: Selection,
    problems: Problems,
    batch_size: int,
) -> Iterator[SkyObjects]:
    path = checked(opened).path
    names = {hdu.name for hdu in checked(opened).hdus}
    spectra: Arms | Columns
    if "FIBERMAP" in names and Arms.among(names):
        facts = _facts(opened, "FIBERMAP")
        spectra = Arms(opened, len(facts["TARGETID"]))
        facts |= _joined(facts["TARGETID"], redshift, placed=False)
    elif Columns.among(opened):
        if redshift is None:
            raise ValueError(
                f"{path} has no positions: a mini-SV coadd needs its zbest file. Put it beside the "
                "coadd, or name it in redshifts"
            )
        spectra = Columns(opened)
        facts = {"TARGETID": spectra.targetid}
        facts |= _joined(facts["TARGETID"], redshift, placed=True)
    else:
        raise ValueError(
            f"{path} is no DESI coadd: found HDUs {', '.join(sorted(names - {''})) or 'no names'}; "
            "expected FIBERMAP and B_FLUX, R_FLUX or Z_FLUX. Redshift files are read with their "
            "coadd, stacks of spectra are not read"
        )
    columns = {name.lower(): values for name, values in facts.items()}
    rows = np.flatnonzero(chosen(columns, len(facts["TARGETID"])))
    place = (facts[name][rows] for name in _PLACE)
    rows = rows[problems.placed(path, *place, rows=rows)]
    for start in range(0, len(facts["TARGETID"]), batch_size):
        part = slice(start, min(start + batch_size, len(facts["TARGETID"])))
        inside = rows[(rows >= part.start) & (rows < part.stop)]
        if inside.size:
            spectrum = spectra.read(part)[inside - part.start]
            yield objects_of({n: v[inside] for n, v in facts.items()}, spectrum)


def _facts(opened: HDUList, extension: str, *, placed: bool = True) -> dict[str, np.ndarray]:
    """Return the light columns of a fibre map or redshift table."""
    path = checked(opened).path
    units = {name.upper(): unit for name, unit in columns_of(opened, extension).items()}
    for name, unit in _UNITS.items():
        unit_is(units.get(name), unit, f"{path}, {extension}: {name}")
    facts = table_of(opened, extension, _PLACE if placed else (), optional=_FACTS)
    if placed and facts["TARGET_RA"].dtype != np.float64:
        raise ValueError(
            f"{path}, {extension}: TARGET_RA is {facts['TARGET_RA'].dtype}; expected float64, "
            "since float32 degrees are off by up to 0.05 arcsec. Fetch the file of the survey"
        )
    return facts


def _joined(
    targetid: np.ndarray, redshift: str | os.PathLike | None, *, placed: bool
) -> dict[str, np.ndarray]:
    """Return redshifts in the order of the spectra, NaN and "" for objects that have none."""
    if redshift is None:
        return {}
    with open_fits(redshift, lazy=True) as opened:
        names = {hdu.name for hdu in checked(opened).hdus}
        extension = "ZBEST" if "ZBEST" in names else "REDSHIFTS"
        table = table_of(opened, extension, _REDSHIFT)
        if placed:
            table |= _facts(opened, extension)
    found, first = np.unique(table["TARGETID"], return_index=True)
    if len(found) < len(table["TARGETID"]):
        raise ValueError(f"{redshift}: a TARGETID is there twice; keep one row an object")
    if not len(found):
        raise ValueError(f"{redshift} has no rows; expected one an object")
    at = np.searchsorted(found, targetid).clip(max=len(found) - 1)
    there = found[at] == targetid
    if not there.any():
        raise ValueError(f"{redshift} holds none of the coadd's targets; it is another tile's file")
    return {
        name: np.where(there, values[first][at], "" if values.dtype.kind == "U" else np.nan)
        for name, values in table.items()
        if name != "TARGETID"
    }


def objects_of(facts: Mapping[str, np.ndarray], spectrum: Spectrum) -> SkyObjects:
    """Make typed objects of rows of a fibre map with their redshifts.

    Parameters
    ----------
    facts : mapping of str to array, shape (object,)
        Columns of fibre map and redshift table, in upper case; TARGETID, TARGET_RA and TARGET_DEC
        must be there.
    spectrum : Spectrum
        Merged spectra of the same objects.
    """
    absent = np.full(len(spectrum), np.nan)
    measured: dict[str, Scalar | Spectrum] = {SPECTRUM.name: spectrum}
    measured[Z.name] = scalar_of(Z, facts.get("Z", absent), error=facts.get("ZERR", absent))
    kinds = facts.get("SPECTYPE", absent.astype(str))
    codes = [float(TYPES.index(kind)) if kind in TYPES else np.nan for kind in kinds]
    measured[SPECTYPE.name] = scalar_of(SPECTYPE, np.array(codes))
    measured[ZWARN.name] = scalar_of(ZWARN, facts.get("ZWARN", absent))
    for band, declared in FLUXES.items():
        flux = facts.get(f"FLUX_{band.upper()}", absent)
        ivar = facts.get(f"FLUX_IVAR_{band.upper()}")
        # Zero inverse variance says that the target was not measured in this band.
        known = True if ivar is None else ivar > 0
        measured[declared.name] = scalar_of(declared, flux, ivar=ivar, known=known)
    measured[EBV.name] = scalar_of(EBV, facts.get("EBV", absent))
    pm_ra, pm_dec = (facts.get(name, absent) for name in ("PMRA", "PMDEC"))
    # Both exactly zero is how DESI writes that no proper motion is known.
    moving = np.isfinite(pm_ra) & np.isfinite(pm_dec) & ((pm_ra != 0) | (pm_dec != 0))
    epoch = facts.get("REF_EPOCH", absent)
    return SkyObjects(
        survey="desi",
        object_id=facts["TARGETID"],
        ra_deg=facts["TARGET_RA"],
        dec_deg=facts["TARGET_DEC"],
        observations=Observations(measured),
        epoch=Scalar(epoch, mask=np.isfinite(epoch) & (epoch > 1900)),
        pm_ra=Scalar(pm_ra, mask=moving),
        pm_dec=Scalar(pm_dec, mask=moving),
    )
