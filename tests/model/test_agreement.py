"""A network and its codecs: other tokens, or ids that mean something else, are refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from omnisky.codecs import Tokenizer
from omnisky.codecs.scalars.scalar import ScalarCodec
from omnisky.modalities import Scalar
from omnisky.model import Model
from omnisky.storage import CheckpointError


def scalar_codec(name, bins=1024, seed=0):
    values = np.random.default_rng(seed).normal(15, 3, 20_000)
    return ScalarCodec.fit(Scalar(values), modality=name, bins=bins)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    codecs = {name: scalar_codec(name) for name in ("gaia_g", "gaia_bp")}
    return Model.from_preset("tiny", Tokenizer(codecs))


def replaced(model, tmp_path, codec):
    folder = model.save_pretrained(tmp_path / "m")
    shutil.rmtree(folder / "codecs" / "gaia_g")
    codec.save(folder / "codecs" / "gaia_g")
    return folder


def test_the_right_codec_is_taken(model, tmp_path):
    folder = replaced(model, tmp_path, scalar_codec("gaia_g"))
    assert Model.from_pretrained(folder).codecs.keys() == {"gaia_g", "gaia_bp"}


@pytest.mark.parametrize("stored", ["float32", "float16", "int8"])
def test_rounding_on_the_disk_is_no_other_codec(model, tmp_path, stored):
    Model.from_pretrained(model.save_pretrained(tmp_path / "m", stored=stored))


def test_a_codec_of_other_tokens_is_refused(model, tmp_path):
    folder = replaced(model, tmp_path, scalar_codec("gaia_g", bins=32))
    with pytest.raises(
        CheckpointError, match=r"'gaia_g' makes 1 ordinal tokens of 32 ids.* 1024 id"
    ):
        Model.from_pretrained(folder)


def test_a_codec_of_other_bins_is_refused(model, tmp_path):
    folder = replaced(model, tmp_path, scalar_codec("gaia_g", seed=1))
    with pytest.raises(CheckpointError, match="'gaia_g' has other bins"):
        Model.from_pretrained(folder)


def test_extending_keeps_the_codecs_of_what_is_known(model):
    more = {**model.codecs, "gaia_rp": scalar_codec("gaia_rp")}
    assert model.extended(Tokenizer(more)).network.names == ["gaia_g", "gaia_bp", "gaia_rp"]
    for other, message in (
        (scalar_codec("gaia_g", 32), "32 ids"),
        (scalar_codec("gaia_g", seed=1), "other bins"),
    ):
        with pytest.raises(ValueError, match=message):
            model.extended(Tokenizer({**more, "gaia_g": other}))


def test_models_without_codecs_are_saved_and_loaded(tmp_path):
    model = Model.from_preset("tiny")
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert not again.codecs
    assert not (tmp_path / "m" / "codecs").exists()
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], tensor)
    with pytest.raises(ValueError, match="takes tokens only"):
        _ = again.tokenizer


def test_lost_codecs_are_missed(model, tmp_path):
    folder = model.save_pretrained(tmp_path / "m")
    shutil.rmtree(folder / "codecs")
    with pytest.raises(FileNotFoundError, match="holds no codecs"):
        Model.from_pretrained(folder)
    # Written before the configuration said so.
    config = json.loads((folder / "config.json").read_text())
    del config["codecs"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match="holds no codecs"):
        Model.from_pretrained(folder)


def test_layouts_that_cannot_be_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="'own' or 'aion'; found 'ours'"):
        Model.from_preset("tiny", layout="ours")
    with pytest.raises(ValueError, match="stored='int8'"):
        model.save_pretrained(tmp_path / "m", layout="aion", stored="int8")
    with pytest.raises(ValueError, match="layout has no gaia_g, gaia_bp; save with"):
        model.save_pretrained(tmp_path / "m", layout="aion")
    with pytest.raises(ValueError, match="layout has no gaia_bp, gaia_g"):
        Model.from_preset("tiny", model.tokenizer, layout="aion")
    assert not (tmp_path / "m").exists()
