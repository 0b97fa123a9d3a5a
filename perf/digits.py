"""Measure what it costs to take the digits of a code for independent of each other; write JSON.

    python perf/digits.py --tokens runs/nano-sky/tokens --out perf/results/digits.json

The run is the one whose model ships: the recipe with more objects, as its head says.

Of each code of each place, how often its ids are met in training is what somebody who is given
nothing can say best. Told from the digits alone, each with frequencies of its own, the same
held-out objects cost more: that is what a network pays whose scores are sums over digits. Nats a
token, means over places and objects.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from omnisky.model import Model
from omnisky.train.pretraining.tokentable import TokenTable

# Counts that are added to each id, and to each value of a digit.
ADDED = 0.1


def cost(training: np.ndarray, held_out: np.ndarray, size: int) -> np.ndarray:
    """Return the nats that each held-out number costs, by the frequencies of training."""
    counts = np.bincount(training, minlength=size) + ADDED
    return -np.log(counts[held_out] / counts.sum())


def costs(
    training: np.ndarray, held_out: np.ndarray, levels: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what ids cost, as a whole and digit by digit."""
    whole, digits = cost(training, held_out, int(np.prod(levels))), np.zeros(len(held_out))
    for level in levels:
        digits += cost(training % level, held_out % level, level)
        training, held_out = training // level, held_out // level
    return whole, digits


def of_source(folder: Path, model: Model) -> dict[str, dict[str, float | int]]:
    """Return the cost of each modality that has codes, by name."""
    training, held_out = (
        TokenTable.open(folder / split).tokens() for split in ("train", "calibration")
    )
    found = {}
    for name, ids in training.items():
        levels = [g.levels for g in model.config.by_name[name].groups for _ in range(g.n_tokens)]
        both = [
            costs(
                ids[training.mask[name][:, place], place].numpy(),
                held_out[name][held_out.mask[name][:, place], place].numpy(),
                levels[place],
            )
            for place in range(ids.shape[1])
            if levels[place]
        ]
        if both:
            whole, digits = (np.concatenate(part) for part in zip(*both, strict=True))
            found[name] = {
                "whole": float(whole.mean()),
                "digit_by_digit": float(digits.mean()),
                "places": len(both),
                "held_out_tokens": len(whole),
            }
    return found


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="What independent digits of codes cost.")
    parser.add_argument("--tokens", type=Path, required=True, help="tokens/ of a run of pretrain")
    parser.add_argument("--model", default="nano-sky", help="model with the codecs of the run")
    parser.add_argument("--out", type=Path, default=Path("digits.json"))
    options = parser.parse_args()
    model = Model.from_pretrained(options.model)
    sources = [f for f in sorted(options.tokens.iterdir()) if (f / "train").is_dir()]
    found = {TokenTable.open(f / "train").name: of_source(f, model) for f in sources}
    for source, modalities in found.items():
        for name, told in modalities.items():
            lost = told["digit_by_digit"] - told["whole"]
            print(
                f"{source:45s} {name:27s} {told['whole']:.2f} nats as a whole, {lost:+.2f} by digit"
            )
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
