"""Measure whether redshift posteriors of mock objects by nano-sky are calibrated; write JSON.

    python perf/redshift_calibration.py --out perf/results/redshift_calibration.json

Everything here is mock. Posteriors of DESI's redshift are generated from one modality at a time,
for objects of universes that nothing was trained or tuned on, and compared with what the mock
pipeline measured. An HSC image was never seen with a redshift in training. Each is measured as it
is, and recalibrated by the PIT of the objects of one more universe. Shares of central intervals
that hold the truth come with 95 % intervals (Wilson).
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from generation_calibration import write

from omnisky.mock import Universe
from omnisky.model import Model
from omnisky.model.generation import ScalarPosterior, calibration_of, mean_crps

TARGET = "desi_z"
GIVEN = ("legacysurvey_image", "hsc_image", "desi_spectrum")
# Of universes that are measured, and of the one that recalibrates.
SEEDS, LEARNED = (7001, 7002), 7003


def posteriors(
    model: Model, seed: int, given: str, objects: int, samples: int
) -> tuple[ScalarPosterior, np.ndarray]:
    """Return posteriors of the objects of a universe that have both, and what was measured."""
    universe = Universe(seed=seed, n=objects, size=96)
    known = universe.observations(modalities=(given, TARGET))
    both = known[given].present & known[TARGET].present
    known = known[np.flatnonzero(both)]
    made = model.generate(known.select(given), TARGET, n_samples=samples)[TARGET]
    return made, np.asarray(known[TARGET].value, dtype=np.float64)


def told(posterior: ScalarPosterior, truth: np.ndarray) -> dict[str, Any]:
    """Return how well posteriors do: width, score and calibration."""
    low, high = posterior.quantile([0.05, 0.95])
    return {
        "objects": len(truth),
        "median_absolute_error": float(np.median(np.abs(posterior.quantile(0.5) - truth))),
        "median_width_of_90_percent": float(np.median(high - low)),
        "mean_crps": mean_crps(posterior, truth),
        **calibration_of(posterior, truth).to_dict(),
    }


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Calibration of generated mock redshifts.")
    parser.add_argument("--base", default="nano-sky")
    parser.add_argument("--objects", type=int, default=700, help="of each universe (700)")
    parser.add_argument("--samples", type=int, default=64, help="of each object (64)")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    start, model, runs = time.perf_counter(), Model.from_pretrained(asked.base), []
    how = asked.objects, asked.samples
    learned = {given: calibration_of(*posteriors(model, LEARNED, given, *how)) for given in GIVEN}
    for seed, given in product(SEEDS, GIVEN):
        as_it_is, truth = posteriors(model, seed, given, *how)
        ways = {"as it is": as_it_is, "recalibrated": learned[given].recalibrate(as_it_is)}
        for way, posterior in ways.items():
            one = told(posterior, truth)
            runs.append({"seed": seed, "given": given, "way": way, **one})
            cover = {c["level"]: round(c["found"], 3) for c in one["coverage"]}
            print(seed, given, way, one["objects"], cover, f"CRPS {one['mean_crps']:.4g}")
    what = f"MOCK: posteriors of {TARGET} by {asked.base}, on universes it never saw"
    if asked.out:
        write(asked.out, what, asked.base, start, {"samples": asked.samples, "runs": runs})
    return 0


if __name__ == "__main__":
    sys.exit(main())
