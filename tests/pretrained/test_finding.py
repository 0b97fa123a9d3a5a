"""Pretrained models are where they are said to be, of the revision asked for, and nowhere else."""

import shutil
from pathlib import Path

import pytest

import omnisky
from omnisky.model import Model
from omnisky.pretrained import hub_id, pinned, pretrained_folder, shipped_models
from tests.pretrained.stand_in import COMMIT, put_into_cache, run_offline

HUB_ID = "someone/model"


@pytest.fixture(scope="module")
def folder(star_model, tmp_path_factory):
    """Return an untrained model as users save one."""
    return star_model.save_pretrained(tmp_path_factory.mktemp("found") / "model", card="# Stars\n")


@pytest.mark.parametrize(
    ("source", "revision", "found"),
    [
        ("someone/model", None, ("someone/model", None)),
        ("someone/model", "v1", ("someone/model", "v1")),
        ("someone/model@v1", None, ("someone/model", "v1")),
        ("someone/model@v1", "v1", ("someone/model", "v1")),
        ("someone/model@refs/pr/1", None, ("someone/model", "refs/pr/1")),
        ("nano", None, None),
        ("./model", None, None),
        ("../model", None, None),
        ("a/b/model", None, None),
        (Path("someone/model"), None, None),
        (Path("someone/model@v1"), None, None),
    ],
)
def test_what_is_on_the_hub(source, revision, found):
    assert hub_id(source, revision) == found


def test_a_folder_here_is_not_on_the_hub(tmp_path, monkeypatch):
    for name in ("someone/model", "someone/model@v1"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id("someone/model") is None
    assert hub_id("someone/model@v1") is None
    assert pretrained_folder("someone/model@v1") == Path("someone/model@v1")


@pytest.mark.parametrize("source", ["nano", "nano@v1", "folder", Path("folder"), "nowhere@v1"])
def test_a_revision_is_for_the_hub(tmp_path, monkeypatch, source):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    for ask in (pretrained_folder, pinned):
        with pytest.raises(ValueError, match="revision='v1' is for hub ids organisation/name; "):
            ask(source, "v1")
    with pytest.raises(ValueError, match="revision='v1' is for hub ids"):
        Model.from_pretrained(source, revision="v1")


@pytest.mark.parametrize("source", ["someone/model@v2", "someone/model@"])
def test_two_revisions_are_refused(hub, folder, source):
    found = hub(folder)
    with pytest.raises(ValueError, match=r"revision='v1' for another; give one of them"):
        pretrained_folder(source, "v1")
    with pytest.raises(ValueError, match="asks for the revision ''"):
        pretrained_folder("someone/model@")
    assert not found.calls


def test_names_and_folders_are_what_they_are(folder):
    assert pretrained_folder("nano") == shipped_models()["nano"]
    assert pretrained_folder(str(folder)) == pretrained_folder(folder) == folder
    assert pinned("nano") == "nano"
    assert pinned(folder) == str(folder)
    with pytest.raises(FileNotFoundError, match=r"'giga': it is neither a folder, .*nano"):
        pretrained_folder("giga")
    pickled = folder / "pytorch_model.bin"
    pickled.touch()
    with pytest.raises(FileNotFoundError, match=r"is a file; .* Pickles .* are never read"):
        pretrained_folder(pickled)


def test_a_hub_id_is_fetched_whole_and_pinned_by_what_tells_of_it(hub, folder):
    found = hub(folder)
    assert pinned(f"{HUB_ID}@v1") == pinned(HUB_ID, "v1") == f"{HUB_ID}@{COMMIT}"
    assert found.revisions == ["v1", "v1"]
    assert not found.fetched
    told = pretrained_folder(HUB_ID, part="words")
    assert (told / "README.md").is_file()
    assert not found.fetched
    assert pretrained_folder(pinned(HUB_ID)) == told
    assert found.revisions[-1] == COMMIT
    weights = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    assert found.fetched == weights
    assert "model.safetensors" in weights
    assert (
        Model.from_pretrained(f"{HUB_ID}@v1").network.names
        == Model.from_pretrained(folder).network.names
    )


def test_tokens_need_the_codecs_alone(hub, folder, mini):
    seen = mini.observations.select("gaia_g")[:5]
    found = hub(folder)
    ids = omnisky.tokenize(seen, f"{HUB_ID}@v1")["gaia_g"]
    assert (ids == omnisky.tokenize(seen, folder)["gaia_g"]).all()
    assert found.fetched
    assert "model.safetensors" not in found.fetched


def test_offline_codecs_of_which_the_words_alone_are_cached(folder, tmp_path):
    snapshot = put_into_cache(folder, tmp_path / "cache", HUB_ID, "v1")
    (snapshot / "codecs" / "gaia_g" / "model.safetensors").unlink()
    code = f"""
from omnisky.pretrained import modalities_of, pretrained_folder
print(len(modalities_of(pretrained_folder("{HUB_ID}@v1", part="words"))))
for part in ("codecs", "all"):
    try:
        pretrained_folder("{HUB_ID}@v1", part=part)
    except FileNotFoundError as error:
        print(error)
"""
    first, *errors = run_offline(code, tmp_path / "cache").splitlines()
    assert first == "13"
    said = f"{HUB_ID} (revision v1) has no codecs/gaia_g/model.safetensors: either it is no model"
    assert [error.startswith(said) for error in errors] == [True, True]


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_part_of_a_model_is_told(hub, folder, tmp_path, missing):
    part = Path(shutil.copytree(folder, tmp_path / "part"))
    (part / missing).unlink()
    hub(part)
    with pytest.raises(FileNotFoundError, match=rf"{HUB_ID} \(revision v1\) has no {missing}: eit"):
        pretrained_folder(HUB_ID, "v1")
    if missing == "config.json":
        with pytest.raises(FileNotFoundError, match=r"\(revision main\) has no config\.json"):
            pinned(HUB_ID)
    else:
        assert pinned(HUB_ID).endswith(COMMIT)


def test_offline_what_is_cached_is_found_without_torch(folder, tmp_path):
    put_into_cache(folder, tmp_path / "cache", HUB_ID, "v1")
    code = f"""
import sys
from omnisky.pretrained import modalities_of, pinned, pretrained_folder
print(pinned("{HUB_ID}@v1"))
print(len(modalities_of(pretrained_folder("{HUB_ID}", "{COMMIT}"))))
print("torch" in sys.modules)
try:
    pretrained_folder("{HUB_ID}@v2")
except FileNotFoundError as error:
    print(error)
"""
    said = run_offline(code, tmp_path / "cache")
    assert said.splitlines()[:3] == [f"{HUB_ID}@{COMMIT}", "13", "False"]
    assert f"{HUB_ID} (revision v2) is no folder here and could not be fetched" in said
