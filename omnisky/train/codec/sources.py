"""Where do a codec's training objects come from? Data sets in memory, sky stores, mock universes.

Objects of a store are read when they are needed, row by row. A mock universe is drawn into a store
once, in the folder of the run, so that epochs and resumed runs see the same objects.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from omnisky.data import datasets
from omnisky.data.split import split_by_id
from omnisky.modalities import Measurement, SkyObjects, UnknownModalityError
from omnisky.surveys import modality as declaration
from omnisky.surveys.gaia import kept_as, part_of, with_arms
from omnisky.train.codec.recipe import DataRecipe, MockRecipe
from omnisky.train.parallel import in_main_process

if TYPE_CHECKING:
    from omnisky.data.store import Store
    from omnisky.mock import Universe
    from omnisky.surveys.survey import Problems

__all__ = [
    "InMemory",
    "InStore",
    "Objects",
    "Part",
    "mock_store",
    "open_parts",
    "open_source",
    "thinned",
]

# Objects of one task of drawing a mock universe, and those made at a time.
_TASK, _BATCH = 512, 64


class Objects(Protocol):
    """Objects that have one modality."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a sha256 of what `read` returns."""
        ...

    def read(self, index: np.ndarray) -> Measurement:
        """Return the measurements of some objects, in the order asked for."""
        ...

    def place(self, index: int) -> str:
        """Return in a few words where an object is found."""
        ...


class InMemory:
    """Objects held in memory; those that lack the measurement are left out.

    Parameters
    ----------
    measurement : Measurement
        The measurements.
    rows : array of int, shape (object,), optional
        Which rows of their data set these are; by default all of them.
    """

    def __init__(self, measurement: Measurement, rows: np.ndarray | None = None) -> None:
        self._measurement = measurement[measurement.present]
        rows = np.arange(len(measurement)) if rows is None else rows
        self.rows = rows[measurement.present]

    def __len__(self) -> int:
        return len(self._measurement)

    def read(self, index: np.ndarray) -> Measurement:
        """Return the measurements of some objects."""
        return self._measurement[index]

    def place(self, index: int) -> str:
        """Return an object's row in the data set."""
        return f"row {self.rows[index]}"

    def fingerprint(self) -> str:
        """Return the sha256 of all arrays."""
        digest = hashlib.sha256()
        for name in (f.name for f in fields(self._measurement)):
            value = getattr(self._measurement, name)
            is_array = isinstance(value, np.ndarray)
            digest.update(value.tobytes() if is_array else repr(value).encode())
        return digest.hexdigest()


class InStore:
    """Some rows of a sky store.

    Parameters
    ----------
    store : Store
        The store.
    modality : str
        Which of its modalities, or an arm of its Gaia XP coefficients.
    rows : array of int, shape (object,)
        Which rows.
    """

    def __init__(self, store: Store, modality: str, rows: np.ndarray) -> None:
        from omnisky.data.stream import RowReader

        self.store, self.modality, self.rows = store, modality, rows
        self._kept = kept_as(modality, store.modalities)
        self._reader = RowReader(store, [self._kept])

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: np.ndarray) -> Measurement:
        """Read the measurements of some objects."""
        found = self._reader.read(self.rows[index]).observations[self._kept]
        return part_of(found, self.modality, self._kept)

    def place(self, index: int) -> str:
        """Return an object's row in the store."""
        return f"row {self.rows[index]}"

    def fingerprint(self) -> str:
        """Return the sha256 of the store's own fingerprint and of the rows."""
        digest = hashlib.sha256(self.store.fingerprint.encode())
        digest.update(self.rows.astype(np.int64).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Part:
    """Hold the objects of one source.

    Parameters
    ----------
    name : str
        Name in reports: the modality, with a number where sources share it.
    modality : str
        What is measured of them.
    source : DataRecipe
        Where they come from.
    training, held_out : Objects
        Those of the train split, and those of the calibration split.
    """

    name: str
    modality: str
    source: DataRecipe
    training: Objects
    held_out: Objects


def open_parts(
    sources: tuple[DataRecipe, ...], modalities: tuple[str, ...], run: Path, held_out: int
) -> list[Part]:
    """Open all sources of a learned codec.

    Parameters
    ----------
    sources : tuple of DataRecipe
        The sources.
    modalities : tuple of str
        What the codec encodes.
    run : Path
        Folder of the run, for mock universes.
    held_out : int
        Most held-out objects of a source.

    Raises
    ------
    ValueError
        If a source does not say which of several modalities it is for, or has no training objects,
        or a modality of the codec has no source.
    UnknownModalityError
        If a source does not have the modality, or the codec does not encode it.
    """
    parts = []
    for number, source in enumerate(sources):
        name = _modality_of(source, modalities)
        training, held = open_source(source, name, run)
        if not len(training):
            raise ValueError(f"{source} has no {name} to train on in its train split")
        shared = sum(_modality_of(other, modalities) == name for other in sources) > 1
        part = Part(
            name=f"{name} {number}" if shared else name,
            modality=name,
            source=source,
            training=thinned(training, source.objects),
            held_out=thinned(held, held_out),
        )
        parts.append(part)
    if missing := [m for m in modalities if m not in {part.modality for part in parts}]:
        raise ValueError(
            f"no source of {', '.join(missing)}, which the codec shall encode; add a section "
            f'[[data]] with modality = "{missing[0]}"'
        )
    return parts


def _modality_of(source: DataRecipe, modalities: tuple[str, ...]) -> str:
    if not source.modality and len(modalities) == 1:
        return modalities[0]
    if not source.modality:
        raise ValueError(
            f"the {source} does not say which of the codec's modalities it is for; give modality, "
            f"one of {', '.join(modalities)}"
        )
    if source.modality not in modalities:
        raise UnknownModalityError(
            f"the {source} is for {source.modality!r}, but the codec encodes "
            f"{', '.join(modalities)}"
        )
    return source.modality


def open_source(
    source: DataRecipe, modality: str, run: Path
) -> tuple[InMemory | InStore, InMemory | InStore]:
    """Return the training and the held-out objects of a source.

    Raises
    ------
    UnknownModalityError
        If the source does not have the modality.
    """
    if source.dataset:
        data = datasets.load(source.dataset)
        measured = data.labels if modality in data.labels else data.observations
        if modality not in measured:
            known = ", ".join([*data.observations, *data.labels])
            raise UnknownModalityError(f"the {source} has no {modality!r}; it has {known}")
        whole = measured[modality]
        rows = [np.flatnonzero(data.split == split) for split in ("train", "calibration")]
        training, held_out = (InMemory(whole[mine], mine) for mine in rows)
        return training, held_out
    from omnisky.data.store import open_store

    path = mock_store(source.mock, modality, run) if source.mock is not None else source.store
    store = open_store(path)
    if modality not in (there := with_arms(store.modalities)):
        raise UnknownModalityError(f"the {source} has no {modality!r}; it has {', '.join(there)}")
    split = split_by_id(store.coordinates()["object_id"])
    training, held_out = (
        InStore(store, modality, np.flatnonzero(split == s)) for s in ("train", "calibration")
    )
    return training, held_out


def thinned(objects: InMemory | InStore, count: int) -> InMemory | InStore:
    """Return so many objects at most, evenly spaced; 0 for all."""
    if not count or len(objects) <= count:
        return objects
    index = np.linspace(0, len(objects) - 1, count).astype(np.int64)
    if isinstance(objects, InStore):
        return InStore(objects.store, objects.modality, objects.rows[index])
    return InMemory(objects.read(index), objects.rows[index])


def mock_store(mock: MockRecipe, modality: str, run: Path) -> Path:
    """Return the store of a mock universe, drawn by the main process if it is not there yet.

    It holds the modality, or all scalars of its survey. Killed while it draws, it goes on where it
    was.

    Raises
    ------
    UnknownModalityError
        If no mock survey has the modality.
    """
    from omnisky.mock import SURVEYS
    from omnisky.mock.universe import modalities_of

    survey = declaration(modality).survey
    # Surveys have more on request, which the universe itself knows.
    if survey not in SURVEYS:
        known = [name for s in SURVEYS for name in modalities_of(s)]
        raise UnknownModalityError(f"no mock survey has {modality!r}; there are {', '.join(known)}")
    what = kept_as(modality, modalities_of(survey))
    names = [what]
    if declaration(modality).kind == "scalar":
        names = [n for n in modalities_of(survey) if declaration(n).kind == "scalar"]
        what = f"{survey}-scalars"
    path = run / "data" / f"mock-{what}-{mock.objects}-{mock.seed}-{mock.size}"
    if in_main_process() and not path.exists():
        _draw(mock, survey, names, path)
    while not path.exists():  # being drawn by the main process
        time.sleep(1.0)
    return path


def _draw(mock: MockRecipe, survey: str, modalities: Sequence[str], path: Path) -> None:
    from omnisky.data.store import Source, ingest
    from omnisky.mock import Universe
    from omnisky.mock.native.writing import about

    universe = Universe(mock.seed, mock.objects, size=mock.size)
    # Its models take long to make; parts of it, which tasks take, share those that there are.
    universe.native(survey, slice(0, 1), heavy=False)
    sources = [
        Source(
            name=f"mock {survey}, objects {first} to {first + _TASK - 1}",
            read=partial(_read, universe, first, survey, modalities),
        )
        for first in range(0, len(universe), _TASK)
    ]
    ingest(sources, path, provenance=about(universe, [survey]), margin_arcsec=0)


def _read(
    universe: Universe, first: int, survey: str, modalities: Sequence[str], *, problems: Problems
) -> Iterator[SkyObjects]:
    """Yield what a survey has of the mock objects of one task."""
    drawn = universe[first : first + _TASK].hold()
    for start in range(0, len(drawn), _BATCH):
        part = drawn[start : start + _BATCH]
        if len(part.native(survey, heavy=False)):
            yield part.observe(survey, modalities=modalities)
