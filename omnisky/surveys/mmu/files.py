"""Open the two layouts of the Multimodal Universe alike: columns by name, some rows at a time.

Version 1 is HDF5 with flat columns (``image_array``, ``spectrum_flux``); version 1.5 is Parquet
with structs of lists (``image.flux``). Here both have the names of version 1.5.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["batches", "find", "names_of", "text"]

_HDF5 = (".hdf5", ".h5")
_AT_ONCE = 64 * 2**20
# How version 1 calls what is not simply a_b for a.b.
_FLAT = {"image.flux": "image_array"}


def find(path: str | os.PathLike) -> list[Path]:
    """Return the files of a data set: of a folder with ``healpix=*`` or of a HATS collection.

    Raises
    ------
    FileNotFoundError
        If there are none.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    told = root / "collection.properties"
    if told.is_file():  # margins are not read: they repeat objects
        lines = (line.partition("=") for line in told.read_text().splitlines())
        values = {key.strip(): value.strip() for key, _, value in lines}
        root = root / values.get("hats_primary_table_url", ".")
    found = [p for suffix in _HDF5 for p in root.glob(f"**/healpix=*/*{suffix}")]
    found += root.glob("dataset/Norder=*/Dir=*/Npix=*.parquet")
    if not found:
        raise FileNotFoundError(
            f"{path} holds no data of the Multimodal Universe and is no sky store; expected files "
            "healpix=*/*.hdf5, or a HATS catalogue with dataset/Norder=*/Dir=*/Npix=*.parquet"
        )
    return sorted(found)


def names_of(path: str | os.PathLike) -> set[str]:
    """Return the names of the columns of a file, ``struct.field`` for fields.

    Raises
    ------
    ValueError
        If the file cannot be read.
    """
    if Path(path).suffix in _HDF5:
        with _open_hdf5(path) as file:
            return {_dotted(name) for name in file}
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is not a readable Parquet file ({error}); fetch it again"
        ) from error
    found: set[str] = set()
    for field in schema:
        inner = field.type if pa.types.is_struct(field.type) else ()
        found |= {f"{field.name}.{part.name}" for part in inner} or {field.name}
    return found


def _dotted(name: str) -> str:
    """Return the name of a flat column in version 1.5."""
    flat = {value: key for key, value in _FLAT.items()}
    if name in flat:
        return flat[name]
    for stem in ("image", "spectrum"):
        if name.startswith(f"{stem}_"):
            return f"{stem}.{name.removeprefix(f'{stem}_')}"
    return f"spectral_coefficients.{name}" if name in ("coeff", "coeff_error") else name


def _open_hdf5(path: str | os.PathLike) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "version 1 of the Multimodal Universe needs h5py: pip install 'omnisky[data]'"
        ) from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not a readable HDF5 file ({error}); fetch it again") from error


def batches(
    path: str | os.PathLike, wanted: Mapping[str, float], batch_size: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the first row and the columns of some rows at a time.

    Parameters
    ----------
    path : path
        The file.
    wanted : mapping of str to float
        Names of columns, those that the file has, and what stands where a list is shorter than
        others.
    batch_size : int
        Most rows at a time; fewer where rows are large.

    Raises
    ------
    ValueError
        If the file is damaged or its columns are not of the same length.
    """
    hdf5 = Path(path).suffix in _HDF5
    yield from (_hdf5 if hdf5 else _parquet)(path, wanted, batch_size)


def _hdf5(
    path: str | os.PathLike, wanted: Mapping[str, float], batch_size: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    with _open_hdf5(path) as file:
        columns = {_dotted(name): file[name] for name in file if _dotted(name) in wanted}
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"{path}: all columns need one entry an object; found lengths {lengths}. The file "
                "is not complete; fetch it again"
            )
        rows = next(iter(lengths.values()), 0)
        row_bytes = sum(c.dtype.itemsize * int(np.prod(c.shape[1:])) for c in columns.values())
        step = max(1, min(batch_size, _AT_ONCE // max(row_bytes, 1)))
        for start in range(0, rows, step):
            try:
                yield start, {n: c[start : start + step] for n, c in columns.items()}
            except OSError as error:
                raise ValueError(
                    f"{path}, rows {start} to {start + step}: cannot be read ({error}). The file "
                    "is damaged; fetch it again"
                ) from error


def _parquet(
    path: str | os.PathLike, wanted: Mapping[str, float], batch_size: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            first = file.metadata
            row_bytes = sum(
                first.row_group(g).total_byte_size for g in range(first.num_row_groups)
            ) // max(first.num_rows, 1)
            step = max(1, min(batch_size, _AT_ONCE // max(row_bytes, 1)))
            for batch in file.iter_batches(step, columns=list(wanted)):
                found = {name: _plain(_field(batch, name), wanted[name]) for name in wanted}
                yield start, found
                start += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path}, from row {start}: cannot be read ({error}). The file is damaged; fetch it "
            "again"
        ) from error


def _field(batch: pa.RecordBatch, name: str) -> pa.Array:
    import pyarrow.compute as pc

    outer, _, inner = name.partition(".")
    column = batch.column(outer)
    return pc.struct_field(column, [inner]) if inner else column  # pyright: ignore


def _plain(column: pa.Array, fill: float) -> np.ndarray:
    """Return a column as an array; lists of lists as axes, padded where lengths differ."""
    import pyarrow as pa

    depth, shape, kind = 0, [len(column)], column.type
    indices: list[np.ndarray] = []
    flat = column
    while (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        lengths = flat.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        indices.append(lengths.astype(np.int64))
        shape.append(int(lengths.max(initial=0)))
        flat, depth = flat.flatten(), depth + 1
        kind = flat.type
    if not depth:
        return _values(column, fill)
    values = _values(flat, fill)
    if all((lengths == width).all() for lengths, width in zip(indices, shape[1:], strict=True)):
        return values.reshape(shape)
    if depth > 1:
        raise ValueError(
            f"images of different sizes in one column: {sorted(set(indices[-1].tolist()))[:5]}"
        )
    out = np.full(shape, fill, dtype=values.dtype)
    out[np.arange(shape[1]) < indices[0][:, None]] = values
    return out


def _values(flat: pa.Array, fill: float) -> np.ndarray:
    """Return plain values as an array; missing numbers are NaN, missing text is empty."""
    import pyarrow as pa

    if pa.types.is_boolean(flat.type):
        return flat.fill_null(bool(fill)).to_numpy(zero_copy_only=False)
    if pa.types.is_integer(flat.type) and not flat.null_count:
        return flat.to_numpy()
    if pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type):
        return flat.to_numpy(zero_copy_only=False)
    if pa.types.is_binary(flat.type):
        return np.array([v or b"" for v in flat.to_pylist()])
    return np.array([v or "" for v in flat.to_pylist()], dtype=str)


def text(values: np.ndarray) -> np.ndarray:
    """Return identifiers or names as text: decoded, without ``b'...'`` and blanks around."""
    if values.dtype.kind == "O":
        decoded = [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel()]
        values = np.array(decoded, dtype=str).reshape(values.shape)
    elif values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    else:
        values = values.astype(str)
    if not values.size:
        return values
    wrapped = np.char.startswith(values, "b'") & np.char.endswith(values, "'")
    bare = [v[2:-1] if w else v for v, w in zip(values.ravel(), wrapped.ravel(), strict=True)]
    return np.char.strip(np.array(bare, dtype=str)).reshape(values.shape)
