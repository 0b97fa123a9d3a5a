"""What is a benchmark task? A frozen object: same name and version, same numbers for ever."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from omnisky.data.datasets import Dataset

__all__ = ["Task"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """State a benchmark so that two people get comparable numbers.

    Any change that moves a number needs a new version; result cards of another version are not
    read.

    Parameters
    ----------
    name, version : str, int
        Identity.
    dataset : str
        Name for `omnisky.data.datasets.load`, with its fixed split.
    inputs : dict of str to tuple of str
        Input sets: their modalities by name, the one with everything last.
    targets : tuple of str
        Label modalities.
    units : tuple of str
        Unit of each target, for tables.
    label_counts : tuple of int
        Sizes of the nested labelled subsets of the train split.
    seeds : tuple of int
        Each seed draws its own subsets.
    goals : dict of int to tuple of float
        Robust scatter wanted of the best method with all inputs, a target, by label count.
    metric : str
        What the goals are about.
    caveat : str
        What a reader of the table must know beside the numbers.
    """

    name: str
    version: int
    dataset: str
    inputs: dict[str, tuple[str, ...]]
    targets: tuple[str, ...]
    units: tuple[str, ...]
    label_counts: tuple[int, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    goals: dict[int, tuple[float, ...]]
    metric: str = "robust_scatter"
    caveat: str = ""

    def __post_init__(self) -> None:
        if len(self.units) != len(self.targets) or any(
            len(goal) != len(self.targets) for goal in self.goals.values()
        ):
            raise ValueError(f"task {self.name!r}: units and goals need one entry a target")
        if list(self.label_counts) != sorted(set(self.label_counts)):
            raise ValueError(f"task {self.name!r}: label_counts must increase")

    @property
    def all_inputs(self) -> str:
        """Name of the input set with everything."""
        return list(self.inputs)[-1]

    def labelled(self, data: Dataset, n_labels: int, seed: int) -> np.ndarray:
        """Return rows of the train split that keep their labels, nested within a seed.

        The order is a hash of seed and object id: the subset of 100 is part of the one of 300, and
        row order or other objects do not matter. Stars without any target are skipped.

        Raises
        ------
        ValueError
            If there are fewer labelled objects than asked.
        """
        usable = (data.split == "train") & np.isfinite(data.targets(*self.targets)).any(axis=1)
        rows = np.flatnonzero(usable)
        if n_labels > len(rows) or n_labels < 1:
            raise ValueError(
                f"{data.name!r} has {len(rows)} labelled train objects; n_labels={n_labels} must "
                "be between 1 and that"
            )
        digests = [
            hashlib.sha256(f"{self.name}/{self.version}/{seed}/{i}".encode()).digest()
            for i in data.object_id[rows].tolist()
        ]
        return rows[np.argsort(np.array(digests, dtype="S32"), kind="stable")][:n_labels]

    @property
    def key(self) -> str:
        """Name and version, as result cards carry them."""
        return f"{self.name}@{self.version}"
