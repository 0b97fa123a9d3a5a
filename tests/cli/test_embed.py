"""What is embedded by the command, how precisely and where."""

import numpy as np
import pytest

from omnisky.data.tables import read_table

# Whether bfloat16 is fast here does not matter to what comes out.
pytestmark = pytest.mark.filterwarnings("ignore:this processor has no bfloat16 arithmetic")


def test_a_match_is_embedded_from_both_stores(run, tiny_model, tmp_path):
    pytest.importorskip("cdshealpix")
    from omnisky.data.store import open_store, write_store
    from omnisky.modalities import Observations, Scalar, SkyObjects

    rng = np.random.default_rng(0)
    ra, dec, bright = rng.uniform(0, 360, 20), rng.uniform(-60, 60, 20), rng.uniform(12, 16, 20)
    for survey, name, seen in (("one", "gaia_g", slice(None)), ("two", "gaia_bp", slice(8, None))):
        objects = SkyObjects(
            survey=survey,
            object_id=np.arange(20)[seen],
            ra_deg=ra[seen],
            dec_deg=dec[seen],
            observations=Observations({name: Scalar(bright[seen])}),
        )
        write_store([objects], tmp_path / survey)
    both, out = tmp_path / "both", tmp_path / "vectors"
    stores = (tmp_path / "one", tmp_path / "two")
    assert run("match", *stores, "--out", both, "--radius-arcsec", "1")[0] == 0
    command = ("embed", both, "--base", tiny_model)
    code, printed, error = run(*command, "--out", out, "--precision", "bf16", "--device", "cpu")
    assert code == 0, error
    assert "embeddings of 12 objects" in printed
    told = open_store(out).provenance
    assert (told["modalities"], told["precision"]) == (["gaia_g", "gaia_bp"], "bf16")
    for wrong, said in (
        (("--overwrite",), "both is a match of sky stores: --overwrite and the options of"),
        (("--device", "cuda:77"), "cannot compute on 'cuda:77'"),
    ):
        code, _, error = run(*command, "--out", tmp_path / "d", *wrong)
        assert code == 2
        assert said in " ".join(error.split())


def test_a_table_is_embedded_in_the_precision_asked_for(run, tiny_model, stars_file, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / f"{precision}.parquet"
        command = ("embed", stars_file, "--base", tiny_model, "--out", out, "--device", "cpu")
        code, _, error = run(*command, "--precision", precision)
        assert code == 0, error
        found[precision] = read_table(out)["embedding"]
        assert f"mean pooling, {precision}, from" in found[precision].description
    assert 0 < np.abs(found["fp32"] - found["bf16"]).max() < 0.1
    command = ("embed", stars_file, "--base", tiny_model, "--out", tmp_path / "e.parquet")
    code, _, error = run(*command, "--device", "cuda:77")
    assert code == 2
    assert "cannot compute on 'cuda:77'" in error


def test_every_command_that_computes_says_where_it_cannot(run, tiny_model, stars_file, tmp_path):
    base, out = ("--base", tiny_model), tmp_path / "p.parquet"
    inputs = ("--targets", "teff", "--inputs", "gaia_bp,gaia_rp", "--adaptation", "linear")
    code, _, error = run("fit", stars_file, *inputs, *base, "--out", tmp_path / "m")
    assert code == 0, error
    for command in (
        ("fit", stars_file, *inputs, *base, "--out", tmp_path / "other"),
        ("predict", stars_file, "--model", tmp_path / "m", "--out", out),
        ("generate", stars_file, "--target", "apogee_fe_h", *base, "--out", out),
        ("evaluate", tmp_path),
    ):
        code, _, error = run(*command, "--device", "cuda:77")
        assert code == 2
        assert "cannot compute on 'cuda:77'" in error
    assert not out.exists()
    assert not (tmp_path / "other").exists()
