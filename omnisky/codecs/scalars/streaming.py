"""Exact quantiles of more numbers than memory holds, in a few passes over them.

Floating-point numbers have the order of their bits, once the bits of negative ones are turned
round. So the k-th smallest of any number of values is found like a word in a dictionary: count how
many start with each 16 bits, look again only at those that start as the wanted one does, and so on
until what is left fits in memory. No value is approximated: the quantiles are those that
`numpy.quantile` gives of all values at once, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

__all__ = ["Chunks", "bin_means", "exact_quantiles", "store_chunks"]

# Called anew for each pass. Values and their inverse variances, zero where unknown.
Chunks: TypeAlias = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]

_FIRST_BITS, _MORE_BITS = 16, 11
# Values that are sorted in memory: 32 MB.
_BUDGET = 2**22
_SIGN = np.uint64(1 << 63)


def exact_quantiles(chunks: Chunks, fractions: np.ndarray, *, budget: int = _BUDGET) -> np.ndarray:
    """Return quantiles of all values, interpolated between neighbours as `numpy.quantile` does.

    Parameters
    ----------
    chunks : callable
        Returns an iterable of (values, inverse variances); called once a pass. NaN is no value.
    fractions : array, shape (quantile,)
        Fractions from 0 to 1.
    budget : int
        Values to hold in memory at most; beside them, counts of 35 MB for 1024 quantiles.

    Returns
    -------
    array, shape (quantile,)
        The quantiles.

    Raises
    ------
    ValueError
        If there are no values, or some are infinite.
    """
    top, count = _first_pass(chunks)
    place = (count - 1) * np.asarray(fractions, dtype=np.float64)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, count - 1)
    ranks, where = np.unique(np.concatenate([below, above]), return_inverse=True)
    low, high = _order_statistics(chunks, top, ranks, budget)[where].reshape(2, -1)
    # As numpy interpolates, so that not even the last bit differs.
    t, step = place - below, high - low
    return np.where(t >= 0.5, high - step * (1 - t), low + step * t)


def bin_means(chunks: Chunks, border: np.ndarray) -> np.ndarray:
    """Return the mean of the values in each bin; the middle of the bin where there is none.

    Parameters
    ----------
    chunks : callable
        As for `exact_quantiles`.
    border : array, shape (bin + 1,)
        Edges of the bins, outermost ones included: values beyond them belong to the outermost bins.
    """
    bins = len(border) - 1
    total, count = np.zeros(bins), np.zeros(bins)
    for values in _values(chunks):
        index = np.searchsorted(border[1:-1], values, side="right")
        total += np.bincount(index, weights=values, minlength=bins)
        count += np.bincount(index, minlength=bins)
    middle = border[:-1] + (border[1:] - border[:-1]) / 2
    return np.where(count > 0, total / np.maximum(count, 1), middle)


def store_chunks(store, modality: str, where: Callable | None = None) -> Chunks:
    """Return the passes over a scalar of a sky store, a partition at a time.

    Parameters
    ----------
    store : Store
        What `omnisky.open` returns.
    modality : str
        Name of a scalar in it.
    where : callable, optional
        Takes the identifiers of a partition and returns which objects to use, one bool each.

    Raises
    ------
    ValueError
        If the store has no such scalar.
    """
    known = {scalar.name: scalar for scalar in store.layout.scalars}
    if modality not in known:
        raise ValueError(
            f"{store.path} has no scalar {modality!r}; its scalars are {', '.join(known)}"
        )
    error = f"{modality}_ivar"
    columns = ["object_id", modality] + ([error] if known[modality].ivar else [])

    def passes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for partition in store.partitions:
            table = store.table(partition, columns)
            values = table[modality].to_numpy().astype(np.float64)
            ivar = np.zeros(len(values))
            if error in columns:
                ivar = np.nan_to_num(table[error].to_numpy().astype(np.float64), nan=0.0)
            if where is not None:
                kept = np.asarray(where(table["object_id"].to_numpy()), dtype=bool)
                values, ivar = values[kept], ivar[kept]
            yield values, ivar

    return passes


def _values(chunks: Chunks) -> Iterator[np.ndarray]:
    for given, _ in chunks():
        values = np.asarray(given, dtype=np.float64)
        values = values[~np.isnan(values)]
        if np.isinf(values).any():
            raise ValueError(
                f"{np.isinf(values).sum()} values are infinite; only finite values can be fitted. "
                "Mask them (mask=False) where the table is read"
            )
        yield values


def _ordered(values: np.ndarray) -> np.ndarray:
    """Return whole numbers in the order of the values."""
    bits = (values + 0.0).view(np.uint64)  # adding zero: there is one zero, not two
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _back(keys: np.ndarray) -> np.ndarray:
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)


def _first_pass(chunks: Chunks) -> tuple[np.ndarray, int]:
    """Return how many values start with each 16 bits, and how many there are."""
    counts = np.zeros(1 << _FIRST_BITS, dtype=np.int64)
    for values in _values(chunks):
        start = (_ordered(values) >> np.uint64(64 - _FIRST_BITS)).astype(np.int64)
        counts += np.bincount(start, minlength=len(counts))
    if not counts.sum():
        raise ValueError("there are no values to fit: none is present and finite")
    return counts, int(counts.sum())


def _order_statistics(
    chunks: Chunks, counts: np.ndarray, ranks: np.ndarray, budget: int
) -> np.ndarray:
    """Return the values of some ranks (from 0, increasing), given the counts of the first pass."""
    cells = _Cells.of(np.zeros(1, np.uint64), np.zeros(1, np.int64), counts[None], ranks)
    shift = 64 - _FIRST_BITS
    while shift and cells.count.sum() > budget:
        bits = min(_MORE_BITS, shift)
        counts = np.zeros((len(cells.start), 1 << bits), dtype=np.int64)
        for at, keys in cells.members(chunks, shift):
            digit = (keys >> np.uint64(shift - bits)) & np.uint64((1 << bits) - 1)
            place = (at << bits) + digit.astype(np.int64)
            counts += np.bincount(place, minlength=counts.size).reshape(counts.shape)
        cells = _Cells.of(cells.start, cells.first, counts, ranks)
        shift -= bits
    mine = np.searchsorted(cells.first + cells.count, ranks, side="right")
    if not shift:  # a cell is one number
        return _back(cells.start[mine])
    held = np.sort(np.concatenate([keys for _, keys in cells.members(chunks, shift)]))
    before = np.cumsum(cells.count) - cells.count
    return _back(held[before[mine] + ranks - cells.first[mine]])


@dataclass(frozen=True)
class _Cells:
    """Those beginnings of numbers that some wanted rank has.

    ``start`` is the beginning, ``first`` the rank of the smallest number with it, ``count`` how
    many numbers have it; all increasing by start.
    """

    start: np.ndarray
    first: np.ndarray
    count: np.ndarray

    @classmethod
    def of(
        cls, start: np.ndarray, first: np.ndarray, counts: np.ndarray, ranks: np.ndarray
    ) -> _Cells:
        """Keep the wanted ones of the cells that each start is divided into."""
        ends = (first[:, None] + np.cumsum(counts, axis=1)).reshape(-1)
        digits, counts = counts.shape[1], counts.reshape(-1)
        wanted = np.unique(np.searchsorted(ends, ranks, side="right"))
        longer = start[wanted // digits] * np.uint64(digits) + (wanted % digits).astype(np.uint64)
        return cls(longer, (ends - counts)[wanted], counts[wanted])

    def members(self, chunks: Chunks, shift: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the numbers that are in a cell, as keys, with the cell each is in."""
        for values in _values(chunks):
            keys = _ordered(values)
            start = keys >> np.uint64(shift)
            at = np.searchsorted(self.start, start).clip(max=len(self.start) - 1)
            inside = self.start[at] == start
            yield at[inside], keys[inside]
