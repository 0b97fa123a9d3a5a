"""Read CSV and ECSV tables a batch of rows at a time, with every bad row reported."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from omnisky.surveys.survey import Problems

if TYPE_CHECKING:
    from pyarrow import Array

__all__ = ["Kind", "TextHeader", "text_batches", "text_header"]

Kind = Literal["int", "float", "text"]
_MAX_HEADER_BYTES = 2**23
# A row of Gaia's XP coefficients with their correlations takes 45 kB.
_BLOCK_BYTES = 2**23
_MISSING = ["", "null", "NULL", "nan", "NaN", "--"]
_ECSV_KEY = re.compile(r"(?:^#\s*|[{,]\s*)(name|unit):\s*('[^']*'|\"[^\"]*\"|[^,}\n]+)", re.M)


@dataclass(frozen=True)
class TextHeader:
    """Say what stands above the rows of a text table.

    Parameters
    ----------
    names : tuple of str
        Columns, in order.
    units : dict of str to str
        Units by column, where an ECSV header states them.
    delimiter : str
        What separates columns.
    comment_lines : int
        Lines above that of the names.
    """

    names: tuple[str, ...]
    units: dict[str, str]
    delimiter: str
    comment_lines: int


def text_header(path: str | os.PathLike) -> TextHeader:
    """Return what stands above the rows of a CSV or ECSV table.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If there is no line of column names, one is there twice, or it is no text.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    comments, line, size = [], "", 0
    try:
        with _plain(path) as file:
            for raw in iter(lambda: file.readline(_MAX_HEADER_BYTES), b""):
                size += len(raw)
                line = raw.decode("utf-8-sig" if not comments else "utf-8").rstrip("\r\n")
                if not line.startswith("#") or size >= _MAX_HEADER_BYTES:
                    break
                comments.append(line)
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as a text table: {error}. It is damaged, or of another format"
        ) from error
    above = "\n".join(comments)
    stated = re.search(r"^# delimiter:\s*['\"]?([^'\"\n])", above, re.M)
    delimiter = stated[1] if stated else " " if "%ECSV" in above else ","
    names = next(csv.reader([line], delimiter=delimiter), [])
    if size >= _MAX_HEADER_BYTES or not names or len({n.upper() for n in names}) < len(names):
        raise ValueError(
            f"{path}: expected one line of different column names; found {line[:80]!r}. It is of "
            "another format, or a column is there twice"
        )
    units, current = {}, ""
    for key, value in _ECSV_KEY.findall(above):
        if key == "name":
            current = value.strip(" '\"")
        else:
            units[current] = value.strip(" '\"")
    return TextHeader(tuple(names), units, delimiter, len(comments))


def _plain(path: str | os.PathLike) -> Any:
    """Open a file for reading bytes, inflated where it is compressed."""
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if packed else open(path, "rb")


class _Utf8(io.RawIOBase):
    """Pass bytes on while they are UTF-8: the parser would lose a bad row that is not, silently."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        self._decoder.decode(data, final=not data)
        buffer[: len(data)] = data
        return len(data)


def text_batches(
    path: str | os.PathLike,
    columns: Mapping[str, Kind],
    *,
    optional: Mapping[str, Kind] | None = None,
    problems: Problems | None = None,
    batch_rows: int = 4096,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Read columns of a CSV or ECSV table.

    Parameters
    ----------
    path : path
        The file.
    columns : mapping of str to {"int", "float", "text"}
        Columns that must be there, in any case of letters, and what they hold.
    optional : mapping of str to {"int", "float", "text"}, optional
        Columns to take where they are there.
    problems : Problems, optional
        Takes rows that cannot be read; without it the first is raised.
    batch_rows : int
        Most rows to yield at a time.

    Yields
    ------
    rows : array of int
        Row numbers, from 0.
    values : dict of str to array
        By the names that were asked for: int64, masked where missing; float64, NaN where missing;
        text without blanks around it and, where Python wrote bytes, without its ``b'...'``.

    Raises
    ------
    ValueError
        If a column is not there or the file cannot be read as a table.
    """
    import pyarrow as pa

    problems = problems or Problems()
    header = text_header(path)
    there = {name.upper(): name for name in header.names}
    missing = [name for name in columns if name.upper() not in there]
    if missing:
        raise ValueError(
            f"{path} has no columns {', '.join(missing)}; found {', '.join(header.names[:40])}. It "
            "is another kind of table"
        )
    wanted: dict[str, Kind] = {**columns}
    for name, kind in (optional or {}).items():
        if name.upper() in there:
            wanted[name] = kind
    native = {name: there[name.upper()] for name in wanted}
    short: dict[int, str] = {}
    following = 0
    try:
        with _plain(path) as file:
            for block in _blocks(file, header, list(native.values()), short):
                rows = _row_numbers(following, len(block), short)
                _report_short(path, short, problems)
                following = int(rows[-1]) + 1 if len(rows) else following
                for start in range(0, len(block), batch_rows):
                    part = slice(start, start + batch_rows)
                    cells = {name: block.column(column)[part] for name, column in native.items()}
                    yield _typed(str(path), rows[part], cells, wanted, problems)
            _report_short(path, short, problems)
    except (pa.ArrowInvalid, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read as a text table: {error}. It is damaged, or of another format"
        ) from error


def _blocks(file: Any, header: TextHeader, columns: list[str], short: dict[int, str]) -> Any:
    """Open a table that gives blocks of text cells, noting rows of another length in `short`."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    def note(row: Any) -> str:
        # The parser counts lines from 1, the comments and the names among them.
        short[row.number - header.comment_lines - 2] = (
            f"it has {row.actual_columns} columns, expected {row.expected_columns}"
        )
        return "skip"

    return arrow_csv.open_csv(
        _Utf8(file),
        # With threads the parser would not count rows.
        arrow_csv.ReadOptions(
            use_threads=False, block_size=_BLOCK_BYTES, skip_rows=header.comment_lines
        ),
        arrow_csv.ParseOptions(delimiter=header.delimiter, invalid_row_handler=note),
        arrow_csv.ConvertOptions(
            include_columns=columns,
            column_types={name: pa.string() for name in columns},
            null_values=_MISSING,
            strings_can_be_null=True,
        ),
    )


def _row_numbers(following: int, count: int, short: Mapping[int, str]) -> np.ndarray:
    """Return the numbers of `count` rows, those that were skipped left out."""
    numbers = np.arange(following, following + count + len(short))
    return numbers[~np.isin(numbers, list(short))][:count]


def _report_short(path: str | os.PathLike, short: dict[int, str], problems: Problems) -> None:
    """Report rows that do not have the number of columns of the table, once."""
    for row, reason in short.items():
        if reason:
            problems.report(path, row, reason, "Give each row all columns, quoted where needed")
            short[row] = ""


def _typed(
    path: str,
    rows: np.ndarray,
    cells: Mapping[str, Array],
    kinds: Mapping[str, Kind],
    problems: Problems,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Convert text cells, without the rows where that fails, which are reported."""
    values, wrong = {}, {}
    for name, cell in cells.items():
        values[name], bad = _column(cell, kinds[name])
        for position in np.flatnonzero(bad):
            text = str(cell[int(position)])[:40]
            reason = f"column {name} holds {text!r}, expected {kinds[name]}"
            wrong.setdefault(int(position), reason)
    for position, reason in sorted(wrong.items()):
        problems.report(path, int(rows[position]), reason, "Correct the cell, or leave it empty")
    kept = np.ones(len(rows), dtype=bool)
    kept[list(wrong)] = False
    return rows[kept], {name: column[kept] for name, column in values.items()}


def _column(cells: Array, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Return typed values and where that failed."""
    import pyarrow as pa
    from pyarrow import compute as pc

    cells = pc.utf8_trim_whitespace(cells)
    if pc.any(pc.starts_with(cells, "b'")).as_py():
        cells = pc.replace_substring_regex(cells, r"^b'\s*(.*?)\s*'$", r"\1")
    absent = np.asarray(pc.is_null(cells))
    bad = np.zeros(len(cells), dtype=bool)
    if kind == "text":
        return np.asarray(pc.fill_null(cells, "").to_pylist(), dtype=str).reshape(len(cells)), bad
    target = pa.int64() if kind == "int" else pa.float64()
    try:
        numbers = pc.cast(cells, target)
    except pa.ArrowInvalid:
        bad = np.array([_fails(cell, target) for cell in cells], dtype=bool)
        numbers = pc.cast(pc.if_else(pa.array(bad), None, cells), target)
    if kind == "int":
        filled = np.asarray(pc.fill_null(numbers, 0))
        return (np.ma.masked_array(filled, absent) if absent.any() else filled), bad
    return np.array(pc.fill_null(numbers, np.nan)), bad


def _fails(cell: Any, target: Any) -> bool:
    import pyarrow as pa

    try:
        cell.cast(target)
    except pa.ArrowInvalid:
        return True
    return False
