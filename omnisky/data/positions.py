"""Find out who and where the objects of a user's table are, and read them as sky objects."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table

from omnisky.data.columns import UserColumns, some
from omnisky.data.tables import read_table
from omnisky.data.usertable import observations_from_table, recognise
from omnisky.modalities import Modality, Observations, Scalar, SkyObjects
from omnisky.surveys import modalities
from omnisky.surveys.survey import Problems

__all__ = ["SURVEY", "Places", "TableColumns", "declarations_of", "places_of", "read"]

# What objects of a user's table say as their survey.
SURVEY = "table"
_IDS = ("object_id", "source_id", "targetid", "specobjid", "id", "designation", "name")
_PAIRS = (
    ("ra", "dec"),
    ("ra_deg", "dec_deg"),
    ("ra_icrs", "de_icrs"),
    ("raj2000", "dej2000"),
    ("raj2000", "decj2000"),
    ("_raj2000", "_dej2000"),
    ("alpha_j2000", "delta_j2000"),
    ("target_ra", "target_dec"),
    ("plug_ra", "plug_dec"),
)
_MOTIONS = (("pmra", "pmdec"), ("pm_ra", "pm_dec"), ("pmra", "pmde"))
_EPOCHS = ("ref_epoch", "epoch")
# Names of columns that a store has anyway, and of what it makes of others.
_RESERVED = {"object_id", "ra", "dec", "epoch", "pm_ra", "pm_dec", "_healpix_29"}


@dataclass(frozen=True, kw_only=True)
class TableColumns:
    """Say which columns of a table hold what.

    Parameters
    ----------
    ra, dec : str, optional
        Columns of the ICRS position, both or none; found by usual names without them.
    identifier : str, optional
        Column that identifies objects; found by usual names without it.
    measured : mapping of str to str
        Column by modality, as `omnisky.observations_from_table` takes it.
    keep : tuple of str
        Columns of numbers that no survey declares, to keep as they are.
    resample : bool
        Interpolate spectra on another wavelength grid to the one of their modality.
    """

    ra: str | None = None
    dec: str | None = None
    identifier: str | None = None
    measured: Mapping[str, str] | None = None
    keep: tuple[str, ...] = ()
    resample: bool = False


@dataclass(frozen=True)
class Places:
    """Hold who and where objects are.

    Parameters
    ----------
    object_id : array of int64 or str, shape (object,)
        Identifiers; row numbers where the table has none.
    ra_deg, dec_deg : array, shape (object,)
        Positions as given, in degrees; NaN where missing.
    identified : bool
        Whether the identifiers are the table's own.
    """

    object_id: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    identified: bool = True

    def __len__(self) -> int:
        return len(self.object_id)

    def __getitem__(self, index: Any) -> Places:
        """Return some of them."""
        ids, ra, dec = (part[index] for part in (self.object_id, self.ra_deg, self.dec_deg))
        return Places(ids, ra, dec, self.identified)


def places_of(table: Table, columns: TableColumns, where: str | os.PathLike) -> Places:
    """Return who and where the objects of a table are.

    Parameters
    ----------
    table : astropy.table.Table
        One row an object.
    columns : TableColumns
        Which columns hold what.
    where : path
        The file, for messages.

    Raises
    ------
    ValueError
        If columns are not there or not numbers, or a unit is no angle.

    Warns
    -----
    UserWarning
        If positions have the precision of float32.
    """
    names = _pair(table, (columns.ra, columns.dec), where)
    ra, dec = (_angle(table, name, where) for name in names)
    coarse = [name for name in names if table[name].dtype == np.float32]
    if coarse:
        warnings.warn(
            f"{where}: {' and '.join(coarse)} of type float32 put positions up to 0.06 arcsec off",
            stacklevel=2,
        )
    # The same direction, with the right ascension of stores. Twice, since -1e-17 % 360 is 360.
    ra = np.where((ra >= -180) & (ra <= 360), ra % 360.0 % 360.0, ra)
    found, identified = _identifiers(table, columns.identifier, where)
    return Places(found, ra, dec, identified)


def _pair(
    table: Table, asked: tuple[str | None, str | None], where: str | os.PathLike
) -> tuple[str, str]:
    ra, dec = asked
    if (ra is None) != (dec is None):
        raise ValueError(f"give both columns of the position, or none; found {ra} and {dec}")
    if ra is not None and dec is not None:
        for name in (ra, dec):
            if name not in table.colnames:
                raise ValueError(UserColumns(table, {}).missing(name, str(where)))
        return ra, dec
    lower = {name.lower(): name for name in reversed(table.colnames)}
    for pair in _PAIRS:
        if set(pair) <= set(lower):
            return lower[pair[0]], lower[pair[1]]
    raise ValueError(
        f"{where} has no columns ra and dec, or others by which positions are known, among "
        f"{some(table.colnames)}; name them (omnisky --ra COLUMN --dec COLUMN)"
    )


def _angle(table: Table, name: str, where: str | os.PathLike) -> np.ndarray:
    try:
        values = UserColumns(table, {}).numbers(name, ndim=1)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; positions are numbers of degrees") from error
    return _in_unit(values, table[name].unit, "deg", f"{where}: column {name!r}")


def _in_unit(values: np.ndarray, unit: Any, wanted: str, what: str) -> np.ndarray:
    """Return values in a unit; those without one are in it already."""
    if unit is None:
        return values
    try:
        return u.Unit(unit).to(wanted, values)
    except (u.UnitsError, TypeError, ValueError) as error:
        raise ValueError(
            f"{what}: its unit {str(unit)!r} cannot be converted to {wanted}; correct it"
        ) from error


def _identifiers(
    table: Table, asked: str | None, where: str | os.PathLike
) -> tuple[np.ndarray, bool]:
    if asked is not None and asked not in table.colnames:
        raise ValueError(UserColumns(table, {}).missing(asked, f"{where}: identifier"))
    lower = {name.lower(): name for name in reversed(table.colnames)}
    name = asked or next((lower[n] for n in _IDS if n in lower), None)
    if name is None:
        return np.arange(len(table)), False
    column = np.ma.asarray(table[name])
    values, missing = np.ma.getdata(column), np.ma.getmaskarray(column)
    if values.dtype.kind == "U":
        missing = missing | (values == "")
    if values.ndim != 1 or values.dtype.kind not in "iuU" or missing.any():
        found = f"{missing.sum()} are missing" if missing.any() else f"found {values.dtype}"
        raise ValueError(
            f"{where}: identifiers in column {name!r} must be whole numbers or text, one a row; "
            f"{found}. Name another column (omnisky --id COLUMN)"
        )
    if values.dtype.kind == "u" and len(values) and values.max() > np.iinfo(np.int64).max:
        values = values.astype(str)  # as SPECOBJID, which does not fit into a signed integer
    return values, True


def declarations_of(table: Table, keep: Sequence[str], where: str) -> dict[str, Modality]:
    """Declare columns of a table that no survey declares, with their units and descriptions.

    Raises
    ------
    ValueError
        If a column is not there, holds vectors or text, or its name means something else.
    """
    declared: dict[str, Modality] = {}
    for name in keep:
        if name not in table.colnames:
            raise ValueError(UserColumns(table, {}).missing(name, f"{where}: to keep"))
        if name in modalities() or name in _RESERVED or "." in name:
            raise ValueError(
                f"{where}: column {name!r} cannot be kept under this name, which has a meaning of "
                "its own (omnisky info); rename it"
            )
        UserColumns(table, {}).numbers(name, ndim=1)
        column = table[name]
        declared[name] = Modality(
            name=name,
            kind="scalar",
            survey=SURVEY,
            unit="" if column.unit is None else str(column.unit),
            ucd=str(column.meta.get("ucd", "")),
            column=name,
            description=column.description or f"Column {name} of a user's table",
        )
    return declared


def read(
    path: str | os.PathLike,
    *,
    columns: TableColumns | None = None,
    identified: bool = False,
    problems: Problems | None = None,
    batch_size: int = 4096,
) -> Iterator[SkyObjects]:
    """Read a table of one's own: positions, identifiers, and what omnisky recognises.

    The whole table is held in memory. Proper motions (pmra, pmdec in mas / yr) and epochs
    (ref_epoch or epoch, a Julian year) are taken where they are there.

    Parameters
    ----------
    path : path
        Parquet, FITS, VOTable, ECSV or CSV.
    columns : TableColumns, optional
        Which columns hold what; by their names without it.
    identified : bool
        Whether a table without identifiers is refused; otherwise objects get their row numbers.
    problems : Problems, optional
        Takes rows without a position and repeated identifiers; without it the first is raised.
    batch_size : int
        Objects to yield at a time.

    Yields
    ------
    SkyObjects
        Of the survey ``"table"``.

    Raises
    ------
    ValueError
        If the table cannot be read, or has no positions or nothing to store.
    """
    columns = TableColumns() if columns is None else columns
    problems = Problems() if problems is None else problems
    with problems.whole_file(path):
        table = read_table(path)
        places = places_of(table, columns, path)
        if identified and not places.identified:
            raise ValueError(
                f"{path} has no column that identifies its objects among {some(table.colnames)}; "
                "several tables need one (omnisky --id COLUMN)"
            )
        observations = _observations(table, columns, path)
        moving = _moving(table, path)
        kept = problems.placed(path, places.object_id, places.ra_deg, places.dec_deg)
        for start in range(0, len(table), batch_size):
            rows = start + np.flatnonzero(kept[start : start + batch_size])
            if len(rows):
                yield SkyObjects(
                    survey=SURVEY,
                    object_id=places.object_id[rows],
                    ra_deg=places.ra_deg[rows],
                    dec_deg=places.dec_deg[rows],
                    observations=observations[rows],
                    **{name: scalar[rows] for name, scalar in moving.items()},
                )


def _observations(table: Table, columns: TableColumns, where: str | os.PathLike) -> Observations:
    """Return what surveys declare, and what the user wants to keep."""
    measured: dict[str, Any] = {}
    if recognise(table, columns.measured):
        measured |= observations_from_table(table, columns.measured, resample=columns.resample)
    for name in columns.keep:
        measured[name] = Scalar(UserColumns(table, {}).numbers(name, ndim=1))
    if not measured:
        raise ValueError(
            f"{where} has nothing to store: no column of any modality among "
            f"{some(table.colnames)}. Say what a column is (omnisky --column gaia_g=mycolumn) or "
            "keep it as it is (omnisky --keep mycolumn)"
        )
    return Observations(measured)


def _moving(table: Table, where: str | os.PathLike) -> dict[str, Scalar]:
    """Return epoch and proper motions, those that the table has."""
    lower = {name.lower(): name for name in reversed(table.colnames)}
    found: dict[str, Scalar] = {}
    pair = next((p for p in _MOTIONS if set(p) <= set(lower)), ())
    for name, given in zip(("pm_ra", "pm_dec"), pair, strict=False):
        column = lower[given]
        values = UserColumns(table, {}).numbers(column, ndim=1)
        what = f"{where}: column {column!r}"
        found[name] = Scalar(_in_unit(values, table[column].unit, "mas / yr", what))
    name = next((lower[n] for n in _EPOCHS if n in lower), None)
    if name is not None:
        years = UserColumns(table, {}).numbers(name, ndim=1)
        wrong = np.isfinite(years) & ~((years > 1800) & (years < 2300))
        if wrong.any():
            raise ValueError(
                f"{where}: column {name!r} must hold Julian years such as 2016.0; found "
                f"{years[wrong][0]:g} in row {int(np.argmax(wrong))}. Convert or rename it"
            )
        found["epoch"] = Scalar(years)
    return found
