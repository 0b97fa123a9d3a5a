"""A linear regression that draws random numbers of every kind, as a module and as a program."""

import argparse
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from omnisky.train import TrainConfig, train


class Toy:
    """Learn y = sum(x) of 100 rows; with noise, the loss uses all four random generators."""

    fingerprint = "toy"

    def __init__(self, *, noise: bool = True, sleep: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(100, 6, generator=generator)
        self.y = self.x.sum(1, keepdim=True)
        self.n_examples = len(self.x)
        self.noise, self.sleep = noise, sleep
        self.evaluations = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            hidden = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1 if noise else 0.0), nn.GELU())
            self.module = nn.Sequential(hidden, nn.Linear(8, 1))

    def loss(self, module, indices, generator):
        x = self.x[indices]
        if self.noise:
            x = x + 0.01 * torch.randn(x.shape, generator=generator)
            x = x + 0.01 * random.gauss(0, 1) + 0.01 * float(np.random.normal())  # noqa: NPY002
        time.sleep(self.sleep)
        loss = (module(x) - self.y[indices]).square().mean()
        return loss, {"error": loss.detach().sqrt().item()}

    def evaluate(self):
        self.evaluations += 1
        assert not self.module.training
        torch.rand(3)  # must not change what is trained
        return {"error": (self.module(self.x) - self.y).square().mean().sqrt().item()}


def config(**changes) -> TrainConfig:
    settings = {"steps": 40, "batch_size": 8, "warmup_steps": 5, "learning_rate": 0.01}
    return TrainConfig(**(settings | {"checkpoint_every": 10, "log_every": 4} | changes))


def die_in_save_of(step: int) -> None:
    """Kill this process after the files of a checkpoint are written, before it has its name."""
    rename = Path.rename

    def deadly(self, target):
        if Path(target).name == f"step-{step:08d}":
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.rename = deadly


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--die-in-save-of", type=int)
    parser.add_argument("--exact", action="store_true", help="no noise")
    options = parser.parse_args()
    if options.die_in_save_of is not None:
        die_in_save_of(options.die_in_save_of)
    toy = Toy(noise=not options.exact, sleep=options.sleep)
    train(toy, config(steps=options.steps), options.out, device="cpu")
