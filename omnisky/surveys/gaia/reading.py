"""Read sources of the Gaia archive, with their XP coefficients where given."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from omnisky.modalities import Coefficients, Observations, Scalar, SkyObjects
from omnisky.surveys.gaia.archive import archive_batches, archive_columns, named
from omnisky.surveys.gaia.coefficients import (
    BASES,
    COLUMNS,
    XpCoefficients,
    parse,
    read_coefficients,
)
from omnisky.surveys.gaia.declarations import (
    COEFFICIENTS,
    FLUXES,
    MAGNITUDES,
    PARALLAX,
    POSITION,
    SELECTIONS,
)
from omnisky.surveys.survey import Problems, Selection, scalar_of
from omnisky.surveys.text import Kind

__all__ = ["objects_of", "read"]

_PLACE: dict[str, Kind] = {"source_id": "int", "ra": "float", "dec": "float"}
_FACTS: dict[str, Kind] = {
    name: "float"
    for name in (
        *("parallax", "parallax_error", "pmra", "pmdec", "ref_epoch", "ruwe"),
        *(f"phot_{band}_mean_mag" for band in MAGNITUDES),
        *(f"phot_{band}_mean_flux_over_error" for band in MAGNITUDES),
        *(f"phot_{band}_mean_flux" for band in FLUXES),
        *(f"phot_{band}_mean_flux_error" for band in FLUXES),
        *(f"{axis}_error" for axis in POSITION),
    )
}
_UNITS = {"ra": "deg", "dec": "deg", "parallax": "mas", "parallax_error": "mas"}
_UNITS |= {"pmra": "mas yr-1", "pmdec": "mas yr-1"}
_UNITS |= {f"phot_{band}_mean_mag": "mag" for band in MAGNITUDES}
_UNITS |= {f"{axis}_error": "mas" for axis in POSITION}
_MAS = 1 / 3.6e6


def read(
    paths: Iterable[str | os.PathLike],
    *,
    coefficients: Sequence[str | os.PathLike] | None = None,
    selection: str | Selection | Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
    problems: Problems | None = None,
    batch_size: int = 256,
) -> Iterator[SkyObjects]:
    """Read source tables of the Gaia archive: CSV, ECSV or FITS, plain or gzip-compressed.

    Parameters
    ----------
    paths : iterable of path
        Tables with source_id, ra and dec; magnitudes, parallax, proper motion and ref_epoch are
        taken where they are there.
    coefficients : sequence of path, optional
        The table of XP coefficients of each source table, joined by source_id: the bulk files of
        the archive come in such pairs. One of them is held in memory at a time. Sources that it
        does not have are without coefficients; coefficients of other sources are no objects.
        Without it, coefficients in the source table itself are taken.
    selection : str, Selection or callable, optional
        Which objects to keep: one of `SELECTIONS`, by default ``"parallax_over_error_10"``;
        ``"all"``; or a function of the columns.
    problems : Problems, optional
        Takes what is wrong; without it the first problem is raised.
    batch_size : int
        Objects to hold and yield at a time.

    Yields
    ------
    SkyObjects
        With parallax, magnitudes, fluxes, XP coefficients, and the position as numbers too;
        positions at ref_epoch.

    Raises
    ------
    ValueError
        If a file is damaged, of another kind, in another unit, or has no positions.
    """
    problems = problems or Problems()
    chosen = Selection.choose(selection, SELECTIONS, default="parallax_over_error_10")
    paths = list(paths)
    if coefficients is not None and len(coefficients) != len(paths):
        raise ValueError(
            f"{len(paths)} source tables but {len(coefficients)} tables of coefficients; give one "
            "each"
        )
    for i, path in enumerate(paths):
        with problems.whole_file(path):
            spectra = None if coefficients is None else _load(coefficients[i], problems)
            yield from _read_one(path, spectra, chosen, problems, batch_size)


def _load(path: str | os.PathLike, problems: Problems) -> XpCoefficients:
    """Return all coefficients of a file, in the order of their identifiers."""
    parts = list(read_coefficients(path, correlations=False, problems=problems, batch_size=4096))
    if not parts:
        raise ValueError(f"{path} has no rows that can be used; expected one a source")
    ids = np.concatenate([part.source_id for part in parts])
    order = np.argsort(ids, kind="stable")
    if (np.diff(ids[order]) == 0).any():
        raise ValueError(f"{path}: a source_id is there twice; keep one row a source")
    value, ivar, mask = (
        np.concatenate([getattr(part.coefficients, name) for part in parts])[order]
        for name in ("value", "ivar", "mask")
    )
    return XpCoefficients(ids[order], Coefficients(value, ivar, mask))


def _read_one(
    path: str | os.PathLike,
    spectra: XpCoefficients | None,
    chosen: Selection,
    problems: Problems,
    batch_size: int,
) -> Iterator[SkyObjects]:
    there = archive_columns(path)
    if set(COLUMNS) <= set(there) and not {"ra", "dec"} <= set(there):
        raise ValueError(
            f"{path} holds XP coefficients but no positions; give it in coefficients, with the "
            "source table of the same stars in paths"
        )
    optional = dict(_FACTS)
    if spectra is None:
        optional.update(COLUMNS | BASES)
    batches = archive_batches(
        path,
        _PLACE,
        optional=optional,
        units=_UNITS,
        problems=problems,
        batch_rows=batch_size,
    )
    for rows, table in batches:
        if np.asarray(table["ra"]).dtype != np.float64:
            raise ValueError(
                f"{path}: ra is {table['ra'].dtype}; expected float64, since float32 degrees are "
                "off by up to 0.05 arcsec. Fetch the table from the archive again"
            )
        kept = chosen(table, len(rows))
        kept[kept] = named(path, rows[kept], table["source_id"][kept], problems)
        rows, table = rows[kept], {name: values[kept] for name, values in table.items()}
        place = (np.asarray(table[name]) for name in _PLACE)
        kept = problems.placed(path, *place, rows=rows)
        if set(COLUMNS) <= set(table):
            own_spectra, good = parse(path, rows, table, problems)
            kept &= good
        else:
            own_spectra = _matched(np.asarray(table["source_id"]), spectra)
        if kept.any():
            table = {name: values[kept] for name, values in table.items()}
            yield objects_of(table, own_spectra[kept])


def _matched(source_id: np.ndarray, spectra: XpCoefficients | None) -> Coefficients:
    """Return the coefficients of some sources, masked where there are none."""
    size = COEFFICIENTS.size or 0
    if spectra is None:
        empty = np.zeros((len(source_id), size))
        return Coefficients(empty, empty, np.zeros(empty.shape, dtype=bool))
    at = np.searchsorted(spectra.source_id, source_id).clip(max=len(spectra) - 1)
    there = spectra.source_id[at] == source_id
    found = spectra.coefficients[at]
    return Coefficients(found.value, found.ivar, found.mask & there[:, None])


def objects_of(table: Mapping[str, np.ndarray], spectra: Coefficients) -> SkyObjects:
    """Make typed objects of rows of a source table.

    Parameters
    ----------
    table : mapping of str to array, shape (object,)
        Columns of the archive, in lower case; source_id, ra and dec must be there.
    spectra : Coefficients
        XP coefficients of the same objects.
    """
    absent = np.full(len(spectra), np.nan)

    def column(name: str) -> np.ndarray:
        return np.ma.filled(np.ma.asarray(table.get(name, absent), dtype=np.float64), np.nan)

    measured: dict[str, Scalar | Coefficients] = {
        COEFFICIENTS.name: spectra,
        PARALLAX.name: scalar_of(PARALLAX, column("parallax"), error=column("parallax_error")),
    }
    for band, declared in MAGNITUDES.items():
        snr = column(f"phot_{band}_mean_flux_over_error")
        # The archive gives the error of the flux; to first order that of the magnitude.
        error = np.divide(2.5 / np.log(10), snr, out=absent.copy(), where=snr > 0)
        measured[declared.name] = scalar_of(declared, column(declared.column), error=error)
    for declared in FLUXES.values():
        error = column(f"{declared.column}_error")
        measured[declared.name] = scalar_of(declared, column(declared.column), error=error)
    for axis, declared in POSITION.items():
        # That of ra is along the great circle; this is one of the coordinate.
        narrow = np.cos(np.radians(column("dec"))) if axis == "ra" else 1.0
        error = column(f"{axis}_error") * _MAS / np.maximum(narrow, 1e-9)
        measured[declared.name] = scalar_of(declared, column(axis), error=error)
    pm_ra, pm_dec, epoch = column("pmra"), column("pmdec"), column("ref_epoch")
    moving = np.isfinite(pm_ra) & np.isfinite(pm_dec)
    return SkyObjects(
        survey="gaia",
        object_id=np.asarray(table["source_id"]),
        ra_deg=column("ra"),
        dec_deg=column("dec"),
        observations=Observations(measured),
        epoch=Scalar(epoch, mask=np.isfinite(epoch)),
        pm_ra=Scalar(pm_ra, mask=moving),
        pm_dec=Scalar(pm_dec, mask=moving),
    )
