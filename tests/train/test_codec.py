"""Learned codecs: recipes are strict, sources mix, runs resume to the bit, one process writes."""

import errno
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_codec

from omnisky.codecs import Codec, Tokenizer, loading
from omnisky.data.store import write_store
from omnisky.modalities import UnknownModalityError
from omnisky.train import read_recipe
from omnisky.train.checkpoint import latest
from omnisky.train.codec import CodecRecipe, train_codec
from tests.processes import Program, run_well

pytest.importorskip("cdshealpix")
PROGRAM = Path(toy_codec.__file__)


@pytest.fixture(autouse=True)
def toy_is_known(monkeypatch):
    kinds = loading._KINDS | {"toy-codec": "toy_codec:ToyCodec"}
    monkeypatch.setattr(loading, "_KINDS", kinds)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return toy_codec.write_recipe(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loading._KINDS, "toy-codec", "toy_codec:ToyCodec")
        return train_codec(recipe, (), out)["toy"]


def logged(out):
    kept = [json.loads(line) for line in (out / "toy-run/log.jsonl").read_text().splitlines()]
    for line in kept:
        del line["examples_per_second"]
    return kept


def test_a_codec_of_two_surveys_is_trained_on_both(trained, recipe):
    lines = logged(trained.parent)
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert 0 < lines[-1]["codes_used"] <= 1
    assert 0 < lines[-1]["code_entropy_bits"] <= 4
    assert {"error", "error/one_spectrum", "evaluation/error/two_spectrum"} < lines[-1].keys()
    report = json.loads((trained / "report.json").read_text())
    assert report["split"] == "calibration"
    assert [s["modality"] for s in report["sources"]] == ["one_spectrum", "two_spectrum"]
    assert all(s["objects"] and s["figures"]["error"] > 0 for s in report["sources"])
    codec = Codec.from_pretrained(trained, "two_spectrum")
    found = toy_codec.objects("two", 30).observations["two_spectrum"]
    assert (codec.encode_masked(found)[1][:, 0].numpy() == found.present).all()
    assert Tokenizer.from_pretrained(trained.parent).codecs.keys() == set(codec.modalities)


def test_batches_hold_sources_by_their_weights(trained):
    found = latest(trained.with_name("toy-run"))
    assert found is not None
    assert found.state["sampler"]["positions"] == [240, 80]


def test_what_is_saved_is_the_average_of_the_weights(trained):
    found = latest(trained.with_name("toy-run"))
    assert found is not None
    codec = Codec.from_pretrained(trained, "one_spectrum")
    for name, tensor in codec.named_parameters():
        assert torch.equal(tensor, found.average[f"codec.{name}"])
        assert not torch.equal(tensor, found.model[f"codec.{name}"])


def test_only_objects_of_the_train_split_are_trained_on(recipe, tmp_path, monkeypatch):
    from omnisky.data.split import split_by_id
    from omnisky.data.stream import RowReader

    seen = []
    read = RowReader.read

    def watched(self, rows):
        found = read(self, rows)
        seen.append(found.object_id)
        return found

    monkeypatch.setattr(RowReader, "read", watched)
    train_codec(recipe, ["train.steps=2", "codec.held_out=1"], tmp_path)
    # The last read of each source is the evaluation's.
    assert (split_by_id(np.concatenate(seen)) != "test").all()


def kill_while_training(recipe, out):
    program = Program(PROGRAM, [recipe, out, "--sleep", 0.03])
    return program.kill_at(24, out / "toy-run/log.jsonl", 100)


def kill_while_saving(recipe, out):
    return Program(PROGRAM, [recipe, out, "--die-in-save-of", 30]).wait(100)


@pytest.mark.parametrize("kill", [kill_while_training, kill_while_saving])
def test_a_killed_run_ends_with_the_same_bytes(kill, recipe, trained, tmp_path):
    assert kill(recipe, tmp_path) == -signal.SIGKILL
    found = latest(tmp_path / "toy-run")
    assert found is not None
    assert found.step == 20
    assert not (tmp_path / "toy").exists()
    again = train_codec(recipe, (), tmp_path)["toy"]
    for name in ("model.safetensors", "config.json", "report.json"):
        assert (again / name).read_bytes() == (trained / name).read_bytes()
    assert logged(tmp_path) == logged(trained.parent)


def test_two_processes_train_as_one_and_one_of_them_writes(recipe, trained, tmp_path):
    run_well(PROGRAM, recipe, tmp_path)
    a, b = (Codec.from_pretrained(f / "toy", "one_spectrum") for f in (tmp_path, trained.parent))
    for name, tensor in b.state_dict().items():
        torch.testing.assert_close(a.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    for first, second in zip(logged(tmp_path), logged(trained.parent), strict=True):
        for name in ("step", "loss", "gradient_norm", "codes_used"):
            assert first[name] == pytest.approx(second[name], rel=1e-4)
    assert not list(tmp_path.rglob(".writing-*"))


def test_other_data_or_another_codec_are_not_resumed(recipe, trained, tmp_path):
    settings = ["train.steps=10"]
    train_codec(recipe, settings, tmp_path)
    (tmp_path / "toy").rename(tmp_path / "aside")
    for change in ("data.0.objects=50", "codec.config.flip=true"):
        with pytest.raises(ValueError, match="was trained on other data"):
            train_codec(recipe, [*settings, change], tmp_path)
    with pytest.raises(ValueError, match=r"another configuration: ema 0\.9 there, 0\.5 here"):
        train_codec(recipe, [*settings, "train.ema=0.5"], tmp_path)
    train_codec(recipe, ["train.steps=12"], tmp_path)


def test_a_full_disk_leaves_the_earlier_checkpoint(recipe, trained, tmp_path, monkeypatch):
    import omnisky.train.checkpoint as checkpoints

    write = checkpoints._publish

    def full(checkpoint, *rest):
        if checkpoint.step == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(checkpoint, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_publish", full)
        with pytest.raises(OSError, match="Make room"):
            train_codec(recipe, (), tmp_path)
    assert [p.name for p in (tmp_path / "toy-run/checkpoints").iterdir()] == ["step-00000010"]
    again = train_codec(recipe, (), tmp_path)["toy"]
    assert (again / "model.safetensors").read_bytes() == (
        trained / "model.safetensors"
    ).read_bytes()


def test_a_codec_that_is_there_is_not_replaced(recipe, trained):
    with pytest.raises(FileExistsError, match="toy exists; choose another --out"):
        train_codec(recipe, (), trained.parent)


def test_augmentation_is_the_same_each_time(recipe, trained, tmp_path):
    flips = ["codec.config.flip=true", "train.steps=10"]
    runs = [train_codec(recipe, flips, tmp_path / n)["toy"] for n in "ab"]
    a, b = ((run / "model.safetensors").read_bytes() for run in runs)
    assert a == b
    plain = train_codec(recipe, ["train.steps=10"], tmp_path / "c")["toy"]
    assert a != (plain / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("codec.kind=imge-codec", "codec: no codec of kind 'imge-codec'; there are .*toy-codec"),
        ("codec.kind=scalar-codec", "scalar-codec has no network to train; use .*scalars"),
        (
            "codec.config.level=3",
            "unknown key 'codec.config.level'.*Did you mean 'codec.config.levels'.*"
            r"Allowed in section \[codec.config\]: modalities, levels, flip",
        ),
        ("codec.config.flip=2", "codec.config.flip: found 2, expected true or false"),
        ("codec.samples=0", "samples and held_out must be positive"),
        ("data.0.wight=2", "unknown key 'data.0.wight'.*Did you mean 'data.0.weight'"),
        ("data.0.weight=0", "positive weight"),
        ("data.0.dataset=gaia-apogee", "exactly one of dataset"),
        ("data.2.weight=3", "there are 2 such sections, numbered from 0; found '2'"),
        ("data.0=3", "'0' is no key of a section"),
        ("data.0.mock.objects=3", "exactly one of dataset"),
        ("dataset=gaia-apogee", "found both"),
        ("train=3", "train: found 3, expected a section"),
        ("train.schedule=linear", "expected one of 'cosine', 'constant'"),
        ("spectrum.modality=x", "missing key 'spectrum.n_pixels'"),
    ],
)
def test_a_recipe_that_does_not_fit_is_told(recipe, change, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe, CodecRecipe, [change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nsteps=1\nbatch_size=1", "has a section .codec. .* and .train., or neither"),
        ("dataset='x'", "needs a section .scalars., .codec. or .spectrum."),
        ("[scalars]\nmodalities=['gaia_g']", "or in sections ..data..; found neither"),
    ],
)
def test_sections_that_belong_together(tmp_path, text, message):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(path, CodecRecipe)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (["data.0.modality=three"], UnknownModalityError, "codec encodes one_spectrum, two_spec"),
        (["data.1.modality="], ValueError, "does not say which of the codec's modalities"),
        (["data.1.modality=one_spectrum"], UnknownModalityError, "it has two_spectrum"),
        (
            ['codec.config.modalities=["one_spectrum", "two_spectrum", "x"]'],
            ValueError,
            'no source of x.*add a section .*modality = "x"',
        ),
        (["data.0.store=nowhere"], FileNotFoundError, "no folder nowhere"),
        (["train.batch_size=0"], ValueError, "batch_size must be 1 or more"),
    ],
)
def test_data_that_do_not_fit_are_told(recipe, tmp_path, changes, kind, message):
    with pytest.raises(kind, match=message):
        train_codec(recipe, changes, tmp_path)
    assert not (tmp_path / "toy").exists()


def test_a_store_without_training_objects_is_told(tmp_path):
    from omnisky.data.split import split_by_id

    ids = np.arange(100)
    outside = ids[split_by_id(ids) != "train"]
    recipe = toy_codec.write_recipe(tmp_path)
    write_store([toy_codec.objects("one", 100)[outside]], tmp_path / "none", margin_arcsec=0)
    with pytest.raises(ValueError, match="has no one_spectrum to train on"):
        train_codec(recipe, [f"data.0.store={tmp_path / 'none'}"], tmp_path / "out")


MOCK = """
[scalars]
modalities = ["gaia_g", "gaia_parallax"]
bins = 8

[[data]]
mock = { objects = 60, seed = 2 }
"""


def test_a_mock_universe_is_drawn_once(tmp_path, monkeypatch):
    from omnisky.mock import Universe

    recipe = tmp_path / "mock.toml"
    recipe.write_text(MOCK)
    written = train_codec(recipe, (), tmp_path / "out")
    store = tmp_path / "out" / "data" / "mock-gaia-scalars-60-2-160"
    about = json.loads((store / "omnisky.json").read_text())
    assert "mock" in json.dumps(about["provenance"])
    for folder in written.values():
        folder.rename(folder.with_name(f"{folder.name}-first"))

    def drawn_again(*_, **__):
        raise AssertionError("drawn again")

    monkeypatch.setattr(Universe, "observe", drawn_again)
    again = train_codec(recipe, (), tmp_path / "out")
    for folder in again.values():
        first = folder.with_name(f"{folder.name}-first") / "model.safetensors"
        assert (folder / "model.safetensors").read_bytes() == first.read_bytes()


def test_scalars_that_were_interrupted_can_be_fitted_again(tmp_path, monkeypatch):
    from omnisky.train.codec import running

    recipe = tmp_path / "mock.toml"
    recipe.write_text(MOCK)
    fit = running.fit_codec

    def stopped(name, *rest):
        if name == "gaia_parallax":
            raise KeyboardInterrupt
        return fit(name, *rest)

    monkeypatch.setattr(running, "fit_codec", stopped)
    with pytest.raises(KeyboardInterrupt):
        train_codec(recipe, (), tmp_path / "out")
    assert not (tmp_path / "out" / "gaia_g").exists()
    monkeypatch.setattr(running, "fit_codec", fit)
    assert set(train_codec(recipe, (), tmp_path / "out")) == {"gaia_g", "gaia_parallax"}


def test_a_scalar_that_no_source_has_is_told(tmp_path):
    recipe = tmp_path / "mock.toml"
    recipe.write_text(MOCK)
    with pytest.raises(UnknownModalityError, match="no mock survey has 'twomass_j'"):
        train_codec(recipe, ['scalars.modalities=["twomass_j"]'], tmp_path / "out")


def test_what_is_no_scalar_is_told(recipe, tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        f"[scalars]\nmodalities = ['one_spectrum']\n[[data]]\nstore = '{recipe.parent / 'one'}'"
    )
    with pytest.raises(ValueError, match="'one_spectrum' is a Spectrum, not a scalar; use a sec"):
        train_codec(path, (), tmp_path / "out")


def test_scales_are_by_modality(tmp_path):
    recipe = tmp_path / "mock.toml"
    recipe.write_text(MOCK.replace("bins = 8", 'bins = 8\nscale = "log"'))
    scales = "scalars.scales={gaia_g='linear'}", "scalars.ranges={gaia_g=[5, 20]}"
    plan = read_recipe(recipe, CodecRecipe, scales)
    assert plan.scalars is not None
    assert plan.scalars.settings("gaia_parallax") == {"bins": 8, "scale": "log"}
    told = {"bins": 8, "scale": "linear", "low": 5.0, "high": 20.0}
    assert plan.scalars.settings("gaia_g") == told
    for change, message in (
        ("scalars.scales.gaia_q=log", "scales is about gaia_q, which is none of the modalities"),
        ("scalars.scale=cubic", "scale must be one of .*found 'cubic'"),
        ('scalars.modalities=["gaia_g", "gaia_g"]', "each once"),
    ):
        with pytest.raises(ValueError, match=message):
            read_recipe(recipe, CodecRecipe, [change])
