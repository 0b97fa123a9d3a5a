"""Draw objects of the mock universe: everything that is true of them."""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.conditions import conditions
from omnisky.mock.population.config import SAMPLES, UniverseConfig
from omnisky.mock.population.cosmology import luminosity_mpc
from omnisky.mock.population.draws import Draws, pick
from omnisky.mock.population.galaxies.labels import morph_true, morph_visible
from omnisky.mock.population.galaxies.morphology import lenses, shapes
from omnisky.mock.population.galaxies.physics import physics
from omnisky.mock.population.galaxies.selection import accepted
from omnisky.mock.population.membership import members
from omnisky.mock.population.places import ebv_at, galaxy_places, smooth_places
from omnisky.mock.population.quasars import quasars
from omnisky.mock.population.stars.draw import stars
from omnisky.mock.truth import COLUMNS, GALAXY, QUASAR, STAR, Truth

__all__ = ["draw", "draw_with_fluxes"]

Columns = dict[str, np.ndarray]


def draw(config: UniverseConfig, object_id: np.ndarray) -> Truth:
    """Return the truth of some objects.

    Each row depends on the configuration and its own number alone, to the last bit.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    object_id : array of int, shape (object,)
        Numbers of the objects, from 0.

    Returns
    -------
    Truth
        One row an object, in the order given.

    Raises
    ------
    ValueError
        If a number is negative or no integer.

    Examples
    --------
    >>> truth = draw(UniverseConfig(seed=1), [3, 4, 5])
    >>> len(truth), truth["object_id"].tolist()
    (3, [3, 4, 5])
    """
    return draw_with_fluxes(config, object_id)[0]


def draw_with_fluxes(config: UniverseConfig, object_id: np.ndarray) -> tuple[Truth, np.ndarray]:
    """Return the truth of some objects, and their fluxes, which the truth needs anyway.

    Returns
    -------
    truth : Truth
        As `draw` returns it.
    fluxes : array of float64, shape (object, component, band)
        As `omnisky.mock.sed.SedModel.fluxes` returns them, nanomaggies.
    """
    from omnisky.mock.sed import BANDS, SedModel

    numbers = np.atleast_1d(np.asarray(object_id))
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise ValueError(
            f"object_id must be a list of integers; found shape {numbers.shape} of {numbers.dtype}"
        )
    numbers = numbers.astype(np.int64)
    if (numbers < 0).any():
        raise ValueError(f"object_id must be from 0 on; found {numbers.min()}")
    draws = Draws(config.seed, numbers)
    columns = _intrinsic(config, draws)
    fluxes = SedModel.load().fluxes(Truth(columns))
    total = fluxes[:, 0] + fluxes[:, 1] + fluxes[:, 2]
    flux = {band: np.ascontiguousarray(total[:, i]) for i, band in enumerate(BANDS)}
    columns |= members(config, draws, columns, flux)
    columns["morph_visible"] = _visible(config, columns, flux["decam_r"])
    return Truth(columns), fluxes


def _intrinsic(config: UniverseConfig, draws: Draws) -> Columns:
    """Draw everything that does not depend on the light of the object."""
    kind = pick(draws.uniform("kind")[0], config.kinds)
    columns: Columns = {"object_id": draws.object_id, "kind": kind}
    for number, make in ((GALAXY, _galaxies), (STAR, _stars), (QUASAR, _quasars)):
        rows = np.flatnonzero(kind == number)
        made = make(config, draws[rows]) if len(rows) else {}
        for name, values in made.items():
            if name not in columns:
                columns[name] = _nothing(name, len(draws))
            columns[name][rows] = values
    for name in COLUMNS:
        columns.setdefault(name, _nothing(name, len(draws)))
    return columns


def _nothing(name: str, n: int) -> np.ndarray:
    """Return a column that says "does not apply"."""
    dtype = np.dtype(COLUMNS[name].dtype)
    return np.full(n, {"f": np.nan, "i": -1, "b": False}[dtype.kind], dtype=dtype)


def _galaxies(config: UniverseConfig, draws: Draws) -> Columns:
    sample = pick(draws.uniform("sample")[0], config.samples)
    place = galaxy_places(config, draws, sample)
    z = place.pop("cosmological")
    n = len(draws)
    log_mass, quiescent, lit = np.zeros(n), np.zeros(n, dtype=bool), {}
    for number in range(len(SAMPLES)):
        rows = np.flatnonzero(sample == number)
        if len(rows):
            log_mass[rows], quiescent[rows], found = accepted(config, number, draws[rows], z[rows])
            for name, values in found.items():
                lit.setdefault(name, np.zeros(n))[rows] = values
    columns = {"sample": sample, "luminosity_distance": luminosity_mpc(z), **place}
    columns["ebv"] = ebv_at(config, place["ra"], place["dec"])
    columns |= physics(draws, z, log_mass, quiescent, lit)
    columns |= shapes(draws, z, columns)
    columns |= lenses(draws, sample, z, columns)
    columns["morph_true"] = morph_true(columns)
    return columns


def _stars(config: UniverseConfig, draws: Draws) -> Columns:
    place = _smooth(config, draws)
    return {**place, **stars(config, draws, place)}


def _quasars(config: UniverseConfig, draws: Draws) -> Columns:
    from omnisky.mock.sed import SedModel

    return {**_smooth(config, draws), **quasars(config, draws, SedModel.n_quasar_templates)}


def _smooth(config: UniverseConfig, draws: Draws) -> Columns:
    ra, dec = smooth_places(config, draws)
    return {"ra": ra, "dec": dec, "ebv": ebv_at(config, ra, dec)}


def _visible(config: UniverseConfig, columns: Columns, flux_r: np.ndarray) -> np.ndarray:
    """Return what class images show, -1 for what is no galaxy."""
    found = np.full(len(flux_r), -1)
    rows = np.flatnonzero(columns["kind"] == GALAXY)
    if len(rows):
        some = {name: values[rows] for name, values in columns.items()}
        here = conditions(config, some["ra"], some["dec"], "legacysurvey")
        at = here.bands.index("decam_r")
        fwhm, depth = (np.ascontiguousarray(x[:, at]) for x in (here.psf_fwhm, here.depth))
        found[rows] = morph_visible(some, flux_r[rows], fwhm, depth)
    return found
