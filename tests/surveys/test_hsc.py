"""HSC tables, patches, cubes and scenes; each known trap has a test of its name."""

import io
import zipfile

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from omnisky.surveys import hsc
from omnisky.surveys.coadds import Wanted
from omnisky.surveys.hsc import HSC, SELECTIONS, find_patches, psf_fwhm_arcsec, read_scene
from omnisky.surveys.survey import Problems

NANOMAGGY = 10 ** (0.4 * (22.5 - 27.0))  # in one count


def rows(count=4, **changed):
    """Return columns as the database names them: galaxies with z = 20."""
    columns = {
        "object_id": 4 * 10**16 + np.arange(count),
        "ra": 150.0 + 0.01 * np.arange(count),
        "dec": np.full(count, 2.0),
        "isprimary": np.ones(count, bool),
    }
    for band in "grizy":
        columns[f"{band}_cmodel_mag"] = np.full(count, 20.0, np.float32)
        columns[f"{band}_cmodel_magerr"] = np.full(count, 0.1, np.float32)
        columns[f"a_{band}"] = np.full(count, 0.05, np.float32)
        columns[f"{band}_extendedness_value"] = np.ones(count, np.float32)
        for moment, value in {"11": 0.09, "22": 0.09, "12": 0.0}.items():
            columns[f"{band}_sdssshape_psf_shape{moment}"] = np.full(count, value)
    return columns | changed


def read_all(tmp_path, columns, **options):
    Table(columns).write(tmp_path / "t.fits", overwrite=True)
    return list(hsc.read(tmp_path / "t.fits", **options))


def test_reads_a_table(tmp_path):
    (objects,) = read_all(tmp_path, rows())
    assert objects.object_id.dtype == np.int64
    assert objects.object_id[0] == 4 * 10**16
    magnitude = objects.observations["hsc_z_cmodel_mag"]
    assert magnitude.value.tolist() == [20.0] * 4
    assert magnitude.ivar == pytest.approx([100.0] * 4)
    assert objects.observations["hsc_psfsize_i"].value == pytest.approx([0.3 * 2.354820] * 4)
    assert set(objects.observations) == {m.name for m in HSC.modalities if m.kind == "scalar"}


def test_moments_of_the_light_in_i(tmp_path):
    moments = {"11": 0.5, "22": 0.4, "12": -0.1}
    more = {f"i_sdssshape_shape{m}": np.full(4, v) for m, v in moments.items()}
    null = {"i_sdssshape_shape11_isnull": np.array([False, True, False, False])}
    (objects,) = read_all(tmp_path, rows(**more, **null))
    for moment, value in moments.items():
        found = objects.observations[f"hsc_shape{moment}"]
        assert found.value[0] == value
        assert found.mask.tolist() == [True, moment != "11", True, True]


def test_columns_that_are_not_there_are_absent(tmp_path):
    columns = {k: v for k, v in rows().items() if k in ("object_id", "ra", "dec", "g_cmodel_mag")}
    (objects,) = read_all(tmp_path, columns)
    assert objects.observations["hsc_g_cmodel_mag"].mask.all()
    assert not objects.observations["hsc_g_cmodel_mag"].ivar.any()
    assert not objects.observations["hsc_a_g"].mask.any()
    assert not objects.observations["hsc_psfsize_g"].mask.any()


def test_trap_isnull_columns_mean_missing(tmp_path):
    columns = rows(g_cmodel_mag=np.zeros(4, np.float32))
    columns["g_cmodel_mag_isnull"] = np.array([True, False, True, True])
    columns["g_cmodel_mag"][1] = 21
    (objects,) = read_all(tmp_path, columns)
    assert objects.observations["hsc_g_cmodel_mag"].mask.tolist() == [False, True, False, False]
    (kept,) = read_all(tmp_path, columns, selection="extended_grizy")
    assert kept.ra_deg == pytest.approx([150.01])


def test_trap_99_is_no_magnitude(tmp_path):
    columns = rows(y_cmodel_mag=np.array([20, 99, np.nan, -99], np.float32))
    (objects,) = read_all(tmp_path, columns)
    assert objects.observations["hsc_y_cmodel_mag"].mask.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("i_extendedness_value", 0),
        ("i_extendedness_value", np.nan),
        ("y_cmodel_mag", np.nan),
        ("y_cmodel_mag", 99),
        ("isprimary", False),
        ("z_cmodel_mag", 21.1),
    ],
)
def test_selection_drops(tmp_path, column, value):
    columns = rows()
    columns[column][2] = value
    (objects,) = read_all(tmp_path, columns, selection="extended_grizy_z21")
    assert (objects.object_id % 10).tolist() == [0, 1, 3]


def test_magnitude_limit_is_an_option_and_says_whether_it_is_corrected(tmp_path):
    columns = rows(z_cmodel_mag=np.array([20.9, 21.04, 21.1, 25], np.float32))
    count = {
        name: sum(map(len, read_all(tmp_path, columns, selection=name))) for name in SELECTIONS
    }
    assert count == {
        "extended_grizy": 4,
        "extended_grizy_z21": 2,
        "extended_grizy_z21_observed": 1,
    }


HEADER = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}
HEADER |= {"CRPIX1": 15.5, "CRPIX2": 15.5, "CD1_1": -0.168 / 3600, "CD2_2": 0.168 / 3600}
PLANES = {"MP_BAD": 0, "MP_SAT": 1, "MP_DETECTED": 5, "MP_NO_DATA": 8}


def patch_file(folder, band="I", planes=PLANES, named=True, primary=None, **arrays):
    """Write a patch as the pipeline does: image, mask and variance in three extensions."""
    pixels = {
        "IMAGE": np.full((30, 30), 100, np.float32),
        "MASK": np.zeros((30, 30), np.int32),
        "VARIANCE": np.full((30, 30), 4, np.float32),
    } | {name.upper(): array for name, array in arrays.items()}
    hdus = [fits.PrimaryHDU(header=fits.Header(primary or {"FLUXMAG0": 10 ** (0.4 * 27)}))]
    for name, array in pixels.items():
        header = fits.Header(HEADER | ({"EXTTYPE": name} if named else {}))
        if name == "MASK":
            for plane, bit in planes.items():
                header[f"HIERARCH {plane}" if len(plane) > 8 else plane] = bit
        hdus.append(fits.ImageHDU(array, header))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"calexp-HSC-{band}-9813-4,4.fits"
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def pixels_of(folder, band="i", **options):
    coadd = find_patches(folder, **options)["9813-4,4"].open([band], Wanted())[band]
    found = [np.empty((30, 30), t) for t in (np.float32, np.float32, bool)]
    coadd.cut_all(*found)
    return found


def test_trap_counts_of_zero_point_27_become_nanomaggies(tmp_path):
    patch_file(tmp_path)
    flux, ivar, mask = pixels_of(tmp_path)
    assert flux[3, 3] == pytest.approx(100 * NANOMAGGY, rel=1e-5)
    assert ivar[3, 3] == pytest.approx(0.25 / NANOMAGGY**2, rel=1e-5)
    assert mask.all()
    # An object of magnitude 22 has 100 counts at zero point 27.
    assert 22.5 - 2.5 * np.log10(flux[3, 3]) == pytest.approx(22.0)


def test_zero_point_is_that_of_the_header(tmp_path):
    patch_file(tmp_path, primary={"FLUXMAG0": 1e9})
    assert pixels_of(tmp_path)[0][0, 0] == pytest.approx(100)
    patch_file(tmp_path, primary={"FILTER": "i"})
    assert pixels_of(tmp_path)[0][0, 0] == pytest.approx(100 * NANOMAGGY, rel=1e-5)
    patch_file(tmp_path, primary={"FLUXMAG0": -1.0})
    with pytest.raises(ValueError, match=r"FLUXMAG0 = -1.0; expected the counts of magnitude 0"):
        pixels_of(tmp_path)


def test_newer_images_are_in_nanojansky(tmp_path):
    path = patch_file(tmp_path)
    with fits.open(path, mode="update") as opened:
        opened[1].header["BUNIT"] = "nJy"
    # An AB magnitude of 31.4 is a nanojansky.
    flux = pixels_of(tmp_path)[0][0, 0]
    assert 22.5 - 2.5 * np.log10(flux) == pytest.approx(31.4 - 5.0, abs=0.001)


def test_trap_mask_bits_say_what_is_wrong_and_detected_is_not_wrong(tmp_path):
    bits = np.zeros((30, 30), np.int32)
    bits[0, 0], bits[1, 0], bits[2, 0], bits[3, 0] = 1 << 0, 1 << 5, 1 << 8, 1 << 9
    patch_file(tmp_path, mask=bits)
    assert pixels_of(tmp_path)[2][:4, 0].tolist() == [False, True, False, True]


def test_trap_numbers_of_mask_planes_change_but_not_their_names(tmp_path):
    bits = np.zeros((30, 30), np.int32)
    bits[0, 0], bits[1, 0] = 1 << 3, 1 << 12
    patch_file(tmp_path, mask=bits, planes={"MP_SAT": 12, "MP_DETECTED": 3, "MP_UNMASKEDNAN": 4})
    assert pixels_of(tmp_path)[2][:2, 0].tolist() == [True, False]
    assert pixels_of(tmp_path, bad_planes=["DETECTED"])[2][:2, 0].tolist() == [False, True]


@pytest.mark.parametrize("variance", [0.0, 1e-42, -1.0, np.nan, np.inf])
def test_trap_variance_without_sense_is_no_weight(tmp_path, variance):
    noise = np.full((30, 30), 4, np.float32)
    noise[5, 6] = variance
    patch_file(tmp_path, variance=noise)
    flux, ivar, mask = pixels_of(tmp_path)
    assert np.argwhere(~mask).tolist() == [[5, 6]]
    assert flux[5, 6] == ivar[5, 6] == 0
    assert np.isfinite(ivar).all()


def test_patches_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_patches(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no patch; expected calexp-HSC-"):
        find_patches(tmp_path)
    patch_file(tmp_path, named=False)
    with pytest.raises(ValueError, match="expected the images IMAGE, MASK and VARIANCE"):
        pixels_of(tmp_path)
    patch_file(tmp_path, planes={})
    with pytest.raises(ValueError, match="header of the mask must name its planes"):
        pixels_of(tmp_path)
    patch_file(tmp_path, planes={"MP_BAD": 99})
    with pytest.raises(ValueError, match="found BAD = 99"):
        pixels_of(tmp_path)
    patch_file(tmp_path, variance=np.ones((30, 29), np.float32))
    with pytest.raises(ValueError, match=r"image has shape \(30, 30\), but its noise \(30, 29\)"):
        pixels_of(tmp_path)
    patch_file(tmp_path / "again")
    with pytest.raises(ValueError, match="has band i twice"):
        find_patches(tmp_path)


def test_answers_of_the_cutout_service_are_patches_too(tmp_path):
    path = patch_file(tmp_path, band="R2")
    path.rename(tmp_path / "2-cutout-HSC-R2-9813-pdr3_wide.fits")
    assert find_patches(tmp_path)["2-9813-pdr3_wide"].open(["r"], Wanted(noise=False))["r"].scale


def cube_file(path, cube, scale=0.168, **cards):
    header = HEADER | {"CD1_1": -scale / 3600, "CD2_2": scale / 3600} | cards
    fits.PrimaryHDU(cube, fits.Header(header)).writeto(path, overwrite=True)
    return path


def test_cubes_need_to_be_told_their_bands(tmp_path):
    cube = np.random.default_rng(0).normal(5, 1, (5, 30, 30))
    path = cube_file(tmp_path / "a.fits", cube)
    (objects,) = hsc.read_cutouts(path, bands="grizy")
    image = objects.observations["hsc_image"]
    np.testing.assert_allclose(image.flux[0], cube * NANOMAGGY, rtol=1e-5)
    assert image.bands == ("g", "r", "i", "z", "y")
    assert objects.ra_deg[0] == pytest.approx(150.0)
    with pytest.raises(ValueError, match=r"expected a cube of 3 images, for g, r, i"):
        list(hsc.read_cutouts(path, bands="gri"))


def test_values_beyond_single_precision_are_masked(tmp_path):
    cube = np.random.default_rng(0).normal(5, 1, (1, 30, 30))
    cube[0, 3, 4] = 1e300
    (objects,) = hsc.read_cutouts(cube_file(tmp_path / "a.fits", cube), bands="g")
    assert np.argwhere(~objects.observations["hsc_image"].mask[0, 0]).tolist() == [[3, 4]]


def test_trap_normalised_cubes_have_lost_their_flux(tmp_path):
    cube = np.random.default_rng(0).normal(5, 1, (2, 30, 30))
    cube *= 1999 / cube.sum(axis=(1, 2), keepdims=True)
    path = cube_file(tmp_path / "a.fits", cube)
    with pytest.raises(ValueError, match="all bands have the same sum, 1999: they were normalised"):
        list(hsc.read_cutouts(path, bands="gr"))


def test_images_of_another_telescope_are_refused(tmp_path):
    path = cube_file(tmp_path / "a.fits", np.ones((1, 9, 9)), scale=0.03)
    problems = Problems("quarantine")
    assert not list(hsc.read_cutouts(path, bands="i", problems=problems))
    assert "pixels of 0.03 arcsec; those of HSC have 0.168" in problems.found[0].reason


def scene(**changed):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-10:11, -10:11]
    catalog = np.zeros(2, dtype=[("x", float), ("y", float)])
    catalog["x"], catalog["y"] = [20.25, 1.0], [15.0, 2.0]
    return {
        "images": rng.normal(1, 0.1, (2, 40, 30)).astype(np.float32),
        "variance": np.full((2, 40, 30), 4, np.float32),
        "mask": np.zeros((2, 40, 30), np.int32),
        "filters": np.array(["g", "i"]),
        "psfs": np.stack([np.exp(-(x**2 + y**2) / 2 / s**2) for s in (1.5, 2.0)]),
        "catalog": catalog,
    } | changed


def test_reads_a_scene(tmp_path):
    arrays = scene()
    arrays["mask"][0, 3, 4], arrays["mask"][0, 3, 5] = 1 << 8, 1 << 5 | 1 << 14
    np.savez(tmp_path / "s.npz", **arrays)
    whole = read_scene(tmp_path / "s.npz")
    np.testing.assert_allclose(whole.flux[0, 1], arrays["images"][1] * NANOMAGGY, rtol=1e-5)
    assert whole.ivar[0, 0, 0, 0] == pytest.approx(0.25 / NANOMAGGY**2, rel=1e-5)
    assert np.argwhere(~whole.mask[0]).tolist() == [[0, 3, 4]]
    assert whole.psf_fwhm_arcsec[0] == pytest.approx(
        np.array([1.5, 2.0]) * 2.3548 * 0.168, rel=0.01
    )
    cut = read_scene(tmp_path / "s.npz", size=10)
    np.testing.assert_array_equal(cut.flux[0], whole.flux[0, :, 10:20, 16:26])
    assert cut.offset_pixels[0].tolist() == [20.25 - 20.5, 15.0 - 14.5]
    assert not cut.mask[1, :, :3].any()  # below the scene
    assert cut.mask[1, 1, 3:, 4:].all()


def test_a_scene_without_errors_has_unknown_ones(tmp_path):
    arrays = {k: v for k, v in scene().items() if k in ("images", "filters")}
    np.savez(tmp_path / "s.npz", **arrays)
    image = read_scene(tmp_path / "s.npz")
    assert image.mask.all()
    assert not image.ivar.any()
    with pytest.raises(ValueError, match="has no catalog with the columns x and y"):
        read_scene(tmp_path / "s.npz", size=10)


def test_trap_archives_of_python_objects_are_never_loaded(tmp_path):
    np.savez(tmp_path / "s.npz", **scene(catalog=np.array([{"x": 1}, None], dtype=object)))
    with pytest.raises(ValueError, match=r"catalog.npy holds Python objects, which are never load"):
        read_scene(tmp_path / "s.npz")


def test_archives_that_lie_are_refused(tmp_path):
    header = io.BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)}
    np.lib.format.write_array_header_1_0(header, facts)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue() + b"1234")
    with pytest.raises(ValueError, match=r"bomb.npz.*images.npy declares 4\d+ bytes; the archive"):
        read_scene(tmp_path / "bomb.npz")
    (tmp_path / "no.npz").write_bytes(b"not an archive")
    with pytest.raises(ValueError, match="cannot be read as an archive"):
        read_scene(tmp_path / "no.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="expected the arrays images and filters; found a"):
        read_scene(tmp_path / "other.npz")
    np.savez(tmp_path / "few.npz", **scene(filters=np.array(["g"])))
    with pytest.raises(ValueError, match=r"expected images of shape \(band, y, x\) for the 1 fil"):
        read_scene(tmp_path / "few.npz")
    with pytest.raises(FileNotFoundError):
        read_scene(tmp_path / "none.npz")


def test_width_of_a_psf():
    y, x = np.mgrid[-15:16, -15:16]
    for sigma in (1.2, 2.5):
        psf = np.exp(-((x - 0.3) ** 2 + y**2) / 2 / sigma**2)
        assert psf_fwhm_arcsec(psf, 1.0) == pytest.approx(2.3548 * sigma, rel=0.02)
    assert psf_fwhm_arcsec(np.zeros((5, 5))) == 0
    with pytest.raises(ValueError, match="finite image"):
        psf_fwhm_arcsec(np.full((3, 3), np.nan))


@pytest.mark.real_data
def test_every_real_file(real_data):
    folder = real_data / "native" / "hsc"
    refused = {}
    for path in sorted(folder.glob("*.fits")):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            list(hsc.read_cutouts(path, bands="grizy"))
        refused[path.name] = str(error.value)
    assert "they were normalised" in refused["Cut_HSC.fits"]
    assert "they were normalised" in refused["Cut_HSC1.fits"]
    assert "pixels of 0.03 arcsec" in refused["Cut_HST.fits"]
    assert "pixels of 0.03 arcsec" in refused["Cut_HST1.fits"]
    assert "no world coordinates" in refused["PSF_HSC.fits"]
    assert "no world coordinates" in refused["PSF_HST.fits"]
    widths = [psf_fwhm_arcsec(psf) for psf in fits.getdata(folder / "PSF_HSC.fits")]
    assert all(0.5 < width < 0.8 for width in widths)


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "sources"), [("hsc_cosmos", 6), ("hsc_cosmos_35", 7)])
def test_real_scenes(real_data, name, sources):
    path = real_data / "native" / "hsc" / f"{name}.npz"
    whole, cut = read_scene(path), read_scene(path, size=24)
    assert whole.bands == ("g", "r", "i", "z", "y")
    assert whole.mask.all()
    assert len(cut) == sources
    assert ((whole.psf_fwhm_arcsec > 0.45) & (whole.psf_fwhm_arcsec < 0.75)).all()
    assert whole.ivar.any() == (name == "hsc_cosmos_35")  # the other has no variance
    # Galaxies get brighter to the red.
    magnitudes = 22.5 - 2.5 * np.log10(whole.flux[0].sum(axis=(1, 2)))
    assert (np.diff(magnitudes) < 0).all()
    assert (magnitudes > 19).all()
