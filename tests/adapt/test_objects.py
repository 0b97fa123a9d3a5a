import numpy as np
import pytest
import torch
from astropy.table import Table
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline

from omnisky.adapt import Embedder, FineTunedModel
from omnisky.adapt.fitting import _choose_shares
from omnisky.adapt.inputs import encode
from omnisky.modalities import Observations, Scalar, UnknownModalityError

ADAPTATIONS = ("linear", "attentive", "full")


@pytest.fixture(scope="module", params=ADAPTATIONS)
def fitted(request, tiny, stars):
    model = FineTunedModel(tiny, request.param, epochs=2, ensemble=2)
    return model.fit(*stars)


def _blank(scalar: Scalar, rows) -> Scalar:
    mask = scalar.mask.copy()
    mask[rows] = False
    return Scalar(scalar.value, scalar.ivar, mask)


def test_one_probe_for_any_inputs(fitted, stars):
    x, y = stars
    names = list(x)
    for subset in (names, ["gaia_xp"], names[1:], ["twomass_k"], ["gaia_xp", "gaia_g"]):
        given = x.select(*subset)
        predicted = fitted.predict(given)
        lower, upper = fitted.predict_interval(given, 0.5)
        assert predicted.shape == y.shape
        assert np.isfinite(predicted).all()
        assert np.all((lower <= predicted) & (predicted <= upper))


def test_objects_keep_their_order_whatever_they_miss(fitted, stars):
    x, _ = stars
    parts = {name: x[name] for name in x}
    for name in list(x)[1:]:
        parts[name] = _blank(x[name], slice(0, 40))
    mixed = Observations(parts)
    np.testing.assert_allclose(
        fitted.predict(mixed)[:40], fitted.predict(x.select("gaia_xp"))[:40], rtol=1e-3
    )
    np.testing.assert_allclose(fitted.predict(mixed)[40:], fitted.predict(x)[40:], rtol=1e-3)


def test_tokens_and_observations_give_the_same(fitted, tiny, stars):
    x, _ = stars
    np.testing.assert_allclose(fitted.predict(tiny.tokenize(x)), fitted.predict(x), rtol=1e-5)


def test_calibration_serves_every_pattern(fitted, stars):
    x, y = stars
    model = (
        clone(fitted).set_params(adaptation="linear").fit(x[:80], y[:80]).calibrate(x[80:], y[80:])
    )
    assert model.conformal_.method == "split"
    for given in (x, x.select("gaia_xp"), x.drop("gaia_xp")):
        lower, upper = model.predict_interval(given[80:], coverage=0.8)
        known = ~np.isnan(y[80:, 0])
        inside = (lower[:, 0] <= y[80:, 0]) & (y[80:, 0] <= upper[:, 0])
        assert inside[known].mean() >= 0.8


def test_the_pretrained_model_is_not_changed(tiny, stars):
    before = {k: v.clone() for k, v in tiny.network.state_dict().items()}
    x, y = stars
    model = FineTunedModel(tiny, "full", epochs=6, learning_rate=1e-2).fit(x, y)
    after = tiny.network.state_dict()
    assert all((before[k] == after[k]).all() for k in before)
    tuned = model.units_[0].tuned.state_dict()
    assert any((before[k] != tuned[k]).any() for k in before)


def test_objects_without_any_token(fitted, stars):
    x, _ = stars
    given = Observations({"gaia_g": _blank(x["gaia_g"], [3, 5])})
    with pytest.raises(ValueError, match=r"2 of 150 objects have no token .* object 3"):
        fitted.predict(given)
    none = Observations({"gaia_g": _blank(x["gaia_g"], slice(None))})
    with pytest.raises(ValueError, match="150 of 150 objects have no token"):
        clone(fitted).fit(none, np.arange(150.0))


def test_unknown_and_new_modalities(fitted, mini, stars):
    x, y = stars
    with pytest.raises(UnknownModalityError, match="no tokens for apogee_ak"):
        fitted.predict(mini.observations.select("gaia_xp", "apogee_ak"))
    model = FineTunedModel(fitted.base, "linear").fit(x.select("gaia_xp"), y)
    with pytest.raises(UnknownModalityError, match="gaia_g was not among the inputs at fit"):
        model.predict(x.select("gaia_xp", "gaia_g"))


def test_arrays_and_objects_do_not_mix(fitted, tiny, stars):
    x, y = stars
    with pytest.raises(ValueError, match="fitted on Observations or Tokens"):
        fitted.predict(np.ones((3, 4)))
    model = FineTunedModel(tiny, "linear").fit(np.random.default_rng(0).normal(size=(150, 4)), y)
    with pytest.raises(ValueError, match="fitted on arrays of 4 features"):
        model.predict(x)
    with pytest.raises(TypeError, match="base must be the name"):
        FineTunedModel(3, "linear").fit(x, y)


def test_other_objects_and_labels_are_refused(tiny, stars, mini):
    x, y = stars
    model, part = FineTunedModel(tiny, "linear"), mini[:150]
    table = Table({"gaia_g": np.ones(150)})
    for wrong, message in (
        (part, "found Dataset: a Dataset has .observations"),
        (table, r"or an array of features; found Table: omnisky\.observations_from_table"),
        (dict(x), r"found dict: Observations\(mapping\)"),
        (x["gaia_g"], r"found Scalar: .*Observations\({'gaia_g': scalar}\)"),
    ):
        with pytest.raises(TypeError, match=message):
            model.fit(wrong, y)
    with pytest.raises(TypeError, match="takes Observations or Tokens; found Dataset: a Dataset"):
        Embedder(tiny).fit(x).transform(part)
    for wrong in (part.labels, part, table):
        for task in ("regression", "classification"):
            with pytest.raises(TypeError, match=r"y must be an array.* a Dataset gives .*targets"):
                FineTunedModel(tiny, "linear", task).fit(x, wrong)


def test_scikit_learn_splits_objects(tiny, stars):
    x, y = stars
    model = FineTunedModel(tiny, "linear")
    assert cross_val_predict(model, x, y, cv=2).shape == y.shape
    pipeline = make_pipeline(Embedder(tiny), Ridge())
    search = GridSearchCV(pipeline, {"ridge__alpha": [0.1, 10.0]}, cv=2).fit(x, y[:, 0])
    assert search.predict(x.select("gaia_xp")).shape == (150,)
    tokens = tiny.tokenize(x)
    assert cross_val_predict(model, tokens, y[:, 0], cv=2).shape == (150,)


def test_classes_of_stars(tiny, stars):
    x, y = stars
    hot = y[:, 0] > np.median(y[:, 0])
    for adaptation in ADAPTATIONS:
        model = FineTunedModel(tiny, adaptation, "classification", epochs=3).fit(x, hot)
        assert model.score(x, hot) > 0.7
        assert model.predict_proba(x.drop("gaia_xp")).shape == (150, 2)


def test_embedder(tiny, stars):
    x, _ = stars
    embedder = Embedder(tiny).fit(x)
    vectors = embedder.transform(x)
    assert vectors.dtype == np.float32
    assert vectors.shape == (150, tiny.config.dim)
    assert len(embedder.get_feature_names_out()) == tiny.config.dim
    np.testing.assert_allclose(vectors, tiny.embed(x).vectors, atol=1e-6)
    with pytest.raises(ValueError, match="pooling must be 'mean', one vector an object; found 'to"):
        Embedder(tiny, pooling="tokens").fit(x)


def test_the_blend_is_chosen_on_objects_new_to_the_model(tiny, stars):
    x, y = stars
    model = FineTunedModel(tiny, "attentive", epochs=2, ensemble=2).fit(x[:20], y[:20])
    shares = model.units_[0].head.shares.clone()
    before = model.predict(x[20:])
    np.testing.assert_array_equal(model.calibrate(x[20:], y[20:]).predict(x[20:]), before)
    model.units_[0].head.direct.biases[-1].data += 50.0
    model.units_[0].head.shares.copy_(all_to(model, part=2))
    model.calibrate(x[20:], y[20:], blend=0.95)
    changed = model.units_[0].head.shares
    assert changed.shape == shares.shape
    np.testing.assert_allclose(changed.sum(0), 1.0)
    assert (changed[2, :, 0] == 0).all(), "a part that is far off must lose its share"
    assert (changed[2, :, 1] == 1).all(), "fewer than 100 known labels choose nothing"
    assert len(model.conformal_.scores["full"]) == 7, "what chose does not calibrate"
    with pytest.raises(ValueError, match="blend must be a share"):
        model.calibrate(x[20:], y[20:], blend=1.0)


def all_to(model, part):
    shares = model.units_[0].head.shares * 0
    shares[part] = 1.0
    return shares


def test_the_linear_part_of_a_full_fit_reads_the_pretrained_encoder(tiny, stars):
    x, y = stars
    model = FineTunedModel(tiny, "full", epochs=1, ensemble=1).fit(x, y)
    said = model.units_[0].parts(view := model._door(x, fit=False)[0])
    for weight in model.units_[0].tuned.parameters():
        weight.data.zero_()
    linear, attentive, direct = model.units_[0].parts(view) - said
    assert (linear == 0).all()
    assert (direct == 0).all()
    assert (attentive != 0).any()


def test_measured_numbers_are_used_and_may_be_missing(tiny, stars):
    x, y = stars
    model = FineTunedModel(tiny, "attentive", epochs=2, ensemble=2).fit(x, y)
    head = model.units_[0].head
    assert head.shape.measured == model.columns_.width == 343 + 7 * 8 // 2
    head.shares.copy_(all_to(model, part=2))
    whole, alone = model.predict(x), model.predict(x.select("gaia_xp"))
    assert np.isfinite(alone).all()
    assert not np.allclose(whole, alone)


def test_images_and_long_spectra_are_not_measured_numbers(tiny):
    from omnisky.adapt.inputs import measured_columns
    from omnisky.codecs.tokens import Tokens

    names = ("legacysurvey_image", "desi_spectrum", "sdss_spectrum", "lamost_spectrum")
    ids = {name: torch.zeros(2, 4, dtype=torch.long) for name in names}
    masks = {name: torch.ones_like(i, dtype=torch.bool) for name, i in ids.items()}
    assert measured_columns(Tokens(ids, masks), tiny).pixels == {}


def test_few_objects_choose_no_blend_and_calibrate_all_the_same(tiny, stars):
    x, y = stars
    model = FineTunedModel(tiny, "attentive", epochs=1, ensemble=2).fit(x[:90], y[:90])
    for unit in model.units_:
        unit.head.shares.copy_(all_to(model, part=2))
    before = model.predict(x[90:])
    model.calibrate(x[90:], y[90:], blend=0.9)  # 54 objects
    np.testing.assert_array_equal(model.predict(x[90:]), before)
    assert len(model.conformal_.scores["full"]) == 60
    assert np.isfinite(model.conformal_.scores["full"][:, 0]).all()
    model.calibrate(x[90:92], y[90:92], blend=0.2)


def test_units_keep_their_own_blends_unless_another_is_clearly_better(tiny, stars):
    x, y = stars
    model = FineTunedModel(tiny, "full", epochs=0, ensemble=2).fit(x[:30], y[:30])
    for number, unit in enumerate(model.units_):
        unit.head.shares.copy_(all_to(model, part=number))
    truth = model.predict(x[30:])  # nothing can be better than what is right
    model.calibrate(x[30:], truth, blend=0.9)
    for number, unit in enumerate(model.units_):
        assert torch.equal(unit.head.shares[:, 0], all_to(model, part=number)[:, 0])


def test_each_pattern_of_inputs_has_a_blend_of_its_own(tiny, stars):
    x, y = stars
    model = FineTunedModel(tiny, "attentive", epochs=2, ensemble=2).fit(x[:20], y[:20, :1])
    head = model.units_[0].head
    assert head.shares.shape == (3, len(model.patterns_), 1)
    head.shares.copy_(all_to(model, part=0))
    head.offset[:, 1] += 50.0
    model.calibrate(x[20:], y[20:, :1], blend=0.95)
    assert head.shares[0, 1, 0] == 0, "the linear part is far off for this pattern alone"
    assert head.shares[0, [0, 2], 0].min() > 0


def test_a_fit_blends_each_pattern_by_what_it_shows(tiny, stars):
    x, y = stars
    model = FineTunedModel(tiny, "attentive", epochs=2, ensemble=2)
    views, labels = model._door(x, fit=True), model._labels(y[:, :1], len(x))
    model._fit(views, labels, model._settings())
    head = model.units_[0].head
    encoded = [encode(tiny.network, view, model._asks()) for view in views]
    head.offset[:, 1] += 50.0
    _choose_shares(head, encoded, labels, None)
    assert head.shares[0, 1, 0] == 0
    of_full = head.shares[:, 0].clone()
    # A pattern that only some show takes the blend of all where they are few.
    few = [encoded[0], encoded[1][:5]]
    _choose_shares(head, few, labels, None)
    assert torch.equal(head.shares[:, 0], of_full)
    assert torch.equal(head.shares[:, 1], of_full)
    assert torch.equal(head.shares[:, 2], of_full)


def test_objects_that_never_have_all_kinds(tiny, stars):
    x, y = stars
    parts = {name: x[name] for name in x}
    parts["twomass_k"] = _blank(x["twomass_k"], slice(0, 50))
    for name in list(x)[1:-1]:
        del parts[name]
    flux = x["gaia_xp"]
    mask = flux.mask.copy()
    mask[50:] = False
    parts["gaia_xp"] = type(flux)(flux.flux, flux.ivar, mask, flux.wavelength)
    apart = Observations(parts)
    model = FineTunedModel(tiny, "attentive", epochs=1, ensemble=2).fit(apart, y)
    direct = model.units_[0].head.direct
    assert abs(float(direct.median[-2]) - 10) < 5, "magnitudes of those that have them"
    assert np.isfinite(model.predict(apart)).all()
