"""Galaxy10 classes: what parameters say, and what seeing and noise leave of it."""

import numpy as np
import pytest

from omnisky.mock.population.galaxies.labels import GALAXY10, morph_true, morph_visible


def shape(**changes):
    """Return columns of one well-resolved face-on unbarred disk without arms, changed."""
    columns = dict(
        morphology=1, merger_ratio=0.0, merger_separation=np.nan, q_disk=0.9, q_bulge=0.9,
        n_arms=0, bar_length=0.0, bar_strength=0.0, bulge_fraction=0.1, arm_pitch=np.nan,
        arm_contrast=0.0, re_disk=8.0, re_bulge=1.0, tail_strength=0.0, clumpiness=0.0,
    )  # fmt: skip
    return {name: np.array([value]) for name, value in {**columns, **changes}.items()}


ARMS = dict(n_arms=2, arm_pitch=15.0, arm_contrast=0.5)
BAR = dict(bar_length=6.0, bar_strength=0.2)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "round smooth"),
        (dict(q_disk=0.6), "in-between round smooth"),
        (dict(morphology=0, bulge_fraction=1.0, q_bulge=0.35, re_bulge=8.0), "cigar-shaped smooth"),
        (dict(q_disk=0.2), "edge-on without bulge"),
        (dict(q_disk=0.2, bulge_fraction=0.3), "edge-on with bulge"),
        (ARMS, "unbarred tight spiral"),
        ({**ARMS, "arm_pitch": 30.0}, "unbarred loose spiral"),
        ({**ARMS, **BAR}, "barred spiral"),
        (dict(morphology=3, merger_ratio=0.5, merger_separation=6.0), "merging"),
        (dict(morphology=3, tail_strength=0.2), "disturbed"),
        (dict(morphology=2, clumpiness=0.4), "disturbed"),
    ],
)
def test_bright_and_large_galaxies_show_what_they_are(changes, name):
    columns = shape(**changes)
    assert GALAXY10[morph_true(columns)[0]] == name
    seen = morph_visible(columns, np.array([400.0]), np.array([1.2]), np.array([23.7]))
    assert GALAXY10[seen[0]] == name


@pytest.mark.parametrize(
    ("changes", "flux", "name"),
    [
        ({**ARMS, "re_disk": 2.0}, 400.0, "round smooth"),  # too small for arms
        (ARMS, 0.5, "round smooth"),  # too faint
        ({**ARMS, **BAR, "bar_length": 1.5}, 400.0, "unbarred tight spiral"),  # bar too short
        (dict(morphology=3, merger_ratio=0.5, merger_separation=0.8), 400.0, "round smooth"),
        (dict(morphology=3, merger_ratio=0.1, merger_separation=8.0), 400.0, "round smooth"),
        (dict(q_disk=0.2, re_disk=0.6, re_bulge=0.1), 40.0, "in-between round smooth"),
        (dict(q_disk=0.2, re_disk=0.25, re_bulge=0.1), 40.0, "round smooth"),
    ],
)
def test_seeing_and_noise_hide_structure(changes, flux, name):
    seen = morph_visible(shape(**changes), np.array([flux]), np.array([1.2]), np.array([23.7]))
    assert GALAXY10[seen[0]] == name
