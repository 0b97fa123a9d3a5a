"""Where objects are: a fractal cosmic web for galaxies, smooth fields for others, footprints.

The web is that of Soneira & Peebles (1978): a tree of nested spheres. An object is a path down the
tree, so its place depends on its own number alone, yet objects share branches and so cluster, with
a power law for their correlation function and with redshifts alike in a group.
"""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.config import SAMPLES, UniverseConfig
from omnisky.mock.population.cosmology import C_KM_S, H0, comoving_mpc
from omnisky.mock.population.draws import Draws
from omnisky.mock.population.galaxies.selection import redshift_of
from omnisky.mock.seeds import uniforms

__all__ = ["collides", "ebv_at", "galaxy_places", "holes", "in_hsc_area", "smooth_places"]

# Spheres shrink by 1.76 from level to level, with two in each: correlation slope 1.77.
_LEVELS, _SHRINK, _LARGEST_MPC = 10, 1.76, 28.0
# Trees per square degree for each sample, so that w(theta) has the observed amplitude.
_TREES_PER_DEG2 = (11.0, 6.0, 50.0, 80.0, 50.0)
# Small patches get more than their share, or all their galaxies would be in a few groups.
_FEWEST_TREES = 100
# Objects crowd into the first trees as u^1.7 does, which raises w(theta) by 1 / (1.7 (2 - 1.7)).
_RICHNESS = 1.7
_LOSS = 0.08  # chance to lose a fibre on a tree of mean richness
_GROUP_KM_S, _MEMBER_KM_S = 280.0, 220.0


def galaxy_places(
    config: UniverseConfig, draws: Draws, sample: np.ndarray
) -> dict[str, np.ndarray]:
    """Place galaxies of some samples.

    Returns
    -------
    dict of array, shape (object,)
        ra, dec (degrees), cosmological (redshift without peculiar velocity) and redshift.
    """
    n = len(draws)
    found = {key: np.zeros(n) for key in ("east", "north", "cosmological", "velocity")}
    for number in range(len(SAMPLES)):
        here = np.flatnonzero(sample == number)
        if len(here):
            for key, values in _web(config, draws[here], number).items():
                found[key][here] = values
    ra, dec = _on_sky(config, found["east"], found["north"])
    z = (1 + found["cosmological"]) * (1 + found["velocity"] / C_KM_S) - 1
    return {"ra": ra, "dec": dec, "cosmological": found["cosmological"], "redshift": z}


def _trees(config: UniverseConfig, sample: int) -> int:
    """Return how many trees the patch has for a sample."""
    return max(_FEWEST_TREES, round(_TREES_PER_DEG2[sample] * config.area_deg2))


def _tree(u: np.ndarray, trees: int) -> np.ndarray:
    """Return the tree of each object: some are rich, most are poor."""
    return np.minimum((u**_RICHNESS * trees).astype(np.int64), trees - 1)


def _web(config: UniverseConfig, draws: Draws, sample: int) -> dict[str, np.ndarray]:
    """Walk down the trees of one sample."""
    trees = _trees(config, sample)
    u_tree, u_path = draws.uniform("web", 2)
    tree = _tree(u_tree, trees)
    east, north, quantile = Draws(config.seed, tree).uniform(f"root {sample}", 3)
    z = redshift_of(config, sample, quantile)
    distance = comoving_mpc(z)
    offset = np.zeros((3, len(draws)))
    path = (u_path * 2**_LEVELS).astype(np.int64)
    for level in range(_LEVELS):
        # The first bits of the path name the branch, the same for all objects that share it.
        branch = Draws(config.seed, (tree << (level + 1)) + (path >> (_LEVELS - 1 - level)))
        inside = _in_ball(branch.uniform(f"branch {sample} {level}", 3))
        offset += _LARGEST_MPC / _SHRINK**level * inside
    # Leaves are clouds, not points.
    offset += _LARGEST_MPC / _SHRINK**_LEVELS * _in_ball(draws.uniform("leaf", 3))
    per_deg = np.maximum(distance, 10.0) * np.pi / 180
    dec_middle = np.cos(np.radians(config.center[1]))
    (group,) = Draws(config.seed, tree).normal(f"flow {sample}")
    (member,) = draws.normal("velocity", 1)
    return {
        "east": east + offset[0] / per_deg / dec_middle / config.width_deg,
        "north": north + offset[1] / per_deg / (config.dec_range[1] - config.dec_range[0]),
        "cosmological": _moved(config, sample, z, distance, offset[2]),
        "velocity": _GROUP_KM_S * group + _MEMBER_KM_S * member,
    }


def _moved(config, sample, z, distance, offset) -> np.ndarray:
    """Return redshifts moved along the line of sight by an offset in Mpc, within the sample's."""
    # dz/dD = H(z)/c; a local slope of the distance table is enough for some Mpc.
    slope = 0.002 / (comoving_mpc(z + 0.001) - comoving_mpc(np.maximum(z - 0.001, 0.0)))
    slope = np.where(z < 0.001, H0 / C_KM_S, slope)
    return np.maximum(z + np.clip(offset, -0.3 * distance, None) * slope, 0.0015)


def _in_ball(u: np.ndarray) -> np.ndarray:
    """Return points uniform in the unit ball from uniform numbers, both of shape (3, object)."""
    radius, angle = np.cbrt(u[0]), 2 * np.pi * u[2]
    cosine = 2 * u[1] - 1
    sine = np.sqrt(1 - cosine**2)
    return np.stack([radius * sine * np.cos(angle), radius * sine * np.sin(angle), radius * cosine])


def smooth_places(config: UniverseConfig, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Return right ascension and declination in degrees, uniform over the patch."""
    east, north = draws.uniform("place", 2)
    return _on_sky(config, east, north)


def _on_sky(config: UniverseConfig, east: np.ndarray, north: np.ndarray):
    """Map shares of the patch to the sky, equal areas to equal areas; what leaves it comes back."""
    low, high = (np.sin(np.radians(dec)) for dec in config.dec_range)
    dec = np.degrees(np.arcsin(low + (high - low) * (north - np.floor(north))))
    ra = config.center[0] + config.width_deg * (east - np.floor(east) - 0.5)
    ra = np.where(ra < 0, ra + 360.0, ra)
    return np.where(ra >= 360.0, ra - 360.0, ra), dec


def _shares(config: UniverseConfig, ra: np.ndarray, dec: np.ndarray):
    """Return where positions are in the patch, in degrees from its middle."""
    across = (ra - config.center[0] + 180.0) % 360.0 - 180.0
    return across * np.cos(np.radians(dec)), dec - config.center[1]


def ebv_at(config: UniverseConfig, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return Galactic reddening E(B-V), a smooth map that the seed draws, 0.015 to 0.15.

    Waves of random direction on scales of 0.3 to 10 degrees, with power falling as a cloud's.
    """
    x, y = _shares(config, ra, dec)
    waves = uniforms(config.seed, np.arange(24), "dust", 3)
    total = np.zeros_like(x)
    for size, angle, phase in waves:
        wavelength = 0.3 * 33.0**size
        turn = 2 * np.pi * angle
        along = (x * np.cos(turn) + y * np.sin(turn)) / wavelength
        total += wavelength**0.5 * np.sin(2 * np.pi * (along + phase))
    return np.clip(0.038 * np.exp(0.075 * total), 0.012, 0.3)


def in_hsc_area(config: UniverseConfig, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return what lies in the HSC-like area: one side of the patch, with a ragged border."""
    x, y = _shares(config, ra, dec)
    height = config.dec_range[1] - config.dec_range[0]
    half = 0.5 * height
    width = config.width_deg * np.cos(np.radians(config.center[1]))
    # The border swings about its mean by a tenth of the width, in steps as tracts have.
    wave = np.round(3 * np.sin(2 * np.pi * (y + half) / height + 1.0)) / 3
    swing = 0.2 * min(config.hsc_fraction, 1 - config.hsc_fraction)
    return (x / width + 0.5) < config.hsc_fraction + swing * wave


def holes(config: UniverseConfig, ra: np.ndarray, dec: np.ndarray, scale: float) -> np.ndarray:
    """Return what lies in the halo of a bright star (G < 10), where surveys find nothing.

    On average 8 such stars a square degree; radii grow from 0.3 to 3 arcmin with brightness, times
    `scale`. One star a cell of 1/8 square degree, in a place that its cell decides.
    """
    x, y = _shares(config, ra, dec)
    side = np.sqrt(0.125)
    column, row = np.floor(x / side), np.floor(y / side)
    inside = np.zeros(len(x), dtype=bool)
    for across in (-1, 0, 1):
        for up in (-1, 0, 1):
            cell_x, cell_y = column + across, row + up
            number = (cell_x + 4096).astype(np.int64) * 16384 + (cell_y + 8192).astype(np.int64)
            u = Draws(config.seed, number).uniform("bright star", 3)
            radius = scale * 0.3 / 60 * np.minimum(u[2] ** -0.45, 10.0)
            away = np.hypot(x - (cell_x + u[0]) * side, y - (cell_y + u[1]) * side)
            inside |= away < radius
    return inside


def collides(config: UniverseConfig, draws: Draws, sample: np.ndarray) -> np.ndarray:
    """Return which galaxies lose their fibre to a neighbour, more often in rich structures.

    A spectrograph cannot place two fibres within a patrol radius (3 arcmin for DESI). Objects may
    not depend on each other here, so the loser of a pair is not looked up: the chance of a loss
    grows with the richness of the tree that an object hangs on, which is what makes pairs.
    """
    (u_tree, _), (u_lost,) = draws.uniform("web", 2), draws.uniform("collision")
    lost = np.zeros(len(draws), dtype=bool)
    for number in range(len(SAMPLES)):
        trees = _trees(config, number)
        place = (_tree(u_tree, trees) + 0.5) / trees
        rich = place ** (1 / _RICHNESS - 1) / _RICHNESS  # objects on this tree over the mean
        lost |= (sample == number) & (u_lost < np.minimum(_LOSS * rich, 0.5))
    return lost
