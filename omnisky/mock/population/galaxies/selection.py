"""Which galaxies a sample holds: redshift distributions, and mass and type at each redshift.

The expected number of galaxies on a grid of redshift, type and mass follows from the mass function
and the chance to be brighter than the sample's limit. A galaxy then gets a redshift (from its
place in the cosmic web), and attempts of (type, mass, light) at that redshift until one is
bright enough: a fixed table of attempts, so that nothing depends on other galaxies.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from omnisky.mock.population.config import SAMPLES, UniverseConfig
from omnisky.mock.population.cosmology import comoving_mpc
from omnisky.mock.population.draws import Draws
from omnisky.mock.population.galaxies.physics import (
    LIGHT_NORMAL,
    LIGHT_UNIFORM,
    MASS_SCALE,
    light,
    mass_function,
    quiescent_fraction,
)

__all__ = ["Selection", "accepted", "redshift_of", "selection_of", "surface_density"]

_ATTEMPTS = 14
# A rank-1 lattice of so many points (Korobov 1959): random ones miss the mean by ten per cent.
_PROBES, _GENERATOR = 37, 12
# Change of r with log10 of metallicity and of the time since the beginning, at rates log sSFR.
_RATES = np.array([-12.2, -11.0, -10.2, -9.5])
_PER_METALS, _PER_START = np.array([0.80, 0.74, 0.57, 0.31]), np.array([1.8, 1.5, 0.87, 0.25])
_EXTINCTION = 0.09  # Galactic, in r, the mean of `places.ebv_at`
_LEAST = 0.01  # chance to be selected below which a cell of the grid is left out


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Define a galaxy sample.

    Parameters
    ----------
    z_range : (float, float)
        Redshifts.
    r_limit : float
        r magnitude (AB) to be brighter than.
    log_mass_min : float
        Least stellar mass, on the scale of the literature (see `MASS_SCALE`).
    types : tuple of bool
        Whether star-forming and quiescent galaxies are in it.
    dispersion_power : float
        Power of the velocity dispersion by which chances are weighted (4 for lenses).
    """

    z_range: tuple[float, float]
    r_limit: float
    log_mass_min: float = 7.0
    types: tuple[bool, bool] = (True, True)
    dispersion_power: float = 0.0


def selection_of(config: UniverseConfig, sample: int) -> Selection:
    """Return the definition of a sample by its number."""
    return {
        "flux_limited": Selection(z_range=(0.003, 0.8), r_limit=config.galaxy_limit),
        "bright": Selection(z_range=(0.003, 0.1), r_limit=config.bright_limit),
        # Luminous red galaxies of DESI (Zhou et al. 2023): quiescent, massive, 0.4 < z < 1.
        "luminous_red": Selection(
            z_range=(0.4, 1.0), r_limit=22.8, log_mass_min=10.9, types=(False, True)
        ),
        # Emission-line galaxies of DESI (Raichoor et al. 2023): star-forming, 0.6 < z < 1.6.
        "emission_line": Selection(
            z_range=(0.6, 1.6), r_limit=23.4, log_mass_min=9.0, types=(True, False)
        ),
        "lens": Selection(
            z_range=(0.15, 0.75),
            r_limit=20.8,
            log_mass_min=10.9,
            types=(False, True),
            dispersion_power=4.0,
        ),
    }[SAMPLES[sample]]


@dataclass(frozen=True)
class _Grid:
    """Hold cumulative chances: of redshift, and of (type, mass) at each redshift."""

    z_edges: np.ndarray
    z_cdf: np.ndarray
    mass_edges: np.ndarray
    cell_cdf: np.ndarray  # flat: row number of the redshift + cumulative chance of its cells
    density: np.ndarray  # per square degree and bin of redshift, selected


@lru_cache(maxsize=16)
def _grid(selection: Selection) -> _Grid:
    """Tabulate a sample."""
    low, high = selection.z_range
    z_edges = np.expm1(np.linspace(np.log1p(low), np.log1p(high), 65))
    z = 0.5 * (z_edges[1:] + z_edges[:-1])
    mass_edges = np.linspace(selection.log_mass_min, 12.2, 65) + MASS_SCALE
    mass = 0.5 * (mass_edges[1:] + mass_edges[:-1])
    volume = np.diff(comoving_mpc(z_edges) ** 3) / 3 * (np.pi / 180) ** 2  # Mpc^3 per deg^2
    phi = mass_function(mass, z[:, None]) * np.diff(mass_edges)
    red = quiescent_fraction(mass, z[:, None])
    phi = np.stack([phi * (1 - red), phi * red], axis=1)  # (z, type, mass)
    phi *= np.asarray(selection.types, dtype=np.float64)[:, None]
    phi *= 10.0 ** (selection.dispersion_power * 0.27 * (mass - MASS_SCALE - 11.0))
    phi *= volume[:, None, None]
    chance = _chances(selection, z, mass)
    tried = np.where(chance > _LEAST, phi, 0.0).reshape(len(z), -1)
    selected = (phi * chance).sum(axis=(1, 2))
    total = tried.sum(axis=1, keepdims=True)
    cells = np.cumsum(tried / np.where(total > 0, total, 1.0), axis=1)
    cells = np.minimum(cells, 1.0)
    cells[:, -1] = 1.0
    z_cdf = np.concatenate([[0.0], np.cumsum(selected) / selected.sum()])
    return _Grid(z_edges, z_cdf, mass_edges, (cells + np.arange(len(z))[:, None]).ravel(), selected)


def _chances(selection: Selection, z: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Return the chance of each (redshift, type, mass) to be selected, from probes of `light`."""
    numbers = _probes()
    shape = (len(z), 2, len(mass), _PROBES)
    zz, qq, mm = (
        np.broadcast_to(a, shape).ravel()
        for a in (
            z[:, None, None, None],
            np.array([False, True])[None, :, None, None],
            mass[None, None, :, None],
        )
    )
    u = np.broadcast_to(numbers[:, None, None, None, :], (len(numbers), *shape))
    lit = light(zz, mm, qq, u.reshape(len(numbers), -1))
    return (_r(zz, mm, lit) < selection.r_limit).reshape(shape).mean(axis=-1)


def _probes() -> np.ndarray:
    """Return numbers that `light` takes, spread evenly over all they can be, (number, probe)."""
    from scipy.special import ndtri

    steps = [pow(_GENERATOR, k, _PROBES) for k in range(LIGHT_UNIFORM + LIGHT_NORMAL)]
    u = (np.outer(steps, np.arange(_PROBES)) % _PROBES + 0.5) / _PROBES
    return np.concatenate([u[:LIGHT_UNIFORM], ndtri(u[LIGHT_UNIFORM:])])


def _numbers(draws: Draws, purpose: str) -> np.ndarray:
    """Draw the numbers that `light` takes, shape (number, object)."""
    uniform = draws.uniform(f"{purpose} u", LIGHT_UNIFORM)
    return np.concatenate([uniform, draws.normal(f"{purpose} n", LIGHT_NORMAL)])


def _r(z: np.ndarray, log_mass: np.ndarray, lit: dict[str, np.ndarray]) -> np.ndarray:
    """Return approximate r magnitudes, good to some 0.15 mag.

    The table is for histories that begin at a typical time with the metals of their mass; what
    differs counts with the derivatives of the SED model in r.
    """
    from omnisky.mock.sed.quick import quick_r_magnitude, typical_metals, typical_start

    rate = lit["log_ssfr"]
    plain = quick_r_magnitude(z, log_mass, rate, lit["a_v"])
    metals = np.interp(rate, _RATES, _PER_METALS) * (lit["log_z_star"] - typical_metals(log_mass))
    begun = np.interp(rate, _RATES, _PER_START) * np.log10(lit["start"] / typical_start(z))
    return plain + metals + begun + _EXTINCTION


def redshift_of(config: UniverseConfig, sample: int, u: np.ndarray) -> np.ndarray:
    """Return redshifts of a sample from uniform numbers in (0, 1)."""
    grid = _grid(selection_of(config, sample))
    return np.interp(u, grid.z_cdf, grid.z_edges)


def surface_density(config: UniverseConfig, sample: int) -> float:
    """Return galaxies of a sample per square degree that the priors predict."""
    return float(_grid(selection_of(config, sample)).density.sum())


def accepted(
    config: UniverseConfig, sample: int, draws: Draws, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Draw type, mass and light at given redshifts until a galaxy is bright enough.

    Of the attempts of an object the first that passes is taken, or the brightest of them.

    Returns
    -------
    log_mass, quiescent : array, shape (object,)
    lit : dict of array, shape (object,)
        What `light` returns.
    """
    selection = selection_of(config, sample)
    grid = _grid(selection)
    n = len(draws)
    row = np.clip(np.searchsorted(grid.z_edges, z) - 1, 0, len(grid.z_edges) - 2)
    best: dict[str, np.ndarray] = {}
    brightest = np.full(n, np.inf)
    open_ = np.arange(n)
    for attempt in range(_ATTEMPTS):
        found = _attempt(grid, draws[open_], z[open_], row[open_], f"attempt {attempt}")
        r = _r(z[open_], found["log_mass"], found)
        better = r < brightest[open_]
        at = open_[better]
        brightest[at] = r[better]
        for name, values in found.items():
            best.setdefault(name, np.zeros(n, dtype=values.dtype))[at] = values[better]
        open_ = open_[r >= selection.r_limit]
        if not len(open_):
            break
    return best.pop("log_mass"), best.pop("quiescent"), best


def _attempt(
    grid: _Grid, draws: Draws, z: np.ndarray, row: np.ndarray, purpose: str
) -> dict[str, np.ndarray]:
    """Draw one (type, mass, light) for each galaxy."""
    masses = len(grid.mass_edges) - 1
    (u, inside) = draws.uniform(f"{purpose} cell", 2)
    at = np.searchsorted(grid.cell_cdf, row + u, side="left") - row * 2 * masses
    at = np.clip(at, 0, 2 * masses - 1)
    step = grid.mass_edges[1] - grid.mass_edges[0]
    log_mass = grid.mass_edges[at % masses] + step * inside
    quiescent = at >= masses
    lit = light(z, log_mass, quiescent, _numbers(draws, purpose))
    return {"log_mass": log_mass, "quiescent": quiescent, **lit}
