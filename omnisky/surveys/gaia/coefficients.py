"""Read the continuous representation of XP spectra as the Gaia archive delivers it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnisky.modalities import Coefficients
from omnisky.surveys.gaia.archive import archive_batches, named
from omnisky.surveys.survey import Problems
from omnisky.surveys.text import Kind

__all__ = ["BASES", "COLUMNS", "XpCoefficients", "arms", "parse", "read_coefficients"]

_ARMS = ("bp", "rp")
_SIZE = 55
_PAIRS = _SIZE * (_SIZE - 1) // 2
# The bases of DR3. Coefficients of another basis mean other spectra.
_DR3_BASES = {"bp": 56, "rp": 57}
_CORRELATIONS: dict[str, Kind] = {f"{arm}_coefficient_correlations": "text" for arm in _ARMS}
BASES: dict[str, Kind] = {f"{arm}_basis_function_id": "int" for arm in _ARMS}
COLUMNS: dict[str, Kind] = {
    f"{arm}_{what}": "text" for arm in _ARMS for what in ("coefficients", "coefficient_errors")
}


@dataclass(frozen=True)
class XpCoefficients:
    """Hold XP coefficients of some sources, with their correlations.

    Parameters
    ----------
    source_id : array of int64, shape (object,)
        Gaia DR3 identifiers.
    coefficients : Coefficients
        55 of BP, then 55 of RP; those of a missing arm are masked.
    correlations : array, shape (object, 2, 1485), optional
        Correlations of BP and of RP coefficients in the order of the archive; NaN where missing.
    """

    source_id: np.ndarray
    coefficients: Coefficients
    correlations: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.source_id)


def arms(coefficients: Coefficients) -> tuple[Coefficients, Coefficients]:
    """Split XP coefficients into the modalities ``gaia_xp_bp`` and ``gaia_xp_rp``.

    Parameters
    ----------
    coefficients : Coefficients
        ``gaia_xp_coefficients``: 55 of BP, then 55 of RP.

    Returns
    -------
    bp, rp : Coefficients
        55 each; an arm that is missing is masked.

    Raises
    ------
    ValueError
        If there are not 110 coefficients.
    """
    size = coefficients.value.shape[1]
    if size != 2 * _SIZE:
        raise ValueError(
            f"XP coefficients are {2 * _SIZE}, {_SIZE} of BP and then as many of RP; found {size}"
        )
    value, ivar, mask = coefficients.value, coefficients.ivar, coefficients.mask
    bp, rp = slice(None, _SIZE), slice(_SIZE, None)
    return (
        Coefficients(value[:, bp], ivar[:, bp], mask[:, bp]),
        Coefficients(value[:, rp], ivar[:, rp], mask[:, rp]),
    )


def read_coefficients(
    path: str | os.PathLike,
    *,
    correlations: bool = True,
    problems: Problems | None = None,
    batch_size: int = 256,
) -> Iterator[XpCoefficients]:
    """Read a table of XP continuous spectra (``XP_CONTINUOUS_RAW`` or the bulk files).

    Parameters
    ----------
    path : path
        CSV, ECSV or FITS, plain or gzip-compressed.
    correlations : bool
        Whether to read the correlations too, 13 times the numbers.
    problems : Problems, optional
        Takes rows that cannot be read; without it the first is raised.
    batch_size : int
        Sources to hold and yield at a time.

    Raises
    ------
    ValueError
        If the file is damaged or of another kind, or a row has another number of coefficients,
        errors that are not positive, or coefficients of another basis.

    Notes
    -----
    These tables have no positions: `read` joins them to a source table.
    """
    problems = problems or Problems()
    columns: dict[str, Kind] = {"source_id": "int", **COLUMNS}
    if correlations:
        columns.update(_CORRELATIONS)
    batches = archive_batches(
        path,
        columns,
        optional=BASES,
        units={},
        problems=problems,
        batch_rows=batch_size,
    )
    for rows, table in batches:
        kept = named(path, rows, table["source_id"], problems)
        rows, table = rows[kept], {name: values[kept] for name, values in table.items()}
        coefficients, good = parse(path, rows, table, problems)
        pairs = None
        if correlations:
            pairs = np.full((len(rows), 2, _PAIRS), np.nan, dtype=np.float32)
            for i, arm in enumerate(_ARMS):
                cells = table[f"{arm}_coefficient_correlations"]
                for j, cell in enumerate(cells):
                    good[j] &= _fill(pairs[j, i], cell, path, rows[j], problems)
            pairs = pairs[good]
        if good.any():
            found = np.asarray(table["source_id"])[good]
            yield XpCoefficients(found, coefficients[good], pairs)


def parse(
    path: str | os.PathLike, rows: np.ndarray, table: Mapping[str, np.ndarray], problems: Problems
) -> tuple[Coefficients, np.ndarray]:
    """Return the coefficients of some rows, and which rows are good; others are reported.

    Parameters
    ----------
    path : path
        The file, for messages.
    rows : array of int, shape (object,)
        Row numbers.
    table : mapping of str to array
        With the columns `COLUMNS`, and perhaps those of the bases.
    problems : Problems
        Takes what is wrong.
    """
    values, errors = np.full((2, len(rows), 2 * _SIZE), np.nan)
    good = np.ones(len(rows), dtype=bool)
    for i, arm in enumerate(_ARMS):
        part = slice(i * _SIZE, (i + 1) * _SIZE)
        for j, row in enumerate(rows):
            good[j] &= _fill(values[j, part], table[f"{arm}_coefficients"][j], path, row, problems)
            cell = table[f"{arm}_coefficient_errors"][j]
            good[j] &= _fill(errors[j, part], cell, path, row, problems)
        good &= _check_basis(path, rows, table, arm, problems)
    wrong = np.isfinite(values) & np.isfinite(errors) & (errors <= 0)
    for j in np.flatnonzero(wrong.any(axis=1) & good):
        problems.report(
            path, int(rows[j]), "an error of a coefficient is not positive", "Correct the errors"
        )
        good[j] = False
    known = np.isfinite(errors) & (errors > 0)
    ivar = np.divide(1.0, errors**2, out=np.zeros_like(errors), where=known)
    return Coefficients(values, ivar, np.isfinite(values)), good


def _check_basis(
    path: str | os.PathLike,
    rows: np.ndarray,
    table: Mapping[str, np.ndarray],
    arm: str,
    problems: Problems,
) -> np.ndarray:
    """Report rows whose coefficients are of another basis; return which are good."""
    given = table.get(f"{arm}_basis_function_id")
    if given is None:
        return np.ones(len(rows), dtype=bool)
    other = np.ma.filled(np.ma.asarray(given) != _DR3_BASES[arm], False)
    for j in np.flatnonzero(other):
        problems.report(
            path,
            int(rows[j]),
            f"{arm}_basis_function_id is {given[j]}, expected {_DR3_BASES[arm]} of Gaia DR3",
            "Coefficients of another basis cannot be used",
        )
    return ~other


def _fill(
    target: np.ndarray, cell: Any, path: str | os.PathLike, row: int, problems: Problems
) -> bool:
    """Write a vector of a table's cell into its place; missing ones leave NaN there."""
    try:
        if isinstance(cell, str):
            # CSV has (1, 2), ECSV has [1,2]; both write null for a missing number.
            inside = cell.strip("()[]{} ").replace("null", "nan")
            numbers = np.array(inside.split(","), dtype=np.float64) if inside else np.empty(0)
        else:
            numbers = np.ma.filled(np.ma.asarray(cell, dtype=np.float64), np.nan)
    except ValueError:
        reason = f"a vector of coefficients holds something else than numbers: {str(cell)[:40]}"
        problems.report(path, int(row), reason, "Fetch the table again")
        return False
    if numbers.size and numbers.shape != target.shape:
        reason = f"a vector holds {numbers.size} numbers, expected {target.size} or none"
        problems.report(path, int(row), reason, "Fetch the table again")
        return False
    if numbers.size:
        target[:] = numbers
    return True
