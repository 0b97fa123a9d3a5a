"""Read columns of binary tables as plain arrays, straight from the bytes of the file.

astropy makes an object of every column of a table, a tenth of a second for the 236 columns that
stand beside an SDSS spectrum; here only those that are asked for are looked at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.surveys.fits.headers import Hdu
from omnisky.surveys.fits.opening import DAMAGED, CheckedFile, checked
from omnisky.surveys.fits.values import in_units, whole_number

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["columns_of", "table_of"]

# NumPy types by the letter of a column format.
_TYPES = dict(B="u1", I=">i2", J=">i4", K=">i8", E=">f4", D=">f8", C=">c8", M=">c16", L="u1")
_TYPES |= dict(A="S1", X="u1", P=">i4", Q=">i8")


@dataclass(frozen=True)
class _Column:
    """One column, as the header declares it; `scale`, `zero` and `null` as text, or empty."""

    name: str
    unit: str
    letter: str
    repeat: int
    element: str
    offset: int
    dims: tuple[int, ...]
    scale: str
    zero: str
    null: str

    @property
    def stored(self) -> np.dtype:
        """The type of one row."""
        if self.letter in "PQ":
            return np.dtype((_TYPES[self.letter], (2,)))
        if self.letter == "A":
            width = self.dims[-1] if self.dims else self.repeat
            return np.dtype((f"S{width}", self.dims[:-1]) if self.dims else f"S{width}")
        if self.letter == "X":
            return np.dtype(("u1", (-(-self.repeat // 8),)))
        shape = self.dims or (() if self.repeat == 1 else (self.repeat,))
        return np.dtype((_TYPES[self.letter], shape))


def table_of(
    opened: HDUList,
    extension: int | str,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    rows: slice = slice(None),
) -> dict[str, np.ndarray]:
    """Return columns of a binary table as plain arrays.

    Parameters
    ----------
    opened : HDUList
        What `open_fits` gave.
    extension : int or str
        Number or name of the HDU.
    columns : sequence of str
        Columns that must be there, in any case of letters.
    optional : sequence of str
        Columns to take where they are there.
    rows : slice
        The rows to read.

    Returns
    -------
    dict of str to array
        By the names that were asked for, in native byte order; text as `str` without blanks around
        it; integers with a null value as a masked array; vectors of variable length as an array of
        arrays. Copies, valid when the file is closed.

    Raises
    ------
    ValueError
        If the HDU or a column is not there, or is damaged.
    """
    known = checked(opened)
    hdu = known.find(extension)
    there = {column.name.upper(): column for column in _declared(known, hdu)}
    where = f"{known.path}, {hdu.title}"
    missing = [name for name in columns if name.upper() not in there]
    if missing:
        found = ", ".join(column.name for column in there.values())
        raise ValueError(
            f"{where}: no columns {', '.join(missing)}; found {found}. It is another kind of file"
        )
    wanted = [*columns, *(name for name in optional if name.upper() in there)]
    try:
        return {name: _read(known, hdu, there[name.upper()], rows) for name in wanted}
    except (ValueError, OSError) as error:
        raise ValueError(f"{where}: {error}. {DAMAGED}") from error


def columns_of(opened: HDUList, extension: int | str) -> dict[str, str]:
    """Return the columns of a binary table and their units, empty where not stated.

    Raises
    ------
    ValueError
        If the HDU is not there, is no table or has two columns of one name.
    """
    known = checked(opened)
    return {column.name: column.unit for column in _declared(known, known.find(extension))}


def _declared(known: CheckedFile, hdu: Hdu) -> list[_Column]:
    """Return all columns of a table, in order."""
    where = f"{known.path}, {hdu.title}"
    if hdu.kind != "table":
        raise ValueError(f"{where}: expected a table; found {hdu.kind}. It is another kind of file")
    columns, offset = [], 0
    for i in range(1, int(hdu.cards["TFIELDS"]) + 1):
        columns.append(_describe(hdu.cards, i, offset, where))
        offset += columns[-1].stored.itemsize
    if len({column.name.upper() for column in columns}) < len(columns):
        names = ", ".join(column.name for column in columns)
        raise ValueError(f"{where}: two columns have one name; found {names}. {DAMAGED}")
    return columns


def _describe(cards: dict[str, str], i: int, offset: int, where: str) -> _Column:
    name = cards.get(f"TTYPE{i}") or f"COL{i}"
    form = re.match(r"(\d*)([A-Z])([A-Z]?)", cards[f"TFORM{i}"])
    repeat, letter, element = form.groups() if form else ("", "", "")
    length = int(repeat or 1)
    if (letter in "PQ") and (element not in _TYPES or element in "PQX" or length > 1):
        raise ValueError(f"{where}: column {name} has the format {cards[f'TFORM{i}']}. {DAMAGED}")
    dims = tuple(int(n) for n in reversed(re.findall(r"\d+", cards.get(f"TDIM{i}", ""))))
    if letter in "PQX" or math.prod(dims) != length:
        # Allowed to be there for vectors whose length is not fixed; else it is a mistake.
        if dims and letter not in "PQX":
            raise ValueError(
                f"{where}: column {name} has {length} elements, TDIM {dims}. {DAMAGED}"
            )
        dims = ()
    unit = cards.get(f"TUNIT{i}", "")
    rest = (cards.get(f"{key}{i}", "") for key in ("TSCAL", "TZERO", "TNULL"))
    return _Column(name, unit, letter, length, element, offset, dims, *rest)


def _read(known: CheckedFile, hdu: Hdu, column: _Column, rows: slice) -> np.ndarray:
    """Read one column."""
    width, length = int(hdu.cards["NAXIS1"]), hdu.shape[0]
    if not length or not column.repeat:
        shape = (len(range(length)[rows]), *column.stored.shape)
        stored: Any = np.empty(shape, dtype=column.stored.base)
    else:
        layout = np.dtype(
            {
                "names": ["column"],
                "formats": [column.stored],
                "offsets": [column.offset],
                "itemsize": width,
            }
        )
        table = np.memmap(known.plain, dtype=layout, mode="r", offset=hdu.offset, shape=(length,))
        stored = np.array(table["column"][rows])
    if column.letter in "PQ":
        return _vectors(known, hdu, column, stored)
    if column.letter == "A":
        return np.char.strip(np.char.decode(np.char.rstrip(stored, b"\0 "), "ascii"))
    if column.letter == "L":
        return stored == ord("T")
    if column.letter == "X":
        return np.unpackbits(stored, axis=1)[:, : column.repeat].astype(bool)
    null = None
    if stored.dtype.kind in "iu" and column.null:
        null = stored == whole_number(column.null)
    values = in_units(stored, column.scale, column.zero)
    return values if null is None else np.ma.masked_array(values, null)


def _vectors(known: CheckedFile, hdu: Hdu, column: _Column, points: np.ndarray) -> np.ndarray:
    """Read vectors of variable length from the heap, none from outside of it."""
    found = np.empty(len(points), dtype=object)
    element = np.dtype(_TYPES[column.element])
    start = int(hdu.cards.get("THEAP") or int(hdu.cards["NAXIS1"]) * hdu.shape[0])
    size = hdu.nbytes - start
    with open(known.plain, "rb") as file:
        for row, (count, offset) in enumerate(points.astype(np.int64).tolist()):
            if count < 0 or offset < 0 or offset + count * element.itemsize > size:
                raise ValueError(
                    f"column {column.name}, row {row} points to {count} elements at byte {offset} "
                    f"of a heap of {size} bytes"
                )
            file.seek(hdu.offset + start + offset)
            stored = np.frombuffer(file.read(count * element.itemsize), dtype=element)
            if column.element == "L":
                stored = stored == ord("T")
            found[row] = stored.astype(stored.dtype.newbyteorder("="))
    return found
