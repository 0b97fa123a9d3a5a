"""Read tractor and sweep catalogues of the Legacy Surveys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np

from omnisky.modalities import Observations, Scalar, SkyObjects
from omnisky.surveys.catalog import CatalogFormat, Columns, paths_of, stream
from omnisky.surveys.legacysurvey.declarations import BANDS, LEGACYSURVEY, WISE_BANDS
from omnisky.surveys.survey import Problems, Selection, scalar_of

__all__ = ["FORMAT", "SELECTIONS", "TYPES", "extended", "read"]

TYPES = {"PSF": 1, "REX": 2, "EXP": 3, "DEV": 4, "SER": 5, "DUP": 6, "COMP": 7, "SIMP": 8}
_POINTLIKE = ("PSF", "DUP")
# NPRIMARY, BRIGHT, SATUR_G/R/Z, ALLMASK_G/R/Z, MEDIUM, SATUR_I, ALLMASK_I.
_UNCLEAN_BITS = sum(1 << bit for bit in (0, 1, 2, 3, 4, 5, 6, 7, 11, 14, 15))
# Bits of release, brick and object in an identifier: the layout of DESI's TARGETID.
_OBJECT_BITS, _BRICK_BITS, _RELEASE_BITS = 22, 20, 16
_GAIA_EPOCHS = {"G1": 2015.0, "G2": 2015.5, "GE": 2016.0, "G3": 2016.0}
_PER_BAND = ("FLUX", "FLUX_IVAR", "MW_TRANSMISSION", "NOBS", "PSFSIZE")
_SHAPE_PARTS = ("R", "E1", "E2")
_DECLARED = {declared.name: declared for declared in LEGACYSURVEY.modalities}


def extended(
    bands: Sequence[str] = BANDS, z_limit: float = 21.0, *, dereddened: bool = True
) -> Callable[[Columns], np.ndarray]:
    """Make a selection of extended sources, observed in all bands, brighter than a limit in z.

    Parameters
    ----------
    bands : sequence of str
        Bands that must have been observed at the position (``NOBS > 0``).
    z_limit : float
        AB magnitude in z that an object must be brighter than.
    dereddened : bool
        Whether the magnitude is corrected for Galactic extinction with ``MW_TRANSMISSION_Z``. A
        flux that is not positive has no magnitude and does not pass.

    Returns
    -------
    callable
        For `Selection` or `read`. Besides the cuts above it keeps primary objects only and none
        that are masked: ``MASKBITS`` of NPRIMARY, BRIGHT, MEDIUM, SATUR and ALLMASK in any band.
    """

    def keep(columns: Columns) -> np.ndarray:
        flux = np.asarray(columns["FLUX_Z"], dtype=np.float64)
        if dereddened:
            through = np.asarray(columns["MW_TRANSMISSION_Z"], dtype=np.float64)
            flux = np.where(through > 0, flux, 0.0) / np.where(through > 0, through, 1.0)
        kept = flux > 10 ** (0.4 * (22.5 - z_limit))
        kept &= ~np.isin(columns["TYPE"], _POINTLIKE)
        kept &= (columns["MASKBITS"].astype(np.int64) & _UNCLEAN_BITS) == 0
        for band in bands:
            kept &= columns[f"NOBS_{band.upper()}"] > 0
        if "BRICK_PRIMARY" in columns:
            kept &= columns["BRICK_PRIMARY"].astype(bool)
        return kept

    return keep


SELECTIONS: dict[str, Selection] = {
    selection.name: selection
    for selection in (
        Selection(
            "extended_griz_z21",
            "Extended sources with g, r, i and z, de-reddened z < 21, primary and unmasked (DR10)",
            extended(),
        ),
        Selection(
            "extended_griz_z21_observed",
            "As extended_griz_z21, but z as observed, not corrected for extinction",
            extended(dereddened=False),
        ),
        Selection(
            "extended_grz_z21",
            "As extended_griz_z21 without i, which DR9 and earlier do not have",
            extended(("g", "r", "z")),
        ),
    )
}


def read(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    selection: str | Selection | Callable[[Columns], np.ndarray] | None = None,
    problems: Problems | None = None,
    batch_size: int = 256,
    group_by: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    trusted: bool = False,
    surroundings: bool = False,
) -> Iterator[SkyObjects]:
    """Read tractor or sweep tables, or target tables made from them.

    Parameters
    ----------
    paths : path or sequence of paths
        FITS tables of DR6 or later.
    selection : str, Selection or callable, optional
        One of `SELECTIONS`, or a function of the columns, by their names in upper case. Without
        it every row is read, those outside of the primary area of their brick as well.
    problems, batch_size, group_by, trusted
        As in `omnisky.surveys.catalog.stream`.
    surroundings : bool
        Whether to add what lies about each object: ``legacysurvey_catalog`` and
        ``legacysurvey_segmentation``, from all sources in the same file, selected or not (see
        `omnisky.surveys.legacysurvey.neighbours`).

    Yields
    ------
    SkyObjects
        With the same modalities for every release; what a release lacks is absent. Identifiers are
        ``RELEASE << 42 | BRICKID << 22 | OBJID``: unique in all releases, and the TARGETID of DESI
        targets. The epoch is that of Gaia for sources placed by Gaia, else the middle of the
        observations, where the release tells it.

    Raises
    ------
    ValueError
        If a file is damaged or not such a table, or a row has a problem and `problems` raises.
    """
    only = partial(
        stream,
        FORMAT,
        selection=Selection.choose(selection, SELECTIONS),
        problems=problems,
        batch_size=batch_size,
        group_by=group_by,
        trusted=trusted,
    )
    if not surroundings:
        return only(paths)
    from omnisky.surveys.legacysurvey.neighbours import with_surroundings

    return chain.from_iterable(with_surroundings(only, p, trusted) for p in paths_of(paths))


def _identify(columns: Columns) -> np.ndarray:
    """Compose one number of release, brick and object."""
    identifier = np.zeros(len(columns["OBJID"]), dtype=np.int64)
    for name, bits in (
        ("RELEASE", _RELEASE_BITS),
        ("BRICKID", _BRICK_BITS),
        ("OBJID", _OBJECT_BITS),
    ):
        part = np.asarray(columns[name], dtype=np.int64)
        wrong = (part < 0) | (part >= 1 << bits)
        if wrong.any():
            raise ValueError(
                f"column {name}: {part[wrong][0]} does not fit into {bits} bits, so no identifier "
                "can be made. The column is damaged, or of another kind"
            )
        identifier = identifier << bits | part
    return identifier


def _objects(columns: Columns, identifiers: np.ndarray) -> SkyObjects:
    """Make typed objects of rows."""
    count = len(identifiers)
    nothing = np.zeros(count)

    def of(name: str) -> np.ndarray:
        return columns.get(name, nothing)

    measured: dict[str, Scalar] = {}
    for band in (*BANDS, *WISE_BANDS):
        # Not observed is a flux of 0 with an inverse variance of 0.
        flux, ivar = of(f"FLUX_{band.upper()}"), of(f"FLUX_IVAR_{band.upper()}")
        measured[f"flux_{band}"] = _scalar(f"flux_{band}", flux, ivar, ivar > 0)
    kinds = columns.get("TYPE", np.full(count, ""))
    measured |= _shapes(columns, kinds)
    measured["ebv"] = _scalar("ebv", of("EBV"), None, np.full(count, "EBV" in columns))
    codes = np.array([TYPES.get(kind, 0) for kind in kinds.tolist()], dtype=np.float64)
    measured["type"] = _scalar("type", codes, None, codes > 0)
    for band in BANDS:
        size = of(f"PSFSIZE_{band.upper()}")
        measured[f"psfsize_{band}"] = _scalar(f"psfsize_{band}", size, None, size > 0)
    pm_ra, pm_dec = (_motion(of(n), of(f"{n}_IVAR")) for n in ("PMRA", "PMDEC"))
    return SkyObjects(
        survey="legacysurvey",
        object_id=identifiers,
        ra_deg=columns["RA"],
        dec_deg=columns["DEC"],
        observations=Observations({f"legacysurvey_{k}": m for k, m in measured.items()}),
        epoch=_epoch(columns, count),
        pm_ra=pm_ra,
        pm_dec=pm_dec,
    )


def _scalar(name: str, values: np.ndarray, ivar: np.ndarray | None, known: np.ndarray) -> Scalar:
    return scalar_of(_DECLARED[f"legacysurvey_{name}"], values, ivar=ivar, known=known)


def _motion(values: np.ndarray, ivar: np.ndarray) -> Scalar:
    """Return proper motions, known where their inverse variance is positive."""
    good = np.isfinite(values) & np.isfinite(ivar) & (ivar > 0)
    return Scalar(values, np.where(good, ivar, 0.0), good)


def _shapes(columns: Columns, kinds: np.ndarray) -> dict[str, Scalar]:
    """Return the shape of each galaxy, where its model has one."""
    if "SHAPE_R" in columns:  # since DR9
        source = np.where(np.isin(kinds, ("REX", "EXP", "DEV", "SER")), "SHAPE", "")
    else:  # one shape a profile; a composite model has two, and so none of its own
        source = np.where(np.isin(kinds, ("REX", "EXP", "SIMP")), "SHAPEEXP", "")
        source = np.where(kinds == "DEV", "SHAPEDEV", source)
    found: dict[str, Scalar] = {}
    for part in _SHAPE_PARTS:
        value, ivar = np.zeros(len(kinds)), np.zeros(len(kinds))
        good = np.zeros(len(kinds), dtype=bool)
        for stem in ("SHAPE", "SHAPEEXP", "SHAPEDEV"):
            given = columns.get(f"{stem}_{part}")
            if given is None:
                continue
            here = (source == stem) & np.isfinite(given)
            value[here], good[here] = given[here], True
            # REX models are round by definition: their ellipticity is 0, and has no error.
            if f"{stem}_{part}_IVAR" in columns:
                ivar[here] = columns[f"{stem}_{part}_IVAR"][here]
        found[f"shape_{part.lower()}"] = _scalar(f"shape_{part.lower()}", value, ivar, good)
    return found


def _epoch(columns: Columns, count: int) -> Scalar:
    """Return the epoch of each position in Julian years."""
    years = np.zeros(count)
    if "MJD_MIN" in columns and "MJD_MAX" in columns:
        middle = (columns["MJD_MIN"] + columns["MJD_MAX"]) / 2
        observed = np.isfinite(middle) & (columns["MJD_MIN"] > 0)
        years[observed] = 2000.0 + (middle[observed] - 51544.5) / 365.25
    if "REF_CAT" in columns:
        for catalog, year in _GAIA_EPOCHS.items():
            years[columns["REF_CAT"] == catalog] = year
    if "REF_EPOCH" in columns:
        reference = np.asarray(columns["REF_EPOCH"], dtype=np.float64)
        years = np.where(np.isfinite(reference) & (reference > 0), reference, years)
    return Scalar(years, mask=years > 0)


FORMAT = CatalogFormat(
    required=("RELEASE", "BRICKID", "OBJID", "RA", "DEC"),
    optional=(
        "TYPE",
        "BRICK_PRIMARY",
        "MASKBITS",
        "EBV",
        *(f"{k}_{b.upper()}" for k in _PER_BAND[:2] for b in (*BANDS, *WISE_BANDS)),
        *(f"{k}_{b.upper()}" for k in _PER_BAND[2:] for b in BANDS),
        *(
            f"{stem}_{part}{end}"
            for stem in ("SHAPE", "SHAPEEXP", "SHAPEDEV")
            for part in _SHAPE_PARTS
            for end in ("", "_IVAR")
        ),
        *("PMRA", "PMDEC", "PMRA_IVAR", "PMDEC_IVAR"),
        *("REF_CAT", "REF_EPOCH", "MJD_MIN", "MJD_MAX"),
    ),
    ra="RA",
    dec="DEC",
    identify=_identify,
    objects=_objects,
    # Target files rename columns of the sweeps.
    aliases={"BRICK_OBJID": "OBJID", "MORPHTYPE": "TYPE"},
    text=("TYPE", "REF_CAT"),
    units={
        "RA": "deg",
        "DEC": "deg",
        "EBV": "mag",
        **{f"FLUX_{band.upper()}": "nmgy" for band in (*BANDS, *WISE_BANDS)},
    },
)
