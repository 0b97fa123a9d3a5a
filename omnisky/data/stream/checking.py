"""Check what is read against the checksums of a store, a column chunk at a time."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from omnisky.data.store import Partition
from omnisky.data.store.checksums import SUMS
from omnisky.data.stream.source import HeavyPart, Source

__all__ = ["ChunkChecks"]

_AT_ONCE = 4 * 2**20


@dataclass(frozen=True)
class _Chunks:
    """Chunks of one column, by partition and place in its file; `first` chunk of each partition."""

    first: np.ndarray
    group: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    crc32: np.ndarray
    good: np.ndarray


class ChunkChecks:
    """Check each column chunk once, when a row of it is first read.

    A chunk is what the store keeps a checksum of: some dozens of images, some hundreds of spectra.
    So the first rows cost the reading of their whole chunks, later ones nothing.

    Parameters
    ----------
    sources : sequence of Source
        What is read; checksums of their heavy columns are held in memory, 32 bytes a chunk.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._chunks: dict[HeavyPart, _Chunks] = {}
        for source in sources:
            names = {part.column.name: part for part in source.heavy}
            table = _sums(source, list(names))
            for name, part in names.items():
                self._chunks[part] = _chunks(source, table.filter(pc.equal(table["column"], name)))

    def check(
        self,
        part: HeavyPart,
        partitions: Sequence[Partition],
        number: np.ndarray,
        offset: np.ndarray,
    ) -> None:
        """Check the chunks that rows lie in.

        Parameters
        ----------
        part : HeavyPart
            The column.
        partitions : sequence of Partition
            Partitions of the store.
        number, offset : array of int64, shape (row,)
            Partition of each row, and its place in the partition's file.

        Raises
        ------
        ValueError
            If a chunk is not as it was written; it names file, column and row group.
        """
        chunks = self._chunks[part]
        for one in np.unique(number).tolist():
            begin, end = chunks.first[one], chunks.first[one + 1]
            places = offset[number == one]
            which = begin - 1 + np.searchsorted(chunks.offset[begin:end], places, side="right")
            for chunk in np.unique(which).tolist():
                if chunks.good[chunk]:
                    continue
                path = partitions[one].path
                found = _crc32(path, int(chunks.offset[chunk]), int(chunks.length[chunk]))
                if found != chunks.crc32[chunk]:
                    raise ValueError(
                        f"{path}: column {part.column.name!r}, row group {chunks.group[chunk]} is "
                        "not as it was written (its checksum differs). Bring the file back from "
                        "another copy, or write the store again"
                    )
                chunks.good[chunk] = True


def _sums(source: Source, columns: Sequence[str]) -> pa.Table:
    """Read the checksums of some columns of a store."""
    path = source.store.path / SUMS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing, so reading cannot be checked; use verify=False"
        )
    kept = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=2**20):
            table = pa.Table.from_batches([batch]).unify_dictionaries()
            column = table["column"].cast(pa.string())
            table = table.set_column(table.schema.get_field_index("column"), "column", column)
            kept.append(table.filter(pc.is_in(column, pa.array(columns, pa.string()))))
    return pa.concat_tables(kept).unify_dictionaries()


def _chunks(source: Source, table: pa.Table) -> _Chunks:
    root = source.store.path
    number_of = {
        partition.path.relative_to(root).as_posix(): number
        for number, partition in enumerate(source.store.partitions)
    }
    files = table["file"].cast(pa.string()).to_pylist()
    number = np.array([number_of.get(file, -1) for file in files], dtype=np.int64)
    order = np.lexsort((table["offset"].to_numpy(), number))
    order = order[number[order] >= 0]
    names = ("row_group", "offset", "length", "crc32")
    group, offset, length, crc32 = (table[name].to_numpy()[order] for name in names)
    first = np.searchsorted(number[order], np.arange(len(number_of) + 1))
    return _Chunks(first, group, offset, length, crc32, np.zeros(len(order), dtype=bool))


def _crc32(path: os.PathLike, offset: int, length: int) -> int:
    total = 0
    with open(path, "rb", buffering=0) as file:
        while length > 0 and (block := os.pread(file.fileno(), min(length, _AT_ONCE), offset)):
            total = zlib.crc32(block, total)
            offset, length = offset + len(block), length - len(block)
    return total
