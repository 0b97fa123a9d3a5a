"""Open a sky store: its coordinates, its objects, and where the bytes of its heavy columns lie."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from omnisky.data.store.checksums import MANIFEST, read_manifest
from omnisky.data.store.codecs import Buffer, decode_rows
from omnisky.data.store.hats import ALL_COORDINATES, FORMAT, partition_path
from omnisky.data.store.parquet import FileIndex
from omnisky.data.store.schema import HEALPIX, Column, Layout, objects_of, with_tuples
from omnisky.modalities import Modality, SkyObjects, UnknownModalityError

__all__ = ["HeavyColumn", "Partition", "Store", "open_store"]

_ALWAYS = (HEALPIX, "object_id", "ra", "dec")
FILES = "sources.jsonl"
_BATCH_BYTES = 64 * 2**20
_MOVING = ("epoch", "pm_ra", "pm_dec")


@dataclass(frozen=True)
class Partition:
    """Name a partition: one Parquet file with the objects of one HEALPix cell.

    Parameters
    ----------
    order, pixel : int
        Order of the cell and its NESTED number.
    rows : int
        Objects in it.
    path : Path
        Its file.
    """

    order: int
    pixel: int
    rows: int
    path: Path


def open_store(path: str | os.PathLike) -> Store:
    """Open a sky store; only its metadata are read.

    Parameters
    ----------
    path : path
        Folder written by `write_store`, `ingest` or `pack`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or it is no store of omnisky.
    ValueError
        If it is damaged, or of a format that this omnisky does not read.
    """
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; expected a sky store, a folder with {MANIFEST}")
    values = read_manifest(root)
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{root} has format {values.get('format')!r}; this omnisky reads format {FORMAT}. Use "
            "the omnisky that wrote it, or write it again"
        )
    return Store(root, values)


class Store:
    """Read a sky store; make one with `open_store`.

    Rows are numbered through the partitions, in their order along the sky.

    Parameters
    ----------
    path : Path
        Its folder.
    values : mapping
        What its manifest says.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self._values = values
        self.name: str = values["name"]
        self.survey: str = values["survey"]
        self.profile: str = values["profile"]
        self.layout = Layout.from_dict(values["layout"])
        self.provenance: dict[str, Any] = values["provenance"]
        columns = [Column(**with_tuples(c)) for c in values["columns"]]
        self.columns: dict[str, Column] = {c.name: c for c in columns}
        root = path / self.name
        self.partitions: tuple[Partition, ...] = tuple(
            Partition(order, cell, rows, root / partition_path(order, cell))
            for order, cell, rows in values["partitions"]
        )

    def __len__(self) -> int:
        return self._values["rows"]

    def __repr__(self) -> str:
        return (
            f"Store({self.name!r}: {len(self)} objects of {self.survey} in {len(self.partitions)} "
            f"partitions, {self.profile}; {', '.join(self.modalities)})"
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""
        return tuple(m.name for m in self.layout.modalities)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what the store says of itself, checksums of all its bytes included."""
        return self._values["sha256"]

    def files(self) -> list[dict[str, Any]]:
        """Return the files it was made of: path, bytes and sha256 of each."""
        path = self.path / FILES
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each partition, and the number of rows at the end; int64."""
        return np.concatenate([[0], np.cumsum([p.rows for p in self.partitions], dtype=np.int64)])

    def declaration(self, modality: str) -> Modality | None:
        """Return the declaration of a modality as it was when the store was written, if any."""
        values = self._values["declarations"].get(modality)
        if values is None:
            return None
        low, high = values["valid_range"]
        limits = (-np.inf if low is None else low, np.inf if high is None else high)
        return Modality(**{**with_tuples(values), "valid_range": limits})

    def coordinates(self) -> dict[str, np.ndarray]:
        """Return identity and position of all objects, from the light columns alone.

        Returns
        -------
        dict of str to array, shape (object,)
            ``healpix29`` and ``object_id``; ``ra`` and ``dec`` in degrees; ``epoch``, ``pm_ra``
            and ``pm_dec``, NaN where unknown; ``partition`` and ``row``, the place of each object.
        """
        known = {m.name for m in self.layout.moving}
        columns = [*_ALWAYS, *(n for n in _MOVING if n in known)]
        found = _plain(FileIndex.of(self.path / ALL_COORDINATES).table(columns))
        found["healpix29"] = found.pop(HEALPIX)
        for name in _MOVING:
            found.setdefault(name, np.full(len(self), np.nan))
        counts = np.diff(self.starts)
        found["partition"] = np.repeat(np.arange(len(counts)), counts)
        found["row"] = np.arange(len(self)) - np.repeat(self.starts[:-1], counts)
        return found

    def table(
        self, partition: Partition, columns: Sequence[str], rows: np.ndarray | None = None
    ) -> pa.Table:
        """Read columns of a partition as they are stored, of some of its rows or of all.

        Parameters
        ----------
        partition : Partition
            One of `partitions`.
        columns : sequence of str
            Names of columns in the files.
        rows : array of int, optional
            Rows of the partition, in any order; only their row groups are read.
        """
        index = FileIndex.of(partition.path)
        if rows is None:
            return index.table(columns).replace_schema_metadata(None)
        rows = np.asarray(rows, np.int64)
        groups, inverse = np.unique(index.groups_of(rows), return_inverse=True)
        table = index.table(columns, groups.tolist()).replace_schema_metadata(None)
        sizes = np.diff(index.starts)[groups]
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        return table.take(pa.array(first[inverse] + rows - index.starts[groups][inverse]))

    def read(self, rows: Any = None, columns: Sequence[str] | None = None) -> SkyObjects:
        """Read objects through pyarrow, which checks checksums; any profile.

        Parameters
        ----------
        rows : int, slice, array of int or of bool, optional
            Rows of the store; all without it.
        columns : sequence of str, optional
            Names of modalities; all without it.

        Returns
        -------
        SkyObjects
            In the order asked for.

        Raises
        ------
        IndexError
            If a row is not there.
        UnknownModalityError
            If a modality is not there.
        ValueError
            If a partition is damaged.
        """
        wanted = self._rows(rows)
        names = self.modalities if columns is None else tuple(columns)
        for name in names:
            if name not in self.modalities:
                raise UnknownModalityError(
                    f"no modality {name!r} in {self.path}; it has {', '.join(self.modalities)}"
                )
        heavy = [c for c in self.columns.values() if c.modality in names]
        light = [*_ALWAYS]
        for scalar in self.layout.scalars:
            if scalar.name in names or scalar in self.layout.moving:
                light += [scalar.name] + ([f"{scalar.name}_ivar"] if scalar.ivar else [])
        arrays = {c.name: np.zeros((len(wanted), *c.shape), c.dtype) for c in heavy}
        owner = np.searchsorted(self.starts, wanted, side="right") - 1
        tables, order = [], []
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            partition = self.partitions[number]
            local = wanted[mine] - self.starts[number]
            tables.append(self.table(partition, light, local))
            order.append(mine)
            for column in heavy:
                arrays[column.name][mine] = self._values_of(column, partition, local)
        found = _plain(pa.concat_tables(tables) if tables else self._empty(light))
        back = np.argsort(np.concatenate(order)) if order else np.empty(0, np.int64)
        return objects_of(self.layout, {k: v[back] for k, v in found.items()} | arrays, names)

    def batches(self, partition: int, most_bytes: int = _BATCH_BYTES) -> Iterator[SkyObjects]:
        """Yield the objects of a partition, in pieces of so many bytes at most."""
        row_bytes = sum(column.nbytes for column in self.columns.values()) + 1
        step = max(1, min(most_bytes // row_bytes, 65536))
        first, last = self.starts[partition], self.starts[partition + 1]
        for start in range(first, last, step):
            yield self.read(slice(start, min(start + step, last)))

    def heavy(self, column: str) -> HeavyColumn:
        """Return access to the bytes of a heavy column.

        Raises
        ------
        KeyError
            If there is no such column; the message lists those that are.
        """
        if column not in self.columns:
            raise KeyError(
                f"{self.path} has no heavy column {column!r}; it has {', '.join(self.columns)}"
            )
        return HeavyColumn(self.columns[column], self.profile)

    def _rows(self, rows: Any) -> np.ndarray:
        everything = range(len(self))
        if rows is None or isinstance(rows, slice):
            span = everything[rows or slice(None)]
            return np.arange(span.start, span.stop, span.step)
        rows = np.atleast_1d(np.asarray(rows))
        if rows.size and (rows.dtype == bool or rows.max() >= len(self) or rows.min() < 0):
            if rows.dtype == bool and rows.shape == (len(self),):
                return np.flatnonzero(rows)
            raise IndexError(
                f"rows of {self.path} are 0 to {len(self) - 1}, or one bool a row; found "
                f"{rows.dtype} of shape {rows.shape} from {rows.min()} to {rows.max()}"
            )
        return rows.astype(np.int64)

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        return self.table(self.partitions[0], columns, np.empty(0, np.int64))

    def _values_of(self, column: Column, partition: Partition, rows: np.ndarray) -> np.ndarray:
        """Read a heavy column of some rows through pyarrow."""
        held = self.table(partition, [column.name], rows)[column.name].combine_chunks()
        out = np.zeros((len(rows), *column.shape), column.dtype)
        if self.profile == "packed":
            decode_rows(column.codec, [value.as_buffer() for value in held], out)
            return out
        present = held.is_valid().to_numpy(zero_copy_only=False)
        flat = held.flatten().to_numpy(zero_copy_only=False)
        out[present] = flat.reshape(-1, *column.shape)
        return out


@dataclass(frozen=True)
class HeavyColumn:
    """Read the bytes of a heavy column row by row, past Parquet.

    Parameters
    ----------
    column : Column
        What it holds.
    profile : str
        Profile of the store; only packed ones can be read so.
    """

    column: Column
    profile: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.column.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of one element, decoded."""
        return np.dtype(self.column.dtype)

    @property
    def codec(self) -> str:
        """How rows are coded, see `omnisky.data.store.codecs`."""
        return self.column.codec

    @property
    def row_nbytes(self) -> int | None:
        """Bytes of one row in the file; None where they differ from row to row."""
        return self.column.nbytes if self.codec == "raw" else None

    def locate(self, partition: Partition, rows: np.ndarray) -> tuple[Path, np.ndarray, np.ndarray]:
        """Return where rows lie, for direct reading.

        Parameters
        ----------
        partition : Partition
            One of the store's.
        rows : array of int, shape (row,)
            Rows of the partition.

        Returns
        -------
        path : Path
            The file.
        offsets, lengths : array of int64, shape (row,)
            Place of each row in bytes.

        Raises
        ------
        ValueError
            If the store is not packed, or the partition is damaged.
        """
        if self.profile != "packed":
            raise ValueError(
                f"column {self.column.name!r} is of an {self.profile} store, which cannot be read "
                "row by row; pack the store first"
            )
        index = FileIndex.of(partition.path)
        if self.codec == "raw":
            return partition.path, *index.fixed(self.column.name, self.column.nbytes, rows)
        offsets, lengths = _places(index, self.column)
        return partition.path, offsets[rows], lengths[rows]

    def decode(self, buffers: Sequence[Buffer], out: np.ndarray) -> None:
        r"""Decode the bytes of rows into an array, shape (row, \\*shape); see `decode_rows`."""
        decode_rows(self.codec, buffers, out)


# 16 bytes a row and up to a million rows: few are kept.
@lru_cache(maxsize=32)
def _places(index: FileIndex, column: Column) -> tuple[np.ndarray, np.ndarray]:
    """Return where all rows of a coded column lie."""
    name = f"{column.name}_nbytes"
    return index.coded(column.name, index.table([name])[name].to_numpy())


def _plain(table: pa.Table) -> dict[str, np.ndarray]:
    """Return light columns as plain arrays; missing numbers are NaN."""
    found = {}
    for name in table.column_names:
        values = table[name].to_numpy()
        if pa.types.is_string(table[name].type):
            values = values.astype(str) if len(values) else np.empty(0, "U1")
        found[name] = values
    return found
