"""HEALPix cells of the NESTED scheme: indices of positions, adaptive partitions, borders.

A cell of order k is a contiguous range of order-29 indices, so partitions that do not overlap are
ranges that do not overlap, and everything but the spherical geometry is integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["MAX_ORDER", "Cells", "border_cells", "healpix29", "margin_order", "partitions_of"]

MAX_ORDER = 29
_CELL_ARCSEC = 3600 * 58.6323  # side of an order-0 cell, as the root of its area
# Narrowest distance across a cell over the root of its area, with room to spare; the true value,
# near the poles, is about 0.64.
_NARROWEST = 0.6


def healpix29(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Return the order-29 NESTED index of positions.

    Parameters
    ----------
    ra_deg, dec_deg : array, shape (object,)
        ICRS degrees.

    Returns
    -------
    array of int64, shape (object,)

    Raises
    ------
    ImportError
        If cdshealpix is not installed.
    """
    nested, longitude, latitude = _geometry()
    if not len(ra_deg):
        return np.empty(0, np.int64)
    cells = nested.lonlat_to_healpix(
        longitude(ra_deg, "deg"), latitude(dec_deg, "deg"), MAX_ORDER, num_threads=1
    )
    return np.asarray(cells).astype(np.int64)


def _geometry():
    try:
        from astropy.coordinates import Latitude, Longitude
        from cdshealpix import nested
    except ImportError as error:
        raise ImportError(
            "writing a sky store needs cdshealpix: pip install 'omnisky[data]'"
        ) from error
    return nested, Longitude, Latitude


def partitions_of(
    cells: np.ndarray, counts: np.ndarray, order: int, *, most: int, lowest: int = 0
) -> list[tuple[int, int]]:
    """Divide the sky into the largest cells that hold at most so many rows.

    Parameters
    ----------
    cells, counts : array of int64, shape (cell,)
        Cells of one order and the rows in each.
    order : int
        That order: no partition is smaller, even if it holds more rows.
    most : int
        Most rows of a partition.
    lowest : int
        Order of the largest partitions.

    Returns
    -------
    list of (int, int)
        Order and cell of each partition that has rows, along the order-29 index.
    """
    found: list[tuple[int, int]] = []
    for level in range(min(lowest, order), order + 1):
        parents = cells >> 2 * (order - level)
        unique, inverse = np.unique(parents, return_inverse=True)
        totals = np.bincount(inverse, weights=counts, minlength=len(unique))
        small = (totals <= most) | (level == order)
        found += [(level, int(cell)) for cell in unique[small]]
        keep = ~small[inverse]
        cells, counts = cells[keep], counts[keep]
    return sorted(found, key=lambda p: p[1] << 2 * (MAX_ORDER - p[0]))


def margin_order(margin_arcsec: float, orders: Iterable[int]) -> int:
    """Return the finest order whose cells are nowhere narrower than a margin.

    Raises
    ------
    ValueError
        If a partition is itself narrower than the margin.
    """
    finest = int(np.floor(np.log2(_NARROWEST * _CELL_ARCSEC / margin_arcsec)))
    finest = min(finest, MAX_ORDER)
    smallest = max(orders, default=0)
    if smallest > finest:
        raise ValueError(
            f"a margin of {margin_arcsec:g} arcsec is wider than partitions of order {smallest}; "
            f"use a smaller margin or partitions of order {max(finest, 0)} at most"
        )
    return finest


def border_cells(order: int, cell: int, at_order: int) -> np.ndarray:
    """Return the cells of a finer order that touch a cell from outside, sorted."""
    nested, *_ = _geometry()
    if at_order == order:
        touching = nested.neighbours(np.array([cell], np.uint64), order)
        touching = touching[touching != cell]
    else:
        edges, corners = nested.external_neighbours(
            np.array([cell], np.uint64), order, at_order - order
        )
        touching = np.concatenate([np.ravel(edges), np.ravel(corners)])
    touching = np.asarray(touching).astype(np.int64)
    return np.unique(touching[touching >= 0])


class Cells:
    """Know which partition an order-29 index lies in.

    Parameters
    ----------
    partitions : sequence of (int, int)
        Order and cell of each, along the index.
    """

    def __init__(self, partitions: Sequence[tuple[int, int]]) -> None:
        self.partitions = partitions
        shifts = [2 * (MAX_ORDER - order) for order, _ in partitions]
        pairs = list(zip(partitions, shifts, strict=True))
        self.first = np.array([cell << shift for (_, cell), shift in pairs], np.int64)
        self.last = np.array([((cell + 1) << shift) - 1 for (_, cell), shift in pairs], np.int64)

    def meeting(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Return the partitions that meet any of some ranges of indices (ends included)."""
        low = np.searchsorted(self.last, first, side="left")
        high = np.searchsorted(self.first, last, side="right")
        steps = np.zeros(len(self.partitions) + 1, np.int64)
        np.add.at(steps, low, 1)
        np.add.at(steps, np.maximum(high, low), -1)
        return np.flatnonzero(np.cumsum(steps[:-1]) > 0)
