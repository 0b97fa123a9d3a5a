"""Surface brightness of smooth galaxies: on pixels, and as Fourier transforms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from scipy import fft
from scipy.special import erfc, gamma, gammaincc, gammaincinv

__all__ = ["Grid", "Sersic", "edge_on", "sersic_norm"]

# Sérsic indices are rounded to this, so that transforms can be kept.
_INDEX_STEP = 0.05
# Logarithmic grid of the Hankel transform: points, step, and the part of it that is used.
_POINTS, _STEP = 4096, 0.008
_LOG_K_MIN, _LOG_K_MAX, _TABLE = -9.0, 7.0, 2048
# Pixels along the minor axis by which a profile is softened at least, where it is split; and the
# share of light beyond the stamp from which it is.
_SOFT_PIXELS = 2.0
_LEAVES = 0.002
# Integral of sqrt(1 + pi x / 2) exp(-x) over x > 0.
_ALONG = float(1 + np.pi / np.sqrt(8) * np.exp(2 / np.pi) * erfc(np.sqrt(2 / np.pi)))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Place the pixels of a square stamp on the sky about an object.

    Parameters
    ----------
    size : int
        Side in pixels.
    scale : float
        Side of a pixel in arcsec.
    x, y : float
        Position of the object in the stamp, pixels from 0.
    """

    size: int
    scale: float
    x: float
    y: float

    @cached_property
    def across(self) -> np.ndarray:
        """Arcsec to the right of the object (west on the sky), float32, shape (1, x)."""
        pixels = np.arange(self.size, dtype=np.float64) - self.x
        return (pixels * self.scale).astype(np.float32)[None, :]

    @cached_property
    def up(self) -> np.ndarray:
        """Arcsec above the object (north on the sky), float32, shape (y, 1)."""
        pixels = np.arange(self.size, dtype=np.float64) - self.y
        return (pixels * self.scale).astype(np.float32)[:, None]

    def along(self, pa_deg: float) -> tuple[np.ndarray, np.ndarray]:
        """Return coordinates along a position angle and 90 degrees counter-clockwise of it.

        Arcsec, each of shape (y, x). East is to the left, so that position angles, north through
        east, grow counter-clockwise in the image.
        """
        return _turn(self.across, self.up, pa_deg)


def _turn(across, up, pa_deg: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn image coordinates into those along a position angle and across it."""
    sine, cosine = np.float32(np.sin(np.radians(pa_deg))), np.float32(np.cos(np.radians(pa_deg)))
    return up * cosine - across * sine, -across * cosine - up * sine


@lru_cache(maxsize=4096)
def sersic_norm(n: float) -> tuple[float, float]:
    """Return b of a Sérsic profile, and its central brightness for unit flux and radius.

    b makes the effective radius hold half the light: the median of a Gamma distribution of shape 2n
    (Ciotti 1991, eq. 6). The integral of exp(-b r^(1/n)) over the plane is 2 pi n b^(-2n) Gamma(2n)
    (e.g. Graham & Driver 2005, eq. 4).
    """
    b = float(gammaincinv(2 * n, 0.5))
    return b, float(b ** (2 * n) / (2 * np.pi * n * gamma(2 * n)))


@dataclass(frozen=True, kw_only=True)
class Sersic:
    """Describe a Sérsic profile of unit flux; its index is rounded to 0.05.

    Its cusp is far finer than pixels and its halo far wider than stamps. So a large profile is the
    sum of two parts: one softened in the middle, r^2 -> r^2 + soft^2, which pixels can show, and
    the rest, which is compact, as a Fourier transform, where pixel and PSF are products. A small
    profile is a Fourier transform alone.

    Parameters
    ----------
    re : float
        Half-light radius along the major axis, arcsec.
    n : float
        Sérsic index.
    q : float
        Axis ratio.
    pa_deg : float
        Position angle of the major axis, north through east.
    """

    re: float
    n: float
    q: float = 1.0
    pa_deg: float = 0.0

    @cached_property
    def index(self) -> float:
        """Sérsic index, rounded."""
        return round(round(self.n / _INDEX_STEP) * _INDEX_STEP, 2)

    def split(self, grid: Grid) -> int | None:
        """Return how to split the profile on a stamp: None for a transform alone.

        Otherwise k, where the part in pixels is softened by re / 2^k: as finely as pixels can show,
        if that is finer than the half-light radius or light would leave the stamp, to come back on
        its other side.
        """
        k = int(np.floor(np.log2(self.re * self.q / grid.scale / _SOFT_PIXELS)))
        if k >= 1:
            return min(k, 5)
        b, _ = sersic_norm(self.index)
        edge = 0.5 * grid.size * grid.scale / self.re
        leaves = gammaincc(2 * self.index, b * edge ** (1 / self.index)) > _LEAVES
        return max(k, -4) if leaves else None

    def pixels(self, grid: Grid, split: int) -> np.ndarray:
        """Return the softened part in the middle of pixels, flux a pixel, float32, shape (y, x)."""
        b, norm = sersic_norm(self.index)
        u, v = grid.along(self.pa_deg)
        u *= np.float32(1 / self.re)
        v *= np.float32(1 / (self.re * self.q))
        u *= u
        v *= v
        u += v
        u += np.float32(4.0**-split)
        np.power(u, np.float32(0.5 / self.index), out=u)
        u *= np.float32(-b)
        np.exp(u, out=u)
        u *= np.float32(norm * grid.scale**2 / (self.re**2 * self.q))
        return u

    def transform(self, grid: Grid, split: int | None) -> np.ndarray:
        """Return the Fourier transform of what `pixels` leaves out, or of all of it for None.

        Returns
        -------
        array of float32, shape (y, x // 2 + 1)
            About the centre of the profile; of the profile itself, not averaged over pixels.
        """
        across, up = _waves(grid.size, grid.scale)
        u, v = _turn(across, up, self.pa_deg)
        u *= np.float32(self.re)
        v *= np.float32(self.re * self.q)
        u *= u
        v *= v
        u += v
        u[0, 0] = np.float32(np.exp(2 * _LOG_K_MIN))
        table, steps = _table(self.index, split)
        place = np.log(u, out=u)
        place *= np.float32(0.5 * steps)
        place -= np.float32(_LOG_K_MIN * steps)
        np.clip(place, 0, _TABLE - 2, out=place)
        cell = place.astype(np.intp)
        place -= cell
        value, slope = table[0].take(cell, mode="clip"), table[1].take(cell, mode="clip")
        slope *= place
        value += slope
        return value


@lru_cache(maxsize=64)
def _waves(size: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return wave numbers of a real transform, radian an arcsec, float32."""
    across = (2 * np.pi * fft.rfftfreq(size, scale)).astype(np.float32)[None, :]
    up = (2 * np.pi * fft.fftfreq(size, scale)).astype(np.float32)[:, None]
    return across, up


@lru_cache(maxsize=1024)
def _table(n: float, split: int | None) -> tuple[np.ndarray, float]:
    """Tabulate the transform of a round profile of unit radius in ln k: values and differences.

    A Hankel transform on a logarithmic grid (Hamilton 2000).
    """
    middle = (_POINTS - 1) / 2
    log_r = (np.arange(_POINTS) - middle) * _STEP
    r = np.exp(log_r)
    b, norm = sersic_norm(n)
    bright = norm * np.exp(-b * r ** (1 / n))
    if split is not None:
        bright = bright - norm * np.exp(-b * (r * r + 4.0**-split) ** (0.5 / n))
    offset = fft.fhtoffset(_STEP, mu=0)
    found = fft.fht(bright * r, _STEP, mu=0, offset=offset)
    log_k = log_r + offset
    values = 2 * np.pi * found / np.exp(log_k)
    steps = (_TABLE - 1) / (_LOG_K_MAX - _LOG_K_MIN)
    wanted = _LOG_K_MIN + np.arange(_TABLE) / steps
    table = np.interp(wanted, log_k, values)
    pair = np.stack([table, np.append(np.diff(table), 0.0)]).astype(np.float32)
    pair.setflags(write=False)
    return pair, steps


def edge_on(grid: Grid, *, length: float, height: float, pa_deg: float) -> np.ndarray:
    """Return a disk seen from its edge, of unit total flux, shape (y, x), float32.

    Exponential along the plane, integrated along the line of sight, and sech^2 across it; van der
    Kruit & Searle (1981), eq. 5. The Bessel term x K1(x) is taken as sqrt(1 + pi x / 2) exp(-x),
    within 2 % of it, so that no special function is needed in float32.

    Parameters
    ----------
    grid : Grid
        Where the pixels are.
    length : float
        Scale length along the plane, arcsec.
    height : float
        Scale height z0 of sech^2(z / z0), arcsec.
    pa_deg : float
        Position angle of the plane.
    """
    u, v = grid.along(pa_deg)
    x = np.abs(u, out=u)
    x *= np.float32(1 / length)
    image = np.sqrt(1 + np.float32(np.pi / 2) * x) * np.exp(-x)
    z = np.exp(np.abs(v, out=v) * np.float32(-2 / height))
    image *= 4 * z / (1 + z) ** 2
    image *= np.float32(grid.scale**2 / (2 * length * _ALONG * 2 * height))
    return image
