"""Which objects, and which random numbers, does each step get?

Both follow from the seed and the position alone, so that a resumed run goes on to the sample.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "EpochSampler",
    "preserve_random_state",
    "seed_all",
    "step_generator",
]


def _mix(*numbers: int) -> int:
    """Turn several integers into one seed; nearby inputs give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """Return the generator of one step of one process, always the same for the same numbers.

    It lives on the CPU, so that what is drawn does not depend on the accelerator.
    """
    return torch.Generator().manual_seed(_mix(seed, step, rank))


class EpochSampler:
    """Give batches of object indices: every object once an epoch, in a new order each epoch.

    Epochs follow each other without a gap: a batch that starts at the end of one epoch is filled
    from the next, so that no object is lost and every batch is whole. Each process takes every
    `world_size`-th object of the same global batch.

    Parameters
    ----------
    n_examples : int
        Number of objects.
    batch_size : int
        Objects a batch, over all processes; a multiple of `world_size`. May exceed `n_examples`.
    seed : int
        Seed of the orders.
    rank, world_size : int
        Which process this is, of how many.

    Raises
    ------
    ValueError
        If there are no objects, or the batch cannot be shared equally.
    """

    def __init__(
        self, n_examples: int, batch_size: int, seed: int, *, rank: int = 0, world_size: int = 1
    ) -> None:
        if n_examples < 1:
            raise ValueError(f"there must be an object to train on; found {n_examples}")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {world_size}; "
                f"found {batch_size}"
            )
        self.n_examples, self.batch_size, self.seed = n_examples, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.position = 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def next_batch(self) -> Tensor:
        """Return this process's share of the next batch, LongTensor (object,), and move on."""
        parts, wanted = [], self.batch_size
        while wanted:
            epoch, start = divmod(self.position, self.n_examples)
            part = self._order_of(epoch)[start : start + wanted]
            parts.append(part)
            wanted -= len(part)
            self.position += len(part)
        return torch.cat(parts)[self.rank :: self.world_size]

    def _order_of(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
            self._order = torch.randperm(self.n_examples, generator=generator)
            self._epoch = epoch
        return self._order

    def state_dict(self) -> dict[str, int]:
        """Return the position, in objects of all processes, and what it belongs to."""
        return {"position": self.position, "n_examples": self.n_examples, "seed": self.seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a stored position; the number of processes may have changed since.

        Raises
        ------
        ValueError
            If the position belongs to other data or another seed.
        """
        for name in ("n_examples", "seed"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the stored sampler position is for {name} {state[name]}; found "
                    f"{getattr(self, name)}. Train in another folder, or with the former data"
                )
        self.position = state["position"]


def seed_all(seed: int, step: int, rank: int = 0) -> None:
    """Seed the global generators of Python, NumPy and torch for one step of one process.

    Dropout and the like draw from these. Seeding them each step, rather than storing their states,
    makes a step independent of whatever drew random numbers in between: an evaluation, a logger.
    """
    mixed = _mix(seed, step, rank)
    random.seed(mixed)
    np.random.seed(mixed % 2**32)  # noqa: NPY002 - the global one is what others draw from
    torch.manual_seed(mixed)


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Undo, on leaving, whatever happened to the global generators."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
