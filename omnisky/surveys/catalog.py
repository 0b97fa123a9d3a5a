"""How do rows come out of a survey's catalogue files? Chosen, checked, in order, a batch at a time.

A survey states the columns of its tables in a :class:`CatalogFormat`; :func:`stream` does the
rest. A file is read twice: once for what a selection and a place on the sky need, once for the
rows that stay. What is held in memory grows with 24 bytes a chosen row, not with the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.modalities import SkyObjects
from omnisky.surveys.fits import checked, columns_of, open_fits, table_of, unit_is
from omnisky.surveys.survey import Problems, Selection

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["CatalogFormat", "Columns", "paths_of", "stream"]

Columns = Mapping[str, np.ndarray]
_CHUNK_ROWS = 65536


@dataclass(frozen=True, kw_only=True)
class CatalogFormat:
    """State how a survey's tables are read.

    Parameters
    ----------
    required, optional : tuple of str
        Columns that must be there, and those to take where they are; the names the survey's other
        functions use. Case is ignored in the file.
    ra, dec : str
        The columns of the position, among `required`.
    identify : callable
        Takes columns, returns identifiers, int64 or str.
    objects : callable
        Takes columns and identifiers, returns the objects.
    aliases : mapping of str to str
        Other names of a column in some releases: name here by name in the file.
    text : tuple of str
        Which of the columns hold text; all others must hold numbers.
    units : mapping of str to str
        Units of columns. A file that states another one is refused.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    ra: str
    dec: str
    identify: Callable[[Columns], np.ndarray]
    objects: Callable[[Columns, np.ndarray], SkyObjects]
    aliases: Mapping[str, str] = field(default_factory=dict)
    text: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)


def stream(
    layout: CatalogFormat,
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    selection: Selection,
    problems: Problems | None = None,
    batch_size: int = 256,
    group_by: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    trusted: bool = False,
) -> Iterator[SkyObjects]:
    """Yield the objects of catalogue files, batch by batch.

    Parameters
    ----------
    layout : CatalogFormat
        How the tables are read.
    paths : path or sequence of paths
        FITS tables.
    selection : Selection
        Which rows to keep.
    problems : Problems, optional
        Takes rows without a position or with an identifier twice, and files that cannot be read;
        without it the first one is raised.
    batch_size : int
        Objects a batch, at most.
    group_by : callable, optional
        Takes right ascensions and declinations in degrees, returns one integer an object. Objects
        of a file then come in the order of these, and no batch holds two of them.
    trusted : bool
        Whether the limits for files from outside do not apply.

    Yields
    ------
    SkyObjects
        In the order of files and rows, or of groups.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is damaged, lacks a column, or gives it in an unknown unit or type.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; found {batch_size}")
    problems = problems if problems is not None else Problems()
    for path in paths_of(paths):
        with problems.whole_file(path), open_fits(path, trusted=trusted) as opened:
            table = _Table(layout, opened, path)
            rows, groups = _choose(table, selection, problems, group_by)
            for some in _batches(rows, groups, batch_size):
                columns = table.read(some)
                yield layout.objects(columns, layout.identify(columns))


def paths_of(paths: str | os.PathLike | Sequence[str | os.PathLike]) -> list[str | os.PathLike]:
    """Return a list of paths, of one or several; raises `ValueError` if there are none."""
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not several:
        raise ValueError("no files were given; name at least one")
    return several


def _batches(rows: np.ndarray, groups: np.ndarray, size: int) -> Iterator[np.ndarray]:
    edges = np.flatnonzero(np.diff(groups)) + 1
    for part in np.split(rows, edges):
        for start in range(0, len(part), size):
            yield part[start : start + size]


def _choose(
    table: _Table,
    selection: Selection,
    problems: Problems,
    group_by: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to read, in order, and their groups."""
    layout = table.layout
    parts: list[tuple[np.ndarray, ...]] = []
    for start in range(0, table.length, _CHUNK_ROWS):
        chunk = slice(start, min(start + _CHUNK_ROWS, table.length))
        columns = table.read(chunk)
        try:
            kept = selection(columns, chunk.stop - chunk.start)
        except ValueError as error:
            raise ValueError(f"{table.path}: {error}") from error
        identifiers = layout.identify({k: v[kept] for k, v in columns.items()})
        rows = start + np.flatnonzero(kept)
        parts.append((rows, identifiers, columns[layout.ra][kept], columns[layout.dec][kept]))
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    rows, identifiers, ra, dec = (np.ma.concatenate(p) for p in zip(*parts, strict=True))
    rows = np.asarray(rows)
    placed = problems.placed(table.path, np.asarray(identifiers), ra, dec, rows=rows)
    rows, ra, dec = rows[placed], np.asarray(ra)[placed], np.asarray(dec)[placed]
    groups = np.zeros(len(rows), dtype=np.int64)
    if group_by is not None and len(rows):
        groups = np.asarray(group_by(ra, dec))
        order = np.argsort(groups, kind="stable")
        rows, groups = rows[order], groups[order]
    return rows, groups


class _Table:
    """Read columns of one open table under the names of its format."""

    def __init__(self, layout: CatalogFormat, opened: HDUList, path: str | os.PathLike) -> None:
        self.layout, self.opened, self.path = layout, opened, path
        tables = [hdu for hdu in checked(opened).hdus if hdu.kind == "table"]
        if not tables:
            raise ValueError(
                f"{path} holds no table; expected one with the columns "
                f"{', '.join(layout.required)}. It may be an image: give it as such"
            )
        self.number, self.length = tables[0].index, tables[0].shape[0]
        self.names = self._names(columns_of(opened, self.number))

    def _names(self, columns: Mapping[str, str]) -> dict[str, str]:
        """Return the name in the file of each column that is there, its unit checked."""
        layout = self.layout
        there = {name.upper(): name for name in columns}
        wanted = (*layout.required, *layout.optional)
        names = {name: there[name.upper()] for name in wanted if name.upper() in there}
        for other, name in layout.aliases.items():
            if name not in names and other.upper() in there:
                names[name] = there[other.upper()]
        missing = [name for name in layout.required if name not in names]
        if missing:
            raise ValueError(
                f"{self.path}, HDU {self.number}: no column {', '.join(missing)}; found "
                f"{', '.join(columns)}. The table is of another kind, or was cut down: get it with "
                "these columns"
            )
        for name, given in names.items():
            if name in layout.units:
                unit_is(columns[given], layout.units[name], f"{self.path}, column {given}")
        return names

    def read(self, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
        """Return some rows of all columns that are there."""
        picked: Any = rows  # astropy takes row numbers as well as slices
        read = table_of(self.opened, self.number, tuple(self.names.values()), rows=picked)
        columns = {name: read[given] for name, given in self.names.items()}
        for name, values in columns.items():
            textual = values.dtype.kind in "US"
            if textual != (name in self.layout.text):
                raise ValueError(
                    f"{self.path}, column {self.names[name]}: holds "
                    f"{'text' if textual else 'numbers'} ({values.dtype}), expected "
                    f"{'numbers' if textual else 'text'}. It is another kind of table"
                )
        for name in (self.layout.ra, self.layout.dec):
            if columns[name].dtype != np.float64:
                raise ValueError(
                    f"{self.path}, column {self.names[name]}: positions of type "
                    f"{columns[name].dtype} are off by up to 0.06 arcsec. Get the table with "
                    "float64 positions"
                )
        return columns
