"""Figures of how well an image codec gives back images it has never seen."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from omnisky.codecs.figures import chi2_figures, code_usage
from omnisky.modalities import Image

if TYPE_CHECKING:
    from omnisky.codecs.image.codec import ImageCodec

__all__ = ["aperture_fluxes", "reconstruction_report"]

APERTURE_ARCSEC = 2.0
_SNR_BINS = (3.0, 10.0, 30.0, 100.0, np.inf)


def reconstruction_report(codec: ImageCodec, images: Image) -> dict[str, float]:
    """Return figures of images that went through their token ids and back.

    Returns
    -------
    dict
        ``chi2_per_pixel_median`` and ``_90`` (90th percentile) over objects: the mean over good
        pixels of ((flux - decoded) / error)², where flux is the noisy measurement, so that 1 is a
        perfect model without the noise; ``chi2_per_pixel_floored_median`` with the configuration's
        error floor. ``flux_error_snr_<low>_<high>``: median of ``abs(decoded - measured) /
        measured`` for the flux inside `APERTURE_ARCSEC` of the object, and ``flux_pull_…`` of the
        same in units of the error, by signal to noise of the measured flux, all bands together;
        bins without objects are left out. ``codes_used_fraction`` and ``code_entropy_bits``.
    """
    ids, token_mask = codec.encode_masked(images)
    there = token_mask.any(1).numpy()
    if not there.any():
        raise ValueError(f"a report needs images; none of {len(images)} objects has a good pixel")
    ids, images = ids[there], images[there]
    size = codec.config.size
    top, left = ((side - size) // 2 for side in images.flux.shape[2:])
    rows, columns = slice(top, top + size), slice(left, left + size)
    flux, ivar, mask = (a[..., rows, columns] for a in (images.flux, images.ivar, images.mask))
    decoded = codec.decode(ids, bands=images.bands).flux
    figures: dict[str, float] = {"objects": float(len(ids)), "tokens": float(codec.n_tokens)}
    good = mask & (ivar > 0)
    if good.any():
        chi2 = (decoded - flux) ** 2 * ivar
        floored = chi2_figures(chi2 / (1 + ivar * (codec.config.error_floor * flux) ** 2), good)
        figures |= chi2_figures(chi2, good)
        figures["chi2_per_pixel_floored_median"] = floored["chi2_per_pixel_median"]
    figures |= _flux_figures(images, decoded, (rows, columns))
    return figures | code_usage(ids, codec.n_codes)


def aperture_fluxes(
    pixels: np.ndarray, offset_pixels: np.ndarray, radius_pixels: float
) -> np.ndarray:
    """Return sums inside a circle around each object.

    Parameters
    ----------
    pixels : array, shape (object, band, y, x)
        What is summed; a pixel counts if its centre is inside.
    offset_pixels : array, shape (object, 2)
        Position of the object relative to the centre of the image, x then y.
    radius_pixels : float
        Radius of the circle.

    Returns
    -------
    array, shape (object, band)
        The sums, float64.
    """
    height, width = pixels.shape[2:]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    centre = np.array([(width - 1) / 2, (height - 1) / 2]) + offset_pixels
    dx, dy = x - centre[:, 0, None, None], y - centre[:, 1, None, None]
    inside = dx**2 + dy**2 <= radius_pixels**2
    return np.where(inside[:, None], pixels, 0).sum((2, 3), dtype=np.float64)


def _flux_figures(
    images: Image, decoded: np.ndarray, where: tuple[slice, slice]
) -> dict[str, float]:
    flux, ivar, mask = (a[..., *where] for a in (images.flux, images.ivar, images.mask))
    # The cut of an uneven border moves the centre by half a pixel.
    shift = [
        (part.start + (part.stop - 1)) / 2 - (side - 1) / 2
        for part, side in zip(where, images.flux.shape[2:], strict=True)
    ]
    offset = images.offset_pixels - np.array([shift[1], shift[0]])
    radius = APERTURE_ARCSEC / images.pixel_scale_arcsec
    good = mask & (ivar > 0)
    variance = np.where(good, 1 / np.where(good, ivar, 1), 0)
    bad, measured, error2, found = (
        aperture_fluxes(pixels, offset, radius) for pixels in (~good, flux, variance, decoded)
    )
    usable = (bad == 0) & (error2 > 0)
    error = np.sqrt(np.where(usable, error2, 1))
    snr = np.where(usable, measured / error, 0)
    figures: dict[str, float] = {}
    for low, high in pairwise(_SNR_BINS):
        inside = (snr >= low) & (snr < high)
        if inside.any():
            name = f"snr_{low:g}_{high:g}"
            off = np.abs(found - measured)[inside]
            figures[f"flux_error_{name}"] = float(np.median(off / measured[inside]))
            figures[f"flux_pull_{name}"] = float(np.median(off / error[inside]))
    return figures
