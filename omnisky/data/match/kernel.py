"""Match positions on the sphere: nearest within a radius, one-to-one or n nearest.

A KD-tree on unit vectors finds candidates by their chord; separations come from the haversine
formula, which is exact to rounding however small they are. Ties (equal separations, duplicated
positions) go to the lower row, so that the result is that of brute force, always the same.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Pairs", "match_coordinates", "propagate", "separation_arcsec"]

How = Literal["inner", "left"]
_ARCSEC = np.pi / 648_000
_LEAF = 16
# A chord between unit vectors is right to a few 1e-16: candidates within this of each other are
# compared by their haversine separations.
_RELATIVE, _ABSOLUTE = 1e-12, 2e-15
# Candidates that one enumeration of ties may hold at a time.
_CHUNK = 4_000_000
_SAMPLE = 4096
_AXIS_BITS = 5
# Bits of a cell's number along one axis, two bits apart, so that three axes interleave.
_SPREAD = np.array([sum((c >> b & 1) << 3 * b for b in range(_AXIS_BITS)) for c in range(2**5)])
_SPREAD = _SPREAD.astype(np.uint16)


@dataclass(frozen=True)
class Pairs:
    """Hold matched rows of two lists of positions, ordered by left row, then separation.

    Parameters
    ----------
    left, right : array of int64, shape (pair,)
        Rows; `right` is -1 where a left row has no partner (``how="left"`` only).
    separation_arcsec : array, shape (pair,)
        Angle between the two; NaN where there is no partner.
    """

    left: np.ndarray
    right: np.ndarray
    separation_arcsec: np.ndarray

    def __len__(self) -> int:
        return len(self.left)

    @property
    def present(self) -> np.ndarray:
        """True where a pair has both its members, shape (pair,)."""
        return self.right >= 0


@dataclass(frozen=True)
class _Sky:
    """Positions with what separations need: degrees, cosines of declination, unit vectors."""

    ra: np.ndarray
    dec: np.ndarray
    cos: np.ndarray
    vector: np.ndarray

    @classmethod
    def of(cls, ra_deg, dec_deg, side: str) -> _Sky:
        # Contiguous: numpy's sine of a strided array may differ in the last bit.
        ra, dec = (np.ascontiguousarray(a, dtype=np.float64) for a in (ra_deg, dec_deg))
        if ra.ndim != 1 or ra.shape != dec.shape:
            raise ValueError(
                f"{side} positions need one ra and one dec an object; found shapes {ra.shape} and "
                f"{dec.shape}"
            )
        bad = ~(np.isfinite(ra) & (np.abs(dec) <= 90))
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{side} row {row} is at ra={ra[row]}, dec={dec[row]}; positions must be finite "
                "with dec in [-90, 90]. Leave such rows out, or quarantine them at ingest"
            )
        if len(ra) and (ra.min() < 0 or ra.max() > 360):
            ra = np.mod(ra, 360.0)
        lon, lat = np.radians(ra), np.radians(dec)
        cos = np.cos(lat)
        vector = np.empty((len(ra), 3))
        np.multiply(np.cos(lon), cos, out=vector[:, 0])
        np.multiply(np.sin(lon), cos, out=vector[:, 1])
        vector[:, 2] = np.sin(lat)
        return cls(ra, dec, cos, vector)

    def __len__(self) -> int:
        return len(self.ra)

    def take(self, rows: np.ndarray) -> _Sky:
        return _Sky(self.ra[rows], self.dec[rows], self.cos[rows], self.vector[rows])


def _separation(a: _Sky, i: np.ndarray, b: _Sky, j: np.ndarray) -> np.ndarray:
    """Return the angle in arcsec between rows i of a and j of b, by the haversine formula."""
    return _haversine(a.ra[i] - b.ra[j], a.dec[i] - b.dec[j], a.cos[i] * b.cos[j])


def _haversine(d_ra: np.ndarray, d_dec: np.ndarray, coscos: np.ndarray) -> np.ndarray:
    d_ra = np.abs(d_ra)
    np.subtract(360.0, d_ra, out=d_ra, where=d_ra > 180)  # exact, where a sine of ~pi is not
    h = np.sin(np.radians(d_dec) / 2) ** 2 + coscos * np.sin(np.radians(d_ra) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(np.minimum(h, 1.0))) / _ARCSEC


def separation_arcsec(ra1, dec1, ra2, dec2) -> np.ndarray:
    """Return the angle between positions in degrees, exact to rounding however small.

    Parameters
    ----------
    ra1, dec1, ra2, dec2 : array
        Positions in degrees, right ascension in [0, 360]; broadcast against each other.

    Returns
    -------
    array
        Separation in arcsec.
    """
    ra1, dec1, ra2, dec2 = (np.asarray(a, dtype=np.float64) for a in (ra1, dec1, ra2, dec2))
    coscos = np.cos(np.radians(dec1)) * np.cos(np.radians(dec2))
    return _haversine(np.atleast_1d(ra1 - ra2), dec1 - dec2, coscos)


def propagate(ra_deg, dec_deg, pm_ra, pm_dec, years) -> tuple[np.ndarray, np.ndarray]:
    """Move positions by their proper motions, rigorously on the sphere.

    Uniform straight motion in space without a radial velocity: the unit vector moves along its
    tangent and is normalised (Gaia DR3 documentation, 4.1.7, with zero radial proper motion).

    Parameters
    ----------
    ra_deg, dec_deg : array, shape (object,)
        ICRS positions in degrees at the epoch of the catalogue.
    pm_ra, pm_dec : array, shape (object,)
        Proper motions in mas / yr, that in right ascension including cos(dec).
    years : array or float
        Julian years from the epoch of the position to the wanted one.

    Returns
    -------
    ra_deg, dec_deg : array, shape (object,)
        Positions at the wanted epoch, right ascension in [0, 360).
    """
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    east = np.stack([-np.sin(ra), np.cos(ra), np.zeros_like(ra)])
    north = np.stack([-np.sin(dec) * np.cos(ra), -np.sin(dec) * np.sin(ra), np.cos(dec)])
    radial = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    scale = np.asarray(years) * 1e-3 * _ARCSEC
    x, y, z = radial + (np.asarray(pm_ra) * east + np.asarray(pm_dec) * north) * scale
    moved = np.degrees(np.arctan2(y, x)) % 360.0 % 360.0  # twice, since -1e-17 % 360 is 360
    # The remainder of a tiny negative angle rounds to 360 itself.
    return np.where(moved == 360.0, 0.0, moved), np.degrees(np.arctan2(z, np.hypot(x, y)))


def match_coordinates(
    ra1,
    dec1,
    ra2,
    dec2,
    radius_arcsec: float,
    *,
    how: How = "inner",
    one_to_one: bool = True,
    n_neighbors: int = 1,
    threads: int | None = None,
) -> Pairs:
    """Match two lists of positions within a radius.

    Parameters
    ----------
    ra1, dec1 : array, shape (left,)
        Left positions, ICRS degrees.
    ra2, dec2 : array, shape (right,)
        Right positions, ICRS degrees.
    radius_arcsec : float
        Largest separation of a pair, inclusive.
    how : {"inner", "left"}
        Keep pairs only, or every left row, with right = -1 where it has no partner.
    one_to_one : bool
        Keep a pair only if each is the nearest of the other: no row occurs in two pairs.
        Otherwise each left row takes its nearest, and a right row may be taken many times.
    n_neighbors : int
        Nearest right rows of each left row; more than one needs ``one_to_one=False``.
    threads : int, optional
        Threads of the search; all cores by default.

    Returns
    -------
    Pairs
        Rows and separations. Of equal separations the lower row is the nearer one.

    Raises
    ------
    ValueError
        If a position is not finite or off the sphere, or the options contradict each other.
    """
    check_options(radius_arcsec, how, one_to_one, n_neighbors)
    workers = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(min(workers, 2)) as pool:
        sides = (ra1, dec1, "left"), (ra2, dec2, "right")
        left, right = pool.map(lambda side: _Sky.of(*side), sides)
    found, crowded, tree = _neighbours(left, right, radius_arcsec, int(n_neighbors), workers)
    if one_to_one and tree is not None:
        found = _best_of_right(right, found)
        found = _without_rivalled(left, right, found, (crowded, tree, radius_arcsec), workers)
    i, j, separation = found
    if how == "left":
        alone = np.setdiff1d(np.arange(len(left)), i)
        i = np.concatenate([i, alone])
        j = np.concatenate([j, np.full(len(alone), -1)])
        separation = np.concatenate([separation, np.full(len(alone), np.nan)])
        order = np.argsort(i, kind="stable")
        i, j, separation = i[order], j[order], separation[order]
    return Pairs(i, j, separation)


def check_options(radius_arcsec: float, how: str, one_to_one: bool, n_neighbors: int) -> None:
    """Raise `ValueError` for options of a match that are out of range or contradict each other."""
    if not 0 < radius_arcsec <= 648_000:
        raise ValueError(
            f"radius_arcsec must be positive and at most 648000 (the whole sky); found "
            f"{radius_arcsec!r}"
        )
    if how not in ("inner", "left"):
        raise ValueError(f"how must be 'inner' or 'left'; found {how!r}")
    if int(n_neighbors) != n_neighbors or n_neighbors < 1:
        raise ValueError(f"n_neighbors must be a positive integer; found {n_neighbors!r}")
    if one_to_one and n_neighbors > 1:
        raise ValueError(
            f"n_neighbors={n_neighbors} gives a left object several partners; say "
            "one_to_one=False, or leave n_neighbors at 1"
        )


def _local(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring points into an order in which neighbours on the sky are near in memory.

    Returns the points so ordered, and their rows.
    """
    if _is_local(vector):
        return vector, np.arange(len(vector))
    # Coarse cells in 16 bits: numpy sorts those by radix, twenty times faster than 32 bits.
    key = np.zeros(len(vector), dtype=np.uint16)
    for axis in range(3):
        along = vector[:, axis]
        low, high = along.min(), along.max()
        scale = (2**_AXIS_BITS - 1e-6) / max(high - low, 1e-12)
        key |= _SPREAD[((along - low) * scale).astype(np.uint16)] << axis
    order = np.argsort(key, kind="stable")
    return vector[order], order


def _is_local(vector: np.ndarray) -> bool:
    """Tell whether points are in such an order, as those of a sky store are, by a sample."""
    if len(vector) < _SAMPLE:
        return False
    some = np.linspace(0, len(vector) - 2, _SAMPLE).astype(np.int64)
    steps = np.linalg.norm(vector[some + 1] - vector[some], axis=1)
    return bool(np.median(steps) < 0.01 * np.linalg.norm(np.ptp(vector[some], axis=0)))


class _Tree:
    """A KD-tree over a sky, built and asked in an order that suits the cache."""

    def __init__(self, sky: _Sky) -> None:
        from scipy.spatial import cKDTree

        points, self.rows = _local(sky.vector)
        self.tree = cKDTree(points, leafsize=_LEAF, balanced_tree=False)

    def query(self, points: np.ndarray, k: int, bound: float, workers: int):
        """Return chords and places of the k nearest, shape (point, k); inf where fewer."""
        wanted = list(range(1, k + 1))
        return self.tree.query(points, wanted, distance_upper_bound=bound, workers=workers)

    def within(self, vector: np.ndarray, rows: np.ndarray, chord: np.ndarray, workers: int):
        """Yield (row, member) of all members within a chord of each row, some rows at a time."""
        if not len(rows):
            return
        options = {"workers": workers}
        count = self.tree.query_ball_point(vector[rows], chord, return_length=True, **options)
        cuts = np.flatnonzero(np.diff(np.cumsum(count) // _CHUNK)) + 1
        for some in np.split(np.arange(len(rows)), cuts):
            balls = self.tree.query_ball_point(vector[rows[some]], chord[some], **options)
            near = np.fromiter((place for ball in balls for place in ball), dtype=np.int64)
            yield np.repeat(rows[some], [len(ball) for ball in balls]), self.rows[near]


def _loosened(chord):
    return chord * (1 + _RELATIVE) + _ABSOLUTE


def _chord(radius_arcsec: float) -> float:
    return _loosened(2 * np.sin(radius_arcsec * _ARCSEC / 2))


def _neighbours(left: _Sky, right: _Sky, radius_arcsec: float, n: int, workers: int):
    """Return the n nearest as (i, j, separation), by these; the i that have more; the tree."""
    if not len(left) or not len(right):
        nothing = np.empty(0, dtype=np.int64)
        return (nothing, nothing, np.empty(0)), nothing, None
    with ThreadPoolExecutor(min(workers, 2)) as pool:
        planned = pool.submit(_local, left.vector)
        tree = _Tree(right)
        points, order = planned.result()
    chord, near = tree.query(points, n + 1, _chord(radius_arcsec), workers)
    crowded = np.sort(order[np.isfinite(chord[:, n])])
    # Where one more is as near as the n-th to rounding, all of these must be compared exactly.
    tied = np.isfinite(chord[:, n]) & (chord[:, n] <= _loosened(chord[:, n - 1]))
    point, place = np.nonzero(np.isfinite(chord[:, :n]) & ~tied[:, None])
    parts = [(order[point], tree.rows[near[point, place]])]
    parts += tree.within(left.vector, order[tied], _loosened(chord[tied, n - 1]), workers)
    found = []
    for i, j in parts:
        separation = _separation(left, i, right, j)
        close = separation <= radius_arcsec
        i, j, separation = i[close], j[close], separation[close]
        # The first part has at most n a row already.
        found.append(_first(i, j, separation, n) if found else (i, j, separation))
    i, j, separation = (np.concatenate(p) for p in zip(*found, strict=True))
    if n > 1:
        return _first(i, j, separation, n), crowded, tree
    partner, angle = np.full(len(left), -1), np.empty(len(left))
    partner[i], angle[i] = j, separation
    i = np.flatnonzero(partner >= 0)
    return (i, partner[i], angle[i]), crowded, tree


def _first(i: np.ndarray, j: np.ndarray, separation: np.ndarray, n: int):
    """Sort by i, separation and j, and keep the first n of each i."""
    order = np.lexsort((j, separation, i))
    i, j, separation = i[order], j[order], separation[order]
    begins = np.flatnonzero(np.diff(i, prepend=-1))
    place = np.arange(len(i)) - np.repeat(begins, np.diff(begins, append=len(i)))
    keep = place < n
    return i[keep], j[keep], separation[keep]


def _best_of_right(right: _Sky, pairs):
    """Keep the nearest of the pairs that share a right row."""
    i, j, separation = pairs
    nearest = np.full(len(right), np.inf)
    np.minimum.at(nearest, j, separation)
    best = separation == nearest[j]
    lowest = np.full(len(right), np.iinfo(np.int64).max)
    np.minimum.at(lowest, j[best], i[best])
    best &= lowest[j] == i
    return i[best], j[best], separation[best]


def _without_rivalled(left: _Sky, right: _Sky, pairs, search, workers: int):
    """Drop the pairs whose right row has a nearer left row, one that took another right row.

    Such a rival has two right rows within the radius, so only the crowded left rows are asked.
    """
    crowded, tree, radius_arcsec = search
    i, j, separation = pairs
    asked = np.arange(len(j))
    if 8 * len(crowded) < len(left):  # few: ask only the right rows that they can reach
        bound = np.full(len(crowded), _chord(radius_arcsec))
        reached = np.zeros(len(right), dtype=bool)
        for _, near in tree.within(left.vector, crowded, bound, workers):
            reached[near] = True
        asked = np.flatnonzero(reached[j])
    (point, rival, angle), *_ = _neighbours(
        right.take(j[asked]), left.take(crowded), radius_arcsec, 1, workers
    )
    rival, asked = crowded[rival], asked[point]
    nearer = angle < separation[asked]
    nearer |= (angle == separation[asked]) & (rival < i[asked])
    keep = np.ones(len(i), dtype=bool)
    keep[asked[nearer]] = False
    return i[keep], j[keep], separation[keep]
