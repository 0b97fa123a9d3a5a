"""LAMOST spectra come in as the survey wrote them; each trap of the format has a test."""

import numpy as np
import pytest
from astropy.io import fits

from omnisky.surveys import Problems, lamost, modality

GRID = modality("lamost_spectrum").wavelength
ROWS = "Flux Inverse Wavelength Andmask Ormask"
DR1_ROWS = "Flux Inverse Subcontinuum Andmask Ormask"
LABELS = "obsid,ra,dec,teff,teff_err,logg,logg_err,feh,feh_err,rv,rv_err,filename\n"


def spec_file(path, *, pixels=40, rows=DR1_ROWS, cards=None, wavelength=None):
    """Write a file of the layout of LAMOST DR1; returns its image."""
    rng = np.random.default_rng(2)
    data = np.zeros((5, pixels), "f4")
    data[0], data[1] = rng.normal(1000, 10, pixels), rng.uniform(0.01, 0.02, pixels)
    data[2] = 1.0 if wavelength is None else wavelength
    hdu = fits.PrimaryHDU(data)
    hdu.header.update(
        {
            "FILENAME": path.name,
            "EXTEN0": rows,
            "RA": 99.316263,
            "DEC": 27.23237,
            "VACUUM": True,
            "COEFF0": 3.5682,
            "COEFF1": 1e-4,
            "Z": -7.138e-05,
            "Z_ERR": 0.5,
            "SN_G": 71.4,
        }
        | (cards or {})
    )
    for key, value in (cards or {}).items():
        if value is None:
            del hdu.header[key]
    hdu.writeto(path, overwrite=True)
    return data


def read_one(path, **options):
    (objects,) = lamost.read([path], **options)
    return objects


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spec-55862-B6212_sp06-003.fits"


def test_third_row_of_dr1_is_not_the_wavelength(path):
    data = spec_file(path)
    spectrum = read_one(path).observations["lamost_spectrum"]
    part = slice(32, 72)
    np.testing.assert_array_equal(spectrum.flux[0, part], data[0])
    np.testing.assert_array_equal(spectrum.ivar[0, part], data[1])
    np.testing.assert_allclose(GRID[part], 10 ** (2.5682 + 1e-4 * np.arange(40)), rtol=1e-12)
    assert spectrum.mask.sum() == 40
    assert spectrum.lsf_sigma is None


def test_third_row_that_is_the_wavelength_must_agree_with_the_header(path):
    wavelength = 10 ** (3.5682 + 1e-4 * np.arange(40))
    spec_file(path, rows=ROWS, wavelength=wavelength)
    assert read_one(path).observations["lamost_spectrum"].mask.sum() == 40
    spec_file(path, cards={"EXTEN0": None}, wavelength=wavelength)
    assert len(read_one(path)) == 1
    spec_file(path, rows=ROWS, wavelength=wavelength * 1.0003)  # in air
    with pytest.raises(ValueError, match="Wavelength disagrees with COEFF0 and COEFF1"):
        read_one(path)
    spec_file(path, cards={"EXTEN0": None})
    with pytest.raises(ValueError, match="Wavelength disagrees"):
        read_one(path)


def test_polarity_of_the_masks_and_flux_without_ivar(path):
    data = spec_file(path)
    data[3, 5], data[4, 6], data[1, 7], data[0, 8] = 1, 1, 0, np.nan
    with fits.open(path, mode="update") as opened:
        opened[0].data[:] = data
    spectrum = read_one(path).observations["lamost_spectrum"]
    assert np.flatnonzero(~spectrum.mask[0, 32:72]).tolist() == [5, 7, 8]
    assert spectrum.flux[0, 39] == 0


def test_minus_9999_is_missing(path, tmp_path):
    spec_file(path, cards={"Z": -9999.0})
    labels = tmp_path / "labels.csv"
    labels.write_text(
        LABELS + f"1,99.316263,27.23237,5000,100,-9999.0,-9999,0.1,-9999,,,{path.name}\n"
    )
    measured = read_one(path, labels=labels).observations
    assert not measured["lamost_z"].mask.any()
    assert measured["lamost_teff"].value.tolist() == [5000]
    np.testing.assert_allclose(measured["lamost_teff"].ivar, 1e-4)
    assert not measured["lamost_logg"].mask.any()
    assert measured["lamost_fe_h"].mask.all()
    assert measured["lamost_fe_h"].ivar.tolist() == [0.0]
    assert not measured["lamost_rv"].mask.any()


def test_labels_are_joined_by_name_not_by_order(tmp_path):
    paths = [tmp_path / f"spec-{i}.fits" for i in range(3)]
    for path in paths:
        spec_file(path)
    labels = tmp_path / "labels.csv"
    row = "1,99.316263,27.23237,{},100,4,1,0,1,0,1,{}\n"
    labels.write_text(LABELS + row.format(6000, "b'spec-2.fits'") + row.format(5000, "spec-0.fits"))
    (objects,) = lamost.read(paths, labels=labels)
    teff = objects.observations["lamost_teff"]
    assert teff.value.tolist() == [5000, 0, 6000]
    assert teff.mask.tolist() == [True, False, True]
    assert objects.object_id.tolist() == ["0", "1", "2"]
    (some,) = lamost.read(paths, labels=labels, selection="labelled", batch_size=10)
    assert some.object_id.tolist() == ["0", "2"]


def test_labels_of_another_star_are_refused(path, tmp_path):
    spec_file(path)
    labels = tmp_path / "labels.csv"
    labels.write_text(LABELS + f"1,99.4,27.23237,5000,100,4,1,0,1,0,1,{path.name}\n")
    with pytest.raises(ValueError, match=r"are of a star \d+ arcsec away"):
        read_one(path, labels=labels)


def test_labels_twice_for_one_file_are_reported(path, tmp_path):
    spec_file(path)
    labels = tmp_path / "labels.csv"
    row = f"1,99.316263,27.23237,5000,100,4,1,0,1,0,1,{path.name}\n"
    labels.write_text(LABELS + row + row)
    with pytest.raises(ValueError, match=r"labels\.csv, row 1: .* was there before"):
        read_one(path, labels=labels)
    problems = Problems("quarantine")
    assert len(read_one(path, labels=labels, problems=problems)) == 1
    assert problems.found[0].row == 1


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"VACUUM": False}, "VACUUM = False; expected vacuum"),
        ({"COEFF0": None}, "COEFF0 must be a number; found None"),
        ({"COEFF0": "3.5"}, "COEFF0 must be a number; found '3.5'"),
        ({"COEFF0": 3.56825}, "not on the grid"),
        ({"COEFF1": 6.9e-5}, "not on the grid"),
        ({"COEFF0": 3.0}, "of the grid of lamost_spectrum; it has 0 to 4000"),
        ({"RA": 400.0}, r"position \(400\.0, 27"),
        ({"EXTEN0": "Flux Inverse"}, "expected an image of the rows Flux, Inverse"),
        ({"EXTEN0": "Flux Error Wavelength Andmask Ormask"}, "It is another kind of file"),
    ],
)
def test_other_files_are_refused(path, cards, message):
    spec_file(path, cards=cards)
    with pytest.raises(ValueError, match=message):
        read_one(path)


@pytest.mark.real_data
def test_every_real_file_equals_a_direct_read(real_data):
    folder = real_data / "native" / "lamost_spec"
    paths = sorted(folder.glob("*.fits"))
    assert len(paths) == 132
    (objects,) = lamost.read(paths, labels=folder / "my_data3.csv")
    spectrum, teff = (objects.observations[f"lamost_{n}"] for n in ("spectrum", "teff"))
    assert teff.mask.sum() == 103
    assert spectrum.present.all()
    for i, path in enumerate(paths):
        with fits.open(path) as opened:
            data, cards = opened[0].data, opened[0].header
            part = slice(32, 32 + data.shape[1])
            good = (data[1] > 0) & (data[3] == 0)
            np.testing.assert_array_equal(spectrum.mask[i, part], good)
            np.testing.assert_array_equal(spectrum.flux[i, part], np.where(good, data[0], 0))
            np.testing.assert_array_equal(spectrum.ivar[i, part], np.where(good, data[1], 0))
            assert objects.ra_deg[i] == cards["RA"]
            assert objects.object_id[i] in path.name
    assert abs(_h_alpha_offset(objects)) < 0.09  # in air it would be -0.18 nm


def _h_alpha_offset(objects):
    """Return the median distance of H alpha from where it is in vacuum, in nm."""
    spectrum, z = (objects.observations[f"lamost_{n}"] for n in ("spectrum", "z"))
    found = []
    for flux, mask, redshift in zip(spectrum.flux, spectrum.mask, z.value, strict=True):
        away = spectrum.wavelength / (1 + redshift) - 656.461
        line, around = (np.abs(away) < 1.2) & mask, (np.abs(away) > 1.5) & (np.abs(away) < 3) & mask
        if line.sum() < 5 or around.sum() < 8:
            continue
        continuum = np.polyval(np.polyfit(away[around], flux[around], 1), away[line])
        depth = 1 - flux[line] / continuum
        if depth.sum() > 1:
            found.append((away[line] * depth).sum() / depth.sum())
    return np.median(found)
