"""Point-spread functions, and stamps seen through them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft

__all__ = ["Psf", "see", "stamp_size"]

# Sides of stamps with fast transforms; larger ones are made when a frame asks for them.
_SIZES = (32, 48, 64, 80, 96, 112, 128, 160, 176, 240, 320, 432)


@dataclass(frozen=True)
class Psf:
    """Describe a point-spread function: a Moffat core and faint wings.

    Parameters
    ----------
    fwhm_arcsec : float
        Full width at half maximum of the core.
    beta : float
        Moffat's exponent of the core; Moffat (1969), Trujillo et al. (2001).
    wing : float
        Share of the light in the wings, a Moffat of exponent 1.5 and three times the width: the
        aureole that falls as r^-3.
    e1, e2 : float
        Ellipticity of the core along x and along the diagonal.
    """

    fwhm_arcsec: float
    beta: float = 3.5
    wing: float = 0.0
    e1: float = 0.0
    e2: float = 0.0

    def image(self, across: np.ndarray, up: np.ndarray) -> np.ndarray:
        """Return brightness per square arcsec at arcsec from the centre, for unit flux."""
        stretched = (
            across * across * (1 - self.e1) + up * up * (1 + self.e1) - 2 * self.e2 * across * up
        )
        core = _moffat(stretched, self.fwhm_arcsec, self.beta)
        core *= float(np.sqrt(1 - self.e1**2 - self.e2**2))
        if not self.wing:
            return core
        wing = _moffat(across * across + up * up, 3 * self.fwhm_arcsec, 1.5)
        return (1 - self.wing) * core + self.wing * wing


def _moffat(r2: np.ndarray, fwhm: float, beta: float) -> np.ndarray:
    alpha2 = fwhm**2 / (4 * (2 ** (1 / beta) - 1))
    return (beta - 1) / (float(np.pi) * alpha2) * (1 + r2 * (1 / alpha2)) ** -beta


def stamp_size(wanted: float, largest: int) -> int:
    """Return the smallest fast side of at least `wanted` pixels, or `largest`."""
    for size in _SIZES:
        if wanted <= size <= largest:
            return size
    return largest


@lru_cache(maxsize=2048)
def _transfer(psf: Psf, scale: float, size: int) -> np.ndarray:
    """Return the transform of a PSF on a stamp, real, float32, shape (y, x // 2 + 1)."""
    # The PSF is even, so that its transform is real: half the memory and half the work.
    steps = fft.fftfreq(size, 1 / size) * scale
    image = psf.image(steps[None, :], steps[:, None]) * scale**2
    return np.ascontiguousarray(fft.rfft2(image).real.astype(np.float32))


@lru_cache(maxsize=64)
def _frequencies(size: int) -> tuple[np.ndarray, ...]:
    """Return phases a pixel down and right, and the transforms of a pixel in both directions."""
    down, right = fft.fftfreq(size), fft.rfftfreq(size)
    return -2j * np.pi * down, -2j * np.pi * right, np.sinc(down), np.sinc(right)


def _moved(size: int, x: float, y: float) -> np.ndarray:
    """Return the transform of a point at pixel x, y, integrated over pixels, complex64."""
    down, right, pixel_down, pixel_right = _frequencies(size)
    column = (np.exp(down * y) * pixel_down).astype(np.complex64)
    row = (np.exp(right * x) * pixel_right).astype(np.complex64)
    return column[:, None] * row[None, :]


def see(
    psfs: Sequence[Psf],
    grid,
    *,
    planes: np.ndarray | None = None,
    fluxes: np.ndarray | None = None,
    smooth: Sequence[np.ndarray | None] = (),
) -> np.ndarray:
    """Return light through the PSFs of the bands and integrated over pixels.

    Parameters
    ----------
    psfs : sequence of Psf
        One a band.
    grid : Grid
        The pixels of a stamp, with the object at ``grid.x, grid.y``.
    planes : array of float32, shape (band, y, x), optional
        Light in the pixels.
    fluxes : array, shape (part, band), optional
        Fluxes of parts given by transforms.
    smooth : sequence of array of float32, shape (y, x // 2 + 1), or None
        Transforms of parts about the object; None for a point.

    Returns
    -------
    array of float32, shape (band, y, x)
        Light that leaves a stamp comes back on its other side: leave a margin.
    """
    moved = _moved(grid.size, grid.x, grid.y) if smooth else None
    out = np.empty((len(psfs), grid.size, grid.size), dtype=np.float32)
    # Small stamps all at once, large ones band by band: what a band needs then stays in the cache.
    together = len(psfs) if grid.size <= 64 else 1
    for first in range(0, len(psfs), together):
        bands = slice(first, first + together)
        transforms = None if planes is None else fft.rfft2(planes[bands])
        if moved is not None and fluxes is not None:
            parts = np.stack([moved * _sum(smooth, column) for column in fluxes.T[bands].tolist()])
            transforms = parts if transforms is None else np.add(transforms, parts, out=parts)
        if transforms is None:
            raise ValueError("nothing to see: neither planes nor smooth parts were given")
        for transform, psf in zip(transforms, psfs[bands], strict=True):
            transform *= _transfer(psf, grid.scale, grid.size)
        out[bands] = fft.irfft2(transforms, s=out.shape[1:], overwrite_x=True)
    return out


def _sum(smooth: Sequence[np.ndarray | None], fluxes: list[float]) -> np.ndarray | np.float32:
    """Return the sum of transforms times fluxes; of a point it is its flux."""
    total: np.ndarray | np.float32 = np.float32(0)
    for part, flux in zip(smooth, fluxes, strict=True):
        total = total + (np.float32(flux) if part is None else part * np.float32(flux))
    return total
