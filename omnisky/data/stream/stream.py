"""Stream matched data as batches of torch tensors: read only what is matched, in any order."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.data.store.checksums import read_manifest
from omnisky.data.stream.batch import MeasurementBatch, ObjectBatch, batches_of
from omnisky.data.stream.checking import ChunkChecks
from omnisky.data.stream.reader import Reader, Slot
from omnisky.data.stream.schedule import Schedule
from omnisky.data.stream.source import Source, choose

if TYPE_CHECKING:
    from omnisky.data.match import Match

__all__ = ["Stream"]

# Batches being read while one is in use: two keep two threads busy at the seam between batches.
_AHEAD = 4


@dataclass(frozen=True)
class _InFlight:
    """A batch that is being read."""

    pairs: np.ndarray
    rows: list[np.ndarray]
    slot: Slot
    futures: list[Future[None]]


class Stream:
    """Iterate over matched data: dicts of typed batches of torch tensors.

    One pass of a ``for`` loop is one epoch; the next loop is the next epoch, in another order. A
    batch is a dict: ``"store.objects"`` identifies the objects of a store, ``"store.modality"``
    holds a modality. Where a group has no member in a store, values are 0 and masks are False.

    Buffers are used again: a batch stays valid until the next but one is asked for, so that one can
    be on its way to an accelerator while the next is used. Keep parts with ``clone()``, or ask for
    ``copy=True``.

    Packed stores are read row by row past Parquet, by threads of this process; do not put a
    `torch.utils.data.DataLoader` with workers around it. Stores of the interchange profile are read
    through pyarrow, row group by row group, which is slower by a factor of ten to a hundred.

    Parameters
    ----------
    match : Match
        What belongs together.
    batch_size : int
        Objects of a batch; the last batch of an epoch may be smaller.
    shuffle : bool
        Random order, another one each epoch; else that of the match.
    seed : int
        What the random order depends on.
    columns : sequence of str, optional
        ``"store.modality"`` or ``"store.modality.part"``; everything by default.
    rank, world_size : int
        Which share of the pairs to read, of how many. All ranks get the same number of pairs: up to
        ``world_size - 1`` at the end of the order are left out, other ones each epoch.
    threads : int, optional
        Threads that read and decode; one a core by default.
    block : int, optional
        Partitions of the first store that are mixed at a time, for disks and networks on which
        random access is slow. Without it, all pairs are mixed, which costs nothing on local
        solid-state disks.
    copy : bool
        Give every batch memory of its own.
    pin_memory : bool
        Lock the buffers in memory, so that copies to an accelerator need not wait.
    verify : bool
        Check column chunks against the checksums of the store when they are first read.

    Raises
    ------
    ValueError
        If an option is out of range, a column is unknown, or a store changed since it was opened.
    """

    def __init__(
        self,
        match: Match,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        columns: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int | None = None,
        block: int | None = None,
        copy: bool = False,
        pin_memory: bool = False,
        verify: bool = False,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("threads", threads), ("block", block)):
            if value is not None and (int(value) != value or value < 1):
                raise ValueError(f"{name} must be a positive integer; found {value!r}")
        self.match, self.batch_size, self.copy = match, int(batch_size), copy
        self.pin_memory = pin_memory
        _check_pinnable(pin_memory)
        _check_unchanged(match)
        chosen = choose(match.stores, columns)
        self._sources = [Source(n, s, chosen[n]) for n, s in match.stores.items()]
        self._rows = list(match.rows.values())
        self._schedule = Schedule(
            starts=self._starts(block),
            shuffle=shuffle,
            seed=seed,
            block=block or 0,
            rank=rank,
            world_size=world_size,
        )
        threads = threads or min(16, max(2, os.cpu_count() or 1))
        checks = ChunkChecks([s for s in self._sources if s.direct]) if verify else None
        self._reader = Reader(self._sources, threads, checks)
        self._epoch = self._position = 0
        self._queue: deque[_InFlight] = deque()
        self._planned = 0
        self._free: list[Slot] = []
        self._held: deque[Slot] = deque()
        self._closed = False
        _warn_if_slow(self._sources)

    def _starts(self, block: int | None) -> np.ndarray:
        """Return where the pairs of each partition of the first store begin, for block shuffles."""
        if not block:
            return np.array([0, len(self.match)])
        rows = self._rows[0]
        if (np.diff(rows) < 0).any():
            raise ValueError(
                "a block shuffle needs pairs in the order of the first store, but this part of a "
                "match is in another order; sort its rows, or leave block out"
            )
        return np.searchsorted(rows, self._sources[0].store.starts)

    def __len__(self) -> int:
        """Batches of an epoch, the same on all ranks."""
        return -(-self._schedule.count // self.batch_size)

    def __repr__(self) -> str:
        schedule = self._schedule
        return (
            f"Stream({schedule.count} pairs of {' × '.join(self.match.names)} an epoch, batches of "
            f"{self.batch_size}, rank {schedule.rank} of {schedule.world_size}; epoch "
            f"{self._epoch}, sample {self._position})"
        )

    @property
    def epoch(self) -> int:
        """Epochs finished so far."""
        return self._epoch

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> dict[str, ObjectBatch | MeasurementBatch]:
        if self._closed:
            raise ValueError("the stream is closed; make a new one from the match")
        if self._position >= self._schedule.count:
            self._epoch, self._position, self._planned = self._epoch + 1, 0, 0
            raise StopIteration
        if len(self._held) > 1:
            self._release(self._held.popleft())
        while len(self._queue) < _AHEAD and self._planned < self._schedule.count:
            self._plan()
        ready = self._queue[0]
        try:
            for future in ready.futures:
                future.result()
        except BaseException:
            self._drop_queue()
            raise
        self._queue.popleft()
        self._held.append(ready.slot)
        self._position += len(ready.pairs)
        return self._batch(ready)

    def _plan(self) -> None:
        """Begin to read the next batch of this epoch that is not being read yet."""
        stop = min(self._planned + self.batch_size, self._schedule.count)
        pairs = self._schedule.pairs(self._epoch, self._planned, stop)
        rows = [held[pairs] for held in self._rows]
        slot = self._free.pop() if self._free else self._new_slot()
        self._queue.append(_InFlight(pairs, rows, slot, self._reader.start(slot, rows)))
        self._planned = stop

    def _new_slot(self) -> Slot:
        rows = min(self.batch_size, self._schedule.count)
        return Slot(self._sources, rows, self.pin_memory)

    def _release(self, slot: Slot) -> None:
        if not self.copy:
            self._free.append(slot)

    def _drop_queue(self) -> None:
        """Forget the batches being read; the next one is read again."""
        for waiting in self._queue:
            for future in waiting.futures:
                future.cancel()
        for waiting in self._queue:
            for future in waiting.futures:
                if not future.cancelled():
                    future.exception()
            self._release(waiting.slot)
        self._queue.clear()
        self._planned = self._position

    def close(self) -> None:
        """Stop the threads and close the files; batches that were yielded stay as they are."""
        if not self._closed:
            self._drop_queue()
            self._reader.close()
            self._closed = True

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _batch(self, ready: _InFlight) -> dict[str, ObjectBatch | MeasurementBatch]:
        count = len(ready.pairs)
        apart = self.match.separation_arcsec.reshape(len(self.match), -1)[ready.pairs]
        columns = [np.zeros(count), *apart.T]
        batch: dict[str, ObjectBatch | MeasurementBatch] = {}
        for source, rows, separation in zip(self._sources, ready.rows, columns, strict=True):
            heavy = {
                (part.column.modality, part.part): ready.slot.tensors[part][:count]
                for part in source.heavy
            }
            batch |= batches_of(source, heavy, rows, separation)
        return batch

    @cached_property
    def _digest(self) -> str:
        """Identify the pairs and their order."""
        digest = hashlib.blake2b(digest_size=16)
        for store, rows in zip(self.match.stores.values(), self._rows, strict=True):
            digest.update(store.fingerprint.encode())
            digest.update(np.ascontiguousarray(rows).data)
        return digest.hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream is: after the batches that were yielded, to the sample.

        Plain values, the same on all ranks; those being read ahead do not count.
        """
        schedule = self._schedule
        return {
            "match": self._digest,
            "shuffle": schedule.shuffle,
            "seed": schedule.seed,
            "block": schedule.block,
            "epoch": self._epoch,
            "consumed": self._position * schedule.world_size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream was.

        The batch size may be another one: the next sample is the same. The number of ranks may be
        another one if it divides what all ranks together have read.

        Parameters
        ----------
        state : mapping
            What `state_dict` returned.

        Raises
        ------
        ValueError
            If it is the state of another match or order, or the number of ranks does not divide.
        """
        mine = self.state_dict()
        if set(state) != set(mine):
            raise ValueError(f"a stream's state has {sorted(mine)}; found {sorted(state)}")
        for name in ("match", "shuffle", "seed", "block"):
            if state[name] != mine[name]:
                raise ValueError(
                    f"the state is of a stream with {name}={state[name]!r}, but this one has "
                    f"{name}={mine[name]!r}; make the stream as it was, or start a new epoch"
                )
        position, rest = divmod(state["consumed"], self._schedule.world_size)
        if rest or not 0 <= position <= self._schedule.count or state["epoch"] < 0:
            raise ValueError(
                f"{state['consumed']} samples of epoch {state['epoch']} were read by all ranks, "
                f"which {self._schedule.world_size} ranks of {self._schedule.count} samples cannot "
                "go on from; use as many ranks as before"
            )
        self._drop_queue()
        self._epoch, self._position = state["epoch"], position
        self._planned = position


def _check_unchanged(match: Match) -> None:
    for store in match.stores.values():
        if read_manifest(store.path)["sha256"] != store.fingerprint:
            raise ValueError(
                f"{store.path} changed since it was opened: it was written again, so that rows "
                "mean other objects. Open it and match again"
            )


def _check_pinnable(pin_memory: bool) -> None:
    if not pin_memory:
        return
    import torch

    if not torch.accelerator.is_available():
        raise ValueError("pin_memory=True needs an accelerator, and none is here; leave it out")


def _warn_if_slow(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.heavy and not source.direct:
            warnings.warn(
                f"{source.store.path} is an {source.store.profile} store and is read through "
                "pyarrow, whole row groups at a time; `omnisky pack` makes it ten to a hundred "
                "times faster to stream",
                stacklevel=3,
            )
