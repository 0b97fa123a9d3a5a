"""The public face of the model: save, load, extend, embed."""

import copy
import json

import numpy as np
import pytest
import torch

from omnisky.codecs import Codec, Tokenizer
from omnisky.modalities import Observations, Scalar
from omnisky.model import Model, shipped
from omnisky.model.compact import compact, restored
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


@pytest.mark.parametrize("training", [True, False])
def test_extending_keeps_device_mode_and_format(star_model, star_tokenizer, monkeypatch, training):
    small = Model(copy.deepcopy(star_model.network).train(training), star_tokenizer)
    small.network.cast(torch.bfloat16)
    moved = []
    monkeypatch.setattr("omnisky.model.model.move", lambda network, _, to: moved.append(to))
    large = small.extended(star_tokenizer)
    assert (large.network.training, large.network.dtype) == (training, torch.bfloat16)
    assert large.network.rounded
    assert moved == [torch.device("cpu")]


def test_codecs_go_where_the_network_goes_each_once(star_tokenizer, monkeypatch):
    shared = Codec.from_pretrained("image", modality="hsc_image")
    codecs = {name: star_tokenizer.codecs[name] for name in ("gaia_xp", "gaia_g")}
    codecs = {**codecs, "hsc_image": shared, "legacysurvey_image": shared.of("legacysurvey_image")}
    # Moving leaves those of the fixture as they are.
    model = Model.from_preset("tiny", Tokenizer(copy.deepcopy(codecs)))
    moved, to = [], Codec.to
    monkeypatch.setattr(Codec, "to", lambda codec, *a: moved.append(codec.kind) or to(codec, *a))
    # A device that every machine has, besides the one where things are.
    monkeypatch.setattr("omnisky.model.model.usable_device", torch.device)
    assert model.to("meta") is model
    assert sorted(moved) == ["image-codec", "spectrum-codec"]
    where = {n: {p.device.type for p in c.state_dict().values()} for n, c in model.codecs.items()}
    assert where.pop("gaia_g") == {"cpu"}
    assert all(devices == {"meta"} for devices in where.values())
    assert {p.device.type for p in model.network.parameters()} == {"meta"}


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
def test_rounded_weights_are_not_saved_as_if_they_were_exact(star_model, tmp_path):
    model = Model(copy.deepcopy(star_model.network), star_model.tokenizer)
    for precision in ("bfloat16", "float32"):
        model.cast(precision)
        for stored in ("float32", "float16", "int8"):
            with pytest.raises(ValueError, match=r"were rounded by cast.*load the model again"):
                model.save_pretrained(tmp_path / "m", stored=stored)
    assert not (tmp_path / "m").exists()
    star_model.cast("float32").save_pretrained(tmp_path / "m")


def test_bfloat16_that_would_be_slow_is_told(star_model, monkeypatch):
    model = Model(copy.deepcopy(star_model.network), star_model.tokenizer)
    slow = "omnisky.model.fast.verbs._slow_in_bfloat16"
    monkeypatch.setattr(slow, lambda: False)
    model.cast("bfloat16")
    monkeypatch.setattr(slow, lambda: True)
    message = "no bfloat16 arithmetic, so it is imitated, several times slower; use float32"
    for act in (lambda: model.cast("bfloat16"), lambda: model.to("cpu")):
        with pytest.warns(UserWarning, match=message) as told:
            act()
        assert [one.filename for one in told] == [__file__]
    model.cast("float32").to("cpu")


def test_loading_draws_no_weights_and_needs_the_file_no_longer(star_model, tmp_path):
    folder = star_model.save_pretrained(tmp_path / "m")
    before = torch.get_rng_state()
    restored(star_model.config, compact(star_model.network, "float32"))
    assert torch.equal(torch.get_rng_state(), before)
    again = Model.from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    wanted = star_model.network.state_dict()
    found = again.network.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in wanted.items())
    assert all(p.requires_grad and p.device.type == "cpu" for p in again.network.parameters())
    assert {b.device.type for b in again.network.buffers()} == {"cpu"}


def test_wrong_weights_are_refused(star_model, tmp_path):
    folder = star_model.save_pretrained(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    path = folder / "config.json"
    for change, amiss in [
        ({"dim": 64}, r"\w has shape \(.*\) instead of \(.*64.*\); .* and \d+ more"),
        ({"encoder_depth": 1}, r"encoder\.1\.\S* is not in it"),
        ({"encoder_depth": 9}, r"encoder\.\d\.\S* is missing"),
    ]:
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=f"does not fit a model: .*{amiss}.* of one"):
            Model.from_pretrained(folder)
    path.write_text(json.dumps({**config, "mlp_ratio": -4}))
    with pytest.raises(CheckpointError, match=r"mlp_ratio must be positive and free_rank .* -4"):
        Model.from_pretrained(folder)
    tensors = compact(star_model.network, "int8")
    name = next(name for name in tensors if name.endswith(".scale_of_row"))
    tensors[name] = tensors[name][..., :1, :1].repeat(*[1] * (tensors[name].ndim - 1), 2)
    with pytest.raises(ValueError, match=r"scale_of_row has shape \(.*\) instead of \(.*1\)"):
        restored(star_model.config, tensors)
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
