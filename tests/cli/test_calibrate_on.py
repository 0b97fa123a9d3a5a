"""omnisky generate --calibrate-on: as in Python, by pattern of modalities, or one clear line."""

import warnings

import numpy as np
import pytest

import omnisky
from omnisky.cli import recalibration
from omnisky.data.tables import read_table, write_table
from omnisky.data.usertable import table_from_observations
from omnisky.modalities import Observations
from omnisky.model.generation import calibration_of

TARGETS = ["apogee_teff", "apogee_fe_h"]
GIVEN = ["gaia_g", "twomass_j"]
HOW = {"n_samples": 9, "seed": 0}
LEVELS = {"median": 0.5, "low": 0.05, "high": 0.95}
KNOWN, NEW = slice(150), slice(150, None)


@pytest.fixture(scope="module")
def stars(mini):
    """Return those that have all that is given."""
    return mini[np.all([mini.observations[name].present for name in GIVEN], axis=0)]


def as_table(stars, path, **hidden):
    """Write stars, some rows of some magnitudes masked."""
    seen = {**stars.observations.select(*GIVEN), **stars.labels}
    table = table_from_observations(Observations(seen), stars.object_id)
    for name, rows in hidden.items():
        table[name].mask = rows
    write_table(table, path)
    return path


@pytest.fixture
def command(run, tiny_model, tmp_path):
    def generate(new, *options, targets=TARGETS):
        out = tmp_path / "out.fits"
        common = ["generate", new, "--base", tiny_model, "--samples", 9, "--out", out]
        code, printed, error = run(
            *common, "--overwrite", "--given", ",".join(GIVEN),
            *("--target", ",".join(targets)), *options
        )  # fmt: skip
        assert ("not calibrated" in printed) == (code == 0 and "--calibrate-on" not in options)
        return code, error, read_table(out) if code == 0 else None

    return generate


def expected(model, known, truth, new):
    """Return what Python gives, by target."""
    told, wanted = (model.generate(some, TARGETS, **HOW) for some in (known, new))
    return {
        name: calibration_of(told[name], values).recalibrate(wanted[name])
        for name, values in zip(TARGETS, truth.T, strict=True)
    }


def assert_same(found, wanted, rows=slice(None)):
    for name in TARGETS:
        for suffix, level in LEVELS.items():
            np.testing.assert_allclose(
                found[f"{name}_{suffix}"][rows], wanted[name].quantile(level), rtol=1e-3, atol=1e-3
            )


def test_the_command_does_what_python_does(command, tiny_model, stars, tmp_path):
    known, new = (
        as_table(stars[KNOWN], tmp_path / "k.fits"),
        as_table(stars[NEW], tmp_path / "n.fits"),
    )
    code, error, found = command(new, "--calibrate-on", known)
    assert (code, error) == (0, "")
    model, seen = omnisky.Model.from_pretrained(tiny_model), stars.observations.select(*GIVEN)
    wanted = expected(model, seen[KNOWN], stars[KNOWN].targets(*TARGETS), seen[NEW])
    assert_same(found, wanted)
    _, _, plain = command(new)
    assert (found["apogee_teff_low"] != plain["apogee_teff_low"]).any()


def test_objects_are_recalibrated_by_those_that_show_the_same(command, tiny_model, stars, tmp_path):
    count = len(stars) - 150
    without = np.arange(count) % 3 == 0
    new = as_table(stars[NEW], tmp_path / "n.fits", twomass_j=without)
    known = as_table(stars[KNOWN], tmp_path / "k.fits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code, error, found = command(new, "--calibrate-on", known)
    assert (code, error) == (0, "")
    model, truth = omnisky.Model.from_pretrained(tiny_model), stars[KNOWN].targets(*TARGETS)
    for rows, names in ((without, ["gaia_g"]), (~without, GIVEN)):
        seen = stars.observations.select(*names)
        # All new ones, so that each has the draws that it has in the table.
        assert_same(found, _rows(expected(model, seen[KNOWN], truth, seen[NEW]), rows), rows)


def _rows(posteriors, rows):
    return {
        name: type(p)(p.values, p.probabilities[rows], p.samples[:, rows])
        for name, p in posteriors.items()
    }


def test_a_modality_that_no_object_has_does_not_count(command, stars, tmp_path):
    known = as_table(stars[KNOWN], tmp_path / "k.fits", twomass_j=True)
    new = as_table(stars[NEW], tmp_path / "n.fits", twomass_j=True)
    assert command(new, "--calibrate-on", known)[0] == 0
    whole = as_table(stars[NEW], tmp_path / "w.fits")
    code, error, _ = command(whole, "--calibrate-on", known)
    assert code == 2
    assert "apogee_teff is known for 0 objects that have gaia_g, twomass_j, as some here" in error


def test_a_target_known_for_few_keeps_them_all(command, stars, tmp_path, monkeypatch):
    monkeypatch.setattr(recalibration, "_MOST", 60)
    known = as_table(stars[KNOWN], tmp_path / "k.fits", apogee_fe_h=np.arange(150) % 3 > 0)
    new = as_table(stars[NEW], tmp_path / "n.fits")
    code, error, found = command(new, "--calibrate-on", known)
    assert (code, error) == (0, "")
    assert np.isfinite(found["apogee_fe_h_low"]).all()


def test_columns_hold_for_both_tables_and_of_targets_for_the_known(command, stars, tmp_path):
    known, new = (
        as_table(stars[KNOWN], tmp_path / "k.fits"),
        as_table(stars[NEW], tmp_path / "n.fits"),
    )
    _, _, usual = command(new, "--calibrate-on", known)
    table = read_table(known)
    table.rename_column("apogee_teff", "hot")
    write_table(table, tmp_path / "own.fits")
    options = ["--calibrate-on", tmp_path / "own.fits", "--column", "apogee_teff=hot"]
    code, error, found = command(new, *options)
    assert (code, error) == (0, "")
    np.testing.assert_array_equal(found["apogee_teff_low"], usual["apogee_teff_low"])
    code, error, _ = command("gaia-apogee-mini:test", *options)
    assert (code, error) == (0, "")


def test_bad_requests_are_one_line(command, stars, stars_file, tmp_path):
    known, new = (
        as_table(stars[KNOWN], tmp_path / "k.fits"),
        as_table(stars[NEW], tmp_path / "n.fits"),
    )
    few = as_table(stars[:49], tmp_path / "few.fits")
    for wrong, message in (
        (few, "apogee_teff is known for 49 objects that have gaia_g, twomass_j, as some here;"),
        (tmp_path / "nothing.fits", "no file"),
        (stars_file, "no"),
    ):
        code, error, _ = command(new, "--calibrate-on", wrong)
        assert code == 2
        assert error.startswith(f"omnisky: --calibrate-on {wrong}: {message}")
    code, error, _ = command(new, "--calibrate-on", known, targets=["gaia_xp"])
    assert code == 2
    assert "--calibrate-on is for numbers; gaia_xp is none" in error
