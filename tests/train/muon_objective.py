"""Muon on weights that two processes divide: single steps, and a run of the masked objective."""

import json
import sys
from pathlib import Path

import torch
from masked_objective import run
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from omnisky.train import TrainConfig
from omnisky.train.optim import build_optimizer
from omnisky.train.parallel import join_processes
from omnisky.train.sharding import divided_like, rows_here

MUON = {"optimizer": "muon", "learning_rate": 1e-3}


class Matrices(nn.Module):
    """A wide, a high, and one with fewer rows than processes; a vector for Adam."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"wide": (5, 9), "high": (9, 4), "single": (1, 3), "vector": (7,)}
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))

    def hidden_matrices(self):
        return {"wide", "high", "single"}


def moved(divided: bool) -> dict[str, list]:
    """Return the weights after three steps along given gradients."""
    module = Matrices()
    if divided:
        fully_shard(module, mesh=init_device_mesh("cpu", (2,)))
    optimizer = build_optimizer(module, TrainConfig(steps=3, batch_size=1, **MUON))
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in module.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            if divided:
                gradient = divided_like(parameter, gradient[slice(*rows_here(parameter))])
            parameter.grad = gradient
        optimizer.step()
    whole = {n: p.full_tensor() if divided else p for n, p in module.named_parameters()}
    return {name: tensor.tolist() for name, tensor in whole.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with join_processes("cpu") as processes:
        found = moved(divided=True)
        if processes.is_main:
            (folder / "moved.json").write_text(json.dumps(found))
        run(folder / "two", sharding="fsdp2", **MUON)
