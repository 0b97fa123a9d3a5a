"""Every command from end to end, with an untrained tiny model on real stars."""

import numpy as np
import pytest
from astropy.table import Table

import omnisky
from omnisky.data.tables import read_table, write_table
from omnisky.data.usertable import observations_from_table


@pytest.mark.parametrize("ending", ["parquet", "fits", "vot", "ecsv"])
def test_embed_keeps_ids_first(run, tiny_model, stars_file, tmp_path, ending):
    out = tmp_path / f"e.{ending}"
    code, printed, error = run("embed", stars_file, "--out", out, "--base", tiny_model)
    assert (code, error) == (0, "")
    assert "40 rows" in printed
    table, given = read_table(out), read_table(stars_file)
    assert table.colnames == ["source_id", "embedding", "embedding_valid"]
    assert table["source_id"].tolist() == given["source_id"].tolist()
    assert table["embedding"].shape == (40, 32)
    assert np.isfinite(table["embedding"]).all()
    # VOTable breaks long descriptions.
    assert "mean pooling" in " ".join(table["embedding"].description.split())


def test_embed_uses_what_the_user_maps_and_names(run, tiny_model, stars_file, tmp_path):
    common = ["embed", stars_file, "--base", tiny_model, "--column", "gaia_g=mymag", "--inputs"]
    assert run(*common, "gaia_g", "--out", tmp_path / "g.parquet")[0] == 0
    assert run(*common, "photometry", "--out", tmp_path / "p.parquet")[0] == 0
    g, p = (read_table(tmp_path / f"{n}.parquet")["embedding"] for n in "gp")
    assert not np.allclose(g, p)


def test_what_the_model_does_not_read_is_left_out_and_said(run, tiny_model, tmp_path):
    command = ["embed", "gaia-apogee-mini:test", "--base", tiny_model, "--out"]
    code, _, error = run(*command, tmp_path / "a.fits")
    assert code == 0
    assert error.startswith("omnisky: warning: the model ")
    assert "does not read apogee_ak" in error
    code, _, error = run(*command, tmp_path / "b.fits", "--inputs", "apogee_ak")
    assert code == 2
    assert "does not read apogee_ak" in error


def test_objects_without_measurement_have_no_embedding(run, tiny_model, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("name,j\na,9.0\nb,\n")
    out = tmp_path / "e.parquet"
    code, _, error = run("embed", table, "--base", tiny_model, "--out", out)
    assert code == 0
    assert "1 objects have no measurement" in error
    found = read_table(out)
    assert found["name"].tolist() == ["a", "b"]
    assert found["embedding_valid"].tolist() == [True, False]
    assert np.isnan(found["embedding"][1]).all()


def test_tokenize(run, tiny_model, stars_file, tmp_path):
    out = tmp_path / "t.fits"
    command = ["tokenize", stars_file, "--base", tiny_model, "--inputs", "xp,twomass_j"]
    code, _, error = run(*command, "--out", out)
    assert (code, error) == (0, "")
    found = read_table(out)
    names = ["gaia_xp_tokens", "gaia_xp_tokens_mask", "twomass_j_tokens", "twomass_j_tokens_mask"]
    assert found.colnames == ["source_id", *names]
    assert found["gaia_xp_tokens"].ndim == 2
    assert found["gaia_xp_tokens_mask"].all()
    assert run(*command, "--inputs", "twomass_j", "--out", tmp_path / "t.csv")[0] == 2


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits", "vot", "ecsv"])
def test_fit_and_predict(run, tiny_model, stars_file, tmp_path, ending):
    model, out = tmp_path / "model", tmp_path / f"p.{ending}"
    code, printed, error = run(
        *("fit", stars_file, "--targets", "teff,apogee_logg", "--base", tiny_model),
        *("--adaptation", "linear", "--out", model),
    )
    assert (code, error) == (0, "")
    assert "linear on 40 objects" in printed
    # Photometry alone is enough to predict, though spectra were there at fit.
    small = Table(read_table(stars_file)["source_id", "twomass_j", "twomass_h"], masked=True)
    small["twomass_j"].mask[3] = small["twomass_h"].mask[3] = True
    small.write(tmp_path / "small.ecsv")
    code, _, error = run(
        "predict", tmp_path / "small.ecsv", "--model", model, "--coverage", 0.8, "--out", out
    )
    assert code == 0
    assert "1 of 40 objects have no good value in any of twomass_j, twomass_h" in error
    found = read_table(out)
    names = [f"{n}{s}" for n in ("teff", "apogee_logg") for s in ("", "_low", "_high")]
    assert found.colnames == ["source_id", *names]
    teff = np.ma.masked_invalid(found["teff"])
    assert np.flatnonzero(np.ma.getmaskarray(teff)).tolist() == [3]
    good = ~np.ma.getmaskarray(teff)
    assert (found["teff_low"][good] < found["teff"][good]).all()
    assert (found["teff_high"][good] > found["teff"][good]).all()
    if ending != "csv":
        assert str(found["teff_low"].unit) == "K"
        assert str(found["apogee_logg"].unit) == "dex"
        assert "lower, 0.8" in found["teff_low"].description
    if ending in ("parquet", "vot", "ecsv"):
        assert found["teff"].meta["ucd"] == "phys.temperature.effective"


@pytest.mark.parametrize("ending", ["csv", "parquet", "fits", "vot", "ecsv"])
def test_classes(run, tiny_model, stars_file, tmp_path, ending):
    stars = read_table(stars_file)
    stars["type"] = np.where(np.asarray(stars["apogee_logg"]) > 3.5, "dwarf", "giant")
    stars["type"][7] = ""  # unknown
    file = write_table(stars, tmp_path / f"types.{'ecsv' if ending == 'csv' else ending}")
    model, out = tmp_path / "model", tmp_path / f"p.{ending}"
    more = ("--base", tiny_model, "--adaptation", "linear", "--inputs", "photometry")
    fit = ("fit", file, "--targets", "type", *more, "--out", model)
    code, printed, error = run(*fit, "--task", "classification")
    assert (code, error) == (0, "")
    assert "linear on 39 objects" in printed
    assert run("predict", file, "--model", model, "--out", out)[0] == 0
    found = read_table(out)
    names = ["type_probability_dwarf", "type_probability_giant"]
    assert found.colnames == ["source_id", "type", *names]
    chances = np.stack([np.asarray(found[name]) for name in names], axis=1)
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
    wanted = np.array(["dwarf", "giant"])[chances.argmax(axis=1)]
    assert [str(name) for name in found["type"]] == wanted.tolist()
    assert np.mean(np.asarray(stars["type"]) == wanted) > 0.8
    interval = ("predict", file, "--model", model, "--coverage", 0.8, "--out", tmp_path / "q.csv")
    code, _, error = run(*interval)
    assert code == 2
    assert "--coverage is for intervals" in error


def test_a_classifier_saved_in_python_predicts_without_names(run, tiny_model, mini, tmp_path):
    from omnisky.adapt import FineTunedModel

    x = mini[:40].observations.select("gaia_g", "twomass_j")
    kinds = np.arange(40) % 2
    read = omnisky.Model.from_pretrained(tiny_model)
    base = omnisky.Model(read.network, read.tokenizer)
    model = FineTunedModel(base, "linear", "classification").fit(x, kinds)
    folder, out = model.save(tmp_path / "model"), tmp_path / "p.fits"
    predict = ("predict", "gaia-apogee-mini:test", "--model", folder, "--out", out)
    code, _, error = run(*predict)
    assert code == 2
    assert "was fitted on a Model made in memory" in error
    assert "omnisky predict --base" in error
    code, _, error = run(*predict, "--base", tiny_model)
    assert code == 0, error
    names = [f"prediction_1{suffix}" for suffix in ("", "_probability_0", "_probability_1")]
    found = read_table(out)
    assert found.colnames == ["source_id", *names]
    assert set(found["prediction_1"]) <= {0, 1}


def test_fit_on_a_data_set_leaves_the_test_part_alone(run, tiny_model, tmp_path):
    command = [
        "--targets",
        "fe_h",
        "--base",
        tiny_model,
        "--adaptation",
        "linear",
        "--inputs",
        "xp",
    ]
    code, printed, _ = run("fit", "gaia-apogee-mini", *command, "--out", tmp_path / "m")
    assert code == 0
    assert "fe_h from gaia_xp; linear on 281 objects of gaia-apogee-mini, 44 for cali" in printed
    code, _, error = run("fit", "gaia-apogee-mini", *command, "--out", tmp_path / "m")
    assert code == 2
    assert error == f"omnisky: {tmp_path / 'm'} exists; choose another --out or add --overwrite\n"


def test_generate(run, tiny_model, stars_file, tmp_path):
    pytest.importorskip("omnisky.model.generation", reason="generation is not there")
    out = tmp_path / "g.fits"
    code, printed, error = run(
        *("generate", stars_file, "--base", tiny_model, "--given", "photometry", "--samples", 4),
        *("--target", "apogee_fe_h,gaia_xp", "--out", out),
    )
    assert (code, error) == (0, "")
    assert "intervals of apogee_fe_h are the model's own, not calibrated" in printed
    assert "--calibrate-on" in printed
    found = read_table(out)
    assert found.colnames[:6] == [
        "source_id",
        "apogee_fe_h",
        *(f"apogee_fe_h_{s}" for s in ("std", "median", "low", "high")),
    ]
    assert found["gaia_xp"].shape == found["gaia_xp_std"].shape == (40, 343)
    assert str(found["apogee_fe_h"].unit) == "dex"
    assert (found["apogee_fe_h_low"] <= found["apogee_fe_h_high"]).all()
    code, _, error = run(
        *("generate", stars_file, "--base", tiny_model, "--given", "xp"),
        *("--target", "gaia_xp", "--out", tmp_path / "h.fits"),
    )
    assert code == 2
    assert "gaia_xp cannot be both given and target" in error


@pytest.mark.parametrize("ending", ["parquet", "fits", "vot", "ecsv"])
def test_generate_writes_the_draws(run, tiny_model, stars_file, tmp_path, ending):
    out = tmp_path / f"g.{ending}"
    targets = "twomass_j" if ending == "vot" else "twomass_j,gaia_xp"
    command = ["generate", stars_file, "--base", tiny_model, "--given", "gaia_rp", "--samples", 3]
    code, printed, error = run(*command, "--target", targets, "--draws", "--out", out)
    assert (code, error) == (0, "")
    assert "not calibrated" not in printed
    found = read_table(out)
    stars = observations_from_table(read_table(stars_file), names=["gaia_rp"])
    wanted = omnisky.Model.from_pretrained(tiny_model).generate(
        stars, targets.split(","), n_samples=3, seed=0
    )
    for name in targets.split(","):
        draws, expected = found[f"{name}_draws"], np.swapaxes(wanted[name].samples, 0, 1)
        assert draws.shape == expected.shape == (40, 3, 343)[: expected.ndim]
        np.testing.assert_allclose(draws, expected, rtol=1e-4, atol=1e-20)


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        ("twomass_j", "g.csv", "CSV cannot hold twomass_j_draws; use .parquet or .fits"),
        ("twomass_j,gaia_xp", "g.vot", "VOTable cannot hold the draws of gaia_xp; use .parquet"),
    ],
)
def test_draws_that_a_format_cannot_hold(run, stars_file, tmp_path, target, name, message):
    out = tmp_path / name
    code, _, error = run("generate", stars_file, "--target", target, "--draws", "--out", out)
    assert code == 2
    assert f"--out {out}: {message}" in error


def test_generate_draws_the_same_in_pieces(run, tiny_model, stars_file, tmp_path, monkeypatch):
    command = ["generate", stars_file, "--base", tiny_model, "--target", "apogee_fe_h,gaia_xp"]
    tables = []
    for size in (64, 7):
        monkeypatch.setattr("omnisky.cli.generate._SOME", size)
        out = tmp_path / f"{size}.parquet"
        assert run(*command, "--given", "photometry", "--samples", 4, "--out", out)[0] == 0
        tables.append(read_table(out))
    whole, pieces = tables
    for name in whole.colnames[1:]:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-4)


def test_generate_passes_on_how_to_sample(run, tiny_model, stars_file, tmp_path, monkeypatch):
    from omnisky.model.generation import Reading

    calls = []
    sample = Reading.generate
    monkeypatch.setattr(
        Reading, "generate", lambda self, *a, **how: calls.append(how) or sample(self, *a, **how)
    )
    command = ["generate", stars_file, "--base", tiny_model, "--target", "gaia_xp", "--samples", 2]
    command += ["--given", "gaia_rp,gaia_bp", "--out", tmp_path / "g.parquet"]
    drawing = ["--method", "maskgit", "--steps", 2, "--context", "append", "--top-p", 0.9]
    code, _, error = run(*command, *drawing, "--guidance", "gaia_rp=1.5,gaia_bp=0.5")
    assert (code, error) == (0, "")
    (how,) = calls
    assert how["guidance"] == {"gaia_rp": 1.5, "gaia_bp": 0.5}
    assert (how["method"], how["steps"], how["top_p"]) == ("maskgit", 2, 0.9)
    code, _, error = run(*command, "--overwrite", "--guidance", "much")
    assert (code, error.count("\n")) == (2, 1)
    assert "--guidance much: give a number" in error
    code, _, error = run(*command, "--overwrite", "--guidance", "gaia_g=1")
    assert code == 2
    assert "weights of gaia_g, which is not given" in error


def test_pretrain_and_train_codec_pass_on_what_was_said(run, monkeypatch, tmp_path):
    import omnisky.train.codec
    import omnisky.train.pretraining

    calls = []
    monkeypatch.setattr(omnisky.train.pretraining, "pretrain", lambda *a: calls.append(a))
    monkeypatch.setattr(omnisky.train.codec, "train_codec", lambda *a: calls.append(a) or {})
    recipe = tmp_path / "r.toml"
    recipe.write_text('dataset = "gaia-apogee-mini"\n[scalars]\nmodalities = ["gaia_g"]\n')
    assert run("pretrain", recipe, "--set", "train.steps=2", "--set", "a=b", "--out", "x")[0] == 0
    assert run("train-codec", recipe)[0] == 0
    assert [[str(a) for a in call[:1]] for call in calls] == [[str(recipe)]] * 2
    assert calls[0][1] == ["train.steps=2", "a=b"]
    assert [str(call[2]) for call in calls] == ["x", "runs/r"]


def test_evaluate_says_what_is_known_and_what_was_never_seen(run, monkeypatch, tmp_path):
    import omnisky.train.pretraining
    from omnisky.train.pretraining import AnyToAny
    from omnisky.train.pretraining.matrix import Entry

    def entry(given, target, gain, seen):
        numbers = {"gain": gain, "low": gain - 0.1, "high": gain + 0.1, "entropy": 1.0}
        counts = {"marginal": 1.0, "objects": 7, "tokens": 7, "sources": (0,)}
        return Entry(given=given, target=target, seen_together=seen, **numbers, **counts)

    matrix = AnyToAny(
        modalities=("a", "b"),
        entries=(entry("a", "b", 0.5, seen=True), entry("b", "a", 1.5, seen=False)),
        sources=({"source": "mock universe", "mock": True, "objects": 7},),
        seed=3,
    )
    asked = {}
    monkeypatch.setattr(
        omnisky.train.pretraining, "evaluate_run", lambda *a, **k: asked.update(k) or matrix
    )
    command = ("evaluate", "r", "--objects", "9", "--seed", "3", "--device", "cpu")
    code, printed, _ = run(*command, "--out", tmp_path)
    assert str(asked.pop("device")) == "cpu"
    assert (code, asked) == (0, {"objects": 9, "visible": None, "seed": 3})
    best, never = printed.split("never seen together in training (mock objects)")
    assert "b → a: 1.50 (1.40 to 1.60), 7 objects" in best
    assert best.index("b → a") < best.index("a → b")
    assert "b → a" in never
    assert "a → b" not in never
    assert (tmp_path / "any_to_any.json").is_file()
    assert (tmp_path / "any_to_any.png").is_file()


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ((), ["Pretrained models", "gaia_xp", "gaia-apogee-mini"]),
        (("gaia_xp",), ["W m-2 nm-1", "336 to 1020 nm", "Gaia Data Release 3"]),
        (("gaia-apogee-mini",), ["399 objects", "apogee_teff"]),
        (("gaia-apogee-mini:test",), ["74 objects"]),
    ],
)
def test_info(run, what, expected):
    code, printed, error = run("info", *what)
    assert (code, error) == (0, "")
    assert all(text in printed for text in expected)


def test_info_on_files(run, tiny_model, stars_file):
    _, printed, _ = run("info", tiny_model)
    assert "dim" in printed
    assert "gaia_xp, gaia_g" in printed
    assert "# Tiny" in printed
    _, printed, _ = run("info", stars_file)
    assert "apogee_teff" in printed
    assert "40 rows" in " ".join(printed.split())


def test_cite(run, tiny_model):
    _, printed, _ = run("cite", "twomass_j")
    assert "skrutskie2006" in printed
    assert "gaia2016" not in printed
    _, printed, _ = run("cite", "gaia")
    assert "riello2021" in printed
    _, printed, _ = run("cite", "--model", tiny_model)
    assert all(text in printed for text in ("majewski2017", "gaiadr3", "skrutskie2006", "ESA"))
    _, everything, _ = run("cite")
    assert "zasowski2013" in everything


def test_a_sky_store_is_embedded_as_a_sky_store(run, tiny_model, tmp_path):
    pytest.importorskip("cdshealpix")
    from omnisky.data.store import open_store, write_store
    from omnisky.modalities import Observations, Scalar, SkyObjects

    rng = np.random.default_rng(0)
    objects = SkyObjects(
        survey="toy",
        object_id=np.arange(20),
        ra_deg=rng.uniform(0, 360, 20),
        dec_deg=rng.uniform(-60, 60, 20),
        observations=Observations({"gaia_g": Scalar(rng.uniform(12, 16, 20))}),
    )
    store, out = write_store([objects], tmp_path / "sky"), tmp_path / "vectors"
    code, printed, error = run("embed", store, "--out", out, "--base", tiny_model)
    assert code == 0, error
    assert "embeddings of 20 objects" in printed
    assert open_store(out).read().observations["embedding"].present.all()
    code, _, error = run("embed", store, "--out", out, "--base", tiny_model)
    assert code == 2
    assert "exists; choose another --out" in error
    more = ("embed", store, "--out", tmp_path / "c", "--base", tiny_model, "--inputs")
    code, printed, error = run(*more, "photometry")
    assert code == 0, error
    for wrong in (("--overwrite",), ("--id", "a")):
        code, _, error = run("embed", store, "--out", tmp_path / "d", "--base", tiny_model, *wrong)
        assert code == 2
        assert "is a sky store: --overwrite and the options of reading a table are not" in error
    bad = ("embed", store, "--out", tmp_path / "b", "--base", tiny_model, "--inputs", "gaia_xp")
    code, _, error = run(*bad)
    assert code == 2
    assert "cannot embed gaia_xp" in error


def test_workers_are_for_sky_stores(run, tiny_model, stars_file, tmp_path):
    out = tmp_path / "e.parquet"
    code, _, error = run("embed", stars_file, "--out", out, "--base", tiny_model, "--workers", "2")
    assert code == 2
    assert "is no sky store: --workers and --scheduler are not for it" in error
