"""Turn a user's table into typed observations, and observations into a table.

A column is recognised by the name of a modality (``gaia_g``), by the name it has in its survey's
own table (``phot_g_mean_mag``), or because the user says so. Units are converted at this door;
masked entries and NaN are absent; values that are not physical are masked and reported in one
`UserWarning` with counts. Nothing is guessed beyond that: what is ambiguous is an error.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Column, MaskedColumn, Table

from omnisky.data.columns import UserColumns, some
from omnisky.data.tables import unread_columns
from omnisky.data.wavelength import describe_grid, read_spectrum, same_grid
from omnisky.modalities import Measurement, Modality, Observations, Scalar, Spectrum
from omnisky.surveys import modalities, modality

__all__ = [
    "describe_column",
    "observations_from_table",
    "recognise",
    "table_from_observations",
    "target_column",
    "targets_from_table",
]

# Kinds of measurements that a column of a table holds.
_KINDS = ("scalar", "spectrum")


def observations_from_table(
    table: Table,
    columns: Mapping[str, str] | None = None,
    *,
    names: Sequence[str] | None = None,
    resample: bool = False,
) -> Observations:
    """Read typed observations from a table.

    Parameters
    ----------
    table : astropy.table.Table
        One row an object. Spectra are vector columns, shape (object, pixel).
    columns : mapping of str to str, optional
        Which column holds what, where its name does not say so: ``{"gaia_g": "mymag"}``. Besides a
        modality's name, ``gaia_xp_error`` names its 1-sigma errors and ``gaia_xp_wavelength`` the
        wavelengths of a spectrum. All other modalities are still recognised by name.
    names : sequence of str, optional
        Modalities to read. Without it, all that are found but labels of other pipelines, which are
        read only if named here or in `columns`.
    resample : bool
        Interpolate spectra on another wavelength grid linearly to the grid of the modality; pixels
        outside the coverage or next to a bad pixel are masked. Without it another grid is an error.

    Returns
    -------
    Observations
        The modalities found, in declared order and in the declared units.

    Raises
    ------
    UnknownModalityError
        If `columns` names a modality that no survey declares.
    TypeError
        If it is no astropy table.
    ValueError
        If the table has no rows; if no modality, or not all of `names`, are found; if a column is
        unknown, ambiguous or used twice, has no numbers, an incompatible unit, negative errors, the
        wrong number of pixels or another wavelength grid; if no spectrum overlaps the grid it is to
        be resampled to; if there is not a single good value.

    Warns
    -----
    UserWarning
        If values outside a modality's valid range were masked; says how many in which column. If
        spectra have no pixel left after resampling.

    Notes
    -----
    Values without a unit are taken to be in the unit of the modality, errors without one in the
    unit of their values, wavelengths without one in nm. Resampled errors are propagated as if
    neighbouring pixels were independent.

    Examples
    --------
    >>> from astropy.table import Table
    >>> stars = Table({"phot_g_mean_mag": [12.1, 13.4], "my_j": [10.9, float("nan")]})
    >>> observations_from_table(stars, {"twomass_j": "my_j"})
    Observations(2 objects; present: gaia_g 2, twomass_j 1)
    """
    _check_table(table)
    table = Table(table, copy=False)
    source = UserColumns(table, columns or {})
    measured: dict[str, Measurement] = {}
    outside: list[str] = []
    found = recognise(table, columns, names)
    _check_found(table, names, found)
    for name, column in found.items():
        declared = modality(name)
        if declared.kind == "scalar":
            measured[name] = _scalar(source, declared, column, outside)
        else:
            measured[name] = _spectrum(source, declared, column, outside, resample)
    if not any(m.present.any() for m in measured.values()):
        raise ValueError(
            f"no object has a single good value in {', '.join(measured)}: all are masked, NaN or "
            "outside the valid range; check the columns and their units"
        )
    if outside:
        warnings.warn(
            "values that are not physical were masked: " + "; ".join(outside), stacklevel=2
        )
    return Observations(measured)


def _check_table(table: Any) -> None:
    """Refuse what is no table, and a table without rows."""
    if not isinstance(table, Table):
        if isinstance(table, (str, os.PathLike)):
            remedy = f"omnisky.read_table({os.fspath(table)!r}) reads one from a file"
        elif hasattr(table, "iloc"):
            remedy = "astropy.table.Table.from_pandas(frame) makes one"
        else:
            remedy = "astropy.table.Table(columns by name) makes one"
        raise TypeError(
            f"observations_from_table takes an astropy Table; found {type(table).__name__}: "
            f"{remedy}"
        )
    if len(table) == 0:
        raise ValueError(
            "the table has no rows; give at least one object. Was it cut by a condition that no "
            "row meets?"
        )


def recognise(
    table: Table,
    columns: Mapping[str, str] | None = None,
    names: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return which column of a table holds which modality, without reading the values.

    Parameters
    ----------
    table, columns, names
        As in `observations_from_table`.

    Returns
    -------
    dict of str to str
        Column by modality name; empty if there is none.

    Raises
    ------
    ValueError
        If a column is ambiguous, or `columns` is wrong.
    """
    source = UserColumns(table, columns or {})
    source.check_given({purpose: _modality_of(purpose) for purpose in source.given})
    if names is None:
        held = [d for d in modalities().values() if d.kind in _KINDS]
        names = [d.name for d in held if d.role == "observation"]
        names += [n for n in source.given if n in modalities() and n not in names]
    if wrong := [name for name in names if modality(name).kind not in _KINDS]:
        raise ValueError(
            f"{', '.join(wrong)} cannot be read from a table; images, coefficients, catalogs "
            "and maps come from the survey's files (omnisky ingest)"
        )
    found = {name: source.find(name, name, modality(name).column) for name in names}
    return {name: column for name, column in found.items() if column is not None}


def _check_found(table: Table, names: Sequence[str] | None, found: Mapping[str, str]) -> None:
    """Refuse a table without any modality, or without one of those asked for."""
    held = [d for d in modalities().values() if d.kind in _KINDS]
    wanted = names or [d.name for d in held if d.role == "observation"]
    absent = [name for name in wanted if name not in found]
    if absent and (names or not found):
        expected = ", ".join(f"{name} ({modality(name).column})" for name in absent)
        raise ValueError(
            f"no column of {'any modality' if not names else ', '.join(absent)} among "
            f"{some(table.colnames)}{_left_out(table)}; expected {expected}; name others with "
            "columns={'gaia_g': 'mycolumn'} (omnisky --column gaia_g=mycolumn)"
        )


def _left_out(table: Table) -> str:
    unread = unread_columns(table)
    return f" (left out, as no table can hold them: {some(list(unread))})" if unread else ""


def targets_from_table(table: Table, names: Sequence[str]) -> tuple[np.ndarray, list[Column]]:
    """Read the values to learn: labels of a modality or any numeric column.

    Parameters
    ----------
    table : astropy.table.Table
        One row an object.
    names : sequence of str
        Modality names, their survey's column names, or names of the table's own columns. What is a
        modality is converted to its unit and its unphysical values are unknown.

    Returns
    -------
    values : array, shape (object, target)
        Values, NaN where unknown.
    templates : list of Column
        An empty column a target, with the name asked for, unit, description and UCD.

    Raises
    ------
    ValueError
        If a target is no column of the table, is named twice, or has no known value.
    """
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"name each target once, and at least one; found {', '.join(names)!r}")
    read = [_target(UserColumns(table, {}), name) for name in names]
    return np.stack([values for values, _ in read], axis=1), [template for _, template in read]


def target_column(table: Table, name: str) -> str | None:
    """Return the column that `targets_from_table` reads a target from; None if there is none."""
    return _target_column(UserColumns(table, {}), name, _declared(name))


def _declared(name: str) -> Modality | None:
    """Return the scalar modality that has this name, or whose column at its survey has."""
    scalars = [d for d in modalities().values() if d.kind == "scalar"]
    return next((d for d in scalars if name in (d.name, d.column)), None)


def _target_column(source: UserColumns, name: str, declared: Modality | None) -> str | None:
    # The column may be named by the modality when the survey's name is asked for, and vice versa.
    other = () if declared is None else (declared.name, declared.column)
    return name if name in source.table.colnames else source.find(name, name, *other)


def _target(source: UserColumns, name: str) -> tuple[np.ndarray, Column]:
    declared = _declared(name)
    column = _target_column(source, name, declared)
    if column is None:
        raise ValueError(source.missing(name, f"target {name!r}"))
    if declared is None:
        values = source.numbers(column, ndim=1)
        given = source.table[column]
        template = Column(dtype=float, unit=given.unit, description=given.description)
    else:
        outside: list[str] = []
        measured = _scalar(source, declared, column, outside)
        values = np.where(measured.mask, measured.value, np.nan)
        template = describe_column(Column(dtype=float), declared)
        if outside:
            warnings.warn("unphysical targets are unknown: " + "; ".join(outside), stacklevel=4)
    if not np.isfinite(values).any():
        raise ValueError(f"target {name!r}: column {column!r} has no known value")
    template.name = name
    return values, template


def table_from_observations(
    observations: Observations, object_id: np.ndarray | Sequence, *, id_name: str = "object_id"
) -> Table:
    """Write typed observations into a table that `observations_from_table` reads back.

    Parameters
    ----------
    observations : Observations
        Measurements of declared modalities; spectra on the grid of their modality.
    object_id : array, shape (object,)
        Identifiers, the first column.
    id_name : str
        Name of that column.

    Returns
    -------
    astropy.table.Table
        A column a modality with unit, description and UCD, and ``<modality>_error`` where errors
        are known. Absent scalars are masked, bad pixels are NaN.

    Raises
    ------
    ValueError
        If the number of ids differs, a spectrum is not on its modality's grid, or a measurement is
        of a kind that no table holds.
    """
    if len(object_id) != len(observations):
        raise ValueError(
            f"{len(object_id)} ids for {len(observations)} objects; give one an object"
        )
    table = Table({id_name: np.asarray(object_id)})
    for name, measured in observations.items():
        declared = modality(name)
        if not isinstance(measured, (Scalar, Spectrum)):
            raise ValueError(
                f"{name} is of kind {declared.kind}, which no table holds; write a sky store, or "
                "leave it out with observations.drop(...)"
            )
        known = measured.mask & (measured.ivar > 0)
        error = np.where(known, 1 / np.sqrt(np.where(known, measured.ivar, 1)), np.nan)
        if isinstance(measured, Spectrum):
            if not same_grid(measured.wavelength, declared.wavelength):
                raise ValueError(
                    f"{name}: not on the grid of the modality, {describe_grid(declared)}"
                )
            values = np.where(measured.mask, measured.flux, np.nan)
        else:
            values = np.ma.masked_array(measured.value, ~measured.mask)
            error = np.ma.masked_array(np.where(known, error, 0), ~known)
        table[name] = describe_column(MaskedColumn(values), declared)
        if known.any():
            table[f"{name}_error"] = describe_column(MaskedColumn(error), declared, error=True)
    return table


def describe_column(column: Column, declared: Modality, *, error: bool = False) -> Column:
    """Set unit, description and UCD of a column from its modality; returns the column."""
    column.unit = u.Unit(declared.unit)
    column.description = ("1-sigma error of: " if error else "") + declared.description
    column.meta["ucd"] = f"stat.error;{declared.ucd.split(';')[0]}" if error else declared.ucd
    return column


def _modality_of(purpose: str) -> Modality:
    """Return the modality of a key of a column mapping, such as ``gaia_xp_error``."""
    for end in ("_error", "_wavelength"):
        if purpose.endswith(end) and purpose not in modalities():
            return modality(purpose.removesuffix(end))
    return modality(purpose)


def _physical(
    values: np.ndarray, declared: Modality, column: str, outside: list[str]
) -> np.ndarray:
    """Return where values are finite and physical; add a line to `outside` where some are not."""
    low, high = declared.valid_range
    finite = np.isfinite(values)
    good = finite & (values >= low) & (values <= high)
    if (finite & ~good).any():
        outside.append(
            f"{(finite & ~good).sum()} of {finite.sum()} in column {column!r} ({declared.name} is "
            f"{low:g} to {high:g} {declared.unit})"
        )
    return good


def _scalar(source: UserColumns, declared: Modality, column: str, outside: list[str]) -> Scalar:
    values = source.values(declared, column)
    good = _physical(values, declared, column, outside)
    error = source.errors(declared, column)
    if error is None:
        return Scalar(values, mask=good)
    known = good & np.isfinite(error) & (error > 0)
    return Scalar(values, np.where(known, 1 / np.where(known, error, 1) ** 2, 0), good)


def _spectrum(
    source: UserColumns, declared: Modality, column: str, outside: list[str], resample: bool
) -> Spectrum:
    read = read_spectrum(source, declared, column, resample=resample)
    values = np.where(read.mask, read.flux, np.nan)
    good = _physical(values, declared, column, outside)
    return Spectrum(read.flux, read.ivar, good, read.wavelength)
