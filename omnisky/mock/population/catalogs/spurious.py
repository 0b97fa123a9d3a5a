"""Rows that stand for nothing in the sky: noise peaks, halo artefacts, shreds of large galaxies."""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.config import UniverseConfig
from omnisky.mock.population.draws import Draws
from omnisky.mock.population.places import ebv_at, smooth_places
from omnisky.mock.truth import GALAXY, STAR, Truth

__all__ = ["FIRST_NUMBER", "invented", "shreds", "spurious_fraction"]

# Numbers from here on are no objects of the universe.
FIRST_NUMBER = 1 << 40
# Share of a survey's rows that are spurious: some per cent in deep images, per mille in Gaia.
_FRACTION = {"legacysurvey": 0.02, "hsc": 0.03, "gaia": 0.002, "desi": 0.0, "sdss": 0.0}


def spurious_fraction(survey: str) -> float:
    """Return how many spurious rows a survey has for each real one."""
    return _FRACTION[survey]


def invented(config: UniverseConfig, survey: str, number: np.ndarray) -> tuple[Truth, np.ndarray]:
    """Return things that are not there as truth and fluxes, to be measured like others.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    survey : str
        Survey that sees them.
    number : array of int, shape (row,)
        Numbers of the rows, from 0.

    Returns
    -------
    truth : Truth
        With object_id from `FIRST_NUMBER` on, and what measuring needs.
    fluxes : array, shape (row, component, band)
        Nanomaggies: near the limit of the survey, often in one or two bands only.
    """
    from omnisky.mock.sed import BANDS

    number = np.asarray(number, dtype=np.int64)
    draws = Draws(config.seed, number + FIRST_NUMBER)
    # Row k of one survey lies elsewhere than row k of another: they are not the same thing.
    apart = (1 + tuple(_FRACTION).index(survey)) << 36
    ra, dec = smooth_places(config, Draws(config.seed, draws.object_id + apart))
    u_size, u_point, u_mag, u_q = draws.uniform(f"spurious {survey}", 4)
    size = 0.3 * 10.0 ** (1.2 * u_size)  # to 5 arcsec: wisps of halos
    point = (u_point < 0.5) | (survey == "gaia")
    columns = {
        "object_id": draws.object_id,
        "kind": np.where(point, STAR, GALAXY),
        "ra": ra,
        "dec": dec,
        "ebv": ebv_at(config, ra, dec),
        "in_gaia": np.full(len(ra), survey == "gaia"),
        "pm_ra": np.zeros(len(ra)),
        "pm_dec": np.zeros(len(ra)),
        "parallax": np.zeros(len(ra)),
        "redshift": np.zeros(len(ra)),
    }
    columns |= _round_things(size, 0.3 + 0.7 * u_q, 180.0 * u_point)
    low, high = {"hsc": (23.0, 26.0), "gaia": (20.0, 21.0)}.get(survey, (20.5, 23.8))
    faint = 10.0 ** (0.4 * (22.5 - low - (high - low) * u_mag**0.5))
    seen = draws.uniform(f"spurious bands {survey}", len(BANDS)) < 0.45
    scatter = np.exp(0.7 * draws.normal(f"spurious colours {survey}", len(BANDS)))
    fluxes = np.zeros((len(ra), 3, len(BANDS)))
    for i, band in enumerate(BANDS):
        if band.startswith("gaia"):
            fluxes[:, 0, i] = faint
        else:
            there = seen[i] | (band in ("decam_r", "hsc_i"))
            fluxes[:, 0, i] = faint * np.where(there, scatter[i], 0.02)
    return Truth(columns), fluxes


def _round_things(size: np.ndarray, q: np.ndarray, pa: np.ndarray) -> dict[str, np.ndarray]:
    """Return shape columns of structureless blobs."""
    nothing = np.zeros(len(size))
    return {
        "bulge_fraction": nothing,
        "re_bulge": size,
        "n_bulge": nothing + 1.0,
        "q_bulge": q,
        "re_disk": size,
        "q_disk": q,
        "pa": pa,
        "quiescent": nothing.astype(bool),
        "log_mass": nothing,
    }


def shreds(config: UniverseConfig, truth: Truth, fluxes: np.ndarray, survey: str):
    """Return pieces that deblending cuts from large galaxies: one for some galaxies.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    truth : Truth
        Objects.
    fluxes : array, shape (object, component, band)
        Their fluxes.
    survey : str
        Survey whose deblending it is.

    Returns
    -------
    truth : Truth
        Pieces, with object_id twice `FIRST_NUMBER` above that of their galaxy.
    fluxes : array, shape (piece, component, band)
    """
    from omnisky.mock.population.catalogs.measure import offset_deg

    draws = Draws(config.seed, truth["object_id"])
    u_any, u_far, u_angle, u_part, u_size = draws.uniform(f"shred {survey}", 5)
    chance = {"legacysurvey": 0.25, "hsc": 0.35}.get(survey, 0.0)
    large = np.nan_to_num(truth["re_disk"]) > 3.0
    rows = np.flatnonzero((truth["kind"] == GALAXY) & large & (u_any < chance))
    pieces, u = truth[rows], (u_far[rows], u_angle[rows], u_part[rows], u_size[rows])
    far = pieces["re_disk"] * (0.5 + 1.2 * u[0])
    angle = 2 * np.pi * u[1]
    ra, dec = offset_deg(pieces["ra"], pieces["dec"], far * np.sin(angle), far * np.cos(angle))
    columns = {name: pieces[name] for name in ("kind", "ebv", "redshift")}
    columns |= {"object_id": pieces["object_id"] + 2 * FIRST_NUMBER, "ra": ra, "dec": dec}
    columns |= _round_things(0.4 + 0.2 * pieces["re_disk"] * u[3], 0.3 + 0.7 * u[0], 180 * u[1])
    return Truth(columns), fluxes[rows] * (0.005 + 0.05 * u[2])[:, None, None]
