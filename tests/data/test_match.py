"""The match equals brute force, on every part of the sphere and however the stores are cut."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, angular_separation
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st

from omnisky.data.match import (
    Match,
    kernel,
    match,
    match_coordinates,
    match_with_lsdb,
    partitions,
    propagate,
    separation_arcsec,
)
from omnisky.data.store import open_store, write_store
from omnisky.data.store.healpix import healpix29
from omnisky.modalities import Observations, Scalar, SkyObjects

pytest.importorskip("cdshealpix")

RADIUS = 2.0


def brute_force(left, right, radius, *, how="inner", one_to_one=True, n=1):
    """Compare every left row with every right row."""
    separation = separation_arcsec(
        left[0][:, None], left[1][:, None], right[0][None, :], right[1][None, :]
    )
    pairs = []
    for i in range(len(left[0])):
        near = [(separation[i, j], j) for j in range(len(right[0])) if separation[i, j] <= radius]
        near = sorted(near)[:n]
        if one_to_one and near:
            back = min((separation[k, near[0][1]], k) for k in range(len(left[0])))
            near = near if back[1] == i else []
        pairs += [(i, j, s) for s, j in near]
        if how == "left" and not near:
            pairs.append((i, -1, np.nan))
    return np.array(pairs).reshape(-1, 3).T


def assert_equal(found, wanted):
    np.testing.assert_array_equal(found.left, wanted[0].astype(int))
    np.testing.assert_array_equal(found.right, wanted[1].astype(int))
    np.testing.assert_array_equal(found.separation_arcsec, wanted[2])


# Where spherical matching goes wrong: poles, the origin of right ascension, corners of cells.
CENTRES = [(0.0, 90.0), (0.0, -90.0), (0.0, 0.0), (359.9999, 0.0), (45.0, 41.8103), (123.4, -5.6)]


@st.composite
def clusters(draw):
    """Draw positions within a few arcsec of a difficult place; many of them coincide."""
    centre = draw(st.sampled_from(CENTRES))
    step = draw(st.sampled_from([0.1, 0.7, 1.0]))

    def positions():
        cells = st.tuples(st.integers(-4, 4), st.integers(-4, 4))
        x, y = np.array(draw(st.lists(cells, max_size=14)), float).reshape(-1, 2).T * step / 3600
        ra, dec = centre[0] + x / np.cos(np.radians(min(abs(centre[1]), 89.9))), centre[1] + y
        over = np.abs(dec) > 90
        dec = np.where(over, np.sign(dec) * 180 - dec, dec)
        return (ra + 180 * over) % 360, dec

    return positions(), positions()


@given(clusters(), st.sampled_from(["inner", "left"]), st.booleans())
def test_equals_brute_force(skies, how, one_to_one):
    found = match_coordinates(*skies[0], *skies[1], RADIUS, how=how, one_to_one=one_to_one)
    assert_equal(found, brute_force(*skies, RADIUS, how=how, one_to_one=one_to_one))


@given(clusters(), st.integers(2, 4), st.sampled_from([1, 10**6]))
def test_n_nearest_equals_brute_force(skies, n, chunk):
    kept, kernel._CHUNK = kernel._CHUNK, chunk
    try:
        found = match_coordinates(*skies[0], *skies[1], RADIUS, one_to_one=False, n_neighbors=n)
    finally:
        kernel._CHUNK = kept
    assert_equal(found, brute_force(*skies, RADIUS, one_to_one=False, n=n))


def random_sky(seed, count):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))


@pytest.mark.parametrize("radius", [3600, 20_000, 648_000])
def test_wide_radius_on_the_whole_sky(radius):
    left, right = random_sky(1, 200), random_sky(2, 150)
    assert_equal(match_coordinates(*left, *right, radius), brute_force(left, right, radius))


def test_nearest_agrees_with_astropy():
    left, right = random_sky(3, 3000), random_sky(4, 2000)
    found = match_coordinates(*left, *right, 648_000, one_to_one=False)
    index, angle, _ = SkyCoord(*left, unit="deg").match_to_catalog_sky(SkyCoord(*right, unit="deg"))
    np.testing.assert_array_equal(found.right, index)
    np.testing.assert_allclose(found.separation_arcsec, angle.arcsec, rtol=1e-12)


def test_each_row_is_used_once():
    left, right = random_sky(5, 2000), random_sky(6, 2000)
    found = match_coordinates(*left, *right, 7200)
    assert len(found) > 500
    assert len(set(found.left)) == len(set(found.right)) == len(found)


def test_all_at_one_place():
    """What a column of zeros instead of positions gives: one pair, and no explosion."""
    found = match_coordinates(np.zeros(500), np.zeros(500), np.zeros(400), np.zeros(400), 1)
    assert (found.left.tolist(), found.right.tolist()) == ([0], [0])
    assert found.separation_arcsec.tolist() == [0.0]


@pytest.mark.parametrize("how", ["inner", "left"])
@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 3), (3, 0)])
def test_empty(left, right, how):
    found = match_coordinates(*random_sky(0, left), *random_sky(1, right), 1, how=how)
    assert len(found) == (left if how == "left" else 0)
    assert not found.present.any()


@given(st.integers(0, 12), st.floats(-89, 89), st.floats(0, 359))
def test_tiny_separations_are_exact(exponent, dec, ra):
    """An arc cosine would give zero below 0.003 arcsec."""
    moved = ra + 10.0**-exponent / 3600
    wanted = (moved - ra) * 3600 * np.cos(np.radians(dec))
    assert separation_arcsec(ra, dec, moved, dec) == pytest.approx(wanted, rel=1e-9)


def test_separations_agree_with_astropy():
    left, right = random_sky(7, 1000), random_sky(8, 1000)
    wanted = np.degrees(angular_separation(*np.radians([*left, *right]))) * 3600
    np.testing.assert_allclose(separation_arcsec(*left, *right), wanted, rtol=1e-12)


@pytest.mark.parametrize("years", [-100.0, 15.5, 200.0])
def test_propagation_agrees_with_astropy(years):
    rng = np.random.default_rng(9)
    ra, dec = random_sky(9, 50)
    ra[:3], dec[:3] = [0.0, 359.99999, 10.0], [89.9999, 0.0, -89.9999]
    pm_ra, pm_dec = rng.normal(0, 3000, (2, 50))
    # A distance, so that astropy does not complete the motion with an infinite one.
    star = SkyCoord(
        ra * u.deg,
        dec * u.deg,
        distance=np.full(50, 10) * u.pc,
        pm_ra_cosdec=pm_ra * u.mas / u.yr,
        pm_dec=pm_dec * u.mas / u.yr,
        radial_velocity=np.zeros(50) * u.km / u.s,
        obstime=Time(2016.0, format="jyear", scale="tdb"),
    )
    later = Time(2016.0 + years, format="jyear", scale="tdb")
    wanted = star.apply_space_motion(new_obstime=later)
    found = propagate(ra, dec, pm_ra, pm_dec, years)
    angle = separation_arcsec(*found, wanted.ra.deg, wanted.dec.deg)
    assert angle.max() < 1e-3 * np.abs(years) / 100  # astropy adds the light travel time


def test_standing_still():
    ra, dec = np.array([0.0, 12.5, 359.999]), np.array([90.0, 3.0, -90.0])
    assert separation_arcsec(*propagate(ra, dec, 0.0, 0.0, 100), ra, dec).max() < 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius_arcsec": 0}, "radius_arcsec must be positive"),
        ({"radius_arcsec": np.nan}, "radius_arcsec must be positive"),
        ({"how": "right"}, "how must be 'inner' or 'left'"),
        ({"n_neighbors": 0}, "n_neighbors must be a positive integer"),
        ({"n_neighbors": 2}, "say one_to_one=False"),
        ({"ra2": [0.0, np.nan]}, "right row 1 is at ra=nan"),
        ({"dec1": [0.0, 90.1]}, r"left row 1 is at ra=1.0, dec=90.1"),
        ({"dec1": [0.0]}, r"found shapes \(2,\) and \(1,\)"),
    ],
)
def test_refuses(change, message):
    good = {"ra1": [0, 1.0], "dec1": [0, 1], "ra2": [0, 1.0], "dec2": [0, 1], "radius_arcsec": 1}
    with pytest.raises(ValueError, match=message):
        match_coordinates(**{**good, **change})


# Matches of stores.


def objects(survey, ra, dec, ids=None, **moving):
    count = len(ra)
    return SkyObjects(
        survey=survey,
        object_id=np.arange(count) if ids is None else ids,
        ra_deg=ra,
        dec_deg=dec,
        observations=Observations({f"{survey}_number": Scalar(np.arange(count))}),
        **{name: Scalar(value) for name, value in moving.items()},
    )


def store(folder, sky, **options):
    path = folder / sky.survey
    return open_store(write_store([sky], path, **{"margin_arcsec": 0, "epochs": "any", **options}))


def canonical(ra, dec, ids):
    """Return the order in which a match of stores settles ties."""
    return np.lexsort((ids, healpix29(ra, dec)))


def sky_with_traps(seed, count=400):
    """Return a sky with objects at the poles, around the origin, at cell corners and duplicates."""
    rng = np.random.default_rng(seed)
    ra, dec = random_sky(seed, count)
    for number, (centre_ra, centre_dec) in enumerate(CENTRES):
        some = slice(30 * number, 30 * (number + 1))
        ra[some] = (centre_ra + rng.normal(0, 0.6, 30)) % 360
        dec[some] = np.clip(centre_dec + rng.normal(0, 0.6, 30), -90, 90)
    ra[300:320], dec[300:320] = ra[:20], dec[:20]
    return ra, dec


@pytest.fixture(scope="module")
def two_skies(tmp_path_factory):
    """Return two skies and the stores of them, one in many partitions, one in few."""
    skies = {"one": sky_with_traps(1), "two": sky_with_traps(2)}
    skies["two"][0][:15], skies["two"][1][:15] = skies["one"][0][:15], skies["one"][1][:15]
    # Equally near, on the two sides of a corner of base cells.
    skies["one"][0][320:322], skies["one"][1][320:322] = 45.0, [-0.01, 0.01]
    skies["two"][0][320], skies["two"][1][320] = 45.0, 0.0
    folder = tmp_path_factory.mktemp("skies")
    rng = np.random.default_rng(3)
    ids = {name: rng.permutation(400) for name in skies}
    ids["two"] = ids["two"].astype(str)
    many, few = {"max_rows": 40}, {"max_rows": 150}
    stores = [
        store(folder, objects(name, *skies[name], ids[name]), **options)
        for name, options in (("one", many), ("two", few))
    ]
    return skies, ids, stores


@pytest.mark.parametrize(("one_to_one", "n"), [(True, 1), (False, 1), (False, 3)])
@pytest.mark.parametrize("block_rows", [1, 120, 10**6])
def test_stores_equal_the_whole_sky(two_skies, one_to_one, n, block_rows, monkeypatch):
    skies, ids, stores = two_skies
    monkeypatch.setattr(partitions, "_BLOCK_ROWS", block_rows)
    options = {"one_to_one": one_to_one, "n_neighbors": n}
    pairs = match(*stores, radius_arcsec=5000, **options)
    orders = {name: canonical(*skies[name], ids[name]) for name in skies}
    one, two = ([c[orders[name]] for c in skies[name]] for name in skies)
    wanted = brute_force(one, two, 5000, one_to_one=one_to_one, n=n)
    expected = {
        (ids["one"][orders["one"]][int(i)], ids["two"][orders["two"]][int(j)], s)
        for i, j, s in wanted.T
    }
    table = pairs.to_table()
    columns = ("one.object_id", "two.object_id", "two.separation_arcsec")
    assert len(pairs) == len(expected) > 100
    assert set(zip(*(table[c].tolist() for c in columns), strict=True)) == expected
    assert (np.diff(pairs.rows["one"]) >= 0).all()


def test_left_match_keeps_every_object(two_skies):
    *_, stores = two_skies
    pairs = match(*stores, radius_arcsec=5000, how="left")
    inner = match(*stores, radius_arcsec=5000)
    present = pairs.present["two"]
    assert pairs.rows["one"].tolist() == list(range(400))
    assert present.sum() == len(inner)
    assert (pairs.rows["two"][present] == inner.rows["two"]).all()
    assert (pairs.rows["two"][~present] == -1).all()
    assert np.isnan(pairs.separation_arcsec[~present]).all()
    assert (pairs.to_table()["two.object_id"].mask == ~present).all()


def test_groups_of_three(two_skies, tmp_path):
    _, _, (one, two) = two_skies
    three = store(tmp_path, objects("three", *sky_with_traps(4)))
    groups = match(one, two, three, radius_arcsec=5000, how="left")
    for number, other in enumerate((two, three)):
        pairs = match(one, other, radius_arcsec=5000, how="left")
        assert (groups.rows[other.name] == pairs.rows[other.name]).all()
        np.testing.assert_array_equal(groups.separation_arcsec[:, number], pairs.separation_arcsec)
    for rows in groups.rows.values():
        assert len(set(rows[rows >= 0])) == (rows >= 0).sum()
    whole = match(one, two, three, radius_arcsec=5000)
    complete = groups.present["two"] & groups.present["three"]
    assert 0 < complete.sum() == len(whole)
    assert (whole.rows["three"] == groups.rows["three"][complete]).all()


def test_fast_stars_are_found_at_a_common_epoch(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    ra, dec = random_sky(5, 300)
    ra[:100], dec[:100] = ra[:100] % 1, rng.choice([89.99, -89.99, 0.001], 100)
    pm_ra, pm_dec = rng.normal(0, 5e5, (2, 300))  # minutes of arc a year: they change partition
    pm_ra[::7] = pm_dec[::7] = np.nan
    known = np.isfinite(pm_ra)
    gaia = store(
        tmp_path,
        objects("gaia", ra, dec, epoch=np.full(300, 2016.0), pm_ra=pm_ra, pm_dec=pm_dec),
        max_rows=60,
    )
    still = np.nan_to_num(pm_ra), np.nan_to_num(pm_dec)
    later = propagate(ra, dec, *still, np.where(known, 10.0, 0.0))
    order = rng.permutation(300)
    second = store(
        tmp_path,
        objects("second", later[0][order], later[1][order], ids=order.astype(str)),
        max_rows=60,
    )
    for block_rows in (50, 10**6):
        monkeypatch.setattr(partitions, "_BLOCK_ROWS", block_rows)
        table = match(gaia, second, radius_arcsec=0.01, epoch=2026.0).to_table()
        assert len(table) == 300
        assert (table["gaia.object_id"] == table["second.object_id"].astype(int)).all()
        assert len(match(gaia, second, radius_arcsec=0.01)) == (~known).sum()


def test_proper_motion_without_epoch_is_refused(tmp_path):
    moving = {"pm_ra": np.ones(4), "pm_dec": np.ones(4)}
    plain = store(tmp_path, objects("plain", *random_sky(0, 4)))
    never = store(tmp_path, objects("never", *random_sky(0, 4), **moving))
    some = objects("some", *random_sky(0, 4), **moving, epoch=np.array([2016, np.nan, 2016, 2016]))
    some = store(tmp_path, some)
    with pytest.raises(ValueError, match="has proper motions but no epoch"):
        len(match(plain, never, radius_arcsec=1, epoch=2016.0))
    with pytest.raises(ValueError, match="1 objects have a proper motion but no epoch"):
        len(match(plain, some, radius_arcsec=1, epoch=2016.0))


def test_save_and_open(two_skies, tmp_path):
    *_, stores = two_skies
    pairs = match(*stores, radius_arcsec=5000, how="left", names=["a", "b"])
    path = pairs.save(tmp_path / "a_x_b")
    found = Match.open(path)
    assert found.options == pairs.options
    assert found.names == ("a", "b")
    for name in "ab":
        assert (found.rows[name] == pairs.rows[name]).all()
    np.testing.assert_array_equal(found.separation_arcsec, pairs.separation_arcsec)
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        pairs.save(path)
    pairs[:3].save(path, overwrite=True)
    assert len(Match.open(path, stores)) == 3
    with pytest.raises(FileExistsError, match="is no match, and is not replaced"):
        pairs.save(stores[0].path, overwrite=True)


def test_another_store_is_refused(two_skies, tmp_path):
    *_, (one, two) = two_skies
    path = match(one, two, radius_arcsec=1).save(tmp_path / "pairs")
    again = store(tmp_path, objects("one", *random_sky(7, 10)))
    with pytest.raises(ValueError, match=r"is not the store that .* was made of"):
        Match.open(path, [again, two])
    with pytest.raises(ValueError, match="is of 2 stores; found 1"):
        Match.open(path, [one])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "match.json").write_text("{"), "is not a readable match"),
        (lambda p: (p / "match.json").write_text('{"kind": "store"}'), "is not a readable match"),
        (lambda p: (p / "index.parquet").write_bytes(b"PAR1"), "is not a readable match"),
        (lambda p: (p / "index.parquet").unlink(), "has no index.parquet"),
    ],
)
def test_damaged_match(two_skies, tmp_path, damage, message):
    path = match(*two_skies[2], radius_arcsec=1).save(tmp_path / "pairs")
    damage(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Match.open(path)


def test_flipped_bit_in_a_match(two_skies, tmp_path):
    path = match(*two_skies[2], radius_arcsec=1).save(tmp_path / "pairs") / "index.parquet"
    chunk = pq.read_metadata(path).row_group(0).column(2)
    content = bytearray(path.read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    content[begin + chunk.total_compressed_size - 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not a readable match"):
        Match.open(path.parent)


def test_part_of_a_match(two_skies):
    pairs = match(*two_skies[2], radius_arcsec=5000)
    part = pairs[pairs.separation_arcsec > 2500]
    assert 0 < len(part) < len(pairs)
    assert (part.separation_arcsec > 2500).all()
    assert pairs[[4, 2]].rows["two"].tolist() == pairs.rows["two"][[4, 2]].tolist()


def test_match_is_lazy_and_says_what_it_is(two_skies, monkeypatch):
    *_, stores = two_skies
    pairs = match(*stores, radius_arcsec=5000)
    assert repr(pairs) == "Match(one × two within 5000 arcsec; not computed yet)"
    assert f"{len(pairs)} groups" in repr(pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius_arcsec": -1}, "radius_arcsec must be positive"),
        ({"names": ["a", "a"]}, "as many different names"),
        ({"names": ["a.b", "c"]}, "without dots"),
        ({"epoch": 16.0}, "epoch must be a Julian year"),
    ],
)
def test_match_refuses(two_skies, change, message):
    with pytest.raises(ValueError, match=message):
        match(*two_skies[2], **{"radius_arcsec": 1, **change})


def test_one_store_twice_needs_names(two_skies):
    *_, (one, two) = two_skies
    with pytest.raises(ValueError, match="as many different names"):
        match(one, one, radius_arcsec=1)
    with pytest.raises(ValueError, match="n_neighbors=2 is for two stores"):
        match(one, two, one, radius_arcsec=1, n_neighbors=2, one_to_one=False, names="abc")


def test_dask_gives_the_same(two_skies, monkeypatch):
    distributed = pytest.importorskip("dask.distributed")
    *_, stores = two_skies
    monkeypatch.setattr(partitions, "_BLOCK_ROWS", 100)
    options = {"processes": False, "dashboard_address": None, "n_workers": 1}
    with distributed.Client(**options, threads_per_worker=1) as client:
        found = match(*stores, radius_arcsec=5000, client=client)
        wanted = match(*stores, radius_arcsec=5000)
        for name in found.names:
            assert (found.rows[name] == wanted.rows[name]).all()
        np.testing.assert_array_equal(found.separation_arcsec, wanted.separation_arcsec)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lsdb_finds_the_same_pairs(tmp_path):
    pytest.importorskip("lsdb")
    rng = np.random.default_rng(8)
    ra, dec = rng.uniform(0, 30, 500), rng.uniform(-20, 20, 500)
    one = store(tmp_path, objects("one", ra, dec), margin_arcsec=10, max_rows=200)
    near = ra + rng.normal(0, 1, 500) / 3600, dec + rng.normal(0, 1, 500) / 3600
    near = near[0] % 360, near[1]
    two = store(tmp_path, objects("two", *near), margin_arcsec=10, max_rows=200)
    found, wanted = match_with_lsdb(one, two, 2.0), match(one, two, radius_arcsec=2.0)
    assert len(wanted) > 300
    assert (found.rows["one"] == wanted.rows["one"]).all()
    assert (found.rows["two"] == wanted.rows["two"]).all()
    np.testing.assert_array_equal(found.separation_arcsec, wanted.separation_arcsec)
    with pytest.raises(ValueError, match="has a margin of 10 arcsec, narrower than the radius"):
        match_with_lsdb(one, two, 20.0)
