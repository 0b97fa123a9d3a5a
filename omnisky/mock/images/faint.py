"""Faint sources: too small and too dim to need more than an ellipse with wings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["faint_stamps"]

# Sides of the windows they are drawn in.
_WINDOWS = (13, 19, 31, 61)
# FWHM and half-light radius of a Moffat function of exponent 3, in units of its alpha.
_FWHM, _HALF_LIGHT = 1.0196, 0.6436


def faint_stamps(
    fluxes: np.ndarray,
    place: tuple[np.ndarray, np.ndarray],
    shapes: np.ndarray,
    widths: np.ndarray,
    level: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Draw faint sources, seen through the PSF as elliptical Moffat functions of exponent 3.

    Parameters
    ----------
    fluxes : array, shape (source, band)
        Fluxes, positive.
    place : (array, array)
        Positions x and y in pixels, shape (source,).
    shapes : array, shape (source, 3)
        Half-light radius (pixels), axis ratio and position angle (degrees).
    widths : array, shape (band,)
        FWHM of the PSF in pixels.
    level : array, shape (band,)
        Flux a pixel that may be cut off at the edge of a window.

    Yields
    ------
    number : array of int, shape (some,)
        Which sources.
    corner : array of int, shape (some, 2)
        First pixel of each stamp, x then y.
    stamps : array of float32, shape (some, band, y, x)
    """
    core = (widths / _FWHM) ** 2
    major = core + ((shapes[:, 0] / _HALF_LIGHT) ** 2)[:, None]
    minor = core + ((shapes[:, 0] * shapes[:, 1] / _HALF_LIGHT) ** 2)[:, None]
    peak = fluxes * (2 / np.pi) / np.sqrt(major * minor)
    # Half-width at which wings, which fall as r^-6, reach the level.
    half = np.sqrt((major * (peak / level) ** (1 / 3)).max(axis=1))
    window = np.minimum(np.searchsorted(_WINDOWS, 2 * half), len(_WINDOWS) - 1)
    # The cube root of the peak goes into the sum before its third power is taken.
    root = peak ** (-1 / 3)
    pa = np.radians(shapes[:, 2])[:, None]
    s, c = np.sin(pa), np.cos(pa)
    # Along the major axis: -x sin(pa) + y cos(pa), for east is to the left.
    form = np.stack(
        [
            root,
            root * (s * s / major + c * c / minor),
            root * (c * c / major + s * s / minor),
            root * (2 * s * c * (1 / minor - 1 / major)),
        ]
    ).astype(np.float32)
    pixel = np.rint(np.stack(place, axis=1))
    off = (pixel - np.stack(place, axis=1)).astype(np.float32)
    pixel = pixel.astype(np.int64)
    for group, side in enumerate(_WINDOWS):
        number = np.flatnonzero(window == group)
        if number.size:
            stamps = _moffats(form[:, number], off[number], side)
            yield number, pixel[number] - side // 2, stamps


def _moffats(form: np.ndarray, off: np.ndarray, side: int) -> np.ndarray:
    """Return 1 / (root (1 + quadratic form))^3 in windows of some side."""
    steps = np.arange(side, dtype=np.float32) - side // 2
    dx, dy = off[:, :1] + steps, off[:, 1:] + steps
    root, xx, yy, xy = (part[:, :, None] for part in form)
    total = (xy * dy[:, None])[:, :, :, None] * dx[:, None, None, :]
    total += (xx * (dx * dx)[:, None] + root)[:, :, None, :]
    total += (yy * (dy * dy)[:, None])[:, :, :, None]
    cube = total * total
    cube *= total
    return np.reciprocal(cube, out=cube)
