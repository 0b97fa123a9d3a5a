"""Published runs are written down as published."""

import tomllib
from pathlib import Path

import pytest

from omnisky.model.aion import released_modalities
from omnisky.model.config import PRESETS
from omnisky.model.masking import MaskingConfig
from omnisky.train import TrainConfig
from omnisky.train.recipe import read_section

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "pretrain"
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
    released = {name for m in released_modalities() for name in (m.name, *m.also)}
    assert set(found["modalities"]) == released


@pytest.mark.parametrize("name", [*PUBLISHED, "small"])
def test_sources_are_single_surveys_and_pairs_but_for_one(name):
    found, train, masking = parts_of(name)
    assert found["preset"] in PRESETS
    assert train.steps > 1000
    assert masking.input_budget == 256
    stores = [source["store"] for source in found["data"]["sources"]]
    singles = [store for store in stores if isinstance(store, str)]
    pairs = {frozenset(store) for store in stores if not isinstance(store, str)}
    assert sorted(singles) == ["desi", "gaia", "hsc", "legacysurvey", "sdss"]
    every = {frozenset((a, b)) for a in singles for b in singles if a < b}
    assert every - pairs == {frozenset(("desi", "hsc"))}
    assert all(source["weight"] > 0 for source in found["data"]["sources"])
