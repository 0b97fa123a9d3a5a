"""On how many processes and on which device? Applied to a model from outside.

One process needs nothing. ``torchrun --nproc-per-node N`` starts several, which find each other
through the environment; then gradients are averaged by DistributedDataParallel, or weights,
gradients and moments are divided among the processes (`omnisky.train.sharding`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from omnisky.model.blocks import usable_device
from omnisky.train.config import Sharding, TrainConfig
from omnisky.train.sharding import Shards, broadcast_from_main

__all__ = [
    "Processes",
    "in_main_process",
    "join_processes",
    "launched_processes",
    "place",
    "tell",
    "untell",
    "wrap",
]

T = TypeVar("T")
_CUDA = re.compile(r"cuda(:\d+)?")
# So long processes wait for one that is late: the main one may evaluate a codec, or write, alone.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Say which process this is.

    Parameters
    ----------
    rank : int
        Number of this process, from 0.
    world_size : int
        Number of processes.
    device : torch.device
        Where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and talks."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return the value of every process, by rank, to all of them."""
        if self.world_size == 1:
            return [value]
        values: list = [None] * self.world_size
        dist.all_gather_object(values, value)
        # Gloo's thread needs the interpreter to let go of the tensors in which objects travelled,
        # and would wait for ever for a process that is ending by then. Here it gets it.
        self.wait()
        return values

    def any(self, value: bool) -> bool:
        """Return True to all processes if it is True in one of them."""
        if self.world_size == 1:
            return value
        found = torch.tensor(int(value), device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.world_size > 1:
            dist.barrier()


def launched_processes() -> int:
    """Return how many processes torchrun started, joined or not; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def in_main_process() -> bool:
    """Return True in the one process that writes files, joined or not."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def join_processes(device: str | torch.device | None = None) -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one.

    Parameters
    ----------
    device : str or torch.device, optional
        Where to compute. Without it: the process's own CUDA device if there is one, else the CPU.

    Raises
    ------
    ValueError
        If this machine or this torch has no such device, or there are more processes on it than
        CUDA devices.
    """
    world_size = launched_processes()
    chosen = _device(device)
    if world_size == 1 and not dist.is_initialized():
        yield Processes(rank=0, world_size=1, device=chosen)
        return
    ours = not dist.is_initialized()
    if ours:
        on_cuda = chosen.type == "cuda"
        dist.init_process_group(
            "nccl" if on_cuda else "gloo",
            timeout=_PATIENCE,
            device_id=chosen if on_cuda else None,
        )
    try:
        yield Processes(rank=dist.get_rank(), world_size=dist.get_world_size(), device=chosen)
    finally:
        if ours:
            dist.destroy_process_group()


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not _CUDA.fullmatch(str(device)):
        return usable_device(device)
    # Which of them is this process's is settled before anything is put on one.
    chosen = torch.device(device)
    if chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.index >= torch.cuda.device_count():
        raise ValueError(
            f"this process wants {chosen}, but the machine has {torch.cuda.device_count()} CUDA "
            "devices; start at most as many processes, or pass device='cpu'"
        )
    torch.cuda.set_device(chosen)
    return chosen


def tell(module: nn.Module, config: TrainConfig, processes: Processes) -> None:
    """Tell a module how its blocks are to compute: kept or again, as written or compiled.

    Raises
    ------
    ValueError
        If it cannot do what is asked for.
    OSError
        If nothing can be compiled on this machine.
    """
    for name, setter, more in (
        ("activation_checkpointing", "set_recompute", ()),
        ("compile", "set_compiled", (processes.device,)),
    ):
        wanted, method = getattr(config, name), getattr(module, setter, None)
        if callable(method):
            method(wanted, *more)
        elif wanted:
            raise ValueError(
                f"{type(module).__name__} does not know {name}: it has no {setter}(); use "
                f"{name}=false"
            )


def untell(module: nn.Module) -> None:
    """Let a trained module compute as a new one does."""
    for setter in ("set_recompute", "set_compiled"):
        method = getattr(module, setter, None)
        if callable(method):
            method(False)


def wrap(module: nn.Module, processes: Processes) -> nn.Module:
    """Return the module with gradients averaged over processes; itself if there is one process.

    Buffers are told to all processes before each forward pass, unless the module says by a true
    ``buffers_are_fixed`` that none changes in one.
    """
    if processes.world_size == 1:
        return module
    on_cuda = processes.device.type == "cuda"
    wrapped = DistributedDataParallel(
        module,
        device_ids=[processes.device] if on_cuda else None,
        # A batch in which no object has some modality leaves that modality's weights unused.
        find_unused_parameters=True,
        gradient_as_bucket_view=True,
    )
    # Telling those of forty modalities takes a quarter of a step (dev/LOG.md). An argument's name
    # for it depends on the version of torch; that of the attribute does not.
    wrapped.broadcast_buffers = not getattr(module, "buffers_are_fixed", False)
    return wrapped


def place(module: nn.Module, processes: Processes, sharding: Sharding, seed: int) -> Shards | None:
    """Put a module where a run computes, in place, divided among the processes or not.

    Weights on the meta device are made there, whole or divided, by the module's own
    ``materialise(device, seed)``; a large network is never whole anywhere.

    Returns
    -------
    Shards or None
        What `Shards.gather` makes an ordinary module of in the end, if it is divided.

    Raises
    ------
    ValueError
        If weights have no memory, and the module cannot make them.
    """
    empty = any(p.is_meta for p in module.parameters())
    if empty and not callable(getattr(module, "materialise", None)):
        raise ValueError(
            f"{type(module).__name__} has weights on the meta device and no materialise(device, "
            "seed) to make them; build it with memory"
        )
    shards = None
    if sharding == "fsdp2":
        if not empty and processes.world_size > 1:
            broadcast_from_main(module, processes.device)
        shards = Shards(module, processes.device, processes.world_size)
    if empty:
        module.materialise(processes.device, seed)  # type: ignore[operator]
    elif shards is None or not shards.divided:
        module.to(processes.device)
    return shards
