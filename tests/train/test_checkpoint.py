import json
import resource
import shutil
import warnings

import pytest
import torch

from omnisky.storage import CheckpointError, sha256_of
from omnisky.train import checkpoint as checkpoints
from omnisky.train.checkpoint import Checkpoint, DamagedCheckpointError


def made(step: int, size: int = 10) -> Checkpoint:
    weight = torch.full((size,), float(step))
    return Checkpoint(
        step=step,
        model={"weight": weight, "tied": weight, "column": torch.ones(3, 4).T},
        optimizer={"step/weight": torch.tensor(3.0)},
        state={"fingerprint": "f", "rate": 0.1 + 0.2},
    )


def names(out):
    return sorted(p.name for p in (out / "checkpoints").iterdir())


def newest(out) -> Checkpoint:
    found = checkpoints.latest(out)
    assert found is not None
    return found


def test_round_trip(tmp_path):
    path = checkpoints.save(made(3), tmp_path, keep=2)
    found = checkpoints.load(path)
    assert found.step == 3
    assert found.state == made(3).state
    for part in ("model", "optimizer"):
        expected = getattr(made(3), part)
        assert getattr(found, part).keys() == expected.keys()
        assert all(torch.equal(getattr(found, part)[k], v) for k, v in expected.items())


def test_nothing_yet(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.load(tmp_path / "step-00000001")


def test_only_safetensors_and_json(tmp_path):
    path = checkpoints.save(made(1), tmp_path, keep=1)
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keeps_the_newest(tmp_path, keep):
    for step in range(1, 6):
        checkpoints.save(made(step), tmp_path, keep=keep)
    assert names(tmp_path) == [f"step-{s:08d}" for s in range(6 - keep, 6)]
    assert newest(tmp_path).step == 5


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.unlink()])
@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "manifest.json"])
def test_a_damaged_one_is_passed_over(tmp_path, damage, name):
    checkpoints.save(made(1), tmp_path, keep=2)
    path = checkpoints.save(made(2), tmp_path, keep=2)
    if name == "manifest.json" and damage is not truncate:
        damage = lambda path: path.unlink()  # noqa: E731
    damage(path / name) if name != "manifest.json" else (path / name).write_text('{"format": 1')
    with pytest.warns(UserWarning, match=r"step-00000002 .*trying the one before"):
        assert newest(tmp_path).step == 1
    # The damaged one does not take the place of a good one, and is replaced at its step.
    checkpoints.save(made(2), tmp_path, keep=1)
    assert names(tmp_path) == ["step-00000002"]
    assert newest(tmp_path).step == 2


def test_a_damaged_later_one_does_not_push_out_a_good_one(tmp_path):
    checkpoints.save(made(1), tmp_path, keep=2)
    flip(checkpoints.save(made(9), tmp_path, keep=2) / "model.safetensors")
    checkpoints.save(made(2), tmp_path, keep=1)
    with pytest.warns(UserWarning, match="step-00000009"):
        assert newest(tmp_path).step == 2


def test_all_damaged_is_an_error(tmp_path):
    flip(checkpoints.save(made(1), tmp_path, keep=1) / "model.safetensors")
    with (
        pytest.warns(UserWarning, match="step-00000001"),
        pytest.raises(DamagedCheckpointError, match=r"all 1 checkpoints .*resume=False"),
    ):
        checkpoints.latest(tmp_path)


def test_another_format_is_an_error(tmp_path):
    checkpoints.save(made(1), tmp_path, keep=2)
    path = checkpoints.save(made(2), tmp_path, keep=2) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    with pytest.raises(CheckpointError, match="format 3; this omnisky reads format 1 and 2"):
        checkpoints.latest(tmp_path)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_unread(tmp_path, zipped):
    path = tmp_path / "model.pt"
    torch.save({"x": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"is a pickle file, as torch\.save writes"):
        checkpoints.load(path)
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    folder.mkdir(parents=True)
    shutil.copy(path, folder)
    with pytest.raises(CheckpointError, match=r"no manifest.json \(found model.pt\)"):
        checkpoints.load(folder)


def test_a_pickle_under_a_safe_name_is_refused(tmp_path):
    path = checkpoints.save(made(1), tmp_path, keep=1)
    torch.save({"x": Bomb()}, path / "model.safetensors")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = sha256_of(path / "model.safetensors")
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DamagedCheckpointError, match="cannot be read"):
        checkpoints.load(path)


@pytest.fixture
def small_disk():
    """Refuse, as a full disk does, to write more than 100 kB into one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, small_disk):
    checkpoints.save(made(1), tmp_path, keep=1)
    with pytest.raises(OSError, match=r"step 2 could not be written .*step-00000001.*Make room"):
        checkpoints.save(made(2, size=100_000), tmp_path, keep=1)
    assert names(tmp_path) == ["step-00000001"]
    assert newest(tmp_path).step == 1


def test_what_a_crash_left_is_cleaned(tmp_path):
    checkpoints.save(made(1), tmp_path, keep=1)
    (tmp_path / "checkpoints" / ".writing-step-00000002").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert newest(tmp_path).step == 1
    checkpoints.clean(tmp_path)
    assert names(tmp_path) == ["step-00000001"]
