"""Codecs load from where they are said to be, and from nowhere else; never anything executable."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).parent / "scalars"))

import peer
import toy_codec

from omnisky.codecs import Codec, ScalarCodec, Tokenizer, load_codec, loading
from omnisky.modalities import Observations, Scalar, UnknownModalityError
from omnisky.pretrained import finding, shipped_codecs
from omnisky.storage import CheckpointError
from tests.pretrained.stand_in import COMMIT, put_into_cache, run_offline

HUB_ID = "someone/codecs"


@pytest.fixture(autouse=True)
def toy_is_known(monkeypatch):
    monkeypatch.setattr(loading, "_KINDS", loading._KINDS | {"toy-codec": "toy_codec:ToyCodec"})


@pytest.fixture(scope="module")
def values():
    return Scalar(np.random.default_rng(0).normal(15, 2, 500))


@pytest.fixture
def model(tmp_path, values):
    """Return a folder as a model has it: codecs of one modality, and one of two."""
    folder = tmp_path / "model"
    for name in ("gaia_g", "gaia_bp"):
        codec = ScalarCodec.fit(values, modality=name, bins=16)
        codec.save(folder / "codecs" / name)
    toy_codec.ToyCodec(toy_codec.ToyConfig()).save(folder / "codecs" / "toy")
    (folder / "config.json").write_text('{"kind": "model"}')
    return folder


@pytest.fixture(scope="module")
def aion_folder(tmp_path_factory):
    """Return two codecs of AION-1 as they were released."""
    folder = tmp_path_factory.mktemp("aion")
    for name in ("FLUX_G", "Z"):
        peer.write(folder, name, peer.build(name))
    return folder


def test_by_the_path_of_one_codec(model, values):
    codec = Codec.from_pretrained(model / "codecs" / "gaia_g")
    assert codec.modality == "gaia_g"
    assert not codec.training
    same = Codec.from_pretrained(str(model / "codecs" / "gaia_g"), "gaia_g")
    assert torch.equal(codec.encode(values), same.encode(values))


@pytest.mark.parametrize("modality", ["gaia_bp", "one_spectrum", "two_spectrum"])
def test_by_the_path_of_a_model(model, modality):
    assert Codec.from_pretrained(model, modality).modality == modality
    assert Codec.from_pretrained(model / "codecs", modality).modality == modality


def test_by_the_name_of_a_shipped_codec(model, monkeypatch, tmp_path):
    monkeypatch.setattr(finding, "ROOT", model)
    assert list(shipped_codecs()) == ["gaia_bp", "gaia_g", "toy"]
    assert Codec.from_pretrained("toy", "two_spectrum").modality == "two_spectrum"
    with pytest.raises(ValueError, match="is for hub ids"):
        Codec.from_pretrained("toy", revision="v1")
    # A folder of that name comes first: it is what the user sees.
    ScalarCodec.grid("desi_z", 0, 6, 32).save(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    assert Codec.from_pretrained("toy").modality == "desi_z"
    with pytest.raises(FileNotFoundError, match=r"ships with omnisky \(gaia_bp, gaia_g, toy\)"):
        Codec.from_pretrained("tyo")


def test_codecs_of_aion_by_path(aion_folder):
    flux = Codec.from_pretrained(aion_folder, "legacysurvey_flux_g")
    assert flux.modality == "legacysurvey_flux_g"
    alone = Codec.from_pretrained(aion_folder / "codecs" / "FLUX_G")
    fluxes = Scalar(peer.values_of("FLUX_G", 50, np.random.default_rng(1)).numpy())
    assert torch.equal(flux.encode_masked(fluxes)[0], alone.encode_masked(fluxes)[0])
    assert Codec.from_pretrained(aion_folder, "sdss_z").modality == "sdss_z"


def test_by_hub_id_only_what_is_needed_is_fetched(hub, model, aion_folder):
    ours = hub(model)
    codec = Codec.from_pretrained(HUB_ID, "gaia_g", revision="v1.0")
    assert codec.modality == "gaia_g"
    assert ours.fetched == {"codecs/gaia_g/model.safetensors"}
    assert [call[:2] for call in ours.calls] == [(HUB_ID, "v1.0")]
    assert Codec.from_pretrained(f"{HUB_ID}@v2.0", "gaia_g").modality == "gaia_g"
    assert ours.revisions == ["v1.0", "v2.0"]
    shutil.rmtree(ours.cache)
    theirs = hub(aion_folder)
    assert Codec.from_pretrained(HUB_ID, "legacysurvey_flux_g").modality == "legacysurvey_flux_g"
    assert theirs.fetched == {"codecs/FLUX_G/model.safetensors"}


def test_a_shared_codec_on_the_hub_is_found_and_of_one_commit(hub, model):
    found = hub(model)
    codec = Codec.from_pretrained(HUB_ID, "two_spectrum", revision="v1.0")
    assert codec.modality == "two_spectrum"
    assert found.fetched == {"codecs/toy/model.safetensors"}
    # Between the calls the branch may have moved: the later ones name the commit.
    assert [revision for _, revision, _ in found.calls] == ["v1.0", COMMIT, COMMIT]


def test_a_codec_that_is_a_repository_of_its_own(hub, model):
    hub(model / "codecs" / "gaia_g")
    assert Codec.from_pretrained(HUB_ID).modality == "gaia_g"
    found = hub(model / "codecs" / "toy")
    shutil.rmtree(found.cache)
    assert Codec.from_pretrained(HUB_ID, "two_spectrum").modality == "two_spectrum"
    assert found.fetched == {"model.safetensors"}


def test_nothing_large_is_fetched_before_the_codec_is_known(hub, model):
    found = hub(model)
    with pytest.raises(ValueError, match="holds 3 codecs; say which"):
        Codec.from_pretrained(HUB_ID)
    assert found.fetched == set()


def test_the_weights_of_a_model_without_codecs_are_not_fetched(hub, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"omnisky_format": 1, "kind": "model"}')
    (tmp_path / "model" / "model.safetensors").write_bytes(b"gigabytes")
    found = hub(tmp_path / "model")
    with pytest.raises(CheckpointError, match="holds a 'model'; known codecs are"):
        Codec.from_pretrained(HUB_ID, "gaia_g")
    assert not found.fetched


def test_offline_what_is_cached_is_found_by_branch_tag_and_commit(model, tmp_path):
    put_into_cache(model, tmp_path / "cache", HUB_ID, "v1.0")
    code = f"""
from omnisky.codecs import Codec
for revision in ("v1.0", "{COMMIT}"):
    print(Codec.from_pretrained("{HUB_ID}", "gaia_g", revision=revision).modality)
for wrong in (dict(revision="v2.0"), dict()):
    try:
        Codec.from_pretrained("{HUB_ID}", "gaia_g", **wrong)
    except FileNotFoundError as error:
        print(error)
"""
    said = run_offline(code, tmp_path / "cache")
    assert said.splitlines()[:2] == ["gaia_g", "gaia_g"]
    assert f"{HUB_ID} (revision v2.0) is no folder here and could not be fetched" in said
    assert f"{HUB_ID} (revision main) is no folder here" in said
    assert "Offline, give the path of a local copy" in said


def test_what_is_not_there_is_told(hub, model, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no folder .*nowhere; give a codec's or a model's"
    ):
        Codec.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no codecs: no config\.json in"):
        Codec.from_pretrained(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no codec of 'gaia_rp'; there are gaia_bp, gaia_g"):
        Codec.from_pretrained(model, "gaia_rp")
    hub(model)
    with pytest.raises(FileNotFoundError, match="holds no codec of 'gaia_rp'"):
        Codec.from_pretrained(HUB_ID, "gaia_rp")


def test_a_modality_that_the_codec_does_not_encode_is_told(model):
    with pytest.raises(UnknownModalityError, match="this scalar-codec encodes gaia_g; found 'gai"):
        Codec.from_pretrained(model / "codecs" / "gaia_g", "gaia_bp")
    with pytest.raises(UnknownModalityError, match="encodes one_spectrum, two_spectrum; found"):
        Codec.from_pretrained(model / "codecs" / "toy", "gaia_g")


def test_which_of_several_must_be_said(model):
    with pytest.raises(ValueError, match=r"holds 3 codecs; say which .*gaia_bp, gaia_g, toy"):
        Codec.from_pretrained(model)


def test_a_revision_is_for_the_hub(model):
    with pytest.raises(ValueError, match=r"revision='v1' is for hub ids .*; .*model is none"):
        Codec.from_pretrained(model, "gaia_g", revision="v1")


def test_compat_is_for_codecs_of_aion(model, aion_folder):
    with pytest.raises(ValueError, match=r"is for AION-1 codecs; .*is a codec of omnisky's own"):
        Codec.from_pretrained(model, "gaia_g", compat="aion-0.0.2")
    with pytest.raises(ValueError, match=r"compat must be 'aion-0\.0\.2' or left out; found 'aio"):
        Codec.from_pretrained(aion_folder, "desi_z", compat="aion-1")
    codec = Codec.from_pretrained(aion_folder, "desi_z", compat="aion-0.0.2")
    assert codec.config.compat == "aion-0.0.2"


def damage(codec: Path, how: str) -> None:
    """Damage a codec folder in one of the ways files are damaged."""
    weights, config = codec / "model.safetensors", codec / "config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-5])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "head":
        weights.write_bytes(b"\xff" * 64 + weights.read_bytes()[64:])
    elif how == "pickled":
        weights.write_bytes(pickle.dumps({"edges": 1}))
    elif how == "cut config":
        config.write_text(config.read_text()[:-5])
    elif how == "list config":
        config.write_text("[1, 2]")
    else:
        values = json.loads(config.read_text())
        changes = {
            "kind": {"kind": "model"},
            "version": {"omnisky_format": 99},
            "key": {"colour": "red"},
            "shape": {"bins": 17},
        }
        config.write_text(json.dumps(values | changes[how]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "not a readable safetensors file"),
        ("empty", "not a readable safetensors file"),
        ("head", "not a readable safetensors file"),
        ("pickled", "damaged or pickled. Pickled files are never loaded"),
        ("cut config", "config.json is not a JSON object"),
        ("list config", "config.json is not a JSON object; found a list"),
        ("kind", "holds a 'model'; known codecs are .*scalar-codec"),
        ("version", "has format version 99; this omnisky reads version 1"),
        ("key", "does not fit a scalar-codec: .*colour"),
        ("shape", "does not fit a scalar-codec"),
    ],
)
def test_damage_is_told(model, how, message):
    codec = model / "codecs" / "gaia_g"
    damage(codec, how)
    for load in (
        lambda: Codec.from_pretrained(codec),
        lambda: Codec.from_pretrained(model, "gaia_g"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load()


@pytest.mark.parametrize("how", ["truncated", "pickled", "cut config"])
def test_damaged_codecs_of_aion_are_told(aion_folder, tmp_path, how):
    folder = Path(shutil.copytree(aion_folder, tmp_path / "aion"))
    damage(folder / "codecs" / "FLUX_G", how)
    with pytest.raises(CheckpointError):
        Codec.from_pretrained(folder, "legacysurvey_flux_g")


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_pickled_weights_are_never_read(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codec = model / "codecs" / "gaia_g"
    (codec / "model.safetensors").unlink()
    (codec / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin may be pickled and is nev"):
        Codec.from_pretrained(model, "gaia_g")
    (codec / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="Pickled files are never loaded"):
        Codec.from_pretrained(model, "gaia_g")
    assert not Path("exploded").exists()


def test_two_surveys_share_one_copy_of_a_codec(tmp_path):
    codec = toy_codec.ToyCodec(toy_codec.ToyConfig()).eval()
    tokenizer = Tokenizer({name: codec for name in codec.modalities})
    tokenizer.save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["toy-codec"]
    again = Tokenizer.from_pretrained(tmp_path)
    for both in (tokenizer.codecs, again.codecs):
        one, two = both["one_spectrum"], both["two_spectrum"]
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
            assert a.data_ptr() == b.data_ptr()
    one = toy_codec.objects("one", 12).observations["one_spectrum"]
    two = toy_codec.objects("two", 12, 1).observations["two_spectrum"]
    seen = Observations({"one_spectrum": one, "two_spectrum": two})
    a, b = tokenizer.encode(seen), again.encode(seen)
    assert all(torch.equal(a[name], b[name]) for name in seen)


def test_loading_changes_nothing_global(model, aion_folder, hub, monkeypatch):
    from huggingface_hub import constants

    import omnisky.storage as storage

    def everything():
        return (
            {k: v for k, v in vars(constants).items() if k.isupper()},
            dict(os.environ),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
        )

    before, during = everything(), []
    read = storage.read_tensors
    for module in (storage, sys.modules["omnisky.codecs.aion.folders"]):
        monkeypatch.setattr(
            module, "read_tensors", lambda f: (during.append(everything()), read(f))[1]
        )
    Codec.from_pretrained(model, "two_spectrum")
    Codec.from_pretrained(aion_folder, "legacysurvey_flux_g", compat="aion-0.0.2")
    hub(model)
    Codec.from_pretrained(HUB_ID, "gaia_g")
    assert len(during) == 3
    # The toy draws initial weights; nothing else may differ.
    assert all(state[:4] == before[:4] for state in during)
    assert everything()[:4] == before[:4]


def test_aion_defect_codecs_only_from_the_hub(aion_folder):
    """The peer finds a codec in a folder only if that is on the hub, and to do so rewrites names in
    huggingface_hub for the whole process; here a folder is enough and nothing is rewritten. There
    is no value to reproduce: under compat it loads as well."""
    from aion.codecs.scalar import LogScalarCodec
    from aion.codecs.utils import _codec_path_context
    from aion.modalities import LegacySurveyFluxG
    from huggingface_hub import constants

    with pytest.raises(TypeError):
        LogScalarCodec.from_pretrained(str(aion_folder), modality=LegacySurveyFluxG)
    with _codec_path_context(LegacySurveyFluxG):
        assert constants.CONFIG_NAME == "codecs/FLUX_G/config.json"  # for everybody
    fluxes = Scalar(peer.values_of("FLUX_G", 50, np.random.default_rng(1)).numpy())
    right = Codec.from_pretrained(aion_folder, "legacysurvey_flux_g")
    released = Codec.from_pretrained(aion_folder, "legacysurvey_flux_g", compat="aion-0.0.2")
    assert torch.equal(right.encode_masked(fluxes)[0], released.encode_masked(fluxes)[0])


def test_loaded_one_by_one_or_by_kind_is_the_same(model, values):
    a = load_codec(model / "codecs" / "gaia_g")
    b = ScalarCodec.from_folder(model / "codecs" / "gaia_g")
    assert torch.equal(a.encode(values), b.encode(values))
    with pytest.raises(CheckpointError, match="holds a 'toy-codec'; expected a 'scalar-codec'"):
        ScalarCodec.from_folder(model / "codecs" / "toy")


def _refer(folder, name, sha256):
    folder.mkdir(parents=True)
    content = {"omnisky_format": 1, "kind": "shipped-codec", "name": name, "sha256": sha256}
    (folder / "config.json").write_text(json.dumps(content))


def test_models_share_codecs_that_ship(model, monkeypatch, tmp_path):
    from omnisky.storage import sha256_of

    monkeypatch.setattr(finding, "ROOT", model)
    right = sha256_of(model / "codecs" / "toy" / "model.safetensors")
    _refer(tmp_path / "one" / "codecs" / "toy", "toy", right)
    codec = Codec.from_pretrained(tmp_path / "one" / "codecs" / "toy", "two_spectrum")
    assert codec.modalities == Codec.from_pretrained("toy", "two_spectrum").modalities
    assert set(Tokenizer.from_pretrained(tmp_path / "one" / "codecs").codecs) == {
        "one_spectrum",
        "two_spectrum",
    }
    for name in ("toy", "any-name"):
        _refer(tmp_path / name / "codecs" / name, "toy", right)
        found = Codec.from_pretrained(tmp_path / name, "two_spectrum")
        assert found.modality == "two_spectrum"
    _refer(tmp_path / "other", "toy", "0" * 64)
    with pytest.raises(CheckpointError, match="another version of the codec 'toy'"):
        Codec.from_pretrained(tmp_path / "other", "two_spectrum")
    shutil.copytree(model / "codecs" / "gaia_g", model / "stars" / "codecs" / "gaia_g")
    _refer(tmp_path / "g", "stars/gaia_g", sha256_of(model / "codecs/gaia_g/model.safetensors"))
    assert Codec.from_pretrained(tmp_path / "g").modality == "gaia_g"
    for name in ("none", "../toy", "a/b/toy", "stars/toy"):
        _refer(tmp_path / name.replace("/", "-"), name, right)
        with pytest.raises(CheckpointError, match="does not ship with this omnisky; it has gaia"):
            Codec.from_pretrained(tmp_path / name.replace("/", "-"))
