"""The ten spectrographs of the DESI-like instrument: grids, efficiencies, resolution."""

from __future__ import annotations

from functools import cache

import numpy as np

from omnisky.mock.seeds import normals
from omnisky.mock.spectra.exposure import Detector, per_photon, transmission
from omnisky.mock.spectra.night import NightSky

__all__ = ["ARMS", "PARTS", "PETALS", "PIXELS", "WAVELENGTH", "Spectrograph", "spectrograph"]

STEP, PIXELS, PETALS = 0.8, 7781, 10
WAVELENGTH = np.round(3600.0 + STEP * np.arange(PIXELS), 10)
# Pixels of each arm on the common grid: 3600 to 5800, 5760 to 7620, 7520 to 9824 Angstrom.
PARTS = {"b": slice(0, 2751), "r": slice(2700, 5026), "z": slice(4900, 7781)}
# The same one after the other.
ARMS = (slice(0, 2751), slice(2751, 5077), slice(5077, 7958))
_FIBRE_ARCSEC2 = 1.77
_AREA_CM2 = 9.5e4
# Where one arm gives way to the next for the resolution that light is seen with.
_JOINTS = (5780.0, 7570.0)

# Photo-electrons a photon on the mirror, fibre losses apart, atmosphere at airmass 1 included.
_EFFICIENCY = {
    "b": """3600 .025 3650 .032 3725 .046 3825 .061 3925 .080 4025 .093 4125 .106 4225 .118
        4325 .122 4425 .128 4525 .134 4625 .145 4725 .156 4825 .166 4925 .172 5100 .179 5325 .180
        5600 .172 5720 .165 5800 .155""",
    "r": """5700 .142 5885 .155 5985 .174 6085 .193 6285 .203 6485 .218 6685 .237 6800 .257
        7000 .269 7200 .269 7450 .258 7620 .249""",
    "z": """7500 .281 7650 .290 7745 .305 7845 .320 8045 .362 8245 .376 8545 .401 8800 .388
        9000 .371 9245 .365 9330 .294 9500 .256 9700 .262 9824 .267""",
}
# Dichroics: where half the light goes either way, and how fast.
_EDGES = {"b": (5850.0, -22.0), "r": (5828.0, 20.0), "z": (7535.0, 16.0)}
_RED_END = (7580.0, -10.0)
# Read-out noise in electrons and the pixels a spectrum is extracted from.
_READ_NOISE = {"b": 3.2, "r": 2.9, "z": 2.9}
_EXTRACTED = 4.5
# A coating of the collimators absorbs here.
_DIP = (4325.0, 16.0, 0.22)
# Width of the line-spread function, pixels of 0.8 Angstrom, one sigma.
_SIGMA = {
    "b": "3600 .85 4300 .85 5000 .86 5800 .83",
    "r": "5760 .79 6500 .81 7620 .81",
    "z": "7520 .90 8000 .85 8700 .90 9400 .95 9824 .96",
}
_DIAGONALS = np.arange(5, -6, -1)


def _curve(text: str, at: np.ndarray) -> np.ndarray:
    """Return a smooth curve through nodes given as text, at wavelengths."""
    from scipy.interpolate import PchipInterpolator

    nodes = np.array(text.split(), dtype=float).reshape(-1, 2).T
    return PchipInterpolator(*nodes)(at.clip(nodes[0, 0], nodes[0, -1]))


class Spectrograph:
    """Hold one of the ten spectrographs; they differ a little, the same in every universe.

    Parameters
    ----------
    petal : int
        Its number, 0 to 9.
    """

    def __init__(self, petal: int) -> None:
        differ = normals(0, np.array([petal]), "desi spectrographs", 16)[0].clip(-2, 2)
        self.wavelengths = {name: WAVELENGTH[part] for name, part in PARTS.items()}
        widths = {
            name: _curve(_SIGMA[name], grid) * (1 + 0.02 * differ[i])
            for i, (name, grid) in enumerate(self.wavelengths.items())
        }
        grid = np.concatenate(list(self.wavelengths.values()))
        sigma = np.concatenate(list(widths.values())) * STEP
        efficiency = np.concatenate(
            [self._efficiency(name, at, differ[3:]) for name, at in self.wavelengths.items()]
        )
        efficiency *= per_photon(grid, np.full(len(grid), STEP), _AREA_CM2)
        read = np.concatenate(
            [
                np.full(len(at), _EXTRACTED * _READ_NOISE[n] ** 2)
                for n, at in self.wavelengths.items()
            ]
        )
        ripple = 1 + 0.02 * normals(petal, np.arange(len(grid)), "desi pixels", 1)[:, 0]
        sky = NightSky(grid, sigma)
        self.place = np.concatenate(
            [np.linspace(-1, 1, len(at), dtype=np.float32) for at in self.wavelengths.values()]
        )
        self.detector = Detector(efficiency, read, sky, _FIBRE_ARCSEC2, ripple, self.place)
        self._resolution = [_diagonals(width) for width in widths.values()]
        arm = np.searchsorted(_JOINTS, WAVELENGTH)
        on_grid = np.stack(
            [_curve(_SIGMA[n], WAVELENGTH) * (1 + 0.02 * differ[i]) for i, n in enumerate(PARTS)]
        )
        chosen = on_grid[arm, np.arange(PIXELS)]
        self.resolution_fwhm = 2 * np.sqrt(2 * np.log(2)) * STEP * chosen

    @staticmethod
    def _efficiency(name: str, at: np.ndarray, differ: np.ndarray) -> np.ndarray:
        """Return photo-electrons a photon of one arm of one spectrograph."""
        value = _curve(_EFFICIENCY[name], at) * (1 + 0.06 * differ["brz".index(name)])
        edge, width = _EDGES[name]
        value *= 1 / (1 + np.exp(-(at - edge - 7 * differ[3]) / width))
        if name == "r":
            edge, width = _RED_END
            value *= 1 / (1 + np.exp(-(at - edge - 3 * differ[4]) / width))
        if name == "b":
            centre, width, depth = _DIP
            depth *= 1 + 0.6 * differ[5]
            value *= 1 - max(depth, 0.0) * np.exp(-0.5 * ((at - centre) / width) ** 2)
        return (value * transmission(at)).clip(2e-3)

    def arms(
        self, flux: np.ndarray, ivar: np.ndarray, mask: np.ndarray
    ) -> list[tuple[np.ndarray, ...]]:
        """Return wavelength, flux, inverse variance, mask and resolution of each arm."""
        return [
            (at, flux[arm], ivar[arm], mask[arm], resolution)
            for at, arm, resolution in zip(
                self.wavelengths.values(), ARMS, self._resolution, strict=True
            )
        ]


def _diagonals(sigma: np.ndarray) -> np.ndarray:
    """Return the diagonals of the resolution matrix for Gaussians of some width in pixels.

    Diagonal k of offset 5 - k holds at pixel j how much of the model at j goes to pixel
    j - (5 - k), as `scipy.sparse.dia_matrix` stores it.
    """
    column = np.arange(len(sigma))
    row = column - _DIAGONALS[:, None]
    # The pixel that receives decides the width.
    width = sigma[row.clip(0, len(sigma) - 1)]
    weight = np.exp(-0.5 * (_DIAGONALS[:, None] / width) ** 2)
    near = np.exp(-0.5 * (_DIAGONALS[:, None, None] / width) ** 2).sum(axis=0)
    weight = (weight / near).astype(np.float32)
    weight.setflags(write=False)
    return weight


@cache
def spectrograph(petal: int) -> Spectrograph:
    """Return one of the spectrographs, built once."""
    return Spectrograph(petal)
