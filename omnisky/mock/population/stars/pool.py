"""What stars a line of sight holds: isochrones weighted with the structure of the Galaxy.

The pool lists every cell (component, age, metallicity, evolutionary point) of the isochrone table
and the white dwarfs, with the number of such stars brighter than a limit along the line of sight.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = ["COMPONENTS", "Component", "StarPool", "galactic", "pool"]

# AB minus Vega zero points of EDR3 (Riello et al. 2021, section 5).
GAIA_AB_MINUS_VEGA = {"gaia_g": 0.1136, "gaia_bp": 0.0155, "gaia_rp": 0.3561}
SUN_PC, SUN_HEIGHT_PC = 8200.0, 20.0
_BRIGHTEST_G = 10.0  # brighter stars saturate everywhere; they are drawn as holes (see places)
_WHITE_DWARF_COOLING_GYR = np.geomspace(0.03, 9.0, 41)


@dataclass(frozen=True, kw_only=True)
class Component:
    """Describe a component of the Galaxy.

    Parameters
    ----------
    local : float
        Share of its stars near the Sun.
    ages : (float, float)
        Ages in Gyr, equally likely.
    feh : (float, float)
        Mean and scatter of [Fe/H].
    velocity : (float, float, float)
        Dispersions towards the centre, with rotation and to the north pole, km / s.
    lag : float
        By how much it rotates slower than a circular orbit, km / s.
    """

    local: float
    ages: tuple[float, float]
    feh: tuple[float, float]
    velocity: tuple[float, float, float]
    lag: float


# Structure: Juric et al. (2008, table 10). Metallicities: Ivezic et al. (2008). Motions: Bensby et
# al. (2003, table 1) for disks, Bond et al. (2010) for the halo. The local share of the halo is
# below Juric's 0.0051, which counts stars of given colour, not of given mass.
COMPONENTS = (
    Component(local=0.905, ages=(0.3, 9.0), feh=(-0.10, 0.20), velocity=(38, 24, 20), lag=12),
    Component(local=0.093, ages=(9.0, 12.0), feh=(-0.55, 0.24), velocity=(65, 45, 40), lag=46),
    Component(local=0.0022, ages=(11.0, 13.5), feh=(-1.50, 0.40), velocity=(140, 85, 80), lag=215),
)


def galactic(ra_deg: float | np.ndarray, dec_deg: float | np.ndarray) -> np.ndarray:
    """Return unit vectors in Galactic coordinates (to the centre, with rotation, to the pole).

    Parameters
    ----------
    ra_deg, dec_deg : float or array, shape (object,)
        ICRS degrees.

    Returns
    -------
    array, shape (3,) or (3, object)
    """
    return rotate(ICRS_TO_GALACTIC, unit(np.radians(ra_deg), np.radians(dec_deg)))


def unit(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return unit vectors of directions in radians, shape (3, ...)."""
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])


def rotate(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Multiply a 3 x 3 matrix with vectors, shape (3, ...), in an order that never changes."""
    return np.stack(
        [row[0] * vector[0] + row[1] * vector[1] + row[2] * vector[2] for row in matrix]
    )


# Hipparcos catalogue (ESA SP-1200, 1997), volume 1, equation 1.5.11.
ICRS_TO_GALACTIC = np.array(
    [
        [-0.0548755604, -0.8734370902, -0.4838350155],
        [+0.4941094279, -0.4448296300, +0.7469822445],
        [-0.8676661490, -0.1980763734, +0.4559837762],
    ]
)


def density(component: int, distance_pc: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the density of a component over that at the Sun (Juric et al. 2008, eqs. 22 to 26)."""
    x = SUN_PC - distance_pc * direction[0]
    radius = np.hypot(x, distance_pc * direction[1])
    height = distance_pc * direction[2] + SUN_HEIGHT_PC
    if component == 2:
        flattened = np.sqrt(radius**2 + (height / 0.64) ** 2)
        return (flattened / SUN_PC) ** -2.77
    length, thickness = ((2600.0, 300.0), (3600.0, 900.0))[component]
    return np.exp((SUN_PC - radius) / length - (np.abs(height) - SUN_HEIGHT_PC) / thickness)


@dataclass(frozen=True)
class StarPool:
    """Hold the cells of a line of sight and how many stars of each are brighter than the limit."""

    cdf: np.ndarray  # (cell,) cumulative, ordinary stars first, then white dwarfs
    ordinary: float  # share of the first
    component: np.ndarray
    age: np.ndarray  # index of the isochrone table; of white dwarfs, of the cooling age
    feh: np.ndarray
    eep: np.ndarray  # index, -1 for white dwarfs
    reach: np.ndarray  # (cell, 2) share of the component's column within the near and far limit
    distance: np.ndarray  # (distance,) pc
    column: np.ndarray  # (component, distance) stars per deg^2 out to there, cumulative, in shares
    total: float  # stars per square degree


@lru_cache(maxsize=8)
def pool(ra_deg: float, dec_deg: float, limit_g: float, ebv: float) -> StarPool:
    """Tabulate the stars between G = 10 and a limit along a line of sight."""
    direction = galactic(ra_deg, dec_deg)
    distance = np.geomspace(15.0, 2.0e5, 600)
    shells = np.diff(distance**3) / 3 * (np.pi / 180) ** 2
    middle = np.sqrt(distance[1:] * distance[:-1])
    column = np.stack([density(k, middle, direction) * shells for k in range(3)])
    column = np.concatenate([np.zeros((3, 1)), np.cumsum(column, axis=1)], axis=1)
    total = column[:, -1]
    parts = [_isochrone_cells(k) for k in range(3)] + [_white_dwarf_cells(k) for k in range(2)]
    component, age, feh, eep, weight, m_g = (
        np.concatenate(values) for values in zip(*parts, strict=True)
    )
    a_g = 0.86 * 3.1 * ebv
    reach = np.empty((len(m_g), 2))
    for side, limit in enumerate((_BRIGHTEST_G, limit_g)):
        at = np.log(10.0 ** (0.2 * (limit - m_g - a_g) + 1))
        for k in range(3):
            here = component == k
            reach[here, side] = np.interp(at[here], np.log(distance), column[k] / total[k])
    number = weight * (reach[:, 1] - reach[:, 0]) * total[component]
    kept = number > 0
    cdf = np.cumsum(number[kept])
    return StarPool(
        cdf / cdf[-1],
        float(number[kept][eep[kept] >= 0].sum() / cdf[-1]),
        component[kept],
        age[kept],
        feh[kept],
        eep[kept],
        reach[kept],
        distance,
        column / total[:, None],
        float(cdf[-1]),
    )


def _isochrone_cells(component: int) -> tuple[np.ndarray, ...]:
    """Return component, age, feh, eep, stars per pc^3 near the Sun and M_G of isochrone cells."""
    from scipy.special import ndtr

    from omnisky.mock import tables

    table = tables.load("isochrones")
    spec = COMPONENTS[component]
    ages = _bins(table["age"], geometric=True)
    a_share = np.clip(
        np.minimum(ages[1:], spec.ages[1]) - np.maximum(ages[:-1], spec.ages[0]), 0, None
    )
    a_share = a_share / a_share.sum()

    f_edges = (_bins(table["feh"], geometric=False) - spec.feh[0]) / spec.feh[1]
    f_share = np.diff(ndtr(f_edges))
    mass, log_t, log_l = (table[k].astype(np.float64) for k in ("mass", "log_t", "log_l"))
    stars = np.diff(_kroupa_below(mass), axis=0)  # between consecutive points
    weight = spec.local * _LOCAL_PER_PC3 * stars * a_share[:, None] * (f_share / f_share.sum())
    teff = 10.0 ** (0.5 * (log_t[1:] + log_t[:-1]))
    logg = 0.5 * (table["logg"][1:] + table["logg"][:-1])
    iron = np.broadcast_to(table["feh"], teff.shape)
    m_g = _absolute_g(teff, logg, iron, 0.5 * (log_l[1:] + log_l[:-1]))
    eep, age, feh = np.indices(weight.shape)
    flat = weight.ravel() > 0
    parts = (np.full(weight.size, component), age.ravel(), feh.ravel(), eep.ravel())
    return tuple(part[flat] for part in (*parts, weight.ravel(), m_g.ravel()))


def _absolute_g(teff, logg, feh, log_luminosity) -> np.ndarray:
    """Return absolute magnitudes in G, Vega system."""
    from omnisky.mock.sed.isochrones import star_magnitudes

    t, g, iron, light = (np.ravel(values) for values in (teff, logg, feh, log_luminosity))
    ab, _ = star_magnitudes(t, g, iron, light, np.full(t.size, 10.0), np.zeros(t.size))
    return ab.reshape(np.shape(teff)) - GAIA_AB_MINUS_VEGA["gaia_g"]


def _bins(centres: np.ndarray, *, geometric: bool) -> np.ndarray:
    """Return edges half way between centres."""
    x = np.log(centres) if geometric else centres
    inner = 0.5 * (x[1:] + x[:-1])
    edges = np.concatenate([[2 * x[0] - inner[0]], inner, [2 * x[-1] - inner[-1]]])
    return np.exp(edges) if geometric else edges


_LOCAL_PER_PC3 = 0.098  # living stars above 0.1 solar masses (Reyle et al. 2021: 10 pc sample)


def _kroupa_below(mass: np.ndarray) -> np.ndarray:
    """Return the share of stars above 0.1 solar masses with less than some mass (Kroupa 2001)."""
    low = (0.1**-0.3 - np.minimum(mass, 0.5) ** -0.3) / 0.3
    high = np.where(mass > 0.5, 0.5 * (0.5**-1.3 - np.maximum(mass, 0.5) ** -1.3) / 1.3, 0.0)
    total = (0.1**-0.3 - 0.5**-0.3) / 0.3 + 0.5 * (0.5**-1.3 - 1.0**-1.3) / 1.3
    return (low + high) / total  # those above a solar mass have mostly died: not counted as local


def _white_dwarf_cells(component: int) -> tuple[np.ndarray, ...]:
    """Return cells of white dwarfs: 4.5e-3 per pc^3 near the Sun (Hollands et al. 2018)."""
    from omnisky.mock.sed.isochrones import white_dwarf

    cooling = 0.5 * (_WHITE_DWARF_COOLING_GYR[1:] + _WHITE_DWARF_COOLING_GYR[:-1])
    n = len(cooling)
    share = np.diff(_WHITE_DWARF_COOLING_GYR) / _WHITE_DWARF_COOLING_GYR[-1]
    weight = 4.5e-3 * (0.8, 0.2)[component] * share
    log_t, log_g, log_l = white_dwarf(cooling, np.full(n, 0.6))
    m_g = _absolute_g(10.0**log_t, log_g, np.zeros(n), log_l)
    index = np.arange(n)
    nothing = np.full(n, -1)
    return np.full(n, component), index, nothing, nothing, weight, m_g


def cooling_edges() -> np.ndarray:
    """Return the edges of the cells of cooling age, Gyr."""
    return _WHITE_DWARF_COOLING_GYR
