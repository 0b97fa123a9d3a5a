"""How long does a step of Muon take beside torch's? Write JSON.

    python perf/muon.py --out perf/results/muon.json

The matrices inside the blocks of a preset get given gradients; both optimizers move copies of them
in turn, in one process. The limit are the products of the Newton-Schulz iteration at the speed that
large products reach on this machine, in float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from machine import gemm_gflops
from torch import nn
from turns import in_turns

from omnisky.bench.cards import environment
from omnisky.model import Model
from omnisky.train import TrainConfig
from omnisky.train.optim import build_optimizer

_STEPS = 5


class Matrices(nn.Module):
    """The hidden matrices of a preset, and a number for AdamW."""

    def __init__(self, preset: str) -> None:
        super().__init__()
        network = Model.from_preset(preset).network
        named = dict(network.named_parameters())
        self.moved = nn.ParameterList(named[name].detach() for name in network.hidden_matrices())
        self.number = nn.Parameter(torch.zeros(()))

    def hidden_matrices(self) -> list[str]:
        """Return all but the number."""
        return [f"moved.{i}" for i in range(len(self.moved))]


def operations(module: Matrices) -> float:
    """Return the floating-point operations of the iteration's three products."""
    total = 0.0
    for matrix in module.moved:
        short, long = sorted(matrix.shape)
        total += _STEPS * (2 * short * short * long * 2 + 2 * short**3)
    return total


def measure(preset: str, rounds: int) -> dict[str, Any]:
    """Return medians and ratio of rounds, each contender once a round."""
    ours, theirs = Matrices(preset), Matrices(preset)
    for a, b in zip(ours.moved, theirs.moved, strict=True):
        a.grad = torch.randn_like(a)
        b.grad = a.grad.clone()
    settings = TrainConfig(steps=1, batch_size=1, optimizer="muon")
    rate = settings.learning_rate
    steps = {
        "ours": build_optimizer(ours, settings).step,
        "torch": torch.optim.Muon(theirs.moved.parameters(), lr=rate).step,
    }
    seconds = in_turns(steps, rounds)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    pairs = zip(seconds["torch"], seconds["ours"], strict=True)
    limit = operations(ours) / gemm_gflops() / 1e9
    return {
        "matrices": len(ours.moved),
        "seconds_median": median,
        "times_torch": statistics.median(b / a for b, a in pairs),
        "share_of_limit": limit / median["ours"],
    }


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="A step of Muon beside torch's.")
    parser.add_argument("--presets", default="nano", help="separated by commas (nano)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    result: dict[str, Any] = {**environment(), "threads": asked.threads}
    for preset in asked.presets.split(","):
        result[preset] = measure(preset, asked.rounds)
        found = result[preset]
        times, share = found["times_torch"], found["share_of_limit"]
        print(f"{preset}: {times:.1f} times torch's, {share:.0%} of the limit", flush=True)
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
