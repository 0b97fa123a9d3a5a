"""Images of a source behind a galaxy: singular isothermal ellipsoid and external shear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.mock.images.light.profiles import Grid, sersic_norm
from omnisky.mock.truth import Truth

__all__ = ["Lens", "draw_source"]


@dataclass(frozen=True, kw_only=True)
class Lens:
    """Describe a lens: a singular isothermal ellipsoid in an external shear.

    Parameters
    ----------
    theta_e : float
        Einstein radius, arcsec; of the circle of the same area as the critical curve.
    q : float
        Axis ratio of the mass.
    pa_deg : float
        Position angle of the mass, north through east.
    shear : float
        Strength of the shear.
    shear_pa_deg : float
        Position angle in which images are stretched by the shear.
    """

    theta_e: float
    q: float = 0.8
    pa_deg: float = 0.0
    shear: float = 0.0
    shear_pa_deg: float = 0.0

    def deflection(self, east: np.ndarray, north: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the deflection to the east and to the north at sky positions, arcsec.

        Kormann, Schneider & Bartelmann (1994), eq. 27, with the convergence
        theta_E / (2 sqrt(q u^2 + v^2 / q)), u along the major axis.
        """
        pa = np.radians(self.pa_deg)
        sine, cosine = np.sin(pa), np.cos(pa)
        u, v = east * sine + north * cosine, east * cosine - north * sine
        q = min(max(self.q, 0.05), 0.9999)
        eccentric = np.sqrt(1 - q * q)
        psi = np.sqrt(q * q * u * u + v * v) + 1e-12
        factor = self.theta_e * np.sqrt(q) / eccentric
        along = factor * np.arctan(eccentric * u / psi)
        across = factor * np.arctanh(eccentric * v / psi)
        # A shear with its potential stretched along its position angle: images move outwards there.
        twice = 2 * np.radians(self.shear_pa_deg)
        plus, cross = -self.shear * np.cos(twice), self.shear * np.sin(twice)
        return (
            along * sine + across * cosine + plus * east + cross * north,
            along * cosine - across * sine + cross * east - plus * north,
        )


def draw_source(truth: Truth, grid: Grid, *, oversampling: int = 3) -> np.ndarray:
    """Return the images of a lensed exponential source of unit unlensed flux.

    Parameters
    ----------
    truth : Truth
        One lens: the columns ``lens_*`` and ``source_*``.
    grid : Grid
        Where the pixels are.
    oversampling : int
        Rays a pixel in each direction. Odd.

    Returns
    -------
    array of float32, shape (y, x)
        Flux a pixel; its sum is the magnification.
    """
    values = {name: float(truth[name][0]) for name in _NAMES}
    lens = Lens(
        theta_e=values["lens_theta_e"],
        q=_or(values["lens_q"], 0.8),
        pa_deg=_or(values["lens_pa"], 0.0),
        shear=_or(values["lens_shear"], 0.0),
        shear_pa_deg=_or(values["lens_shear_pa"], 0.0),
    )
    steps = (np.arange(oversampling) - (oversampling - 1) / 2) / oversampling * grid.scale
    east = -(grid.across[:, :, None].astype(np.float64) + steps).reshape(1, -1)
    north = (grid.up[:, :, None].astype(np.float64) + steps).reshape(-1, 1)
    alpha_e, alpha_n = lens.deflection(east, north)
    x, y = east - alpha_e - values["source_x"], north - alpha_n - values["source_y"]
    pa, q = np.radians(_or(values["source_pa"], 0.0)), _or(values["source_q"], 1.0)
    u = x * np.sin(pa) + y * np.cos(pa)
    v = (x * np.cos(pa) - y * np.sin(pa)) / q
    re = values["source_re"]
    b, norm = sersic_norm(1.0)
    bright = np.exp(-b * np.sqrt(u * u + v * v) / re) * (norm / (re * re * q))
    size = grid.size
    means = bright.reshape(size, oversampling, size, oversampling).mean(axis=(1, 3))
    return (means * grid.scale**2).astype(np.float32)


def _or(value: float, instead: float) -> float:
    return instead if value != value else value


_NAMES = (
    "lens_theta_e",
    "lens_q",
    "lens_pa",
    "lens_shear",
    "lens_shear_pa",
    "source_x",
    "source_y",
    "source_re",
    "source_q",
    "source_pa",
)
