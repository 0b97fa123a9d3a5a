"""What every survey file states and uses: facts, problems, selections, typed columns, grids."""

from __future__ import annotations

import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeVar

import numpy as np

from omnisky.modalities import Modality, Scalar

__all__ = [
    "Problem",
    "Problems",
    "Selection",
    "Survey",
    "in_batches",
    "log_pixels",
    "scalar_of",
]

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Survey:
    """State what a survey measures and how to credit it.

    Parameters
    ----------
    name : str
        Short name, the prefix of its modalities.
    title : str
        Full name with data release.
    modalities : tuple of Modality
        Its declarations.
    licence : str
        Terms of use of the data.
    acknowledgement : str
        The sentence the survey asks users to print.
    bibtex : dict of str to str
        BibTeX entry of each bibcode its modalities name.
    """

    name: str
    title: str
    modalities: tuple[Modality, ...]
    licence: str
    acknowledgement: str
    bibtex: dict[str, str]

    def __post_init__(self) -> None:
        for modality in self.modalities:
            missing = [b for b in modality.bibcodes if b not in self.bibtex]
            if modality.survey != self.name or missing:
                raise ValueError(
                    f"survey {self.name!r}: modality {modality.name!r} says survey "
                    f"{modality.survey!r} and cites {missing} without a BibTeX entry"
                )


@dataclass(frozen=True)
class Problem:
    """Say what is wrong with one row, or with a whole file.

    Parameters
    ----------
    file : str
        The file.
    row : int or None
        Row of its table, from 0; None if the whole file is meant.
    object_id : str or None
        Identifier of the object, where known.
    reason : str
        What is wrong.
    remedy : str
        What to do.
    """

    file: str
    row: int | None
    object_id: str | None
    reason: str
    remedy: str

    def __str__(self) -> str:
        row = "" if self.row is None else f", row {self.row}"
        who = "" if self.object_id is None else f" (object {self.object_id})"
        return f"{self.file}{row}{who}: {self.reason}. {self.remedy}"


@dataclass
class Problems:
    """Take what readers find wrong: raise it, or put it on record and go on without that row.

    Parameters
    ----------
    on_error : {"raise", "quarantine"}
        What to do with a problem.
    found : list of Problem
        Those on record.
    """

    on_error: Literal["raise", "quarantine"] = "raise"
    found: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "quarantine"):
            raise ValueError(f"on_error must be 'raise' or 'quarantine'; found {self.on_error!r}")

    def report(
        self,
        file: str | os.PathLike,
        row: int | None,
        reason: str,
        remedy: str,
        *,
        object_id: object = None,
    ) -> None:
        """Raise a problem as `ValueError`, or put it on record.

        Parameters
        ----------
        file : path
            The file.
        row : int or None
            Row of its table, from 0; None if the whole file is meant.
        reason, remedy : str
            What is wrong and what to do, each a sentence without its full stop.
        object_id : object, optional
            Identifier of the object, where known.
        """
        who = None if object_id is None else str(object_id)
        problem = Problem(str(file), None if row is None else int(row), who, reason, remedy)
        if self.on_error == "raise":
            raise ValueError(str(problem))
        self.found.append(problem)

    @contextmanager
    def whole_file(self, file: str | os.PathLike) -> Iterator[None]:
        """Take a `ValueError` or `OSError` within as one problem of the whole file."""
        try:
            yield
        except (ValueError, OSError) as error:
            if self.on_error == "raise":
                raise
            self.found.append(
                Problem(str(file), None, None, str(error), "Nothing more was read from this file")
            )

    def write(self, path: str | os.PathLike) -> None:
        """Write the problems on record as JSON lines."""
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(problem)) + "\n" for problem in self.found)

    def summary(self) -> str:
        """Return one line for people."""
        if not self.found:
            return "no problems"
        files = Counter(problem.file for problem in self.found)
        worst, count = files.most_common(1)[0]
        return (
            f"{len(self.found)} problems in {len(files)} files; most ({count}) in {worst}; the "
            f"first: {self.found[0]}"
        )

    def placed(
        self,
        file: str | os.PathLike,
        object_id: np.ndarray,
        ra_deg: np.ndarray,
        dec_deg: np.ndarray,
        *,
        first_row: int = 0,
        rows: np.ndarray | None = None,
    ) -> np.ndarray:
        """Report each row of one file without a usable position or with an id seen before in it.

        Parameters
        ----------
        file : path
            The file.
        object_id, ra_deg, dec_deg : array, shape (object,)
            Identifiers and positions in degrees.
        first_row : int
            Row number of the first of these rows.
        rows : array of int, optional
            Row number of each, where they do not follow each other.

        Returns
        -------
        array of bool, shape (object,)
            True for the rows that can be used; of equal ids the first.
        """
        ra, dec = (
            np.ma.filled(np.ma.asarray(a, dtype=np.float64), np.nan) for a in (ra_deg, dec_deg)
        )
        lost = ~((ra >= 0) & (ra < 360) & (np.abs(dec) <= 90))
        again = np.ones(len(ra), dtype=bool)
        again[np.unique(object_id, return_index=True)[1]] = False
        for row in np.flatnonzero(lost | again):
            reason, remedy = (
                f"position ({ra[row]}, {dec[row]}) is not on the sphere, with ra in [0, 360)",
                "Correct the coordinates, in degrees",
            )
            if not lost[row]:
                reason, remedy = "its identifier was there before in this file", "Keep one of them"
            number = first_row + int(row) if rows is None else int(rows[row])
            self.report(file, number, reason, remedy, object_id=object_id[row])
        return ~(lost | again)


@dataclass(frozen=True)
class Selection:
    """Name a choice of objects.

    Parameters
    ----------
    name : str
        Its name, as options take it.
    description : str
        What it keeps, for people.
    keep : callable
        Takes the reader's light columns by name, returns one bool an object, True to keep.
        A value that is not known (NaN or masked) must not pass a cut.
    """

    name: str
    description: str
    keep: Callable[[Mapping[str, np.ndarray]], np.ndarray]

    def __call__(self, columns: Mapping[str, np.ndarray], length: int) -> np.ndarray:
        """Return which of `length` objects to keep, shape (object,).

        Raises
        ------
        ValueError
            If a column it needs is not there, or it does not answer with one bool an object.
        """
        try:
            kept = self.keep(columns)
        except KeyError as error:
            raise ValueError(
                f"selection {self.name!r} needs a column {error}; there are {', '.join(columns)}"
            ) from error
        kept = np.ma.filled(kept, False)
        if np.shape(kept) != (length,) or np.asarray(kept).dtype != bool:
            raise ValueError(
                f"selection {self.name!r} must return one bool an object, shape ({length},); found "
                f"{np.asarray(kept).dtype} of shape {np.shape(kept)}"
            )
        return np.asarray(kept)

    @staticmethod
    def choose(
        wanted: str | Selection | Callable[[Mapping[str, np.ndarray]], np.ndarray] | None,
        known: Mapping[str, Selection],
        default: str = "all",
    ) -> Selection:
        """Return a selection given by name, as such or as a callable; None is the default.

        Parameters
        ----------
        wanted : str, Selection, callable or None
            What was asked for. ``"all"`` is always known.
        known : mapping of str to Selection
            Those of the survey.
        default : str
            Name of the one to take for None.

        Raises
        ------
        ValueError
            If there is none of that name; the message lists those that are.
        """
        wanted = default if wanted is None else wanted
        if isinstance(wanted, Selection):
            return wanted
        if callable(wanted):
            return Selection(getattr(wanted, "__name__", "own"), "Given as a function", wanted)
        known = {"all": Selection("all", "Everything", _everything), **known}
        if wanted not in known:
            raise ValueError(
                f"no selection {wanted!r}; there are {', '.join(known)}, or give a function of the "
                "columns"
            )
        return known[wanted]


def _everything(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.ones(len(next(iter(columns.values()))), dtype=bool)


def scalar_of(
    declared: Modality,
    value: np.ndarray,
    *,
    error: np.ndarray | None = None,
    ivar: np.ndarray | None = None,
    known: np.ndarray | bool = True,
) -> Scalar:
    """Make the values of a catalogue column typed: what is not finite or not physical is masked.

    Parameters
    ----------
    declared : Modality
        What it is.
    value : array, shape (object,)
        Values in its unit; masked entries are absent.
    error, ivar : array, shape (object,), optional
        1-sigma errors or inverse variances; unknown where not positive and finite.
    known : array of bool, shape (object,), optional
        False where the survey says that there is no value.

    Warns
    -----
    UserWarning
        If values outside the valid range of the modality were masked; says how many.
    """
    values = np.ma.filled(np.ma.asarray(value).astype(np.float64), np.nan)
    low, high = declared.valid_range
    finite = np.isfinite(values) & known
    good = finite & (values >= low) & (values <= high)
    if (finite & ~good).any():
        warnings.warn(
            f"{declared.name}: {(finite & ~good).sum()} of {finite.sum()} values outside {low:g} "
            f"to {high:g} {declared.unit} were masked, for example {values[finite & ~good][0]:g}",
            stacklevel=3,
        )
    given = error if ivar is None else ivar
    if given is None:
        return Scalar(np.where(good, values, 0.0), mask=good)
    weight = np.ma.filled(np.ma.asarray(given).astype(np.float64), np.nan)
    weight = np.where(good & np.isfinite(weight) & (weight > 0), weight, 0.0)
    if ivar is None:
        weight = np.divide(1.0, weight**2, out=np.zeros_like(weight), where=weight > 0)
    return Scalar(np.where(good, values, 0.0), weight, good)


def log_pixels(declared: Modality, log10_angstrom: np.ndarray, where: str) -> slice:
    """Return which pixels of a survey's log-wavelength grid a spectrum fills, exactly.

    Parameters
    ----------
    declared : Modality
        A spectrum with spacing "log10".
    log10_angstrom : array, shape (pixel,)
        log10 of the wavelengths in Angstrom.
    where : str
        How messages call the spectrum.

    Raises
    ------
    ValueError
        If a pixel lies off the grid by more than a hundredth of a step, pixels are left out or
        repeated, or the spectrum reaches over an end. Nothing is ever resampled.
    """
    first, step, pixels = declared.wavelength_nm or (0.0, 1.0, 0)
    position = (np.asarray(log10_angstrom, dtype=np.float64) - 1.0 - first) / step
    nearest = np.rint(position)
    # Single precision rounds log10 of a wavelength to 0.0024 steps.
    if not (len(position) and np.all(np.abs(position - nearest) < 0.01)):
        raise ValueError(
            f"{where}: its wavelengths are not on the grid of {declared.name}, log10 steps of "
            f"{step:g}. It was resampled, or comes from another survey; give the original"
        )
    start, stop = int(nearest[0]), int(nearest[-1]) + 1
    if not np.array_equal(nearest, np.arange(start, stop)):
        raise ValueError(
            f"{where}: pixels are left out or repeated; expected each of the grid once"
        )
    if start < 0 or stop > pixels:
        raise ValueError(
            f"{where}: pixels {start} to {stop - 1} of the grid of {declared.name}; it has 0 to "
            f"{pixels - 1}. The file is damaged, or of a newer instrument"
        )
    return slice(start, stop)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of at most `size` items."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
