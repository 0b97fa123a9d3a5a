"""Codecs and sources for AION-1's layout: arms of XP spectra, coefficients, catalogues."""

from pathlib import Path

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec, Tokenizer
from omnisky.data.store import write_store
from omnisky.mock import Universe
from omnisky.modalities import Catalog, UnknownModalityError
from omnisky.model import Model
from omnisky.surveys.gaia import arms
from omnisky.train import read_recipe
from omnisky.train.codec import CodecRecipe, train_codec
from omnisky.train.codec.fitting import _fitted, fit_codec
from omnisky.train.codec.recipe import DataRecipe, MockRecipe, ScalarsRecipe
from omnisky.train.codec.sources import InStore, open_source
from omnisky.train.pretraining import PretrainingSource
from omnisky.train.pretraining.sources import open_sky_source

pytest.importorskip("cdshealpix")
WHOLE, ARMS = "gaia_xp_coefficients", ("gaia_xp_bp", "gaia_xp_rp")
MOCK = MockRecipe(objects=150, seed=3)


@pytest.fixture(scope="module")
def gaia():
    return Universe(seed=3, n=150).observe("gaia", modalities=(WHOLE, "gaia_flux_g"))


@pytest.fixture(scope="module")
def stores(gaia, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    write_store([gaia], folder / "gaia", margin_arcsec=0)
    return folder


def sorted_rows(value):
    return value[np.lexsort(value.T)]


@pytest.mark.parametrize("kind", ["store", "mock"])
def test_arms_are_halves_of_what_a_source_keeps(gaia, stores, kind):
    source = PretrainingSource(store="gaia") if kind == "store" else PretrainingSource(mock=MOCK)
    sky = open_sky_source(source, stores)
    assert set(ARMS) < set(sky.modalities)
    rows = np.concatenate([sky.rows(s) for s in ("train", "calibration", "test")])
    rows.sort()
    found = sky.read(rows, (*ARMS, WHOLE, "gaia_flux_g"))
    for place, name in enumerate(ARMS):
        objects, measured = found[name]
        whole = found[WHOLE][1]
        assert measured.value.shape == (len(objects), 55)
        expected = arms(whole)[place]
        np.testing.assert_array_equal(measured.value, expected.value[expected.present])
        np.testing.assert_array_equal(measured.ivar, expected.ivar[expected.present])
    # And they are those of the objects.
    kept = gaia.observations[WHOLE]
    kept = kept.value[kept.present]
    np.testing.assert_allclose(sorted_rows(found[WHOLE][1].value), sorted_rows(kept), rtol=1e-6)


def test_codecs_are_fitted_to_arms_of_stores_and_mock_universes(stores, tmp_path):
    (tmp_path / "r.toml").write_text(
        f'[[data]]\nmodality = "gaia_xp_bp"\nstore = "{stores}/gaia"\nobjects = 40\n'
        "[[data]]\nmock = { objects = 150, seed = 3 }\n"
        f'[scalars]\nlayout = "aion"\nmodalities = ["gaia_xp_bp", "gaia_xp_rp", "gaia_flux_g"]\n'
        'bins = 8\n[scalars.scales]\ngaia_xp_bp = "quantile"\ngaia_xp_rp = "quantile"\n'
    )
    written = train_codec(tmp_path / "r.toml", (), tmp_path / "codecs")
    codecs = {name: Codec.from_pretrained(path) for name, path in written.items()}
    assert {name: codec.n_tokens for name, codec in codecs.items()} == {
        "gaia_xp_bp": 55,
        "gaia_xp_rp": 55,
        "gaia_flux_g": 1,
    }
    model = Model.from_preset("tiny", Tokenizer(codecs), "aion")
    assert model.network.names == ["gaia_xp_bp", "gaia_xp_rp", "gaia_flux_g"]
    bp, whole = (
        open_source(DataRecipe(store=str(stores / "gaia")), name, tmp_path)[0]
        for name in ("gaia_xp_bp", WHOLE)
    )
    every = np.arange(len(bp))
    np.testing.assert_array_equal(bp.read(every).value, whole.read(every).value[:, :55])
    assert bp.place(2) == f"row {bp.rows[2]}"
    with pytest.raises(UnknownModalityError, match=r"has no 'gaia_xp'; it has .*gaia_xp_rp"):
        open_source(DataRecipe(store=str(stores / "gaia")), "gaia_xp", tmp_path)


def test_coefficients_are_fitted_to_as_many_objects_as_asked_for(stores, monkeypatch, tmp_path):
    counts, read = [], InStore.read
    monkeypatch.setattr(InStore, "read", lambda s, i: (counts.append(len(i)), read(s, i))[1])
    recipe = ScalarsRecipe(modalities=("gaia_xp_rp",), bins=8, layout="aion")
    fit_codec("gaia_xp_rp", recipe, [DataRecipe(store=str(stores / "gaia"), objects=30)], tmp_path)
    assert counts == [30]


def catalog():
    generator = np.random.default_rng(0)
    x, y, e1, e2 = generator.uniform(-0.9, 0.9, (4, 200, 20))
    r = generator.uniform(0.1, 3.0, (200, 20))
    mask = np.arange(20) < generator.integers(1, 21, 200)[:, None]
    return Catalog(x=x * 10, y=y * 10, e1=e1 / 2, e2=e2 / 2, r=r, mask=mask)


@pytest.mark.parametrize(
    ("layout", "kind", "tokens"),
    [("aion", "aion-catalog-codec", 100), ("own", "catalog-codec", 101)],
)
def test_catalogues_are_laid_out_as_asked_for(layout, kind, tokens):
    name = "legacysurvey_catalog"
    codec = _fitted(name, catalog(), ScalarsRecipe(modalities=(name,), layout=layout))
    assert (codec.kind, codec.n_tokens) == (kind, tokens)
    if layout == "aion":
        assert codec.vocab_size == 3468
        network = Model.from_preset("tiny", Tokenizer({name: codec}), "aion").network
        ids, mask = codec.encode_masked(catalog())
        assert ids[mask].min() >= 204
        assert torch.equal(network.slots_of(name), torch.arange(100))


def test_coefficients_of_our_own_layout_are_relative_to_their_first(gaia):
    whole = gaia.observations[WHOLE]
    for layout, tokens in (("own", 56), ("aion", 55)):
        recipe = ScalarsRecipe(modalities=ARMS, bins=8, layout=layout)
        assert _fitted("gaia_xp_bp", arms(whole)[0], recipe).n_tokens == tokens


def test_two_tokens_do_not_fit_the_released_layout():
    with pytest.raises(ValueError, match=r"two_tokens has gaia_flux_g, but in AION-1's layout"):
        ScalarsRecipe(modalities=("gaia_flux_g",), two_tokens=("gaia_flux_g",), layout="aion")


def test_the_shipped_recipe_asks_for_it():
    recipes = Path(__file__).resolve().parents[2] / "recipes" / "codecs"
    assert read_recipe(recipes / "scalars-aion.toml", CodecRecipe).scalars.layout == "aion"
