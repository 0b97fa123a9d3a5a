"""Calibration of generated scalars: known posteriors, bad input."""

import numpy as np
import pytest

from omnisky.model.generation import ScalarPosterior, calibration_of, mean_crps
from omnisky.model.generation.calibration import share_interval

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


@pytest.mark.parametrize(("width", "shift"), [(0.4, 0.0), (2.5, 0.0), (0.6, 0.5)])
def test_recalibrated_by_some_objects_others_are_right(drawn, width, shift):
    means, truth = drawn
    known, new = slice(0, 2000), slice(2000, 4000)
    learned = calibration_of(gaussians(means[known] + shift, width), truth[known])
    wrong = gaussians(means[new] + shift, width)
    mended = learned.recalibrate(wrong)
    np.testing.assert_allclose(mended.probabilities.sum(1), 1, rtol=1e-12)
    found = calibration_of(mended, truth[new])
    for level, (share, *_) in found.coverage.items():
        assert abs(share - level) < 0.03
    assert found.distance < 1.63 * (2 / 2000) ** 0.5  # 1 %, the known ones are a sample, too
    assert mean_crps(mended, truth[new]) < mean_crps(wrong, truth[new])
    # The best possible one: N(m, 1) with the truth drawn from it has 1 / sqrt(pi).
    assert mean_crps(mended, truth[new]) == pytest.approx(np.pi**-0.5, rel=0.05)


def test_recalibrated_samples_follow_the_new_posterior_in_their_order(drawn):
    means, truth = drawn
    learned = calibration_of(gaussians(means, 0.5), truth)
    one = gaussians(np.zeros(1), 0.5)
    rng = np.random.default_rng(1)
    draws = rng.choice(VALUES, size=(20_000, 1), p=one.probabilities[0])
    mended = learned.recalibrate(ScalarPosterior(VALUES, one.probabilities, draws))
    assert np.isin(mended.samples, VALUES).all()
    assert mended.samples.std() == pytest.approx(mended.std[0], rel=0.03)
    assert mended.std[0] == pytest.approx(1, rel=0.1)
    order = np.argsort(draws[:, 0], kind="stable")
    apart = np.diff(draws[order, 0]) > 0
    assert (np.diff(mended.samples[order, 0])[apart] >= 0).all()
    again = learned.recalibrate(ScalarPosterior(VALUES, one.probabilities, draws))
    np.testing.assert_array_equal(again.samples, mended.samples)


def test_targets_that_have_nothing_to_do_with_each_other_still_have_not(drawn):
    truth, rng = drawn[1], np.random.default_rng(2)
    mended = []
    for values in (np.linspace(-8, 8, 6), np.linspace(-80, 80, 6)):
        # Few bins, so that much depends on where in its bin a sample lies.
        density = np.exp(-0.5 * (values / values[-1] * 8 / 1.5) ** 2)
        chance = np.tile(density / density.sum(), (4000, 1))
        draws = rng.choice(values, size=(3000, 1), p=chance[0])
        learned = calibration_of(ScalarPosterior(values, chance, np.zeros((1, 4000))), truth)
        mended.append(learned.recalibrate(ScalarPosterior(values, chance[:1], draws)).samples[:, 0])
    assert abs(np.corrcoef(*mended)[0, 1]) < 0.06


def test_truths_beyond_the_outer_bin_lie_beyond_the_posterior():
    values, chance = np.arange(3.0), np.tile([0.0, 0.0, 1.0], (100, 1))
    piled = ScalarPosterior(values, chance, np.zeros((1, 100)))
    assert (calibration_of(piled, np.full(100, 20.0)).pit == 1).all()
    assert (calibration_of(piled, np.full(100, -20.0)).pit == 0).all()


def test_right_posteriors_are_left_as_they_are(drawn):
    means, truth = drawn
    right = gaussians(means, 1.0)
    mended = calibration_of(right, truth).recalibrate(right)
    np.testing.assert_allclose(mended.std, right.std, rtol=0.05)
    np.testing.assert_allclose(mended.mean, right.mean, atol=0.06)


def test_truths_beyond_all_bins(drawn):
    means, truth = drawn
    outside = np.where(np.arange(4000) % 4, truth, 20.0)
    right = gaussians(means, 1.0)
    mended = calibration_of(right, outside).recalibrate(right)
    assert (mended.probabilities >= 0).all()
    far = (mended.probabilities * (VALUES > means[:, None] + 3)).sum(1)
    np.testing.assert_allclose(far[means < 3], 0.25, atol=0.01)


def test_crps_of_a_value_is_its_distance_and_of_a_gaussian_as_known():
    one = ScalarPosterior(np.array([0.0, 1.0, 3.0]), np.array([[0.0, 1.0, 0.0]]), np.zeros((1, 1)))
    for truth, distance in ((1.0, 0.0), (2.5, 1.5), (-2.0, 3.0), (4.0, 3.0)):
        assert mean_crps(one, np.array([truth])) == pytest.approx(distance)
    # Gneiting et al. 2005, MWR 133, 1098.
    z = 0.7
    density, below = np.exp(-(z**2) / 2) / (2 * np.pi) ** 0.5, 0.758036
    known = z * (2 * below - 1) + 2 * density - np.pi**-0.5
    found = mean_crps(gaussians(np.zeros(2), 1.0), np.array([z, np.nan]))
    assert found == pytest.approx(known, rel=1e-3)


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
    few = calibration_of(gaussians(drawn[0][:49], 1.0), drawn[1][:49])
    with pytest.raises(ValueError, match="needs 50 objects whose truth is known; found 49"):
        few.recalibrate(posterior)
    enough = calibration_of(gaussians(drawn[0][:50], 1.0), drawn[1][:50])
    other = ScalarPosterior(VALUES[::2], posterior.probabilities[:, ::2], posterior.samples)
    with pytest.raises(ValueError, match=r"bins from -8 to 8, 801 in all; the posterior has 401"):
        enough.recalibrate(other)
    with pytest.raises(ValueError, match=r"must have shape \(3,\)"):
        mean_crps(posterior, np.zeros(2))
