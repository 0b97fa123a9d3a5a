"""Tables of the Gaia archive in their three formats; each trap has a test."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from omnisky.surveys import Problems, gaia

IDS = np.array([5853498713190525697, 5405570973190252288, 5762406957886626816])


def numbers(seed, size):
    return np.random.default_rng(seed).normal(size=size)


def rows(missing_bp=(1,)):
    """Return the XP rows of three sources, the second without BP."""
    found = []
    for i, source in enumerate(IDS):
        row = {"source_id": source}
        for j, arm in enumerate(("bp", "rp")):
            there = arm == "rp" or i not in missing_bp
            row[f"{arm}_basis_function_id"] = 56 + j if there else None
            row[f"{arm}_coefficients"] = numbers(10 * i + j, 55) if there else None
            row[f"{arm}_coefficient_errors"] = abs(numbers(20 * i + j, 55)) if there else None
            row[f"{arm}_coefficient_correlations"] = numbers(30 * i + j, 1485) if there else None
        found.append(row)
    return found


def write_csv(path, table, brackets="()"):
    def cell(value):
        if value is None:
            return ""
        if isinstance(value, np.ndarray):
            inside = ", ".join(str(float(v)) for v in value)
            return f'"{brackets[0]}{inside}{brackets[1]}"'
        return str(value)

    lines = [",".join(table[0])] + [",".join(cell(v) for v in row.values()) for row in table]
    path.write_text("\n".join(lines) + "\n")


def write_fits(path, table):
    columns = []
    for name in table[0]:
        values = [row[name] for row in table]
        if "coefficient" in name:
            vectors = np.empty(len(values), dtype=object)
            for i, value in enumerate(values):
                vectors[i] = np.empty(0) if value is None else value
            columns.append(fits.Column(name, "PD()", array=vectors))
        elif name == "source_id":
            columns.append(fits.Column(name, "K", array=values))
        else:
            filled = [-32768 if value is None else value for value in values]
            columns.append(fits.Column(name, "I", array=filled, null=-32768))
    fits.BinTableHDU.from_columns(columns).writeto(path)


WRITERS = {
    "xp.csv": write_csv,
    "xp.ecsv": lambda path, table: write_csv(path, table, "[]"),
    "xp.fits": write_fits,
}


@pytest.mark.parametrize("name", WRITERS)
def test_coefficients_in_every_format_with_bp_missing(tmp_path, name):
    path = tmp_path / name
    table = rows()
    WRITERS[name](path, table)
    (found,) = gaia.read_coefficients(path)
    assert len(found) == 3
    np.testing.assert_array_equal(found.source_id, IDS)
    assert found.coefficients.mask.sum(axis=1).tolist() == [110, 55, 110]
    assert not found.coefficients.mask[1, :55].any()
    for i, row in enumerate(table):
        for arm, part in (("bp", slice(0, 55)), ("rp", slice(55, 110))):
            if row[f"{arm}_coefficients"] is None:
                assert np.isnan(found.correlations[i, 0]).all()
                continue
            np.testing.assert_allclose(
                found.coefficients.value[i, part], row[f"{arm}_coefficients"], rtol=1e-6
            )
            ivar = row[f"{arm}_coefficient_errors"] ** -2.0
            np.testing.assert_allclose(found.coefficients.ivar[i, part], ivar, rtol=1e-6)
            pairs = row[f"{arm}_coefficient_correlations"]
            at = ("bp", "rp").index(arm)
            np.testing.assert_allclose(found.correlations[i, at], pairs, rtol=1e-6)
    batches = list(gaia.read_coefficients(path, correlations=False, batch_size=2))
    assert [len(b) for b in batches] == [2, 1]
    assert batches[0].correlations is None


def test_source_ids_of_63_bits_stay_exact(tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name, rows())
        (found,) = gaia.read_coefficients(tmp_path / name)
        assert found.source_id.dtype == np.int64
        assert int(found.source_id[0]) == 5853498713190525697


def spoil(table, **changes):
    table[1] = table[1] | changes
    return table


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rp_coefficients": numbers(1, 54)}, "a vector holds 54 numbers, expected 55 or none"),
        ({"rp_coefficient_errors": -np.ones(55)}, "an error of a coefficient is not positive"),
        ({"rp_coefficients": '"(1, x)"'}, "holds something else than numbers"),
        ({"rp_basis_function_id": 58}, "rp_basis_function_id is 58, expected 57"),
        ({"rp_coefficient_correlations": numbers(1, 9)}, "a vector holds 9 numbers, expected 1485"),
        ({"source_id": ""}, "it has no source_id"),
        ({"source_id": "5.4e18"}, "column source_id holds '5.4e18', expected int"),
    ],
)
def test_bad_rows_are_reported(tmp_path, changes, message):
    path = tmp_path / "xp.csv"
    write_csv(path, spoil(rows(), **changes))
    with pytest.raises(ValueError, match=rf"xp\.csv, row 1: .*{message}"):
        list(gaia.read_coefficients(path))
    problems = Problems("quarantine")
    (found,) = gaia.read_coefficients(path, problems=problems)
    assert found.source_id.tolist() == IDS[[0, 2]].tolist()
    assert [p.row for p in problems.found] == [1]


def test_null_in_a_vector_is_a_masked_coefficient(tmp_path):
    path = tmp_path / "xp.csv"
    cells = ["null", *(["1.0"] * 54)]
    write_csv(path, spoil(rows(), rp_coefficients=f'"[{",".join(cells)}]"'))
    (found,) = gaia.read_coefficients(path)
    assert found.coefficients.mask[1].sum() == 54
    assert not found.coefficients.mask[1, 55]


def sources(**changes):
    """Return a source table as the archive gives it."""
    columns = {
        "source_id": IDS,
        "ra": [10.0, 20.0, 30.0],
        "dec": [-10.0, 0.0, 10.0],
        "parallax": [20.0, 5.0, np.nan],
        "parallax_error": [1.0, 1.0, 0.1],
        "pmra": [1.0, np.nan, 3.0],
        "pmdec": [1.0, 2.0, 3.0],
        "ref_epoch": [2016.0] * 3,
        "phot_g_mean_mag": [15.0, 16.0, np.nan],
        "phot_g_mean_flux_over_error": [1000.0, 0.0, 10.0],
    }
    return Table(columns | changes)


@pytest.mark.parametrize("name", ["s.csv", "s.ecsv", "s.fits", "s.fits.gz"])
def test_sources_in_every_format(tmp_path, name):
    sources().write(tmp_path / name)
    (objects,) = gaia.read([tmp_path / name], selection="all")
    assert objects.object_id.tolist() == IDS.tolist()
    measured = objects.observations
    assert measured["gaia_parallax"].mask.tolist() == [True, True, False]
    assert measured["gaia_parallax"].ivar.tolist() == [1.0, 1.0, 0.0]
    assert measured["gaia_g"].mask.tolist() == [True, True, False]
    np.testing.assert_allclose(measured["gaia_g"].ivar, [(1000 / 1.0857362) ** 2, 0, 0], rtol=1e-6)
    assert not measured["gaia_bp"].mask.any()
    assert not measured["gaia_xp_coefficients"].mask.any()
    assert objects.pm_ra.mask.tolist() == [True, False, True]
    assert objects.epoch.value.tolist() == [2016.0] * 3


def test_fluxes_and_positions_are_measurements_with_errors(tmp_path):
    more = {
        "ra_error": [0.36] * 3,
        "dec_error": [0.36] * 3,
        "phot_bp_mean_flux": [100.0, -5.0, np.nan],
        "phot_bp_mean_flux_error": [2.0, 2.0, 2.0],
    }
    sources(**more).write(tmp_path / "s.ecsv")
    (objects,) = gaia.read([tmp_path / "s.ecsv"], selection="all")
    measured = objects.observations
    assert measured["gaia_flux_bp"].mask.tolist() == [True, True, False]
    assert measured["gaia_flux_bp"].value.tolist() == [100.0, -5.0, 0.0]
    assert measured["gaia_flux_bp"].ivar.tolist() == [0.25, 0.25, 0.0]
    assert not measured["gaia_flux_g"].mask.any()
    assert measured["gaia_ra"].value.tolist() == objects.ra_deg.tolist()
    # 0.36 mas are 1e-7 degrees; those of ra are more of them away from the equator.
    np.testing.assert_allclose(measured["gaia_dec"].ivar, 1e14)
    narrow = np.cos(np.radians(objects.dec_deg))
    np.testing.assert_allclose(measured["gaia_ra"].ivar, 1e14 * narrow**2)


def test_default_selection_is_a_parallax_of_ten_sigma(tmp_path):
    sources().write(tmp_path / "s.csv")
    (objects,) = gaia.read([tmp_path / "s.csv"])
    assert objects.object_id.tolist() == [IDS[0]]
    (near,) = gaia.read([tmp_path / "s.csv"], selection=lambda c: c["parallax"] > 1)
    assert len(near) == 2
    sources()["source_id", "ra", "dec"].write(tmp_path / "bare.csv")
    with pytest.raises(ValueError, match="'parallax_over_error_10' needs a column 'parallax'"):
        list(gaia.read([tmp_path / "bare.csv"]))


def test_coefficients_are_joined_by_source_id_not_by_order(tmp_path):
    sources().write(tmp_path / "s.csv")
    write_csv(tmp_path / "xp.csv", rows()[:0:-1])  # the last two, in reverse
    (objects,) = gaia.read(
        [tmp_path / "s.csv"], coefficients=[tmp_path / "xp.csv"], selection="all"
    )
    spectra = objects.observations["gaia_xp_coefficients"]
    assert spectra.mask.sum(axis=1).tolist() == [0, 55, 110]
    np.testing.assert_allclose(spectra.value[2, :55], rows()[2]["bp_coefficients"], rtol=1e-6)
    with pytest.raises(ValueError, match="1 source tables but 2 tables of coefficients"):
        list(gaia.read([tmp_path / "s.csv"], coefficients=[tmp_path / "xp.csv"] * 2))
    write_csv(tmp_path / "twice.csv", [rows()[0]] * 2)
    with pytest.raises(ValueError, match="a source_id is there twice"):
        list(gaia.read([tmp_path / "s.csv"], coefficients=[tmp_path / "twice.csv"]))


def test_coefficients_beside_the_sources_in_one_table(tmp_path):
    table = [row | {"ra": 10.0 + i, "dec": 0.0} for i, row in enumerate(rows())]
    write_csv(tmp_path / "both.csv", table)
    (objects,) = gaia.read([tmp_path / "both.csv"], selection="all")
    mask = objects.observations["gaia_xp_coefficients"].mask
    assert mask.sum(axis=1).tolist() == [110, 55, 110]


def test_coefficients_alone_have_no_positions(tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name, rows())
        with pytest.raises(ValueError, match="holds XP coefficients but no positions; give it in"):
            list(gaia.read([tmp_path / name], selection="all"))


def test_float32_position_is_refused(tmp_path):
    sources(ra=np.array([1, 2, 3], "f4")).write(tmp_path / "s.fits")
    with pytest.raises(ValueError, match="ra is float32; expected float64"):
        list(gaia.read([tmp_path / "s.fits"]))


def test_another_unit_is_refused(tmp_path):
    table = sources()
    table["parallax"].unit = "arcsec"
    for name in ("s.fits", "s.ecsv"):
        table.write(tmp_path / name)
        with pytest.raises(ValueError, match="parallax is in 'arcsec'; expected 'mas'"):
            list(gaia.read([tmp_path / name]))


def test_bad_places_and_ids_are_reported(tmp_path):
    sources(ra=[np.nan, 20.0, 30.0], source_id=[IDS[0], IDS[1], IDS[1]]).write(tmp_path / "s.csv")
    problems = Problems("quarantine")
    (objects,) = gaia.read([tmp_path / "s.csv"], selection="all", problems=problems)
    assert objects.object_id.tolist() == [IDS[1]]
    assert [p.row for p in problems.found] == [0, 2]
    with pytest.raises(ValueError, match=r"s\.csv, row 0 \(object 5853498713190525697\): position"):
        list(gaia.read([tmp_path / "s.csv"], selection="all"))


def test_other_endings_and_damaged_files(tmp_path):
    with pytest.raises(ValueError, match=r"known endings are \.csv, \.ecsv and \.fits"):
        list(gaia.read([tmp_path / "s.vot"]))
    packed = tmp_path / "s.csv.gz"
    packed.write_bytes(gzip.compress(b"source_id,ra,dec\n1,2,3\n")[:-9])
    problems = Problems("quarantine")
    assert list(gaia.read([packed], selection="all", problems=problems)) == []
    assert len(problems.found) == 1


@pytest.mark.real_data
def test_every_real_file_and_all_formats_agree(real_data):
    paths = sorted((real_data / "native" / "gaia_xp").glob("XP_*"))
    assert len(paths) == 10
    found = {path.name: next(gaia.read_coefficients(path)) for path in paths}
    for stem, count in (("RAW", 2), ("RAW_missing_BP_dr3int6", 1), ("RAW_with_missing_BP", 3)):
        csv, ecsv, table = (found[f"XP_CONTINUOUS_{stem}.{e}"] for e in ("csv", "ecsv", "fits"))
        assert len(csv) == count
        for other in (ecsv, table):
            np.testing.assert_array_equal(csv.source_id, other.source_id)
            np.testing.assert_array_equal(csv.coefficients.mask, other.coefficients.mask)
            np.testing.assert_array_equal(csv.coefficients.value, other.coefficients.value)
            np.testing.assert_allclose(csv.coefficients.ivar, other.coefficients.ivar, rtol=3e-7)
            np.testing.assert_array_equal(csv.correlations, other.correlations)
    assert len(found["XP_CONTINUOUS_RAW_colour_eq_dr3int6.csv"]) == 3
    missing = found["XP_CONTINUOUS_RAW_with_missing_BP.csv"]
    assert missing.coefficients.mask.sum(axis=1).tolist() == [110, 55, 110]
    with fits.open(real_data / "native" / "gaia_xp" / "XP_CONTINUOUS_RAW.fits") as opened:
        direct = opened[1].data["rp_coefficients"][1].astype("f4")
    np.testing.assert_array_equal(
        found["XP_CONTINUOUS_RAW.fits"].coefficients.value[1, 55:], direct
    )
