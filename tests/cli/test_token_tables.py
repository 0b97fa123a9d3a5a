"""Tables that omnisky tokenize wrote go on to embed, fit and predict, as their measurements do."""

import numpy as np
import pytest

from omnisky.data.tables import read_table, write_table


@pytest.fixture
def coded(run, tiny_model, stars_file, tmp_path):
    """Return a function that writes the tokens of the stars, and a table of some numbers more."""

    def write(ending, inputs="xp,twomass_j", change=None):
        file = tmp_path / f"tokens.{ending}"
        command = ["tokenize", stars_file, "--base", tiny_model, "--inputs", inputs]
        code, _, error = run(*command, "--out", file)
        assert (code, error) == (0, "")
        table = read_table(file)
        table["teff"] = read_table(stars_file)["teff"]
        if change is not None:
            change(table)
        write_table(table, file, overwrite=True)
        return file

    return write


@pytest.mark.parametrize("ending", ["parquet", "fits", "vot", "ecsv"])
def test_embeddings_are_those_of_the_measurements(
    run, coded, tiny_model, stars_file, tmp_path, ending
):
    found = []
    for file in (coded(ending), stars_file):
        out = tmp_path / f"e.{ending}"
        command = ["embed", file, "--base", tiny_model, "--inputs", "xp,twomass_j", "--overwrite"]
        code, _, error = run(*command, "--out", out)
        assert (code, error) == (0, "")
        found.append(read_table(out))
    np.testing.assert_allclose(found[0]["embedding"], found[1]["embedding"], rtol=1e-4, atol=1e-5)
    assert found[0]["source_id"].tolist() == found[1]["source_id"].tolist()


def test_fit_and_predict(run, coded, tiny_model, stars_file, tmp_path):
    def hide(table):
        table["gaia_xp_tokens_mask"][3] = table["twomass_j_tokens_mask"][3] = False

    how = ["--targets", "teff", "--base", tiny_model, "--adaptation", "linear"]
    file, model = coded("parquet", change=hide), tmp_path / "model"
    code, printed, error = run("fit", file, *how, "--out", model)
    assert code == 0, error
    assert "teff from gaia_xp, twomass_j; linear on 39 objects" in printed
    assert "1 of 40 objects have no good value" in error
    found = []
    for number, table in enumerate((file, stars_file)):
        out = tmp_path / f"{number}.ecsv"
        column = ["--column", "gaia_g=mymag"] if number else []
        code, _, error = run("predict", table, "--model", model, *column, "--out", out)
        assert code == 0, error
        found.append(read_table(out))
    rows = np.arange(40) != 3
    np.testing.assert_allclose(found[0]["teff"][rows], found[1]["teff"][rows], rtol=1e-3)
    assert np.ma.getmaskarray(found[0]["teff"]).tolist() == (~rows).tolist()


def test_a_format_without_descriptions_is_taken_at_its_word(run, coded, tiny_model, tmp_path):
    file = coded("csv", "twomass_j")
    code, _, error = run("embed", file, "--base", tiny_model, "--out", tmp_path / "e.fits")
    assert code == 0
    assert f"not say which model made the tokens of twomass_j: taken to be {tiny_model}" in error


def out_of_range(table):
    table["twomass_j_tokens"][5] = 999


def undeclared(table):
    table.rename_column("twomass_j_tokens", "gaia_q_tokens")


def fractional(table):
    table["twomass_j_tokens"] = np.asarray(table["twomass_j_tokens"]) + 0.5


def short_mask(table):
    table["gaia_xp_tokens_mask"] = np.ones((40, 2), dtype=bool)


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (None, ["--base", "nano"], "'gaia_xp_tokens' holds tokens of the model /"),
        (None, ["--inputs", "gaia_g"], "the table has no tokens of gaia_g, only of gaia_xp, twom"),
        (out_of_range, [], "ids must be below 32; found 999"),
        (undeclared, [], "unknown modality 'gaia_q'"),
        (fractional, [], "'twomass_j_tokens' holds float64, expected token ids, which are whole"),
        (short_mask, [], "'gaia_xp_tokens_mask' has shape (40, 2), 'gaia_xp_tokens' has (40, "),
    ],
)
def test_what_is_wrong_is_said(run, coded, tiny_model, tmp_path, change, more, message):
    file, out = coded("parquet", change=change), tmp_path / "e.fits"
    base = [] if "--base" in more else ["--base", tiny_model]
    code, _, error = run("embed", file, "--out", out, *base, *more)
    assert code == 2
    assert message in error
    assert error.splitlines()[-1].startswith("omnisky: ")
    assert not out.exists()


def test_measurements_come_first(run, coded, tiny_model, tmp_path):
    def add(table):
        table["gaia_g"] = np.full(40, 12.0)

    file = coded("parquet", change=add)
    code, _, error = run("embed", file, "--base", tiny_model, "--out", tmp_path / "e.fits")
    assert code == 0
    assert "the tokens of gaia_xp, twomass_j are not read beside measurements" in error
    assert "from gaia_g" in read_table(tmp_path / "e.fits")["embedding"].description
