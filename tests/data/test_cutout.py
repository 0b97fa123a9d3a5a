"""Cut-outs against astropy's Cutout2D, on small bricks written as the surveys write them."""

import warnings

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from omnisky.data.bricks import Bricks
from omnisky.data.cutout import cut_into, cut_out, read
from omnisky.modalities import Image
from omnisky.surveys.coadds import windows
from omnisky.surveys.survey import Problems

SIDE, SCALE = 120, 0.262 / 3600
HALF = SIDE * SCALE / 2


def header(ra, dec, side=SIDE, bounds=True, **cards):
    found = fits.Header()
    found.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": ra, "CRVAL2": dec})
    found.update({"CRPIX1": (side + 1) / 2, "CRPIX2": (side + 1) / 2})
    found.update({"CD1_1": -SCALE, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE, "EQUINOX": 2000.0})
    if bounds:  # the area that is a brick's own is smaller than its image
        found.update({"RAMIN": (ra - 0.9 * HALF) % 360, "RAMAX": (ra + 0.9 * HALF) % 360})
        found.update({"DECMIN": dec - 0.9 * HALF, "DECMAX": dec + 0.9 * HALF})
    found.update(cards)
    return found


def save(path, pixels, head):
    """Write an image plainly, with gzip, or tile-compressed: RICE with dither, or HCOMPRESS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".fz":
        fits.PrimaryHDU(pixels, head).writeto(path, overwrite=True)
        return
    options = {"compression_type": "HCOMPRESS_1", "tile_shape": (40, 40)}
    if pixels.dtype.kind == "f":
        options = {"compression_type": "RICE_1", "tile_shape": (40, 40), "quantize_level": -1e-3}
        options["quantize_method"] = 2 if "-image-" in path.name else -1
    image = fits.CompImageHDU(pixels, head, **options)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path, overwrite=True)


def brick(folder, name, ra, dec, bands="gz", ending=".fits", seed=0, **cards):
    """Write image and inverse variance of a brick; some pixels have no weight."""
    rng = np.random.default_rng(seed)
    written = {}
    for band in bands:
        flux = rng.normal(0.5, 0.1, (SIDE, SIDE)).astype(np.float32)
        ivar = rng.uniform(2000, 3000, (SIDE, SIDE)).astype(np.float32)
        flux[40:44, 50:60], ivar[40:44, 50:60] = 0, 0
        for plane, pixels in (("image", flux), ("invvar", ivar)):
            path = folder / name[:3] / name / f"legacysurvey-{name}-{plane}-{band}{ending}"
            save(path, pixels, header(ra, dec, **cards))
            written[plane, band] = path
    return written


def pixels_in(paths):
    return {key: np.asarray(fits.getdata(path), np.float32) for key, path in paths.items()}


def sky_of(x, y, ra=10.0, dec=0.0):
    return np.stack(WCS(header(ra, dec)).all_pix2world(x, y, 0), axis=1)


def by_astropy(pixels, position, size):
    """Return flux, ivar and mask of one object, as Cutout2D cuts them."""
    parts = []
    for band in "gz":
        cut = [
            Cutout2D(pixels[plane, band], position, size, mode="partial", fill_value=np.nan).data
            for plane in ("image", "invvar")
        ]
        good = np.isfinite(cut[0]) & (np.nan_to_num(cut[1]) > 0)
        parts.append([np.where(good, cut[0], 0), np.where(good, cut[1], 0), good])
    return [np.stack(part) for part in zip(*parts, strict=True)]


# Positions well inside, at edges, over corners, and next to the pixels without weight.
X = np.array([60.3, 59.5, 0.0, 119.2, 3.7, 118.9, 60.0, 48.25, -0.4, 119.4])
Y = np.array([61.7, 59.5, 60.0, 60.1, 2.2, 119.3, 0.6, 43.75, -0.4, 119.4])


@pytest.mark.parametrize("ending", [".fits", ".fits.fz", ".fits.gz"])
@pytest.mark.parametrize("size", [16, 21])
def test_equals_cutout2d_inside_and_at_edges(tmp_path, ending, size):
    pixels = pixels_in(brick(tmp_path, "0100p000", 10.0, 0.0, ending=ending))
    image = cut_out(Bricks(tmp_path, trusted=True), sky_of(X, Y), size, "gz")
    for i, position in enumerate(zip(X, Y, strict=True)):
        flux, ivar, mask = by_astropy(pixels, position, size)
        np.testing.assert_array_equal(image.mask[i], mask)
        np.testing.assert_array_equal(image.flux[i], flux)
        np.testing.assert_array_equal(image.ivar[i], ivar)
    assert image.bands == ("g", "z")
    assert image.pixel_scale_arcsec == 0.262
    assert image.flux.dtype == image.ivar.dtype == np.float32
    assert image.flux.dtype.isnative


def test_decoding_in_a_child_process_makes_no_difference(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0, bands="g", ending=".fits.fz")
    a, b = (cut_out(Bricks(tmp_path, trusted=t), sky_of(X, Y), 16, "g") for t in (True, False))
    np.testing.assert_array_equal(a.flux, b.flux)
    np.testing.assert_array_equal(a.mask, b.mask)


def test_trap_pixels_count_from_zero(tmp_path):
    """Counting from 1, as FITS does, would put the source one pixel to the lower left."""
    paths = brick(tmp_path, "0100p000", 10.0, 0.0, bands="g")
    flux = np.full((SIDE, SIDE), 0.1, np.float32)
    flux[70, 30] = 1000
    save(paths["image", "g"], flux, header(10.0, 0.0))
    image = cut_out(Bricks(tmp_path), sky_of(np.array([30.0]), np.array([70.0])), 20, "g")
    y, x = np.unravel_index(image.flux[0, 0].argmax(), (20, 20))
    # The centre of 20 pixels lies between the 10th and the 11th, at 9.5.
    assert (x, y) == (10, 10)
    assert image.offset_pixels[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)


@given(
    st.floats(-500, 500, allow_nan=False), st.floats(-500, 500, allow_nan=False), st.integers(1, 64)
)
def test_windows_are_those_of_cutout2d_and_keep_the_offset(x, y, size):
    corners, offsets = windows(np.array([x]), np.array([y]), size)
    assert (offsets > -0.5000001).all()
    assert (offsets <= 0.5).all()
    centre = corners[0] + (size - 1) / 2 + offsets[0].astype(float)
    assert centre == pytest.approx([x, y], abs=1e-6)
    big = np.zeros((1200, 1200), dtype=np.uint8)
    expected = Cutout2D(big, (x + 600, y + 600), size, mode="partial", fill_value=1)
    shifted = windows(np.array([x + 600]), np.array([y + 600]), size)[0][0]
    assert tuple(shifted) == (expected.xmin_original, expected.ymin_original)


def test_positions_may_be_a_skycoord_and_come_back_in_order(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0)
    brick(tmp_path, "0101p000", 10.1, 0.0, seed=1)
    positions = np.concatenate([sky_of(X, Y), sky_of(X, Y, ra=10.1)])
    shuffled = np.random.default_rng(0).permutation(len(positions))
    bricks = Bricks(tmp_path)
    image = cut_out(bricks, positions, 16, "gz")
    other = cut_out(bricks, SkyCoord(positions[shuffled], unit="deg"), 16, "gz")
    np.testing.assert_array_equal(other.flux, image.flux[shuffled])
    np.testing.assert_allclose(other.offset_pixels, image.offset_pixels[shuffled], atol=1e-4)
    assert len(cut_out(bricks, np.empty((0, 2)), 16, "gz")) == 0
    assert "Bricks(2 of legacysurvey in" in repr(bricks)


def test_the_image_holds_what_its_constructor_checks(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0)
    image = cut_out(Bricks(tmp_path), sky_of(X, Y), 16, "gz")
    checked = Image(
        image.flux,
        image.ivar,
        image.mask,
        image.bands,
        image.pixel_scale_arcsec,
        image.psf_fwhm_arcsec,
        image.offset_pixels,
    )
    for name in ("flux", "ivar", "mask", "psf_fwhm_arcsec", "offset_pixels"):
        np.testing.assert_array_equal(getattr(image, name), getattr(checked, name))
        assert getattr(image, name).dtype == getattr(checked, name).dtype
    assert image[2:4].flux.shape == (2, 2, 16, 16)


def test_damaged_pixels_are_masked_and_nothing_else(tmp_path):
    paths = brick(tmp_path, "0100p000", 10.0, 0.0, bands="g")
    flux, ivar = (np.ones((SIDE, SIDE), np.float32) for _ in range(2))
    flux[60, 60:63] = np.nan, np.inf, 1e38
    ivar[61, 60:64] = np.nan, np.inf, -1, 1e38
    save(paths["image", "g"], flux, header(10.0, 0.0))
    save(paths["invvar", "g"], ivar, header(10.0, 0.0))
    image = cut_out(Bricks(tmp_path), sky_of(np.array([60.0]), np.array([60.0])), 20, "g")
    bad = {(10, 10), (10, 11), (11, 10), (11, 11), (11, 12)}
    assert set(map(tuple, np.argwhere(~image.mask[0, 0]).tolist())) == bad
    assert np.isfinite(image.flux).all()
    assert np.isfinite(image.ivar).all()


def test_the_brick_that_owns_a_position_is_taken(tmp_path):
    """Images overlap by 10 % of their side; the areas in their headers do not."""
    step = 1.8 * HALF
    for i in range(3):
        brick(tmp_path, f"000{i}p000", i * step, 0.0, seed=i)
    bricks = Bricks(tmp_path)
    ra = np.array([0.0, step / 2 - 1e-6, step / 2 + 1e-6, 1.5 * step - 1e-6, 1.5 * step + 1e-6])
    assert [bricks.names[n] for n in bricks.locate(ra, np.zeros(5))] == [
        "0000p000",
        "0000p000",
        "0001p000",
        "0001p000",
        "0002p000",
    ]


def test_without_areas_the_nearest_centre_is_taken(tmp_path):
    for i in range(2):
        brick(tmp_path, f"piece{i}", 20 + i * 1.5 * HALF, 0.0, bounds=False)
    bricks = Bricks(tmp_path)
    middle = 20 + 0.75 * HALF
    assert bricks.locate([middle - 1e-5, middle + 1e-5], [0.0, 0.0]).tolist() == [0, 1]


def test_right_ascension_zero_is_no_border(tmp_path):
    brick(tmp_path, "3599p000", 0.0, 0.0)  # its area runs from 359.99 to 0.01
    bricks = Bricks(tmp_path)
    found = bricks.locate([359.999, 0.001, -0.001, 360.001, 180.0], np.zeros(5))
    assert found.tolist() == [0, 0, 0, 0, -1]


def test_near_the_pole(tmp_path):
    brick(tmp_path, "0100p899", 10.0, 89.95)
    x, y = np.meshgrid([2.0, 60.0, 117.0], [2.0, 60.0, 117.0])
    positions = sky_of(x.ravel(), y.ravel(), dec=89.95)
    bricks = Bricks(tmp_path)
    assert (bricks.locate(*positions.T) == 0).all()
    np.testing.assert_allclose(bricks.pixels_of(0, *positions.T)[0], x.ravel(), atol=1e-5)


def test_outside_of_all_bricks(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0)
    bricks = Bricks(tmp_path)
    positions = np.array([[10.0, 0.0], [10.0, 1.0], [190.0, 0.0]])
    with pytest.raises(ValueError, match=r"row 1: position \(10.000000, 1.000000\) lies in none"):
        cut_out(bricks, positions, 16, "gz")
    problems = Problems("quarantine")
    image = cut_out(bricks, positions, 16, "gz", problems=problems)
    assert image.present.tolist() == [True, False, False]
    assert [p.row for p in problems.found] == [1, 2]


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([[10.0, np.nan]], r"position 0 is \(10.0, nan\); expected finite degrees"),
        ([[10.0, 91.0]], "declination between -90 and 90"),
        ([10.0, 0.0], r"of shape \(object, 2\).*found shape \(2,\)"),
    ],
)
def test_positions_without_sense_are_refused(tmp_path, positions, message):
    brick(tmp_path, "0100p000", 10.0, 0.0)
    with pytest.raises(ValueError, match=message):
        cut_out(Bricks(tmp_path), positions, 16, "gz")


def test_missing_bands_are_an_error_or_masked(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0, bands="gr")
    bricks = Bricks(tmp_path)
    message = r"brick 0100p000 of .* has no image in i, z; it has g, r. Ask for these bands only"
    with pytest.raises(ValueError, match=message):
        cut_out(bricks, [[10.0, 0.0]], 16)
    image = cut_out(bricks, [[10.0, 0.0]], 16, missing_bands="mask")
    assert image.bands == ("g", "r", "i", "z")
    assert image.mask.any(axis=(2, 3)).tolist() == [[True, True, False, False]]


def test_images_of_one_brick_must_agree(tmp_path):
    paths = brick(tmp_path, "0100p000", 10.0, 0.0)
    save(paths["invvar", "z"], np.ones((SIDE, SIDE - 1), np.float32), header(10.0, 0.0))
    with pytest.raises(ValueError, match=r"-image-z.*shape \(120, 120\), but its noise \(120, 119"):
        cut_out(Bricks(tmp_path), [[10.0, 0.0]], 16, "gz")
    for plane in ("image", "invvar"):
        save(paths[plane, "z"], np.ones((SIDE, SIDE - 1), np.float32), header(10.0, 0.0))
    with pytest.raises(ValueError, match="the bands of a brick must agree"):
        cut_out(Bricks(tmp_path), [[10.0, 0.0]], 16, "gz")
    for plane in ("image", "invvar"):
        save(paths[plane, "z"], np.ones((SIDE, SIDE), np.float32), header(10.001, 0.0))
    with pytest.raises(ValueError, match=r"-image-z.fits lies 13.7 pixels off"):
        cut_out(Bricks(tmp_path), [[10.0, 0.0]], 16, "gz")


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ({"CRPIX1": "none"}, "need finite numbers in CRPIX1"),
        ({"CD1_1": 0.0}, "degenerate|cannot be used"),
        ({"CD1_1": -2 * SCALE, "CD2_2": 2 * SCALE}, "pixels of 0.524 arcsec; those of legacysur"),
        ({"CTYPE1": "PIXEL"}, r"no world coordinates; found CTYPE \('PIXEL', 'DEC--TAN'\)"),
        ({"EQUINOX": 1950.0}, "equinox 1950.0; expected ICRS or FK5 of J2000"),
    ],
)
def test_world_coordinates_that_cannot_be_used(tmp_path, cards, message):
    brick(tmp_path, "0100p000", 10.0, 0.0, **cards)
    with pytest.raises(ValueError, match=message):
        cut_out(Bricks(tmp_path), [[10.0, 0.0]], 16, "gz")


def test_world_coordinates_that_are_nan(tmp_path):
    path = brick(tmp_path, "0100p000", 10.0, 0.0)["image", "g"]
    raw = path.read_bytes()
    # FITS knows no NaN, and astropy writes none; somebody's script did.
    card = b"CRVAL1  =                 10.0"
    assert card in raw
    path.write_bytes(raw.replace(card, b"CRVAL1  =                  NaN"))
    with pytest.raises(ValueError, match=r"image-g.*need finite numbers in CRVAL1"):
        cut_out(Bricks(tmp_path), [[10.0, 0.0]], 16, "gz")


def test_width_of_the_psf_from_maps_and_from_the_catalogue(tmp_path):
    paths = brick(tmp_path, "0100p000", 10.0, 0.0)
    widths = np.full((SIDE, SIDE), 1.5, np.float32)
    widths[:, 60:] = 1.25
    name = str(paths["image", "g"]).replace("image", "psfsize")
    save(paths["image", "g"].with_name(name.rpartition("/")[2]), widths, header(10.0, 0.0))
    bricks = Bricks(tmp_path)
    positions = sky_of(np.array([30.0, 90.0]), np.array([60.0, 60.0]))
    assert cut_out(bricks, positions, 8, "gz").psf_fwhm_arcsec.tolist() == [[1.5, 0], [1.25, 0]]
    known = np.array([[0, 1.1], [1.0, np.nan]])
    found = cut_out(bricks, positions, 8, "gz", psf_fwhm_arcsec=known).psf_fwhm_arcsec
    np.testing.assert_allclose(found, [[1.5, 1.1], [1.0, 0]])


class Counted(Bricks):
    """Count how often the files of a brick are opened."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.opened = []
        for i, one in enumerate(self._bricks):
            object.__setattr__(one, "open", self.counting(i, one.open))

    def counting(self, number, open_):
        def opening(bands, wanted):
            self.opened += [(number, band) for band in bands]
            return open_(bands, wanted)

        return opening


def test_a_compressed_brick_is_decoded_once(tmp_path):
    for i in range(2):
        brick(tmp_path, f"010{i}p000", 10.0 + 0.1 * i, 0.0, ending=".fits.fz")
    positions = np.concatenate([sky_of(X, Y), sky_of(X, Y, ra=10.1)])
    order = np.random.default_rng(0).permutation(len(positions))
    bricks = Counted(tmp_path, trusted=True)
    cut_out(bricks, positions[order], 16, "gz")
    cut_out(bricks, positions[order], 16, "gz")
    assert sorted(bricks.opened) == [(0, "g"), (0, "z"), (1, "g"), (1, "z")]


def test_memory_for_decoded_bricks_is_bounded(tmp_path):
    for i in range(3):
        brick(tmp_path, f"010{i}p000", 10.0 + 0.1 * i, 0.0, ending=".fits.fz")
    one_band = SIDE * SIDE * 8
    centres = np.array([[10.0, 0], [10.1, 0], [10.2, 0]])
    bricks = Counted(tmp_path, trusted=True, cache_bytes=5 * one_band)
    a = cut_out(bricks, centres, 16, "gz")
    assert bricks._coadds.total <= 5 * one_band
    assert len(bricks.opened) == 6
    cut_out(bricks, centres[2:], 16, "gz")  # still there
    assert len(bricks.opened) == 6
    cut_out(bricks, centres[:1], 16, "g")  # gave way
    assert len(bricks.opened) == 7
    tight = Counted(tmp_path, trusted=True, cache_bytes=0)
    b = cut_out(tight, centres, 16, "gz")
    assert tight._coadds.total == one_band  # that of the last band
    np.testing.assert_array_equal(a.flux, b.flux)


def test_plain_bricks_are_mapped_and_take_no_memory(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0)
    bricks = Bricks(tmp_path)
    cut_out(bricks, [[10.0, 0.0]], 16, "gz")
    assert bricks._coadds.total == 0


def test_without_noise_pixels_of_zero_hold_no_data(tmp_path):
    paths = brick(tmp_path, "0100p000", 10.0, 0.0)
    with_noise = cut_out(Bricks(tmp_path), sky_of(X, Y), 16, "gz")
    for band in "gz":
        paths["invvar", band].unlink()
    image = cut_out(Bricks(tmp_path, ivar=False), sky_of(X, Y), 16, "gz")
    np.testing.assert_array_equal(image.flux, with_noise.flux)
    np.testing.assert_array_equal(image.mask, with_noise.mask)
    assert not image.ivar.any()
    with pytest.raises(ValueError, match=r"has no legacysurvey-0100p000-invvar-g beside it"):
        cut_out(Bricks(tmp_path), sky_of(X, Y), 16, "gz")


def test_buffers_are_written_altogether(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0)
    bricks = Bricks(tmp_path)
    expected = cut_out(bricks, sky_of(X, Y), 16, "gz")
    flux, ivar = (np.full((len(X), 2, 16, 16), np.nan, np.float32) for _ in range(2))
    mask = np.ones(flux.shape, bool)
    for _ in range(2):
        psf, offsets = cut_into(bricks, 0, (X, Y), (flux, ivar, mask), "gz")
        np.testing.assert_array_equal(flux, expected.flux)
        np.testing.assert_array_equal(ivar, expected.ivar)
        np.testing.assert_array_equal(mask, expected.mask)
    assert psf.shape == (len(X), 2)
    np.testing.assert_allclose(offsets, expected.offset_pixels, atol=1e-4)
    with pytest.raises(ValueError, match=r"one shape \(object, 3, size, size\)"):
        cut_into(bricks, 0, (X, Y), (flux, ivar, mask), "grz")
    with pytest.raises(ValueError, match="ivar may be None for bricks without"):
        cut_into(bricks, 0, (X, Y), (flux, None, mask), "gz")


def test_a_damaged_brick_is_one_problem(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0)
    bad = brick(tmp_path, "0101p000", 10.1, 0.0)["invvar", "z"]
    bad.write_bytes(bad.read_bytes()[:-3000])
    positions = np.array([[10.1, 0.0], [10.0, 0.0], [10.1, 0.001]])
    with pytest.raises(ValueError, match=r"0101p000-invvar-z.fits, HDU 0: truncated"):
        cut_out(Bricks(tmp_path), positions, 16, "gz")
    problems = Problems("quarantine")
    image = cut_out(Bricks(tmp_path), positions, 16, "gz", problems=problems)
    assert image.present.tolist() == [False, True, False]
    assert not image.flux[[0, 2]].any()
    assert [p.row for p in problems.found] == [None]


def test_a_brick_with_a_damaged_header_does_not_stop_the_others(tmp_path):
    brick(tmp_path, "0100p000", 10.0, 0.0)
    bad = brick(tmp_path, "0101p000", 10.1, 0.0)["image", "g"]
    bad.write_bytes(bad.read_bytes()[:-3000])
    brick(tmp_path, "piece", 10.2, 0.0)["image", "g"].write_bytes(b"nothing")
    bricks = Bricks(tmp_path)
    assert len(cut_out(bricks, [[10.0, 0.0]], 16, "gz")) == 1
    problems = Problems("quarantine")
    image = cut_out(bricks, [[10.1, 0.0], [10.0, 0.0]], 16, "gz", problems=problems)
    assert image.present.tolist() == [False, True]
    assert set(bricks.unreadable) == {"0101p000", "piece"}
    assert "none of the 3 bricks, but piece and 1 more cannot be read" in problems.found[0].reason


def test_unknown_survey(tmp_path):
    with pytest.raises(ValueError, match="no images of survey 'sdss'; known are legacysurvey, hsc"):
        Bricks(tmp_path, survey="sdss")


def catalog(path, positions, **changed):
    count = len(positions)
    columns = {
        "release": np.full(count, 9010, np.int16),
        "brickid": np.full(count, 7, np.int32),
        "objid": np.arange(count, dtype=np.int32),
        "ra": positions[:, 0],
        "dec": positions[:, 1],
        "flux_g": np.full(count, 10, np.float32),
        "flux_ivar_g": np.full(count, 4, np.float32),
        "psfsize_g": np.full(count, 1.25, np.float32),
    }
    Table(columns | changed).write(path, overwrite=True)
    return path


@pytest.fixture
def two_bricks(tmp_path):
    """Write two bricks and a catalogue of both in random order; return folder and catalogue."""
    folder = tmp_path / "coadd"
    for i in range(2):
        brick(folder, f"010{i}p000", 10.0 + 0.1 * i, 0.0, seed=i)
    positions = np.concatenate([sky_of(X, Y), sky_of(X, Y, ra=10.1)])
    positions = positions[np.random.default_rng(1).permutation(len(positions))]
    return folder, catalog(tmp_path / "tractor.fits", positions)


def test_catalogue_and_images_are_joined_brick_by_brick(two_bricks):
    folder, table = two_bricks
    bricks = Counted(folder)
    seen, order = [], []
    for objects in read(table, images=bricks, size=16, bands="gz", batch_size=4):
        numbers = bricks.locate(objects.ra_deg, objects.dec_deg)
        assert len(set(numbers)) == 1
        assert len(objects) <= 4
        order += set(numbers)
        image = objects.observations["legacysurvey_image"]
        alone = cut_out(bricks, np.stack([objects.ra_deg, objects.dec_deg], 1), 16, "gz")
        np.testing.assert_array_equal(image.flux, alone.flux)
        np.testing.assert_allclose(image.psf_fwhm_arcsec[:, 0], 1.25)
        assert objects.observations["legacysurvey_flux_g"].value.tolist() == [10] * len(objects)
        seen += (objects.object_id & 0xFFFF).tolist()
    assert sorted(seen) == list(range(20))
    assert order == sorted(order)
    assert len(bricks.opened) == len(set(bricks.opened)) == 4


def test_objects_without_image_are_a_problem_or_kept(two_bricks, tmp_path):
    folder, _ = two_bricks
    table = catalog(tmp_path / "t.fits", np.array([[10.0, 0.0], [50.0, 50.0], [10.1, 0.0]]))
    options = {"images": folder, "size": 16, "bands": "gz"}
    with pytest.raises(
        ValueError, match=r"object \d+\): position \(50.000000, 50.000000\) lies in"
    ):
        list(read(table, **options))
    problems = Problems("quarantine")
    assert sum(map(len, read(table, **options, problems=problems))) == 2
    assert [int(p.object_id) & 0xFFFF for p in problems.found] == [1]
    kept = list(read(table, **options, without_image="keep"))
    assert sum(map(len, kept)) == 3
    assert not kept[0].observations["legacysurvey_image"].present.any()


def test_objects_of_a_damaged_brick_are_left_out_or_kept(two_bricks):
    folder, table = two_bricks
    bad = next(folder.rglob("*0101p000-image-z.fits"))
    bad.write_bytes(bad.read_bytes()[:-3000])
    problems = Problems("quarantine")
    options = {"images": folder, "size": 16, "bands": "gz", "batch_size": 4}
    found = list(read(table, **options, problems=problems))
    assert sum(map(len, found)) == 10
    assert len(problems.found) == 1
    problems = Problems("quarantine")
    found = list(read(table, **options, problems=problems, without_image="keep"))
    assert sum(map(len, found)) == 20
    assert sum(o.observations["legacysurvey_image"].present.sum() for o in found) == 10


def test_selection_and_folder_are_passed_on(two_bricks):
    folder, table = two_bricks
    some = read(table, images=folder, size=8, bands="g", selection=lambda c: c["OBJID"] < 5)
    assert sum(map(len, some)) == 5


def test_patches_of_hsc(tmp_path):
    head = header(150.0, 2.0, bounds=False)
    head.update({"CD1_1": -0.168 / 3600, "CD2_2": 0.168 / 3600})
    for band in "GRIZY":
        hdus = [fits.PrimaryHDU(header=fits.Header({"FLUXMAG0": 10 ** (0.4 * 27)}))]
        for name, value in {"IMAGE": 100.0, "MASK": 0, "VARIANCE": 4.0}.items():
            kind = np.int32 if name == "MASK" else np.float32
            part = head.copy()
            part.update({"EXTTYPE": name, "MP_BAD": 0})
            hdus.append(fits.ImageHDU(np.full((SIDE, SIDE), value, kind), part))
        fits.HDUList(hdus).writeto(tmp_path / f"calexp-HSC-{band}-9813-4,4.fits")
    bricks = Bricks(tmp_path, survey="hsc")
    image = cut_out(bricks, [[150.0, 2.0]], 16)
    assert image.bands == ("g", "r", "i", "z", "y")
    assert image.pixel_scale_arcsec == 0.168
    np.testing.assert_allclose(22.5 - 2.5 * np.log10(image.flux), 22.0, atol=1e-5)
    table = Table({"object_id": [7], "ra": [150.0], "dec": [2.0]})
    for moment, value in {"11": 0.09, "22": 0.09, "12": 0.0}.items():
        table[f"r_sdssshape_psf_shape{moment}"] = [value]
    table.write(tmp_path / "forced.fits")
    (objects,) = read(tmp_path / "forced.fits", images=bricks, size=16)
    found = objects.observations["hsc_image"]
    np.testing.assert_array_equal(found.flux, image.flux)
    assert found.psf_fwhm_arcsec[0].tolist() == pytest.approx([0, 0.3 * 2.35482, 0, 0, 0])


@pytest.mark.real_data
def test_real_brick_equals_cutout2d(real_data):
    folder = real_data / "native" / "legacysurvey"
    path = str(folder / "legacysurvey-0959p805-{}-{}.fits.fz")
    pixels = {
        (plane, band): fits.getdata(path.format(plane, band))
        for plane in ("image", "invvar")
        for band in "gz"
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wcs = WCS(fits.getheader(path.format("image", "g"), 1))
    y, x = np.nonzero(pixels["invvar", "g"])
    some = np.random.default_rng(0).integers(0, len(x), 12)
    x, y = np.append(x[some], 0) + 0.3, np.append(y[some], 3599) - 0.2
    positions = np.stack(wcs.all_pix2world(x, y, 0), axis=1)
    bricks = Bricks(folder, trusted=True)
    image = cut_out(bricks, positions, 160, "gz")
    for i in range(len(x)):
        flux, ivar, mask = by_astropy(pixels, (x[i], y[i]), 160)
        np.testing.assert_array_equal(image.mask[i], mask)
        np.testing.assert_array_equal(image.flux[i], flux)
        np.testing.assert_array_equal(image.ivar[i], ivar)
    with pytest.raises(ValueError, match="has no image in r, i; it has g, z"):
        cut_out(bricks, positions, 160)
