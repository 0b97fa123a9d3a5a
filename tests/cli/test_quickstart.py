"""The quickstart on the mini stars, with an untrained model: run, run again, and go on from it."""

import json
import re
import shlex
import shutil
import sys

import numpy as np
import pytest

from omnisky.adapt import FineTunedModel
from omnisky.cli.quickstart import command, stars
from omnisky.cli.quickstart.stages import Stages
from omnisky.model import Model

SHORT = ("--dataset", "gaia-apogee-mini", "--galaxies", "", "--labels", "60")


@pytest.fixture
def fits(monkeypatch):
    """Make fits short, and return a list that grows with each of them."""
    count, whole = [], FineTunedModel.fit

    def fit(self, x, y):
        count.append(len(x))
        return whole(self.set_params(epochs=1, ensemble=1), x, y)

    monkeypatch.setattr(FineTunedModel, "fit", fit)
    return count


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out predictions, samples and figures."""
    monkeypatch.setattr(stars, "_generate_spectra", lambda *_: None)
    monkeypatch.setattr(stars, "_generate_scalars", lambda *_: [])
    monkeypatch.setattr(stars, "_predict", lambda *_: ([], None))
    monkeypatch.setattr(stars.figures, "predictions", lambda *_: None)


@pytest.fixture
def base(tiny_model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return ("--base", tiny_model)


def test_the_printed_commands_run(run, fits, base, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "_program", lambda: ["./my omnisky"])
    code, printed, error = run("quickstart", *SHORT, *base, "--out", "my results")
    assert code == 0, error
    start = "  './my omnisky' "
    lines = [shlex.split(line) for line in printed.splitlines() if line.startswith(start)]
    assert [words[1] for words in lines] == ["info", "predict", "generate", "cite"]
    for words in lines:
        code, printed, error = run(*words[1:])
        assert code == 0, error
        if words[1] == "predict":
            assert "apogee_teff, apogee_teff_low, apogee_teff_high, apogee_logg" in printed
    again = ("quickstart", *SHORT, *base, "--out", "my results")
    code, printed, _ = run(*again)
    assert (code, len(fits)) == (0, 1)
    assert "Re-using the results" in printed
    figure = tmp_path / "my results" / "3_iron_posteriors.png"
    figure.unlink()
    code, printed, _ = run(*again)
    assert (code, len(fits)) == (0, 1)
    assert "Re-using the results" not in printed
    assert figure.is_file()


@pytest.mark.parametrize("damaged", ["model.safetensors", "config.json", "quickstart.json"])
def test_a_damaged_model_is_fitted_again(run, fits, undrawn, base, tmp_path, damaged):
    again = ("quickstart", *SHORT, *base, "--out", "qs")
    assert run(*again)[0] == 0
    file = tmp_path / "qs" / "model" / damaged
    file.write_bytes(file.read_bytes()[:20])
    if damaged == "quickstart.json":  # else the results are used as they are
        (tmp_path / "qs" / "results.json").write_text("{")
    code, _, error = run(*again)
    assert code == 0, error
    assert "; fitting again" in error
    assert len(fits) == 2
    json.loads((tmp_path / "qs" / "results.json").read_text())
    (tmp_path / "qs" / "results.json").unlink()
    assert run(*again)[0] == 0
    assert len(fits) == 2


def test_a_folder_of_others_is_kept(run, fits, base, tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "qs" / "model")
    (tmp_path / "qs" / "model.json").write_text("{}")
    before = sorted(p.name for p in (tmp_path / "qs" / "model").iterdir())
    code, _, error = run("quickstart", *SHORT, *base, "--out", "qs")
    assert code == 2
    assert "qs/model exists and was not written by omnisky quickstart; choose another" in error
    assert sorted(p.name for p in (tmp_path / "qs" / "model").iterdir()) == before
    assert not fits


@pytest.mark.parametrize("name", ["results.json", "1_predictions.png", "6_spectrum_to_image.png"])
def test_results_of_others_are_kept(run, fits, base, tmp_path, name):
    (tmp_path / "qs").mkdir()
    file = tmp_path / "qs" / name
    file.write_text('{"key": {"labels": 1}}')
    (tmp_path / "qs" / "notes.txt").write_text("does not matter")
    code, _, error = run("quickstart", *SHORT, *base, "--out", "qs")
    assert code == 2
    assert f"qs/{name} exists and was not written by omnisky quickstart; choose" in error
    assert file.read_text() == '{"key": {"labels": 1}}'
    assert not fits


def test_its_own_results_are_replaced_without_their_model(tmp_path):
    (tmp_path / "1_predictions.png").touch()
    key = {"dataset": "d", "labels": 1, "weights": "", "galaxies": "", "format": 6}
    (tmp_path / "results.json").write_text(json.dumps({"key": key}))
    stars.check_own(tmp_path)


def test_posteriors_are_recalibrated_where_enough_stars_are_known(mini, tiny_model):
    model = Model.from_pretrained(tiny_model)
    some = model.tokenize(mini["test"][:4].observations.select(*stars.XP, *stars.PHOTOMETRY))
    drawn = {}
    for part, count in (("calibration", 0), ("train", 100)):
        known = mini[part][:100]
        known = known[np.isfinite(known.targets("apogee_fe_h")[:, 0])]
        others = model.tokenize(known.observations.select(*stars.XP, *stars.PHOTOMETRY))
        drawn[part], found = stars._iron(model, some, others, {"calibration": known})
        assert found == (len(known) if count else 0)
    for name, plain in drawn["calibration"].items():
        mended = drawn["train"][name]
        assert not np.allclose(plain.probabilities, mended.probabilities)
        np.testing.assert_allclose(mended.probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("labels", ["0", "-5"])
def test_labels_are_positive(run, base, labels):
    code, _, error = run("quickstart", *SHORT[:-1], labels, *base, "--out", "qs")
    assert code == 2
    assert f'Invalid value "{labels}" for --labels' in error


def test_a_file_is_refused_before_the_work(run, fits, base, tmp_path):
    (tmp_path / "qs").write_text("precious")
    code, printed, error = run("quickstart", *SHORT, *base, "--out", "qs")
    assert (code, printed) == (2, "")
    assert error == "omnisky: qs is a file; give --out a folder\n"
    assert (tmp_path / "qs").read_text() == "precious"


def test_the_program_is_named_as_the_shell_finds_it(tmp_path, monkeypatch):
    script, other = tmp_path / ".venv" / "bin" / "omnisky", tmp_path / "other" / "omnisky"
    for file in (script, other):
        file.parent.mkdir(parents=True)
        file.write_text("#!/bin/sh\n")
        file.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/omnisky", "quickstart"])
    for path, named in (("/nothing", ".venv/bin/omnisky"), (other.parent, ".venv/bin/omnisky")):
        monkeypatch.setenv("PATH", str(path))
        assert command._program() == [named]
    monkeypatch.setenv("PATH", str(script.parent))
    assert command._program() == ["omnisky"]
    # Elsewhere only the whole path is found, and where there is no script it is a module.
    monkeypatch.setenv("PATH", "/nothing")
    monkeypatch.setattr(sys, "argv", [str(script), "quickstart"])
    monkeypatch.chdir(other.parent)
    assert command._program() == [str(script)]
    monkeypatch.setattr(sys, "argv", ["-m"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert command._program() == [str(tmp_path / "python"), "-m", "omnisky"]


def test_the_bar_moves_within_a_stage():
    from rich.console import Console

    now = [100.0]
    bar = Stages([10.0, 60.0, 30.0], Console(quiet=True), clock=lambda: now[0])
    assert bar.where() == (0.0, 100.0)
    bar.enter("first")
    now[0] += 20  # twice as long as expected
    bar.enter("second")
    assert bar.where() == (10.0, 180.0)
    now[0] += 60
    assert bar.where() == (40.0, 120.0)
    now[0] += 1000
    assert bar.where() == (67.0, 66.0)
    bar.enter("third")
    bar.finish()
    assert bar.where() == (100.0, 0.0)
    list(bar.get_renderables())
    assert re.fullmatch("0:00:00", bar.tasks[0].fields["left"])
