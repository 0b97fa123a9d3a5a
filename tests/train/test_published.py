"""Published runs are written down as published."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

from omnisky.model.aion import released_modalities
from omnisky.model.config import PRESETS
from omnisky.model.masking import MaskingConfig
from omnisky.pretrained import DOMAINS
from omnisky.surveys import modality
from omnisky.train import TrainConfig, read_recipe
from omnisky.train.codec import CodecRecipe
from omnisky.train.codec.recipe import MockRecipe
from omnisky.train.pretraining import PretrainingRecipe
from omnisky.train.pretraining.recipe import EvaluationRecipe
from omnisky.train.pretraining.sources import Drawn, InMemory
from omnisky.train.recipe import read_section

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
FOLDER = RECIPES / "pretrain"
PUBLISHED = ("aion-base", "aion-large", "aion-xlarge")


def parts_of(name):
    found = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    train = read_section(found["train"], TrainConfig, "train")
    return found, train, read_section(found["masking"], MaskingConfig, "masking")


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_is_as_published(name):
    found, train, masking = parts_of(name)
    assert found["preset"] == name
    assert (train.optimizer, train.beta1, train.beta2, train.weight_decay) == (
        "adamw",
        0.9,
        0.95,
        0.05,
    )
    assert (train.steps, train.batch_size, train.learning_rate) == (205_000, 8192, 2e-4)
    assert (train.warmup_steps, train.schedule, train.precision) == (20_500, "cosine", "bf16")
    assert (masking.input_budget, masking.output_budget) == (256, 128)
    assert (masking.alpha, masking.beta, masking.whole, masking.favour) == (0.1, 1.0, 0.0, 0.0)
    assert masking.fill
    assert found["layout"] == "aion"
    released = {name for m in released_modalities() for name in (m.name, *m.also)}
    assert set(found["modalities"]) == released


@pytest.mark.parametrize("name", [*PUBLISHED, "small"])
def test_sources_are_single_surveys_and_pairs_but_for_one(name):
    found, train, masking = parts_of(name)
    assert found["preset"] in PRESETS
    assert train.steps > 1000
    assert masking.input_budget == 256
    given = {modality(name).survey for name in found["modalities"]}
    stores = [source["store"] for source in found["data"]["sources"] if "store" in source]
    singles = [store for store in stores if isinstance(store, str)]
    pairs = {frozenset(store) for store in stores if not isinstance(store, str)}
    assert sorted(singles) == sorted(given) == ["desi", "gaia", "hsc", "legacysurvey", "sdss"]
    every = {frozenset((a, b)) for a in singles for b in singles if a < b}
    assert every - pairs == {frozenset(("desi", "hsc"))}
    assert all(source["weight"] > 0 for source in found["data"]["sources"])


@pytest.mark.parametrize("name", [*PUBLISHED, "small"])
def test_evaluation_is_short_and_shows_as_much_as_training(name):
    found, _, masking = parts_of(name)
    evaluation = read_section(found["evaluation"], EvaluationRecipe, "evaluation")
    assert evaluation == EvaluationRecipe(objects=64, matrix_objects=256, visible=256)
    assert evaluation.visible == masking.input_budget


def possible(source):
    """Return what a source can have; of stores, what tables of their surveys hold."""
    if source.dataset:
        assert source.dataset == "gaia-apogee"
        return set(InMemory("gaia-apogee-mini").modalities)
    drawn = Drawn(MockRecipe(objects=1, seed=0), ()).modalities
    return {name for name in drawn if source.mock or modality(name).survey in source.stores}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda p: p.stem)
def test_every_modality_has_a_source(path):
    plan = read_recipe(path, PretrainingRecipe)
    trained = set()
    for source in plan.data.sources:
        there = possible(source)
        assert there >= {*source.modalities, *source.needs}
        if source.weight:
            trained |= there & set(source.modalities or there)
    assert not set(plan.modalities) - trained


@pytest.mark.parametrize("name", PUBLISHED)
def test_no_object_has_the_redshift_of_two_surveys(name):
    # The released layout has one slot for both.
    (both,) = (
        source
        for source in parts_of(name)[0]["data"]["sources"]
        if {"desi", "sdss"} <= set(source["store"])
    )
    assert set(both["modalities"]) == {"sdss_spectrum", "desi_spectrum", "desi_z"}


def codec_recipes_of(name):
    """Return the codec recipes that the header of a recipe names."""
    text = (FOLDER / f"{name}.toml").read_text()
    header = text[: text.index("\ncodecs = ")]
    files = [RECIPES / "codecs" / file for file in re.findall(r"[\w-]+\.toml", header)]
    return [read_recipe(path, CodecRecipe) for path in files if path.is_file()]


def made_by(recipe):
    """Return tokens and largest vocabulary of each modality that a codec recipe makes."""
    if recipe.learned is not None:
        with torch.device("meta"):
            codec = recipe.learned.build()
        return {name: (codec.of(name).n_tokens, codec.vocab_size) for name in codec.modalities}
    assert recipe.scalars.layout == "aion"
    # What that makes of coefficients and catalogues is for the tests of fitting.
    sizes = {
        "gaia_xp_bp": (55, 1024),
        "gaia_xp_rp": (55, 1024),
        "legacysurvey_catalog": (100, 3468),
    }
    return {name: sizes.get(name, (1, recipe.scalars.bins)) for name in recipe.scalars.modalities}


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_codec_recipes_make_all_that_its_network_takes(name):
    made = {}
    for recipe in codec_recipes_of(name):
        new = made_by(recipe)
        assert not made.keys() & new.keys()
        made |= new
    assert made.keys() == set(parts_of(name)[0]["modalities"])
    for domain, listed in zip(DOMAINS.values(), released_modalities(), strict=True):
        for modality_name in domain.names:
            tokens, vocabulary = made[modality_name]
            assert tokens == listed.n_tokens
            assert vocabulary <= domain.vocabulary


def test_redshifts_of_two_surveys_are_on_one_grid():
    scalars = read_recipe(RECIPES / "codecs" / "scalars-aion.toml", CodecRecipe).scalars
    assert scalars.settings("desi_z") == scalars.settings("sdss_z")
    assert scalars.settings("desi_z")["scale"] == "linear"
