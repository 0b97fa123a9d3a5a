"""Read and write table files: Parquet, FITS, VOTable, ECSV and CSV, with units.

astropy does the work, but for Parquet, where its reader needs pandas: that goes through pyarrow,
with unit, description and UCD of each column in the Arrow field metadata. What a format cannot
hold is refused, with three exceptions that are in its nature: CSV has no units, FITS has no NaN
beside missing (NaN reads as missing), VOTable has no missing strings (they read as empty).
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy import units as u
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table

__all__ = ["FORMATS", "read_table", "unread_columns", "write_table"]

FORMATS = {
    ".parquet": "parquet",
    ".fits": "fits",
    ".fits.gz": "fits",
    ".vot": "votable",
    ".xml": "votable",
    ".ecsv": "ascii.ecsv",
    ".csv": "ascii.csv",
}
_TABLE_META = b"omnisky.table_meta"
# Where a table that was read keeps which columns of its file it lacks, and why; never written.
_UNREAD = "omnisky.unread_columns"


def _format_of(path: Path) -> str:
    for suffix, name in FORMATS.items():
        if path.name.lower().endswith(suffix):
            return name
    raise ValueError(f"cannot tell the format of {path}; known endings are {', '.join(FORMATS)}")


def read_table(path: str | os.PathLike) -> Table:
    """Read a table; the format follows from the file's ending.

    Parameters
    ----------
    path : path
        A file that ends in one of `FORMATS`.

    Returns
    -------
    astropy.table.Table
        With units; vector columns have shape (row, element), missing values are masked.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the ending is unknown, the file cannot be read as this format, or it has no rows.

    Warns
    -----
    UserWarning
        If a column of a Parquet file is left out, as no table column can hold it; names all.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    name = _format_of(path)
    try:
        table = _read_parquet(path) if name == "parquet" else _read_astropy(path, name)
    except Exception as error:  # each format raises its own kinds; the user needs one sentence
        raise ValueError(
            f"{path} cannot be read as {name}: {error}. It may be damaged, or of another format "
            "than its ending says"
        ) from error
    if len(table) == 0:
        raise ValueError(f"{path} has no rows; expected one row an object")
    return table


def write_table(table: Table, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a table, whole or not at all; the format follows from the file's ending.

    Parameters
    ----------
    table : astropy.table.Table
        What to write, at least one row.
    path : path
        Where to; ends in one of `FORMATS`. CSV keeps no units and no vector columns, and
        VOTable none of several axes.
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    FileExistsError
        If the file exists and may not be replaced.
    ValueError
        If the ending is unknown, the table has no rows, or the format cannot hold a column.
    OSError
        If it cannot be written (disk full, no permission); nothing is left behind.
    """
    path = Path(path)
    name = _format_of(path)
    table = Table(table, copy=False)  # a QTable's quantities become columns with units
    table.meta.pop(_UNREAD, None)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another name or allow overwriting")
    _refuse(table, path, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = next(s for s in FORMATS if path.name.lower().endswith(s))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-", suffix=suffix)
    os.close(handle)
    try:
        if name == "parquet":
            _write_parquet(table, temporary)
        else:
            _write_astropy(table, temporary, name)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            f"could not write {path}: {error}. Nothing was changed; free some space or choose "
            "another folder"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _refuse(table: Table, path: Path, name: str) -> None:
    """Refuse what the format cannot hold, before anything is written."""
    if len(table) == 0:
        raise ValueError(f"the table for {path} has no rows; nothing was written")
    vectors = [c for c in table.colnames if table[c].ndim > 1]
    if name == "ascii.csv" and vectors:
        raise ValueError(
            f"CSV cannot hold the vector columns {', '.join(vectors)}; write {path.stem}.parquet, "
            ".fits, .vot or .ecsv instead"
        )
    deep = [c for c in vectors if table[c].ndim > 2]
    if name == "votable" and deep:
        raise ValueError(
            f"VOTables swap the axes of columns with several; found {', '.join(deep)}. Write "
            f"{path.stem}.parquet, .fits or .ecsv instead"
        )
    if name == "fits":
        foreign = [c for c in table.colnames if not _is_ascii(table[c])]
        if foreign:
            raise ValueError(
                f"FITS holds ASCII only, but the columns {', '.join(foreign)} hold other letters; "
                f"write {path.name.split('.')[0]}.parquet, .vot or .ecsv instead"
            )


def _is_ascii(column: Column) -> bool:
    return column.dtype.kind != "U" or all(str(v).isascii() for v in column.tolist())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _read_astropy(path: Path, name: str) -> Table:
    with warnings.catch_warnings():
        # A cut-off file is damaged, not a matter for a warning.
        warnings.filterwarnings("error", message=".*truncated.*")
        # Units that a format does not list ("dex") are settled below.
        warnings.filterwarnings("ignore", message=".*Invalid unit string.*")
        warnings.filterwarnings("ignore", message=".*did not parse as .* unit.*")
        table = Table.read(path, format=name)
    table.convert_bytestring_to_unicode()
    for column in table.itercols():
        column.meta.pop("_votable_string_dtype", None)
        if column.unit is not None:
            # VOUnit takes "dex" for a tenth of an "ex", FITS does not know it: read the name again.
            column.unit = u.Unit(str(column.unit), parse_strict="silent")
    for key in table.colnames:
        if not table[key].dtype.isnative:  # FITS is big-endian, which torch does not take
            table[key] = table[key].astype(table[key].dtype.newbyteorder("="))
    return table


def _write_astropy(table: Table, path: str, name: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Invalid unit string.*")
        warnings.filterwarnings("ignore", message=".*could not be saved in native FITS format.*")
        # Text would go through astropy's tablewriter, which writes a byte beyond its buffer.
        more = {"tabledata_format": "binary2"} if name == "votable" else {}
        table.write(path, format=name, overwrite=True, **more)
    if name == "fits":
        _write_foreign_units(table, path)


def _write_foreign_units(table: Table, path: str) -> None:
    """Add the units that astropy leaves out since the FITS standard does not list them (dex)."""
    header = fits.getheader(path, 1)
    for number in range(1, header["TFIELDS"] + 1):
        unit = table[header[f"TTYPE{number}"]].unit
        if unit is not None and f"TUNIT{number}" not in header:
            fits.setval(path, f"TUNIT{number}", value=str(unit), ext=1)


def _read_parquet(path: Path) -> Table:
    # A folder name like Npix=3 must not become a column, so read the one file.
    arrow = pq.ParquetFile(path).read().combine_chunks()
    table = Table(meta=json.loads((arrow.schema.metadata or {}).get(_TABLE_META, b"{}")))
    unread: dict[str, str] = {}
    for field in arrow.schema:
        meta = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        chunks = arrow.column(field.name).chunks
        try:
            column = _from_arrow(chunks[0] if chunks else pa.array([], field.type))
        except _NoColumnError as error:
            unread[field.name] = str(error)
            continue
        if "shape" in meta:
            column = column.reshape(len(column), *json.loads(meta["shape"]))
        table[field.name] = column
        table[field.name].unit = meta.get("unit") or None
        table[field.name].description = meta.get("description") or None
        if meta.get("ucd"):
            table[field.name].meta["ucd"] = meta["ucd"]
    if unread:
        _tell_unread(table, unread)
    return table


class _NoColumnError(ValueError):
    """What a file holds fits no column of a table."""


def _tell_unread(table: Table, unread: dict[str, str]) -> None:
    """Warn of columns that were left out, and keep them for those who ask; refuse if all were."""
    names = "; ".join(f"{name!r} holds {what}" for name, what in unread.items())
    if not table.colnames:
        raise ValueError(f"no table column can hold any of its columns: {names}")
    warnings.warn(f"columns that no table can hold were left out: {names}", stacklevel=4)
    table.meta[_UNREAD] = unread


def unread_columns(table: Table) -> dict[str, str]:
    """Return the columns that `read_table` left out, and what each holds."""
    return table.meta.get(_UNREAD, {})


def _from_arrow(array: pa.Array) -> Column:
    """Return a column, masked where there are nulls."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_fixed_size_list(array.type) or pa.types.is_list(array.type):
        return _from_lists(array)
    if pa.types.is_null(array.type):
        array = array.cast(pa.float64())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        values = np.array(array.fill_null("").to_pylist(), dtype=str)
    elif pa.types.is_primitive(array.type):
        zero = pa.scalar(False if pa.types.is_boolean(array.type) else 0, type=array.type)
        values = array.fill_null(zero).to_numpy(zero_copy_only=False)
    else:
        raise _NoColumnError(f"values of type {array.type}")
    if not array.null_count:
        return Column(values)
    return MaskedColumn(values, mask=array.is_null().to_numpy(zero_copy_only=False))


def _from_lists(array: pa.Array) -> Column:
    """Return a column of vectors; missing rows are masked."""
    lengths = np.unique(np.asarray(array.value_lengths().drop_null()))
    if len(lengths) > 1:
        raise _NoColumnError(f"lists of {lengths[0]} to {lengths[-1]} elements, not of one number")
    if len(lengths) == 0 and array.null_count:
        return _from_arrow(pa.nulls(len(array)))
    known = array.is_valid().to_numpy(zero_copy_only=False)
    # What `flatten` gives has no elements for missing rows; they may be vectors themselves.
    there = _from_arrow(array.flatten())
    width = int(lengths.sum()) * math.prod(there.shape[1:])
    there = there.reshape(int(known.sum()), width)
    if known.all():
        return there
    values = np.zeros((len(array), width), dtype=there.dtype)
    mask = np.ones(values.shape, dtype=bool)
    values[known], mask[known] = np.ma.getdata(there), np.ma.getmaskarray(there)
    return MaskedColumn(values, mask=mask)


def _write_parquet(table: Table, path: str) -> None:
    fields, arrays = [], []
    for name in table.colnames:
        column = table[name]
        array = _to_arrow(column)
        meta = {
            "unit": str(column.unit) if column.unit is not None else "",
            "description": column.description or "",
            "ucd": str(column.meta.get("ucd", "")),
            "shape": json.dumps(column.shape[1:]) if column.ndim > 2 else "",
        }
        fields.append(pa.field(name, array.type, metadata={k: v for k, v in meta.items() if v}))
        arrays.append(array)
    schema = pa.schema(fields, metadata={_TABLE_META: json.dumps(dict(table.meta), default=str)})
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")


def _to_arrow(column: Column) -> pa.Array:
    """Return an Arrow array with nulls where the column is masked."""
    values = np.ma.getdata(np.ma.asarray(column)).reshape(-1)
    mask = np.ma.getmaskarray(np.ma.asarray(column)).reshape(-1)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind in "fiu":
        values = values.astype(values.dtype.newbyteorder("="))
    array = pa.array(values.tolist() if values.dtype.kind == "U" else values, mask=mask)
    if column.ndim == 1:
        return array
    return pa.FixedSizeListArray.from_arrays(array, int(np.prod(column.shape[1:])))
