import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnisky.adapt import FineTunedModel
from omnisky.adapt.conformal import ConformalScores, choose_blend, labels_to_blend
from omnisky.adapt.inputs import View
from omnisky.adapt.labels import TargetScale


def _scores(values):
    return ConformalScores(scores={"full": np.asarray(values, float)[:, None]}, method="split")


@given(st.integers(1, 300), st.floats(0.01, 0.99))
def test_quantile_is_the_smallest_rank_that_covers(n, coverage):
    least = np.ceil(coverage / (1 - coverage) - 1e-9)
    scores = _scores(np.random.default_rng(n).permutation(n) + 1)
    if n < least:
        with pytest.raises(ValueError, match=f"at least {least:.0f} calibration objects"):
            scores.quantile("full", coverage)
        return
    rank = scores.quantile("full", coverage)[0]
    assert rank / (n + 1) >= coverage - 1e-9
    assert (rank - 1) / (n + 1) < coverage


def test_nine_scores_suffice_for_ninety_percent():
    assert _scores(np.arange(9)).quantile("full", 0.9) == [8]
    with pytest.raises(ValueError, match=r"at least 9 .* found 8"):
        _scores(np.arange(8)).quantile("full", 0.9)


def test_unknown_labels_do_not_count():
    assert _scores([np.nan, *range(9)]).quantile("full", 0.9) == [8]


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, 90, np.nan, "0.9", None, [0.5, 0.9]])
def test_coverage_must_be_a_probability(coverage):
    with pytest.raises(ValueError, match="between 0 and 1"):
        _scores(np.arange(9)).quantile("full", coverage)


def _draw(rng, n):
    """Return features and a target with outliers, and noise that depends on the features."""
    x = rng.normal(size=(n, 4))
    y = x[:, 0] + np.exp(x[:, 1]) * rng.standard_t(2, size=n)
    return x, 5000 + 300 * y


def test_split_conformal_coverage_is_exact_over_repetitions():
    rng = np.random.default_rng(0)
    model = FineTunedModel(adaptation="linear").fit(*_draw(rng, 60))
    covered = []
    for _ in range(200):
        model.calibrate(*_draw(rng, 39))
        x, y = _draw(rng, 100)
        lower, upper = model.predict_interval(x, coverage=0.8)
        covered.append(np.mean((lower <= y) & (y <= upper)))
    # Theory: mean 32/40 = 0.8; its error over 200 repetitions is 0.005.
    assert np.mean(covered) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("adaptation", ["linear", "attentive"])
def test_intervals_of_the_fit_itself_cover(adaptation):
    rng = np.random.default_rng(1)
    x, y = _draw(rng, 400)
    model = FineTunedModel(adaptation=adaptation, epochs=15).fit(x, y)
    x, y = _draw(rng, 4000)
    for coverage in (0.5, 0.9):
        lower, upper = model.predict_interval(x, coverage)
        assert np.mean((lower <= y) & (y <= upper)) == pytest.approx(coverage, abs=0.05)
        predicted = model.predict(x)
        assert np.all((lower <= predicted) & (predicted <= upper))


def test_attentive_intervals_are_wider_where_the_noise_is_larger():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1500, 3))
    y = x[:, 0] + np.where(x[:, 1] > 0, 1.0, 0.05) * rng.normal(size=1500)
    lower, upper = FineTunedModel(epochs=20).fit(x, y).predict_interval(x)
    width = upper - lower
    assert np.median(width[x[:, 1] > 0.5]) > 3 * np.median(width[x[:, 1] < -0.5])


def test_a_few_hopeless_objects_do_not_rule_the_blend():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 1))
    hopeless = rng.random((200, 1)) < 0.05
    # The first is kept unless another is better; the last is better for the hopeless alone.
    spreads = ((30.0, 1.0), (30.0, 0.1), (8.0, 0.4))
    errors = [rng.normal(scale=np.where(hopeless, tail, bulk)) for tail, bulk in spreads]
    said = truth + np.stack(errors)
    truth[:20] = np.nan
    scale = TargetScale.fit(1e3 * rng.normal(size=(200, 1)))
    head = SimpleNamespace(shares=torch.tensor([1.0, 0.0, 0.0])[:, None, None])
    unit = SimpleNamespace(head=head, parts=lambda view: said[:, view.rows])
    views = [View.of_array(np.zeros((200, 1), dtype=np.float32))]
    chosen = np.ones(200, dtype=bool)
    choose_blend([unit], views, truth, chosen, dataclasses.replace(scale, low=-99.0, high=99.0))
    assert head.shares[1, 0, 0] >= 0.75


def test_predictions_with_intervals_are_those_of_both():
    x, y = _draw(np.random.default_rng(0), 80)
    model = FineTunedModel(adaptation="linear").fit(x, y)
    found = model.predict_with_interval(x, 0.8)
    for a, b in zip(found, (model.predict(x), *model.predict_interval(x, 0.8)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_that_choose_a_blend():
    assert labels_to_blend(499, 4000) == 0
    assert labels_to_blend(500, 4000) == 100
    assert labels_to_blend(500, 399) == 0
    assert labels_to_blend(20_000, 4000) == 500
