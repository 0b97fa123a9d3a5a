"""Problems are raised or kept, selections are checked, columns are typed, grids are exact."""

import json

import numpy as np
import pytest

from omnisky.surveys import Problems, Selection, modality
from omnisky.surveys.survey import in_batches, log_pixels, scalar_of


def test_a_problem_is_raised_with_file_row_reason_and_remedy():
    message = r"a\.fits, row 3 \(object 17\): too bright\. Mask it"
    with pytest.raises(ValueError, match=message):
        Problems().report("a.fits", 3, "too bright", "Mask it", object_id=17)
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'quarantine'; found 'skip'"):
        Problems("skip")  # pyright: ignore[reportArgumentType]


def test_problems_are_kept_in_quarantine(tmp_path):
    problems = Problems("quarantine")
    assert problems.summary() == "no problems"
    problems.report("a.fits", 3, "too bright", "Mask it")
    problems.report("a.fits", np.int64(4), "too faint", "Mask it", object_id=5)
    with problems.whole_file("b.fits"):
        raise ValueError("it is damaged")
    problems.write(tmp_path / "problems.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "problems.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [3, 4, None]
    assert lines[1]["object_id"] == "5"
    assert lines[2]["reason"] == "it is damaged"
    assert problems.summary().startswith("3 problems in 2 files; most (2) in a.fits; the first: ")


def test_a_damaged_file_is_raised_unless_in_quarantine():
    with pytest.raises(OSError, match="gone"), Problems().whole_file("b.fits"):
        raise OSError("gone")
    with pytest.raises(KeyError), Problems("quarantine").whole_file("b.fits"):
        raise KeyError("a mistake in the reader is not the file's")


def test_rows_without_a_place_and_twice_there_are_reported():
    problems = Problems("quarantine")
    ids = np.array([1, 2, 3, 2, 5, 6])
    ra = np.array([0.0, np.nan, 360.0, 10.0, 10.0, 11.0])
    dec = np.ma.masked_array([90.0, 0, 0, 0, -90.5, 0], [0, 0, 0, 0, 0, 1])
    rows = np.arange(10, 16)
    kept = problems.placed("a.fits", ids, ra, dec, rows=rows)
    assert kept.tolist() == [True] + [False] * 5
    assert [p.row for p in problems.found] == [11, 12, 13, 14, 15]
    assert "identifier was there before" in problems.found[2].reason
    assert "not on the sphere" in problems.found[1].reason
    with pytest.raises(ValueError, match=r"a\.fits, row 7 \(object 2\)"):
        Problems().placed("a.fits", ids[:2], ra[:2], dec[:2], first_row=6)


BRIGHT = Selection("bright", "Bright ones", lambda columns: columns["mag"] < 10)


def test_selection_by_name_as_such_or_as_a_function():
    known = {"bright": BRIGHT}
    assert Selection.choose("bright", known) is BRIGHT
    assert Selection.choose(None, known, default="bright") is BRIGHT
    assert Selection.choose(BRIGHT, {}) is BRIGHT
    assert Selection.choose(None, known).name == "all"
    assert Selection.choose("all", known)({"mag": np.ones(3)}, 3).all()
    mine = Selection.choose(lambda columns: columns["mag"] > 10, known)
    assert mine({"mag": np.array([1.0, 11.0])}, 2).tolist() == [False, True]
    with pytest.raises(ValueError, match="no selection 'faint'; there are all, bright"):
        Selection.choose("faint", known)


def test_selection_that_cannot_decide_is_refused():
    with pytest.raises(ValueError, match="'bright' needs a column 'mag'; there are z"):
        BRIGHT({"z": np.ones(2)}, 2)
    with pytest.raises(ValueError, match=r"one bool an object, shape \(2,\); found float64"):
        Selection("mine", "", lambda columns: np.ones(2))({}, 2)
    with pytest.raises(ValueError, match=r"found bool of shape \(3,\)"):
        Selection("mine", "", lambda columns: np.ones(3, dtype=bool))({}, 2)


def test_a_masked_value_does_not_pass_a_cut():
    mag = np.ma.masked_array([1.0, 2.0], [False, True])
    assert BRIGHT({"mag": mag}, 2).tolist() == [True, False]


def test_scalar_of_masks_what_is_missing_and_says_what_is_unphysical():
    declared = modality("sdss_z")
    value = np.ma.masked_array([1.0, np.nan, 2.0, 3.0, 4.0], [0, 0, 1, 0, 0])
    found = scalar_of(declared, value, error=np.array([0.5, 1, 1, 0, np.nan]))
    assert found.mask.tolist() == [True, False, False, True, True]
    assert found.ivar.tolist() == [4, 0, 0, 0, 0]
    assert scalar_of(declared, value, ivar=np.full(5, -1.0)).ivar.sum() == 0
    known = scalar_of(declared, value, known=np.array([False, True, True, True, True]))
    assert known.mask.tolist() == [False, False, False, True, True]
    with pytest.warns(UserWarning, match=r"sdss_z: 1 of 2 values outside .* for example 99"):
        assert scalar_of(declared, np.array([99.0, 0.1])).mask.tolist() == [False, True]


def test_log_pixels_are_exact_or_refused():
    declared = modality("sdss_spectrum")
    loglam = (3.5514 + 1e-4 * np.arange(100)).astype(np.float32)
    part = log_pixels(declared, loglam, "a.fits")
    assert part == slice(114, 214)
    np.testing.assert_allclose(declared.wavelength[part], 10.0**loglam / 10, rtol=1e-6)
    for wrong, message in (
        (loglam + 3e-5, "not on the grid"),
        (np.delete(loglam, 50), "left out or repeated"),
        (np.repeat(loglam, 2), "left out or repeated"),
        (loglam[::-1], "left out or repeated"),
        (loglam - 0.1, "pixels -886 to -787 of the grid"),
        (loglam + 0.465, "it has 0 to 4800"),
        (loglam[:0], "not on the grid"),
        (np.where(loglam > 3.555, np.nan, loglam), "not on the grid"),
    ):
        with pytest.raises(ValueError, match=rf"a\.fits: .*{message}"):
            log_pixels(declared, wrong, "a.fits")


def test_in_batches():
    assert list(in_batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(in_batches([], 2)) == []
