"""Read rows of one store in any order, by the threads of a stream."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from omnisky.data.store import Store
from omnisky.data.store.schema import objects_of
from omnisky.data.stream.checking import ChunkChecks
from omnisky.data.stream.reader import Reader, Slot
from omnisky.data.stream.source import Source, choose
from omnisky.modalities import SkyObjects

__all__ = ["RowReader"]


class RowReader:
    """Read some modalities of a store by row: any rows in any order, past Parquet where packed.

    Parameters
    ----------
    store : Store
        The store.
    modalities : sequence of str
        Which of its modalities.
    threads : int, optional
        Threads that read and decode; one a core by default.
    verify : bool
        Hold what is read past Parquet against its checksums.

    Raises
    ------
    ValueError
        If the store has no such modality.
    """

    def __init__(
        self,
        store: Store,
        modalities: Sequence[str],
        *,
        threads: int | None = None,
        verify: bool = False,
    ) -> None:
        columns = [f"store.{name}" for name in modalities]
        chosen = choose({"store": store}, columns)["store"]
        self.store, self.modalities = store, tuple(modalities)
        self._source = Source("store", store, chosen)
        checks = ChunkChecks([self._source]) if verify and self._source.direct else None
        threads = threads or min(16, max(2, os.cpu_count() or 1))
        self._reader = Reader([self._source], threads, checks)
        self._layout = replace(store.layout, moving=())

    def __len__(self) -> int:
        return len(self.store)

    def read(self, rows: np.ndarray) -> SkyObjects:
        """Return objects, in the order asked for.

        Parameters
        ----------
        rows : array of int, shape (object,)
            Rows of the store.

        Raises
        ------
        ValueError
            If a file is damaged or was changed since the store was opened.
        """
        rows = np.asarray(rows, dtype=np.int64)
        source, slot = self._source, Slot([self._source], len(rows))
        for future in self._reader.start(slot, [rows]):
            future.result()
        columns = {part.column.name: slot.arrays[part] for part in source.heavy}
        for scalar in source.scalars:
            names = [scalar.name] + ([f"{scalar.name}_ivar"] if scalar.ivar else [])
            columns |= {name: source.light(name, rows) for name in names}
        columns |= {name: source.light(name, rows) for name in ("ra", "dec")}
        columns["object_id"] = source.identifiers(rows)
        return objects_of(self._layout, columns, self.modalities)

    def close(self) -> None:
        """Stop the threads and close the files."""
        self._reader.close()
