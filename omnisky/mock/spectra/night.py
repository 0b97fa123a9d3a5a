"""The light of the night sky, and what of it an instrument sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.mock import tables

__all__ = ["DARK_CONTINUUM", "NightSky", "SkyState"]

# Zodiacal light, airglow continuum and faint stars on a dark site, 1e-17 erg s-1 cm-2 A-1 arcsec-2:
# V = 21.8, B = 22.7, R = 20.9 with lines; shape from the sky fibres of a BOSS plate.
DARK_CONTINUUM = np.array(
    [
        (3500, 1.10),
        (3700, 0.95),
        (3850, 0.82),
        (4000, 0.82),
        (4200, 0.82),
        (4500, 0.84),
        (4800, 0.76),
        (5200, 0.68),
        (5500, 0.71),
        (5900, 0.86),
        (6100, 0.78),
        (6400, 0.62),
        (6700, 0.53),
        (7000, 0.50),
        (7500, 0.49),
        (8000, 0.49),
        (8500, 0.45),
        (9000, 0.44),
        (9600, 0.50),
        (10500, 0.55),
    ]
).T
# The atlas' lines in the same unit: with this factor lines and continuum have the ratio of BOSS.
_LINES = 0.36
# Moonlight is sunlight made bluer by scattering (Krisciunas & Schaefer 1991, PASP 103, 1033); the
# slope lies between Rayleigh's and Mie's.
_MOON_SLOPE = -1.6
# Oxygen, sodium and nitrogen lines come and go on their own, not with the OH bands.
_OTHER = (5200.7, 5578.9, 5891.6, 5897.6, 6302.0, 6365.5)
# Mercury of street lamps: wavelength in vacuum, equivalent width of the dark continuum in Angstrom.
_MERCURY = ((4047.7, 1.5), (4359.6, 6.0), (5462.3, 6.0), (5771.2, 1.2), (5792.3, 1.2))
# Red oxygen was bright when the atlas was taken.
_RED_OXYGEN, _RED_OXYGEN_FACTOR = (6295.0, 6370.0), 0.4
# Wings of the line-spread functions: share of the light, and width over that of the core.
_WING, _WIDER = 0.04, 4.0
_REACH = 4.0


@dataclass(frozen=True, kw_only=True)
class SkyState:
    """State how bright the sky is, in units of a usual dark night.

    Parameters
    ----------
    continuum, bands, lines : float
        Dark continuum, OH bands, and the other lines.
    moon : float
        Moonlight, in units of the dark continuum at 5500 Angstrom.
    """

    continuum: float = 1.0
    bands: float = 1.0
    lines: float = 1.0
    moon: float = 0.0


class NightSky:
    """Hold the parts of the sky's spectrum as an instrument resolves them.

    Parameters
    ----------
    wavelength : array, shape (pixel,)
        Angstrom, vacuum.
    sigma : array, shape (pixel,)
        Width of the line-spread function with the pixel, Angstrom, one sigma.
    """

    def __init__(self, wavelength: np.ndarray, sigma: np.ndarray) -> None:
        self.continuum = np.interp(wavelength, *DARK_CONTINUUM).astype(np.float32)
        level = np.interp(5500.0, *DARK_CONTINUUM)
        self.moon = (level * (wavelength / 5500.0) ** _MOON_SLOPE).astype(np.float32)
        table = tables.load("night_sky")
        start, step = table["grid"]
        source = _LINES * table["lines"].ravel()
        at = start + step * np.arange(source.size)
        red = (at > _RED_OXYGEN[0]) & (at < _RED_OXYGEN[1])
        other = np.zeros(source.size, dtype=bool)
        for line in _OTHER:
            other |= np.abs(at - line) < 3.0
        source[red & other] *= _RED_OXYGEN_FACTOR
        mercury = np.zeros(source.size)
        for line, width in _MERCURY:
            mercury[round((line - start) / step)] = width * level / step
        self.bands = _blurred(np.where(other, 0.0, source), start, step, wavelength, sigma)
        self.lines = _blurred(np.where(other, source, mercury), start, step, wavelength, sigma)

    def smooth(self, state: SkyState) -> np.ndarray:
        """Return the continuum, 1e-17 erg s-1 cm-2 A-1 arcsec-2, float32, shape (pixel,)."""
        return self.continuum * np.float32(state.continuum) + self.moon * np.float32(state.moon)

    def emission(self, state: SkyState) -> np.ndarray:
        """Return the emission lines, in the same unit."""
        return self.bands * np.float32(state.bands) + self.lines * np.float32(state.lines)


def _blurred(
    source: np.ndarray, start: float, step: float, wavelength: np.ndarray, sigma: np.ndarray
) -> np.ndarray:
    """Return a finely binned spectrum as seen through a line-spread function with wings."""
    nearest = np.rint((wavelength - start) / step).astype(int)
    seen = np.zeros(len(wavelength))
    for share, factor in ((1 - _WING, 1.0), (_WING, _WIDER)):
        width = factor * sigma
        reach = int(np.ceil(_REACH * width.max() / step))
        for shift in range(-reach, reach + 1):
            index = nearest + shift
            offset = start + step * index - wavelength
            weight = np.exp(-0.5 * (offset / width) ** 2) * (step / (width * np.sqrt(2 * np.pi)))
            seen += share * weight * source[index.clip(0, source.size - 1)]
    return seen.astype(np.float32)
