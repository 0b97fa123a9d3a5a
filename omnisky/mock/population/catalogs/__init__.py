"""Measured rows of each survey: what its catalogue says of objects, and rows that mean nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omnisky.mock.population.catalogs import gaia, hsc, legacysurvey, spectroscopy
from omnisky.mock.population.catalogs.measure import Sky
from omnisky.mock.population.catalogs.spurious import (
    FIRST_NUMBER,
    invented,
    shreds,
    spurious_fraction,
)
from omnisky.mock.population.config import UniverseConfig
from omnisky.mock.population.draws import Draws
from omnisky.mock.truth import Truth

__all__ = ["FIRST_NUMBER", "SURVEYS", "catalog", "fragments", "spurious", "spurious_fraction"]

_ROWS: dict[str, Callable[[Sky], dict[str, np.ndarray]]] = {
    "legacysurvey": legacysurvey.rows,
    "hsc": hsc.rows,
    "desi": spectroscopy.desi_rows,
    "sdss": spectroscopy.sdss_rows,
    "gaia": gaia.rows,
}
SURVEYS = tuple(_ROWS)


def catalog(
    config: UniverseConfig, truth: Truth, survey: str, fluxes: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return what a survey's catalogue says of objects: one row each, whether it has them or not.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    truth : Truth
        Objects; take those that the survey has, ``truth[truth["in_hsc"]]``.
    survey : str
        One of `SURVEYS`.
    fluxes : array, shape (object, component, band), optional
        Their fluxes, if known already.

    Returns
    -------
    dict of array
        Columns by their names in the survey's files. Identifiers that depend on the files (brick,
        patch, plate, target) are not among them.

    Raises
    ------
    ValueError
        If the survey is unknown.
    """
    return _ROWS[_known(survey)](_sky(config, truth, fluxes))


def spurious(
    config: UniverseConfig, survey: str, number: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return rows of a survey's catalogue that stand for nothing.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    survey : str
        One of `SURVEYS`.
    number : array of int, shape (row,)
        Numbers of the rows, from 0; row k is a function of (seed, k). `spurious_fraction` says how
        many are usual for each real row.

    Returns
    -------
    object_id : array of int, shape (row,)
        Numbers from `FIRST_NUMBER` on, which no object has.
    columns : dict of array
        As `catalog` returns them.
    """
    truth, fluxes = invented(config, _known(survey), number)
    return truth["object_id"], _ROWS[survey](_sky(config, truth, fluxes))


def fragments(
    config: UniverseConfig, truth: Truth, survey: str, fluxes: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return rows of pieces that deblending has cut from large galaxies; see `spurious`.

    Identifiers are the galaxy's number plus twice `FIRST_NUMBER`.
    """
    pieces, light = shreds(config, truth, fluxes, _known(survey))
    return pieces["object_id"], _ROWS[survey](_sky(config, pieces, light))


def _known(survey: str) -> str:
    if survey not in _ROWS:
        raise ValueError(f"no survey {survey!r}; there are {', '.join(_ROWS)}")
    return survey


def _sky(config: UniverseConfig, truth: Truth, fluxes: np.ndarray | None) -> Sky:
    if fluxes is None:
        from omnisky.mock.sed import SedModel

        fluxes = SedModel.load().fluxes(truth)
    draws = Draws(config.seed, truth["object_id"])
    return Sky(config=config, truth=truth, fluxes=np.asarray(fluxes), draws=draws)
