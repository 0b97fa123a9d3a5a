import json
import pickle

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from omnisky.adapt import FineTunedModel
from omnisky.storage import CheckpointError
from tests.pretrained.stand_in import COMMIT


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    model = FineTunedModel(epochs=2, ensemble=2).fit(x, x[:, :2])
    return model, x, model.save(tmp_path / "model")


@pytest.mark.parametrize("adaptation", ["linear", "attentive", "full"])
def test_round_trip_of_stars(adaptation, tiny, stars, tmp_path):
    x, y = stars
    model = FineTunedModel(tiny, adaptation, epochs=1, ensemble=1).fit(x, y)
    again = FineTunedModel.load(model.save(tmp_path / "model"), base=tiny)
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    for given in (x, x.select("gaia_xp")):
        before, after = (m.predict_interval(given, 0.5) for m in (model, again))
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("what", ["encoder in the head", "one blend for all patterns"])
def test_a_full_fit_of_an_older_omnisky_is_refused(what, tiny, stars, tmp_path):
    x, y = stars
    model = FineTunedModel(tiny, "full", epochs=0, ensemble=1).fit(x, y)
    file = model.save(tmp_path / "model") / "model.safetensors"
    with safe_open(file, "pt") as opened:
        tensors, written = {k: opened.get_tensor(k) for k in opened.keys()}, opened.metadata()
    if what == "encoder in the head":
        tensors = {k.replace("0.tuned.", "0.network."): v for k, v in tensors.items()}
    else:
        tensors["units.0.head.shares"] = tensors["units.0.head.shares"][:, 0].contiguous()
    save_file(tensors, file, written)
    config = json.loads((file.parent / "config.json").read_text())
    del config["weights_sha256"]
    (file.parent / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="older omnisky"):
        FineTunedModel.load(file.parent, base=tiny)


def test_base_is_found_by_its_folder_and_checked(tiny, stars, tmp_path):
    x, y = stars
    base = tiny.save_pretrained(tmp_path / "base")
    model = FineTunedModel(str(base), "linear").fit(x, y)
    folder = model.save(tmp_path / "model")
    np.testing.assert_array_equal(FineTunedModel.load(folder).predict(x), model.predict(x))
    other = type(tiny).from_preset("tiny", tiny.tokenizer)
    with pytest.raises(CheckpointError, match="has other weights"):
        FineTunedModel.load(folder, base=other)


def test_a_base_knows_where_it_was_read_from(tiny, stars, tmp_path, hub):
    x, y = stars
    base = tiny.save_pretrained(tmp_path / "base")
    read = type(tiny).from_pretrained(base)
    folder = FineTunedModel(read, "linear").fit(x, y).save(tmp_path / "model")
    assert FineTunedModel.load(folder).base == str(base)
    asked = hub(base)
    model = FineTunedModel("someone/model", "linear").fit(x, y)
    assert asked.revisions == [None]
    # The branch may move on; the fit belongs to the commit.
    again = FineTunedModel.load(model.save(tmp_path / "pinned"))
    assert again.base == f"someone/model@{COMMIT}"
    assert asked.revisions == [None, COMMIT]


def test_a_fit_on_a_model_object_says_that_it_needs_that_model(tiny, stars, tmp_path):
    x, y = stars
    folder = FineTunedModel(tiny, "linear").fit(x, y).save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"was fitted on a Model made in memory.* give base="):
        FineTunedModel.load(folder)
    assert FineTunedModel.load(folder, base=tiny).base is tiny


def test_round_trip_of_classes(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 4))
    y = np.where(x[:, 0] > 0, "giant", "dwarf")
    model = FineTunedModel(task="classification", epochs=2).fit(x, y)
    again = FineTunedModel.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


def test_nothing_is_overwritten_unasked(saved):
    model, x, folder = saved
    with pytest.raises(FileExistsError, match="choose another name"):
        model.save(folder)
    model.save(folder, overwrite=True)
    np.testing.assert_array_equal(FineTunedModel.load(folder).predict(x), model.predict(x))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_pickles_are_refused(saved, tmp_path):
    model, _, folder = saved
    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(pickle.dumps(model))
    with pytest.raises(CheckpointError, match="Pickled models are refused"):
        FineTunedModel.load(pickled)
    (folder / "model.safetensors").write_bytes(pickle.dumps(model))
    with pytest.raises(CheckpointError, match="pickled"):
        FineTunedModel.load(folder)


def test_damage_is_named(saved):
    _, _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"omnisky_format": 99}, "version 99"),
        ({"kind": "model"}, "holds a 'model'"),
        ({"units": 2}, "do not fit together"),
        ({"parameters": {"colour": 1}}, "do not fit together"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=message):
            FineTunedModel.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        FineTunedModel.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        FineTunedModel.load(folder)
