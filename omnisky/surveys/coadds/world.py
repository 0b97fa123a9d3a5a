"""World coordinates of images, checked."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

__all__ = ["scale_of", "unit_vectors", "wcs_of"]

_NEEDED = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
_MATRIX = (
    "CDELT1",
    "CDELT2",
    *(f"{k}{i}_{j}" for k in ("CD", "PC") for i in (1, 2) for j in (1, 2)),
)


def wcs_of(header: Header, where: str | os.PathLike) -> WCS:
    """Return the world coordinates of an image, checked.

    Parameters
    ----------
    header : Header
        Header of the image.
    where : str
        The file, for messages.

    Raises
    ------
    ValueError
        If there are none, or they are not finite, degenerate, or of another frame than J2000.

    Notes
    -----
    The surveys tie their positions to Gaia; FK5 and ICRS differ by less than 0.03 arcsec and are
    taken for the same.
    """
    from astropy.wcs import WCS

    remedy = "The header is damaged, or the file is no image of the sky: fetch it again"
    kinds = tuple(str(header.get(f"CTYPE{axis}", "")) for axis in (1, 2))
    if not (kinds[0].startswith("RA--") and kinds[1].startswith("DEC-")):
        raise ValueError(f"{where}: no world coordinates; found CTYPE {kinds}. {remedy}")
    if header.get("RADESYS", "ICRS") not in ("ICRS", "FK5") or header.get("EQUINOX", 2000) != 2000:
        raise ValueError(
            f"{where}: positions in {header.get('RADESYS')}, equinox {header.get('EQUINOX')}; "
            "expected ICRS or FK5 of J2000. Convert the world coordinates first"
        )
    # wcslib skips cards that it cannot read, NaN among them, and takes 0 for their values.
    wrong = [key for key in _NEEDED if not _is_number(header, key)]
    wrong += [key for key in _MATRIX if key in header and not _is_number(header, key)]
    if wrong:
        raise ValueError(
            f"{where}: its world coordinates need finite numbers in {', '.join(wrong)}. {remedy}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old headers are full of small sins
            wcs = WCS(header, naxis=2)
        numbers = [wcs.pixel_scale_matrix, wcs.wcs.crval, wcs.wcs.crpix]
    except Exception as error:  # wcslib and astropy raise many kinds
        raise ValueError(f"{where}: its world coordinates cannot be used: {error}. {remedy}") from (
            error
        )
    if not all(np.isfinite(part).all() for part in numbers) or scale_of(wcs) <= 0:
        raise ValueError(
            f"{where}: its world coordinates are not finite or degenerate: CRVAL {numbers[1]}, "
            f"CRPIX {numbers[2]}, matrix {numbers[0].tolist()}. {remedy}"
        )
    return wcs


def _is_number(header: Header, key: str) -> bool:
    try:
        value = header[key]
    except Exception:  # not there, or a card that astropy cannot read
        return False
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def scale_of(wcs: WCS) -> float:
    """Return the side of a pixel in arcsec."""
    return float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600.0)


def unit_vectors(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Return directions as unit vectors, shape (position, 3)."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
