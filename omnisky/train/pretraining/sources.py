"""Where do the objects come from? Data sets in memory, sky stores, mock universes, as measured.

Mock universes are drawn chunk by chunk, and what is drawn is forgotten once it is tokenised: an
object is a function of seed and number, and its images would take a hundred times the room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from omnisky.data import datasets
from omnisky.data.split import split_by_id
from omnisky.modalities import Measurement, Observations
from omnisky.surveys import modality as declaration
from omnisky.surveys.gaia import kept_as, part_of, with_arms
from omnisky.train.codec.recipe import MockRecipe
from omnisky.train.pretraining.recipe import PretrainingSource

__all__ = ["Measured", "SkySource", "open_sky_source"]

# The codec of spectra works on so many at a time; chunks of other sizes could round otherwise.
_IN_MEMORY_CHUNK = 2048

# Objects among those asked for that have a modality, and their measurements.
Measured = tuple[np.ndarray, Measurement]


class SkySource(Protocol):
    """Objects of which a part is read at a time."""

    mock: bool

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it has."""
        ...

    def rows(self, split: str) -> np.ndarray:
        """Return which objects are in a split, array of int, sorted."""
        ...

    def objects(self, rows: np.ndarray) -> np.ndarray:
        """Return what some objects are called, integers or text."""
        ...

    def chunk(self, wanted: int) -> int:
        """Return how many objects to read at a time, where so many are wanted."""
        ...

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, Measured]:
        """Return what some objects have of some modalities."""
        ...

    def identity(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what `read` depends on, for JSON."""
        ...


class InMemory:
    """A data set, observations and labels."""

    mock = False

    def __init__(self, name: str) -> None:
        self._data = datasets.load(name)
        self._measured = Observations({**self._data.observations, **self._data.labels})

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of observations and labels."""
        return tuple(self._measured)

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of a split."""
        return np.flatnonzero(self._data.split == split)

    def objects(self, rows: np.ndarray) -> np.ndarray:
        """Return the identifiers of the data set."""
        return self._data.object_id[rows]

    def chunk(self, wanted: int) -> int:
        """Return a number of objects that lie in memory anyway."""
        return _IN_MEMORY_CHUNK

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, Measured]:
        """Return what some objects have of some modalities."""
        return {name: _present(self._measured[name][rows]) for name in names}

    def identity(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the sha256 of all arrays."""
        digest = hashlib.sha256()
        for name in names:
            measurement = self._measured[name]
            for field in fields(measurement):
                value = getattr(measurement, field.name)
                digest.update(value.tobytes() if isinstance(value, np.ndarray) else b"")
        return {"dataset": self._data.name, "sha256": digest.hexdigest()}


class InStores:
    """One sky store, or several matched with the first of them."""

    mock = False

    def __init__(self, paths: Sequence[Path], radius_arcsec: float, how: str) -> None:
        from omnisky.data.match import match
        from omnisky.data.store import open_store

        self._stores = [open_store(path) for path in paths]
        self._matched: dict[str, Any] = {}
        self._rows_of = [np.arange(len(self._stores[0]))]
        if len(paths) > 1:
            named = [str(number) for number in range(len(paths))]
            self._matched = {"radius_arcsec": radius_arcsec, "how": how}
            found = match(*self._stores, **self._matched, names=named)
            self._rows_of = list(found.rows.values())
        self._owner: dict[str, int] = {}
        for number, store in enumerate(self._stores):
            for name in with_arms(store.modalities):
                if self._owner.setdefault(name, number) != number:
                    raise ValueError(
                        f"{paths[self._owner[name]]} and {paths[number]} both have {name!r}; use "
                        "two sources"
                    )
        self._readers: dict[tuple[str, ...], Any] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities of all stores."""
        return tuple(self._owner)

    @cached_property
    def _objects(self) -> np.ndarray:
        return self._stores[0].coordinates()["object_id"]

    @cached_property
    def _split(self) -> np.ndarray:
        return split_by_id(self._objects)[self._rows_of[0]]

    def rows(self, split: str) -> np.ndarray:
        """Return the groups of a split."""
        return np.flatnonzero(self._split == split)

    def objects(self, rows: np.ndarray) -> np.ndarray:
        """Return the identifiers of the first store."""
        return self._objects[self._rows_of[0][rows]]

    def chunk(self, wanted: int) -> int:
        """Return the number that is wanted."""
        return wanted

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, Measured]:
        """Read what some objects have of some modalities."""
        found: dict[str, Measured] = {}
        for number, store in enumerate(self._stores):
            mine = tuple(n for n in names if self._owner[n] == number)
            places = np.flatnonzero(self._rows_of[number][rows] >= 0)
            if not mine or not len(places):
                continue
            kept = {name: kept_as(name, store.modalities) for name in mine}
            reader = self._reader(store, tuple(dict.fromkeys(kept.values())))
            read = reader.read(self._rows_of[number][rows][places]).observations
            for name, whole in kept.items():
                there, measurement = _present(part_of(read[whole], name, whole))
                found[name] = places[there], measurement
        return found

    def _reader(self, store: Any, names: tuple[str, ...]) -> Any:
        from omnisky.data.stream import RowReader

        if names not in self._readers:
            self._readers[names] = RowReader(store, names)
        return self._readers[names]

    def identity(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the stores' own fingerprints."""
        return {"stores": [store.fingerprint for store in self._stores], **self._matched}


class Drawn:
    """Objects of a mock universe; those that surveys share are one."""

    mock = True

    def __init__(self, recipe: MockRecipe, needs: Sequence[str]) -> None:
        from omnisky.mock import Universe

        self._universe = Universe(recipe.seed, recipe.objects, size=recipe.size)
        self._recipe = recipe
        # Nothing is drawn of objects that lack a survey they need.
        self._needed = tuple(dict.fromkeys(declaration(name).survey for name in needs))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities of all surveys, those on request included."""
        from omnisky.mock import SURVEYS
        from omnisky.mock.surroundings import ON_REQUEST
        from omnisky.mock.universe import modalities_of

        listed = [name for survey in SURVEYS for name in modalities_of(survey)]
        return (*with_arms(listed), *ON_REQUEST)

    @cached_property
    def _split(self) -> np.ndarray:
        return split_by_id(np.arange(len(self._universe)))

    def rows(self, split: str) -> np.ndarray:
        """Return the numbers of the objects in a split."""
        return np.flatnonzero(self._split == split)

    def objects(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers themselves."""
        return rows

    def chunk(self, wanted: int) -> int:
        """Return the number that is wanted."""
        return wanted

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, Measured]:
        """Draw what some objects have of some modalities."""
        from omnisky.mock.universe import modalities_of

        drawn = rows
        for survey in self._needed:
            if len(drawn):
                drawn = self._universe.native(survey, drawn, heavy=False).number
        found: dict[str, Measured] = {}
        for survey in dict.fromkeys(declaration(name).survey for name in names):
            own = modalities_of(survey)
            mine = {n: kept_as(n, own) for n in names if declaration(n).survey == survey}
            here = self._universe.native(survey, drawn, heavy=False).number if len(drawn) else []
            if not len(here):
                continue
            wanted = tuple(dict.fromkeys(mine.values()))
            seen = self._universe.observe(survey, here, modalities=wanted)
            for name, whole in mine.items():
                there, measurement = _present(part_of(seen.observations[whole], name, whole))
                found[name] = np.searchsorted(rows, np.asarray(here)[there]), measurement
        return found

    def identity(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what the universe is a function of."""
        recipe = self._recipe
        about = {"objects": recipe.objects, "seed": recipe.seed, "size": recipe.size}
        return {"mock": about, "needed": list(self._needed)}


def open_sky_source(source: PretrainingSource, path: Path) -> SkySource:
    """Open a source that is not tokenised yet.

    Parameters
    ----------
    source : PretrainingSource
        The source.
    path : Path
        Folder below which stores lie.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such data set or store.
    """
    if source.dataset:
        return InMemory(source.dataset)
    if source.mock is not None:
        return Drawn(source.mock, source.needs)
    return InStores([path / s for s in source.stores], source.radius_arcsec, source.how)


def _present(measurement: Measurement) -> Measured:
    """Return which objects have a measurement, and the measurements of these alone."""
    there = np.flatnonzero(measurement.present)
    whole = len(there) == len(measurement)
    return there, measurement if whole else measurement[there]
