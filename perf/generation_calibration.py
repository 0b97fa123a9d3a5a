"""Measure whether generated posteriors of star labels are calibrated; write JSON.

    python perf/generation_calibration.py --out perf/results/generation_calibration.json

Posteriors of each label are generated from each set of inputs, for stars of the test split, which
the model has never seen, and compared with the labels measured by APOGEE. The shares of central
intervals that hold the truth come with 95 % intervals (Wilson); the spread over seeds is that over
disjoint draws of stars. Each is also measured at the sampling temperature that brings the PIT of
other stars, of the calibration split, nearest to uniform.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.bench.cards import environment
from omnisky.bench.methods import weights_sha256
from omnisky.data import datasets
from omnisky.data.datasets import Dataset
from omnisky.model import Model
from omnisky.model.generation import Reading
from omnisky.model.generation.calibration import calibration_of

LABELS = ("apogee_teff", "apogee_logg", "apogee_fe_h")
INPUTS = {
    "xp": ("gaia_xp",),
    "photometry": ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k"),
}


TEMPERATURES = (0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0)


def found_at(reading: Reading, stars: Dataset, label: str, temperature: float) -> dict[str, Any]:
    """Return the calibration of a label at a temperature."""
    posterior = reading.generate(label, n_samples=1, temperature=temperature)[label]
    truth = stars.targets(label)[:, 0]
    error = (posterior.mean - truth)[np.isfinite(truth)]
    return {
        "label": label,
        "temperature": temperature,
        "robust_scatter": float(1.4826 * np.median(np.abs(error - np.median(error)))),
        "median_posterior_std": float(np.median(posterior.std)),
        **calibration_of(posterior, truth).to_dict(),
    }


def measure(model: Model, stars: Dataset, others: Dataset, inputs: str) -> list[dict[str, Any]]:
    """Return what is found for each label, as it is and at the temperature that others call for."""
    given = INPUTS[inputs]
    reading = model.read(stars.observations.select(*given))
    tuning = model.read(others.observations.select(*given))
    found = []
    for label in LABELS:
        tried = [found_at(tuning, others, label, one) for one in TEMPERATURES]
        best = min(tried, key=lambda one: one["distance"])["temperature"]
        found += [
            {"inputs": inputs, **found_at(reading, stars, label, temperature)}
            for temperature in dict.fromkeys((1.0, best))
        ]
    return found


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Calibration of generated labels.")
    parser.add_argument("--base", default="nano")
    parser.add_argument("--dataset", default="gaia-apogee")
    parser.add_argument("--stars", type=int, default=1000, help="for each seed (1000)")
    parser.add_argument("--seeds", type=int, default=2, help="disjoint draws of stars (2)")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    start = time.perf_counter()
    model, data = Model.from_pretrained(asked.base), datasets.load(asked.dataset)
    parts = {
        split: np.random.default_rng(0).permutation(np.flatnonzero(data.split == split))
        for split in ("test", "calibration")
    }
    runs = []
    for seed, inputs in product(range(asked.seeds), INPUTS):
        stars, others = (
            data[np.sort(rows[seed * asked.stars : (seed + 1) * asked.stars])]
            for rows in parts.values()
        )
        for one in measure(model, stars, others, inputs):
            runs.append({"seed": seed, **one})
            cover = {c["level"]: round(c["found"], 3) for c in one["coverage"]}
            about = (one[key] for key in ("inputs", "label", "temperature"))
            print(seed, *about, cover, round(one["distance"], 3))
    result = {
        "what": f"posteriors of labels by {asked.base}, on test stars of {asked.dataset}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "weights_sha256": weights_sha256(asked.base),
        "seconds": time.perf_counter() - start,
        "runs": runs,
    }
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
