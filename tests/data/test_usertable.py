"""Users' tables become typed observations, or one clear error."""

from pathlib import Path
from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import MaskedColumn, QTable, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisky.data.tables import read_table, write_table
from omnisky.data.usertable import (
    observations_from_table,
    recognise,
    table_from_observations,
    targets_from_table,
)
from omnisky.modalities import Observations, Scalar, UnknownModalityError
from omnisky.surveys import modality

XP = modality("gaia_xp")
GRID = XP.wavelength


def spectra(n: int = 3, pixels: int = 343, scale: float = 1e-16) -> tuple[np.ndarray, np.ndarray]:
    flux = scale * np.random.default_rng(0).uniform(1, 2, (n, pixels))
    return flux, 0.01 * flux


def test_columns_by_modality_survey_and_mapping():
    table = Table({"gaia_g": [10.0], "PHOT_BP_MEAN_MAG": [11.0], "mine": [9.0], "note": ["x"]})
    found = observations_from_table(table, {"twomass_j": "mine"})
    assert list(found) == ["gaia_g", "gaia_bp", "twomass_j"]
    assert found["twomass_j"].value == [9.0]
    assert recognise(table) == {"gaia_g": "gaia_g", "gaia_bp": "PHOT_BP_MEAN_MAG"}


def test_labels_are_read_only_if_named():
    table = Table({"j": [9.0], "teff": [5000.0]})
    assert list(observations_from_table(table)) == ["twomass_j"]
    assert list(observations_from_table(table, names=["apogee_teff"])) == ["apogee_teff"]
    assert "apogee_teff" in observations_from_table(table, {"apogee_teff": "teff"})


def test_units_are_converted():
    table = QTable({"j": [9000.0] * u.mmag, "parallax": [0.5] * u.arcsec, "teff": [5.0] * u.kK})
    table["parallax_error"] = [0.1] * u.arcsec
    found = observations_from_table(table, names=["twomass_j", "gaia_parallax", "apogee_teff"])
    assert found["twomass_j"].value == pytest.approx([9.0])
    assert found["gaia_parallax"].value == pytest.approx([500.0])
    assert found["gaia_parallax"].ivar == pytest.approx([1e-4])
    assert found["apogee_teff"].value == pytest.approx([5000.0])


def test_errors_without_a_unit_are_in_that_of_their_values():
    table = Table({"parallax": [0.5] * u.arcsec, "parallax_error": [0.1]})
    assert observations_from_table(table)["gaia_parallax"].ivar == pytest.approx([1e-4])


def test_masked_nan_and_unknown_errors_are_absent():
    table = Table({"parallax": MaskedColumn([1.0, 2.0, 3.0, np.nan], mask=[0, 1, 0, 0])})
    table["parallax_error"] = [0.5, 0.5, 0.0, 0.5]
    found = observations_from_table(table)["gaia_parallax"]
    assert found.mask.tolist() == [True, False, True, False]
    assert found.ivar.tolist() == [4.0, 0.0, 0.0, 0.0]


def test_integers_and_untyped_empty_columns():
    table = Table({"j": [9, 10], "h": MaskedColumn(["", ""], mask=True)})
    found = observations_from_table(table)
    assert found["twomass_j"].value.tolist() == [9.0, 10.0]
    assert not found["twomass_h"].mask.any()


def test_unphysical_values_are_masked_and_reported():
    table = Table({"j": [9.0, -999.0, 99.0], "h": [8.0, 8.0, 8.0]})
    with pytest.warns(UserWarning, match=r"2 of 3 in column 'j' \(twomass_j is -5 to 20 mag\)"):
        found = observations_from_table(table)
    assert found["twomass_j"].mask.tolist() == [True, False, False]


@pytest.mark.parametrize("unit", ["W m-2 nm-1", "erg s-1 cm-2 AA-1", "Jy"])
def test_spectra_in_other_units(unit):
    flux, error = spectra()
    convert = {"equivalencies": u.spectral_density(GRID * u.nm)}
    table = Table({"flux": (flux * u.Unit(XP.unit)).to(unit, **convert)})
    table["flux_error"] = (error * u.Unit(XP.unit)).to(unit, **convert)
    found = observations_from_table(table)["gaia_xp"]
    np.testing.assert_allclose(found.flux, flux, rtol=1e-6)
    np.testing.assert_allclose(found.ivar, 1 / error**2, rtol=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1.0), ("Angstrom", 10.0), ("um", 1e-3)])
@pytest.mark.parametrize("vector", [True, False], ids=["column", "meta"])
def test_wavelengths_in_any_length_unit(unit, factor, vector):
    flux, error = spectra()
    table = Table({"flux": flux, "flux_error": error})
    wavelength = GRID * factor * u.Unit(unit)
    if vector:
        table["wavelength"] = np.tile(wavelength.value.astype(np.float32), (3, 1))
        table["wavelength"].unit = unit
    else:
        table.meta["WAVELENGTH"] = wavelength
    assert observations_from_table(table)["gaia_xp"].mask.all()


def test_resampling_needs_to_be_asked_for_and_masks_what_is_not_covered():
    grid = np.arange(400.3, 900, 1.5)
    slope = 1e-18 * grid[None].repeat(2, 0)
    slope[1, 100] = np.nan
    table = Table({"flux": slope, "flux_error": 0.01 * np.abs(slope), "wavelength": [grid, grid]})
    with pytest.raises(ValueError, match=r"expected 336 to 1020 nm in steps of 2 \(343 pixels\)"):
        observations_from_table(table)
    found = observations_from_table(table, resample=True)["gaia_xp"]
    covered = (GRID > 400.3) & (GRID < grid[-1])
    assert (found.mask[0] == covered).all()
    np.testing.assert_allclose(found.flux[0, covered], 1e-18 * GRID[covered], rtol=1e-6)
    assert covered.sum() - found.mask[1].sum() in (1, 2)


def test_resampling_to_the_same_pixels_changes_nothing():
    flux, error = spectra(2, 341)
    flux[0, 5] = np.nan
    both = np.stack([GRID[1:-1], GRID[1:-1] + 1e-9 * (GRID[1:-1] > 1000)])
    table = Table({"flux": flux, "flux_error": error, "wavelength": both})
    found = observations_from_table(table, resample=True)["gaia_xp"]
    np.testing.assert_allclose(found.flux[:, 1:-1], np.nan_to_num(flux), rtol=1e-5)
    assert found.mask[:, 1:-1].sum() == 2 * 341 - 1
    assert not found.mask[:, [0, -1]].any()


def _on(*grids: np.ndarray) -> Table:
    flux, error = spectra(len(grids), len(grids[0]))
    return Table({"flux": flux, "flux_error": error, "wavelength": list(grids), "j": [9.0, 9.0]})


def test_resampling_in_the_wrong_unit_is_refused():
    table = _on(10 * GRID, 10 * GRID)
    message = (
        r"gaia_xp: no spectrum overlaps its grid: wavelengths 3360 to 10200 nm, the grid is 336 to "
        r"1020 nm; is the unit nm\?"
    )
    with pytest.raises(ValueError, match=message):
        observations_from_table(table, resample=True)
    with pytest.raises(ValueError, match="no spectrum overlaps its grid"):
        observations_from_table(_on(GRID - 700, GRID - 700), resample=True)
    table["wavelength"].unit = "Angstrom"
    assert observations_from_table(table, resample=True)["gaia_xp"].mask.all()


def test_spectra_lost_in_resampling_are_told():
    with pytest.warns(UserWarning, match="gaia_xp: 1 of 2 spectra have no good pixel .* in row 1"):
        found = observations_from_table(_on(GRID, 10 * GRID), resample=True)
    assert found["gaia_xp"].present.tolist() == [True, False]
    table = _on(GRID + 0.5, GRID + 0.5)
    table["flux"][1] = np.nan
    # That one was absent before.
    found = observations_from_table(table, resample=True)
    assert found["gaia_xp"].present.tolist() == [True, False]


def test_an_absent_spectrum_needs_no_wavelengths():
    table = _on(GRID, GRID)
    table["flux"][1], table["wavelength"][1] = np.nan, np.nan
    assert observations_from_table(table)["gaia_xp"].present.tolist() == [True, False]
    table["flux"][1] = table["flux"][0]
    with pytest.raises(ValueError, match=r"must be finite and increase .* of row 1"):
        observations_from_table(table)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("stars.fits", r"found str: omnisky\.read_table\('stars\.fits'\)"),
        (Path("stars.fits"), r"omnisky\.read_table\('stars\.fits'\)"),
        (SimpleNamespace(iloc=None), r"found SimpleNamespace: astropy\.table\.Table\.from_pandas"),
        ({"j": [9.0]}, r"takes an astropy Table; found dict: astropy\.table\.Table\("),
    ],
    ids=["text", "path", "frame", "mapping"],
)
def test_what_is_no_table_is_refused(given, message):
    with pytest.raises(TypeError, match=message):
        observations_from_table(given)


def test_a_table_without_rows_is_called_empty():
    with pytest.raises(ValueError, match="the table has no rows"):
        observations_from_table(Table({"j": [9.0]})[:0])


FLUX, ERROR = spectra(2)
MAGNITUDES = {"j": [9.0, 9.0], "h": [8.0, 8.0]}
NEGATIVE = np.where(np.arange(343) == 7, -1.0, ERROR)
BAD = [
    ({"x": [1.0]}, None, "no column of any modality among x; expected gaia_xp"),
    ({**MAGNITUDES, "phot_g_mean_mag": [9, 9], "gaia_g": [9, 9]}, None, "could all be gaia_g"),
    (MAGNITUDES, {"gaia_q": "j"}, "unknown modality 'gaia_q'"),
    (MAGNITUDES, {"gaia_g": "jj"}, "gaia_g: the table has no column 'jj'; did you mean 'j'"),
    (MAGNITUDES, {"gaia_g": "j", "gaia_bp": "j"}, "given for gaia_g and gaia_bp"),
    (MAGNITUDES, {"twomass_j_wavelength": "h"}, "a scalar has no wavelengths"),
    ({"j": ["a", "b"]}, None, "column 'j' holds text, expected numbers"),
    ({"j": [9.0] * u.K}, None, "its unit 'K' cannot be converted to 'mag'"),
    ({"j": [9.0] * u.ABmag}, None, r"unit 'mag\(AB\)' cannot be converted to 'mag'"),
    ({"j": np.ones((2, 3))}, None, r"column 'j' has shape \(2, 3\), expected one number a row"),
    ({"j": [np.nan, np.nan]}, None, "no object has a single good value in twomass_j"),
    ({"parallax": [1.0], "parallax_error": [-1.0]}, None, r"first in row 0 \(-1\)"),
    ({"flux": [1.0, 2.0]}, None, "column 'flux' has shape .* expected a vector a row"),
    ({"flux": FLUX}, None, "column 'flux' has no 1-sigma errors"),
    ({"flux": FLUX, "flux_error": ERROR[:, 1:]}, None, "flux has 343 pixels, its errors have 342"),
    ({"flux": FLUX, "flux_error": [NEGATIVE[0], ERROR[1]]}, None, "first in row 0, pixel 7"),
    ({"flux": FLUX[:, 1:], "flux_error": ERROR[:, 1:]}, None, "342 pixels, but gaia_xp is sampled"),
    (
        {"flux": FLUX, "flux_error": ERROR, "wavelength": [GRID[::-1], GRID]},
        None,
        "must be finite and increase .* a step of -2 nm",
    ),
    (
        {"flux": FLUX, "flux_error": ERROR, "wavelength": [GRID * 10, GRID * 10]},
        None,
        "wavelengths 3360 to 10200 nm in 343 pixels",
    ),
    (
        {"flux": FLUX, "flux_error": ERROR, "wavelength": [GRID, GRID] * u.K},
        None,
        "unit 'K' is not a length",
    ),
    (
        {"flux": np.array([FLUX[0], FLUX[1, :5]], dtype=object), "flux_error": ERROR},
        None,
        "vectors of 5 to 343 elements",
    ),
]


@pytest.mark.parametrize(("columns", "mapping", "message"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_tables_are_one_clear_error(columns, mapping, message):
    with pytest.raises((ValueError, UnknownModalityError), match=message):
        observations_from_table(Table(columns), mapping)


def test_what_is_asked_for_must_be_there():
    with pytest.raises(ValueError, match=r"no column of gaia_g among j; expected gaia_g \(phot_g"):
        observations_from_table(Table({"j": [9.0]}), names=["twomass_j", "gaia_g"])


@pytest.mark.parametrize("ending", ["parquet", "fits", "vot", "ecsv"])
def test_round_trip_through_files(mini, tmp_path, ending):
    stars = mini[:30]
    together = Observations({**stars.observations, **stars.labels})
    table = table_from_observations(together, stars.object_id, id_name="source_id")
    read = read_table(write_table(table, tmp_path / f"stars.{ending}"))
    assert read["gaia_xp"].unit == u.Unit("W m-2 nm-1")
    assert read["source_id"].tolist() == stars.object_id.tolist()
    found = observations_from_table(read, names=list(together))
    for name, measured in together.items():
        assert (found[name].mask == measured.mask).all()
        np.testing.assert_allclose(found[name].ivar, measured.ivar, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(1, 23) | st.just(np.nan), min_size=1).filter(lambda v: np.isfinite(v).any())
)
def test_csv_round_trip_of_any_magnitudes(tmp_path_factory, values):
    known = Observations({"gaia_g": Scalar(np.array(values))})
    table = table_from_observations(known, np.arange(len(values)))
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    found = observations_from_table(read_table(write_table(table, path)))["gaia_g"]
    assert (found.mask == known["gaia_g"].mask).all()
    assert found.value.tolist() == known["gaia_g"].value.tolist()


def test_wrong_number_of_ids():
    with pytest.raises(ValueError, match="2 ids for 1 objects"):
        table_from_observations(Observations({"gaia_g": Scalar(np.ones(1))}), [1, 2])


def test_targets():
    table = Table({"teff": [5.0, np.nan] * u.kK, "age": [1.0, 2.0] * u.Gyr, "empty": [np.nan] * 2})
    values, columns = targets_from_table(table, ["apogee_teff", "age"])
    np.testing.assert_allclose(values, [[5000.0, 1.0], [np.nan, 2.0]])
    assert [str(c.unit) for c in columns] == ["K", "Gyr"]
    assert [c.name for c in columns] == ["apogee_teff", "age"]
    for names, message in [
        (["agee"], "target 'agee': the table has no column 'agee'; did you mean 'age'"),
        (["age", "age"], "name each target once"),
        (["empty"], "has no known value"),
    ]:
        with pytest.raises(ValueError, match=message):
            targets_from_table(table, names)


def test_unphysical_targets_are_unknown():
    table = Table({"teff": [5000.0, -9999.0]})
    with pytest.warns(UserWarning, match="unphysical targets are unknown: 1 of 2"):
        values, _ = targets_from_table(table, ["teff"])
    assert np.isnan(values[1, 0])


def test_absent_spectra_of_a_parquet_file_are_masked(tmp_path):
    flux, error = spectra(1)
    both = {"flux": [flux[0].tolist(), None], "flux_error": [error[0].tolist(), None]}
    pq.write_table(pa.table({**both, "j": [9.0, 9.5]}), tmp_path / "stars.parquet")
    found = observations_from_table(read_table(tmp_path / "stars.parquet"))
    assert found["gaia_xp"].present.tolist() == [True, False]
    assert found["gaia_xp"].mask[0].all()
    assert found["twomass_j"].present.all()
