"""The frame about an object: stamps of sources are added to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from omnisky.mock.images.faint import faint_stamps
from omnisky.mock.images.instruments import Conditions, Instrument
from omnisky.mock.images.light import Grid
from omnisky.mock.images.psf import Psf, see, stamp_size

__all__ = ["Frame", "place", "point_size", "reach"]

# Surface brightness, in units of the noise of a pixel, that may be cut off at the edge of a stamp.
_EDGE = 0.1
# Brightness in the reference band from which a source is in the segmentation, in the same unit.
_SEEN = 1.0
# Peak brightness of a diffraction spike a pixel, over the flux of the star.
_SPIKE = 3e-5
# Peak brightness of a spike, in units of the noise of a pixel, from which it is drawn.
_SPIKE_SEEN = 1.2


class Frame:
    """Hold an image to which sources are added, and which source dominates each pixel.

    Parameters
    ----------
    instrument : Instrument
        The survey.
    conditions : Conditions
        PSF and noise.
    size : int
        Side in pixels.
    at : (float, float)
        Position x, y of the object, pixels from 0.
    maps : bool
        Whether to keep track of which source dominates each pixel.

    Attributes
    ----------
    flux : array of float32, shape (band, y, x)
        Light of all sources, nmgy.
    segmentation : array of int16, shape (y, x), or None
        0 where there is sky, else the number of the source.
    """

    def __init__(
        self,
        instrument: Instrument,
        conditions: Conditions,
        size: int,
        at: tuple[float, float],
        maps: bool,
    ) -> None:
        self.instrument, self.conditions, self.size, self.at = instrument, conditions, size, at
        self.flux = np.zeros((len(instrument.bands), size, size), dtype=np.float32)
        self.reference = instrument.bands.index("r")
        self.maps = maps
        self.segmentation = np.zeros((size, size), dtype=np.int16) if maps else None
        level = _SEEN * conditions.sigma[self.reference]
        self._most = np.full((size, size), level, dtype=np.float32) if maps else None
        self.sources = 0

    def add(self, stamp: np.ndarray, corner: tuple[int, int], *, faint: bool = False) -> None:
        """Add a stamp whose first pixel is pixel `corner` (x, y) of the frame.

        Parameters
        ----------
        stamp : array of float32, shape (band, y, x)
            May reach beyond the frame.
        corner : (int, int)
            May be negative.
        faint : bool
            Whether it is too faint to appear in the segmentation.
        """
        self.sources += 1
        x, y = corner
        rows, columns = stamp.shape[-2:]
        left, low = max(x, 0), max(y, 0)
        right, top = min(x + columns, self.size), min(y + rows, self.size)
        if right <= left or top <= low:
            return
        part = stamp[:, low - y : top - y, left - x : right - x]
        self.flux[:, low:top, left:right] += part
        if self.segmentation is not None and self._most is not None and not faint:
            most = self._most[low:top, left:right]
            more = part[self.reference] > most
            np.copyto(self.segmentation[low:top, left:right], np.int16(self.sources), where=more)
            np.copyto(most, part[self.reference], where=more)

    def pixel(self, east: float, north: float) -> tuple[float, float]:
        """Return the position in the frame of a place relative to the object, arcsec."""
        scale = self.instrument.pixel_scale_arcsec
        return self.at[0] - east / scale, self.at[1] + north / scale

    def add_point(self, fluxes: np.ndarray, at: tuple[float, float]) -> None:
        """Add a point source of fluxes (band,) at pixel x, y."""
        size = point_size(fluxes, self.conditions, self.instrument, 3 * self.largest)
        if size > self.largest:
            self._add_wide(fluxes, at)
            return
        grid, corner = self.grid(at, size)
        self.add(see(self.conditions.psfs, grid, fluxes=fluxes[None], smooth=[None]), corner)

    def _add_wide(self, fluxes: np.ndarray, at: tuple[float, float]) -> None:
        """Add a star whose wings fill the frame: not integrated over pixels, but all of it."""
        scale = self.instrument.pixel_scale_arcsec
        pixels = np.arange(self.size)
        across = ((pixels - at[0]) * scale).astype(np.float32)[None, :]
        up = ((pixels - at[1]) * scale).astype(np.float32)[:, None]
        stamp = np.empty_like(self.flux)
        for band, psf in enumerate(self.conditions.psfs):
            area = np.float32(float(fluxes[band]) * scale**2)
            np.multiply(psf.image(across, up), area, out=stamp[band])
        self.add(stamp, (0, 0))

    @property
    def largest(self) -> int:
        """Side of the largest stamp: the frame and a margin for the PSF."""
        return -(-(self.size + 16) // 16) * 16

    def grid(self, at: tuple[float, float], size: int) -> tuple[Grid, tuple[int, int]]:
        """Return the grid of a stamp about pixel x, y of the frame, and its corner."""
        corner, inside = place(at, size)
        scale = self.instrument.pixel_scale_arcsec
        return Grid(size=size, scale=scale, x=inside[0], y=inside[1]), corner

    def mask_of(self, stamp: np.ndarray | None, corner: tuple[int, int]) -> np.ndarray:
        """Return a mask of the frame from one of a stamp; empty without a stamp."""
        mask = np.zeros((self.size, self.size), dtype=bool)
        if stamp is not None:
            x, y = corner
            rows, columns = stamp.shape
            left, low = max(x, 0), max(y, 0)
            right, top = min(x + columns, self.size), min(y + rows, self.size)
            if right > left and top > low:
                mask[low:top, left:right] = stamp[low - y : top - y, left - x : right - x]
        return mask

    def add_spikes(self, fluxes: np.ndarray, at: tuple[float, float]) -> bool:
        """Add the diffraction spikes of a bright star, which vanes make along the diagonals.

        Parameters
        ----------
        fluxes : array, shape (band,)
            Fluxes of the star.
        at : (float, float)
            Pixel x, y.

        Returns
        -------
        bool
            Whether it is bright enough, and near enough to the frame, to have any.
        """
        bright = max(f / s for f, s in zip(fluxes.tolist(), self.conditions.sigma, strict=True))
        if bright * _SPIKE < _SPIKE_SEEN:
            return False
        # As far as spikes stand out of the noise.
        far = 10 * np.sqrt(bright * _SPIKE / _EDGE)
        left, low = max(0, int(at[0] - far)), max(0, int(at[1] - far))
        right, top = min(self.size, int(at[0] + far) + 1), min(self.size, int(at[1] + far) + 1)
        if right <= left or top <= low:
            return False
        x = np.arange(left, right, dtype=np.float32) - np.float32(at[0])
        y = (np.arange(low, top, dtype=np.float32) - np.float32(at[1]))[:, None]
        c = np.float32(np.sqrt(0.5))
        first, second = (x + y) * c, (x - y) * c
        light = np.zeros((top - low, right - left), dtype=np.float32)
        for along, across in ((first, second), (second, first)):
            fall = np.abs(along) * np.float32(0.1) + 1
            light += np.exp(-((across * np.float32(0.7)) ** 2)) / (fall * fall)
        self.flux[:, low:top, left:right] += (fluxes * _SPIKE).astype(np.float32)[
            :, None, None
        ] * light
        return True

    def add_faint(
        self, fluxes: np.ndarray, x: np.ndarray, y: np.ndarray, shapes: np.ndarray
    ) -> None:
        """Add faint sources, seen through the PSF as elliptical Moffat functions of exponent 3.

        Parameters
        ----------
        fluxes : array, shape (source, band)
            Fluxes.
        x, y : array, shape (source,)
            Positions in pixels.
        shapes : array, shape (source, 3)
            Half-light radius (pixels), axis ratio and position angle (degrees).
        """
        if not len(fluxes):
            return
        widths = np.array([psf.fwhm_arcsec for psf in self.conditions.psfs])
        widths /= self.instrument.pixel_scale_arcsec
        level = 2 * _EDGE * np.array(self.conditions.sigma)
        seen = _SEEN * self.conditions.sigma[self.reference]
        for _, corners, stamps in faint_stamps(fluxes, (x, y), shapes, widths, level):
            side = stamps.shape[-1]
            middle = stamps[:, self.reference, side // 2, side // 2]
            below = (middle < seen).tolist()
            for k, (left, low) in enumerate(corners.tolist()):
                self.add(stamps[k], (left, low), faint=below[k])


def place(at: tuple[float, float], size: int) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the corner of a stamp about a pixel position, and the position in the stamp."""
    x, y = int(np.floor(at[0] + 0.5)) - size // 2, int(np.floor(at[1] + 0.5)) - size // 2
    return (x, y), (at[0] - x, at[1] - y)


def point_size(
    fluxes: np.ndarray | Sequence[float],
    conditions: Conditions,
    instrument: Instrument,
    largest: int,
) -> int:
    """Return the side of a stamp beyond which a point source is far below the noise."""
    excess = [float(f) / s for f, s in zip(fluxes, conditions.sigma, strict=True)]
    band = int(np.argmax(excess))
    scale = instrument.pixel_scale_arcsec
    radius = 0.0
    for exponent, width, share in _parts(conditions.psfs[band]):
        alpha = width / scale / (2 * np.sqrt(2 ** (1 / exponent) - 1))
        peak = share * excess[band] * (exponent - 1) / (np.pi * alpha**2)
        if peak > _EDGE:
            radius = max(radius, alpha * np.sqrt((peak / _EDGE) ** (1 / exponent) - 1))
    return stamp_size(2 * radius + 2, largest)


def _parts(psf: Psf) -> list[tuple[float, float, float]]:
    """Return exponent, width in arcsec and share of the Moffat functions of a PSF."""
    core = (psf.beta, psf.fwhm_arcsec, 1 - psf.wing)
    return [core, (1.5, 3 * psf.fwhm_arcsec, psf.wing)] if psf.wing else [core]


def reach(excess: np.ndarray, conditions: Conditions, scale: float) -> np.ndarray:
    """Return the radius in pixels at which wings of point sources fall far below the noise.

    Parameters
    ----------
    excess : array, shape (source,)
        Flux over the noise of a pixel.
    conditions : Conditions
        The PSF.
    scale : float
        Side of a pixel in arcsec.
    """
    width = max(psf.fwhm_arcsec for psf in conditions.psfs) / scale
    wing = max(psf.wing for psf in conditions.psfs)
    # A Moffat function of exponent 1.5 and three times the width falls as this constant / r^3.
    alpha = 3 * width / (2 * np.sqrt(2 ** (1 / 1.5) - 1))
    far = (excess * wing * 0.5 * alpha / np.pi / _EDGE) ** (1 / 3)
    return np.maximum(far, 4 * width)
