"""Put native files on the disk, each whole or not at all, and each saying that it is mock.

Headers are made by astropy, once for all units of one kind; data are written as they lie in memory.
A thousand spectra, each with two tables of its own, then take seconds.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = [
    "BLOCK",
    "ORIGIN",
    "cards_of",
    "image",
    "mark",
    "marks",
    "padded",
    "primary",
    "put",
    "table",
]

ORIGIN = "omnisky mock"
BLOCK = 2880
_COMMENTS = {
    "MOCK": "Invented by a simulation, not observed",
    "ORIGIN": "Program that made this file",
    "SEED": "Seed of the mock universe",
}


def marks(seed: int) -> dict[str, Any]:
    """Return what every product of the mock universe says about itself."""
    return {"MOCK": True, "ORIGIN": ORIGIN, "SEED": seed}


def mark(header: Header, seed: int) -> Header:
    """Write into a FITS header that it is mock; returns the header."""
    for key, value in marks(seed).items():
        header[key] = (value, _COMMENTS[key])
    return header


def cards_of(cards: Mapping[str, Any]) -> str:
    """Return header cards as text, 80 letters each."""
    from astropy.io.fits import Header

    return Header(list(cards.items())).tostring(endcard=False, padding=False)


def padded(data: bytes, fill: bytes = b"\0") -> bytes:
    """Return bytes in whole FITS blocks."""
    return data + fill * (-len(data) % BLOCK)


@lru_cache(maxsize=256)
def _primary(seed: int, cards: tuple[tuple[str, Any], ...]) -> bytes:
    from astropy.io import fits

    header = mark(fits.Header(), seed)
    header.update(cards)
    return fits.PrimaryHDU(header=header).header.tostring().encode("ascii")


def primary(seed: int, **cards: Any) -> bytes:
    """Return a primary header-data unit without data, marked as mock."""
    return _primary(seed, tuple((key.upper(), value) for key, value in cards.items()))


@lru_cache(maxsize=256)
def _table_header(columns: tuple[tuple[str, str, str], ...], name: str, seed: int) -> str:
    """Return the header of a table without rows, up to its END."""
    from astropy.io import fits

    made = [fits.Column(name=key, format=form, unit=unit or None) for key, form, unit in columns]
    hdu = fits.BinTableHDU.from_columns(made, name=name or None)
    return mark(hdu.header, seed).tostring(endcard=False, padding=False)


def table(
    columns: Mapping[str, np.ndarray],
    seed: int,
    *,
    name: str = "",
    units: Mapping[str, str] | None = None,
    cards: str = "",
) -> bytes:
    """Return a binary table, marked as mock.

    Parameters
    ----------
    columns : mapping of str to array, shape (object, ...)
        Columns in order.
    seed : int
        Seed of the universe.
    name : str
        EXTNAME; empty for none.
    units : mapping of str to str, optional
        Units of columns, as written.
    cards : str
        More header cards, as `cards_of` returns them.
    """
    stored = {key: _stored(np.asarray(values)) for key, values in columns.items()}
    described = tuple(
        (key, _format(np.asarray(columns[key])), (units or {}).get(key, "")) for key in stored
    )
    dtype = np.dtype([(key, v.dtype, v.shape[1:]) for key, v in stored.items()])
    rows = np.empty(len(next(iter(stored.values()))), dtype=dtype)
    for key, values in stored.items():
        rows[key] = values
    header = _table_header(described, name, seed)
    header = header.replace(f"NAXIS2  = {0:20d}", f"NAXIS2  = {len(rows):20d}", 1)
    return _header(header + cards) + padded(rows.tobytes())


def _header(cards: str) -> bytes:
    return padded((cards + f"{'END':80s}").encode("ascii"), b" ")


_LETTERS = {"b1": "L", "u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D"}


def _format(array: np.ndarray) -> str:
    """Return the FITS format of a column."""
    if array.dtype.kind in "US":
        return f"{_width(array)}A"
    letter = _LETTERS.get(array.dtype.str[1:])
    if letter is None:
        raise TypeError(f"no FITS format for columns of {array.dtype}")
    return f"{int(np.prod(array.shape[1:], dtype=int)) if array.ndim > 1 else ''}{letter}"


def _width(array: np.ndarray) -> int:
    """Return the letters of a column of text: at least one."""
    return max(1, array.dtype.itemsize // (4 if array.dtype.kind == "U" else 1))


def _stored(array: np.ndarray) -> np.ndarray:
    """Return a column as FITS stores it: big-endian numbers, ASCII text, T and F."""
    if array.dtype.kind in "US":
        return array.astype(f"S{_width(array)}")
    if array.dtype.kind == "b":
        return np.where(array, np.uint8(ord("T")), np.uint8(ord("F")))
    return array.astype(array.dtype.newbyteorder(">"), copy=False)


@lru_cache(maxsize=256)
def _image_header(shape: tuple[int, ...], dtype: str, name: str, unit: str) -> bytes:
    from astropy.io import fits

    hdu = fits.ImageHDU(np.zeros(shape, dtype=dtype), name=name)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu.header.tostring().encode("ascii")


def image(array: np.ndarray, name: str, unit: str = "") -> bytes:
    """Return an image extension.

    Parameters
    ----------
    array : array
        Pixels; unsigned integers are stored as FITS does, shifted by half their range.
    name : str
        EXTNAME.
    unit : str
        BUNIT; empty for none.
    """
    header = _image_header(array.shape, array.dtype.str[1:], name, unit)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        signed = np.dtype(f"i{array.dtype.itemsize}")
        array = (array ^ array.dtype.type(1 << (8 * array.dtype.itemsize - 1))).view(signed)
    stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder(">"))
    return header + padded(stored.tobytes())


def put(path: Path, *parts: bytes) -> Path:
    """Write a file whole or not at all, in place of one of that name; returns its path.

    Raises
    ------
    OSError
        If it cannot be written (disk full, no permission); nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path
