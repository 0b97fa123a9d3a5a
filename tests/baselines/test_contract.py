"""Contract of the baselines: any inputs, missing values, unknown labels, same seed same numbers."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import KFold, cross_val_predict

from omnisky.baselines import (
    PHOTOMETRY,
    XP,
    ConvNetBaseline,
    MLPBaseline,
    RidgeBaseline,
    TreesBaseline,
)
from omnisky.baselines.networks import Settings
from omnisky.data import datasets
from omnisky.modalities import Observations, Scalar, Spectrum

TARGETS = ("apogee_teff", "apogee_logg", "apogee_fe_h")
QUICK = Settings(width=32, steps=100, batch_size=32)
TREES = ({"max_iter": 10, "min_samples_leaf": 5},)
BASELINES = {
    "ridge": RidgeBaseline(components=(0, 5)),
    "trees": TreesBaseline(grid=TREES, components=10),
    "mlp": MLPBaseline(n_members=2, settings=QUICK),
    "convnet": ConvNetBaseline(n_members=1, settings=QUICK),
}
INPUTS = {"photometry": PHOTOMETRY, "xp": XP, "both": (*XP, *PHOTOMETRY)}


@pytest.fixture(scope="module")
def stars():
    return datasets.load("gaia-apogee-mini")


@pytest.fixture(params=BASELINES)
def baseline(request):
    return clone(BASELINES[request.param])


@pytest.mark.parametrize("inputs", INPUTS)
def test_any_inputs_and_unknown_labels(stars, baseline, inputs):
    train, test = stars["train"], stars["test"]
    y = train.targets(*TARGETS)
    assert np.isnan(y).any(), "the mini stars have unknown [Fe/H]"
    y[0] = np.nan  # a star without any label is left out
    baseline.fit(train.observations.select(*INPUTS[inputs]), y)
    predicted = baseline.predict(test.observations.select(*INPUTS[inputs]))
    assert predicted.shape == (len(test), 3)
    assert np.isfinite(predicted).all()
    truth = test.targets(*TARGETS)
    constant = np.nanmedian(np.abs(truth - np.nanmedian(y, axis=0)), axis=0)
    error = np.nanmedian(np.abs(truth - predicted), axis=0)
    assert error[0] < 0.8 * constant[0], "worse than hardly anything learnt about Teff"


def test_missing_values_at_fit_and_at_predict(stars, baseline):
    rng = np.random.default_rng(0)
    observations = stars.observations.select(*XP, *PHOTOMETRY)
    holes = {}
    for name, m in observations.items():
        keep = rng.random(len(stars)) > 0.3
        if isinstance(m, Spectrum):
            holes[name] = Spectrum(m.flux, m.ivar, m.mask & keep[:, None], m.wavelength)
        else:
            holes[name] = Scalar(m.value, m.ivar, m.mask & keep)
    baseline.fit(Observations(holes), stars.targets(*TARGETS))
    assert np.isfinite(baseline.predict(Observations(holes))).all()
    for some in (PHOTOMETRY, XP, ("gaia_g",)):
        assert np.isfinite(baseline.predict(observations.select(*some))).all()


def test_same_seed_same_numbers_another_seed_others(stars, baseline):
    x, y = stars["train"].observations.select(*XP, *PHOTOMETRY), stars["train"].targets(*TARGETS)
    first, again = (clone(baseline).fit(x, y).predict(x) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    if not isinstance(baseline, (RidgeBaseline, TreesBaseline)):
        other = clone(baseline).set_params(random_state=1).fit(x, y).predict(x)
        assert not np.array_equal(first, other)


def test_one_dimensional_y_and_scikit_learn_splitters(stars, baseline):
    x, y = stars.observations.select(*PHOTOMETRY), stars.targets("apogee_teff")[:, 0]
    predicted = cross_val_predict(baseline, x, y, cv=KFold(2))
    assert predicted.shape == y.shape
    assert baseline.fit(x, y).score(x, y) <= 1


def test_few_objects(stars, baseline):
    few = stars["train"][np.arange(12)]
    y = few.targets("apogee_teff")
    assert np.isfinite(
        baseline.fit(few.observations.select(*PHOTOMETRY), y).predict(
            stars.observations.select(*PHOTOMETRY)
        )
    ).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x, y: (x, y[:-1]), "one row an object"),
        (lambda x, y: (x, np.where(np.isfinite(y), np.inf, y)), "no infinities"),
        (lambda x, y: (x, np.full_like(y, np.nan)), "at least 5 known labels"),
    ],
)
def test_bad_labels_say_what_is_wrong(stars, baseline, spoil, message):
    x, y = stars.observations.select(*PHOTOMETRY), stars.targets(*TARGETS)
    with pytest.raises(ValueError, match=message):
        baseline.fit(*spoil(x, y))


def test_bad_inputs_say_what_is_wrong(stars, baseline):
    y = stars.targets("apogee_teff")
    with pytest.raises(TypeError, match="found ndarray"):
        baseline.fit(np.zeros((len(stars), 3)), y)
    baseline.fit(stars.observations.select(*PHOTOMETRY), y)
    with pytest.raises(ValueError, match="also have gaia_xp"):
        baseline.predict(stars.observations.select(*XP, *PHOTOMETRY))


def test_settings_are_chosen_inside_the_labels(stars):
    tried = [QUICK, Settings(width=8, steps=5, batch_size=8)]
    x, y = stars["train"].observations.select(*PHOTOMETRY), stars["train"].targets("apogee_teff")
    model = MLPBaseline(n_members=1, settings=tried).fit(x, y)
    assert model.settings_ == tried[int(np.argmin(model.validation_scores_))]
    grid = (*TREES, {"max_iter": 1})
    assert TreesBaseline(grid=grid).fit(x, y).settings_ == [TREES[0]]
