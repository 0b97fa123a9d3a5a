"""What happens to pixels before the network and after it: crop, pad, limits, range compression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from omnisky.modalities import Image

__all__ = ["DEFAULT_LIMIT", "LIMITS", "compress", "context_of", "crop", "expand", "padded"]

# Nanomaggies of one unit of HSC's files, zero point 27: 10^((27 - 22.5) / 2.5).
_HSC_UNIT = 10**1.8

# Largest absolute flux a pixel keeps, in nanomaggies: AION-1's limits (aion 0.0.2), those of HSC
# in our unit. Brighter pixels are cores of stars, which no reconstruction needs to follow.
LIMITS: Mapping[tuple[str, str], float] = {
    **{
        ("legacysurvey_image", band): limit
        for band, limit in {"g": 6.0, "r": 15.0, "i": 20.0, "z": 25.0}.items()
    },
    **{
        ("hsc_image", band): limit / _HSC_UNIT
        for band, limit in {"g": 80, "r": 110, "i": 200, "z": 330, "y": 500}.items()
    },
}
# Of a band without a limit of its own.
DEFAULT_LIMIT = 100.0


def crop(array: np.ndarray, size: int) -> np.ndarray:
    """Return the centre of the last two axes; one pixel off to the left where sides are uneven."""
    top, left = ((side - size) // 2 for side in array.shape[-2:])
    return array[..., top : top + size, left : left + size]


def padded(images: Image, size: int) -> Image:
    """Return images with a masked border, so that both sides have at least `size` pixels.

    Parameters
    ----------
    images : Image
        Images of any size; they stay in the centre.
    size : int
        Least side in pixels.
    """
    missing = [max(size - side, 0) for side in images.flux.shape[2:]]
    # The crop puts the odd pixel to the same side.
    before = np.array([(m + 1) // 2 for m in missing])
    borders = [(0, 0), (0, 0), *zip(before, missing - before, strict=True)]
    flux, ivar, mask = (np.pad(a, borders) for a in (images.flux, images.ivar, images.mask))
    # An uneven border moves the centre by half a pixel.
    offset = images.offset_pixels + (before - np.array(missing) / 2)[::-1]
    about = (images.bands, images.pixel_scale_arcsec, images.psf_fwhm_arcsec)
    return Image(flux, ivar, mask, *about, offset)


def compress(flux: Tensor, softening: float, gain: float) -> Tensor:
    """Return ``gain · softening · asinh(flux / softening)``, linear for faint pixels."""
    return torch.asinh(flux / softening) * (softening * gain)


def expand(
    compressed: Tensor, softening: float, gain: float, limit: Tensor | float | None
) -> Tensor:
    """Return the flux of compressed values.

    Parameters
    ----------
    compressed : Tensor
        What `compress` gave, or a network.
    softening, gain : float
        As for `compress`.
    limit : Tensor or float, optional
        Flux beyond which the inverse goes on as a straight line, with its slope there: `sinh` of
        what an untrained network says overflows, and gradients of it explode.
    """
    # Half precision has no room for an exponential.
    y = compressed.float() / (softening * gain)
    if limit is None:
        return torch.sinh(y) * softening
    edge = torch.asinh(torch.as_tensor(limit, dtype=y.dtype, device=y.device) / softening)
    inside = torch.minimum(torch.maximum(y, -edge), edge)
    return (torch.sinh(inside) + (y - inside) * torch.cosh(edge)) * softening


def context_of(images: Image, columns: Sequence[int], n_bands: int) -> dict[str, np.ndarray]:
    """Return what is known of each object's images besides pixels; zero is unknown.

    Parameters
    ----------
    images : Image
        The images.
    columns : sequence of int
        Column of each band of the images in what is returned.
    n_bands : int
        Number of columns.

    Returns
    -------
    dict
        ``psf_fwhm_arcsec`` and ``noise`` (median 1-sigma error of a good pixel, in nanomaggies),
        shape (object, band); ``pixel_scale_arcsec``, shape (object,).
    """
    count = len(images)
    psf, noise = (np.zeros((count, n_bands), dtype=np.float32) for _ in range(2))
    psf[:, columns] = images.psf_fwhm_arcsec
    known = images.mask & (images.ivar > 0)
    ivar = np.where(known, images.ivar, np.nan).reshape(count, len(images.bands), -1)
    some = known.any((2, 3))
    median = np.zeros_like(some, dtype=np.float32)
    median[some] = np.nanmedian(ivar[some], axis=-1)
    noise[:, columns] = np.where(some, 1 / np.sqrt(np.where(some, median, 1)), 0)
    scale = np.full(count, images.pixel_scale_arcsec, dtype=np.float32)
    return {"psf_fwhm_arcsec": psf, "noise": noise, "pixel_scale_arcsec": scale}
