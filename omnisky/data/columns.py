"""Columns of a user's table: which one holds what, its numbers, its unit."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.table import Table

from omnisky.data.tables import unread_columns
from omnisky.modalities import Modality

__all__ = ["UserColumns", "some"]


@dataclass(frozen=True)
class UserColumns:
    """Read columns of a table by what they hold.

    Parameters
    ----------
    table : astropy.table.Table
        One row an object.
    given : mapping of str to str
        Column by purpose (``gaia_g``, ``gaia_xp_error``, ``gaia_xp_wavelength``), as the user says.
    """

    table: Table
    given: Mapping[str, str]

    def find(self, purpose: str, *candidates: str | None) -> str | None:
        """Return the one column for a purpose: as given, else by name, case ignored.

        Raises
        ------
        ValueError
            If several columns could be meant.
        """
        if purpose in self.given:
            return self.given[purpose]
        wanted = {c.lower() for c in candidates if c}
        taken = set(self.given.values())
        found = [c for c in self.table.colnames if c.lower() in wanted and c not in taken]
        if len(found) > 1:
            raise ValueError(
                f"the columns {', '.join(found)} could all be {purpose}; keep one of them or say "
                f"which: columns={{{purpose!r}: {found[0]!r}}} (omnisky --column "
                f"{purpose}={found[0]})"
            )
        return found[0] if found else None

    def numbers(self, name: str, *, ndim: int) -> np.ndarray:
        """Return a column as float64, NaN where masked; shape (object,) or (object, pixel).

        Raises
        ------
        ValueError
            If it holds no numbers, or not one number (1) or one vector (2) a row.
        """
        given = np.ma.asarray(self.table[name])
        if given.dtype.kind == "O" and ndim == 2:
            given = _stack(given, name)
        if given.dtype.kind not in "fiu" and np.ma.getmaskarray(given).all():
            given = np.ma.masked_all(given.shape)  # an empty CSV column has no type
        if given.dtype.kind not in "fiu":
            found = "text" if given.dtype.kind in "US" else given.dtype.name
            raise ValueError(
                f"column {name!r} holds {found}, expected numbers; vectors need a format "
                "that has them (Parquet, FITS, VOTable, ECSV)"
            )
        if given.ndim != ndim:
            expected = "one number a row" if ndim == 1 else "a vector a row"
            raise ValueError(
                f"column {name!r} has shape {given.shape}, expected {expected}; rename it if it is "
                "something else, or name the right one with columns={...} (omnisky --column)"
            )
        return np.ma.filled(given.astype(np.float64), np.nan)

    def values(self, declared: Modality, name: str, at_nm: np.ndarray | None = None) -> np.ndarray:
        """Return a column in the unit of a modality; flux densities may convert by wavelength."""
        values = self.numbers(name, ndim=1 if declared.kind == "scalar" else 2)
        return _convert(values, self.table[name].unit, declared, name, at_nm)

    def errors(
        self, declared: Modality, column: str, at_nm: np.ndarray | None = None
    ) -> np.ndarray | None:
        """Return the 1-sigma errors of a measurement in its modality's unit, NaN where unknown.

        Returns None where the table has none. Errors without a unit are in that of their values.

        Raises
        ------
        ValueError
            If an error is negative, or zero for a pixel of a spectrum, or has the wrong unit.
        """
        name = self._error_column(declared, column)
        if name is None:
            return None
        scalar = declared.kind == "scalar"
        error = self.numbers(name, ndim=1 if scalar else 2)
        # Catalogues write 0 for an unknown error of a number; a pixel without noise is a mistake.
        wrong = error < 0 if scalar else error <= 0
        if wrong.any():
            where = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"column {name!r}: {wrong.sum()} errors are not positive, the first in row "
                f"{where[0]}{'' if scalar else f', pixel {where[1]}'} ({error[tuple(where)]:g}); "
                "give 1-sigma errors, masked or NaN where unknown"
            )
        unit = self.table[name].unit or self.table[column].unit
        return _convert(error, unit, declared, name, at_nm)

    def _error_column(self, declared: Modality, column: str) -> str | None:
        stems = {declared.name, column}
        return self.find(
            f"{declared.name}_error",
            *(f"{stem}{end}" for stem in stems for end in ("_error", "_err")),
            f"e_{column}",
            declared.error_column,
        )

    def check_given(self, purposes: Mapping[str, Modality]) -> None:
        """Refuse a mapping to a column that is not there, or to one column twice."""
        for purpose, column in self.given.items():
            if purpose.endswith("_wavelength") and purposes[purpose].kind == "scalar":
                raise ValueError(f"{purpose!r}: a scalar has no wavelengths; leave it out")
            if column not in self.table.colnames:
                raise ValueError(self.missing(column, purpose))
            twice = [p for p, c in self.given.items() if c == column]
            if len(twice) > 1:
                raise ValueError(
                    f"column {column!r} is given for {' and '.join(twice)}; a column holds one "
                    "thing"
                )

    def missing(self, column: str, purpose: str) -> str:
        """Say that a column is not there, with the nearest name that is."""
        if column in (unread := unread_columns(self.table)):
            return (
                f"{purpose}: column {column!r} of the file holds {unread[column]}, which no table "
                "column can hold; rewrite it as one number or one vector of fixed length a row"
            )
        near = difflib.get_close_matches(column, self.table.colnames, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {some(self.table.colnames)}"
        return f"{purpose}: the table has no column {column!r}; {hint}"


def some(names: Sequence[str]) -> str:
    """Return the first names and how many more there are."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _stack(given: np.ndarray, name: str) -> np.ndarray:
    """Make one array of a column whose rows are vectors of their own."""
    lengths = sorted({np.size(row) for row in given})
    if len(lengths) > 1:
        raise ValueError(
            f"column {name!r} holds vectors of {lengths[0]} to {lengths[-1]} elements; every row "
            "needs the same number"
        )
    try:
        return np.ma.stack([np.ma.asarray(row, dtype=np.float64) for row in given])
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} holds something else than numbers: {error}") from error


def _convert(
    values: np.ndarray, unit: object, declared: Modality, name: str, at_nm: np.ndarray | None
) -> np.ndarray:
    expected = u.Unit(declared.unit)
    if unit is None or unit in (u.dimensionless_unscaled, expected):
        return values
    relations = [] if at_nm is None else u.spectral_density(at_nm * u.nm)
    try:
        return u.Unit(unit).to(expected, values, equivalencies=relations)
    except (u.UnitsError, TypeError, ValueError) as error:
        raise ValueError(
            f"column {name!r}: its unit {str(unit)!r} cannot be converted to {declared.unit!r}, "
            f"the unit of {declared.name}; correct the unit or convert the values first"
        ) from error
