"""Measure what faster schemes of generation cost in quality; write JSON.

    python perf/generation_quality.py --objects 150 --out perf/results/generation_quality.json
    python perf/generation_quality.py --task galaxies --objects 48 --samples 6 --out somewhere.json

Spectra of objects that no network was trained on are sampled by each scheme, of stars from their
photometry and of mock galaxies from their images, and compared with those observed by the energy
score of the whole spectrum (Gneiting & Raftery 2007; smaller is better, and least in expectation
for the true distribution): the mean distance of samples to the truth less half that between
samples.

* stars (real): spectra are divided by the mean flux of the truth, and pixels by their scatter over
  the stars, lest bright stars decide;
* galaxies (mock, a universe that `nano-sky` never saw; quasars and stars are among them): means of
  64 pixels by their noise, arcsinh of a third of that, so that neither noise nor a few bright ones
  decide.

The loss of a scheme is the mean over objects of its score by that of reading anew at each of twelve
steps, with an interval of 95 % by bootstrap over the objects, which are the same for all schemes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.bench.cards import environment
from omnisky.bench.methods import weights_sha256
from omnisky.codecs import Tokens
from omnisky.data import datasets
from omnisky.mock import Universe
from omnisky.model import Model

PHOTOMETRY = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")
SCHEMES: dict[str, dict[str, Any]] = {
    "roar, 12 steps": {"steps": 12},
    "roar, 12 steps, append": {"steps": 12, "context": "append"},
    "roar, 4 steps": {"steps": 4},
    "roar, 4 steps, append": {"steps": 4, "context": "append"},
    "one step": {"steps": 1},
    "roar, 8 steps": {"steps": 8},
    "maskgit, 12 steps": {"steps": 12, "method": "maskgit"},
    "maskgit, 12 steps, append": {"steps": 12, "method": "maskgit", "context": "append"},
    "roar, 24 steps": {"steps": 24},
}
# Universes of nano-sky have the seeds 41 to 44.
_SEED, _BIN = 97, 64


@dataclass(frozen=True)
class Task:
    """Say what is sampled.

    Parameters
    ----------
    what : str
        In words.
    given : Tokens
        What is known of each object.
    target : str
        What is sampled.
    seen : callable
        From fluxes (..., object, pixel) to what is compared (..., object, number).
    truth : array, shape (object, pixel)
        What was observed.
    """

    what: str
    given: Tokens
    target: str
    seen: Callable[[np.ndarray], np.ndarray]
    truth: np.ndarray


def of_stars(model: Model, count: int) -> Task:
    """Return XP spectra from photometry, of test stars."""
    data = datasets.load("gaia-apogee")
    test = np.random.default_rng(0).permutation(np.flatnonzero(data.split == "test"))
    stars = data[np.sort(test[:count])]
    truth = stars.observations["gaia_xp"].flux
    flux = truth.mean(axis=1, keepdims=True)
    scale = flux * (truth / flux).std(axis=0)
    given = model.tokenize(stars.observations.select(*PHOTOMETRY))
    what = "gaia_xp from photometry, test stars of gaia-apogee"
    return Task(what, given, "gaia_xp", lambda spectra: spectra / scale, truth)


def of_galaxies(model: Model, count: int) -> Task:
    """Return DESI spectra from Legacy Survey images, of mock objects."""
    universe = Universe(_SEED, 3 * count, size=96)
    there = np.asarray(universe.truth["in_legacysurvey"] & universe.truth["in_desi"], dtype=bool)
    rows = np.flatnonzero(there)[:count]
    observed = universe.observations(rows, ["legacysurvey_image", "desi_spectrum"])
    spectrum = observed["desi_spectrum"]
    weight = np.where(spectrum.mask, spectrum.ivar, 0)

    def binned(values: np.ndarray) -> np.ndarray:
        width = values.shape[-1] // _BIN * _BIN
        return values[..., :width].reshape(*values.shape[:-1], -1, _BIN).sum(-1)

    def seen(spectra: np.ndarray) -> np.ndarray:
        noise = np.sqrt(np.maximum(binned(weight), 1e-12))
        return np.arcsinh(binned(spectra * weight) / noise / 3)

    given = model.tokenize(observed.select("legacysurvey_image"))
    what = f"desi_spectrum from legacysurvey_image, mock objects of universe {_SEED}"
    return Task(what, given, "desi_spectrum", seen, np.where(weight > 0, spectrum.flux, 0))


TASKS = {"stars": (of_stars, "nano"), "galaxies": (of_galaxies, "nano-sky")}


def energy_scores(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the score of each object.

    Parameters
    ----------
    samples : array, shape (sample, object, number)
        At least two samples.
    truth : array, shape (object, number)
        What was observed, in the same unit.
    """
    n = len(samples)
    off = np.sqrt(((samples - truth) ** 2).mean(-1)).mean(0)
    apart = sum(np.sqrt(((samples - one) ** 2).mean(-1)).sum(0) for one in samples)
    return off - 0.5 * apart / (n * (n - 1))


def compared(scores: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Return the mean score and its ratio to that of a reference, object by object."""
    drawn = np.random.default_rng(0).integers(len(scores), size=(2000, len(scores)))
    ratios = scores[drawn].mean(1) / reference[drawn].mean(1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return {
        "energy_score": float(scores.mean()),
        "by_that_of_the_first": float(scores.mean() / reference.mean()),
        "interval_95": [float(low), float(high)],
    }


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Quality of schemes of generation.")
    parser.add_argument("--task", choices=TASKS, default="stars")
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    made, base = TASKS[asked.task]
    model = Model.from_pretrained(base)
    task = made(model, asked.objects)
    truth = task.seen(task.truth)
    result: dict[str, Any] = {
        "what": f"{task.what}, by {base}",
        "mock": asked.task == "galaxies",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "weights_sha256": weights_sha256(base),
        "objects": len(truth),
        "samples": asked.samples,
        "runs": {},
    }
    reference = np.empty(0)
    for name, how in SCHEMES.items():
        start = time.process_time()
        found = model.generate(task.given, task.target, n_samples=asked.samples, seed=1, **how)
        seconds = time.process_time() - start
        scores = energy_scores(task.seen(found[task.target].samples), truth)
        reference = reference if len(reference) else scores
        run = {**how, **compared(scores, reference), "cpu_seconds": seconds}
        result["runs"][name] = run
        print(name, {k: v for k, v in run.items() if k not in how}, flush=True)
        if asked.out:  # after each, since some take long
            asked.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
