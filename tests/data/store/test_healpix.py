"""Cells of the NESTED scheme: partitions cover every row once, borders list every neighbour."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisky.data.store.healpix import (
    MAX_ORDER,
    Cells,
    border_cells,
    healpix29,
    margin_order,
    partitions_of,
)


def test_poles_and_the_seam_at_zero():
    ra, dec = np.array([0.0, 123.0, 0.0, 359.9999999]), np.array([90.0, -90.0, 0.0, 0.0])
    cells = healpix29(ra, dec)
    assert cells.dtype == np.int64
    assert ((cells >= 0) & (cells < 12 * 4**MAX_ORDER)).all()
    assert healpix29(ra[:0], dec[:0]).shape == (0,)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 2))
def test_partitions_hold_every_row_once(seed, most, lowest):
    rng = np.random.default_rng(seed)
    order = 6
    cells = np.unique(rng.integers(0, 12 * 4**order, 200) >> rng.integers(0, 8))
    counts = rng.integers(1, 10, len(cells))
    found = partitions_of(cells, counts, order, most=most, lowest=lowest)
    firsts = [cell << 2 * (order - level) for level, cell in found]
    lasts = [(cell + 1) << 2 * (order - level) for level, cell in found]
    assert all(last <= first for last, first in zip(lasts, firsts[1:], strict=False))
    held = [counts[(cells >= a) & (cells < b)].sum() for a, b in zip(firsts, lasts, strict=True)]
    assert sum(held) == counts.sum()
    for (level, _), rows in zip(found, held, strict=True):
        assert 0 < rows
        assert level >= lowest
        assert rows <= most or level == order


@pytest.mark.parametrize(
    ("order", "cell"), [(0, 0), (0, 5), (0, 11), (2, 0), (2, 15), (3, 500), (7, 12345)]
)
def test_what_lies_within_the_margin_is_in_the_border(order, cell):
    margin = 10.0
    fine = margin_order(margin, [order])
    ring = border_cells(order, cell, fine)
    from astropy.coordinates import Latitude, Longitude
    from cdshealpix.nested import vertices

    lon, lat = (np.ravel(a.to_value("deg")) for a in vertices(np.array([cell]), order))
    rng = np.random.default_rng(0)
    # Points along the edges and around the corners, at most the margin away from the cell.
    at = rng.uniform(0, 1, 4000)
    corner = rng.integers(0, 4, 4000)
    following = (corner + 1) % 4
    x = np.cos(np.radians(lat)) * np.cos(np.radians(lon))
    y = np.cos(np.radians(lat)) * np.sin(np.radians(lon))
    z = np.sin(np.radians(lat))
    points = np.stack([x, y, z])
    near = points[:, corner] * (1 - at) + points[:, following] * at
    if order < 5:  # great circles leave the curved edges of large cells
        near = points[:, corner].copy()
    near /= np.linalg.norm(near, axis=0)
    near += rng.normal(size=near.shape) / np.sqrt(3) * np.radians(margin / 3600) / 4
    near /= np.linalg.norm(near, axis=0)
    ra = Longitude(np.arctan2(near[1], near[0]), "rad").to_value("deg")
    dec = Latitude(np.arcsin(near[2].clip(-1, 1)), "rad").to_value("deg")
    found = healpix29(ra, dec)
    outside = found >> 2 * (MAX_ORDER - order) != cell
    assert outside.any()
    assert np.isin(found[outside] >> 2 * (MAX_ORDER - fine), ring).all()


def test_a_margin_wider_than_partitions_is_refused():
    assert margin_order(10.0, [3, 7]) >= 7
    with pytest.raises(ValueError, match="wider than partitions of order 14"):
        margin_order(10.0, [14])


def test_cells_meeting_ranges():
    cells = Cells([(1, 0), (1, 2), (0, 3)])
    width = 4 ** (MAX_ORDER - 1)
    assert cells.meeting(np.array([width]), np.array([2 * width - 1])).tolist() == []
    assert cells.meeting(np.array([width - 1]), np.array([2 * width])).tolist() == [0, 1]
    assert cells.meeting(np.array([13 * width, 0]), np.array([13 * width, 5])).tolist() == [0, 2]
