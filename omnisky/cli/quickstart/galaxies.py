"""Any-to-any on galaxies: images to redshifts and spectra, spectra to images. All of it is mock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.cli.quickstart import galaxy_figures as figures
from omnisky.mock import Universe
from omnisky.mock.truth import GALAXY
from omnisky.modalities import Observations
from omnisky.model import Model

__all__ = ["FIGURES", "show_galaxies"]

FIGURES = (
    "5_image_to_redshift_and_spectrum.png",
    "6_spectrum_to_image.png",
    "7_hsc_image_to_desi_spectrum.png",
)
# A universe that no shipped model was trained on.
_SEED, _OBJECTS = 2026, 400
_SAMPLES = 24


@dataclass(frozen=True)
class Seen:
    """Hold some galaxies: what surveys see of them, and their true redshifts, shape (object,)."""

    observations: Observations
    redshift: np.ndarray


def show_galaxies(out: Path, base: str) -> dict[str, Any]:
    """Draw what a model makes of one survey given another, and return how well it does.

    Parameters
    ----------
    out : Path
        Folder for the figures.
    base : str
        Pretrained model that reads images and spectra.
    """
    model = Model.from_pretrained(base)
    universe = Universe(_SEED, _OBJECTS, size=96)
    ours = _galaxies(universe, ("legacysurvey", "desi"), 3)
    made = _spectra(model, ours, "legacysurvey_image")
    figures.spectra_from_images(out / FIGURES[0], ours, made)
    samples = model.generate(
        ours.observations.select("desi_spectrum"), "legacysurvey_image", n_samples=_SAMPLES
    )["legacysurvey_image"]
    figures.images_from_spectra(out / FIGURES[1], ours, samples)
    never = _galaxies(universe, ("hsc", "desi"), 3)
    unseen = _spectra(model, never, "hsc_image")
    figures.spectra_from_images(out / FIGURES[2], never, unseen, image="hsc_image")
    return {
        "mock": True,
        "redshift_given_legacysurvey_image": _redshifts(made, ours),
        "redshift_given_hsc_image": _redshifts(unseen, never),
    }


def _galaxies(universe: Universe, surveys: Sequence[str], count: int) -> Seen:
    """Return bright galaxies that all of the surveys have, evenly spaced in redshift."""
    truth = universe.truth
    good = np.asarray(truth["kind"]) == GALAXY
    for survey in surveys:
        good &= np.asarray(truth[f"in_{survey}"], dtype=bool)
    rows = np.flatnonzero(good)
    if len(rows) < count:
        raise ValueError(f"{len(rows)} mock galaxies are in {' and '.join(surveys)}; need {count}")
    redshift = np.asarray(truth["redshift"], dtype=float)[rows]
    order = redshift.argsort()[(np.linspace(0.1, 0.8, count) * (len(rows) - 1)).astype(int)]
    names = [f"{surveys[0]}_image", "desi_spectrum", "desi_z"]
    return Seen(universe.observations(rows[order], names), redshift[order])


def _spectra(model: Model, seen: Seen, image: str) -> Any:
    given = seen.observations.select(image)
    return model.generate(given, ["desi_z", "desi_spectrum"], n_samples=_SAMPLES)


def _redshifts(made: Any, seen: Seen) -> list[dict[str, float]]:
    """Return the true redshift, and median and 68 % interval of the samples, of each galaxy."""
    draws = figures.draws(made["desi_z"])
    low, middle, high = np.quantile(draws, [0.16, 0.5, 0.84], axis=0)
    rows = zip(seen.redshift, low, middle, high, strict=True)
    return [dict(zip(("true", "low", "median", "high"), map(float, r), strict=True)) for r in rows]
