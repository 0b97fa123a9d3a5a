"""Which objects, and which random numbers, does each step get?

Both follow from the seed and the position alone, so that a resumed run goes on to the sample.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "EpochSampler",
    "MixtureSampler",
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


class MixtureSampler:
    """Give batches of objects of several sources, in which each source has a fixed share.

    Within a source every object comes once before any comes again, as `EpochSampler` has it. Where
    the shares of a batch are no whole numbers, they are met over the following batches. Objects are
    numbered through the sources, one source after the other.

    Parameters
    ----------
    counts : sequence of int
        Number of objects of each source.
    weights : sequence of float
        Share of each source in a batch, relative to the others.
    batch_size, seed, rank, world_size
        As for `EpochSampler`.

    Raises
    ------
    ValueError
        If a source has no objects or no weight, or the batch cannot be shared equally.
    """

    def __init__(
        self,
        counts: Sequence[int],
        weights: Sequence[float],
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(counts) != len(weights) or not all(w > 0 for w in weights):
            raise ValueError(f"each source needs a positive weight; found {list(weights)}")
        if batch_size % world_size:
            raise ValueError(
                f"batch_size must be a multiple of the number of processes, {world_size}; "
                f"found {batch_size}"
            )
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size
        self.counts, self.weights, self.seed = list(counts), list(weights), seed
        # One batch at a time is asked of them, of the size that is due.
        self._samplers = [EpochSampler(n, 1, _mix(seed, i)) for i, n in enumerate(counts)]
        self._first = np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist()

    def next_batch(self) -> Tensor:
        """Return this process's share of the next batch, LongTensor (object,), and move on."""
        parts = []
        for sampler, first, due in zip(self._samplers, self._first, self._due(), strict=True):
            if due:
                sampler.batch_size = due
                parts.append(first + sampler.next_batch())
        return torch.cat(parts)[self.rank :: self.world_size]

    def _due(self) -> list[int]:
        """Return how many objects of each source the next batch has."""
        given = np.array([sampler.position for sampler in self._samplers])
        share = np.array(self.weights) / sum(self.weights)
        due = np.zeros(len(given))
        numbers = given.sum() + 1 + np.arange(self.batch_size)
        # What can be is computed of all objects at once: batches of thousands are waited for.
        for lacking in share * numbers[:, None] - given:
            # The next object comes from the source that lacks most of what is its own.
            due[(lacking - due).argmax()] += 1
        return due.astype(int).tolist()

    def state_dict(self) -> dict[str, Any]:
        """Return the positions, in objects of all processes, and what they belong to."""
        positions = [sampler.position for sampler in self._samplers]
        return {
            "positions": positions,
            "counts": self.counts,
            "weights": self.weights,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to stored positions; the number of processes may have changed since.

        Raises
        ------
        ValueError
            If they belong to other data, weights or another seed.
        """
        for name in ("counts", "weights", "seed"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the stored sampler positions are for {name} {state[name]}; found "
                    f"{getattr(self, name)}. Train in another folder, or with the former data"
                )
        for sampler, position in zip(self._samplers, state["positions"], strict=True):
            sampler.position = position


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
