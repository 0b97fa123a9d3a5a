"""The other sources in a frame: galaxies and stars at the counts and colours of the sky."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtri

from omnisky.mock import seeds

__all__ = ["COLOUR_BANDS", "Sources", "around"]

# Sources are drawn in square cells about the object, so that a larger frame only adds sources.
_CELL_ARCSEC = 46.0
COLOUR_BANDS = ("g", "r", "i", "z", "y")
# Bright ones are drawn in larger cells, and further out, for their light reaches far.
_BRIGHT_CELL_ARCSEC = 140.0
_BRIGHT_REACH_ARCSEC = 49.0
_BRIGHT_MAG = 17.0
_FAINT_MAG = 26.8

# Galaxies and stars brighter than an r magnitude, log10 of the number a square arcmin. Galaxies:
# Yasuda et al. (2001) to r = 20, Capak et al. (2007) beyond. Stars: b near 50 degrees; Juric et al.
# (2008).
_MAG = np.array(
    [11.0, 13.0, 15.0, 17.0, 18.0, 19.0, 20.0, 21.0, 22.0, 23.0, 24.0, 25.0, 26.0, 27.0]
)
_GALAXIES = np.array(
    [-5.6, -4.4, -3.25, -2.1, -1.55, -1.0, -0.5, -0.08, 0.32, 0.72, 1.1, 1.45, 1.76, 2.0]
)
_STARS = np.array(
    [-2.3, -1.6, -1.0, -0.6, -0.4, -0.22, -0.07, 0.05, 0.14, 0.22, 0.3, 0.36, 0.4, 0.43]
)

# Colours g-r, r-i, i-z, z-y of galaxies with old and with young stars, by redshift.
_REDSHIFT = np.array([0.05, 0.2, 0.35, 0.5, 0.7, 0.9, 1.2, 1.6, 2.5])
_OLD = np.array(
    [
        [0.80, 1.15, 1.50, 1.75, 1.70, 1.50, 1.30, 1.10, 0.90],
        [0.38, 0.45, 0.52, 0.75, 1.05, 1.15, 0.95, 0.80, 0.70],
        [0.22, 0.28, 0.33, 0.38, 0.50, 0.70, 0.85, 0.70, 0.60],
        [0.12, 0.15, 0.18, 0.20, 0.25, 0.30, 0.45, 0.50, 0.40],
    ]
)
_YOUNG = np.array(
    [
        [0.40, 0.55, 0.75, 0.75, 0.55, 0.45, 0.35, 0.25, 0.20],
        [0.20, 0.25, 0.30, 0.42, 0.55, 0.48, 0.38, 0.22, 0.10],
        [0.10, 0.14, 0.18, 0.22, 0.28, 0.40, 0.42, 0.25, 0.10],
        [0.05, 0.07, 0.09, 0.10, 0.13, 0.18, 0.25, 0.22, 0.08],
    ]
)
# Stellar locus by g-i: Covey et al. (2007), table 3.
_G_I = np.array([-0.4, 0.2, 0.5, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.6])
_LOCUS = np.array(
    [
        [-0.28, 0.16, 0.37, 0.58, 0.87, 1.13, 1.30, 1.42, 1.43, 1.50],
        [-0.12, 0.04, 0.13, 0.22, 0.33, 0.47, 0.70, 1.08, 1.57, 2.10],
        [-0.10, 0.00, 0.03, 0.09, 0.16, 0.25, 0.38, 0.57, 0.82, 1.10],
        [-0.06, 0.00, 0.02, 0.05, 0.09, 0.13, 0.18, 0.27, 0.40, 0.60],
    ]
)


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Hold sources about an object; arrays of shape (source,) but for `flux`.

    Parameters
    ----------
    east, north : array
        Position from the object, arcsec.
    flux : array, shape (source, 5)
        Fluxes in `COLOUR_BANDS`, nmgy.
    star : array of bool
        Whether it is a star.
    re, q, pa : array
        Half-light radius (arcsec), axis ratio and position angle (degrees) of galaxies.
    kind : array
        Uniform numbers that tell smooth galaxies from others.
    """

    east: np.ndarray
    north: np.ndarray
    flux: np.ndarray
    star: np.ndarray
    re: np.ndarray
    q: np.ndarray
    pa: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.east)

    def only(self, which: np.ndarray) -> Sources:
        """Return some of them, by a boolean array or indices."""
        return Sources(**{name: getattr(self, name)[which] for name in _FIELDS})


_FIELDS = tuple(Sources.__dataclass_fields__)


def _numbers(low: float, high: float) -> tuple[float, float]:
    """Return how many galaxies and stars a square arcmin lie between two magnitudes."""
    found = []
    for counts in (_GALAXIES, _STARS):
        below, above = 10 ** np.interp([low, high], _MAG, counts)
        found.append(float(above - below))
    return found[0], found[1]


def _field(
    key: tuple[int, int, str], half: float, mags: tuple[float, float], richness: np.ndarray
) -> np.ndarray:
    """Draw the numbers of a square field of half-width `half` arcsec, shape (13, source).

    Rows: nine uniform numbers, whether it is a star, log10 of the counts at the two magnitudes, and
    `half`.
    """
    galaxies, stars = (count * (2 * half / 60) ** 2 for count in _numbers(*mags))
    most = int(np.ceil(2.2 * (galaxies + stars) + 8))
    (u,) = seeds.uniforms(key[0], np.array([key[1]]), key[2], 2 + 9 * most)
    n_g = min(_poisson(galaxies * richness[0], u[0]), most)
    n = min(n_g + _poisson(stars * richness[1], u[1]), most)
    found = np.empty((13, n))
    found[:9] = u[2:].reshape(9, most)[:, :n]
    found[9] = np.arange(n) >= n_g
    for part, counts in ((slice(0, n_g), _GALAXIES), (slice(n_g, n), _STARS)):
        found[10:12, part] = 10 ** np.interp(mags, _MAG, counts)[:, None]
    found[12] = half
    return found


def _sources(found: np.ndarray) -> Sources:
    """Turn random numbers into sources."""
    u, star, half = found[:9], found[9] > 0, found[12]
    counts = np.log10(found[10] + u[0] * (found[11] - found[10]))
    mag = np.where(star, np.interp(counts, _STARS, _MAG), np.interp(counts, _GALAXIES, _MAG))
    colours = np.where(star, _star_colours(mag, u), _galaxy_colours(mag, u))
    return Sources(
        east=(2 * u[1] - 1) * half,
        north=(2 * u[2] - 1) * half,
        flux=_fluxes(mag, colours),
        star=star,
        re=_radius(mag, u[5]),
        q=0.25 + 0.73 * u[6] ** 0.8,
        pa=180 * u[7],
        kind=u[8],
    )


def _poisson(mean: float, u: float) -> int:
    """Return the Poisson quantile of a uniform number, to a normal's accuracy for large means."""
    if mean > 30:
        # Cornish-Fisher of the second order.
        z = float(ndtri(u))
        return max(0, int(mean + np.sqrt(mean) * z + (z * z - 1) / 6 + 0.5))
    total = term = float(np.exp(-mean))
    n = 0
    while u > total and n < 200:
        n += 1
        term *= mean / n
        total += term
    return n


def _galaxy_colours(mag: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return g-r, r-i, i-z, z-y of galaxies, shape (4, source)."""
    median = 0.09 * 10 ** (0.14 * (np.minimum(mag, 25.0) - 16.5))
    redshift = median * (0.35 + 1.3 * u[3])
    old = u[4] < np.clip(0.5 - 0.055 * (mag - 17), 0.06, 0.5)
    mix = 0.55 * (2 * u[8] - 1)
    found = []
    for k in range(4):
        of_old, of_young = (
            np.interp(redshift, _REDSHIFT, _OLD[k]),
            np.interp(redshift, _REDSHIFT, _YOUNG[k]),
        )
        found.append(np.where(old, of_old, of_young + mix * 0.5 * (of_old - of_young)))
    return np.stack(found)


def _star_colours(mag: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return colours of stars, shape (4, source): turn-off stars, and ever more red dwarfs."""
    red = np.clip(0.18 + 0.075 * (mag - 14), 0.15, 0.8)
    blue = u[3] > red
    g_i = np.where(blue, 0.35 + 0.9 * u[4] ** 1.5, 1.2 + 1.9 * u[4] ** 0.9)
    return np.stack([np.interp(g_i, _G_I, locus) for locus in _LOCUS])


def _fluxes(mag: np.ndarray, colours: np.ndarray) -> np.ndarray:
    r = mag
    i = r - colours[1]
    z = i - colours[2]
    return 10 ** (-0.4 * (np.stack([r + colours[0], r, i, z, z - colours[3]], axis=1) - 22.5))


def _radius(mag: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Return half-light radii, arcsec: 0.35 at r = 23.5, lognormal; Shibuya et al. (2015)."""
    return np.clip(0.38 * 10 ** (-0.115 * (mag - 23.0) + 0.18 * ndtri(u)), 0.08, 12.0)


def around(seed: int, object_id: int, half_arcsec: float) -> Sources:
    """Draw all sources in a frame and the bright ones about it.

    Parameters
    ----------
    seed, object_id : int
        Seed of the universe and number of the object.
    half_arcsec : float
        Half the side of the frame.
    """
    reach = [
        max(0, int(np.ceil((half_arcsec + more) / side - 0.5 - 1e-9)))
        for side, more in ((_CELL_ARCSEC, 0.0), (_BRIGHT_CELL_ARCSEC, _BRIGHT_REACH_ARCSEC))
    ]
    return _around(seed, object_id, reach[0], reach[1])


# More than are made at a time before the other instrument has its turn; 5 kB each.
@lru_cache(maxsize=256)
def _around(seed: int, object_id: int, far: int, bright: int) -> Sources:
    """Draw sources up to so many cells away; kept, for the other instrument sees the same."""
    # Large-scale structure makes counts scatter by more than Poisson's law; stars follow latitude.
    (z,) = seeds.normals(seed, np.array([object_id]), "images/neighbours/richness", 2)
    richness = np.exp(np.array([0.22, 0.35]) * z - np.array([0.024, 0.06]))
    fields, places = [], []
    for name, cells, side, mags in (
        ("faint", far, _CELL_ARCSEC, (_BRIGHT_MAG, _FAINT_MAG)),
        ("bright", bright, _BRIGHT_CELL_ARCSEC, (_MAG[0], _BRIGHT_MAG)),
    ):
        for row in range(-cells, cells + 1):
            for column in range(-cells, cells + 1):
                key = (seed, object_id, f"images/neighbours/{name}/{column}/{row}")
                fields.append(_field(key, side / 2, mags, richness))
                places += [(column * side, row * side)] * fields[-1].shape[1]
    found = _sources(np.concatenate(fields, axis=1))
    if far or bright:
        np.add(found.east, np.array(places)[:, 0], out=found.east)
        np.add(found.north, np.array(places)[:, 1], out=found.north)
    for name in _FIELDS:
        getattr(found, name).setflags(write=False)
    return found
