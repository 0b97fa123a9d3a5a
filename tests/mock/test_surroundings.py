"""Catalogues and maps of mock objects: of the neighbours that their images show, on request."""

import numpy as np
import pytest

from omnisky.mock import Universe
from omnisky.mock.surroundings import ON_REQUEST
from omnisky.mock.universe import modalities_of
from omnisky.modalities import Catalog, SegmentationMap

COLUMNS = ("x", "y", "e1", "e2", "r", "mask")


@pytest.fixture(scope="module")
def universe():
    return Universe(seed=3, n=60, size=96)


@pytest.fixture(scope="module")
def objects(universe):
    return universe.observe("legacysurvey", modalities=[*ON_REQUEST, "legacysurvey_shape_r"])


def test_they_are_made_on_request_only(universe):
    assert not set(ON_REQUEST) & set(modalities_of("legacysurvey"))
    assert not set(ON_REQUEST) & set(universe.observe("legacysurvey", [0, 1, 2]).observations)
    with pytest.raises(ValueError, match="hsc has no modality legacysurvey_catalog"):
        universe.observe("hsc", modalities=["legacysurvey_catalog"])


def test_the_object_itself_comes_first(objects):
    catalog, radius = (objects.observations[n] for n in (ON_REQUEST[0], "legacysurvey_shape_r"))
    assert isinstance(catalog, Catalog)
    assert catalog.mask[:, 0].all()
    assert (catalog.x[:, 0] == 0).all()
    np.testing.assert_allclose(catalog.r[:, 0], radius.value, rtol=1e-6)
    # 1 to 4 sources are usual in 25 × 25 arcsec at this depth.
    assert 1 < catalog.mask.sum(1).mean() < 6


def test_an_object_is_the_same_whatever_is_asked_for_with_it(universe, objects):
    numbers = np.flatnonzero(universe.truth["in_legacysurvey"])[[3, 9]]
    alone = universe.observations(numbers, ON_REQUEST)
    for name, parts in zip(ON_REQUEST, (COLUMNS, ("field", "mask")), strict=True):
        for part in parts:
            expected = getattr(objects.observations[name], part)[[3, 9]]
            np.testing.assert_array_equal(getattr(alone[name], part), expected)


def test_objects_that_the_survey_lacks_have_neither(universe):
    outside = np.flatnonzero(~np.asarray(universe.truth["in_legacysurvey"]))
    some = np.concatenate([outside[:2], np.flatnonzero(universe.truth["in_legacysurvey"])[:2]])
    found = universe.observations(some, ON_REQUEST)
    expected = np.asarray(universe.truth["in_legacysurvey"])[some]
    for name in ON_REQUEST:
        np.testing.assert_array_equal(found[name].present, expected)
    if len(outside):
        nothing = universe.observations(outside[:1], ON_REQUEST)
        assert not any(m.present.any() for m in nothing.values())


def test_bright_neighbours_in_the_image_are_listed(universe, objects):
    """The light of the image lies where the map has sources."""
    shown = universe.observe("legacysurvey", modalities=["legacysurvey_image"]).observations
    image, segmentation = shown["legacysurvey_image"], objects.observations[ON_REQUEST[1]]
    assert isinstance(segmentation, SegmentationMap)
    r = image.bands.index("r")
    inside, outside = [], []
    for flux, good, field in zip(
        image.flux[:, r], image.mask[:, r], segmentation.field, strict=True
    ):
        inside.append(flux[(field > 0) & good].mean())
        outside.append(flux[(field == 0) & good].mean())
    assert np.median(np.array(inside) / np.array(outside)) > 10
