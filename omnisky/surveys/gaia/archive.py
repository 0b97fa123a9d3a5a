"""Read tables of the Gaia archive a batch of rows at a time, whatever their format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from omnisky.surveys.fits import checked, columns_of, open_fits, table_of, unit_is
from omnisky.surveys.survey import Problems
from omnisky.surveys.text import Kind, text_batches, text_header

__all__ = ["Rows", "archive_batches", "archive_columns", "named"]

# Row numbers and columns by lower-case name.
Rows = tuple[np.ndarray, dict[str, np.ndarray]]


def archive_batches(
    path: str | os.PathLike,
    columns: Mapping[str, Kind],
    *,
    optional: Mapping[str, Kind],
    units: Mapping[str, str],
    problems: Problems,
    batch_rows: int,
) -> Iterator[Rows]:
    """Yield row numbers and columns of a table in CSV, ECSV or FITS, plain or gzip-compressed.

    Parameters
    ----------
    path : path
        The file; its ending names the format.
    columns, optional : mapping of str to {"int", "float", "text"}
        Columns that must be there and those to take where they are. Vectors are "text", which FITS
        gives as arrays.
    units : mapping of str to str
        The unit of a column, where the file states one.
    problems : Problems
        Takes rows that cannot be read.
    batch_rows : int
        Most rows to yield at a time.

    Raises
    ------
    ValueError
        If the ending is unknown, the file is damaged, or a column is absent or in another unit.
    """
    stated = archive_columns(path)
    for name, unit in units.items():
        unit_is(stated.get(name), unit, f"{path}: {name}")
    if _is_text(path):
        yield from text_batches(
            path, columns, optional=optional, problems=problems, batch_rows=batch_rows
        )
        return
    with open_fits(path, lazy=True) as opened:
        length = checked(opened).hdus[1].shape[0]
        for start in range(0, length, batch_rows):
            part = slice(start, min(start + batch_rows, length))
            table = table_of(opened, 1, tuple(columns), optional=tuple(optional), rows=part)
            yield np.arange(part.start, part.stop), table


def archive_columns(path: str | os.PathLike) -> dict[str, str]:
    """Return the columns of a table in lower case and their units, empty where not stated.

    Raises
    ------
    ValueError
        If the ending is unknown or the file is damaged.
    """
    if _is_text(path):
        header = text_header(path)
        return {name.lower(): header.units.get(name, "") for name in header.names}
    with open_fits(path, lazy=True) as opened:
        return {name.lower(): unit for name, unit in columns_of(opened, 1).items()}


def named(
    path: str | os.PathLike, rows: np.ndarray, source_id: np.ndarray, problems: Problems
) -> np.ndarray:
    """Report rows without an identifier; return which have one, shape (object,)."""
    missing = np.ma.getmaskarray(source_id)
    for row in rows[missing]:
        problems.report(path, int(row), "it has no source_id", "Give it its identifier")
    return ~missing


def _is_text(path: str | os.PathLike) -> bool:
    name = Path(path).name.lower().removesuffix(".gz")
    if not name.endswith((".csv", ".ecsv", ".fits", ".fit")):
        raise ValueError(
            f"cannot tell the format of {path}; known endings are .csv, .ecsv and .fits, also with "
            ".gz. Choose one of these when downloading from the archive"
        )
    return name.endswith(("csv", "ecsv"))
