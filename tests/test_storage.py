"""Folders of safetensors and JSON: whole or not at all, nothing executable."""

import json
import pickle
import resource
from pathlib import Path

import pytest
import safetensors.torch
import torch

import omnisky
from omnisky.storage import CheckpointError, read_folder, sha256_of, write_folder

TENSORS = {"a": torch.arange(6).reshape(2, 3), "b": torch.ones(())}


def test_round_trip(tmp_path):
    folder = write_folder(tmp_path / "x", "thing", {"size": 3}, TENSORS)
    config, tensors = read_folder(folder, "thing")
    assert config == {"size": 3}
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


def test_only_tensors_that_share_memory_or_have_gaps_are_copied(tmp_path, monkeypatch):
    """Three thousand million numbers are 12 GB, and a copy of them as many again."""
    written = {}

    def save_file(tensors, path):
        written.update(tensors)
        original(tensors, path)

    original = safetensors.torch.save_file
    monkeypatch.setattr(safetensors.torch, "save_file", save_file)
    one, square = torch.randn(4, 5), torch.randn(3, 3)
    shared = {"one": one, "again": one, "rows": one[1:3], "none": one[:0]}
    tensors = {**TENSORS, **shared, "columns": square.T}
    folder = write_folder(tmp_path / "x", "thing", {}, tensors)
    found = read_folder(folder, "thing")[1]
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    same = {name for name, t in tensors.items() if written[name].data_ptr() == t.data_ptr()}
    assert same >= {"one", *TENSORS}
    assert same.isdisjoint({"again", "rows", "columns"})


def test_everybody_may_read_what_was_written_as_far_as_the_system_lets_them(tmp_path):
    folder = write_folder(tmp_path / "x", "thing", {}, TENSORS)
    plain = tmp_path / "plain"
    plain.touch()
    assert {path.stat().st_mode for path in folder.iterdir()} == {plain.stat().st_mode}


def test_an_existing_folder_is_kept_unless_told(tmp_path):
    folder = write_folder(tmp_path / "x", "thing", {"n": 1}, TENSORS)
    with pytest.raises(FileExistsError, match="exists; choose another name"):
        write_folder(folder, "thing", {"n": 2}, TENSORS)
    assert read_folder(folder, "thing")[0] == {"n": 1}
    write_folder(folder, "thing", {"n": 2}, TENSORS, overwrite=True)
    assert read_folder(folder, "thing")[0] == {"n": 2}


@pytest.mark.parametrize("config", [None, "{", "[]", '{"kind": "thing"}'])
def test_what_is_no_artefact_is_never_replaced(tmp_path, config):
    folder = tmp_path / "precious"
    folder.mkdir()
    for name in "abcd":
        (folder / name).write_text("precious")
    if config is not None:
        (folder / "config.json").write_text(config)
    before = sorted(folder.iterdir())
    with pytest.raises(FileExistsError, match=r"precious was not written by omnisky .it holds a"):
        write_folder(folder, "thing", {}, TENSORS, overwrite=True)
    assert sorted(folder.iterdir()) == before
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(FileExistsError, match="file is a file"):
        write_folder(file, "thing", {}, TENSORS, overwrite=True)
    (tmp_path / "empty").mkdir()
    assert write_folder(tmp_path / "empty", "thing", {}, TENSORS, overwrite=True).is_dir()


@pytest.mark.parametrize(("numbers", "letters"), [(30_000, 0), (1, 30_000)])
def test_a_full_disk_changes_nothing(tmp_path, numbers, letters):
    folder = write_folder(tmp_path / "x", "thing", {"n": 1}, TENSORS)
    config, tensors = {"n": 2, "word": "x" * letters}, {"a": torch.zeros(numbers)}
    # Files may not grow beyond 10 kB; a full disk fails in the same way. Python ignores the signal.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"could not write .*too large.* Nothing was changed; "):
            write_folder(folder, "thing", config, tensors, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_folder(folder, "thing")[0] == {"n": 1}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x"]


def test_another_version_or_kind_is_refused(tmp_path):
    folder = write_folder(tmp_path / "x", "thing", {}, TENSORS)
    with pytest.raises(CheckpointError, match="holds a 'thing'; expected a 'model'"):
        read_folder(folder, "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "omnisky_format": 99}))
    with pytest.raises(CheckpointError, match="format version 99; this omnisky reads version 1"):
        read_folder(folder, "thing")


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": 1})])
def test_damaged_or_pickled_weights_are_refused(tmp_path, content):
    folder = write_folder(tmp_path / "x", "thing", {}, TENSORS)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="Pickled files are never loaded"):
        read_folder(folder, "thing")


def test_a_single_flipped_bit_is_found(tmp_path):
    folder = write_folder(tmp_path / "x", "thing", {}, TENSORS)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="its sha256 differs"):
        read_folder(folder, "thing")


def test_folders_without_a_checksum_are_read(tmp_path):
    folder = write_folder(tmp_path / "x", "thing", {"n": 1}, TENSORS)
    config = json.loads((folder / "config.json").read_text())
    del config["weights_sha256"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_folder(folder, "thing")[0] == {"n": 1}


@pytest.mark.parametrize(
    "config", sorted(Path(omnisky.__file__).parent.rglob("pretrained/**/config.json"))
)
def test_what_ships_has_a_checksum(config):
    found = json.loads(config.read_text())
    if found["kind"] != "shipped-codec":
        assert found["weights_sha256"] == sha256_of(config.parent / "model.safetensors")


def test_a_folder_with_a_pickle_only_says_so(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.pt").write_bytes(pickle.dumps(1))
    with pytest.raises(FileNotFoundError, match=r"model\.pt may be pickled and is never loaded"):
        read_folder(tmp_path, "thing")


@pytest.mark.parametrize("content", ["[1", "[1]", "3"])
def test_a_broken_configuration_is_refused(tmp_path, content):
    folder = write_folder(tmp_path / "x", "thing", {}, TENSORS)
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_folder(folder, "thing")
