"""Merge sorted runs into partitions, copying the bytes of heavy rows as they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from omnisky.data.store.checksums import chunk_sums
from omnisky.data.store.codecs import decode_rows, encode_rows
from omnisky.data.store.hats import coordinates_path, counts_of, partition_path
from omnisky.data.store.healpix import MAX_ORDER
from omnisky.data.store.job import StoreSpec
from omnisky.data.store.parquet import (
    FileIndex,
    ParquetFile,
    arrow_schema,
    as_lists,
    column_of,
    group_rows,
    packed,
    sync,
)
from omnisky.data.store.runs import ROW, Run
from omnisky.data.store.schema import COORDINATES, HEALPIX, Column, Layout

__all__ = ["Merger", "merge_partition"]


class Merger:
    """Merge the rows of runs that lie in one cell into a partition.

    Parameters
    ----------
    folder : Path
        Folder of the runs.
    runs : sequence of Run
        All runs.
    layout : Layout
        Layout of the store.
    spec : StoreSpec
        What the store is to be.
    excluded : mapping of int to set of int
        Rows of each source that are left out.
    """

    def __init__(
        self,
        folder: Path,
        runs: Sequence[Run],
        layout: Layout,
        spec: StoreSpec,
        excluded: Mapping[int, Any],
    ) -> None:
        self.folder, self.runs, self.layout, self.spec = folder, runs, layout, spec
        self.excluded = excluded
        self.columns = spec.columns(layout)
        self.fields = layout.light(spec.declared)

    def write(self, order: int, cell: int, path: Path) -> pa.Table:
        """Write the partition of one cell, if it has rows, and return their coordinates."""
        low = cell << 2 * (MAX_ORDER - order)
        high = (cell + 1) << 2 * (MAX_ORDER - order)
        runs = [r for r in self.runs if r.first < high and r.last >= low]
        tables = [self._light(number, run, low, high) for number, run in enumerate(runs)]
        light = pa.concat_tables(tables).combine_chunks()
        keys = [light[k].to_numpy() for k in (ROW, "_source", HEALPIX)]
        sequence = np.lexsort(keys)
        coordinates = light.select([n for n in COORDINATES if n in light.column_names])
        if not len(sequence):
            return coordinates
        step = group_rows(self.columns)
        schema = arrow_schema(self.fields, self.columns, self.spec.profile)
        with ParquetFile(path, schema) as file:
            for start in range(0, len(sequence), step):
                group = light.take(pa.array(sequence[start : start + step])).combine_chunks()
                arrays = {f.name: _one(group[f.name]) for f in self.fields}
                run_of, row_of = group["_run"].to_numpy(), group["_at"].to_numpy()
                file.write(arrays | self._heavy(runs, run_of, row_of))
        return coordinates.take(pa.array(sequence)).combine_chunks()

    def _light(self, number: int, run: Run, low: int, high: int) -> pa.Table:
        """Read the light columns of a run's rows in a range, with where each row lies."""
        index = FileIndex.of(self.folder / run.path)
        groups = list(_overlapping(index, low, high))
        there = set(index.metadata.schema.to_arrow_schema().names)
        names = [f.name for f in self.fields if f.name in there]
        table = index.table([*names, ROW], groups)
        at = [np.arange(index.starts[g], index.starts[g + 1]) for g in groups]
        place = np.concatenate(at) if at else np.empty(0, np.int64)
        for field in self.fields:
            if field.name not in there:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        table = table.select([f.name for f in self.fields] + [ROW])
        for name, values in (
            ("_source", np.full(len(place), run.source)),
            ("_run", np.full(len(place), number)),
            ("_at", place),
        ):
            table = table.append_column(name, pa.array(values))
        table = table.replace_schema_metadata(None)
        healpix = table[HEALPIX]
        keep = pc.and_(pc.greater_equal(healpix, low), pc.less(healpix, high))  # pyright: ignore
        left_out = self.excluded.get(run.source, ())
        if len(left_out):
            keep = pc.and_(keep, pc.invert(pc.is_in(table[ROW], pa.array(sorted(left_out)))))  # pyright: ignore
        return table.filter(keep)

    def _heavy(
        self, runs: Sequence[Run], run_of: np.ndarray, row_of: np.ndarray
    ) -> dict[str, pa.Array]:
        """Gather the heavy columns of one row group from the runs."""
        places = [(runs[n], np.flatnonzero(run_of == n)) for n in np.unique(run_of)]
        arrays: dict[str, pa.Array] = {}
        if self.spec.profile == "interchange":
            rows = {c.name: self._decoded(c, places, row_of) for c in self.columns}
            for column in self.columns:
                mask = rows[f"{column.modality}_mask"].reshape(len(row_of), -1)
                present = np.asarray(mask.any(axis=1))
                arrays |= as_lists(column, rows[column.name], present)
            return arrays
        for column in self.columns:
            if all(_run_column(self._run(run), column.name) == column for run, _ in places):
                copy = self._decoded if column.codec == "raw" else self._copied
                arrays |= packed(column, copy(column, places, row_of))
                continue
            # Inverse variances that are not in a run are zero, for which q16 is lossless.
            values = self._decoded(column, places, row_of)
            arrays |= packed(column, _rows_of(column, values))
        return arrays

    def _run(self, run: Run) -> FileIndex:
        return FileIndex.of(self.folder / run.path)

    def _copied(
        self, column: Column, places: Sequence[tuple[Run, np.ndarray]], row_of: np.ndarray
    ) -> list[bytes]:
        blobs: list[bytes] = [b""] * len(row_of)
        for run, mine in places:
            for place, blob in zip(mine, _read(self._run(run), column, row_of[mine]), strict=True):
                blobs[place] = blob
        return blobs

    def _decoded(
        self, column: Column, places: Sequence[tuple[Run, np.ndarray]], row_of: np.ndarray
    ) -> np.ndarray:
        values = np.zeros((len(row_of), *column.shape), column.dtype)
        for run, mine in places:
            held = _run_column(self._run(run), column.name)
            if held is None:
                continue
            if held == column and column.codec == "raw":
                _read_into(self._run(run), held, row_of[mine], values, mine)
                continue
            part = np.empty((len(mine), *held.shape), held.dtype)
            decode_rows(held.codec, _read(self._run(run), held, row_of[mine]), part)
            values[mine] = part
        return values


def _rows_of(column: Column, values: np.ndarray) -> list[bytes]:
    if column.codec == "raw":
        return [row.tobytes() for row in values]
    return encode_rows(column.codec, values, np.zeros_like(values))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _overlapping(index: FileIndex, low: int, high: int) -> Iterator[int]:
    """Yield the row groups with rows in a range, from the footer's statistics."""
    names = index.metadata.schema.names
    at = names.index(HEALPIX)
    for group in range(index.metadata.num_row_groups):
        statistics = index.metadata.row_group(group).column(at).statistics
        if statistics.min < high and statistics.max >= low:
            yield group


@lru_cache(maxsize=4096)
def _columns_of(index: FileIndex) -> dict[str, Column]:
    fields = index.metadata.schema.to_arrow_schema()
    return {c.name: c for c in map(column_of, fields) if c is not None}


def _run_column(index: FileIndex, name: str) -> Column | None:
    return _columns_of(index).get(name)


@lru_cache(maxsize=256)
def _coded(index: FileIndex, column: Column) -> tuple[np.ndarray, np.ndarray]:
    name = f"{column.name}_nbytes"
    return index.coded(column.name, index.table([name])[name].to_numpy())


def _places(index: FileIndex, column: Column, rows: np.ndarray) -> tuple[list[int], list[int]]:
    if column.codec == "raw":
        offsets, lengths = index.fixed(column.name, column.nbytes, rows)
    else:
        offsets, lengths = (a[rows] for a in _coded(index, column))
    return offsets.tolist(), lengths.tolist()


def _read(index: FileIndex, column: Column, rows: np.ndarray) -> list[bytes]:
    """Read the bytes of some rows of a run."""
    offsets, lengths = _places(index, column, rows)
    with open(index.path, "rb", buffering=0) as file:
        blobs = [os.pread(file.fileno(), *p) for p in zip(lengths, offsets, strict=True)]
    if list(map(len, blobs)) != lengths:
        raise OSError(f"{index.path} ends within column {column.name}")
    return blobs


def _read_into(
    index: FileIndex, column: Column, rows: np.ndarray, out: np.ndarray, places: np.ndarray
) -> None:
    """Read rows of a raw column of a run straight into their places."""
    offsets, lengths = _places(index, column, rows)
    with open(index.path, "rb", buffering=0) as file:
        for place, offset, length in zip(places, offsets, lengths, strict=True):
            target = out[place].reshape(-1).view(np.uint8).data
            if os.preadv(file.fileno(), [target], offset) != length:
                raise OSError(f"{index.path} ends within column {column.name}")


def merge_partition(
    folder: Path, name: str, order: int, cell: int, spec: StoreSpec
) -> dict[str, Any]:
    """Write one partition of a job and return its record."""
    plan = folder / "journal" / "plan.json"
    runs, layout, excluded = _read_plan(plan, plan.stat().st_mtime_ns)
    file = f"{name}/{partition_path(order, cell)}"
    path = folder / "tree" / file
    rows = Merger(folder / "runs", runs, layout, spec, excluded).write(order, cell, path)
    record = {"order": order, "cell": cell, "rows": len(rows), "file": file}
    if len(rows):
        own = folder / coordinates_path(order, cell)
        own.parent.mkdir(exist_ok=True)
        pq.write_table(rows, own, compression="zstd")
        sync(own)
        record |= {"map": counts_of(rows[HEALPIX].to_numpy()), "sums": chunk_sums(path)}
    return record


@lru_cache(maxsize=2)
def _read_plan(path: Path, stamp: int) -> tuple[list[Run], Layout, dict[int, list[int]]]:
    plan = json.loads(path.read_text())
    excluded = {int(source): rows for source, rows in plan["excluded"].items()}
    return [Run(**run) for run in plan["runs"]], Layout.from_dict(plan["layout"]), excluded
