"""What is read of one store: which columns, where their rows lie, what their batches are."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from omnisky.data.store import Column, HeavyColumn, Store

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["HeavyPart", "Source", "choose"]

# Names of parts in a store's columns, where they differ from those of the measurements.
_PARTS = {"lsf": "lsf_sigma", "psf_fwhm": "psf_fwhm_arcsec", "offset": "offset_pixels"}
_SCALAR_PARTS = ("value", "ivar", "mask")
# Tables of a value a row above this are files that the system may take out of memory.
_SPILLED_BYTES = 128 * 2**20

Chosen = dict[str, dict[str, list[str]]]


def _parts_of(store: Store) -> dict[str, list[str]]:
    """Return the parts of each modality of a store, as batches name them."""
    parts: dict[str, list[str]] = {name: [] for name in store.modalities}
    for layout in store.layout.modalities:
        if layout.kind == "scalar":
            parts[layout.name] = [p for p in _SCALAR_PARTS if p != "ivar" or layout.ivar]
    for column in store.columns.values():
        parts[column.modality].append(_PARTS.get(column.part, column.part))
    return parts


def choose(stores: Mapping[str, Store], columns: Sequence[str] | None) -> Chosen:
    """Return the parts to read of each modality of each store.

    Parameters
    ----------
    stores : mapping of str to Store
        Stores by name.
    columns : sequence of str, optional
        ``"store.modality"`` for all parts of a modality, ``"store.modality.part"`` for one; all
        parts of all modalities without it.

    Raises
    ------
    ValueError
        If there is no such store, modality or part; the message lists those that are.
    """
    there = {name: _parts_of(store) for name, store in stores.items()}
    if columns is None:
        return there
    chosen: Chosen = {name: {} for name in stores}
    for column in columns:
        name, modality, part = (*column.split("."), "", "")[:3]
        parts = there.get(name, {}).get(modality)
        if parts is None or column.count(".") > 2 or (part and part not in parts):
            known = [f"{n}.{m}" for n, held in there.items() for m in held]
            known = known if parts is None else [f"{name}.{modality}.{p}" for p in parts]
            raise ValueError(f"no column {column!r} to stream; there are {', '.join(known)}")
        mine = chosen[name].setdefault(modality, [])
        mine += [p for p in ([part] if part else parts) if p not in mine]
    return chosen


def _table(dtype: Any, rows: int) -> np.ndarray:
    """Return room for a value a row; nothing is in memory before it is filled."""
    if np.dtype(dtype).itemsize * rows <= _SPILLED_BYTES:
        return np.empty(rows, dtype)
    with tempfile.TemporaryFile(prefix="omnisky-") as file:
        return np.memmap(file, dtype, "w+", shape=(rows,))


@dataclass(frozen=True, eq=False)
class HeavyPart:
    """One heavy column that is read, and where its rows lie in the partitions' files.

    Parameters
    ----------
    key, part : str
        ``"store.modality"`` and the part of it.
    column : Column
        What the column holds.
    heavy : HeavyColumn
        Access to its bytes.
    offset, length : array of int64 and uint32, shape (row of the store,)
        Place of each row in its file; filled partition by partition. Lengths for coded columns.
    """

    key: str
    part: str
    column: Column
    heavy: HeavyColumn
    offset: np.ndarray
    length: np.ndarray

    @property
    def coded(self) -> bool:
        """Whether the rows have to be decoded."""
        return self.heavy.row_nbytes is None


class Source:
    """Read one store of a match: its identifiers, positions, scalars and heavy columns.

    Parameters
    ----------
    name : str
        Name of the store in the match.
    store : Store
        The store.
    chosen : mapping of str to list of str
        Parts to read of each modality.
    """

    def __init__(self, name: str, store: Store, chosen: Mapping[str, list[str]]) -> None:
        self.name, self.store, self.chosen = name, store, dict(chosen)
        self.direct = store.profile == "packed"
        self.layouts = {m.name: m for m in store.layout.modalities if m.name in chosen}
        self.scalars = [m for m in self.layouts.values() if m.kind == "scalar"]
        self.heavy = [self._heavy(c) for c in store.columns.values() if self._is_chosen(c)]
        self._ready = np.zeros(len(store.partitions), dtype=bool)
        self._light = {name: _table(np.float64, len(store)) for name in self._light_columns()}
        self._text: dict[int, np.ndarray] = {}
        if not store.layout.text_ids:
            self._light["object_id"] = _table(np.int64, len(store))

    def _is_chosen(self, column: Column) -> bool:
        return _PARTS.get(column.part, column.part) in self.chosen.get(column.modality, [])

    def _heavy(self, column: Column) -> HeavyPart:
        rows = len(self.store) if self.direct else 0
        heavy = self.store.heavy(column.name)
        return HeavyPart(
            f"{self.name}.{column.modality}",
            _PARTS.get(column.part, column.part),
            column,
            heavy,
            _table(np.int64, rows),
            _table(np.uint32, 0 if heavy.row_nbytes is not None else rows),
        )

    def _light_columns(self) -> list[str]:
        errors = [f"{m.name}_ivar" for m in self.scalars if "ivar" in self.chosen[m.name]]
        return ["ra", "dec", *(m.name for m in self.scalars), *errors]

    def partition_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the partition of each row of the store."""
        return np.searchsorted(self.store.starts, rows, side="right") - 1

    def missing(self, partitions: np.ndarray) -> list[int]:
        """Return those of the partitions whose tables are not filled yet."""
        wanted = np.unique(partitions)
        return wanted[~self._ready[wanted]].tolist()

    def load(self, number: int) -> None:
        """Fill the tables of one partition: light columns, and where heavy rows lie."""
        partition = self.store.partitions[number]
        first, end = self.store.starts[number : number + 2]
        table = self.store.table(partition, ["object_id", *self._light_columns()])
        for name, column in self._light.items():
            column[first:end] = table[name].to_numpy()
        if self.store.layout.text_ids:
            self._text[number] = _as_bytes(table["object_id"])
        rows = np.arange(end - first)
        for part in self.heavy if self.direct else ():
            _, offset, length = part.heavy.locate(partition, rows)
            part.offset[first:end] = offset
            if part.coded:
                part.length[first:end] = length
        self._ready[number] = True

    def identifiers(self, rows: np.ndarray) -> np.ndarray:
        """Return the identifiers of some rows, 0 or empty where a row is -1."""
        present = rows >= 0
        if not self.store.layout.text_ids:
            return np.where(present, self._light["object_id"][rows], 0)
        partitions = self.partition_of(rows)
        local = rows - self.store.starts[partitions]
        places = zip(partitions.tolist(), local.tolist(), strict=True)
        found = [self._text[p][r] if p >= 0 else b"" for p, r in places]
        return np.char.decode(np.array(found, dtype=bytes), "utf-8")

    def light(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return a light column of some rows, NaN where missing or where a row is -1."""
        return np.where(rows >= 0, self._light[name][rows], np.nan)

    @cached_property
    def _units(self) -> dict[str, str]:
        declared = {name: self.store.declaration(name) for name in self.layouts}
        return {name: d.unit if d else "" for name, d in declared.items()}

    def unit(self, modality: str) -> str:
        """Return the unit of a modality, as its declaration says; empty without one."""
        return self._units[modality]

    @cached_property
    def _wavelengths(self) -> dict[str, Tensor]:
        import torch

        spectra = {n: m.wavelength for n, m in self.layouts.items() if m.kind == "spectrum"}
        return {name: torch.tensor(grid, dtype=torch.float64) for name, grid in spectra.items()}

    def wavelength(self, modality: str) -> Tensor:
        """Return the pixel centres of a spectrum in nm, the same tensor each time."""
        return self._wavelengths[modality]


def _as_bytes(ids: pa.ChunkedArray) -> np.ndarray:
    values = ids.to_pylist()
    return np.array([v.encode() for v in values], dtype=bytes)
