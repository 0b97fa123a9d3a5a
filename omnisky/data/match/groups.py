"""Match stores into pairs, or into groups of more than two surveys: an index of rows, no data."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.table import Column, MaskedColumn, Table

from omnisky.data.match.kernel import Pairs
from omnisky.data.match.partitions import MatchOptions, match_stores
from omnisky.data.store import Store, open_store

if TYPE_CHECKING:
    from dask.distributed import Client

    from omnisky.data.stream import Stream

__all__ = ["Match", "match"]

_ABOUT, _INDEX, _FORMAT = "match.json", "index.parquet", 1


def match(
    left: Store | str | os.PathLike,
    right: Store | str | os.PathLike,
    *more: Store | str | os.PathLike,
    radius_arcsec: float,
    how: str = "inner",
    one_to_one: bool = True,
    n_neighbors: int = 1,
    epoch: float | None = None,
    names: Sequence[str] | None = None,
    threads: int | None = None,
    client: Client | None = None,
    scratch: str | os.PathLike | None = None,
) -> Match:
    """Match the objects of two or more stores by position; the data stay where they are.

    Nothing but coordinates is read, and these when the match is first used. More than two stores
    are matched star-shaped about the first: each other store is matched with it, and the group of a
    first object holds at most one object of each store.

    Parameters
    ----------
    left, right, *more : Store or path
        Stores written by `omnisky.data.store`.
    radius_arcsec : float
        Largest separation from the first store's object, inclusive.
    how : {"inner", "left"}
        Keep groups with a member from every store, or one group for every object of the first
        store, in which others may be missing.
    one_to_one : bool
        Take a partner only if each is the nearest of the other, so that no object is in two groups.
    n_neighbors : int
        Partners of each left object, nearest first, for two stores and ``one_to_one=False``.
    epoch : float, optional
        Julian year to which known proper motions bring the positions before they are compared.
    names : sequence of str, optional
        Names of the stores in columns and batches; their own by default.
    threads : int, optional
        Threads of the search; all cores by default.
    client : dask.distributed.Client, optional
        Dask cluster that matches partitions, for catalogues too large for one machine.
    scratch : path, optional
        Folder that all workers see, for their results; temporary by default.

    Returns
    -------
    Match
        The index of the groups.

    Raises
    ------
    ValueError
        If the options contradict each other or two stores have one name.
    """
    stores = [s if isinstance(s, Store) else open_store(s) for s in (left, right, *more)]
    options = MatchOptions(
        radius_arcsec=float(radius_arcsec),
        how=how,
        one_to_one=one_to_one,
        n_neighbors=n_neighbors,
        epoch=epoch,
    )
    if more and n_neighbors > 1:
        raise ValueError(
            f"n_neighbors={n_neighbors} is for two stores; a group of {len(stores)} stores holds "
            "at most one object of each"
        )
    named = _named(stores, names)
    scratch = None if scratch is None else Path(scratch)

    def compute() -> _Groups:
        anchor, *others = named.values()
        keywords: dict[str, Any] = {"threads": threads, "client": client, "scratch": scratch}
        found = [match_stores(anchor, other, options, **keywords) for other in others]
        return grouped(found, len(anchor), how)

    return Match(named, options, compute)


def _named(stores: Sequence[Store], names: Sequence[str] | None) -> dict[str, Store]:
    names = [s.name for s in stores] if names is None else list(names)
    wrong = [n for n in names if not n or "." in n]
    if len(names) != len(stores) or len(set(names)) != len(names) or wrong:
        raise ValueError(
            f"a match of {len(stores)} stores needs as many different names without dots; found "
            f"{names}. Give names=[...]"
        )
    return dict(zip(names, stores, strict=True))


@dataclass(frozen=True)
class _Groups:
    """Rows of each store, -1 where missing, and separations from the first, NaN where missing."""

    rows: np.ndarray
    separation_arcsec: np.ndarray

    def take(self, which: Any) -> _Groups:
        return _Groups(self.rows[:, which], self.separation_arcsec[:, which])


def grouped(found: Sequence[Pairs], anchors: int, how: str) -> _Groups:
    """Join matches with one store into groups, ordered by that store's row."""
    if len(found) == 1 and how == "inner":
        (pairs,) = found
        return _Groups(np.stack([pairs.left, pairs.right]), pairs.separation_arcsec[None])
    if len(found) == 1:
        (pairs,) = found
        alone = np.setdiff1d(np.arange(anchors), pairs.left)
        left = np.concatenate([pairs.left, alone])
        right = np.concatenate([pairs.right, np.full(len(alone), -1)])
        apart = np.concatenate([pairs.separation_arcsec, np.full(len(alone), np.nan)])
        order = np.argsort(left, kind="stable")
        return _Groups(np.stack([left, right])[:, order], apart[None, order])
    rows = np.full((1 + len(found), anchors), -1)
    rows[0] = np.arange(anchors)
    apart = np.full((len(found), anchors), np.nan)
    for number, pairs in enumerate(found):
        rows[number + 1, pairs.left] = pairs.right
        apart[number, pairs.left] = pairs.separation_arcsec
    groups = _Groups(rows, apart)
    return groups if how == "left" else groups.take((rows >= 0).all(axis=0))


class Match:
    """Know which objects of several stores are the same; made by `match` or `Match.open`.

    Indexing with a slice, integers or a boolean array gives a part of the match, for example one
    side of a split: ``pairs[split_by_cell(t["a.ra"], t["a.dec"]) == "train"]`` with
    ``t = pairs.to_table()``.

    Parameters
    ----------
    stores : mapping of str to Store
        The stores by the names that columns and batches carry; the first is the centre of groups.
    options : MatchOptions
        How they are matched.
    compute : callable
        Returns the groups when they are first needed.
    """

    def __init__(self, stores: Mapping[str, Store], options: MatchOptions, compute) -> None:
        self.stores, self.options, self._compute = dict(stores), options, compute

    @cached_property
    def _groups(self) -> _Groups:
        return self._compute()

    def __len__(self) -> int:
        return self._groups.rows.shape[1]

    def __repr__(self) -> str:
        made = f"{len(self)} groups" if "_groups" in self.__dict__ else "not computed yet"
        radius = self.options.radius_arcsec
        return f"Match({' × '.join(self.stores)} within {radius:g} arcsec; {made})"

    def __getitem__(self, index) -> Match:
        """Return some of the groups, in the order asked for."""
        part = self._groups.take(np.atleast_1d(np.arange(len(self))[index]))
        return Match(self.stores, self.options, lambda: part)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stores."""
        return tuple(self.stores)

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """Row of each group's member in each store, int64; -1 where `present` is False."""
        return dict(zip(self.stores, self._groups.rows, strict=True))

    @property
    def present(self) -> dict[str, np.ndarray]:
        """True where a group has a member of a store, by name of the store."""
        return {name: rows >= 0 for name, rows in self.rows.items()}

    @property
    def separation_arcsec(self) -> np.ndarray:
        """Separation from the first store's object, NaN where there is no partner.

        Shape (group,) for two stores, else (group, other store).
        """
        apart = self._groups.separation_arcsec
        return apart[0] if len(apart) == 1 else apart.T

    def to_table(self) -> Table:
        """Return a table of identifiers and positions, a row a group, with columns ``name.what``.

        Missing members are masked. Coordinates of all matched stores are read into memory.
        """
        table = Table(meta={"radius_arcsec": self.options.radius_arcsec})
        for name, store in self.stores.items():
            rows, found = self.rows[name], store.coordinates()
            for column, unit in (("object_id", None), ("ra", "deg"), ("dec", "deg")):
                values = found[column][np.maximum(rows, 0)]
                table[f"{name}.{column}"] = _column(values, rows < 0, unit)
        for name, apart in zip(self.names[1:], self._groups.separation_arcsec, strict=True):
            table[f"{name}.separation_arcsec"] = _column(apart, np.isnan(apart), "arcsec")
        return table

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Write the index, whole or not at all: a folder with a Parquet file and what it is of.

        Parameters
        ----------
        path : path
            Folder to make.
        overwrite : bool
            Replace an existing one.

        Raises
        ------
        FileExistsError
            If it exists and may not be replaced.
        OSError
            If it cannot be written; nothing is left behind.
        """
        path = Path(path)
        if path.exists() and not (overwrite and (path / _ABOUT).is_file()):
            reason = "is no match, and is not replaced" if overwrite else "exists"
            raise FileExistsError(f"{path} {reason}; choose another name or allow overwriting")
        columns = {f"{name}.row": rows for name, rows in self.rows.items()}
        for name, apart in zip(self.names[1:], self._groups.separation_arcsec, strict=True):
            columns[f"{name}.separation_arcsec"] = apart
        text = json.dumps(self._about(path.parent), indent=1) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
                work, old = Path(folder, "new"), Path(folder, "old")
                work.mkdir()
                options: Any = {"compression": "zstd", "write_page_checksum": True}
                pq.write_table(pa.table(columns), work / _INDEX, **options)
                (work / _ABOUT).write_text(text, encoding="utf-8")
                if path.exists():
                    os.replace(path, old)
                os.replace(work, path)
        except OSError as error:
            raise OSError(
                f"could not write {path}: {error}. Free some space or choose another folder"
            ) from error
        return path

    def _about(self, folder: Path) -> dict[str, Any]:
        stores = [
            {
                "name": name,
                "path": os.path.relpath(store.path, folder),
                "fingerprint": store.fingerprint,
            }
            for name, store in self.stores.items()
        ]
        head = {"omnisky_format": _FORMAT, "kind": "match"}
        return {**head, "options": asdict(self.options), "groups": len(self), "stores": stores}

    @classmethod
    def open(
        cls, path: str | os.PathLike, stores: Sequence[Store | str | os.PathLike] | None = None
    ) -> Match:
        """Open a match that `save` wrote, with its stores.

        Parameters
        ----------
        path : path
            The folder.
        stores : sequence of Store or path, optional
            Where the stores are now, in the order of the match; by default where they were,
            relative to the folder.

        Raises
        ------
        FileNotFoundError
            If the match or a store is not there.
        ValueError
            If the match is damaged, or a store is not the one that was matched.
        """
        path = Path(path)
        about, groups = _read(path)
        if stores is None:
            stores = [path.parent / s["path"] for s in about["stores"]]
        if len(stores) != len(about["stores"]):
            raise ValueError(f"{path} is of {len(about['stores'])} stores; found {len(stores)}")
        opened = {}
        for told, given in zip(about["stores"], stores, strict=True):
            store = given if isinstance(given, Store) else open_store(given)
            if store.fingerprint != told["fingerprint"]:
                raise ValueError(
                    f"{store.path} is not the store that {path} was made of: it was written again "
                    "or is another one, so that rows mean other objects. Match again"
                )
            opened[told["name"]] = store
        return cls(opened, MatchOptions(**about["options"]), lambda: groups)

    def stream(self, batch_size: int, **options: Any) -> Stream:
        """Return the matched data as batches of torch tensors; see `omnisky.data.stream.Stream`."""
        from omnisky.data.stream import Stream

        return Stream(self, batch_size, **options)


def _column(values: np.ndarray, missing: np.ndarray, unit: str | None) -> Column:
    if missing.any():
        return MaskedColumn(values, mask=missing, unit=unit)
    return Column(values, unit=unit)


def _read(path: Path) -> tuple[dict[str, Any], _Groups]:
    for name in (_ABOUT, _INDEX):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"{path} has no {name}; expected a folder written by Match.save or omnisky match"
            )
    try:
        about = json.loads((path / _ABOUT).read_text(encoding="utf-8"))
        if (about["kind"], about["omnisky_format"]) != ("match", _FORMAT):
            raise ValueError(f"it is a {about['kind']} of format {about['omnisky_format']}")
        table = pq.read_table(path / _INDEX, page_checksum_verification=True)
        names = [s["name"] for s in about["stores"]]
        rows = np.stack([table[f"{n}.row"].to_numpy() for n in names])
        apart = np.stack([table[f"{n}.separation_arcsec"].to_numpy() for n in names[1:]])
        if rows.shape[1] != about["groups"]:
            raise ValueError(f"{rows.shape[1]} groups instead of {about['groups']}")
    except (ValueError, KeyError, TypeError, pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is not a readable match of format {_FORMAT}: {error}. Match again"
        ) from error
    return about, _Groups(rows, apart)
