"""Pretraining and codec recipes: they parse, they run, they learn, they stay the same."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from omnisky.codecs import load_codec
from omnisky.modalities import Observations
from omnisky.model import Model
from omnisky.model.masking import MaskingConfig
from omnisky.train import read_recipe
from omnisky.train.codec import CodecRecipe, train_codec
from omnisky.train.pretraining import (
    PretrainingData,
    PretrainingObjective,
    PretrainingRecipe,
    PretrainingSource,
    TokenTable,
    pretrain,
)
from omnisky.train.pretraining.tokenising import tokenise_sources

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
MASKING = MaskingConfig(input_budget=20, output_budget=10)


@pytest.fixture(scope="module")
def codecs(star_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("codecs")
    star_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tokens(star_tokenizer, mini):
    return star_tokenizer.encode(Observations({**mini.observations, **mini.labels}))


def objective_of(star_tokenizer, tokens):
    torch.manual_seed(0)
    model = Model.from_preset("tiny", star_tokenizer)
    return PretrainingObjective(model.network, tokens, tokens[:50], MASKING, {"gaia_xp": 0.5})


@pytest.mark.parametrize("path", sorted(RECIPES.glob("pretrain/*.toml")), ids=lambda p: p.stem)
def test_every_pretraining_recipe_runs_two_steps(path, codecs, tmp_path):
    plan = read_recipe(path, PretrainingRecipe)
    assert plan.train.steps > 100
    if any(not source.dataset for source in plan.data.sources):
        # Read strictly; stores and mock universes are for the tests of the sources.
        return
    settings = ["data.sources.0.dataset=gaia-apogee-mini", f"codecs={codecs}", "preset=tiny",
                "start_from=", "train.steps=2", "train.batch_size=8"]  # fmt: skip
    model = pretrain(path, settings, tmp_path / "run")
    again = Model.from_pretrained(tmp_path / "run" / "model")
    assert model.network.names == again.network.names
    assert (tmp_path / "run" / "recipe.json").is_file()


def test_what_was_known_can_be_kept_as_it_is(codecs, tmp_path):
    path = RECIPES / "pretrain" / "nano-unlabelled.toml"
    settings = ["data.sources.0.dataset=gaia-apogee-mini", f"codecs={codecs}", "preset=tiny",
                "train.steps=2", "train.batch_size=8", "token_weights={}"]  # fmt: skip
    first = pretrain(path, [*settings, 'modalities=["gaia_g", "gaia_bp"]'], tmp_path / "first")
    settings += [f"start_from={tmp_path / 'first' / 'model'}", "frozen=true"]
    more = [*settings, 'modalities=["gaia_g", "gaia_bp", "gaia_rp"]']
    second = pretrain(path, more, tmp_path / "second")
    before, after = first.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    new = [p for name, p in second.network.named_parameters() if name not in before]
    assert new
    assert all(p.requires_grad for p in second.network.parameters())
    with pytest.raises(ValueError, match="leaves nothing to train"):
        pretrain(path, [*settings, 'modalities=["gaia_g", "gaia_bp"]'], tmp_path / "third")
    with pytest.raises(ValueError, match="name a model to start from"):
        pretrain(path, ["frozen=true"], tmp_path / "fourth")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("codecs/*.toml")), ids=lambda p: p.stem)
def test_every_codec_recipe_runs_two_steps(path, tmp_path):
    plan = read_recipe(path, CodecRecipe)
    if plan.data:
        # Read strictly, its configuration too; stores and mock universes are for the codec's tests.
        assert plan.train is None or plan.train.steps > 100
        return
    settings = ["dataset=gaia-apogee-mini"]
    if plan.spectrum is not None:
        settings += ["train.steps=2", "train.batch_size=8", "spectrum.bins=64", "spectrum.width=16"]
    else:
        settings += ["scalars.bins=16"]
    written = train_codec(path, settings, tmp_path / "codecs")
    for name, folder in written.items():
        assert load_codec(folder).modality == name
    with pytest.raises(FileExistsError, match="choose another --out"):
        train_codec(path, settings, tmp_path / "codecs")


def test_the_sky_recipe_never_shows_an_hsc_image_with_a_spectrum():
    plan = read_recipe(RECIPES / "pretrain" / "nano-sky.toml", PretrainingRecipe)
    trained = [source for source in plan.data.sources if source.weight]
    assert {n for s in trained for n in s.modalities} <= set(plan.modalities)
    spectra = {"desi_spectrum", "desi_z", "sdss_spectrum", "sdss_z"}
    together = [set(s.modalities) for s in trained if "hsc_image" in s.modalities]
    assert together
    assert not any(spectra & names for names in together)
    # No universe twice: an object of one source is none of another.
    seeds = [source.mock.seed for source in plan.data.sources if source.mock]
    assert len(set(seeds)) == len(seeds) == 4
    (asked,) = (source for source in plan.data.sources if not source.weight)
    assert {"hsc_image", "desi_spectrum"} <= set(asked.modalities)


def test_the_loss_of_forty_steps_is_golden(star_tokenizer, tokens):
    # Any change of model, masking, codecs or data that moves this number must be meant.
    objective = objective_of(star_tokenizer, tokens)
    optimizer = torch.optim.AdamW(objective.module.parameters(), 1e-2)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(40):
        indices = torch.arange(step * 16, step * 16 + 64) % len(tokens)
        loss, _ = objective.loss(objective.module, indices, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    assert last < first
    assert (first, last) == pytest.approx((25.231, 24.204), rel=5e-3)


def test_the_loss_is_a_mean_over_objects(star_tokenizer, tokens):
    # Splitting a batch over processes must not change it: every object counts the same.
    objective = objective_of(star_tokenizer, tokens)
    hide_all = MaskingConfig(input_budget=1, output_budget=100, whole=0.0)
    objective.masking = hide_all
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        loss, metrics = objective.loss(objective.module, torch.arange(64), generator)
    # Untrained, every token costs about the log of its vocabulary.
    assert metrics["entropy/gaia_g"] == pytest.approx(3.47, abs=0.3)
    assert 30 < float(loss) < 100


def test_evaluation_names_every_modality(star_tokenizer, tokens):
    found = objective_of(star_tokenizer, tokens).evaluate()
    assert len(found) == 13
    assert all(value > 0 for value in found.values())


def test_fingerprints_tell_data_and_settings_apart(star_tokenizer, tokens):
    network = objective_of(star_tokenizer, tokens).transformer
    a = PretrainingObjective(network, tokens, tokens, MASKING).fingerprint
    b = PretrainingObjective(network, tokens[:-1], tokens, MASKING).fingerprint
    c = PretrainingObjective(network, tokens, tokens, MASKING, {"gaia_g": 2.0}).fingerprint
    assert len({a, b, c}) == 3
    assert a == PretrainingObjective(network, tokens, tokens, MASKING).fingerprint
    network.set_dropout(0.1)
    d = PretrainingObjective(network, tokens, tokens, MASKING).fingerprint
    network.set_dropout(0.0)
    network.mask_token.requires_grad_(False)
    e = PretrainingObjective(network, tokens, tokens, MASKING).fingerprint
    assert len({a, d, e}) == 3


def test_a_run_that_is_refused_leaves_what_was_written(codecs, tmp_path):
    path = RECIPES / "pretrain" / "nano-unlabelled.toml"
    settings = ["data.sources.0.dataset=gaia-apogee-mini", f"codecs={codecs}", "preset=tiny",
                "train.steps=2", "train.batch_size=8", "evaluation.objects=4"]  # fmt: skip
    pretrain(path, settings, tmp_path)
    written = (tmp_path / "recipe.json").read_text()
    shutil.rmtree(tmp_path / "model")  # as if it had been stopped just before
    with pytest.raises(ValueError, match=r"other settings of its recipe, as of .* dropout"):
        pretrain(path, [*settings, "dropout=0.2"], tmp_path)
    assert (tmp_path / "recipe.json").read_text() == written
    pretrain(path, [*settings, "train.log_every=1"], tmp_path)
    assert (tmp_path / "recipe.json").read_text() != written


@pytest.mark.parametrize(
    ("masking", "weights", "message"),
    [
        (
            {"never_visible": ("nope",)},
            {},
            r"masking\.never_visible names nope, .*it has gaia_xp, gai",
        ),
        (
            {"favoured": ("gaia_g", "nope")},
            {},
            r"masking\.favoured names nope, which is no modality",
        ),
        ({}, {"gaia_gg": 1.0}, r"token_weights names gaia_gg, .*Correct the name"),
        ({}, {"gaia_g": -0.5}, r"at least 0; found gaia_g = -0\.5"),
        ({}, {"gaia_g": float("nan"), "gaia_bp": 0.0}, r"at least 0; found gaia_g = nan\. Use 0"),
        ({}, {"gaia_g": float("inf")}, r"must be finite .*found gaia_g = inf"),
    ],
)
def test_settings_about_no_modality_are_named(star_tokenizer, tokens, masking, weights, message):
    network = objective_of(star_tokenizer, tokens).transformer
    masking = dataclasses.replace(MASKING, **masking)
    with pytest.raises(ValueError, match=message):
        PretrainingObjective(network, tokens, tokens, masking, weights)


def test_settings_are_checked_before_there_are_tokens(codecs, tmp_path):
    recipe = RECIPES / "pretrain" / "nano-unlabelled.toml"
    settings = ["data.sources.0.dataset=gaia-apogee-mini", f"codecs={codecs}", "preset=tiny"]
    with pytest.raises(ValueError, match="token_weights names gaia_xpp"):
        pretrain(recipe, [*settings, "token_weights={ gaia_xpp = 2.0 }"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_object_is_described_by_its_source_and_row(star_tokenizer, tokens):
    network = objective_of(star_tokenizer, tokens).transformer
    tables = [TokenTable.from_tokens(tokens[:30], "one"), TokenTable.from_tokens(tokens, "other")]
    objective = PretrainingObjective(network, tables, tokens, MASKING)
    assert objective.describe(29) == "row 29 of the training tokens of the one"
    assert objective.describe(30) == "row 0 of the training tokens of the other"
    assert objective.describe(35) == "row 5 of the training tokens of the other"


def test_an_object_is_described_by_its_name_if_that_is_known(star_tokenizer, mini, tmp_path):
    data = PretrainingData(sources=(PretrainingSource(dataset="gaia-apogee-mini"),))
    (part,) = tokenise_sources(data, star_tokenizer, tmp_path)
    train = mini.object_id[mini.split == "train"]
    np.testing.assert_array_equal(part.training.objects, train)
    network = Model.from_preset("tiny", star_tokenizer).network
    objective = PretrainingObjective(network, [part.training], [part.held_out], MASKING)
    said = "row 3 of the training tokens of the data set gaia-apogee-mini"
    assert objective.describe(3) == f"{train[3]}, {said}"


def test_a_fingerprint_is_that_of_before_there_were_more_settings(star_tokenizer, tokens):
    network = objective_of(star_tokenizer, tokens).transformer
    objective = PretrainingObjective(network, tokens, tokens, MASKING)
    masked = dataclasses.asdict(MASKING)
    del masked["fill"]
    config = network.config.to_dict()
    del config["free_rank"]
    about = [config, masked, objective.weights, objective.mixture]
    prints = [objective.sources[0].table.fingerprint]
    text = json.dumps([*about, prints])
    assert objective.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    filled = dataclasses.replace(MASKING, fill=True)
    other = PretrainingObjective(network, tokens, tokens, filled).fingerprint
    assert other != objective.fingerprint
    network.config = dataclasses.replace(network.config, free_rank=1)
    free = PretrainingObjective(network, tokens, tokens, MASKING).fingerprint
    assert free not in (other, objective.fingerprint)


def test_a_missing_codec_is_named(codecs, tmp_path):
    recipe = RECIPES / "pretrain" / "nano-unlabelled.toml"
    settings = [f"codecs={codecs}", 'modalities=["gaia_g", "desi_z"]']
    with pytest.raises(ValueError, match="has no codec of desi_z"):
        pretrain(recipe, settings, tmp_path / "run")
