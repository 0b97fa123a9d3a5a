"""Tables in, tables out: what every command does before and after its work."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cyclopts import Parameter

from omnisky.modalities import Observations

if TYPE_CHECKING:
    from astropy.table import Column, MaskedColumn, Table

__all__ = [
    "Input",
    "Reading",
    "check_output",
    "drop_empty",
    "expand",
    "masked_rows",
    "names_in",
    "result_table",
    "save",
    "slices",
]

_IDS = ("object_id", "source_id", "gaiaedr3_source_id", "id", "designation", "name")
_CHUNK = 2048


@Parameter(name="*", group="Reading the table")
@dataclass(frozen=True, kw_only=True)
class Reading:
    """Say how to read a table.

    Parameters
    ----------
    column : tuple of str
        NAME=COLUMN, where a column's name does not say what it holds: gaia_g=mymag,
        gaia_xp_error=sigma, gaia_xp_wavelength=lambda. May be repeated.
    id : str, optional
        Column that identifies the objects; found by itself if it is called source_id or the like.
    resample : bool
        Interpolate spectra on another wavelength grid to the one of their modality.
    """

    column: tuple[str, ...] = ()
    id: str | None = None
    resample: bool = False

    def mapping(self) -> dict[str, str]:
        """Return column by purpose; raises `ValueError` for what is not NAME=COLUMN."""
        found: dict[str, str] = {}
        for item in self.column:
            name, equals, column = item.partition("=")
            if not (name and equals and column) or name in found:
                why = "given twice" if name in found else "not of the form NAME=COLUMN"
                raise ValueError(f"--column {item}: {why}; for example --column gaia_g=mymag")
            found[name] = column
        return found


@dataclass(frozen=True, kw_only=True)
class Input:
    """Hold what a command reads: a table of the user, or a named data set.

    Parameters
    ----------
    name : str
        As the user gave it.
    id_name : str
        Name of the identifier column.
    object_id : array, shape (object,)
        Identifiers.
    observations : Observations or Tokens
        What was measured, or the tokens of it.
    table : astropy.table.Table or None
        The user's table.
    dataset : Dataset or None
        The named data set.
    columns : mapping of str to str
        Column of the table that was read for each modality, and for ``<modality>_error`` and the
        like where the user named it; empty for a data set.
    """

    name: str
    id_name: str
    object_id: np.ndarray
    observations: Any
    table: Any = None
    dataset: Any = None
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        name: str,
        reading: Reading,
        inputs: Sequence[str] | None = None,
        *,
        base: str | None = None,
    ) -> Input:
        """Read a data set, a part of one, or a table file.

        Parameters
        ----------
        name : str
            What the user gave.
        reading : Reading
            How to read a table.
        inputs : sequence of str, optional
            Modalities to read, or families of them: photometry (all magnitudes that are there), xp.
            All but labels by default.
        base : str, optional
            Model whose tokens are read, too, if a table holds tokens and no measurements.
        """
        dataset = _dataset(name)
        if dataset is not None:
            if reading.column or reading.id:
                raise ValueError(f"{name} is a data set; --column and --id are for table files")
            known = dataset.observations
            if inputs is not None:
                wanted = expand(inputs, list(known))
                known = Observations({**known, **dataset.labels}).select(*wanted)
            return cls(
                name=name,
                id_name="source_id",
                object_id=dataset.object_id,
                observations=known,
                dataset=dataset,
            )
        from omnisky.data.tables import read_table

        table = read_table(name)
        id_name, object_id = _identifiers(table, reading.id)
        known, columns = _measured(table, reading, inputs, base)
        return cls(
            name=name,
            id_name=id_name,
            object_id=object_id,
            observations=known,
            table=table,
            columns=columns,
        )

    def targets(self, names: list[str]) -> tuple[np.ndarray, list[Column]]:
        """Return values, shape (object, target), NaN where unknown, and a column template each."""
        from omnisky.data.usertable import table_from_observations, targets_from_table

        table = self.table
        if table is None:
            table = table_from_observations(self.dataset.labels, self.object_id)
        return targets_from_table(table, names)


def _dataset(name: str):
    """Return the data set (or part of it) of this name, None if it must be a file."""
    if Path(name).is_file():
        return None
    if Path(name).suffix:
        raise FileNotFoundError(f"no file {name}")
    from omnisky.data import datasets

    base, _, part = name.partition(":")
    if base in datasets.available():
        loaded = datasets.load(base)
        return loaded[part] if part else loaded
    raise FileNotFoundError(
        f"no file {name}, and no data set of this name; data sets are "
        f"{', '.join(datasets.available())}"
    )


def _measured(
    table: Table, reading: Reading, inputs: Sequence[str] | None, base: str | None
) -> tuple[Any, dict[str, str]]:
    """Return what was measured, or its tokens, and the columns that hold it."""
    from omnisky.cli.models import token_columns, tokens_from_table
    from omnisky.data.usertable import observations_from_table, recognise

    columns = reading.mapping()
    there, coded = recognise(table, columns), token_columns(table)
    if coded and not there and base is not None:
        wanted = list(coded) if inputs is None else expand(inputs, list(coded))
        if absent := [name for name in wanted if name not in coded]:
            raise ValueError(
                f"the table has no tokens of {', '.join(absent)}, only of {', '.join(coded)}"
            )
        coded = {name: coded[name] for name in wanted}
        return tokens_from_table(table, coded, base), coded
    if coded:
        why = "beside measurements" if there else "by this command"
        warnings.warn(f"the tokens of {', '.join(coded)} are not read {why}", stacklevel=3)
    names = None if inputs is None else expand(inputs, list(there))
    known = observations_from_table(table, columns, names=names, resample=reading.resample)
    return known, {**columns, **recognise(table, columns, names)}


def _identifiers(table: Table, asked: str | None) -> tuple[str, np.ndarray]:
    if asked is not None and asked not in table.colnames:
        raise ValueError(f"--id: no column {asked!r}; found {', '.join(table.colnames)}")
    lower = {c.lower(): c for c in reversed(table.colnames)}
    column = asked or next((lower[c] for c in _IDS if c in lower), None)
    if column is None:
        return "row", np.arange(len(table))
    if table[column].ndim > 1:
        raise ValueError(f"--id: column {column!r} holds vectors, not one identifier a row")
    return column, np.asarray(table[column])


def expand(names: Sequence[str], there: list[str]) -> list[str]:
    """Return modality names; a family such as photometry stands for those that are there."""
    from omnisky.surveys import modality

    found: list[str] = []
    for name in names:
        family = {
            "photometry": [n for n in there if modality(n).ucd.startswith("phot.mag")],
            "xp": ["gaia_xp"],
        }.get(name.lower())
        if family == []:
            raise ValueError(f"there is no {name} here, only {', '.join(there)}")
        found += family or [name]
    return list(dict.fromkeys(found))


def names_in(text: str | None) -> list[str] | None:
    """Split ``a,b`` into names; None stays None."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{text!r} has an empty name; separate names by single commas")
    return names


def slices(n_objects: int, doing: str, size: int = _CHUNK) -> Iterator[slice]:
    """Yield slices of so many objects, over all of them, with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    starts = range(0, n_objects, size)
    console = Console(stderr=True)
    hidden = not console.is_terminal
    for start in track(starts, doing, console=console, transient=True, disable=hidden):
        yield slice(start, min(start + size, n_objects))


def drop_empty(observations: Any) -> tuple[Any, np.ndarray]:
    """Return the objects that have a measurement, and which these are, shape (object,).

    Of Observations and of Tokens.

    Warns with a `UserWarning` that says how many have none.

    Raises
    ------
    ValueError
        If no object has any.
    """
    if isinstance(observations, Observations):
        present = [m.present for m in observations.values()]
    else:
        present = [mask.any(1).numpy() for mask in observations.mask.values()]
    rows = np.any(present, axis=0)
    if not rows.any():
        raise ValueError(f"no object has a good value in any of {', '.join(observations)}")
    if not rows.all():
        warnings.warn(
            f"{(~rows).sum()} of {len(rows)} objects have no good value in any of "
            f"{', '.join(observations)} and are left out (masked in the output)",
            stacklevel=2,
        )
    return observations[rows], rows


def masked_rows(
    values: np.ndarray, rows: np.ndarray, dtype: type[np.floating] = np.float64
) -> MaskedColumn:
    """Return a column of all objects from values of some; NaN and masked for the others."""
    from astropy.table import MaskedColumn

    column = np.full((len(rows), *values.shape[1:]), np.nan, dtype=dtype)
    column[rows] = values
    # Formats lose the mask of single elements of a vector, but keep NaN.
    mask = ~np.isfinite(column) if column.ndim == 1 else None
    return MaskedColumn(column, mask=mask)


def check_output(out: Path, overwrite: bool) -> None:
    """Refuse an output that exists or has an unknown ending before the work, not after it."""
    from omnisky.data.tables import FORMATS

    if not out.name.lower().endswith(tuple(FORMATS)):
        raise ValueError(f"--out {out}: the ending must be one of {', '.join(FORMATS)}")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; choose another --out or add --overwrite")


def result_table(source: Input) -> Table:
    """Return a table with the identifiers as its first column, and where they came from."""
    from astropy.table import Column, Table

    from omnisky import __version__

    table = Table()
    described = "" if source.table is None else source.table.columns.get(source.id_name)
    table[source.id_name] = Column(
        source.object_id, description=getattr(described, "description", None) or "Identifier"
    )
    table[source.id_name].meta["ucd"] = "meta.id;meta.main"
    table.meta["CREATOR"] = f"omnisky {__version__}"
    table.meta["SOURCE"] = Path(source.name).name
    return table


def save(table: Table, out: Path, overwrite: bool) -> None:
    """Write the table and say so."""
    from omnisky.data.tables import write_table

    path = write_table(table, out, overwrite=overwrite)
    columns = ", ".join(table.colnames)
    print(f"{path}: {len(table)} rows, columns {columns}")
