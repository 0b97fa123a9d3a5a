"""SDSS spectra come in as the survey wrote them; each trap of the format has a test."""

import numpy as np
import pytest
from astropy.io import fits

from omnisky.surveys import Problems, modality, sdss

GRID = modality("sdss_spectrum").wavelength


def spec_file(path, *, first=35600, pixels=50, header=None, coadd=None, spec=None, drop=()):
    """Write a file of the layout of SDSS and BOSS spectra; returns its columns."""
    rng = np.random.default_rng(len(path.name))
    columns = {
        "FLUX": rng.normal(size=pixels).astype("f4"),
        "LOGLAM": ((first + np.arange(pixels)) * 1e-4).astype("f4"),
        "IVAR": rng.uniform(1, 2, pixels).astype("f4"),
        "AND_MASK": np.zeros(pixels, "i4"),
        "OR_MASK": np.zeros(pixels, "i4"),
        "WDISP": np.full(pixels, 1.2, "f4"),
    } | (coadd or {})
    facts = {
        "SPECOBJID": np.array([10546534355484037120], "u8"),
        "PLUG_RA": np.array([112.04723], "f8"),
        "PLUG_DEC": np.array([40.351365], "f8"),
        "Z": np.array([2.25], "f4"),
        "Z_ERR": np.array([0.5], "f4"),
        "ZWARNING": np.array([4], "i4"),
        "CLASS": np.array(["QSO"]),
        "SPECPRIMARY": np.array([1], "u1"),
        "PSFFLUX": np.array([[1, 2, 3, 4, 5]], "f4"),
        "PSFFLUX_IVAR": np.array([[1, 4, 0, 1, 1]], "f4"),
    } | (spec or {})
    for name in drop:
        columns.pop(name, None)
        facts.pop(name, None)
    primary = fits.PrimaryHDU()
    primary.header["RA"], primary.header["DEC"] = 111.6, 39.6  # of the plate
    primary.header["VACUUM"] = True
    primary.header["BUNIT"] = "1E-17 erg/cm^2/s/Ang"
    primary.header.update(header or {})
    tables = [fits.table_to_hdu(table(part)) for part in (columns, facts)]
    fits.HDUList([primary, *tables]).writeto(path)
    return columns


def table(columns):
    from astropy.table import Table

    return Table(columns)


def read_one(path, **options):
    (objects,) = sdss.read([path], **options)
    return objects


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spec-9367-57758-0836.fits"


def test_spectrum_is_placed_exactly_and_padding_is_masked(path):
    written = spec_file(path)
    spectrum = read_one(path).observations["sdss_spectrum"]
    part = slice(200, 250)
    np.testing.assert_array_equal(spectrum.flux[0, part], written["FLUX"])
    np.testing.assert_array_equal(spectrum.ivar[0, part], written["IVAR"])
    np.testing.assert_allclose(GRID[part], 10 ** written["LOGLAM"].astype("f8") / 10, rtol=1e-6)
    assert spectrum.mask.sum() == 50
    assert spectrum.mask[0, part].all()
    assert spectrum.lsf_sigma[0, 0] == 0
    step = GRID[201] - GRID[200]
    np.testing.assert_allclose(spectrum.lsf_sigma[0, 200], 1.2 * step, rtol=1e-3)


def test_spectra_of_different_start_and_length_share_the_grid(tmp_path):
    paths = [tmp_path / f"spec-{i}.fits" for i in range(3)]
    for i, path in enumerate(paths):
        spec_file(path, first=35514 + 100 * i, pixels=10 + i)
    (objects,) = sdss.read(paths)
    mask = objects.observations["sdss_spectrum"].mask
    assert mask.argmax(axis=1).tolist() == [114, 214, 314]
    assert mask.sum(axis=1).tolist() == [10, 11, 12]
    assert [len(batch) for batch in sdss.read(paths, batch_size=2)] == [2, 1]


def test_polarity_of_and_mask_a_set_bit_is_a_fault(path):
    flags = np.zeros(50, "i4")
    flags[3], flags[4] = 1 << 23, -(1 << 31)
    spec_file(path, coadd={"AND_MASK": flags})
    mask = read_one(path).observations["sdss_spectrum"].mask[0, 200:250]
    assert np.flatnonzero(~mask).tolist() == [3, 4]
    some = read_one(path, bad_flags=1 << 31).observations["sdss_spectrum"].mask[0, 200:250]
    assert np.flatnonzero(~some).tolist() == [4]


def test_or_mask_marks_no_pixel_bad(path):
    spec_file(path, coadd={"OR_MASK": np.full(50, 1 << 28, "i4")})
    assert read_one(path).observations["sdss_spectrum"].mask.sum() == 50


def test_zero_ivar_and_nan_are_bad_pixels(path):
    ivar, flux = np.ones(50, "f4"), np.ones(50, "f4")
    ivar[0], ivar[1], ivar[2], flux[3] = 0, -1, np.inf, np.nan
    spec_file(path, coadd={"IVAR": ivar, "FLUX": flux})
    spectrum = read_one(path).observations["sdss_spectrum"]
    assert np.flatnonzero(~spectrum.mask[0, 200:250]).tolist() == [0, 1, 2, 3]
    assert spectrum.flux[0, 203] == 0


def test_specobjid_beyond_63_bits_stays_exact(path):
    spec_file(path)
    assert read_one(path).object_id.tolist() == ["10546534355484037120"]


def test_specobjid_as_padded_text(path):
    spec_file(path, spec={"SPECOBJID": np.array(["   2575025233207519232"])})
    assert read_one(path).object_id.tolist() == ["2575025233207519232"]


def test_position_is_of_the_fibre_not_of_the_plate(path):
    spec_file(path)
    objects = read_one(path)
    assert objects.ra_deg.tolist() == [112.04723]
    assert objects.dec_deg.tolist() == [40.351365]


def test_float32_position_is_refused(path):
    spec_file(path, spec={"PLUG_RA": np.array([112.04723], "f4")})
    with pytest.raises(ValueError, match="in float32; expected float64"):
        read_one(path)


def test_failed_redshift_with_negative_error_is_absent(path):
    spec_file(path, spec={"Z_ERR": np.array([-3.0], "f4")})
    assert not read_one(path).observations["sdss_z"].mask.any()


def test_redshift_class_warning_and_photometry(path):
    spec_file(path)
    measured = read_one(path).observations
    assert measured["sdss_z"].value.tolist() == [2.25]
    assert measured["sdss_z"].ivar.tolist() == [4.0]
    assert measured["sdss_class"].value.tolist() == [1.0]
    assert measured["sdss_zwarning"].value.tolist() == [4.0]
    assert [measured[f"sdss_psfflux_{b}"].value[0] for b in "ugriz"] == [1, 2, 0, 4, 5]
    assert [measured[f"sdss_psfflux_{b}"].mask[0] for b in "ugriz"] == [1, 1, 0, 1, 1]
    assert measured["sdss_psfflux_g"].ivar.tolist() == [4.0]
    assert not measured["sdss_cmodelflux_u"].mask.any()


def test_air_wavelengths_are_refused(path):
    spec_file(path, header={"VACUUM": False})
    with pytest.raises(ValueError, match="VACUUM = False; expected vacuum"):
        read_one(path)


def test_another_unit_is_refused(path):
    spec_file(path, header={"BUNIT": "erg/cm^2/s/Ang"})
    with pytest.raises(ValueError, match="flux is in 'erg/cm"):
        read_one(path)


def test_resampled_spectrum_is_refused(path):
    spec_file(path, coadd={"LOGLAM": np.log10(np.linspace(3600, 3650, 50)).astype("f4")})
    with pytest.raises(ValueError, match="not on the grid"):
        read_one(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": ("IVAR",)}, r"HDU 1.*: no columns ivar"),
        ({"drop": ("Z",)}, r"HDU 2.*: no columns Z"),
        ({"spec": {"SPECOBJID": np.array([""])}}, "SPECOBJID is empty"),
        ({"spec": {"PLUG_RA": np.array([np.nan])}}, r"position \(nan, 40"),
        ({"spec": {"PSFFLUX": np.array([[1.0, 2]])}}, "PSFFLUX must hold 5 values"),
    ],
)
def test_incomplete_files_are_refused_or_quarantined(path, change, message):
    spec_file(path, **change)
    with pytest.raises(ValueError, match=message):
        read_one(path)
    good = path.with_name("spec-good.fits")
    spec_file(good)
    problems = Problems("quarantine")
    (objects,) = sdss.read([path, good, path.with_name("absent.fits")], problems=problems)
    assert len(objects) == 1
    assert [p.file for p in problems.found] == [str(path), str(path.with_name("absent.fits"))]


def test_selections(tmp_path):
    good, bad = tmp_path / "a.fits", tmp_path / "b.fits"
    spec_file(good, spec={"ZWARNING": np.array([0], "i4")})
    spec_file(bad, spec={"SPECPRIMARY": np.array([0], "u1")})
    assert len(read_one(good, selection="good_redshift")) == 1
    assert list(sdss.read([bad], selection="good_redshift")) == []
    assert [len(b) for b in sdss.read([good, bad], selection="primary")] == [1]
    assert list(sdss.read([good, bad], selection=lambda c: c["z"] > 3)) == []
    spec_file(tmp_path / "c.fits", drop=("SPECPRIMARY",))
    with pytest.raises(ValueError, match="'primary' needs a column 'specprimary'"):
        list(sdss.read([tmp_path / "c.fits"], selection="primary"))


@pytest.mark.real_data
def test_every_real_file_equals_a_direct_read(real_data):
    paths = sorted((real_data / "native" / "sdss_spec").glob("*.fits"))
    assert len(paths) == 52
    batches = list(sdss.read(paths, batch_size=20))
    assert sum(len(b) for b in batches) == 52
    at = 0
    for batch in batches:
        spectrum = batch.observations["sdss_spectrum"]
        for i in range(len(batch)):
            with fits.open(paths[at]) as opened:
                pixels, facts = opened[1].data, opened[2].data[0]
                start = round((float(pixels["loglam"][0]) - 3.54) * 1e4)
                part = slice(start, start + len(pixels))
                good = (pixels["ivar"] > 0) & (pixels["and_mask"] == 0)
                np.testing.assert_array_equal(spectrum.mask[i, part], good)
                assert spectrum.mask[i].sum() == good.sum()
                np.testing.assert_array_equal(
                    spectrum.flux[i, part], np.where(good, pixels["flux"], 0)
                )
                np.testing.assert_array_equal(
                    spectrum.ivar[i, part], np.where(good, pixels["ivar"], 0)
                )
                np.testing.assert_allclose(
                    spectrum.wavelength[part],
                    10.0 ** pixels["loglam"].astype(float) / 10,
                    rtol=1e-6,
                )
                assert batch.object_id[i] == str(facts["SPECOBJID"])
                assert batch.ra_deg[i] == facts["PLUG_RA"]
                assert batch.observations["sdss_z"].value[i] == facts["Z"]
                flux = batch.observations["sdss_cmodelflux_r"].value[i]
                assert flux == facts["CMODELFLUX"][2]
            at += 1
    ids = np.concatenate([b.object_id for b in batches])
    assert len(set(ids.tolist())) == 52
