"""Put native files on the disk, each whole or not at all, and each saying that it is mock."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, Header, PrimaryHDU

__all__ = ["ORIGIN", "fits_bytes", "marks", "primary", "put", "table_hdu"]

ORIGIN = "omnisky mock"


def marks(seed: int) -> dict[str, Any]:
    """Return what every product of the mock universe says about itself."""
    return {"MOCK": True, "ORIGIN": ORIGIN, "SEED": seed}


_COMMENTS = {
    "MOCK": "Invented by a simulation, not observed",
    "ORIGIN": "Program that made this file",
    "SEED": "Seed of the mock universe",
}


def mark(header: Header, seed: int) -> Header:
    """Write into a FITS header that it is mock; returns the header."""
    for key, value in marks(seed).items():
        header[key] = (value, _COMMENTS[key])
    return header


def primary(seed: int, **cards: Any) -> PrimaryHDU:
    """Return a primary header-data unit without data, marked as mock."""
    from astropy.io import fits

    header = mark(fits.Header(), seed)
    header.update({key.upper(): value for key, value in cards.items()})
    return fits.PrimaryHDU(header=header)


def table_hdu(
    columns: Mapping[str, np.ndarray],
    seed: int,
    *,
    name: str = "",
    units: Mapping[str, str] | None = None,
    nulls: Mapping[str, int] | None = None,
) -> BinTableHDU:
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
    nulls : mapping of str to int, optional
        The number that stands for "none" in a column of integers.
    """
    from astropy.io import fits

    made = []
    for key, values in columns.items():
        array = np.asarray(values)
        if array.dtype.kind == "U":
            array = np.char.encode(array, "ascii")
        made.append(
            fits.Column(
                name=key,
                format=_format(array),
                array=array,
                unit=(units or {}).get(key),
                null=(nulls or {}).get(key),
            )
        )
    hdu = fits.BinTableHDU.from_columns(made, name=name or None)
    mark(hdu.header, seed)
    return hdu


_LETTERS = {"?": "L", "u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D"}


def _format(array: np.ndarray) -> str:
    """Return the FITS format of a column."""
    size = int(np.prod(array.shape[1:], dtype=int))
    if array.dtype.kind == "S":
        return f"{max(array.dtype.itemsize, 1)}A"
    letter = _LETTERS.get("?" if array.dtype.kind == "b" else array.dtype.str[1:])
    if letter is None:
        raise TypeError(f"no FITS format for columns of {array.dtype}")
    return f"{size if array.ndim > 1 else ''}{letter}"


def fits_bytes(*hdus: Any) -> bytes:
    """Return a FITS file in memory."""
    from astropy.io import fits

    held = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(held)
    return held.getvalue()


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
