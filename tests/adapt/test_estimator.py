import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from omnisky.adapt import FineTunedModel


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        FineTunedModel(adaptation=adaptation, task=task, epochs=10, ensemble=1)
        for adaptation in ("linear", "attentive")
        for task in ("regression", "classification")
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def _regression(n=150, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5))
    return x, np.stack([x[:, 0] - x[:, 1], 1e4 + 500 * x[:, 2]], axis=1)


@pytest.mark.parametrize("adaptation", ["linear", "attentive"])
def test_unknown_labels_are_left_out(adaptation):
    x, y = _regression()
    y[::3, 0] = np.nan
    y[1::3, 1] = np.nan
    model = FineTunedModel(adaptation=adaptation, epochs=5).fit(x, y)
    truth = _regression()[1]
    error = np.abs(model.predict(x) - truth) / truth.std(0)
    assert np.median(error) < 0.05
    assert model.score(x, y) > 0.95


def test_a_label_unknown_for_all_is_refused():
    x, y = _regression()
    y[:, 1] = np.nan
    with pytest.raises(ValueError, match="target 1 of y has no known label"):
        FineTunedModel(adaptation="linear").fit(x, y)


def test_masked_labels_are_unknown():
    x, y = _regression()
    masked = np.ma.masked_array(y[:, 0], mask=np.arange(len(y)) % 2 == 0)
    gaps = np.where(masked.mask, np.nan, y[:, 0])
    model = FineTunedModel(adaptation="linear")
    np.testing.assert_array_equal(model.fit(x, masked).predict(x), model.fit(x, gaps).predict(x))


def test_heavy_tails_do_not_steer_the_linear_probe():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = x[:, 0] + 0.05 * rng.normal(size=300)
    y[:15] += 50
    predicted = FineTunedModel(adaptation="linear").fit(x, y).predict(x)
    assert np.median(np.abs(predicted - x[:, 0])) < 0.1


def test_attentive_learns_what_linear_cannot():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(800, 4))
    y = np.abs(x[:, 0])
    scores = [
        FineTunedModel(adaptation=a, epochs=30).fit(x, y).score(x, y)
        for a in ("linear", "attentive")
    ]
    assert scores[0] < 0.3
    assert scores[1] > 0.8


def test_random_state_fixes_everything_and_leaves_the_global_generator_alone():
    x, y = _regression()
    before = torch.get_rng_state()
    fits = [
        FineTunedModel(epochs=3, random_state=s).fit(x, y).predict_interval(x)[0] for s in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


def test_classes_of_any_kind():
    x, number = make_blobs(200, centers=3, n_features=4, random_state=0)
    y = np.array(["dwarf", "giant", "hot"])[number]
    model = FineTunedModel(task="classification", epochs=10).fit(x, y)
    assert model.score(x, y) > 0.9
    np.testing.assert_allclose(model.predict_proba(x).sum(1), 1)
    with pytest.raises(TypeError, match="predict_proba"):
        model.predict_interval(x)
    assert not hasattr(FineTunedModel(), "predict_proba")


@pytest.mark.parametrize(
    "y", [["dwarf", "giant"] * 10, np.array(["1", "giant"] * 10, dtype=object)], ids=["text", "any"]
)
def test_text_is_for_classification(y):
    model = FineTunedModel(adaptation="linear")
    with pytest.raises(ValueError, match=r"text, such as '.*\(task='classification'\)"):
        model.fit(np.eye(20), y)


@pytest.mark.parametrize(
    "y",
    [
        np.ma.masked_array([1, 2] * 10, np.arange(20) % 16 == 3),
        np.ma.masked_array([1, 2] * 10, np.arange(20) % 16 == 3).reshape(20, 1),
        ["dwarf", "giant", "hot", None] * 1 + ["dwarf"] * 15 + [None],
        np.where(np.arange(20) % 16 == 3, np.nan, np.arange(20) % 2),
        np.array([1, 2, 1, np.nan] + [1, 2] * 7 + [np.nan, 2], dtype=object),
    ],
    ids=["masked", "column", "none", "nan", "object"],
)
def test_missing_classes_are_refused(y):
    with pytest.raises(ValueError, match=r"y has 2 missing classes .* of 20, the first in row 3;"):
        FineTunedModel(adaptation="linear", task="classification").fit(np.eye(20), y)


def test_a_mask_that_hides_no_class_is_fine():
    x, number = make_blobs(60, centers=2, n_features=4, random_state=0)
    y = np.ma.masked_array(number, False)
    model = FineTunedModel(adaptation="linear", task="classification").fit(x, y)
    assert model.score(x, number) > 0.9


def test_pipeline_and_searches_on_arrays():
    x, y = _regression(80)
    pipeline = make_pipeline(StandardScaler(), FineTunedModel(adaptation="linear"))
    search = GridSearchCV(
        pipeline,
        {"finetunedmodel__adaptation": ["linear", "attentive"], "finetunedmodel__epochs": [2]},
        cv=2,
    ).fit(x, y)
    assert search.best_score_ > 0.9
    assert cross_val_predict(pipeline, x, y, cv=3).shape == y.shape


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"adaptation": "lora"}, "adaptation must be one of linear, attentive, full"),
        ({"task": "ranking"}, "task must be one of"),
        ({"epochs": -1}, "epochs must be a whole number"),
        ({"ensemble": 0}, "ensemble must be a whole number from 1 up, or None; found 0"),
        ({"ensemble": 1.5}, "ensemble must be a whole number from 1 up, or None; found 1.5"),
        ({"ensemble": "2"}, "ensemble must be a whole number from 1 up, or None; found '2'"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"modality_dropout": 1.5}, "modality_dropout must lie between 0 and 1"),
        ({"adaptation": "full"}, "needs Observations or Tokens"),
    ],
)
def test_bad_parameters(parameters, message):
    with pytest.raises(ValueError, match=message):
        FineTunedModel(**parameters).fit(*_regression(20))


def test_infinite_labels_and_wrong_shapes():
    x, y = _regression(20)
    with pytest.raises(ValueError, match="infinity"):
        FineTunedModel(adaptation="linear").fit(x, np.where(y > 1, np.inf, y))
    with pytest.raises(ValueError, match="found \\(20, 1, 2\\)"):
        FineTunedModel(adaptation="linear").fit(x, y[:, None])
    model = FineTunedModel(adaptation="linear").fit(x, y)
    with pytest.raises(ValueError, match="y has 1 targets, but the model was fitted on 2"):
        model.calibrate(x, y[:, 0])
