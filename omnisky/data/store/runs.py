"""Sort more rows than fit in memory: write sorted runs, and find what is wrong across them.

Readers deliver objects in any order on the sky. A run is what fits in a buffer, sorted by position
and written in the packed layout, so that merging copies the bytes of heavy rows, coded or not,
straight from the runs into a partition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from omnisky.data.store.codecs import encode_rows
from omnisky.data.store.healpix import MAX_ORDER, healpix29
from omnisky.data.store.job import StoreSpec
from omnisky.data.store.parquet import FileIndex, ParquetFile, arrow_schema, group_rows, packed
from omnisky.data.store.schema import HEALPIX, Column, Layout, heavy_arrays, light_arrays
from omnisky.modalities import SkyObjects
from omnisky.surveys.survey import Problems

__all__ = ["RUN_BYTES", "Run", "RunWriter", "count_cells", "find_problems"]

RUN_BYTES = 256 * 2**20
ROW = "_row"
_CODED_AT_ONCE = 8
_IDS_AT_ONCE = 20_000_000


@dataclass(frozen=True)
class Run:
    """Name a sorted run.

    Parameters
    ----------
    path : str
        File name in the folder of runs.
    source : int
        Number of the source it came from.
    rows : int
        Its rows.
    first, last : int
        Its lowest and highest order-29 index.
    """

    path: str
    source: int
    rows: int
    first: int
    last: int


class RunWriter:
    """Write the objects of one source as sorted runs.

    Parameters
    ----------
    folder : Path
        Folder of the runs.
    source : int
        Number of the source; it names the files.
    spec : StoreSpec
        What the store will be.
    most_bytes : int
        Bytes to hold before a run is written.
    """

    def __init__(
        self, folder: Path, source: int, spec: StoreSpec, most_bytes: int = RUN_BYTES
    ) -> None:
        self.folder, self.source, self.spec = folder, source, spec
        self.most_bytes = most_bytes
        self.layout: Layout | None = None
        self.runs: list[Run] = []
        self.rows = 0
        self._light: list[dict[str, pa.Array]] = []
        self._heavy: list[dict[str, np.ndarray]] = []
        self._held = 0

    def add(self, objects: SkyObjects) -> None:
        """Take some objects; a run is written when enough are held."""
        if not len(objects):
            return
        found = Layout.of(objects)
        layout = found if self.layout is None else self.layout.merge(found)
        if layout != self.layout:
            self.flush()
            self.layout = layout
        healpix = healpix29(objects.ra_deg, objects.dec_deg)
        light = light_arrays(objects, layout, healpix)
        light[ROW] = pa.array(np.arange(self.rows, self.rows + len(objects)))
        heavy = {c.name: heavy_arrays(objects, c) for c in self._columns()}
        self.rows += len(objects)
        self._light.append(light)
        self._heavy.append(heavy)
        self._held += sum(a.nbytes for a in (*light.values(), *heavy.values()))
        if self._held >= self.most_bytes:
            self.flush()

    def _columns(self) -> list[Column]:
        return [] if self.layout is None else self.spec.run_columns(self.layout)

    def flush(self) -> None:
        """Write what is held as a run."""
        if not self._light or self.layout is None:
            return
        columns = self._columns()
        fields = [*self.layout.light(self.spec.declared), pa.field(ROW, pa.int64(), nullable=False)]
        light = {f.name: pa.concat_arrays([part[f.name] for part in self._light]) for f in fields}
        healpix = light[HEALPIX].to_numpy()
        order = np.argsort(healpix, kind="stable")
        path = self.folder / f"{self.source:06d}-{len(self.runs):06d}.parquet"
        step = group_rows(columns)
        schema = arrow_schema(fields, columns, "packed")
        with ParquetFile(path, schema) as file, ThreadPoolExecutor(self.spec.threads) as pool:
            for start in range(0, len(order), step):
                rows = order[start : start + step]
                arrays = {name: array.take(pa.array(rows)) for name, array in light.items()}
                file.write(arrays | self._heavy_group(columns, rows, pool))
        first, last = int(healpix.min()), int(healpix.max())
        self.runs.append(Run(path.name, self.source, len(order), first, last))
        self._light, self._heavy, self._held = [], [], 0

    def _heavy_group(
        self, columns: Sequence[Column], rows: np.ndarray, pool: ThreadPoolExecutor
    ) -> dict[str, pa.Array]:
        arrays: dict[str, pa.Array] = {}
        values = {c.name: self._rows(c, rows) for c in columns}
        for column in columns:
            found: np.ndarray | list[bytes] = values[column.name]
            if column.codec != "raw":
                ivar = values.get(f"{column.modality}_ivar") if column.codec == "q16" else None
                found = _encode(column.codec, values[column.name], ivar, pool)
            arrays |= packed(column, found)
        return arrays

    def _rows(self, column: Column, rows: np.ndarray) -> np.ndarray:
        """Take rows of a heavy column out of the batches held."""
        ends = np.cumsum([len(part[column.name]) for part in self._heavy])
        owner = np.searchsorted(ends, rows, side="right")
        out = np.empty((len(rows), *column.shape), column.dtype)
        for number in np.unique(owner):
            mine = owner == number
            held = self._heavy[number][column.name]
            out[mine] = held[rows[mine] - (ends[number] - len(held))]
        return out


def _encode(
    codec: str, rows: np.ndarray, ivar: np.ndarray | None, pool: ThreadPoolExecutor
) -> list[bytes]:
    """Code rows in threads; also with one thread, since blosc starts its own in the main one."""

    def work(start: int) -> list[bytes]:
        part = slice(start, start + _CODED_AT_ONCE)
        return encode_rows(codec, rows[part], None if ivar is None else ivar[part])

    parts = pool.map(work, range(0, len(rows), _CODED_AT_ONCE))
    return [blob for part in parts for blob in part]


def count_cells(folder: Path, runs: Sequence[Run], order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of an order that have rows, and how many."""
    cells, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for run in runs:
        healpix = FileIndex.of(folder / run.path).table([HEALPIX])[HEALPIX].to_numpy()
        more, held = np.unique(healpix >> 2 * (MAX_ORDER - order), return_counts=True)
        cells, inverse = np.unique(np.concatenate([cells, more]), return_inverse=True)
        counts = np.bincount(inverse, weights=np.concatenate([counts, held])).astype(np.int64)
    return cells, counts


def find_problems(
    folder: Path, runs: Sequence[Run], names: Sequence[str], problems: Problems, *, one_epoch: bool
) -> dict[int, set[int]]:
    """Report identifiers that are there twice and epochs that differ; return the rows left out.

    Parameters
    ----------
    folder : Path
        Folder of the runs.
    runs : sequence of Run
        All runs.
    names : sequence of str
        Names of the sources.
    problems : Problems
        Takes the reports.
    one_epoch : bool
        Whether all positions must be of the epoch of the first.

    Returns
    -------
    dict of int to set of int
        Rows of each source.
    """
    excluded: dict[int, set[int]] = {}

    def leave_out(source: int, row: int, object_id: object, reason: str, remedy: str) -> None:
        problems.report(names[source], row, reason, remedy, object_id=object_id)
        excluded.setdefault(source, set()).add(row)

    buckets = sum(run.rows for run in runs) // _IDS_AT_ONCE + 1
    for bucket in range(buckets):
        seen: dict[object, tuple[int, int]] = {}
        for object_id, source, row in _repeated(folder, runs, bucket, buckets):
            if object_id not in seen:
                seen[object_id] = (source, row)
                continue
            first, at = seen[object_id]
            leave_out(
                source,
                row,
                object_id,
                f"its identifier was there before, in {names[first]}, row {at}",
                "Keep one of them, or make identifiers that differ",
            )
    if one_epoch:
        for object_id, source, row, found, expected in _other_epochs(folder, runs):
            leave_out(
                source,
                row,
                object_id,
                f"its position is of epoch {found}, but that of the first object of {expected}",
                "Bring positions to one epoch, or write with epochs='any'",
            )
    return excluded


def _repeated(
    folder: Path, runs: Sequence[Run], bucket: int, buckets: int
) -> list[tuple[object, int, int]]:
    """Return (identifier, source, row) of identifiers that are there more than once, in order."""
    columns = ["object_id", ROW]
    tables = []
    for run in runs:
        table = FileIndex.of(folder / run.path).table(columns)
        table = table.append_column("source", pa.array(np.full(len(table), run.source)))
        if buckets > 1:
            mine = _hash(table["object_id"].combine_chunks()) % np.uint64(buckets) == bucket
            table = table.filter(pa.array(mine))
        tables.append(table.replace_schema_metadata(None))
    ids = pa.chunked_array([c for t in tables for c in t["object_id"].chunks])
    counted = pc.value_counts(ids)  # pyright: ignore[reportAttributeAccessIssue]
    twice = counted.field("values").filter(pc.greater(counted.field("counts"), 1))  # pyright: ignore
    if not len(twice):
        return []
    found = []
    for table in tables:
        again = table.filter(pc.is_in(table["object_id"], twice))  # pyright: ignore
        found += zip(*(again[n].to_pylist() for n in ("object_id", "source", ROW)), strict=True)
    return sorted(found, key=lambda item: item[1:])


def _hash(ids: pa.Array) -> np.ndarray:
    """Return numbers that spread identifiers over buckets."""
    if not pa.types.is_string(ids.type):
        return ids.to_numpy().astype(np.uint64)
    bounds = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + len(ids) + 1]
    letters = np.frombuffer(ids.buffers()[2] or b"", np.uint8)
    total = np.zeros(len(ids), np.uint64)
    for back in range(1, 9):  # the last letters differ most
        at = bounds[1:] - back
        there = at >= bounds[:-1]
        total[there] = total[there] * np.uint64(257) + letters[at[there]]
    return total


def _other_epochs(folder: Path, runs: Sequence[Run]) -> Iterator[tuple[object, int, int, str, str]]:
    """Yield (identifier, source, row, epoch, first epoch) of what differs from the first object."""
    first: tuple[int, int, float | None] | None = None
    for run in runs:
        index = FileIndex.of(folder / run.path)
        dated = "epoch" in index.metadata.schema.names
        table = index.table([ROW, "epoch"] if dated else [ROW])
        at = int(np.argmin(table[ROW].to_numpy()))
        key = (run.source, int(table[ROW][at].as_py()))
        if first is None or key < first[:2]:
            first = (*key, table["epoch"][at].as_py() if dated else None)
    expected = None if first is None else first[2]
    for run in runs:
        index = FileIndex.of(folder / run.path)
        dated = "epoch" in index.metadata.schema.names
        table = index.table(["object_id", ROW, "epoch"] if dated else ["object_id", ROW])
        epoch = table["epoch"].to_numpy() if dated else np.full(len(table), np.nan)
        same = np.isnan(epoch) if expected is None else epoch == expected
        for at in np.flatnonzero(~same):
            found = "unknown" if np.isnan(epoch[at]) else f"{epoch[at]:.6g}"
            say = "unknown" if expected is None else f"{expected:.6g}"
            yield table["object_id"][at].as_py(), run.source, table[ROW][at].as_py(), found, say
