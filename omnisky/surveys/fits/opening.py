"""Open a FITS file after its headers have been checked, and read its header cards."""

from __future__ import annotations

import gzip
import os
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from omnisky.surveys.fits.headers import FitsLimits, Hdu, scan

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["DAMAGED", "CheckedFile", "checked", "header_of", "open_fits", "quiet"]

DAMAGED = "The file is damaged; fetch it again"


@contextmanager
def open_fits(
    path: str | os.PathLike,
    *,
    limits: FitsLimits | None = None,
    trusted: bool = False,
    lazy: bool = False,
) -> Iterator[HDUList]:
    """Open a FITS file, after its headers have been checked against the bytes that are there.

    Parameters
    ----------
    path : path
        A FITS file, plain or compressed with gzip.
    limits : FitsLimits, optional
        What the file may ask for.
    trusted : bool
        Whether the limits do not apply. Truncated and contradictory files are refused anyway.
    lazy : bool
        Whether astropy need not read all headers at once, which takes it long for wide tables. For
        callers that look at them through `header_of`, `image_of` and `table_of` alone.

    Yields
    ------
    astropy.io.fits.HDUList
        Memory-mapped. Read from it with `image_of` and `table_of`; nothing is valid afterwards.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no FITS file, truncated, contradicts itself or asks for more than allowed.
    """
    from astropy.io import fits

    with _checked(path, limits, trusted) as (file, plain, found):
        try:
            with quiet():
                opened: Any = fits.open(file, memmap=True, lazy_load_hdus=lazy)
        except Exception as error:  # astropy raises many kinds
            raise ValueError(f"{path} cannot be read as FITS: {error}. {DAMAGED}") from error
        with opened:
            if not lazy and len(opened) != len(found):
                raise ValueError(
                    f"{path}: {len(found)} HDUs by their headers, but astropy finds "
                    f"{len(opened)}. {DAMAGED}"
                )
            opened.checked = CheckedFile(str(path), plain, found, limits or FitsLimits())
            yield opened


@dataclass(frozen=True)
class CheckedFile:
    """Hold what the door knows of an open file.

    Parameters
    ----------
    path : str
        Its name.
    plain : str
        Name of the file that holds its bytes, uncompressed.
    hdus : tuple of Hdu
        What its headers declare.
    limits : FitsLimits
        What it may ask for.
    """

    path: str
    plain: str
    hdus: tuple[Hdu, ...]
    limits: FitsLimits

    def find(self, extension: int | str) -> Hdu:
        """Return the HDU of a number or name.

        Raises
        ------
        ValueError
            If there is none; the message lists those there are.
        """
        wanted = extension.upper() if isinstance(extension, str) else extension
        for hdu in self.hdus:
            if wanted in (hdu.name, hdu.index) and wanted != "":
                return hdu
        names = ", ".join(hdu.name or str(hdu.index) for hdu in self.hdus)
        raise ValueError(
            f"{self.path} has no HDU {extension!r}; found {names}. It is another kind of file, or "
            "incomplete"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence astropy about headers; what matters has been checked, and is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _checked(
    path: str | os.PathLike, limits: FitsLimits | None, trusted: bool
) -> Iterator[tuple[BinaryIO, str, tuple[Hdu, ...]]]:
    """Yield the file, uncompressed, the path of its uncompressed bytes, and what it declares."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    allowed = None if trusted else limits or FitsLimits()
    with open(path, "rb") as file:
        if file.read(2) != b"\x1f\x8b":
            yield file, os.fspath(path), scan(file, str(path), allowed)
            return
        file.seek(0)
        with tempfile.NamedTemporaryFile(suffix=".fits") as inflated:
            _inflate(file, inflated, str(path), allowed)
            with open(inflated.name, "rb") as plain:
                yield plain, inflated.name, scan(plain, str(path), allowed)


def _inflate(packed: BinaryIO, target: Any, path: str, limits: FitsLimits | None) -> None:
    """Decompress a gzip file, up to the limit."""
    total = 0
    try:
        with gzip.GzipFile(fileobj=packed) as stream:
            while part := stream.read(2**20):
                total += len(part)
                if limits and total > limits.max_inflated_bytes:
                    raise ValueError(
                        f"{path} inflates to more than {limits.max_inflated_bytes} bytes. Raise "
                        "FitsLimits.max_inflated_bytes if you trust the file"
                    )
                target.write(part)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}. {DAMAGED}") from error
    target.flush()
    target.seek(0)


def checked(opened: HDUList) -> CheckedFile:
    """Return what the door knows of a file that `open_fits` opened."""
    known = getattr(opened, "checked", None)
    if known is None:
        raise ValueError("these HDUs were not opened by open_fits; open the file with it")
    return known


def header_of(opened: HDUList, extension: int | str) -> dict[str, Any]:
    """Return the cards of one header as plain values, by upper-case keyword.

    Raises
    ------
    ValueError
        If the HDU is not there, or a card cannot be read.
    """
    known = checked(opened)
    hdu = known.find(extension)
    try:
        with quiet():
            return dict(opened[hdu.index].header)  # pyright: ignore[reportAttributeAccessIssue]
    except Exception as error:  # astropy raises many kinds
        raise ValueError(f"{known.path}, {hdu.title}: {error}. {DAMAGED}") from error
