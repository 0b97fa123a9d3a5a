"""Neighbours and segmentation maps of Legacy Survey objects, from their tables."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table

from omnisky.modalities import Catalog, Modality, SegmentationMap
from omnisky.surveys import legacysurvey, modality
from omnisky.surveys.legacysurvey.neighbours import (
    FILL,
    Neighbours,
    Placed,
    sources_in,
    surroundings_of,
)

SCALE, SIZE = 0.262, 96
NAMES = ("legacysurvey_catalog", "legacysurvey_segmentation")


def table(kinds, west, north, *, r=2.0, e1=0.0, e2=0.0, at=(150.0, 2.0), **more):
    """Return columns of a tractor table with sources at offsets in arcsec from a position."""
    count = len(kinds)
    centre = SkyCoord(*at, unit="deg")
    # astropy counts offsets to the east.
    places = centre.spherical_offsets_by(
        -np.asarray(west) / 3600 * _deg(), np.asarray(north) / 3600 * _deg()
    )
    pointlike = np.isin(kinds, ("PSF", "DUP"))
    return {
        "RELEASE": np.full(count, 10000, np.int16),
        "BRICKID": np.full(count, 330248, np.int32),
        "OBJID": np.arange(count, dtype=np.int32),
        "TYPE": np.array(kinds, "S4"),
        "RA": places.ra.deg,
        "DEC": places.dec.deg,
        "BRICK_PRIMARY": np.ones(count, bool),
        "SHAPE_R": np.where(pointlike, 0, np.broadcast_to(r, count)).astype("f4"),
        "SHAPE_E1": np.where(pointlike, 0, np.broadcast_to(e1, count)).astype("f4"),
        "SHAPE_E2": np.where(pointlike, 0, np.broadcast_to(e2, count)).astype("f4"),
        "PSFSIZE_R": np.full(count, 1.2, "f4"),
        **more,
    }


def _deg():
    from astropy import units as u

    return u.deg


def read(folder, columns, **options):
    path = folder / "tractor-1500p020.fits"
    Table(columns).write(path, overwrite=True)
    (objects,) = legacysurvey.read(path, surroundings=True, **options)
    return objects


def test_declarations():
    catalog, segmentation = map(modality, NAMES)
    assert (catalog.kind, catalog.size) == ("catalog", 20)
    assert (segmentation.kind, segmentation.size) == ("map", SIZE)
    assert segmentation.pixel_scale_arcsec == SCALE
    facts = {"name": "a_b", "survey": "a", "unit": "", "ucd": "x", "column": "b", "description": ""}
    with pytest.raises(ValueError, match="a map pixel_scale_arcsec"):
        Modality(kind="map", size=3, **facts)
    with pytest.raises(ValueError, match="need a size"):
        Modality(kind="catalog", **facts)


def test_sources_are_listed_nearest_first_the_object_itself_at_the_front(tmp_path):
    columns = table(["SER", "PSF", "REX", "EXP"], [0, 5, -3, 20], [0, 1, 0, 0], r=[2, 0, 1, 3])
    objects = read(tmp_path, columns)
    catalog = objects.observations["legacysurvey_catalog"]
    assert isinstance(catalog, Catalog)
    # The fourth source lies outside of the first one's cut-out, and the other way round.
    assert catalog.mask[:, :4].tolist() == [
        [True, True, True, False],
        [True, True, True, False],
        [True, True, True, False],
        [True, False, False, False],
    ]
    np.testing.assert_allclose(catalog.x[0, :3], [0, -3, 5], atol=1e-5)
    np.testing.assert_allclose(catalog.y[0, :3], [0, 0, 1], atol=1e-5)
    np.testing.assert_allclose(catalog.r[0, :3], [2, 1, 0])
    assert (catalog.x[:, 0] == 0).all()
    distance = np.hypot(catalog.x, catalog.y)
    assert all((np.diff(d[m]) >= 0).all() for d, m in zip(distance, catalog.mask, strict=True))


def test_it_is_an_option_and_costs_nothing_without(tmp_path):
    path = tmp_path / "tractor.fits"
    Table(table(["SER"], [0], [0])).write(path)
    (objects,) = legacysurvey.read(path)
    assert not set(NAMES) & set(objects.observations)


def test_neighbours_that_were_not_selected_count_all_the_same(tmp_path):
    columns = table(["SER", "PSF"], [0, 4], [0, 0])
    objects = read(tmp_path, columns, selection=lambda c: c["TYPE"] == "SER")
    assert len(objects) == 1
    assert objects.observations["legacysurvey_catalog"].mask.sum() == 2


def test_batches_are_the_same_whatever_their_size(tmp_path):
    rng = np.random.default_rng(0)
    kinds = rng.choice(["PSF", "REX", "EXP", "DEV", "SER"], 40)
    columns = table(kinds, *rng.uniform(-30, 30, (2, 40)), r=rng.uniform(0.3, 14, 40))
    whole = read(tmp_path, columns).observations
    path = tmp_path / "tractor-1500p020.fits"
    parts = list(legacysurvey.read(path, surroundings=True, batch_size=7))
    for name, part in (("legacysurvey_catalog", "x"), ("legacysurvey_segmentation", "field")):
        found = [getattr(p.observations[name], part) for p in parts]
        np.testing.assert_array_equal(np.concatenate(found), getattr(whole[name], part))


def test_most_sources_are_20_and_the_nearest_are_kept(tmp_path):
    columns = table(["PSF"] * 30, np.linspace(0, 11, 30), np.zeros(30))
    catalog = read(tmp_path, columns).observations["legacysurvey_catalog"]
    assert catalog.mask[0].all()
    assert catalog.x[0].max() == pytest.approx(11 * 19 / 29, abs=1e-4)


@pytest.mark.parametrize("kind", ["PSF", "REX", "EXP", "DEV", "SER"])
def test_map_has_the_value_of_the_type_within_the_half_light_radius(tmp_path, kind):
    objects = read(tmp_path, table([kind], [0], [0], r=3.0))
    segmentation = objects.observations["legacysurvey_segmentation"]
    assert isinstance(segmentation, SegmentationMap)
    (field,) = segmentation.field
    assert set(np.unique(field)) == {np.float32(0), np.float32(FILL[kind])}
    radius = 0.6 if kind == "PSF" else 3.0
    assert (field > 0).sum() * SCALE**2 == pytest.approx(np.pi * radius**2, rel=0.2)
    # Symmetric about the middle of the cut-out, where the object is.
    np.testing.assert_array_equal(field, field[::-1, ::-1])
    assert segmentation.mask.all()


def test_position_angle_goes_from_north_through_east(tmp_path):
    # e1 < 0: the long axis lies east-west; e2 > 0: north-east, which is up and to the left.
    (flat,) = _field(tmp_path, e1=-0.5)
    assert np.ptp(np.nonzero(flat)[1]) > 2 * np.ptp(np.nonzero(flat)[0])
    (tilted,) = _field(tmp_path, e2=0.5)
    y, x = np.nonzero(tilted)
    assert np.corrcoef(x, y)[0, 1] < -0.5


def _field(folder, **shape):
    objects = read(folder, table(["SER"], [0], [0], r=4.0, **shape))
    return objects.observations["legacysurvey_segmentation"].field


def test_the_smaller_source_lies_on_top(tmp_path):
    for order in (slice(None), slice(None, None, -1)):
        columns = table(["SER", "PSF"][order], [0, 1][order], [0, 0], r=[5, 5])
        objects = read(tmp_path, columns)
        at = 0 if order == slice(None) else 1
        field = objects.observations["legacysurvey_segmentation"].field[at]
        assert {np.float32(0.2), np.float32(1)} <= set(np.unique(field))


def test_a_large_galaxy_outside_of_the_cut_out_reaches_into_it(tmp_path):
    objects = read(tmp_path, table(["PSF", "DEV"], [0, 40], [0, 0], r=[0, 35.0]))
    assert objects.observations["legacysurvey_catalog"].mask[0].sum() == 1
    field = objects.observations["legacysurvey_segmentation"].field[0]
    assert field[SIZE // 2, -1] == np.float32(0.8)
    assert field[SIZE // 2, 0] == 0


def test_duplicates_of_gaia_are_no_sources(tmp_path):
    objects = read(tmp_path, table(["SER", "DUP"], [0, 2], [0, 0]))
    assert objects.observations["legacysurvey_catalog"].mask.sum(1).tolist() == [1, 1]
    # The DUP row is an object of the table still; the source nearest to it is the galaxy.
    assert objects.observations["legacysurvey_catalog"].x[1, 0] == pytest.approx(-2, abs=1e-4)


def test_an_object_without_any_source_has_neither():
    sources = Placed(
        **dict.fromkeys(("x", "y", "kind", "r", "e1", "e2", "psf_radius"), np.empty(0))
    )
    found = surroundings_of(np.empty(0, int), sources, 2)
    assert not found["legacysurvey_catalog"].present.any()
    assert not found["legacysurvey_segmentation"].present.any()
    about = Neighbours(sources).about(np.array([10.0]), np.array([0.0]))
    assert not about["legacysurvey_catalog"].present.any()


@pytest.mark.parametrize("place", [(0.0001, 0.0), (120.0, 89.99), (0.0, -60.0)])
def test_offsets_near_the_pole_and_across_zero(tmp_path, place):
    objects = read(tmp_path, table(["SER", "PSF"], [0, 6], [0, -7], at=place))
    catalog = objects.observations["legacysurvey_catalog"]
    assert catalog.x[0, 1] == pytest.approx(6, abs=1e-3)
    assert catalog.y[0, 1] == pytest.approx(-7, abs=1e-3)


def test_a_damaged_table_is_refused(tmp_path):
    path = tmp_path / "tractor.fits"
    path.write_bytes(b"SIMPLE  = nothing")
    with pytest.raises(ValueError, match=r"tractor\.fits"):
        sources_in(path)


@pytest.mark.real_data
def test_real_tables_of_dr8(real_data):
    for path in sorted((real_data / "native" / "legacysurvey").glob("tractor-*.fits")):
        for objects in legacysurvey.read(path, surroundings=True):
            found = objects.observations
            catalog, segmentation = (found[name] for name in NAMES)
            assert catalog.present.all()
            assert (np.hypot(catalog.x, catalog.y)[:, 0] == 0).all()
            radius = found["legacysurvey_shape_r"]
            np.testing.assert_allclose(catalog.r[:, 0], radius.value, rtol=1e-6)
            kinds = np.array(["", *legacysurvey.TYPES])[
                found["legacysurvey_type"].value.astype(int)
            ]
            middle = segmentation.field[:, 47:49, 47:49]
            own = np.array([FILL[kind] for kind in kinds.tolist()])
            assert np.isclose(middle, own[:, None, None]).any((1, 2)).mean() > 0.8
