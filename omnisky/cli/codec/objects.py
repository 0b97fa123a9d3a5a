"""Which objects is a codec shown? Those of a store, a data set, a table or a mock universe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.cli.tables import Reading
from omnisky.modalities import Measurement, UnknownModalityError

__all__ = ["Looked", "Wanted", "look"]

_STARS = "gaia-apogee-mini"
_MOCK_OBJECTS = 200


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Say what to look at; see `omnisky.cli.codec.command.codec`."""

    data: str | None
    mock: int | None
    split: str
    objects: int
    seed: int
    reading: Reading


@dataclass(frozen=True, kw_only=True)
class Looked:
    """Hold measured objects, what they are called, and whether they are mock."""

    name: str
    mock: bool
    measurement: Measurement


def look(modality: str, wanted: Wanted) -> Looked:
    """Return objects that have a modality.

    Raises
    ------
    UnknownModalityError
        If there is none in the data.
    ValueError
        If there are no such objects.
    FileNotFoundError
        If there are no such data.
    """
    from omnisky.data.sky import is_store

    if wanted.data is None and wanted.mock is None:
        name, mock, measurement = _by_default(modality, wanted)
    elif wanted.data is None:
        name, mock, measurement = _universe(modality, wanted.mock or _MOCK_OBJECTS, wanted.seed)
    elif is_store(wanted.data):
        name, mock, measurement = _store(modality, wanted.data, wanted)
    else:
        name, mock, measurement = _table(modality, wanted.data, wanted)
    there = np.flatnonzero(measurement.present)
    if not len(there):
        raise ValueError(f"{name} has no object with {modality}; try --split all or other data")
    return Looked(name=name, mock=mock, measurement=measurement[_spread(there, wanted.objects)])


def _spread(index: np.ndarray, count: int) -> np.ndarray:
    """Return so many at most, evenly spaced."""
    if len(index) <= count:
        return index
    return index[np.linspace(0, len(index) - 1, count).astype(np.int64)]


def _by_default(modality: str, wanted: Wanted) -> tuple[str, bool, Measurement]:
    from omnisky.data import datasets

    stars = datasets.load(_STARS)
    if modality in {**stars.observations, **stars.labels}:
        return _table(modality, _STARS, wanted)
    try:
        return _universe(modality, _MOCK_OBJECTS, wanted.seed)
    except (ValueError, UnknownModalityError) as error:
        raise ValueError(f"{error}. Give --data with objects that have {modality}") from error


def _universe(modality: str, count: int, seed: int) -> tuple[str, bool, Measurement]:
    from omnisky.mock import SURVEYS, Universe
    from omnisky.surveys import modality as declaration

    survey = declaration(modality).survey
    if survey not in SURVEYS:
        raise UnknownModalityError(
            f"the mock universe has no {modality!r}, as it has no survey {survey!r} "
            f"({', '.join(SURVEYS)})"
        )
    found = Universe(seed, count).observe(survey, modalities=[modality])
    return f"mock universe of {count} objects, seed {seed}", True, found.observations[modality]


def _store(modality: str, path: str, wanted: Wanted) -> tuple[str, bool, Measurement]:
    from omnisky.data.split import split_by_id
    from omnisky.data.store import open_store

    store = open_store(path)
    if modality not in store.modalities:
        raise UnknownModalityError(
            f"{path} has no {modality!r}; it has {', '.join(store.modalities)}"
        )
    rows, name = np.arange(len(store)), Path(path).name
    if wanted.split != "all":
        ids = store.coordinates()["object_id"]
        rows = rows[split_by_id(ids) == wanted.split]
        name = f"{name}, split {wanted.split}"
    # Twice as many as wanted, as some may lack the measurement.
    rows = _spread(rows, 2 * wanted.objects)
    return name, _is_mock(store.provenance), store.read(rows, [modality]).observations[modality]


def _is_mock(provenance: Any) -> bool:
    """Tell whether what a store is made of says anywhere that it is mock."""
    if isinstance(provenance, dict):
        return any(k == "mock" or _is_mock(v) for k, v in provenance.items())
    if isinstance(provenance, list):
        return any(map(_is_mock, provenance))
    return isinstance(provenance, str) and provenance.lower().startswith("mock")


def _table(modality: str, name: str, wanted: Wanted) -> tuple[str, bool, Measurement]:
    from omnisky.cli.tables import Input

    source = Input.read(name, wanted.reading, [modality])
    if source.dataset is None or ":" in name or wanted.split == "all":
        return name, False, source.observations[modality]
    part = source.observations[source.dataset.split == wanted.split]
    return f"{name}, split {wanted.split}", False, part[modality]
