"""The report on a codec: figures are right, pages are drawn, bad input is one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))

import toy_codec

from omnisky.cli.codec.measures import _FIGURES
from omnisky.cli.codec.pictures import draw
from omnisky.codecs import ScalarCodec, loading
from omnisky.data.store import write_store
from omnisky.modalities import Coefficients, Image, Scalar, Spectrum
from omnisky.pretrained import finding


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Return the folder of the toy codec of two surveys, untrained."""
    monkeypatch.setattr(loading, "_KINDS", loading._KINDS | {"toy-codec": "toy_codec:ToyCodec"})
    return toy_codec.ToyCodec(toy_codec.ToyConfig()).save(tmp_path / "toy")


def read(out: Path) -> dict:
    return json.loads((out / "report.json").read_text())


def test_codecs_of_a_model_on_real_stars(run, tiny_model, tmp_path):
    out = tmp_path / "report"
    code, printed, error = run(
        "codec", "report", tiny_model, "--modality", "gaia_xp,gaia_g", "--out", out
    )
    assert (code, error) == (0, "")
    assert sorted(p.name for p in out.iterdir()) == ["gaia_g.png", "gaia_xp.png", "report.json"]
    report = read(out)["modalities"]
    xp, g = report["gaia_xp"], report["gaia_g"]
    assert xp["data"] == "gaia-apogee-mini, split test"
    assert xp["mock"] is False
    assert xp["objects"] == 74
    assert xp["reconstruction"]["r2_of_single_objects_median"] > 0.9
    assert xp["codec_report"]["chi2_per_pixel_median"] == pytest.approx(
        xp["reconstruction"]["chi2_per_pixel_median"], rel=1e-3
    )
    assert [group["kind"] for group in xp["vocabulary"]] == ["ordinal", "code"]
    assert g["tokens"] == 1
    assert g["bits"] == 5
    assert g["reconstruction"]["error_median"] < 0.2
    assert g["objects_per_second"]["encode"] > 0
    assert "gaia_g, 74 objects of gaia-apogee-mini, split test" in printed
    assert "1 ordinal tokens of 32 ids: " in printed


def test_a_shipped_codec_by_its_name(run, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(finding, "ROOT", tiny_model)
    monkeypatch.chdir(tmp_path)
    assert run("codec", "report", "gaia_bp", "--objects", 10)[0] == 0
    assert read(Path("runs/report-gaia_bp"))["modalities"]["gaia_bp"]["objects"] == 10


def test_mock_objects_are_called_mock(run, tmp_path):
    codec = ScalarCodec.fit(Scalar(np.linspace(5, 22, 500)), modality="gaia_g", bins=64)
    folder = codec.save(tmp_path / "gaia_g")
    out = tmp_path / "report"
    code, printed, _ = run("codec", "report", folder, "--mock", 40, "--out", out)
    assert code == 0
    assert "of mock universe of 40 objects, seed 1000" in printed
    assert read(out)["modalities"]["gaia_g"]["mock"] is True


def test_objects_of_a_store_are_those_of_a_split(run, toy, tmp_path):
    from omnisky.data.split import split_by_id

    write_store([toy_codec.objects("one", 100)], tmp_path / "one", margin_arcsec=0)
    command = ["codec", "report", toy, "--data", tmp_path / "one", "--modality", "one_spectrum"]
    for split in ("test", "all"):
        out = tmp_path / split
        assert run(*command, "--split", split, "--out", out)[0] == 0
        chosen = np.ones(100, bool)
        if split == "test":
            chosen = split_by_id(np.arange(100)) == "test"
        present = toy_codec.objects("one", 100).observations["one_spectrum"].present
        assert read(out)["modalities"]["one_spectrum"]["objects"] == (chosen & present).sum()
    lacking = "has no 'two_spectrum'; it has one_spectrum"
    other = [*command[:-1], "two_spectrum"]
    code, _, error = run(*other, "--out", tmp_path / "x")
    assert code == 2
    assert lacking in error
    # Those not asked for by name are left out, and that is said.
    code, printed, _ = run(*command[:-2], "--out", tmp_path / "both")
    assert code == 0
    assert lacking in " ".join(printed.split())


def test_objects_of_a_table(run, tiny_model, stars_file, tmp_path):
    out = tmp_path / "report"
    command = ["codec", "report", tiny_model, "--modality", "gaia_g", "--data", stars_file]
    assert run(*command, "--column", "gaia_g=mymag", "--out", out)[0] == 0
    assert read(out)["modalities"]["gaia_g"]["objects"] == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{model} --data t.csv --mock 3", "give --data or --mock, not both"),
        ("{model}", "codecs; say which with modality=...: "),
        ("{model} --modality gaia_q", "holds no codec of 'gaia_q'"),
        ("nothing", "there is no folder nothing; give a codec's or a model's folder"),
        ("{model} --modality gaia_g --data t.csv", "no file t.csv"),
        ("{model} --modality twomass_j --mock 5", "the mock universe has no 'twomass_j'"),
        ("{model} --modality gaia_g --out there", "there exists; choose another --out"),
        ("{model} --modality gaia_g --split some", 'Invalid value "some"'),
        ("{model} --modality gaia_g --objects 0", 'Invalid value "0"'),
    ],
)
def test_bad_input_is_one_line(run, tiny_model, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    code, _, error = run("codec", "report", *options.format(model=tiny_model).split())
    assert code == 2
    assert error.startswith("omnisky: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list(Path("there").iterdir())
    assert not Path("runs").exists()


def images(offset: float) -> Image:
    """Return images of noise of sigma 0.1, all pixels off by so many sigma, some masked."""
    rng = np.random.default_rng(0)
    flux = 1 + 0 * rng.normal(size=(6, 2, 20, 20))
    mask = rng.random(flux.shape) > 0.1
    return Image(flux + 0.1 * offset, np.full(flux.shape, 100.0), mask, ("g", "r"), 0.262)


def test_figures_of_images():
    measured, decoded = images(0), images(2)
    smaller = Image(decoded.flux[:, ::-1, 2:-2, 2:-2], None, None, ("r", "g"), 0.262)
    found = dict(_FIGURES["Image"](measured, smaller, np.inf))
    good = decoded.mask[:, 0, 2:-2, 2:-2]
    chi2 = np.where(decoded.mask[:, 0, 2:-2, 2:-2], 4, 100) * good
    assert found["g_chi2_per_pixel_median"] == pytest.approx(
        np.median(chi2.sum((1, 2)) / good.sum((1, 2))), rel=1e-3
    )
    assert found["r_flux_error_median"] == pytest.approx(0.2, rel=1e-3)


def test_figures_of_spectra_and_scalars():
    wave = np.linspace(400, 700, 50)
    flux = np.outer([1, 2, 3.0], np.sin(wave / 30))
    measured = Spectrum(flux, np.full(flux.shape, 4.0), wavelength=wave)
    found = dict(_FIGURES["Spectrum"](measured, Spectrum(flux + 0.5, wavelength=wave), np.inf))
    assert found["chi2_per_pixel_median"] == pytest.approx(1, rel=1e-5)
    fine = np.linspace(395, 705, 2000)
    there = Spectrum(np.outer([1, 2, 3.0], np.sin(fine / 30)), wavelength=fine)
    assert (
        dict(_FIGURES["Spectrum"](measured, there, np.inf))["r2_of_single_objects_median"] > 0.9999
    )
    angle, turned = Scalar(np.array([1.0, 359])), Scalar(np.array([359.0, 358]))
    assert dict(_FIGURES["Scalar"](angle, turned, 360))["error_median"] == pytest.approx(1.5)


@pytest.mark.parametrize("kind", ["Image", "Coefficients"])
def test_pages_are_drawn(tmp_path, kind):
    given = images(0), images(1)
    if kind == "Coefficients":
        values = np.random.default_rng(0).normal(size=(5, 12))
        given = Coefficients(values, np.ones((5, 12))), Coefficients(values + 0.1)
    draw(tmp_path / "page.png", "a page", *given)
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"


def test_info_on_a_codec(run, tiny_model, toy):
    _, printed, error = run("info", tiny_model / "codecs" / "gaia_xp")
    assert error == ""
    assert "spectrum-codec" in printed
    assert "n_amplitudes" in printed
    _, printed, _ = run("info", toy)
    assert "one_spectrum, two_spectrum" in printed
    assert "1 of 16 ids" in printed


def test_training_says_what_was_written_and_what_is_next(run, tmp_path):
    recipe = tmp_path / "g.toml"
    recipe.write_text('dataset = "gaia-apogee-mini"\n[scalars]\nmodalities = ["gaia_g"]\nbins = 8')
    code, printed, error = run("train-codec", recipe, "--out", tmp_path / "out")
    assert (code, error) == (0, "")
    folder = tmp_path / "out" / "gaia_g"
    assert f"{folder}: scalar-codec of gaia_g, 1 tokens an object from 8 ids" in printed
    assert f"next: omnisky codec report {folder}" in printed
