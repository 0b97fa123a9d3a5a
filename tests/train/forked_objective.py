"""A regression whose objects need different weights; a program that trains it on two processes."""

import json
import shutil
import sys
from pathlib import Path

import torch
from torch import nn
from toy_objective import config

from omnisky.train import train
from omnisky.train.log import Averages
from omnisky.train.parallel import join_processes


class Forked(nn.Module):
    """Blocks of odd widths, then one of two heads, as the object's number is even or odd."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 7)
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(7, 7), nn.GELU()) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(7, 1) for _ in range(2))
        self.scale = nn.Parameter(torch.ones(1, 1))

    def blocks(self):
        return list(self.parts)

    def materialise(self, device, seed):
        raise AssertionError("its weights have memory")

    def forward(self, x, odd):
        x = self.stem(x)
        for part in self.parts:
            x = x + part(x)
        found = [(head, (odd == which).nonzero()[:, 0]) for which, head in enumerate(self.heads)]
        return [(rows, head(x[rows]) * self.scale) for head, rows in found if len(rows)]


class ForkedObjective:
    fingerprint = "forked"

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(100, 6, generator=generator)
        self.n_examples = len(self.x)
        self.y = self.x.sum(1, keepdim=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.module = Forked()

    def loss(self, module, indices, generator):
        y = self.y[indices]
        squares = [
            (y[rows] - out).square().sum() for rows, out in module(self.x[indices], indices % 2)
        ]
        return torch.stack(squares).sum() / len(indices), {}

    def evaluate(self):
        return Averages.merge([self.evaluate_share(0, 1)])

    def evaluate_share(self, rank, world_size):
        indices = torch.arange(100)[rank::world_size]
        y = self.y[indices]
        with torch.no_grad():
            squares = [
                (y[rows] - out).square().sum()
                for rows, out in self.module(self.x[indices], indices % 2)
            ]
        return {"error": (float(torch.stack(squares).sum()), len(indices))}


SETTINGS = {"ema": 0.8, "clip_norm": 0.5, "schedule": "constant"}


def run(out, steps=20, **changes):
    objective = ForkedObjective()
    settings = config(steps=steps, **(SETTINGS | changes))
    train(objective, settings, out, progress=False, device="cpu")
    return objective


def main(folder):
    """Train in every way that the tests look at; `folder` holds a run of one process."""
    with join_processes("cpu") as processes:
        if processes.is_main:
            shutil.copytree(folder / "one", folder / "one-two")
            shutil.copytree(folder / "one", folder / "one-two-copied")
        processes.wait()
        run(folder / "two", sharding="fsdp2")
        run(folder / "one-two", 40, sharding="fsdp2")
        objective = run(folder / "one-two-copied", 40, accumulate=1)
        run(folder / "micro", sharding="fsdp2", accumulate=2)
        run(folder / "copied-micro", accumulate=2)
        objective = ForkedObjective()
        objective.x[17] = float("nan")
        for sharding in ("none", "fsdp2"):
            try:
                settings = config(**SETTINGS, sharding=sharding)
                train(objective, settings, folder / f"nan-{sharding}", progress=False, device="cpu")
            except FloatingPointError as error:
                told = {"rank": processes.rank, "message": str(error)}
                path = folder / f"nan-{sharding}-{processes.rank}.json"
                path.write_text(json.dumps(told))
            objective = ForkedObjective()
            objective.x[17] = float("nan")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
