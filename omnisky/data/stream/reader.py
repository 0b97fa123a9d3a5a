"""Read rows of stores into buffers that are used again, with threads that do not wait for Python.

`os.preadv` copies from the page cache, or waits for the disk, without holding the interpreter's
lock, and so does the decoder; two threads are two cores, many threads are many requests in flight.
Buffers are allocated once: fresh memory costs more in page faults than the copy itself.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omnisky.data.stream.checking import ChunkChecks
from omnisky.data.stream.source import HeavyPart, Source

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Reader", "Slot"]

_OPEN_FILES = 256
_MOST_VECTORS = 512  # of one preadv; Linux takes 1024
# Coded rows that are this close together are read in one go.
_GAP_BYTES = 16 * 2**10
# Asks for what is in memory only; where the system has no such flag, requests simply wait.
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_NOT_AT_ONCE = (errno.EAGAIN, errno.EOPNOTSUPP)
_Runs = list[tuple[int, int]]


class _Files:
    """Keep files open, the least recently used ones are closed first."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, list[int]] = OrderedDict()  # handle, users
        self._lock = threading.Lock()
        self._closed = False

    def take(self, path: Path) -> int:
        with self._lock:
            if self._closed:
                raise ValueError("the stream is closed; make a new one from the match")
            entry = self._open.get(path)
            if entry is None:
                entry = self._open[path] = [self._opened(path), 0]
                self._close_old()
            self._open.move_to_end(path)
            entry[1] += 1
            return entry[0]

    def give_back(self, path: Path) -> None:
        with self._lock:
            entry = self._open[path]
            entry[1] -= 1
            if self._closed and not entry[1]:
                os.close(self._open.pop(path)[0])

    def _opened(self, path: Path) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ValueError(
                f"{path} cannot be opened ({error}); the store was moved, removed or changed since "
                "the match was made. Bring it back, or match again"
            ) from error

    def _close_old(self) -> None:
        for path in [p for p, (_, users) in self._open.items() if not users]:
            if len(self._open) <= _OPEN_FILES:
                break
            os.close(self._open.pop(path)[0])

    def __del__(self) -> None:
        self.close()

    # Bound here, since `os` may be gone when the interpreter ends.
    def close(self, close_one: Callable[[int], None] = os.close) -> None:
        with self._lock:
            self._closed = True
            for path in [p for p, (_, users) in self._open.items() if not users]:
                close_one(self._open.pop(path)[0])


class Slot:
    """Buffers of one batch: an array and a tensor that shares its memory for each heavy part.

    Parameters
    ----------
    sources : sequence of Source
        What is read.
    rows : int
        Objects of a batch.
    pin_memory : bool
        Lock the pages in memory, so that copies to an accelerator need not wait.
    """

    def __init__(self, sources: Sequence[Source], rows: int, pin_memory: bool = False) -> None:
        import torch

        self.arrays: dict[HeavyPart, np.ndarray] = {}
        self.tensors: dict[HeavyPart, Tensor] = {}
        self.views: dict[HeavyPart, list[memoryview]] = {}
        for part in (p for source in sources for p in source.heavy):
            # Not zeros: every row is written, those without an object too. NumPy's memory comes
            # in huge pages, which torch's does not.
            tensor = torch.from_numpy(np.empty((rows, *part.heavy.shape), part.heavy.dtype))
            tensor = tensor.pin_memory() if pin_memory else tensor
            self.tensors[part] = tensor
            array = self.arrays[part] = tensor.numpy()
            if not part.coded:
                flat = array.reshape(rows, -1).view(np.uint8)
                self.views[part] = [memoryview(row) for row in flat]  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _Wanted:
    """Rows of one store for places of a batch, in the order of the files."""

    source: Source
    place: np.ndarray
    row: np.ndarray
    partition: np.ndarray

    def cut(self, count: int) -> Iterator[_Wanted]:
        edges = np.linspace(0, len(self.place), min(count, len(self.place)) + 1).astype(int)
        for a, b in pairwise(edges.tolist()):
            yield _Wanted(self.source, self.place[a:b], self.row[a:b], self.partition[a:b])


class Reader:
    """Fill slots with the rows of a batch.

    Parameters
    ----------
    sources : sequence of Source
        What is read.
    threads : int
        How many threads read and decode.
    checks : ChunkChecks, optional
        Checks column chunks against their checksums when they are first read from.
    """

    def __init__(
        self, sources: Sequence[Source], threads: int, checks: ChunkChecks | None = None
    ) -> None:
        self.sources, self.threads, self._checks = sources, threads, checks
        self._files = _Files()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="omnisky-stream")
        self._own = threading.local()

    def start(self, slot: Slot, rows: Sequence[np.ndarray]) -> list[Future[None]]:
        """Begin to fill a slot with rows of each source, -1 for none; wait with `result`."""
        futures = []
        for source, wanted in zip(self.sources, rows, strict=True):
            place = np.flatnonzero(wanted >= 0)
            place = place[np.argsort(wanted[place], kind="stable")]
            row = wanted[place]
            asked = _Wanted(source, place, row, source.partition_of(row))
            self._load(source, asked.partition)
            absent = np.flatnonzero(wanted < 0)
            if len(absent):
                futures.append(self._pool.submit(_clear, slot, source, absent))
            read = self._read if source.direct else _read_through_arrow
            pieces = asked.cut(self.threads) if source.heavy and len(place) else ()
            futures += [self._pool.submit(read, slot, piece) for piece in pieces]
        return futures

    def _load(self, source: Source, partitions: np.ndarray) -> None:
        missing = source.missing(partitions)
        if missing:
            list(self._pool.map(source.load, missing))

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._files.close()

    def _read(self, slot: Slot, wanted: _Wanted) -> None:
        partitions = wanted.source.store.partitions
        for part in wanted.source.heavy:
            plan = _Plan.of(part, wanted)
            if self._checks is not None:
                self._checks.check(part, partitions, wanted.partition, plan.offset)
            read = self._decoded if part.coded else self._raw
            for number, runs in plan.by_partition():
                path = partitions[number].path
                handle = self._files.take(path)
                try:
                    read(handle, slot, part, plan, runs)
                except (ValueError, OSError) as error:
                    raise ValueError(
                        f"rows {wanted.row[0]} to {wanted.row[-1]} of {part.column.name!r} cannot "
                        f"be read from {path}: {error}. Run verify on the store; if it was written "
                        "again, match again"
                    ) from error
                finally:
                    self._files.give_back(path)

    def _raw(self, handle: int, slot: Slot, part: HeavyPart, plan: _Plan, runs: _Runs) -> None:
        views = slot.views[part]
        for number, (first, end) in enumerate(runs):
            room = [views[place] for place in plan.place[first:end]]
            nbytes = part.column.nbytes * (end - first)
            if not _fill(handle, room, plan.start[first], nbytes):
                plan.announce(handle, runs[number:])
                _fill(handle, room, plan.start[first], nbytes, wait=True)

    def _decoded(self, handle: int, slot: Slot, part: HeavyPart, plan: _Plan, runs: _Runs) -> None:
        array = slot.arrays[part]
        for number, (first, end) in enumerate(runs):
            begin = plan.start[first]
            nbytes = plan.start[end - 1] + plan.nbytes[end - 1] - begin
            room = self._scratch(nbytes)
            if not _fill(handle, [room], begin, nbytes):
                plan.announce(handle, runs[number:])
                _fill(handle, [room], begin, nbytes, wait=True)
            for row in range(first, end):
                place, at = plan.place[row], plan.start[row] - begin
                coded = room[at : at + plan.nbytes[row]]
                part.heavy.decode([coded], array[place : place + 1])

    def _scratch(self, nbytes: int) -> memoryview:
        """Return bytes that belong to this thread."""
        held = getattr(self._own, "room", None)
        if held is None or len(held) < nbytes:
            held = self._own.room = memoryview(bytearray(max(nbytes, 2**20)))
        return held[:nbytes]


@dataclass(frozen=True)
class _Plan:
    """Requests for rows of one column in one file: where in the batch and in the file they are."""

    partition: np.ndarray
    offset: np.ndarray
    place: list[int]
    start: list[int]
    nbytes: list[int]
    runs: _Runs

    @classmethod
    def of(cls, part: HeavyPart, wanted: _Wanted) -> _Plan:
        offset = part.offset[wanted.row]
        if part.coded:
            length = part.length[wanted.row].astype(np.int64)
        else:
            length = np.full(len(offset), part.column.nbytes)
        runs = _runs(wanted.partition, offset, length, _GAP_BYTES if part.coded else 0)
        place = wanted.place.tolist()
        return cls(wanted.partition, offset, place, offset.tolist(), length.tolist(), runs)

    def by_partition(self) -> Iterator[tuple[int, _Runs]]:
        """Yield the requests of each partition; rows are sorted by partition."""
        for number, runs in groupby(self.runs, key=lambda run: self.partition[run[0]]):
            yield int(number), list(runs)

    def announce(self, handle: int, runs: _Runs) -> None:
        """Tell the system what will be read, so that the disk works on all of it at once."""
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        for first, end in runs:
            length = self.start[end - 1] + self.nbytes[end - 1] - self.start[first]
            os.posix_fadvise(handle, self.start[first], length, os.POSIX_FADV_WILLNEED)


def _runs(partition, offset, length, gap: int) -> _Runs:
    """Return ranges of rows that one request reads: of one file, one after the other."""
    if len(offset) == 1:
        return [(0, 1)]
    apart = offset[1:] - (offset[:-1] + length[:-1])
    new = (partition[1:] != partition[:-1]) | (apart < 0) | (apart > gap)
    edges = [0, *(np.flatnonzero(new) + 1).tolist(), len(offset)]
    return [
        (a, min(a + _MOST_VECTORS, end))
        for start, end in pairwise(edges)
        for a in range(start, end, _MOST_VECTORS)
    ]


def _fill(
    handle: int, views: list[memoryview], offset: int, nbytes: int, *, wait: bool = False
) -> bool:
    """Read consecutive bytes into buffers; without waiting, tell whether they were in memory."""
    try:
        done = os.preadv(handle, views, offset, 0 if wait else _NOWAIT)
    except OSError as error:
        if wait or error.errno not in _NOT_AT_ONCE:
            raise
        return False
    while done < nbytes:
        if not wait:
            return False
        # A signal or a network file system may deliver in parts.
        rest, left = done, []
        for view in views:
            if rest < len(view):
                left.append(view[rest:])
            rest = max(0, rest - len(view))
        more = os.preadv(handle, left, offset + done)
        if not more:
            raise ValueError(
                f"the file ends {nbytes - done} bytes early, at byte {offset + done}; it was "
                "truncated or changed"
            )
        done += more
    return True


def _clear(slot: Slot, source: Source, places: np.ndarray) -> None:
    for part in source.heavy:
        slot.arrays[part][places] = 0


def _read_through_arrow(slot: Slot, wanted: _Wanted) -> None:
    """Read from a store that is not packed: whole row groups, decoded by pyarrow."""
    source = wanted.source
    names = sorted({part.column.modality for part in source.heavy})
    objects = source.store.read(wanted.row, names)
    for part in source.heavy:
        slot.arrays[part][wanted.place] = getattr(
            objects.observations[part.column.modality], part.part
        )
