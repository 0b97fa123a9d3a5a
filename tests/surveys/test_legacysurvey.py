"""Legacy Survey tables, bricks and viewer cut-outs; each known trap has a test of its name."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from omnisky.modalities import Image
from omnisky.surveys import legacysurvey
from omnisky.surveys.coadds import Wanted
from omnisky.surveys.legacysurvey import LEGACYSURVEY, SELECTIONS, extended, find_bricks
from omnisky.surveys.survey import Problems

BRICKID, RELEASE = 330248, 10000


def rows(count=4, **changed):
    """Return columns of a DR10 sweep: galaxies bright enough for every selection."""
    columns = {
        "RELEASE": np.full(count, RELEASE, np.int16),
        "BRICKID": np.full(count, BRICKID, np.int32),
        "OBJID": np.arange(count, dtype=np.int32),
        "TYPE": np.full(count, "EXP ", "S4"),
        "RA": 330.0 + 0.01 * np.arange(count),
        "DEC": np.full(count, -0.3),
        "EBV": np.full(count, 0.05, np.float32),
        "MASKBITS": np.zeros(count, np.int16),
        "SHAPE_R": np.full(count, 1.5, np.float32),
        "SHAPE_R_IVAR": np.full(count, 100.0, np.float32),
        "SHAPE_E1": np.full(count, 0.1, np.float32),
        "SHAPE_E2": np.full(count, -0.2, np.float32),
    }
    for band in "GRIZ":
        columns[f"FLUX_{band}"] = np.full(count, 10.0, np.float32)
        columns[f"FLUX_IVAR_{band}"] = np.full(count, 4.0, np.float32)
        columns[f"MW_TRANSMISSION_{band}"] = np.full(count, 0.9, np.float32)
        columns[f"NOBS_{band}"] = np.full(count, 3, np.int16)
        columns[f"PSFSIZE_{band}"] = np.full(count, 1.2, np.float32)
    return columns | changed


def write(path, columns):
    Table(columns).write(path, format="fits", overwrite=True)
    return path


def read_all(path, **options):
    return list(legacysurvey.read(path, **options))


def test_declarations_are_complete():
    names = {m.name for m in LEGACYSURVEY.modalities}
    assert {"legacysurvey_image", "legacysurvey_flux_w4", "legacysurvey_shape_e1"} <= names
    assert all(m.unit == "nmgy" for m in LEGACYSURVEY.modalities if "_flux_" in m.name)


def test_reads_a_sweep(tmp_path):
    (objects,) = read_all(write(tmp_path / "sweep.fits", rows()))
    flux = objects.observations["legacysurvey_flux_i"]
    assert flux.value.tolist() == [10.0] * 4
    assert flux.ivar.tolist() == [4.0] * 4
    assert objects.observations["legacysurvey_shape_r"].ivar.tolist() == [100.0] * 4
    assert objects.observations["legacysurvey_type"].value.tolist() == [3.0] * 4
    assert objects.observations["legacysurvey_psfsize_z"].value == pytest.approx([1.2] * 4)
    assert set(objects.observations) == {
        m.name for m in LEGACYSURVEY.modalities if m.kind == "scalar"
    }


def test_identifier_is_release_brick_and_object_and_never_bytes(tmp_path):
    path = write(tmp_path / "sweep.fits", rows())
    ids = np.concatenate([o.object_id for o in read_all(path, batch_size=3)])
    assert ids.dtype == np.int64
    assert (ids >> 42).tolist() == [RELEASE] * 4
    assert (ids >> 22 & (1 << 20) - 1).tolist() == [BRICKID] * 4
    assert (ids & (1 << 22) - 1).tolist() == [0, 1, 2, 3]


def test_identifier_that_does_not_fit_is_refused(tmp_path):
    path = write(tmp_path / "t.fits", rows(OBJID=np.array([0, 1, 2, 1 << 22], np.int32)))
    with pytest.raises(ValueError, match="OBJID: 4194304 does not fit into 22 bits"):
        read_all(path)


def test_trap_tractor_files_write_names_in_lower_case(tmp_path):
    upper = write(tmp_path / "sweep.fits", rows())
    lower = write(tmp_path / "tractor.fits", {k.lower(): v for k, v in rows().items()})
    (a,), (b,) = (read_all(p, selection="extended_griz_z21") for p in (upper, lower))
    assert a.object_id.tolist() == b.object_id.tolist()
    for name in a.observations:
        np.testing.assert_array_equal(a.observations[name].value, b.observations[name].value)


def test_trap_types_are_padded_bytes(tmp_path):
    path = write(tmp_path / "t.fits", rows(TYPE=np.array(["PSF ", "REX", "DEV ", "SER"], "S4")))
    (objects,) = read_all(path)
    assert objects.observations["legacysurvey_type"].value.tolist() == [1, 2, 4, 5]
    kept = read_all(path, selection=lambda columns: columns["TYPE"] == "PSF")
    assert [len(o) for o in kept] == [1]


def test_trap_not_observed_is_flux_zero_with_ivar_zero(tmp_path):
    changed = {
        "FLUX_G": np.array([0, 10, np.nan, 10], np.float32),
        "FLUX_IVAR_G": np.array([0, 4, 4, -1], np.float32),
    }
    (objects,) = read_all(write(tmp_path / "t.fits", rows(**changed)))
    assert objects.observations["legacysurvey_flux_g"].mask.tolist() == [False, True, False, False]


def test_trap_point_sources_have_no_shape(tmp_path):
    kinds = np.array(["PSF", "REX", "DUP", "SER"], "S4")
    (objects,) = read_all(write(tmp_path / "t.fits", rows(TYPE=kinds)))
    assert objects.observations["legacysurvey_shape_r"].mask.tolist() == [False, True, False, True]


def test_trap_dr8_has_a_shape_for_each_profile_and_no_i_band(tmp_path):
    columns = {k: v for k, v in rows(5).items() if not (k.startswith("SHAPE") or k.endswith("_I"))}
    columns["TYPE"] = np.array(["EXP", "DEV", "COMP", "REX", "PSF"], "S4")
    for part, (exp, dev) in {"R": (1.0, 2.0), "E1": (0.1, 0.2), "E2": (0.3, 0.4)}.items():
        columns[f"SHAPEEXP_{part}"] = np.full(5, exp, np.float32)
        columns[f"SHAPEDEV_{part}"] = np.full(5, dev, np.float32)
        columns[f"SHAPEDEV_{part}_IVAR"] = np.full(5, 9.0, np.float32)
    path = write(tmp_path / "t.fits", columns)
    (objects,) = read_all(path)
    radius = objects.observations["legacysurvey_shape_r"]
    assert radius.value.tolist() == [1, 2, 0, 1, 0]
    assert radius.mask.tolist() == [True, True, False, True, False]
    assert radius.ivar.tolist() == [0, 9, 0, 0, 0]
    assert not objects.observations["legacysurvey_flux_i"].mask.any()
    with pytest.raises(ValueError, match=r"t.fits: selection 'extended_griz_z21' needs.*NOBS_I"):
        read_all(path, selection="extended_griz_z21")
    assert [len(o) for o in read_all(path, selection="extended_grz_z21")] == [4]


def test_trap_target_files_rename_columns(tmp_path):
    columns = rows()
    columns["BRICK_OBJID"], columns["MORPHTYPE"] = columns.pop("OBJID"), columns.pop("TYPE")
    (objects,) = read_all(write(tmp_path / "targets.fits", columns))
    assert (objects.object_id & 3).tolist() == [0, 1, 2, 3]
    assert objects.observations["legacysurvey_type"].mask.all()


def test_epoch_is_that_of_gaia_or_the_middle_of_the_observations(tmp_path):
    changed = {
        "REF_CAT": np.array(["G2", "GE", "", ""], "S2"),
        "REF_EPOCH": np.array([2015.5, 2016.0, 0, 0], np.float32),
        "MJD_MIN": np.array([56000.0, 56000, 51544.5, 0]),
        "MJD_MAX": np.array([57000.0, 57000, 51544.5 + 730.5, 0]),
        "PMRA": np.array([5, 6, 0, 0], np.float32),
        "PMDEC": np.array([-5, 6, 0, 0], np.float32),
        "PMRA_IVAR": np.array([4, 4, 0, 0], np.float32),
        "PMDEC_IVAR": np.array([4, 4, 0, 0], np.float32),
    }
    (objects,) = read_all(write(tmp_path / "t.fits", rows(**changed)))
    assert objects.epoch.value.tolist() == [2015.5, 2016.0, 2001.0, 0.0]
    assert objects.epoch.mask.tolist() == [True, True, True, False]
    assert objects.pm_dec.value.tolist() == [-5, 6, 0, 0]
    assert objects.pm_ra.mask.tolist() == [True, True, False, False]


def test_epoch_of_dr8_follows_from_the_reference_catalogue(tmp_path):
    path = write(tmp_path / "t.fits", rows(REF_CAT=np.array(["G2", "L3", "", "G2"], "S2")))
    (objects,) = read_all(path)
    assert objects.epoch.value.tolist() == [2015.5, 0, 0, 2015.5]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("TYPE", "PSF"),
        ("TYPE", "DUP"),
        ("NOBS_I", 0),
        ("MASKBITS", 1 << 1),
        ("MASKBITS", 1 << 14),
        ("FLUX_Z", 3.0),
        ("FLUX_Z", np.nan),
        ("BRICK_PRIMARY", False),
    ],
)
def test_selection_drops(tmp_path, column, value):
    columns = rows(BRICK_PRIMARY=np.ones(4, bool))
    columns[column][2] = value
    path = write(tmp_path / "t.fits", columns)
    (objects,) = read_all(path, selection="extended_griz_z21")
    assert (objects.object_id & 7).tolist() == [0, 1, 3]


def test_trap_flux_that_is_not_positive_is_not_bright(tmp_path):
    path = write(tmp_path / "t.fits", rows(FLUX_Z=np.array([-5, 0, 10, 1e-9], np.float32)))
    (objects,) = read_all(path, selection="extended_griz_z21")
    assert (objects.object_id & 7).tolist() == [2]


def test_selection_says_whether_it_corrects_for_extinction(tmp_path):
    # z = 21.05 as observed, 20.94 corrected.
    path = write(tmp_path / "t.fits", rows(FLUX_Z=np.full(4, 3.80, np.float32)))
    assert read_all(path, selection="extended_griz_z21")
    assert not read_all(path, selection="extended_griz_z21_observed")
    assert read_all(path, selection=extended("gr", 22.0, dereddened=False))
    assert "de-reddened" in SELECTIONS["extended_griz_z21"].description
    with pytest.raises(ValueError, match="no selection 'bright'; there are all, extended_griz_z21"):
        read_all(path, selection="bright")


def test_bad_rows_name_file_row_and_remedy(tmp_path):
    columns = rows(6)
    columns["RA"][1], columns["DEC"][3] = np.nan, 91.0
    columns["OBJID"][5] = 4
    path = write(tmp_path / "t.fits", columns)
    with pytest.raises(ValueError, match=r"t.fits, row 1 \(object \d+\): position \(nan.*Correct"):
        read_all(path)
    problems = Problems("quarantine")
    (objects,) = read_all(path, problems=problems)
    assert (objects.object_id & 7).tolist() == [0, 2, 4]
    assert [p.row for p in problems.found] == [1, 3, 5]


def test_rows_of_problems_count_in_the_file_not_in_the_selection(tmp_path):
    columns = rows(6, TYPE=np.array(["PSF", "EXP", "PSF", "PSF", "EXP", "EXP"], "S4"))
    columns["RA"][4] = 400.0
    problems = Problems("quarantine")
    path = write(tmp_path / "t.fits", columns)
    (objects,) = read_all(path, problems=problems, selection="extended_griz_z21")
    assert (objects.object_id & 7).tolist() == [1, 5]
    assert [p.row for p in problems.found] == [4]


def test_trap_single_precision_positions_are_refused(tmp_path):
    path = write(tmp_path / "t.fits", rows(RA=np.full(4, 330, np.float32)))
    with pytest.raises(ValueError, match="column RA: positions of type float32 are off by"):
        read_all(path)


def test_wrong_unit_type_or_kind_of_file_is_refused(tmp_path):
    table = Table(rows())
    table["FLUX_G"].unit = "mJy"
    table.write(tmp_path / "unit.fits")
    with pytest.raises(ValueError, match="column FLUX_G is in 'mJy'; expected 'nmgy'"):
        read_all(tmp_path / "unit.fits")
    path = write(tmp_path / "text.fits", rows(FLUX_R=np.full(4, "bright")))
    with pytest.raises(ValueError, match="column FLUX_R: holds text"):
        read_all(path)
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match="holds no table; expected one with the columns RELEASE"):
        read_all(tmp_path / "image.fits")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        read_all(path, batch_size=0)
    with pytest.raises(ValueError, match="no files were given"):
        read_all([])


def test_unit_of_the_survey_is_known(tmp_path):
    path = write(tmp_path / "t.fits", rows())
    with fits.open(path, mode="update") as opened:
        names = opened[1].columns.names
        opened[1].header[f"TUNIT{names.index('FLUX_G') + 1}"] = "nanomaggy"
        opened[1].header[f"TUNIT{names.index('RA') + 1}"] = "deg"
    assert read_all(path)


def test_damaged_file_is_one_problem_and_the_next_is_read(tmp_path):
    good, bad = write(tmp_path / "good.fits", rows()), tmp_path / "bad.fits"
    bad.write_bytes(good.read_bytes()[:-3000])
    problems = Problems("quarantine")
    assert sum(len(o) for o in read_all([bad, good], problems=problems)) == 4
    assert [p.row for p in problems.found] == [None]
    assert "truncated" in problems.found[0].reason


def test_groups_come_together_and_share_no_batch(tmp_path):
    columns = rows(9)
    columns["RA"] = np.array([3, 1, 2, 1, 3, 1, 2, 1, 1], float)
    path = write(tmp_path / "t.fits", columns)
    batches = read_all(path, group_by=lambda ra, dec: ra.astype(int), batch_size=3)
    assert [o.ra_deg.tolist() for o in batches] == [[1, 1, 1], [1, 1], [2, 2], [3, 3]]


def brick_file(folder, plane, pixels, packed=True, **cards):
    header = fits.Header()
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0})
    header.update({"CRPIX1": 30.5, "CRPIX2": 30.5, "CD1_1": -0.262 / 3600, "CD2_2": 0.262 / 3600})
    header.update(cards)
    name = f"legacysurvey-0100p000-{plane}.fits" + (".fz" if packed else "")
    folder.mkdir(parents=True, exist_ok=True)
    if packed:
        kind = "RICE_1" if pixels.dtype.kind == "f" else "HCOMPRESS_1"
        image = fits.CompImageHDU(
            pixels,
            header,
            compression_type=kind,
            tile_shape=(20, 20),
            quantize_method=2,
            quantize_level=-1e-4,
        )
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(folder / name, overwrite=True)
    else:
        fits.PrimaryHDU(pixels, header).writeto(folder / name, overwrite=True)
    return folder / name


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    flux = rng.normal(0, 0.02, (60, 60)).astype(np.float32)
    flux[:20] = 0
    return flux, np.where(flux == 0, 0, 2500).astype(np.float32)


@pytest.mark.parametrize("packed", [True, False])
def test_opens_a_brick(tmp_path, pixels, packed):
    flux, ivar = pixels
    brick_file(tmp_path / "010" / "0100p000", "image-g", flux, packed, BUNIT="nanomaggy")
    brick_file(tmp_path / "010" / "0100p000", "invvar-g", ivar, packed)
    bricks = find_bricks(tmp_path)
    assert list(bricks) == ["0100p000"]
    assert bricks["0100p000"].centre_deg == (10.0, 0.0)
    coadd = bricks["0100p000"].open(["g"], Wanted(trusted=True))["g"]
    found = [np.empty((60, 60), t) for t in (np.float32, np.float32, bool)]
    coadd.cut_all(*found)
    np.testing.assert_allclose(found[0], flux, atol=1e-4)
    assert (found[2] == (flux != 0)).all()
    assert (coadd.nbytes == 0) == (not packed)


def test_trap_dither_keeps_zero_pixels_exactly_zero(tmp_path, pixels):
    brick_file(tmp_path, "image-g", pixels[0])
    coadd = find_bricks(tmp_path)["0100p000"].open(["g"], Wanted(noise=False, trusted=True))["g"]
    assert (coadd.flux[:20] == 0).all()


def test_trap_maskbits_are_bad_where_set_and_differ_by_band(tmp_path, pixels):
    flux, ivar = pixels
    bits = np.zeros((60, 60), np.int16)
    bits[40, 0], bits[41, 0], bits[42, 0], bits[43, 0] = 1, 1 << 5, 1 << 6, -(1 << 15)
    for band in "gri":
        brick_file(tmp_path, f"image-{band}", flux, packed=False)
        brick_file(tmp_path, f"invvar-{band}", ivar, packed=False)
    brick_file(tmp_path, "maskbits", bits, packed=False)
    opened = find_bricks(tmp_path)["0100p000"].open(["g", "r", "i"], Wanted())
    for band, bad in {"g": [41], "r": [42], "i": [43]}.items():
        found = [np.empty((60, 60), t) for t in (np.float32, np.float32, bool)]
        opened[band].cut_all(*found)
        assert np.flatnonzero(~found[2][20:, 0]).tolist() == [row - 20 for row in bad]
    chosen = find_bricks(tmp_path, bad_bits={"g": (0,)})["0100p000"].open(["g"], Wanted())["g"]
    chosen.cut_all(*found)
    assert np.flatnonzero(~found[2][20:, 0]).tolist() == [20]


def test_plain_file_is_preferred_to_the_compressed_one(tmp_path, pixels):
    brick_file(tmp_path, "image-g", pixels[0])
    plain = brick_file(tmp_path, "image-g", pixels[0], packed=False)
    assert find_bricks(tmp_path)["0100p000"].headers["g"] == plain


def test_bricks_that_cannot_be_used_are_refused(tmp_path, pixels):
    flux, ivar = pixels
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_bricks(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no brick; expected legacysurvey-<brick>-image"):
        find_bricks(tmp_path)
    brick_file(tmp_path / "a", "image-g", flux, packed=False)
    with pytest.raises(ValueError, match=r"has no legacysurvey-0100p000-invvar-g beside it"):
        find_bricks(tmp_path)["0100p000"].open(["g"], Wanted())
    brick_file(tmp_path / "a", "invvar-g", ivar[:, :50], packed=False)
    with pytest.raises(ValueError, match=r"image has shape \(60, 60\), but its noise \(60, 50\)"):
        find_bricks(tmp_path)["0100p000"].open(["g"], Wanted())
    brick_file(tmp_path / "a", "image-g", flux, packed=False, BUNIT="adu")
    brick_file(tmp_path / "a", "invvar-g", ivar, packed=False)
    with pytest.raises(ValueError, match=r"BUNIT = 'adu', MAGZERO = 22.5; expected nanomaggies"):
        find_bricks(tmp_path)["0100p000"].open(["g"], Wanted())
    brick_file(tmp_path / "b", "image-g", flux, packed=False)
    with pytest.raises(ValueError, match=r"has its image twice.*give one of these folders"):
        find_bricks(tmp_path)


def viewer_file(path, cube, scale=0.262, bands="grz", **cards):
    header = fits.Header()
    header.update({"BANDS": bands, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 359.99})
    header.update({"CRVAL2": -1.0, "CRPIX1": (cube.shape[2] + 1) / 2})
    header.update({"CRPIX2": (cube.shape[1] + 1) / 2})
    header.update({"CD1_1": -scale / 3600, "CD2_2": scale / 3600, **cards})
    fits.PrimaryHDU(cube, header).writeto(path, overwrite=True)
    return path


@pytest.fixture
def cube():
    return np.random.default_rng(0).normal(1, 0.1, (3, 24, 24)).astype(np.float32)


def test_reads_viewer_cutouts(tmp_path, cube):
    paths = [viewer_file(tmp_path / f"{name}.fits", cube) for name in "abc"]
    (objects,) = legacysurvey.read_cutouts(paths)
    image = objects.observations["legacysurvey_image"]
    assert isinstance(image, Image)
    assert objects.object_id.tolist() == ["a", "b", "c"]
    assert objects.ra_deg == pytest.approx([359.99] * 3)
    assert image.bands == ("g", "r", "z")
    assert image.pixel_scale_arcsec == pytest.approx(0.262)
    np.testing.assert_allclose(image.flux[1], cube, rtol=1e-6)
    assert image.mask.all()
    assert not image.ivar.any()


def test_trap_viewer_keeps_the_values_of_native_pixels_when_it_resamples(tmp_path, cube):
    path = viewer_file(tmp_path / "a.fits", cube, scale=0.131)
    (objects,) = legacysurvey.read_cutouts(path)
    np.testing.assert_allclose(
        objects.observations["legacysurvey_image"].flux[0], cube / 4, rtol=1e-6
    )


def test_trap_zero_in_a_viewer_cutout_is_no_data(tmp_path, cube):
    cube[1, :5] = 0
    (objects,) = legacysurvey.read_cutouts(viewer_file(tmp_path / "a.fits", cube))
    mask = objects.observations["legacysurvey_image"].mask[0]
    assert not mask[1, :5].any()
    assert mask[1, 5:].all()
    assert mask[[0, 2]].all()


def test_inverse_variance_of_the_viewer_is_read(tmp_path, cube):
    path = viewer_file(tmp_path / "a.fits", cube)
    noise = np.full(cube.shape, 25, np.float32)
    noise[0, 0, 0] = 0
    fits.append(path, noise, fits.Header({"IMAGETYP": "INVVAR"}))
    (objects,) = legacysurvey.read_cutouts(path)
    image = objects.observations["legacysurvey_image"]
    assert image.ivar[0, 1, 3, 3] == pytest.approx(25)
    assert image.mask.sum() == cube.size - 1


def test_cutouts_of_different_size_come_in_batches_of_their_own(tmp_path, cube):
    paths = [viewer_file(tmp_path / "a.fits", cube)]
    paths += [viewer_file(tmp_path / "b.fits", cube, scale=0.3)]
    paths += [viewer_file(tmp_path / "c.fits", cube[:, :20], scale=0.3)]
    assert [len(o) for o in legacysurvey.read_cutouts(paths)] == [1, 1, 1]
    assert [len(o) for o in legacysurvey.read_cutouts(paths[:1] * 5, batch_size=2)] == [2, 2, 1]


def test_cutouts_that_are_none_are_refused(tmp_path, cube):
    good = viewer_file(tmp_path / "a.fits", cube)
    short = tmp_path / "short.fits"
    short.write_bytes(good.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"short.fits, HDU 0: truncated"):
        list(legacysurvey.read_cutouts(short))
    problems = Problems("quarantine")
    (objects,) = legacysurvey.read_cutouts([short, good], problems=problems)
    assert objects.object_id.tolist() == ["a"]
    assert len(problems.found) == 1
    path = viewer_file(tmp_path / "b.fits", cube, bands="gz")
    with pytest.raises(ValueError, match="expected a cube of one image a band"):
        list(legacysurvey.read_cutouts(path))
    path = viewer_file(tmp_path / "c.fits", cube, CTYPE1="LINEAR")
    with pytest.raises(ValueError, match="no world coordinates"):
        list(legacysurvey.read_cutouts(path))


@pytest.mark.real_data
def test_every_real_table(real_data):
    folder = real_data / "native" / "legacysurvey"
    for path in sorted(folder.glob("*.fits")):
        if path.name == "targets.fits":
            with pytest.raises(ValueError, match=r"no column BRICKID, OBJID; found RA, DEC"):
                read_all(path)
            continue
        (objects,) = read_all(path)
        table = Table.read(path)
        assert len(objects) == 6
        np.testing.assert_array_equal(
            objects.observations["legacysurvey_flux_z"].value, table["FLUX_Z"]
        )
        if "TARGETID" in table.colnames:  # the identifier is DESI's
            assert objects.object_id.tolist() == table["TARGETID"].tolist()


@pytest.mark.real_data
def test_every_real_cutout(real_data):
    folder = real_data / "native" / "legacysurvey_cutouts"
    problems = Problems("quarantine")
    found = {}
    for objects in legacysurvey.read_cutouts(sorted(folder.glob("*.fits")), problems=problems):
        found |= {who: objects[i] for i, who in enumerate(objects.object_id.tolist())}
    assert len(found) == 8
    (problem,) = problems.found
    assert problem.file.endswith("example_incomplete_backup.fits")
    assert "truncated" in problem.reason
    bad = found["example_bad_pix"].observations["legacysurvey_image"].mask[0]
    assert (~bad).sum(axis=(1, 2)).tolist() == [136104, 130806, 0]
    # The same galaxy, from two releases: its brightness in z agrees after the conversion.
    z = [
        found[f"example_{k}"].observations["legacysurvey_image"].flux[0, 2]
        for k in ("bad_pix", "d")
    ]
    assert abs(2.5 * np.log10(z[0].sum() / z[1].sum())) < 0.05


@pytest.mark.real_data
def test_real_brick(real_data):
    folder = real_data / "native" / "legacysurvey"
    brick = find_bricks(folder)["0959p805"]
    assert set(brick.headers) == {"g", "z"}
    coadd = brick.open(["g"], Wanted())["g"]
    assert coadd.flux.shape == (3600, 3600)
    weight = fits.getdata(folder / "legacysurvey-0959p805-invvar-g.fits.fz")
    flux, ivar = (np.empty((3600, 3600), np.float32) for _ in range(2))
    mask = np.empty((3600, 3600), bool)
    coadd.cut_all(flux, ivar, mask)
    assert (mask == (weight > 0)).all()
    # Values were interpolated into pixels that no exposure reached; they do not count.
    assert (coadd.flux[weight == 0] != 0).sum() == 34762
    assert not flux[~mask].any()
