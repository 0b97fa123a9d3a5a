"""The task: nested labelled subsets, from the train split alone, the same for ever."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisky.bench.stars import STARS
from omnisky.data import datasets
from omnisky.surveys import modality

MINI = datasets.load("gaia-apogee-mini")
FROZEN = [4161207239718108288, 1303433342095463680, 1096355277787006720]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), small=st.integers(1, 280), large=st.integers(1, 280))
def test_subsets_are_nested_within_a_seed_and_from_train(seed, small, large):
    small, large = sorted((small, large))
    few, many = (STARS.labelled(MINI, n, seed) for n in (small, large))
    np.testing.assert_array_equal(few, many[:small])
    assert len(np.unique(many)) == large
    assert (MINI.split[many] == "train").all()


def test_seeds_differ_and_row_order_does_not_matter():
    first, second = (STARS.labelled(MINI, 50, seed) for seed in (0, 1))
    assert set(first) != set(second)
    shuffled = MINI[np.random.default_rng(0).permutation(len(MINI))]
    again = shuffled.object_id[STARS.labelled(shuffled, 50, 0)]
    np.testing.assert_array_equal(again, MINI.object_id[first])


def test_first_stars_never_change():
    """A card of version 1 means these stars; another draw needs version 2."""
    assert MINI.object_id[STARS.labelled(MINI, 3, 0)].tolist() == FROZEN


def test_stars_without_any_label_are_not_drawn():
    labels = MINI.targets(*STARS.targets)
    unknown = dataclasses.replace(STARS, targets=("apogee_fe_h",), units=("dex",), goals={})
    rows = unknown.labelled(MINI, 200, 0)
    assert np.isfinite(labels[rows, 2]).all()


def test_too_many_labels_are_refused():
    with pytest.raises(ValueError, match="between 1 and that"):
        STARS.labelled(MINI, 1000, 0)


def test_declared_modalities_and_consistent_goals():
    for names in (*STARS.inputs.values(), STARS.targets):
        assert all(modality(name) for name in names)
    assert [modality(t).unit for t in STARS.targets] == list(STARS.units)
    assert {modality(t).role for t in STARS.targets} == {"label"}
    with pytest.raises(ValueError, match="one entry a target"):
        dataclasses.replace(STARS, units=("K",))
    with pytest.raises(ValueError, match="must increase"):
        dataclasses.replace(STARS, label_counts=(300, 100))
