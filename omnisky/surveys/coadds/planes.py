"""Open the pixels of image files, without reading what can be mapped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.surveys.fits import checked, images_of_files, open_fits

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["first_image", "planes_of"]

_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


def first_image(path: str | os.PathLike, *, trusted: bool = False) -> tuple[Header, int]:
    """Return header and HDU number of the first two-dimensional image of a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or holds no such image.
    """
    with open_fits(path, trusted=trusted) as opened:
        for number, hdu in enumerate(opened):
            if hdu.is_image and hdu.header.get("NAXIS") == 2:
                return hdu.header.copy(), number
        kinds = ", ".join(hdu.kind for hdu in checked(opened).hdus)
    raise ValueError(
        f"{path} holds no two-dimensional image; found {kinds}. It is another kind of file"
    )


def planes_of(
    wanted: Sequence[tuple[str | os.PathLike, Sequence[int]]], *, trusted: bool = False
) -> list[list[np.ndarray]]:
    """Return images of files: mapped where their bytes are plain, else decoded.

    Parameters
    ----------
    wanted : sequence of (path, sequence of int)
        Files, and numbers of HDUs in each.
    trusted : bool
        Whether compressed images may be decoded in this process. Otherwise child processes do it,
        side by side, as many as there are processors.

    Returns
    -------
    list of list of array
        Images of each file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a file is damaged or has no such image.
    """
    found = [_mapped_planes(path, numbers, trusted) for path, numbers in wanted]
    rest = [
        (i, path, absent)
        for i, (path, numbers) in enumerate(wanted)
        if (absent := [number for number in numbers if number not in found[i]])
    ]
    # In this process decoders hold Python's lock, so that only child processes gain from company.
    workers = 1 if trusted else min(len(rest), os.cpu_count() or 1)
    shares = [rest[k::workers] for k in range(workers)] if rest else []
    with ThreadPoolExecutor(max(1, len(shares))) as pool:
        read = pool.map(
            lambda share: images_of_files([job[1:] for job in share], trusted=trusted), shares
        )
        for share, images in zip(shares, read, strict=True):
            for (i, _, absent), planes in zip(share, images, strict=True):
                found[i] |= zip(absent, planes, strict=True)
    return [[found[i][n] for n in numbers] for i, (_, numbers) in enumerate(wanted)]


def _mapped_planes(
    path: str | os.PathLike, numbers: Sequence[int], trusted: bool
) -> dict[int, np.ndarray]:
    """Return the images of a file that can be mapped, by number of HDU."""
    with open_fits(path, trusted=trusted) as opened:
        there = {n: _mapped(path, opened[n]) for n in numbers if n < len(opened)}
    return {number: plane for number, plane in there.items() if plane is not None}


def _mapped(path: str | os.PathLike, hdu: Any) -> np.ndarray | None:
    """Map an image whose numbers stand in the file as they are, or return None."""
    header = hdu.header
    plain = type(hdu).__name__ in ("PrimaryHDU", "ImageHDU") and header["NAXIS"] == 2
    scaled = header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0 or "BLANK" in header
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if not plain or scaled or packed:
        return None
    shape = header["NAXIS2"], header["NAXIS1"]
    start = hdu.fileinfo()["datLoc"]
    # A plain view: slices of a memmap object are slower to make.
    return np.memmap(path, _TYPES[header["BITPIX"]], "r", start, shape).view(np.ndarray)
