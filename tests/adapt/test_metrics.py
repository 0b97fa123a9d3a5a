import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from omnisky.adapt import metrics

floats = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=50)


def test_robust_scatter_is_sigma_of_normal_numbers_despite_outliers():
    residual = np.random.default_rng(0).normal(3.0, 2.0, 20_000)
    residual[:200] = 1e6
    assert metrics.robust_scatter(residual) == pytest.approx(2.0, rel=0.03)
    assert metrics.bias(residual) == pytest.approx(3.0, abs=0.1)


@given(floats)
def test_scatter_ignores_shifts_and_scales_with_unit(values):
    values = np.array(values)
    assert metrics.robust_scatter(values + 5) == pytest.approx(
        metrics.robust_scatter(values), abs=1e-6
    )
    assert metrics.robust_scatter(3 * values) == pytest.approx(
        3 * metrics.robust_scatter(values), abs=1e-6
    )


def test_r2_equals_scikit_learn_and_leaves_unknown_out():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=30)
    predicted = truth + 0.1 * rng.normal(size=30)
    expected = r2_score(truth, predicted)
    gaps = np.append(truth, np.nan)
    assert metrics.r2(np.append(predicted, 1.0) - gaps, gaps) == pytest.approx(expected)


def test_sigma_nmad_divides_by_one_plus_redshift():
    truth = np.array([0.0, 1.0, 3.0])
    assert metrics.sigma_nmad(0.1 * (1 + truth) * [-1, 0, 1], truth) == pytest.approx(0.14826)


def test_coverage_leaves_unknown_truths_out():
    assert metrics.coverage([0.5, np.nan, 2.0], np.zeros(3), np.ones(3)) == 0.5


def test_bootstrap_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(2).normal(size=400)
    lower, upper = metrics.bootstrap_interval(np.mean, values, seed=3)
    assert upper - lower == pytest.approx(2 * values.std() / 20, rel=0.15)
    assert metrics.bootstrap_interval(np.mean, values, seed=3) == (lower, upper)


@pytest.mark.parametrize("level", [0.0, 1.0, 68])
def test_bootstrap_refuses_levels(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        metrics.bootstrap_interval(np.mean, [1.0], level=level)


def test_bootstrap_refuses_different_lengths():
    with pytest.raises(ValueError, match=r"found \[1, 2\]"):
        metrics.bootstrap_interval(np.mean, [1.0], [1.0, 2.0])


def test_nothing_known_is_refused():
    with pytest.raises(ValueError, match="no known value among 2"):
        metrics.bias([np.nan, np.nan])
