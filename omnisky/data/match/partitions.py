"""Match two stores a block of partitions at a time, with margins on both sides.

A block of left partitions is matched on its own: with all right objects within the radius of its
objects and all other left objects within twice the radius, which may take a right object away from
them. So the result is that of the whole sky at once, wherever partitions end; it is the same on one
machine and on many.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from omnisky.data.match.kernel import Pairs, check_options, match_coordinates, propagate
from omnisky.data.store import Store, open_store

if TYPE_CHECKING:
    from dask.distributed import Client

__all__ = ["MatchOptions", "match_stores"]

_HEALPIX = "_healpix_29"
# Left rows that are matched at a time, unless a single partition has more.
_BLOCK_ROWS = 1_000_000
_HELD_ROWS = 8_000_000
# Added to angles between bounding cones; a chord is right to 1e-15.
_SLACK = 1e-9
_ARCSEC = np.pi / 648_000


@dataclass(frozen=True, kw_only=True)
class MatchOptions:
    """Say what matches what.

    Parameters
    ----------
    radius_arcsec : float
        Largest separation of a pair, inclusive.
    how : {"inner", "left"}
        Keep what has a partner, or every left object.
    one_to_one : bool
        Keep a pair only if each is the nearest of the other.
    n_neighbors : int
        Nearest right objects of each left one; more than one needs ``one_to_one=False``.
    epoch : float, optional
        Julian year to which proper motions bring the positions before they are compared. Objects
        without proper motion stay where they are. Without it, positions are compared as they are.

    Raises
    ------
    ValueError
        If an option is out of range or contradicts another.
    """

    radius_arcsec: float
    how: str = "inner"
    one_to_one: bool = True
    n_neighbors: int = 1
    epoch: float | None = None

    def __post_init__(self) -> None:
        check_options(self.radius_arcsec, self.how, self.one_to_one, self.n_neighbors)
        if self.epoch is not None and not 1800 < self.epoch < 2300:
            raise ValueError(f"epoch must be a Julian year such as 2016.0; found {self.epoch!r}")


@dataclass(frozen=True)
class _Some:
    """Some objects of a store: positions in degrees, rows of the store, places in the tie order."""

    ra: np.ndarray
    dec: np.ndarray
    row: np.ndarray
    place: np.ndarray

    def take(self, which: np.ndarray) -> _Some:
        return _Some(self.ra[which], self.dec[which], self.row[which], self.place[which])

    @classmethod
    def joined(cls, parts: Sequence[_Some]) -> _Some:
        """Join in the order of ties: of equally near objects the earlier one is taken."""
        if not parts:
            return cls(np.empty(0), np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))
        columns = zip(*((p.ra, p.dec, p.row, p.place) for p in parts), strict=True)
        some = cls(*(np.concatenate(c) for c in columns))
        return some.take(np.argsort(some.place, kind="stable"))


class _Positions:
    """Positions of a store, a partition at a time, at the epoch of the match."""

    def __init__(self, store: Store, epoch: float | None) -> None:
        self.store, self.epoch = store, epoch
        moving = {m.name for m in store.layout.moving}
        self.moves = epoch is not None and {"pm_ra", "pm_dec"} <= moving
        self.columns = [_HEALPIX, "ra", "dec"]
        self.columns += ["epoch", "pm_ra", "pm_dec"] if self.moves else []
        if self.moves and "epoch" not in moving:
            raise ValueError(
                f"{store.path} has proper motions but no epoch of its positions, so they cannot be "
                f"brought to {epoch}; ingest it with an epoch, or match without one"
            )
        self._held: dict[int, _Some] = {}

    def of(self, number: int) -> _Some:
        """Return the objects of a partition, those first that win ties."""
        if number not in self._held:
            if sum(len(some.row) for some in self._held.values()) > _HELD_ROWS:
                self._held.clear()
            self._held[number] = self._read(number)
        return self._held[number]

    def _read(self, number: int) -> _Some:
        partition = self.store.partitions[number]
        table = self.store.table(partition, self.columns)
        ra, dec = table["ra"].to_numpy(), table["dec"].to_numpy()
        if self.moves:
            ra, dec = self._moved(table, ra, dec, partition.path)
        order = self._tie_order(number, table[_HEALPIX].to_numpy())
        first = self.store.starts[number]
        return _Some(ra[order], dec[order], first + order, first + np.arange(len(ra)))

    def _moved(self, table: pa.Table, ra: np.ndarray, dec: np.ndarray, path: Path):
        since, pm_ra, pm_dec = (table[c].to_numpy() for c in ("epoch", "pm_ra", "pm_dec"))
        known = np.isfinite(pm_ra) & np.isfinite(pm_dec)
        if (lost := known & ~np.isfinite(since)).any():
            raise ValueError(
                f"{path}: {lost.sum()} objects have a proper motion but no epoch, the first is row "
                f"{int(np.argmax(lost))}; they cannot be brought to {self.epoch}. Ingest them with "
                "their epoch, or match without one"
            )
        years = np.where(known, self.epoch - since, 0.0)
        moved = propagate(ra, dec, np.where(known, pm_ra, 0), np.where(known, pm_dec, 0), years)
        return np.where(known, moved[0], ra), np.where(known, moved[1], dec)

    def _tie_order(self, number: int, healpix: np.ndarray) -> np.ndarray:
        """Return the order in which the earlier object wins a tie: by place, then identifier."""
        if len(healpix) < 2 or (np.diff(healpix) > 0).all():
            return np.arange(len(healpix))
        ids = self.store.table(self.store.partitions[number], ["object_id"])["object_id"]
        return np.lexsort((np.unique(ids.to_numpy(), return_inverse=True)[1], healpix))


def _vectors(some: _Some) -> np.ndarray:
    lon, lat = np.radians(some.ra), np.radians(some.dec)
    return np.stack([np.cos(lon) * np.cos(lat), np.sin(lon) * np.cos(lat), np.sin(lat)], axis=1)


def _within(vectors: np.ndarray, centre: np.ndarray, angle) -> np.ndarray:
    """Tell which unit vectors are within an angle of a direction, by their chords."""
    chord = 2 * np.sin(np.minimum(angle, np.pi) / 2)
    return ((vectors - centre) ** 2).sum(axis=1) <= chord**2


def _cones(positions: _Positions, numbers: Sequence[int]) -> np.ndarray:
    """Return the cones that hold partitions: unit vector and radius, shape (partition, 4)."""
    cones = np.empty((len(numbers), 4))
    for place, number in enumerate(numbers):
        vectors = _vectors(positions.of(number))
        centre = vectors.mean(axis=0)
        # Objects all over the sky have no middle: any of them will do.
        length = np.linalg.norm(centre)
        centre = centre / length if length > 1e-9 else vectors[0]
        chord = np.linalg.norm(vectors - centre, axis=1).max()
        cones[place] = *centre, 2 * np.arcsin(min(chord / 2, 1)) + _SLACK
    return cones


def _around(
    positions: _Positions, cones: np.ndarray, block: range, own: np.ndarray, margin: float
) -> Iterator[_Some]:
    """Yield the objects outside a block of partitions but within a margin of the block's cones.

    `own` are the cones of the block, `cones` those of the partitions of `positions`.
    """
    near: dict[int, list[np.ndarray]] = {}
    for cone in own:
        meets = _within(cones[:, :3], cone[:3], cone[3] + cones[:, 3] + margin)
        for number in np.flatnonzero(meets).tolist():
            if number not in block:
                near.setdefault(number, []).append(cone)
    for number in sorted(near):
        some = positions.of(number)
        vectors = _vectors(some)
        close = [_within(vectors, cone[:3], cone[3] + margin) for cone in near[number]]
        yield some.take(np.logical_or.reduce(close))


class _Plan:
    """What is needed to match a block of left partitions, in any process."""

    def __init__(self, left: Store, right: Store, options: MatchOptions) -> None:
        self.left, self.right = _Positions(left, options.epoch), _Positions(right, options.epoch)
        self.options = options
        # Cones of all partitions; not needed where one block holds everything.
        self.cones: tuple[np.ndarray, np.ndarray] | None = None

    def pairs(self, block: range, threads: int | None) -> Pairs:
        """Return the pairs whose left object is in a block, as rows of the stores."""
        left = [self.left.of(number) for number in block]
        if self.cones is None:
            right = [self.right.of(number) for number in range(len(self.right.store.partitions))]
        else:
            mine, theirs = self.cones
            own, margin = mine[block.start : block.stop], self.options.radius_arcsec * _ARCSEC
            right = [*_around(self.right, theirs, range(0), own, margin + _SLACK)]
            if self.options.one_to_one:
                left += _around(self.left, mine, block, own, 2 * margin + _SLACK)
        one, two = _Some.joined(left), _Some.joined(right)
        found = match_coordinates(
            one.ra,
            one.dec,
            two.ra,
            two.dec,
            self.options.radius_arcsec,
            one_to_one=self.options.one_to_one,
            n_neighbors=self.options.n_neighbors,
            threads=threads,
        )
        rows = one.row[found.left]
        first, end = self.left.store.starts[[block.start, block.stop]]
        inside = np.flatnonzero((rows >= first) & (rows < end))
        order = inside[np.argsort(rows[inside], kind="stable")]
        return Pairs(rows[order], two.row[found.right[order]], found.separation_arcsec[order])


def _blocks(store: Store) -> list[range]:
    """Return ranges of partitions of about `_BLOCK_ROWS` rows."""
    starts, blocks, first = store.starts, [], 0
    while first < len(store.partitions):
        end = int(np.searchsorted(starts, starts[first] + _BLOCK_ROWS, side="right")) - 1
        blocks.append(range(first, max(end, first + 1)))
        first = blocks[-1].stop
    return blocks


def match_stores(
    left: Store,
    right: Store,
    options: MatchOptions,
    *,
    threads: int | None = None,
    client: Client | None = None,
    scratch: Path | None = None,
) -> Pairs:
    """Match two stores; the result does not depend on how they are partitioned.

    Parameters
    ----------
    left, right : Store
        What to match; only positions are read.
    options : MatchOptions
        How; ``how`` is not looked at: only objects with a partner are returned.
    threads : int, optional
        Threads of the search; all cores by default, one where a Dask client is given.
    client : dask.distributed.Client, optional
        Where blocks are matched: tasks are blocks of partitions, results are files.
    scratch : Path, optional
        Folder for these files, which all workers must see; a temporary one by default.

    Returns
    -------
    Pairs
        Rows of the two stores, by left row and then by separation.
    """
    plan, blocks = _Plan(left, right, options), _blocks(left)
    whole = len(blocks) == 1 and len(right) <= 4 * _BLOCK_ROWS
    if client is not None:
        parts = _on_dask(client, plan, blocks, whole, scratch)
    else:
        if not whole:
            sides = plan.left, plan.right
            one, two = (_cones(side, range(len(side.store.partitions))) for side in sides)
            plan.cones = one, two
        parts = [plan.pairs(block, threads) for block in blocks]
    columns = zip(*((p.left, p.right, p.separation_arcsec) for p in parts), strict=True)
    return Pairs(*(np.concatenate(c) for c in columns))


def _on_dask(
    client: Client, plan: _Plan, blocks: list[range], whole: bool, scratch: Path | None
) -> list[Pairs]:
    stores = [(str(side.store.path.absolute()), plan.options) for side in (plan.left, plan.right)]
    cones = None
    if not whole:
        ranges = [_blocks(side.store) for side in (plan.left, plan.right)]
        asked = [
            [client.submit(_cones_of, *store, block, pure=False) for block in some]
            for store, some in zip(stores, ranges, strict=True)
        ]
        cones = tuple(np.concatenate([f.result() for f in some]) for some in asked)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="matching-") as folder:
        names = [f"{folder}/{number:06d}.parquet" for number in range(len(blocks))]
        shared = client.scatter(cones, broadcast=True)
        paths = [stores[0][0], stores[1][0]]
        tasks = [
            client.submit(_match_block, paths, plan.options, shared, block, name, pure=False)
            for block, name in zip(blocks, names, strict=True)
        ]
        tables = [pq.read_table(task.result()) for task in tasks]
    return [Pairs(*(table[c].to_numpy() for c in table.column_names)) for table in tables]


def _cones_of(path: str, options: MatchOptions, numbers: range) -> np.ndarray:
    return _cones(_Positions(open_store(path), options.epoch), numbers)


def _match_block(paths: Sequence[str], options: MatchOptions, cones, block: range, out: str) -> str:
    """Match a block in a worker and leave the pairs in a file."""
    plan = _Plan(open_store(paths[0]), open_store(paths[1]), options)
    plan.cones = cones
    found = plan.pairs(block, threads=1)
    names = ["left", "right", "separation_arcsec"]
    pq.write_table(pa.table([found.left, found.right, found.separation_arcsec], names), out)
    return out
