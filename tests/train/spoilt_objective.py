"""A program that trains on several processes until one of them meets NaN, twice."""

import json
import sys
from pathlib import Path

import torch
from masked_objective import MaskedObjective

from omnisky.train import TrainConfig, train
from omnisky.train.parallel import join_processes
from omnisky.train.sampler import EpochSampler

BATCH = 12


class Spoilt(MaskedObjective):
    """An object of the second process's fourth batch has no finite loss."""

    def __init__(self) -> None:
        super().__init__()
        sampler = EpochSampler(self.n_examples, BATCH, 0, rank=1, world_size=2)
        self.bad = [sampler.next_batch() for _ in range(4)][-1][2]

    def loss(self, module, indices, generator):
        loss, metrics = super().loss(module, indices, generator)
        return torch.where((indices == self.bad).any(), torch.nan, 1.0) * loss, metrics


def stop(out, **settings):
    """Return why a run stopped."""
    config = TrainConfig(
        steps=8, batch_size=BATCH, checkpoint_every=2, keep_checkpoints=1, **settings
    )
    try:
        train(Spoilt(), config, out, progress=False, device="cpu")
    except FloatingPointError as error:
        return str(error)
    return "it did not stop"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with join_processes("cpu") as processes:
        told = {
            sharding: [stop(folder / sharding, sharding=sharding) for _ in range(2)]
            for sharding in ("none", "fsdp2")
        }
        (folder / f"told-{processes.rank}.json").write_text(json.dumps(told))
