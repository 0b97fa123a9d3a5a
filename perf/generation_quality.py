"""Measure what faster schemes of generation cost in quality; write JSON.

    python perf/generation_quality.py --stars 300 --out perf/results/generation_quality.json

Spectra of test stars are sampled from their photometry by each scheme, and compared with those
observed by the energy score of the whole spectrum (Gneiting & Raftery 2007; smaller is better, and
least in expectation for the true distribution): the mean distance of samples to the truth less half
that between samples. Spectra are divided by the mean flux of the truth, and pixels by their scatter
over the stars, lest bright stars decide. The loss of a scheme is the mean over stars of its score
by that of reading anew at each step, with the standard error of the differences star by star.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.bench.cards import environment
from omnisky.bench.methods import weights_sha256
from omnisky.data import datasets
from omnisky.model import Model

PHOTOMETRY = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")
TARGET = "gaia_xp"
SCHEMES: dict[str, dict[str, Any]] = {
    "roar, 12 steps": {"steps": 12},
    "roar, 12 steps, append": {"steps": 12, "context": "append"},
    "roar, 4 steps": {"steps": 4},
    "roar, 4 steps, append": {"steps": 4, "context": "append"},
    "one step": {"steps": 1},
    "maskgit, 12 steps": {"steps": 12, "method": "maskgit"},
    "maskgit, 12 steps, append": {"steps": 12, "method": "maskgit", "context": "append"},
}


def energy_scores(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the score of each star.

    Parameters
    ----------
    samples : array, shape (sample, star, pixel)
        At least two samples.
    truth : array, shape (star, pixel)
        What was observed, in the same unit.
    """
    n = len(samples)
    off = np.sqrt(((samples - truth) ** 2).mean(-1)).mean(0)
    apart = sum(np.sqrt(((samples - one) ** 2).mean(-1)).sum(0) for one in samples)
    return off - 0.5 * apart / (n * (n - 1))


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Quality of schemes of generation.")
    parser.add_argument("--base", default="nano")
    parser.add_argument("--dataset", default="gaia-apogee")
    parser.add_argument("--stars", type=int, default=300)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    model, data = Model.from_pretrained(asked.base), datasets.load(asked.dataset)
    test = np.random.default_rng(0).permutation(np.flatnonzero(data.split == "test"))
    stars = data[np.sort(test[: asked.stars])]
    given = model.tokenize(stars.observations.select(*PHOTOMETRY))
    truth = stars.observations[TARGET].flux
    flux = truth.mean(axis=1, keepdims=True)
    scale = flux * (truth / flux).std(axis=0)
    result: dict[str, Any] = {
        "what": f"{TARGET} from photometry by {asked.base}, test stars of {asked.dataset}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "weights_sha256": weights_sha256(asked.base),
        "stars": len(stars),
        "samples": asked.samples,
        "runs": {},
    }
    reference = np.empty(0)
    for name, how in SCHEMES.items():
        start = time.process_time()
        found = model.generate(given, TARGET, n_samples=asked.samples, seed=1, **how)[TARGET]
        seconds = time.process_time() - start
        scores = energy_scores(found.samples / scale, truth / scale)
        reference = reference if len(reference) else scores
        result["runs"][name] = run = {
            **how,
            "energy_score": float(scores.mean()),
            "by_that_of_the_first": float(scores.mean() / reference.mean()),
            "standard_error": float(
                (scores - reference).std() / len(scores) ** 0.5 / reference.mean()
            ),
            "cpu_seconds": seconds,
        }
        print(name, {k: v for k, v in run.items() if k not in how}, flush=True)
        if asked.out:  # after each, since some take long
            asked.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
