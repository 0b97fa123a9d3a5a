"""What is to be embedded: the objects of a sky store, alone or with those matched to them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisky.data.sky import open_sky
from omnisky.data.store import Store
from omnisky.modalities import Measurement, Observations, SkyObjects
from omnisky.surveys.gaia import kept_as, part_of, with_arms

if TYPE_CHECKING:
    from omnisky.data.match import Match

__all__ = ["Given", "open_given"]


class Given:
    """Read the objects of a store, with what other stores have of them where it is a match.

    An object is one of the first store, whose partitions, identifiers and positions are those of
    the whole; its measurements are those of all stores.

    Parameters
    ----------
    path : Path
        Folder of the store or of the match.
    opened : Store or Match
        What is in it.

    Raises
    ------
    ValueError
        If the match is empty, or an object of the first store is in several of its groups.
    """

    def __init__(self, path: Path, opened: Store | Match) -> None:
        self.path = path
        self._rows: np.ndarray | None = None
        self._options: dict[str, Any] = {}
        if isinstance(opened, Store):
            self.stores = [opened]
        else:
            self.stores = list(opened.stores.values())
            self._rows, self._options = _by_first(path, opened), asdict(opened.options)
        self.first = self.stores[0]

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities of all stores."""
        return tuple(dict.fromkeys(name for store in self.stores for name in store.modalities))

    @property
    def fingerprint(self) -> str:
        """The store's own, or the SHA-256 of those of all stores and of which rows are matched."""
        if self._rows is None:
            return self.first.fingerprint
        digest = hashlib.sha256("".join(store.fingerprint for store in self.stores).encode())
        digest.update(self._rows.astype(np.int64).tobytes())
        return digest.hexdigest()

    def about(self) -> dict[str, Any]:
        """Return where the objects come from, as plain values."""
        told = {
            "embedded_from": str(self.path),
            "fingerprint": self.fingerprint,
            "source": self.first.provenance,
        }
        if self._rows is not None:
            stores = [
                {"path": str(s.path), "fingerprint": s.fingerprint, "source": s.provenance}
                for s in self.stores
            ]
            told["match"] = {"options": self._options, "stores": stores}
        return told

    def choose(
        self, known: Collection[str], asked: Sequence[str] | None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the modalities to read, and those that are there but not known to the model.

        Gaia XP coefficients are read as their arms by a model that knows these alone.

        Parameters
        ----------
        known : collection of str
            What the model reads.
        asked : sequence of str, optional
            What to read; all that is known by default.

        Raises
        ------
        ValueError
            If nothing, or not all that was asked for, is there and known, or two stores have it.
        """
        as_known = {name: _as_known(name, known) for name in self.modalities}
        possible = [name for name in with_arms(self.modalities) if name in known]
        wanted: list[str] = []
        for name in self.modalities if asked is None else asked:
            wanted += as_known.get(name) or ([name] if asked is not None else [])
        strange = [name for name in wanted if name not in possible]
        if strange or not wanted:
            raise ValueError(
                f"cannot embed {', '.join(strange) or 'anything'} of {self.path}: it has "
                f"{', '.join(self.modalities)}, and the model reads {', '.join(sorted(known))}"
            )
        for name in wanted:
            if len(owners := self._owners(name)) > 1:
                paths = " and ".join(str(self.stores[number].path) for number in owners)
                raise ValueError(
                    f"{paths} both have {name}, which an object has once. Match a store without "
                    "it, or name the modalities to use without it"
                )
        unread = tuple(name for name, read in as_known.items() if not read)
        return tuple(dict.fromkeys(wanted)), unread

    def batches(
        self, partition: int, names: Sequence[str], size: int
    ) -> Iterator[tuple[SkyObjects, bool]]:
        """Yield the objects of a partition of the first store, and whether any has a measurement.

        Objects that have partners in the same stores come together, so that a batch has just the
        modalities of these.

        Parameters
        ----------
        partition : int
            Number of the partition.
        names : sequence of str
            Modalities to read, as `choose` returns them.
        size : int
            Most objects at a time.

        Raises
        ------
        ValueError
            If a file is damaged or was changed.
        """
        from omnisky.data.stream import RowReader

        rows = self._rows_of(partition)
        mine = [tuple(n for n in names if self._owners(n)[0] == i) for i in range(len(self.stores))]
        with ExitStack() as opened:
            readers = {}
            for number, own in enumerate(mine[1:], 1):
                if own:
                    # Partners are anywhere in a store that may be far larger: read row by row.
                    store = self.stores[number]
                    reader = RowReader(store, _kept(own, store), verify=True)
                    readers[number] = opened.enter_context(closing(reader))
            for together in _of_equal_members(rows):
                for start in range(0, len(together), size):
                    some = rows[:, together[start : start + size]]
                    yield self._read(some, mine, readers)

    def _read(
        self, rows: np.ndarray, mine: Sequence[tuple[str, ...]], readers: dict[int, Any]
    ) -> tuple[SkyObjects, bool]:
        """Return objects whose groups have members of the same stores."""
        first = _kept(mine[0], self.first) or (_lightest(self.first),)
        objects = self.first.read(rows[0], first)
        found = _parts(objects.observations, mine[0], self.first)
        for number, reader in readers.items():
            if rows[number, 0] >= 0:
                seen = reader.read(rows[number]).observations
                found |= _parts(seen, mine[number], self.stores[number])
        if not found:
            return objects, False
        return replace(objects, observations=Observations(found)), True

    def _owners(self, name: str) -> list[int]:
        """Return which stores have a modality, itself or as a part of another."""
        stores = enumerate(self.stores)
        return [number for number, store in stores if name in with_arms(store.modalities)]

    def _rows_of(self, partition: int) -> np.ndarray:
        """Return the rows of a partition's objects in all stores, shape (store, object)."""
        begin, end = self.first.starts[partition : partition + 2]
        if self._rows is None:
            return np.arange(begin, end)[None]
        start, stop = np.searchsorted(self._rows[0], [begin, end])
        return self._rows[:, start:stop]


def open_given(path: str | os.PathLike, fingerprint: str | None = None) -> Given:
    """Open a store or a match of stores.

    Parameters
    ----------
    path : path
        Its folder.
    fingerprint : str, optional
        What its fingerprint was. With it, a process opens it once: the index of a match may hold
        millions of rows, and is wanted for each partition.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is damaged, or another one by now.
    """
    if fingerprint is not None:
        return _opened_before(Path(path), fingerprint)
    return Given(Path(path), open_sky(path))


@lru_cache(maxsize=1)
def _opened_before(path: Path, fingerprint: str) -> Given:
    found = open_given(path)
    if found.fingerprint != fingerprint:
        raise ValueError(f"{path} changed while it was being embedded; start again")
    return found


def _by_first(path: Path, match: Match) -> np.ndarray:
    """Return the rows of groups, shape (store, group), in the order of the first store."""
    rows = np.stack(list(match.rows.values()))
    rows = rows[:, np.argsort(rows[0], kind="stable")]
    again = np.flatnonzero(rows[0, 1:] == rows[0, :-1])
    if not rows.shape[1] or len(again):
        wrong = (
            f"{len(again)} of its {rows.shape[1]} groups have an object of {match.names[0]} that "
            "another group has as well, and an object has one embedding; match with one partner at "
            "most (n_neighbors=1)"
            if len(again)
            else "it has no groups; match with a larger radius, or how='left'"
        )
        raise ValueError(f"the match {path} cannot be embedded: {wrong}")
    return rows


def _as_known(name: str, known: Collection[str]) -> list[str]:
    """Return as what a model reads a modality: itself, its arms, or not at all."""
    return [name] if name in known else [part for part in with_arms([name]) if part in known]


def _kept(names: Sequence[str], store: Store) -> tuple[str, ...]:
    """Return the modalities of a store in which those asked for are found."""
    return tuple(dict.fromkeys(kept_as(name, store.modalities) for name in names))


def _parts(seen: Observations, names: Sequence[str], store: Store) -> dict[str, Measurement]:
    kept = {name: kept_as(name, store.modalities) for name in names}
    return {name: part_of(seen[whole], name, whole) for name, whole in kept.items()}


def _lightest(store: Store) -> str:
    """Return the modality that is read fastest, where only identity and position are wanted."""
    columns = store.columns.values()
    return min(
        store.modalities, key=lambda name: sum(c.nbytes for c in columns if c.modality == name)
    )


def _of_equal_members(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the groups that have members of the same stores, as indices in their order."""
    members = (1 << np.arange(len(rows))) @ (rows >= 0)
    for which in np.unique(members):
        yield np.flatnonzero(members == which)
