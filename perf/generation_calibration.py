"""Measure whether generated posteriors of star labels are calibrated; write JSON.

    python perf/generation_calibration.py --out perf/results/generation_calibration.json

Posteriors of each label are generated from each set of inputs, for stars of the test split, which
the model has never seen, and compared with the labels measured by APOGEE. The shares of central
intervals that hold the truth come with 95 % intervals (Wilson); the spread over seeds is that over
disjoint draws of stars. Each is also measured after two cures learned from other stars, of the
calibration split: recalibration by their PIT, and the sampling temperature that brings their PIT
nearest to uniform.
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

from omnisky.adapt.metrics import robust_scatter
from omnisky.bench.cards import environment
from omnisky.bench.methods import weights_sha256
from omnisky.data import datasets
from omnisky.data.datasets import Dataset
from omnisky.model import Model
from omnisky.model.generation import Reading, ScalarPosterior, calibration_of, mean_crps

LABELS = ("apogee_teff", "apogee_logg", "apogee_fe_h")
INPUTS = {
    "xp": ("gaia_xp",),
    "photometry": ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k"),
}


TEMPERATURES = (0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0, 2.5, 3.0)


def drawn(reading: Reading, label: str, temperature: float) -> ScalarPosterior:
    """Return the posteriors of a label at a temperature."""
    return reading.generate(label, n_samples=1, temperature=temperature)[label]


def told(posterior: ScalarPosterior, truth: np.ndarray) -> dict[str, Any]:
    """Return how well posteriors do: scatter of their means and medians, width, calibration."""
    errors = {"mean": posterior.mean - truth, "median": posterior.quantile(0.5) - truth}
    low, high = posterior.quantile([0.05, 0.95])
    scatter = {f"robust_scatter_of_{name}": robust_scatter(e) for name, e in errors.items()}
    return {
        **scatter,
        "mean_crps": mean_crps(posterior, truth),
        "median_posterior_std": float(np.median(posterior.std)),
        "median_width_of_90_percent": float(np.median(high - low)),
        **calibration_of(posterior, truth).to_dict(),
    }


def measure(model: Model, stars: Dataset, others: Dataset, inputs: str) -> list[dict[str, Any]]:
    """Return what is found for each label, as it is and after what others call for."""
    reading, tuning = (model.read(s.observations.select(*INPUTS[inputs])) for s in (stars, others))
    found = []
    for label in LABELS:
        truth, known = (s.targets(label)[:, 0] for s in (stars, others))
        learned = {t: calibration_of(drawn(tuning, label, t), known) for t in TEMPERATURES}
        best = min(TEMPERATURES, key=lambda t: learned[t].distance)
        as_it_is = drawn(reading, label, 1.0)
        ways = {
            "as it is": (1.0, as_it_is),
            "recalibrated": (1.0, learned[1.0].recalibrate(as_it_is)),
            "temperature": (best, drawn(reading, label, best)),
        }
        for way, (temperature, posterior) in ways.items():
            about = {"inputs": inputs, "label": label, "way": way, "temperature": temperature}
            found.append({**about, **told(posterior, truth)})
    return found


def write(out: Path, what: str, base: str, start: float, found: dict[str, Any]) -> None:
    """Write what was found by a base, and where, when and how long it was looked for."""
    about = {
        "what": what,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "weights_sha256": weights_sha256(base),
        "seconds": time.perf_counter() - start,
    }
    out.write_text(json.dumps(about | found, indent=1) + "\n")


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
            about = (one[key] for key in ("inputs", "label", "way", "temperature"))
            print(seed, *about, cover, f"CRPS {one['mean_crps']:.4g}", flush=True)
    what = f"posteriors of labels by {asked.base}, on test stars of {asked.dataset}"
    if asked.out:
        write(asked.out, what, asked.base, start, {"runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
