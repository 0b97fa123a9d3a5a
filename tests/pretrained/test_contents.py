"""What a folder says it reads is what the model in it reads, in every layout."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import omnisky
from omnisky.codecs import ScalarCodec
from omnisky.modalities import Observations, Scalar
from omnisky.model import Model
from omnisky.pretrained import (
    NAMES,
    codec_modalities,
    is_own,
    is_released,
    modalities_of,
    shipped_models,
)
from omnisky.storage import CheckpointError
from tests.codecs.scalars import peer
from tests.pretrained.stand_in import RELEASED, write_released_model

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

import toy_codec


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    return write_released_model(tmp_path_factory.mktemp("released") / "aion")


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_of_models_that_ship(name):
    folder = shipped_models()[name]
    assert modalities_of(folder) == sorted(Model.from_pretrained(name).codecs)
    assert not is_released(folder)


def test_of_the_release(released):
    assert is_released(released)
    assert modalities_of(released) == list(RELEASED)
    assert modalities_of(released) == sorted(Model.from_pretrained(released).codecs)


def test_codecs_of_domains_that_a_released_model_lacks(released, tmp_path):
    beside = shutil.copytree(released, tmp_path / "aion")
    peer.write(beside, "EBV", peer.build("EBV"))
    assert modalities_of(beside) == sorted(Model.from_pretrained(beside).codecs) == list(RELEASED)


def test_codecs_of_other_domains_alone_are_refused(released, tmp_path):
    beside = shutil.copytree(released, tmp_path / "aion")
    shutil.rmtree(beside / "codecs")
    peer.write(beside, "EBV", peer.build("EBV"))
    seen = Observations({"legacysurvey_ebv": Scalar([0.1])})
    for door in (modalities_of, lambda folder: omnisky.tokenize(seen, folder)):
        with pytest.raises(FileNotFoundError, match="of legacysurvey_ebv, none of which the model"):
            door(beside)


def test_a_model_knows_its_source_but_not_that_of_another_one(released):
    assert Model.from_pretrained(released).source == str(released)
    # By its name alone it would be read as it is right.
    assert Model.from_pretrained(released, compat="aion-0.0.2").source is None
    read = Model.from_pretrained("nano")
    assert read.source == "nano"
    assert Model(read.network, read.tokenizer).source is None


def test_of_codecs(released, tmp_path):
    for name in ("FLUX_G", "Z"):
        codec = released / "codecs" / name
        assert codec_modalities(codec) == NAMES[name]
        assert not is_own(codec)
    strange = shutil.copytree(released / "codecs" / "Z", tmp_path / "redshift")
    assert codec_modalities(strange) == ()
    single = ScalarCodec.grid("gaia_g", 8, 20, 16).save(tmp_path / "some-name")
    assert codec_modalities(single) == ("gaia_g",)
    assert is_own(single)
    several = toy_codec.ToyCodec(toy_codec.ToyConfig()).save(tmp_path / "toy")
    assert codec_modalities(several) == ("one_spectrum", "two_spectrum")
    listed = {"kind": "some-codec", "modalities": ["gaia_g"], "untrained": ["gaia_bp"]}
    (several / "config.json").write_text(json.dumps(listed))
    assert codec_modalities(several) == ("gaia_g", "gaia_bp")


def test_a_shared_codec_that_knows_more_than_the_model(tmp_path):
    toy_codec.ToyCodec(toy_codec.ToyConfig()).save(tmp_path / "codecs" / "toy")
    ScalarCodec.grid("gaia_g", 8, 20, 16).save(tmp_path / "codecs" / "gaia_g")
    listed = [{"name": "gaia_g"}, {"name": "a_spectrum", "also": ["two_spectrum"]}]
    (tmp_path / "config.json").write_text(json.dumps({"kind": "model", "modalities": listed}))
    assert modalities_of(tmp_path) == ["gaia_g", "two_spectrum"]


def test_what_a_folder_lacks_is_told(released, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; expected a model or codec"):
        modalities_of(tmp_path)
    bare = Path(shutil.copytree(released, tmp_path / "bare"))
    shutil.rmtree(bare / "codecs")
    with pytest.raises(FileNotFoundError, match=r"no codecs in .*bare, without which a model take"):
        modalities_of(bare)
    for text, message in (("{", r"config\.json is not a JSON object: "), ("[1]", "found a list")):
        (bare / "config.json").write_text(text)
        assert not is_released(bare)
        with pytest.raises(CheckpointError, match=message):
            modalities_of(bare)
