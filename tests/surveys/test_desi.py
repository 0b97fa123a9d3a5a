"""DESI spectra come in as the survey wrote them; each trap of the formats has a test."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from omnisky.surveys import Problems, desi, modality
from omnisky.surveys.desi.arms import line_width

GRID = modality("desi_spectrum").wavelength
# Number of pixels of each arm, and its first pixel on the common grid: short arms that overlap.
ARMS = {"B": (60, 0), "R": (60, 50), "Z": (60, 100)}
FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"


def image(name, data, unit=None):
    hdu = fits.ImageHDU(data, name=name)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu


def coadd_file(path, *, objects=3, arms="BRZ", drop=(), facts=None, change=None):
    """Write a file of the layout of DESI coadds; returns its arrays by name."""
    rng = np.random.default_rng(objects)
    fibermap = {
        "TARGETID": np.arange(objects) + 39633559463397282,
        "TARGET_RA": np.linspace(10, 20, objects),
        "TARGET_DEC": np.linspace(-5, 5, objects),
        "OBJTYPE": np.array(["TGT"] * objects),
        "COADD_FIBERSTATUS": np.zeros(objects, "i4"),
        "PMRA": np.full(objects, 3.0, "f4"),
        "PMDEC": np.full(objects, -4.0, "f4"),
        "REF_EPOCH": np.full(objects, 2015.5, "f4"),
        "EBV": np.full(objects, 0.02, "f4"),
        "FLUX_G": np.full(objects, 7.0, "f4"),
        "FLUX_IVAR_G": np.full(objects, 4.0, "f4"),
    } | (facts or {})
    arrays = {}
    for camera in arms:
        pixels, first = ARMS[camera]
        arrays[f"{camera}_WAVELENGTH"] = 3600 + 0.8 * (first + np.arange(pixels))
        arrays[f"{camera}_FLUX"] = rng.normal(10, 1, (objects, pixels)).astype("f4")
        arrays[f"{camera}_IVAR"] = rng.uniform(1, 3, (objects, pixels)).astype("f4")
        arrays[f"{camera}_MASK"] = np.zeros((objects, pixels), "u4")
        arrays[f"{camera}_RESOLUTION"] = resolution(objects, pixels, sigma=1.2)
    if change:
        change(arrays)
    units = {"FLUX": FLUX_UNIT, "WAVELENGTH": "Angstrom"}
    hdus = [fits.PrimaryHDU()]
    table = fits.table_to_hdu(Table({k: v for k, v in fibermap.items() if k not in drop}))
    table.name = "FIBERMAP"
    hdus.append(table)
    for name, array in arrays.items():
        if name not in drop:
            hdus.append(image(name, array, units.get(name.split("_")[1])))
    fits.HDUList(hdus).writeto(path)
    return arrays


def resolution(objects, pixels, sigma):
    offset = np.arange(5, -6, -1)
    shape = np.exp(-0.5 * (offset / sigma) ** 2)
    rows = np.repeat((shape / shape.sum())[:, None], pixels, axis=1)
    return np.repeat(rows[None], objects, axis=0).astype("f4")


def redshift_file(path, targetid, *, name="REDSHIFTS", more=None):
    table = Table(
        {
            "TARGETID": targetid,
            "Z": 0.1 + 0.1 * np.arange(len(targetid)),
            "ZERR": np.full(len(targetid), 0.01),
            "ZWARN": 4 * np.arange(len(targetid)),
            "SPECTYPE": (["QSO", "GALAXY", "STAR"] * len(targetid))[: len(targetid)],
        }
        | (more or {})
    )
    hdu = fits.table_to_hdu(table)
    hdu.name = name
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)


def read_one(path, **options):
    (objects,) = desi.read([path], **options)
    return objects


@pytest.fixture
def path(tmp_path):
    return tmp_path / "coadd-1-80693-thru20210204.fits"


def test_arms_are_merged_by_inverse_variance_in_overlaps(path):
    arrays = coadd_file(path)
    objects = read_one(path)
    spectrum = objects.observations["desi_spectrum"]
    np.testing.assert_array_equal(spectrum.flux[:, :50], arrays["B_FLUX"][:, :50])
    np.testing.assert_array_equal(spectrum.ivar[:, 60:100], arrays["R_IVAR"][:, 10:50])
    b, r = arrays["B_FLUX"][:, 50:], arrays["R_FLUX"][:, :10]
    wb, wr = arrays["B_IVAR"][:, 50:], arrays["R_IVAR"][:, :10]
    mean = (b.astype("f8") * wb + r.astype("f8") * wr) / (wb.astype("f8") + wr)
    np.testing.assert_allclose(spectrum.flux[:, 50:60], mean, rtol=1e-6)
    np.testing.assert_allclose(spectrum.ivar[:, 50:60], wb + wr, rtol=1e-6)
    assert spectrum.mask[:, :160].all()
    assert not spectrum.mask[:, 160:].any()
    assert GRID[:2].tolist() == [360.0, 360.08]
    assert objects.object_id.tolist() == [39633559463397282 + i for i in range(3)]


def test_polarity_of_the_mask_a_set_bit_is_a_fault(path):
    def change(arrays):
        arrays["B_MASK"][0, 3] = 1 << 31
        arrays["R_MASK"][0, 2] = 2  # the other arm still covers this pixel
        arrays["B_IVAR"][1, 4] = 0
        arrays["B_FLUX"][1, 5] = np.nan

    arrays = coadd_file(path, change=change)
    spectrum = read_one(path).observations["desi_spectrum"]
    assert np.argwhere(~spectrum.mask[:, :160]).tolist() == [[0, 3], [1, 4], [1, 5]]
    assert spectrum.flux[0, 52] == arrays["B_FLUX"][0, 52]


def test_resolution_becomes_the_width_of_the_lsf(path):
    coadd_file(path)
    lsf = read_one(path).observations["desi_spectrum"].lsf_sigma
    np.testing.assert_allclose(lsf[:, :160], 1.2 * 0.08, rtol=1e-3)
    assert not lsf[:, 160:].any()


def test_width_of_resolution_that_says_nothing_is_zero():
    kernel = resolution(1, 4, sigma=0.8)
    kernel[0, :, 1], kernel[0, 3, 2] = 0, np.nan
    width = line_width(kernel)
    assert width[0, 1] == 0
    np.testing.assert_allclose(width[0, [0, 3]], 0.8, rtol=1e-3)
    assert np.isfinite(width).all()


def test_missing_resolution_leaves_the_lsf_unknown(path):
    coadd_file(path, drop=[f"{c}_RESOLUTION" for c in "BRZ"])
    assert read_one(path).observations["desi_spectrum"].lsf_sigma is None


def test_missing_arm_is_masked(path):
    coadd_file(path, arms="BZ")
    mask = read_one(path).observations["desi_spectrum"].mask
    assert mask[:, :60].all()
    assert not mask[:, 60:100].any()
    assert mask[:, 100:160].all()


@pytest.mark.parametrize("lost", ["R_IVAR", "R_MASK", "R_WAVELENGTH", "R_FLUX"])
def test_incomplete_arm_is_refused(path, lost):
    coadd_file(path, drop=(lost,))
    with pytest.raises(ValueError, match=f"arm R is incomplete, it lacks {lost}"):
        read_one(path)


def shift(arrays):
    arrays["R_WAVELENGTH"] += 0.1


def air(arrays):
    arrays["R_WAVELENGTH"] /= 1.00028


def outside(arrays):
    arrays["Z_WAVELENGTH"] += 0.8 * 8000


def gap(arrays):
    arrays["Z_WAVELENGTH"][30:] += 0.8


def cut(arrays):
    arrays["Z_FLUX"] = arrays["Z_FLUX"][:, :-1]


def fewer(arrays):
    arrays["Z_RESOLUTION"] = arrays["Z_RESOLUTION"][:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shift, "R_WAVELENGTH: wavelengths are not on DESI's grid"),
        (air, "R_WAVELENGTH: wavelengths are not on DESI's grid"),
        (outside, r"reach outside 3600 to 9824 Angstrom"),
        (gap, "pixels are left out or repeated"),
        (cut, r"Z_FLUX: expected 3 objects of 60 pixels; found shape \(3, 59\)"),
        (fewer, r"Z_RESOLUTION: expected shape \(3, diagonals, 60\); found \(2, 11, 60\)"),
    ],
)
def test_arms_off_the_grid_or_of_other_shapes_are_refused(path, change, message):
    coadd_file(path, change=change)
    with pytest.raises(ValueError, match=message):
        read_one(path)


def test_another_unit_is_refused(path):
    coadd_file(path)
    with fits.open(path, mode="update") as opened:
        opened["B_FLUX"].header["BUNIT"] = "10**-16 erg/(s cm2 Angstrom)"
    with pytest.raises(ValueError, match=r"B_FLUX is in '10\*\*-16"):
        read_one(path)


def test_redrock_is_joined_by_targetid_not_by_order(path):
    coadd_file(path)
    ids = np.array([39633559463397284, 1, 39633559463397282])
    redshift_file(path.with_name(path.name.replace("coadd", "redrock")), ids)
    measured = read_one(path).observations
    np.testing.assert_allclose(measured["desi_z"].value, [0.3, 0, 0.1])
    assert measured["desi_z"].mask.tolist() == [True, False, True]
    np.testing.assert_allclose(measured["desi_z"].ivar, [1e4, 0, 1e4])
    assert measured["desi_zwarn"].value.tolist() == [8, 0, 0]
    assert measured["desi_spectype"].value.tolist() == [2, 0, 1]
    good = read_one(path, selection="good_redshift")
    assert good.object_id.tolist() == [39633559463397284]


def test_redrock_of_another_tile_or_with_doubles_is_refused(path, tmp_path):
    coadd_file(path)
    redshift_file(tmp_path / "other.fits", np.array([1, 2]))
    with pytest.raises(ValueError, match="holds none of the coadd's targets"):
        read_one(path, redshifts=[tmp_path / "other.fits"])
    redshift_file(tmp_path / "double.fits", np.array([39633559463397282] * 2))
    with pytest.raises(ValueError, match="a TARGETID is there twice"):
        read_one(path, redshifts=[tmp_path / "double.fits"])
    with pytest.raises(ValueError, match="1 coadds but 0 redshift files"):
        read_one(path, redshifts=[])


def test_coadd_without_redrock_has_no_redshifts(path):
    coadd_file(path)
    assert not read_one(path).observations["desi_z"].mask.any()


def test_zero_proper_motion_and_zero_ivar_mean_unknown(path):
    facts = {
        "PMRA": np.array([0, 0, 3.0]),
        "PMDEC": np.array([0, 2.0, 4.0]),
        "FLUX_IVAR_G": np.array([0, 1.0, 1.0]),
        "REF_EPOCH": np.array([0.0, 2015.5, 2020.96]),
    }
    coadd_file(path, facts=facts)
    objects = read_one(path)
    assert objects.pm_ra.mask.tolist() == [False, True, True]
    assert objects.pm_dec.value.tolist() == [0, 2, 4]
    assert objects.epoch.mask.tolist() == [False, True, True]
    assert objects.observations["desi_flux_g"].mask.tolist() == [False, True, True]


def test_sky_fibres_are_left_out_and_bad_places_reported(path):
    facts = {
        "OBJTYPE": np.array(["SKY", "TGT", "TGT", "TGT"]),
        "COADD_FIBERSTATUS": np.array([0, 0, 512, 0]),
        "TARGET_RA": np.array([np.nan, np.nan, 5.0, 6.0]),
    }
    coadd_file(path, objects=4, facts=facts)
    with pytest.raises(ValueError, match=r"row 1 \(object 39633559463397283\): position \(nan"):
        read_one(path)
    problems = Problems("quarantine")
    assert read_one(path, problems=problems).ra_deg.tolist() == [6.0]
    assert [p.row for p in problems.found] == [1]
    assert read_one(path, problems=problems, selection="all").ra_deg.tolist() == [5.0, 6.0]


def test_float32_position_is_refused(path):
    coadd_file(path, facts={"TARGET_RA": np.array([1, 2, 3], "f4")})
    with pytest.raises(ValueError, match="TARGET_RA is float32; expected float64"):
        read_one(path)


def test_batches_are_small_and_complete(path):
    arrays = coadd_file(path, objects=7)
    batches = list(desi.read([path], batch_size=3))
    assert [len(b) for b in batches] == [3, 3, 1]
    flux = np.concatenate([b.observations["desi_spectrum"].flux for b in batches])
    np.testing.assert_array_equal(flux[:, :50], arrays["B_FLUX"][:, :50])


def mini_file(path, ids, *, wavelength=None):
    """Write a file of the layout of the mini-SV coadds."""
    parts = [3600 + 0.8 * (first + np.arange(n)) for n, first in ARMS.values()]
    grid = np.sort(np.concatenate(parts) + np.repeat([0, 1e-10, 0], 60))
    grid = grid if wavelength is None else wavelength
    columns = {"WAVELENGTH": grid}
    rng = np.random.default_rng(5)
    columns |= {f"TARGET{i}": rng.normal(size=len(grid)) for i in ids}
    fits.HDUList([fits.PrimaryHDU(), fits.table_to_hdu(Table(columns))]).writeto(path)
    return columns


def zbest(path, ids):
    place = {"TARGET_RA": np.linspace(1, 2, len(ids)), "TARGET_DEC": np.zeros(len(ids))}
    name = path.name.replace("coadd", "zbest")
    redshift_file(path.with_name(name), np.array(ids), name="ZBEST", more=place)


def test_mini_sv_without_ivar_and_with_wavelengths_twice(path):
    ids = [35191325330507548, 35191325330508031]
    columns = mini_file(path, ids)
    zbest(path, ids[::-1])
    objects = read_one(path)
    spectrum = objects.observations["desi_spectrum"]
    assert not spectrum.ivar.any()  # unknown
    assert spectrum.lsf_sigma is None
    assert spectrum.mask[:, :160].all()
    assert not spectrum.mask[:, 160:].any()
    first = columns[f"TARGET{ids[0]}"]
    np.testing.assert_allclose(spectrum.flux[0, :50], first[:50], rtol=1e-6)
    np.testing.assert_allclose(spectrum.flux[0, 50], first[50:52].mean(), rtol=1e-6)
    assert objects.object_id.tolist() == ids
    assert objects.ra_deg.tolist() == [2.0, 1.0]
    np.testing.assert_allclose(objects.observations["desi_z"].value, [0.2, 0.1])


def test_mini_sv_needs_its_zbest(path):
    ids = [35191325330507548, 35191325330508031]
    mini_file(path, ids)
    with pytest.raises(ValueError, match="a mini-SV coadd needs its zbest file"):
        read_one(path)
    zbest(path, ids[:1])
    with pytest.raises(ValueError, match=r"row 1 .* position \(nan, nan\)"):
        read_one(path)


def test_mini_sv_on_another_grid_is_refused(path):
    mini_file(path, [5], wavelength=np.linspace(3600, 3700, 90))
    zbest(path, [5])
    with pytest.raises(ValueError, match="WAVELENGTH: wavelengths are not on DESI's grid"):
        read_one(path)


def test_other_files_are_refused_with_what_they_hold(tmp_path):
    hdus = [fits.PrimaryHDU(), image("FLUX", np.zeros((1, 9), "f4")), image("WAVE", np.arange(9.0))]
    fits.HDUList(hdus).writeto(tmp_path / "stack.fits")
    with pytest.raises(ValueError, match="is no DESI coadd: found HDUs FLUX, WAVE; expected"):
        read_one(tmp_path / "stack.fits")
    redshift_file(tmp_path / "redrock.fits", np.array([1]))
    with pytest.raises(ValueError, match="Redshift files are read with their coadd"):
        read_one(tmp_path / "redrock.fits")
    problems = Problems("quarantine")
    assert list(desi.read([tmp_path / "stack.fits"], problems=problems)) == []
    assert len(problems.found) == 1


@pytest.mark.real_data
def test_every_real_coadd_equals_a_direct_read(real_data):
    paths = sorted((real_data / "native" / "desi_coadd").glob("coadd-*.fits"))
    found = {path.name: read_one(path) for path in paths}
    assert [len(objects) for objects in found.values()] == [5, 1, 1]
    for path in paths:
        spectrum = found[path.name].observations["desi_spectrum"]
        with fits.open(path) as opened:
            # Where no other arm reaches, every value is that of the file.
            for camera, own, on_grid in (
                ("B", slice(0, 2700), slice(0, 2700)),
                ("R", slice(51, 2200), slice(2751, 4900)),
                ("Z", slice(126, 2881), slice(5026, 7781)),
            ):
                for part, values in (("FLUX", spectrum.flux), ("IVAR", spectrum.ivar)):
                    direct = opened[f"{camera}_{part}"].data[:, own]
                    np.testing.assert_array_equal(values[:, on_grid], direct)
                wavelength = opened[f"{camera}_WAVELENGTH"].data[own] / 10
                np.testing.assert_allclose(spectrum.wavelength[on_grid], wavelength, rtol=1e-12)
            ids = opened["FIBERMAP"].data["TARGETID"]
            np.testing.assert_array_equal(found[path.name].object_id, ids)
        assert spectrum.mask.all()
        # R is 2000 to 5500, so that one sigma is 0.05 to 0.1 nm everywhere.
        assert 0.05 < spectrum.lsf_sigma.min() < spectrum.lsf_sigma.max() < 0.1
    z = [objects.observations["desi_z"].value[0] for objects in found.values()]
    np.testing.assert_allclose(z, [0, 0.36874355, 0.00726967], rtol=1e-6)


@pytest.mark.real_data
def test_every_real_mini_sv_file(real_data):
    paths = sorted((real_data / "native" / "desi_minisv").glob("coadd-*.fits"))
    objects = [read_one(path) for path in paths]
    assert sum(len(o) for o in objects) == 26
    assert all(o.observations["desi_z"].mask.all() for o in objects)
    assert all(o.observations["desi_spectrum"].mask.all() for o in objects)
    kinds = [o.observations["desi_spectype"].value.tolist() for o in objects]
    assert kinds == [[0] * 5, [0] * 5, [0] * 5, [2], [2] * 5, [1] * 5]
    (stars,) = (o for o, p in zip(objects, paths, strict=True) if "mws-66003-20200315.f" in p.name)
    spectrum, z = (stars.observations[f"desi_{n}"] for n in ("spectrum", "z"))
    for flux, redshift in zip(spectrum.flux, z.value, strict=True):
        # Calcium lies where it does in vacuum: in air it would be 0.23 nm away.
        away = spectrum.wavelength / (1 + redshift) - 854.444
        depth = 1 - flux[np.abs(away) < 0.5] / np.median(flux[np.abs(away) < 2])
        assert abs((away[np.abs(away) < 0.5] * depth).sum() / depth.sum()) < 0.06


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    ["stack-LRG.fits", "QSO_cat_fuji_dark_tile.fits.gz", "redrock-4-80613-thru20210324.fits"],
)
def test_other_real_files_are_refused(real_data, name):
    with pytest.raises(ValueError, match="is no DESI coadd"):
        read_one(real_data / "native" / "desi_coadd" / name)
