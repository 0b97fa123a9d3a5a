"""Checksums of every byte of a store, by column chunk: a flipped bit is found and named."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["Damage", "verify"]

MANIFEST, SUMS = "omnisky.json", "checksums.parquet"
_AT_ONCE = 8 * 2**20
_SCHEMA = pa.schema(
    [
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("row_group", pa.int32()),
        ("column", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("crc32", pa.uint32()),
    ]
)


@dataclass(frozen=True)
class Damage:
    """Name what is damaged.

    Parameters
    ----------
    file : str
        The file, relative to the store.
    row_group : int or None
        Row group of a Parquet file; None outside of the columns.
    column : str or None
        Its column.
    reason : str
        What is wrong.
    """

    file: str
    row_group: int | None
    column: str | None
    reason: str

    def __str__(self) -> str:
        where = "" if self.column is None else f", column {self.column}, row group {self.row_group}"
        return f"{self.file}{where}: {self.reason}"


def chunk_sums(path: Path) -> list[list[Any]]:
    """Return [row group, column, offset, length, crc32] of all parts of a file, in order.

    The parts of a Parquet file that belong to no column (its ends and footer), and files of other
    kinds, have row group -1 and column "".
    """
    size = path.stat().st_size
    parts: list[list[Any]] = []
    if path.suffix == ".parquet":
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for number in range(row_group.num_columns):
                chunk = row_group.column(number)
                # pyarrow tells of no dictionary page where there is none.
                pages = [p for p in (chunk.dictionary_page_offset, chunk.data_page_offset) if p]
                first = min(pages)
                parts.append([group, chunk.path_in_schema, first, chunk.total_compressed_size])
    parts.sort(key=lambda part: part[2])
    filled: list[list[Any]] = []
    at = 0
    for part in [*parts, [-1, "", size, 0]]:
        if part[2] > at:
            filled.append([-1, "", at, part[2] - at])
        if part[3]:
            filled.append(part)
        at = part[2] + part[3]
    with open(path, "rb", buffering=0) as file:
        return [[*part, _crc32(file.fileno(), part[2], part[3])] for part in filled]


def _crc32(handle: int, offset: int, length: int) -> int:
    total = 0
    while length > 0:
        block = os.pread(handle, min(length, _AT_ONCE), offset)
        if not block:
            break
        total = zlib.crc32(block, total)
        offset, length = offset + len(block), length - len(block)
    return total


def write_sums(root: Path, sums: Iterable[tuple[str, list[list[Any]]]]) -> None:
    """Write the checksums of files, given relative to the root with what `chunk_sums` returned."""
    with pq.ParquetWriter(root / SUMS, _SCHEMA, compression="zstd") as writer:
        for name, parts in sums:
            columns = list(zip(*parts, strict=True)) if parts else [[]] * 5
            arrays = [
                pa.array([name] * len(parts)).dictionary_encode(),
                pa.array(columns[0], pa.int32()),
                pa.array(columns[1], pa.string()).dictionary_encode(),
                *(pa.array(c, t) for c, t in zip(columns[2:], _SCHEMA.types[3:], strict=True)),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))


def write_manifest(root: Path, values: Mapping[str, Any]) -> None:
    """Write ``omnisky.json``, with checksums of the table of checksums and of itself."""
    values = {**values, "checksums": _crc32_of(root / SUMS)}
    text = json.dumps({**values, "sha256": _digest(values)}, indent=1)
    (root / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(root: Path) -> dict[str, Any]:
    """Return what ``omnisky.json`` says.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{root} has no {MANIFEST}; expected a store written by omnisky. Other HATS catalogues "
            "become one with pack"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        expected = values.pop("sha256")
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); copy it from another copy of the store or write the "
            "store again"
        ) from error
    if _digest(values) != expected:
        raise ValueError(
            f"{path} is not as it was written (its checksum differs); copy it from another copy of "
            "the store or write the store again"
        )
    return values | {"sha256": expected}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def verify(path: str | os.PathLike, *, client: Client | None = None) -> list[Damage]:
    """Read every byte of a store and name what differs from when it was written.

    Parameters
    ----------
    path : path
        The store.
    client : dask.distributed.Client, optional
        Where files are read; in this process without one.

    Returns
    -------
    list of Damage
        Empty if all is well.

    Raises
    ------
    FileNotFoundError
        If there is no store with checksums.
    """
    root = Path(path)
    table = root / SUMS
    if not table.is_file():
        raise FileNotFoundError(
            f"{root} has no {SUMS}; expected a store written by omnisky. Other HATS catalogues "
            "have no checksums: pack them first"
        )
    try:
        own = read_manifest(root)["checksums"]
    except ValueError as error:
        return [Damage(MANIFEST, None, None, str(error))]
    if _crc32_of(table) != own:
        return [Damage(SUMS, None, None, "the table of checksums is itself damaged")]
    tasks = _by_file(table)
    if client is None:
        return [damage for name, parts in tasks for damage in _check(root, name, parts)]
    futures = [client.submit(_check, root, name, parts, pure=False) for name, parts in tasks]
    return [damage for future in futures for damage in future.result()]


def _crc32_of(path: Path) -> int:
    with open(path, "rb", buffering=0) as file:
        return _crc32(file.fileno(), 0, path.stat().st_size)


def _by_file(table: Path) -> Iterator[tuple[str, list[list[Any]]]]:
    """Yield the files and their parts; a file is one row group of the table."""
    with pq.ParquetFile(table) as file:
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group).to_pydict()
            if columns["file"]:
                names = ("row_group", "column", "offset", "length", "crc32")
                yield (
                    columns["file"][0],
                    [list(p) for p in zip(*(columns[n] for n in names), strict=True)],
                )


def _check(root: Path, name: str, parts: list[list[Any]]) -> list[Damage]:
    path = root / name
    if not path.is_file():
        return [Damage(name, None, None, "the file is missing")]
    size, expected = path.stat().st_size, sum(part[3] for part in parts)
    found = []
    if size != expected:
        found.append(Damage(name, None, None, f"it has {size} bytes instead of {expected}"))
    with open(path, "rb", buffering=0) as file:
        for group, column, offset, length, crc32 in parts:
            if _crc32(file.fileno(), offset, length) != crc32:
                where = (None, None) if group < 0 else (group, column)
                reason = f"the {length} bytes from {offset} are not those written"
                found.append(Damage(name, *where, reason))
    return found
