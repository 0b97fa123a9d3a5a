"""Whole cells fall on one side, and nothing near a border is on two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisky.data.match import match_coordinates, propagate
from omnisky.data.split import GUARD, SPLITS, split_by_cell

pytest.importorskip("cdshealpix")


def sky(seed, count):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))


def moved(ra, dec, arcsec, angle):
    """Move positions by an angle in a direction."""
    mas = np.asarray(arcsec) * 1000
    # A proper motion moves along the tangent: the angle is its arc tangent.
    return propagate(ra, dec, mas * np.sin(angle), mas * np.cos(angle), 1.0)


def test_golden():
    """The same sky must fall on the same side for ever: held-out scores depend on it."""
    part = split_by_cell(np.arange(24) * 15.0 + 3, np.arange(24) * 7.0 - 80, guard_arcsec=0)
    wanted = {"calibration": [0, 5, 7, 10, 14], "test": [1, 11, 20]}
    assert {name: np.flatnonzero(part == name).tolist() for name in wanted} == wanted


def test_fractions():
    part = split_by_cell(*sky(0, 40_000), order=6, guard_arcsec=0)
    share = {name: float((part == name).mean()) for name in SPLITS}
    assert share == pytest.approx({"train": 0.7, "calibration": 0.1, "test": 0.2}, abs=0.02)


# Difficult places: poles, the origin, corners where three and four cells meet.
PLACES = [(0, 90), (0, -90), (0, 0), (45, 41.8103149), (0, 41.8103149), (90, 0), (200, 33)]


@given(
    st.sampled_from(PLACES),
    st.integers(2, 8),
    st.floats(0.5, 300),
    st.integers(0, 2**32 - 1),
)
def test_near_objects_are_never_on_two_sides(place, order, guard, seed):
    rng = np.random.default_rng(seed)
    around = np.full(60, place[0]), np.full(60, place[1])
    # Some at the place itself, some anywhere near, so that cells of all kinds have borders there.
    first = moved(*around, rng.choice([0, guard, 3600, 20_000], 60), rng.uniform(0, 7, 60))
    second = moved(*first, rng.uniform(0, guard, 60), rng.uniform(0, 7, 60))
    one, two = (split_by_cell(*p, order, guard, test=0.4, calibration=0.2) for p in (first, second))
    assert not ((one != two) & (one != GUARD) & (two != GUARD)).any()


def test_guard_ring_is_thin_and_hides_no_split():
    ra, dec = sky(1, 40_000)
    bare, guarded = split_by_cell(ra, dec, 5, 0), split_by_cell(ra, dec, 5, 60)
    kept = guarded != GUARD
    assert (bare[kept] == guarded[kept]).all()
    # A border all around every cell would take 4 * 2 * 60 arcsec of 1.8 degrees.
    assert 0.005 < 1 - kept.mean() < 0.15


def test_one_object_in_three_surveys_is_on_one_side():
    rng = np.random.default_rng(2)
    first = sky(3, 20_000)
    for _ in range(2):
        other = moved(*first, np.abs(rng.normal(0, 0.3, 20_000)), rng.uniform(0, 7, 20_000))
        pairs = match_coordinates(*first, *other, 1.0)
        left = split_by_cell(*first, order=8, guard_arcsec=1.0)[pairs.left]
        right = split_by_cell(*other, order=8, guard_arcsec=1.0)[pairs.right]
        assert not ((left != right) & (left != GUARD) & (right != GUARD)).any()


def test_order_and_company_do_not_matter():
    ra, dec = sky(4, 200)
    together = split_by_cell(ra, dec)
    alone = [split_by_cell(ra[i : i + 1], dec[i : i + 1])[0] for i in range(20)]
    assert together[:20].tolist() == alone
    assert (split_by_cell(ra[::-1], dec[::-1])[::-1] == together).all()


def test_whole_cells():
    from omnisky.data.store.healpix import healpix29

    ra, dec = sky(5, 5000)
    part = split_by_cell(ra, dec, order=3, guard_arcsec=0)
    cell = healpix29(ra, dec) >> 2 * 26
    assert all(len(set(part[cell == c])) == 1 for c in np.unique(cell))


def test_no_objects():
    assert split_by_cell(np.empty(0), np.empty(0)).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": 30}, r"order must be in \[0, 29\]"),
        ({"guard_arcsec": -1}, "guard_arcsec not negative"),
        ({"order": 12, "guard_arcsec": 3600}, "wider than cells of order 12"),
        ({"dec_deg": [91.0]}, r"dec in \[-90, 90\]"),
        ({"ra_deg": [np.nan]}, "must be finite"),
        ({"test": 0.9, "calibration": 0.2}, "leave a part to train on"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        split_by_cell(**{"ra_deg": [1.0], "dec_deg": [2.0], **change})
