"""The public face of the model: save, load, extend, embed."""

import json

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec, Tokenizer
from omnisky.modalities import Observations, Scalar
from omnisky.model import Model, shipped
from omnisky.storage import CheckpointError


def test_a_saved_model_embeds_alike(star_model, mini, tmp_path):
    folder = star_model.save_pretrained(tmp_path / "m", card="# a test\n")
    again = Model.from_pretrained(folder)
    given = mini.observations[:20]
    np.testing.assert_allclose(
        again.embed(given).vectors, star_model.embed(given).vectors, atol=1e-5
    )
    assert (folder / "README.md").read_text() == "# a test\n"


def test_half_precision_weights_load_as_single(star_model, mini, tmp_path):
    folder = star_model.save_pretrained(tmp_path / "m", stored="float16")
    again = Model.from_pretrained(folder)
    given = mini.observations[:20]
    assert all(p.dtype == torch.float32 for p in again.network.parameters())
    difference = again.embed(given).vectors - star_model.embed(given).vectors
    assert np.abs(difference).max() < 0.02


def test_weights_in_eight_bits_are_near(star_model, mini, tmp_path):
    folder = star_model.save_pretrained(tmp_path / "m", stored="int8")
    sizes = [(folder / "model.safetensors").stat().st_size]
    half = star_model.save_pretrained(tmp_path / "h", stored="float16")
    sizes.append((half / "model.safetensors").stat().st_size)
    assert sizes[0] < 0.75 * sizes[1]
    again = Model.from_pretrained(folder)
    given = mini.observations[:20]
    wanted = star_model.embed(given).vectors
    assert np.abs(again.embed(given).vectors - wanted).max() < 0.05 * wanted.std()
    with pytest.raises(ValueError, match="stored as float32, float16 or int8; found 'int4'"):
        star_model.save_pretrained(tmp_path / "n", stored="int4")


def test_shipped_models_load_and_answer():
    sky = Model.from_pretrained("nano-sky")
    given = Observations({"legacysurvey_flux_r": Scalar(np.array([10.0, 100.0]))})
    z = sky.generate(given, "desi_z", n_samples=32)["desi_z"]
    assert np.isfinite(z.mean).all()
    # Brighter is nearer.
    assert z.mean[1] < z.mean[0]


def test_embeddings_need_no_particular_modality(star_model, mini):
    given = mini.observations.select("twomass_j", "gaia_parallax")[:50]
    embedding = star_model.embed(given)
    present = given["twomass_j"].mask | given["gaia_parallax"].mask
    np.testing.assert_array_equal(embedding.valid, present)
    assert embedding.vectors.shape == (50, star_model.config.dim)
    assert np.isfinite(embedding.vectors).all()


def test_extending_keeps_what_was_learned(star_tokenizer, mini):
    torch.manual_seed(0)
    known = ("gaia_xp", "gaia_g")
    small = Model.from_preset("tiny", Tokenizer({n: star_tokenizer.codecs[n] for n in known}))
    large = small.extended(star_tokenizer)
    given = mini.observations.select(*known)[:10]
    np.testing.assert_allclose(large.embed(given).vectors, small.embed(given).vectors, atol=1e-5)
    ids = {m.name: m.id for m in large.config.modalities}
    assert {m.name: m.id for m in small.config.modalities}.items() <= ids.items()
    assert sorted(ids.values()) == list(range(13))
    with pytest.raises(ValueError, match="has no codec of"):
        large.extended(small.tokenizer)


def test_wrong_weights_are_refused(star_model, tmp_path):
    folder = star_model.save_pretrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dim": 64}))
    with pytest.raises(CheckpointError, match="does not fit a model"):
        Model.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="neither a folder, nor a hub id"):
        Model.from_pretrained("no-such-model")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_models_know_the_stars(name, mini):
    model = Model.from_pretrained(name)
    embedding = model.embed(mini.observations)
    assert embedding.valid.all()
    assert np.isfinite(embedding.vectors).all()
    assert "apogee_teff" in model.network.names


def test_a_shared_codec_may_have_more_modalities_than_the_model(tmp_path):
    codec = Codec.from_pretrained("image", modality="hsc_image")
    model = Model.from_preset("tiny", Tokenizer({"hsc_image": codec}))
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert list(again.tokenizer.codecs) == again.network.names == ["hsc_image"]
