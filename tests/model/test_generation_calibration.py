"""Calibration of generated scalars: known posteriors, bad input."""

import numpy as np
import pytest

from omnisky.model.generation import ScalarPosterior
from omnisky.model.generation.calibration import calibration_of, share_interval

VALUES = np.linspace(-8, 8, 801)


def gaussians(means, width):
    density = np.exp(-0.5 * ((VALUES - means[:, None]) / width) ** 2)
    chance = density / density.sum(1, keepdims=True)
    return ScalarPosterior(VALUES, chance, np.zeros((1, len(means))))


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    means = rng.normal(0, 2, 4000)
    return means, means + rng.normal(0, 1, 4000)


def test_right_posteriors_are_found_calibrated(drawn):
    means, truth = drawn
    found = calibration_of(gaussians(means, 1.0), truth)
    for level, (share, low, high) in found.coverage.items():
        assert low < share < high
        assert abs(share - level) < 0.025
    summary = found.to_dict()
    assert summary["distance"] < summary["distance_expected_below"]
    assert summary["pit_mean"] == pytest.approx(0.5, abs=0.02)
    assert summary["pit_std"] == pytest.approx(12**-0.5, abs=0.01)
    assert sum(summary["pit_histogram"]) == pytest.approx(1)
    assert summary["objects"] == 4000


@pytest.mark.parametrize(("width", "sign"), [(0.5, -1), (2.0, 1)])
def test_too_sure_and_too_unsure_are_told_apart(drawn, width, sign):
    means, truth = drawn
    found = calibration_of(gaussians(means, width), truth)
    assert all(sign * (share - level) > 0.02 for level, (share, *_) in found.coverage.items())
    assert found.distance > 0.05


def test_a_bias_shows_in_the_pit(drawn):
    means, truth = drawn
    assert calibration_of(gaussians(means + 1, 1.0), truth).pit.mean() < 0.3


def test_objects_without_truth_are_left_out(drawn):
    means, truth = drawn
    some = np.where(np.arange(4000) % 2, truth, np.nan)
    assert len(calibration_of(gaussians(means, 1.0), some).pit) == 2000


def test_interval_of_a_share():
    low, high = share_interval(90, 100)
    assert (low, high) == (pytest.approx(0.8256, abs=1e-3), pytest.approx(0.9448, abs=1e-3))
    assert share_interval(0, 10)[0] == pytest.approx(0, abs=1e-12)


def test_bad_input_is_refused(drawn):
    posterior = gaussians(drawn[0][:3], 1.0)
    with pytest.raises(ValueError, match=r"must have shape \(3,\)"):
        calibration_of(posterior, np.zeros(2))
    with pytest.raises(ValueError, match="0 finite"):
        calibration_of(posterior, np.full(3, np.nan))
    with pytest.raises(ValueError, match=r"levels lie between 0 and 1; found \[1\]"):
        calibration_of(posterior, np.zeros(3), levels=[1])
