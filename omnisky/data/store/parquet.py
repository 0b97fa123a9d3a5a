"""Parquet files whose heavy columns can be read row by row, and ordinary ones.

In the packed profile a heavy column is one uncompressed data page a row group, without nulls and
dictionary. The standard footer then tells where each row lies: the page's header is what is left of
the column chunk after the values. Any Parquet reader still opens the file.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from omnisky.data.store.schema import HEALPIX, Column, with_tuples

__all__ = ["FileIndex", "ParquetFile", "arrow_schema", "as_lists", "group_rows", "packed"]

_META = b"omnisky"
_GROUP_BYTES = 32 * 2**20
_MOST_ROWS = 16384
# Pages end where a reader's 32-bit lengths end; groups are far smaller.
_PAGE_BYTES = 2**31 - 2**20


def group_rows(columns: Sequence[Column]) -> int:
    """Return the rows of a row group: a power of two, 32 MiB of the widest column at most."""
    widest = max((c.nbytes for c in columns), default=1)
    return min(_MOST_ROWS, 2 ** max(0, (_GROUP_BYTES // max(widest, 1)).bit_length() - 1))


def arrow_schema(light: Sequence[pa.Field], heavy: Sequence[Column], profile: str) -> pa.Schema:
    """Return the schema of a partition; facts of heavy columns are JSON in the field metadata."""
    fields = list(light)
    for column in heavy:
        meta = {_META: json.dumps(asdict(column)), b"unit": column.unit}
        if profile == "interchange":
            item = pa.bool_() if column.dtype == "bool" else pa.from_numpy_dtype(column.dtype)
            kind = pa.list_(item, int(np.prod(column.shape)))
            fields.append(pa.field(column.name, kind, metadata=meta))
        elif column.codec == "raw":
            kind = pa.binary(column.nbytes)
            fields.append(pa.field(column.name, kind, nullable=False, metadata=meta))
        else:
            name = f"{column.name}_nbytes"
            fields.append(pa.field(name, pa.uint32(), nullable=False))
            fields.append(pa.field(column.name, pa.binary(), nullable=False, metadata=meta))
    return pa.schema(fields)


def as_lists(column: Column, rows: np.ndarray, present: np.ndarray) -> dict[str, pa.Array]:
    r"""Return a heavy column as lists of a fixed length, null where an object does not have it.

    Parameters
    ----------
    column : Column
        The column.
    rows : array, shape (row, \\*shape)
        Its values.
    present : array of bool, shape (row,)
        Which rows have them. What is known without a measurement (lsf, psf_fwhm, offset) is kept.
    """
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    width = rows[0].size
    if present.all() or column.part in ("lsf", "psf_fwhm", "offset"):
        return {column.name: pa.FixedSizeListArray.from_arrays(flat, width)}
    absent = pa.array(~present)
    return {column.name: pa.FixedSizeListArray.from_arrays(flat, width, mask=absent)}


def packed(column: Column, rows: np.ndarray | Sequence[bytes]) -> dict[str, pa.Array]:
    """Return a heavy column as bytes: as an array if raw and at hand, else one item a row."""
    count = len(rows)
    if column.codec == "raw":
        joined = rows if isinstance(rows, np.ndarray) else np.frombuffer(b"".join(rows), np.uint8)
        values = pa.py_buffer(np.ascontiguousarray(joined).reshape(-1).view(np.uint8))
        kind = pa.binary(column.nbytes)
        return {column.name: pa.FixedSizeBinaryArray.from_buffers(kind, count, [None, values])}
    lengths = pa.array(np.array([len(row) for row in rows], np.uint32))
    return {f"{column.name}_nbytes": lengths, column.name: pa.array(rows, pa.binary())}


class ParquetFile:
    """Write a partition, one row group a call; nothing is at `path` before it is closed whole.

    Parameters
    ----------
    path : Path
        The file.
    schema : pyarrow.Schema
        Its columns, from `arrow_schema`.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.schema = path, schema
        # A name of its own: a task that was given up may still run on a worker when it is repeated.
        self._temporary = path.with_name(f".writing-{secrets.token_hex(4)}-{path.name}")
        bulky = {f.name for f in schema if _is_direct(f)}
        light = [f.name for f in schema if f.name not in bulky]
        keys = {HEALPIX, "object_id", "ra", "dec"}
        listed = [f.name for f in schema if pa.types.is_fixed_size_list(f.type)]
        self._writer = pq.ParquetWriter(
            self._temporary,
            schema,
            compression={f.name: "NONE" if f.name in bulky else "ZSTD" for f in schema},
            use_dictionary=[n for n in light if n not in keys and n not in listed],
            write_statistics=[n for n in light if n not in listed],
            data_page_size=_PAGE_BYTES if bulky else None,
            max_rows_per_page=2**31 - 1 if bulky else None,
            write_page_checksum=True,
        )

    def write(self, arrays: Mapping[str, pa.Array]) -> None:
        """Write a row group."""
        batch = pa.RecordBatch.from_arrays(
            [arrays[n] for n in self.schema.names], schema=self.schema
        )
        self._writer.write_batch(batch, row_group_size=len(batch) or None)

    def __enter__(self) -> ParquetFile:
        return self

    def __exit__(self, kind: type | None, *rest: object) -> None:
        try:
            self._writer.close()
            if kind is None:
                sync(self._temporary)
                os.replace(self._temporary, self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Bring a file to the disk, so that a journal that names it is never ahead of it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_direct(field: pa.Field) -> bool:
    return pa.types.is_fixed_size_binary(field.type) or pa.types.is_binary(field.type)


@dataclass(frozen=True)
class FileIndex:
    """Know where the rows of a packed file's heavy columns lie.

    Parameters
    ----------
    path : Path
        The file.
    stamp : tuple of int
        Its size and time of change: an index is not taken for that of a file written anew.
    """

    path: Path
    stamp: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, path: Path) -> FileIndex:
        """Return the index of a file as it is now, with its footer read once."""
        try:
            found = path.stat()
        except OSError as error:
            raise FileNotFoundError(
                f"{path} is missing; the store is not complete, copy it again or write it anew"
            ) from error
        return _kept(cls(path, (found.st_size, found.st_mtime_ns)))

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        """Footer of the file."""
        try:
            return pq.read_metadata(self.path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{self.path} is not a readable Parquet file ({error}); it is damaged or missing. "
                "Run verify on the store, then write it again"
            ) from error

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each row group, and the number of rows at the end."""
        counts = [self.metadata.row_group(g).num_rows for g in range(self.metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    @cached_property
    def _names(self) -> dict[str, int]:
        first = self.metadata.row_group(0) if self.metadata.num_row_groups else None
        count = first.num_columns if first else 0
        return {first.column(i).path_in_schema: i for i in range(count)} if first else {}

    def groups_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the row group of each row."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def fixed(self, name: str, nbytes: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return offsets and lengths of some rows of a raw column; see `coded` for the others."""
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.starts[-1]):
            raise IndexError(
                f"rows of {self.path} are 0 to {self.starts[-1] - 1}; found {rows.min()} to "
                f"{rows.max()}"
            )
        groups = self.groups_of(rows)
        offsets = _first_values(self, name, nbytes)[groups] + nbytes * (rows - self.starts[groups])
        return offsets, np.full(len(rows), nbytes, np.int64)

    def coded(self, name: str, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return offsets and lengths of all rows of a coded column, from its ``_nbytes``."""
        lengths = lengths.astype(np.int64)
        starts = [np.empty(0, np.int64)]
        for group in range(len(self.starts) - 1):
            held = lengths[self.starts[group] : self.starts[group + 1]]
            first = self.values(name, group, int(held.sum()) + 4 * len(held))
            # Each value follows its own length in four bytes.
            ends = np.cumsum(held + 4)
            starts.append(first + ends - held)
        return np.concatenate(starts), lengths

    def values(self, name: str, group: int, nbytes: int) -> int:
        """Return where the values of a column chunk start in the file."""
        if name not in self._names:
            raise KeyError(f"{self.path} has no column {name!r}; it has {', '.join(self._names)}")
        chunk = self.metadata.row_group(group).column(self._names[name])
        head = chunk.total_compressed_size - nbytes
        direct = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page and head > 0
        if not direct or self._page_bytes(chunk.data_page_offset) != nbytes:
            raise ValueError(
                f"column {name!r} of {self.path} is not laid out for direct reading (row group "
                f"{group}: {chunk.compression}, {head} bytes beside {nbytes} of values); pack the "
                "store again with this omnisky"
            )
        return chunk.data_page_offset + head

    def _page_bytes(self, offset: int) -> int:
        """Return the bytes in the page there: the second number of its header (Thrift compact)."""
        with open(self.path, "rb", buffering=0) as file:
            head = os.pread(file.fileno(), 24, offset)
        numbers, at = [], 0
        while len(numbers) < 2 and at < len(head):
            at += 1  # the byte that says: the next field, an int32
            value = shift = 0
            while at < len(head):
                value |= (head[at] & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if not head[at - 1] & 0x80:
                    break
            numbers.append(value >> 1)  # none is negative: undo the zigzag
        return numbers[1] if len(numbers) == 2 else -1

    def table(self, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
        """Read columns through pyarrow, of some row groups or of all, checksums included."""
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                if groups is None:
                    groups = range(file.num_row_groups)
                return file.read_row_groups(list(groups), list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{self.path} cannot be read ({error}); it is damaged. Run verify on the store to "
                "see which column, then write this partition again"
            ) from error


@lru_cache(maxsize=256)
def _kept(index: FileIndex) -> FileIndex:
    return index


@lru_cache(maxsize=4096)
def _first_values(index: FileIndex, name: str, nbytes: int) -> np.ndarray:
    """Return where the values of each row group start: a number a group, not one a row."""
    counts = np.diff(index.starts).tolist()
    return np.array([index.values(name, g, n * nbytes) for g, n in enumerate(counts)], np.int64)


def column_of(field: pa.Field) -> Column | None:
    """Return the heavy column that a field describes, None for a light one."""
    text = (field.metadata or {}).get(_META)
    if text is None:
        return None
    return Column(**with_tuples(json.loads(text)))
