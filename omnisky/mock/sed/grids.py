"""Wavelength grids on which light is handled, and how light is put on them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["COARSE", "C_KM_S", "FINE", "GRIDS", "MEDIUM", "Grid", "lines_on", "rebin", "smoothed"]

C_KM_S = 299792.458
FWHM = 2.354820045  # over the standard deviation of a Gaussian


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Hold a grid that is uniform in log wavelength, so that a redshift is a shift.

    Parameters
    ----------
    start : float
        Smallest wavelength, Angstrom, vacuum.
    stop : float
        Largest wavelength, Angstrom.
    step : float
        Step of the natural logarithm of the wavelength.
    """

    start: float
    stop: float
    step: float
    wavelength: np.ndarray = field(init=False, repr=False, compare=False)
    edges: np.ndarray = field(init=False, repr=False, compare=False)
    width: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = int(np.ceil(np.log(self.stop / self.start) / self.step))
        edges = self.start * np.exp(self.step * (np.arange(n + 1) - 0.5))
        wavelength = self.start * np.exp(self.step * np.arange(n))
        for name, values in (
            ("wavelength", wavelength),
            ("edges", edges),
            ("width", np.diff(edges)),
        ):
            values.setflags(write=False)
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.wavelength)

    def position(self, wavelength_angstrom) -> np.ndarray:
        """Return the fractional index of wavelengths."""
        return np.log(np.asarray(wavelength_angstrom, dtype=float) / self.start) / self.step


# Photometry: 600 km/s, far ultraviolet to the far end of W4. Spectra: 60 km/s, to 1.15 micron.
# Prisms like Gaia's: 240 km/s.
COARSE = Grid(start=900.0, stop=300000.0, step=1 / 500)
MEDIUM = Grid(start=900.0, stop=11500.0, step=8e-4)
FINE = Grid(start=900.0, stop=11500.0, step=2e-4)
GRIDS = {"coarse": COARSE, "medium": MEDIUM, "fine": FINE}


def rebin(wavelength: np.ndarray, flux: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the mean of a piecewise linear spectrum between edges; zero outside the spectrum.

    Parameters
    ----------
    wavelength : array, shape (pixel,)
        Increasing.
    flux : array, shape (..., pixel)
        Flux density at these wavelengths.
    edges : array, shape (bin + 1,)
        Increasing, in the unit of `wavelength`.

    Returns
    -------
    array of float64, shape (..., bin)
    """
    flux = np.asarray(flux, dtype=np.float64)
    wavelength = np.asarray(wavelength, dtype=np.float64)
    steps = np.diff(wavelength)
    area = np.zeros(flux.shape)
    np.cumsum(0.5 * (flux[..., 1:] + flux[..., :-1]) * steps, axis=-1, out=area[..., 1:])
    inside = np.clip(edges, wavelength[0], wavelength[-1])
    low = np.clip(np.searchsorted(wavelength, inside, side="right") - 1, 0, len(steps) - 1)
    part = (inside - wavelength[low]) / steps[low]
    slope = (flux[..., low + 1] - flux[..., low]) * 0.5
    to_edge = area[..., low] + (flux[..., low] * part + slope * part**2) * steps[low]
    return np.diff(to_edge, axis=-1) / np.diff(edges)


def smoothed(light: np.ndarray, sigma: np.ndarray | float) -> np.ndarray:
    """Convolve with a Gaussian whose width may change along the spectrum; the ends repeat.

    A changing width is a blend of the narrowest and the widest, which has the wanted second
    moment everywhere.

    Parameters
    ----------
    light : array, shape (pixel,)
        Light on an even grid.
    sigma : float or array, shape (pixel,)
        Standard deviation in pixels.

    Returns
    -------
    array, shape (pixel,)
    """
    low, high = float(np.min(sigma)), float(np.max(sigma))
    if high < 0.3:
        return light
    wide = _convolved(light, high)
    if high - low < 0.1 * high:
        return wide
    share = (np.asarray(sigma) ** 2 - low**2) / (high**2 - low**2)
    narrow = _convolved(light, low)
    return narrow + share * (wide - narrow)


def _convolved(light: np.ndarray, sigma: float) -> np.ndarray:
    if sigma < 0.3:
        return light
    half = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    padded = np.concatenate([np.full(half, light[0]), light, np.full(half, light[-1])])
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def lines_on(
    wavelength: np.ndarray, centres: np.ndarray, power: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """Return Gaussian lines averaged over pixels.

    Parameters
    ----------
    wavelength : array, shape (pixel,)
        Increasing, Angstrom.
    centres, power, sigma : array, shape (line,)
        Angstrom; any unit of flux; standard deviation, instrument included, Angstrom.

    Returns
    -------
    array of float64, shape (pixel,)
        Unit of `power` per Angstrom.
    """
    from scipy.special import ndtr

    n = len(wavelength)
    flux = np.zeros(n)
    inside = (centres > wavelength[0]) & (centres < wavelength[-1]) & (power > 0)
    narrow = sigma < 12.0
    for group in (inside & narrow, inside & ~narrow):
        c, p, s = centres[group], power[group], sigma[group]
        if not len(c):
            continue
        middle = np.searchsorted(wavelength, c)
        pixel = float(np.min(wavelength[middle] - wavelength[middle - 1]))
        half = int(np.ceil(5.0 * float(s.max()) / pixel)) + 2
        index = middle[:, None] + np.arange(-half, half + 1)
        # Edges are half-way between pixels; beyond the ends they pile up there, harmlessly.
        right = np.minimum(np.maximum(index, 1), n - 1)
        edge = 0.5 * (wavelength[right] + wavelength[right - 1])
        share = ndtr((edge - c[:, None]) / s[:, None])
        share = share[:, 1:] - share[:, :-1]
        width = np.maximum(edge[:, 1:] - edge[:, :-1], 1e-9)
        value = p[:, None] * share / width
        at = index[:, :-1]
        good = (at > 0) & (at < n - 1)
        flux += np.bincount(at[good], weights=value[good], minlength=n)
    return flux
