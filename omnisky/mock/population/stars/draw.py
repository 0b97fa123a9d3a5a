"""Stars: what they are, how far, how they move, and whether they have a companion."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from omnisky.mock.population.config import UniverseConfig
from omnisky.mock.population.cosmology import C_KM_S
from omnisky.mock.population.draws import Draws
from omnisky.mock.population.stars.pool import (
    COMPONENTS,
    ICRS_TO_GALACTIC,
    StarPool,
    cooling_edges,
    galactic,
    pool,
    rotate,
)

__all__ = ["star_density", "stars"]

Columns = dict[str, np.ndarray]

_KM_S_PER_MAS_PC = 4.74047e-3  # km / s of 1 mas / yr at 1 pc
_SUN_KM_S = (11.1, 12.24, 7.25)  # Schoenrich, Binney & Dehnen (2010)
_TYPICAL_EBV = 0.04


def _pool(config: UniverseConfig) -> StarPool:
    return pool(*config.center, config.star_limit, _TYPICAL_EBV)


def star_density(config: UniverseConfig) -> float:
    """Return stars per square degree between G = 10 and the limit that the priors predict."""
    return _pool(config).total


def stars(config: UniverseConfig, draws: Draws, place: Columns) -> Columns:
    """Draw stars.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    draws : Draws
        Randomness of these stars.
    place : dict of array
        ra, dec (degrees) and ebv.

    Returns
    -------
    dict of array, shape (object,)
        Columns of `omnisky.mock.truth.COLUMNS`.
    """
    cells = _pool(config)
    u_cell, u_distance, u_age, u_feh, u_eep = draws.uniform("star", 5)
    # White dwarfs come last in the pool; some universes want more of them than there are.
    dead = u_cell < config.white_dwarf_share
    rest = (u_cell - config.white_dwarf_share) / max(1 - config.white_dwarf_share, 1e-9)
    place_in = np.where(
        dead,
        cells.ordinary + (1 - cells.ordinary) * u_cell / max(config.white_dwarf_share, 1e-9),
        cells.ordinary * rest,
    )
    cell = np.minimum(np.searchsorted(cells.cdf, place_in, side="right"), len(cells.cdf) - 1)
    component = cells.component[cell]
    near, far = cells.reach[cell, 0], cells.reach[cell, 1]
    share = near + (far - near) * u_distance
    distance = np.zeros(len(draws))
    for k in range(3):
        here = component == k
        distance[here] = np.exp(np.interp(share[here], cells.column[k], np.log(cells.distance)))
    columns: Columns = {"component": component, "distance": distance}
    at = cells.age[cell], cells.feh[cell], cells.eep[cell]
    columns |= _evolved(draws, component, at, (u_age, u_feh, u_eep))
    columns |= _companions(draws, columns)
    columns |= _motions(draws, columns, place)
    columns["parallax"] = 1000.0 / distance
    high = np.abs(distance * galactic(place["ra"], place["dec"])[2])
    # A layer of dust with a scale height of 125 pc (Marshall et al. 2006).
    columns["a_v_star"] = 3.1 * place["ebv"] * -np.expm1(-high / 125.0)
    columns["redshift"] = columns["rv"] / C_KM_S
    return columns


@lru_cache(maxsize=1)
def _table() -> dict[str, np.ndarray]:
    """Return the isochrones as float64, and what finds a mass on each."""
    from omnisky.mock import tables

    stored = tables.load("isochrones")
    found = {k: stored[k].astype(np.float64) for k in ("mass", "log_t", "logg", "log_l")}
    found |= {k: stored[k] for k in ("age", "feh", "eep")}
    return found


def _blend(table, name: str, low: tuple, part: tuple) -> np.ndarray:
    """Interpolate one quantity between neighbours in (eep, age, feh)."""
    values = table[name]
    total = np.zeros(len(low[0]))
    for corner in np.ndindex(2, 2, 2):
        weight = np.ones(len(low[0]))
        index = []
        for axis, step in enumerate(corner):
            weight = weight * (part[axis] if step else 1 - part[axis])
            index.append(np.minimum(low[axis] + step, values.shape[axis] - 1))
        total += weight * values[tuple(index)]
    return total


def _evolved(draws: Draws, component, at, u) -> Columns:
    """Return the state of stars within their cells of age, metallicity and evolution."""
    from omnisky.mock.sed.isochrones import stage_of

    table = _table()
    dead = at[2] < 0
    age, feh, eep = (np.where(dead, 0, values) for values in at)
    # Cells are centred on the points of age and metallicity, and begin at those of evolution.
    low, part = [eep], [u[2]]
    for index, jitter, size in ((age, u[0], len(table["age"])), (feh, u[1], len(table["feh"]))):
        position = np.clip(index + jitter - 0.5, 0, size - 1.0)
        low.append(np.floor(position).astype(np.int64))
        part.append(position - low[-1])
    grid = tuple(low), tuple(part)
    log_age = _between(np.log10(table["age"]), low[1], part[1])
    columns = {
        "teff": 10.0 ** _blend(table, "log_t", *grid),
        "logg": _blend(table, "logg", *grid),
        "log_luminosity": _blend(table, "log_l", *grid),
        "initial_mass": _blend(table, "mass", *grid),
        "feh": _between(table["feh"], low[2], part[2]),
        "star_age": 10.0**log_age,
        "stage": stage_of(table["eep"][eep]),
    }
    dwarfs = _white_dwarfs(draws, component, at[0], u[0])
    return {name: np.where(dead, dwarfs[name], values) for name, values in columns.items()}


def _between(values: np.ndarray, low: np.ndarray, part: np.ndarray) -> np.ndarray:
    high = np.minimum(low + 1, len(values) - 1)
    return values[low] * (1 - part) + values[high] * part


def _white_dwarfs(draws: Draws, component, cell, u) -> Columns:
    """Return the state of white dwarfs, of 0.60 +- 0.09 solar masses (Kepler et al. 2007)."""
    from omnisky.mock.sed.isochrones import white_dwarf

    (normal,) = draws.normal("white dwarf", 1)
    edges = cooling_edges()
    cell = np.minimum(cell, len(edges) - 2)
    cooling = edges[cell] * (1 - u) + edges[cell + 1] * u
    mass = np.clip(0.60 + 0.09 * normal, 0.45, 1.1)
    log_t, log_g, log_l = white_dwarf(cooling, mass)
    initial = np.clip((mass - 0.394) / 0.109, 0.8, 7.0)  # Kalirai et al. (2008), eq. 1
    return {
        "teff": np.minimum(10.0**log_t, 60000.0),
        "logg": log_g,
        "log_luminosity": log_l,
        "initial_mass": initial,
        "feh": np.where(component == 0, -0.1, -0.5),
        "star_age": np.minimum(cooling + 10.0 / initial**2.5, 13.5),
        "stage": np.full(len(cell), 4),
    }


def _companions(draws: Draws, columns: Columns) -> Columns:
    """Draw unresolved companions on the main sequence of the same age and metallicity.

    The share with a companion rises with mass, 0.27 at 0.3 to 0.46 at 1 solar mass; mass ratios
    are uniform above 0.1 (Duchene & Kraus 2013). Wide pairs are resolved: two thirds remain.
    """
    u_any, u_ratio = draws.uniform("companion", 2)
    table = _table()
    mass = columns["initial_mass"]
    likely = 0.67 * np.clip(0.46 + 0.36 * np.log10(mass), 0.2, 0.7)
    binary = (u_any < likely) & (columns["stage"] != 4)
    wanted = mass * (0.1 + 0.9 * u_ratio)
    binary &= wanted > 0.1
    age = np.argmin(np.abs(np.log(table["age"])[:, None] - np.log(columns["star_age"])), axis=0)
    feh = np.argmin(np.abs(table["feh"][:, None] - columns["feh"]), axis=0)
    masses = table["mass"][:, age, feh]  # (eep, object), rising
    above = np.clip(np.sum(masses < wanted, axis=0), 1, len(masses) - 1)
    rows = np.arange(len(wanted))
    left, right = masses[above - 1, rows], masses[above, rows]
    part = np.clip((wanted - left) / (right - left), 0.0, 1.0)
    found = {}
    for name, key in (("teff_2", "log_t"), ("logg_2", "logg"), ("log_luminosity_2", "log_l")):
        values = table[key][above - 1, age, feh] * (1 - part) + table[key][above, age, feh] * part
        found[name] = np.where(binary, values, np.nan)
    found["teff_2"] = 10.0 ** found["teff_2"]
    return {"binary": binary, **found}


def _motions(draws: Draws, columns: Columns, place: Columns) -> Columns:
    """Draw space velocities and return them as the Sun sees them."""
    towards, turning, up = draws.normal("star motion", 3)
    component = columns["component"]
    sigma = np.array([c.velocity for c in COMPONENTS])[component].T
    lag = np.array([c.lag for c in COMPONENTS])[component]
    velocity = np.stack(
        [
            sigma[0] * towards - _SUN_KM_S[0],
            sigma[1] * turning - lag - _SUN_KM_S[1],
            sigma[2] * up - _SUN_KM_S[2],
        ]
    )
    ra, dec = np.radians(place["ra"]), np.radians(place["dec"])
    nothing = np.zeros_like(ra)
    east = np.stack([-np.sin(ra), np.cos(ra), nothing])
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    radial = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    seen = [_dot(rotate(ICRS_TO_GALACTIC, axis), velocity) for axis in (radial, east, north)]
    per_year = _KM_S_PER_MAS_PC * columns["distance"]
    return {"rv": seen[0], "pm_ra": seen[1] / per_year, "pm_dec": seen[2] / per_year}


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
