"""Tokens of an earlier run as a source of another: trained on, evaluated on, checked."""

import json

import pytest

from omnisky.storage import CheckpointError
from omnisky.train.pretraining import evaluate_run, pretrain

REST = """
[masking]
input_budget = 20
output_budget = 10
[evaluation]
objects = 8
matrix_objects = 8
[train]
steps = 2
batch_size = 8
"""


def write_recipe(folder, *sources):
    path = folder / "r.toml"
    head = f'codecs = "{folder}/codecs"\npreset = "tiny"\n[data]\npath = "{folder}"\n'
    parts = [f"[[data.sources]]\n{source}\n" for source in sources]
    path.write_text(head + "".join(parts) + REST)
    return path


@pytest.fixture(scope="module")
def first(star_tokenizer, tmp_path_factory):
    """Return the folder of codecs and of a run that made tokens of stars."""
    folder = tmp_path_factory.mktemp("again")
    star_tokenizer.save_pretrained(folder / "codecs")
    pretrain(write_recipe(folder, 'dataset = "gaia-apogee-mini"'), (), folder / "first")
    return folder


@pytest.fixture(scope="module")
def place(first):
    """Return where the first run's tokens are, below data.path."""
    (found,) = (first / "first/tokens").iterdir()
    return found.relative_to(first).as_posix()


@pytest.fixture(scope="module")
def second(first, place):
    """Return the folder of a run on those tokens, and on stars that it tokenised itself."""
    own = 'dataset = "gaia-apogee-mini"\nmodalities = ["gaia_xp", "gaia_g"]'
    pretrain(write_recipe(first, f'tokens = "{place}"', own), (), first / "second")
    return first / "second"


def test_no_source_is_left_out_of_an_evaluation(second):
    told = json.loads((second / "any_to_any.json").read_text())
    again = evaluate_run(second, objects=8)
    assert [s["objects"] for s in again.sources] == [8, 8]
    assert {(e.given, e.target): e.gain for e in again.entries} == pytest.approx(
        {(e["given"], e["target"]): e["gain"] for e in told["entries"]}, abs=1e-5
    )
    assert {e.sources for e in again.entries if e.target == "apogee_teff"} == {(0,)}
    assert (0, 1) in {e.sources for e in again.entries}


def test_tokens_that_are_gone_are_named(second, first, place):
    (first / place).rename(first / "moved")
    try:
        with pytest.raises(FileNotFoundError, match=rf"source 0 .* no {first / place}.*data\.path"):
            evaluate_run(second)
    finally:
        (first / "moved").rename(first / place)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the folder of a run of omnisky pretrain"):
        evaluate_run(tmp_path)


@pytest.mark.parametrize("key", ['modalities = ["gaia_g"]', "objects = 3"])
def test_tokens_are_taken_whole(first, place, key):
    with pytest.raises(ValueError, match=r"are taken as they are; leave out modalities"):
        pretrain(write_recipe(first, f'tokens = "{place}"\n{key}'), (), first / "other")
    assert not (first / "other/model").exists()


def test_tokens_of_other_codecs_are_refused(first, place):
    recipe = write_recipe(first, f'tokens = "{place}"')
    with pytest.raises(ValueError, match="were made by other codecs than those of this recipe"):
        pretrain(recipe, ["codecs=nano"], first / "other")


def test_tokens_that_are_not_there_are_named(first):
    with pytest.raises((CheckpointError, FileNotFoundError), match="nowhere"):
        pretrain(write_recipe(first, 'tokens = "nowhere"'), (), first / "other")
