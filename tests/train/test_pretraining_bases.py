"""What pretraining begins with: a base of ours or of AION-1 with its codecs, or a fresh network."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from omnisky.codecs import ScalarCodec, Tokenizer
from omnisky.codecs.scalars.scalar import ScalarCodecConfig
from omnisky.codecs.scalars.scales import grid_table
from omnisky.mock import Universe
from omnisky.modalities import Scalar
from omnisky.model import Model
from omnisky.model.aion import released_modalities, write_released
from omnisky.model.config import ModelConfig
from omnisky.model.transformer import Transformer
from omnisky.pretrained import DOMAINS
from omnisky.train.pretraining import TokenTable, pretrain
from omnisky.train.pretraining.running import _codecs_of

FLUX, R_FLUX, PARALLAX = "legacysurvey_flux_g", "legacysurvey_flux_r", "gaia_parallax"
RELEASED = ("tok_flux_g", "tok_z")
OF_RELEASED = {FLUX, "desi_z", "sdss_z"}


@pytest.fixture(scope="module")
def seen():
    return Universe(seed=3, n=80).observations(modalities=(FLUX, R_FLUX, PARALLAX))


@pytest.fixture(scope="module")
def own(seen, tmp_path_factory):
    """Codecs of ours, one of them of a modality that the base has another codec of."""
    folder = tmp_path_factory.mktemp("own")
    Tokenizer(
        {name: ScalarCodec.fit(seen[name], modality=name, bins=8) for name in (FLUX, PARALLAX)}
    ).save_pretrained(folder)
    return folder


def network_of(*keys):
    torch.manual_seed(0)
    config = ModelConfig.preset("tiny", released_modalities(keys))
    return Transformer(ModelConfig(**{**vars(config), "positions": "fixed"})).eval()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A checkpoint in AION-1's layout with two codecs in AION-1's own."""
    folder = tmp_path_factory.mktemp("released") / "aion"
    write_released(network_of(*RELEASED), folder)
    for name, key, table in (
        ("FLUX_G", "_quantizer._index_to_val", torch.linspace(-3, 8, 1024)),
        ("Z", "_quantizer.buckets", torch.linspace(-0.1, 7, 1024)),
    ):
        codec = folder / "codecs" / name
        codec.mkdir(parents=True)
        config = {"modality": name, "codebook_size": 1024}
        (codec / "config.json").write_text(json.dumps(config))
        save_file({key: table}, codec / "model.safetensors")
    return folder


def recipe_of(tmp_path, codecs, modalities, **top):
    """Write a recipe of some steps on mock objects."""
    path = tmp_path / "r.toml"
    listed = "".join(f"{key} = {json.dumps(value)}\n" for key, value in top.items())
    path.write_text(
        f"codecs = {json.dumps(list(map(str, codecs)))}\n"
        f'preset = "tiny"\nmodalities = {json.dumps(modalities)}\n{listed}'
        "[[data.sources]]\nmock = { objects = 80, seed = 3 }\n"
        "[masking]\ninput_budget = 1\noutput_budget = 1\n"
        "[evaluation]\nobjects = 4\n"
        "[train]\nsteps = 2\nbatch_size = 8\n"
    )
    return path


def bins_of(codec):
    return codec.state_dict()["bins.edges"]


def test_codecs_of_a_released_folder_are_found(released, own):
    for place in (released, released / "codecs"):
        found = _codecs_of(str(place))
        assert set(found) == OF_RELEASED
        assert found["desi_z"] is found["sdss_z"]
    assert set(_codecs_of(str(own))) == {FLUX, PARALLAX}


def test_codecs_of_a_model_of_ours_are_found(own, tmp_path):
    Model.from_preset("tiny", Tokenizer.from_pretrained(own)).save_pretrained(tmp_path / "model")
    assert set(_codecs_of(str(tmp_path / "model"))) == {FLUX, PARALLAX}


@pytest.mark.parametrize("inner", ["", "codecs"])
def test_a_released_base_keeps_its_codecs_and_gets_others(released, own, inner, tmp_path):
    path = recipe_of(tmp_path, [own, released / inner], [FLUX, PARALLAX], start_from=str(released))
    base = Model.from_pretrained(released)
    model = pretrain(path, (), tmp_path / "run")
    assert model.network.names == [*base.network.names, PARALLAX]
    assert set(model.codecs) == OF_RELEASED | {PARALLAX}
    edges = bins_of(base.codecs[FLUX])
    assert torch.equal(bins_of(model.codecs[FLUX]), edges)
    (folder,) = (tmp_path / "run" / "tokens").iterdir()
    table = TokenTable.open(folder / "train")
    assert list(table.modalities) == [FLUX, PARALLAX]
    assert table.tokens()[FLUX].max() > 8  # by the base's codec, not by that of eight bins
    again = Model.from_pretrained(tmp_path / "run" / "model")
    assert again.network.names == model.network.names
    assert torch.equal(bins_of(again.codecs[FLUX]), edges)


def test_a_base_without_codecs_takes_those_of_the_recipe(released, tmp_path):
    write_released(network_of(*RELEASED), tmp_path / "bare")
    path = recipe_of(tmp_path, [released], [FLUX, "desi_z"], start_from=str(tmp_path / "bare"))
    model = pretrain(path, (), tmp_path / "run")
    assert set(model.codecs) == {FLUX, "desi_z"}


def test_no_codecs_need_be_named_beside_a_base(released, tmp_path):
    model = pretrain(
        recipe_of(tmp_path, [], [FLUX, "desi_z"], start_from=str(released)), (), tmp_path / "run"
    )
    assert set(model.codecs) == OF_RELEASED
    path = recipe_of(tmp_path, [], [FLUX, R_FLUX], start_from=str(released))
    said = rf"aion has no codec of {R_FLUX}; there are codecs of desi_z, {FLUX}, sdss_z"
    with pytest.raises(ValueError, match=said):
        pretrain(path, (), tmp_path / "other")
    with pytest.raises(
        ValueError, match=r"codecs = \[\] has no codec of anything; there are codecs"
    ):
        pretrain(recipe_of(tmp_path, [], []), (), tmp_path / "third")


def test_a_shared_codec_of_a_base_serves_its_other_modalities(tmp_path):
    def z_codec(low, high):
        names = ("desi_z", "sdss_z")
        config = ScalarCodecConfig(
            modality=names[0], modalities=names, bins=8, scale="linear", low=low, high=high
        )
        return ScalarCodec.of_table(config, grid_table(config.where()))

    Model.from_preset("tiny", Tokenizer({"desi_z": z_codec(-0.1, 7.0)})).save_pretrained(
        tmp_path / "base"
    )
    z_codec(-0.1, 20.0).save(tmp_path / "codecs" / "z")
    path = recipe_of(
        tmp_path, [tmp_path / "codecs"], ["desi_z", "sdss_z"], start_from=str(tmp_path / "base")
    )
    model = pretrain(path, (), tmp_path / "run")
    assert model.network.names == ["desi_z", "sdss_z"]
    again = Model.from_pretrained(tmp_path / "run" / "model")
    for name in ("desi_z", "sdss_z"):
        assert float(bins_of(again.codecs[name]).max()) < 7.0


def test_a_fresh_network_may_be_laid_out_as_released(released, tmp_path):
    path = recipe_of(tmp_path, [released], [FLUX, "sdss_z"], layout="aion")
    model = pretrain(path, (), tmp_path / "run")
    assert model.config.positions == "fixed"
    assert [m.id for m in model.config.modalities] == [
        m.id for m in released_modalities(RELEASED[::-1])
    ]
    assert model.config.modalities[1].groups[0].vocab_size == DOMAINS["tok_flux_g"].vocabulary
    write_released(model.network, tmp_path / "written")


def test_settings_may_name_a_modality_by_any_name_it_goes_by(released, tmp_path, monkeypatch):
    from omnisky.train.pretraining import running

    made = []
    right = running.PretrainingObjective
    monkeypatch.setattr(
        running, "PretrainingObjective", lambda *a, **k: made.append(right(*a, **k)) or made[-1]
    )
    path = recipe_of(tmp_path, [released], [FLUX, "sdss_z"], layout="aion")
    settings = ['masking.never_visible=["sdss_z"]', "token_weights={ sdss_z = 0.0 }"]
    model = pretrain(path, settings, tmp_path / "run")
    assert model.network.names == ["desi_z", FLUX]
    assert made[0].hidden == (0,)
    assert made[0].weights == {"desi_z": 0.0, FLUX: 1.0}


def test_a_base_with_a_codec_of_its_own_beside_a_shared_one_loads_again(tmp_path):
    values = np.random.default_rng(0).uniform(0, 6, 5000)
    one = ScalarCodec.fit(Scalar(values), modality="desi_z", bins=32)
    both = ("desi_z", "sdss_z")
    shared = ScalarCodec.fit(Scalar(values), modality="desi_z", bins=64, modalities=both)
    codecs = Tokenizer({"desi_z": one, "sdss_z": shared.of("sdss_z")})
    model = Model.from_preset("tiny", codecs)
    again = Model.from_pretrained(model.save_pretrained(tmp_path / "m"))
    assert {name: codec.config.bins for name, codec in again.codecs.items()} == {
        "desi_z": 32,
        "sdss_z": 64,
    }


def test_what_does_not_fit_the_released_layout_is_refused(seen, tmp_path):
    two = ScalarCodec.fit(seen[FLUX], modality=FLUX, bins=8, tokens=2)
    two.save(tmp_path / "codecs" / FLUX)
    path = recipe_of(tmp_path, [tmp_path / "codecs"], [FLUX], layout="aion")
    with pytest.raises(ValueError, match=f"codec of '{FLUX}' makes 2 ordinal tokens of 8 ids"):
        pretrain(path, (), tmp_path / "run")
    with pytest.raises(ValueError, match="layout = 'aion' is for a fresh model; that of nano is"):
        pretrain(path, ["start_from=nano"], tmp_path / "run")
    with pytest.raises(ValueError, match="expected one of 'own', 'aion'"):
        pretrain(path, ["layout=aoin"], tmp_path / "run")
