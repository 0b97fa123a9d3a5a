"""What the native writers write, our own readers read back."""

from __future__ import annotations

import gzip
import time
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from omnisky.data import cutout
from omnisky.data.bricks import Bricks
from omnisky.mock.native import desi, gaia, hsc, legacysurvey, sdss
from omnisky.mock.native.files import cards_of, image, primary, put, table
from omnisky.mock.native.grid import BRICKS, PATCHES
from omnisky.mock.native.mosaic import TILE, Canvas, compressed
from omnisky.mock.native.stamps import Stamps, place_in
from omnisky.surveys import desi as desi_survey
from omnisky.surveys import gaia as gaia_survey
from omnisky.surveys import sdss as sdss_survey

SEED = 7
GRIDS = {"legacysurvey": BRICKS, "hsc": PATCHES}


def assert_same(found, expected, *, but=()):
    """Assert that two sets of objects are the same, bit for bit, in any order."""
    order = [np.argsort(objects.object_id) for objects in (found, expected)]
    found, expected = (o[index] for o, index in zip((found, expected), order, strict=True))
    assert np.array_equal(found.object_id, expected.object_id)
    assert np.array_equal(found.ra_deg, expected.ra_deg)
    assert np.array_equal(found.dec_deg, expected.dec_deg)
    for name in ("epoch", "pm_ra", "pm_dec"):
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (theirs is None)
        if mine is not None:
            assert np.array_equal(mine.value, theirs.value)
            assert np.array_equal(mine.mask, theirs.mask)
    assert set(found.observations) == set(expected.observations)
    for name in set(found.observations) - set(but):
        mine, theirs = found.observations[name], expected.observations[name]
        for part in ("value", "flux", "ivar", "mask", "wavelength", "lsf_sigma"):
            if hasattr(mine, part):
                assert np.array_equal(getattr(mine, part), getattr(theirs, part)), (name, part)
    return found, expected


def one(batches):
    """Return all batches of a reader as one list of objects."""
    found = list(batches)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("number", [657438, 331689, 327368, 330248])
def test_bricks_are_those_of_the_legacy_surveys(number):
    # Names and numbers as in tractor tables of data releases 6 and 8.
    names = {657438: "0959p805", 331689: "3303p000", 327368: "3301m007", 330248: "3301m002"}
    piece = BRICKS.piece(number)
    assert piece.name == names[number]
    assert BRICKS.locate(np.array([piece.ra]), np.array([piece.dec])) == number


@pytest.mark.parametrize("grid", [BRICKS, PATCHES], ids=["bricks", "patches"])
def test_grid_agrees_with_wcs_and_covers_the_sky(grid):
    rng = np.random.default_rng(0)
    ra = rng.uniform(0, 360, 400)
    dec = np.degrees(np.arcsin(rng.uniform(-0.99, 0.99, 400)))
    numbers = grid.locate(ra, dec)
    for number in np.unique(numbers)[:60]:
        piece, here = grid.piece(number), numbers == number
        west, east, south, north = piece.bounds
        assert ((ra[here] >= west) & (ra[here] < east)).all()
        assert ((dec[here] >= south) & (dec[here] < north)).all()
        expected = WCS(piece.header()).all_world2pix(ra[here], dec[here], 0)
        pixels = piece.pixels(ra[here], dec[here])
        assert np.allclose(pixels, np.stack(expected, axis=1), atol=1e-6)
        # A stamp of 100 pixels around any object of its own lies inside.
        assert ((pixels > 50) & (pixels < grid.side - 51)).all()
    names = {grid.piece(number).name for number in np.unique(numbers)}
    assert len(names) == len(np.unique(numbers))


def test_blank_tiles_share_their_bytes(tmp_path, monkeypatch):
    canvas = Canvas(3600, {"a": 0.0, "m": 9}, {"a": "f4", "m": "i4"})
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(130, 90)).astype("f4")
    bits = rng.integers(0, 5, (130, 90)).astype("i4")
    canvas.draw((350, 1780), {"a": pixels, "m": bits}, np.zeros((130, 90), "f4"))
    header = cards_of(BRICKS.piece(331689).header())
    parts = [compressed(canvas, "a", header, 1 / 16), compressed(canvas, "m", header)]
    path = put(tmp_path / "x.fits.fz", primary(SEED), *parts)
    # gzip writes the time into its streams; here it does not tell.
    monkeypatch.setattr(time, "time", lambda: 1e9)
    again = [compressed(canvas, "a", header, 1 / 16), compressed(canvas, "m", header)]
    assert again == parts
    assert path.stat().st_size < 3 * pixels.nbytes + 100_000  # not 100 MB
    assert len(canvas.drawn) == 6
    with fits.open(path) as opened:
        assert opened[1].shape == (3600, 3600)
        assert opened[1].compression_type == "RICE_1"
        assert opened[1].tile_shape == (TILE, TILE)
        found, flags = opened[1].data, opened[2].data
    inside = (slice(1780, 1910), slice(350, 440))
    assert np.abs(found[inside] - pixels).max() <= 1 / 32 * 1.0001
    assert np.array_equal(flags[inside], bits)
    flags[inside] = 9
    found[inside] = 0
    assert (flags == 9).all()
    assert (found == 0).all()


def test_tables_and_images_are_those_of_astropy(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "a": rng.normal(size=5),
        "b": rng.normal(size=(5, 3)).astype("f4"),
        "c": np.arange(5, dtype="i8") - 2,
        "d": np.array([True, False, True, True, False]),
        "e": np.array(["x", "yy", "", "zzzz", "y"]),
        "f": np.arange(5, dtype="u1"),
        "g": np.arange(5, dtype="i2"),
        "h": np.array(["", "", "", "", ""]),
    }
    pixels = {
        "U": rng.integers(0, 2**32, (4, 7), dtype="u4"),
        "F": rng.normal(size=(2, 3, 4)).astype("f4"),
        "D": rng.normal(size=6),
    }
    parts = [image(array, name, "Angstrom") for name, array in pixels.items()]
    told = table(columns, SEED, name="T", units={"a": "deg"}, cards=cards_of({"BRICKID": 7}))
    path = put(tmp_path / "x.fits", primary(SEED, TILEID=3), told, *parts)
    with fits.open(path) as opened:
        opened.verify("exception")
        assert [hdu.name for hdu in opened] == ["PRIMARY", "T", "U", "F", "D"]
        assert opened[0].header["TILEID"] == 3
        assert opened[1].header["BRICKID"] == 7
        assert opened[1].header["MOCK"] is True
        assert opened[1].columns["a"].unit == "deg"
        for name, values in columns.items():
            assert np.array_equal(opened[1].data[name], values), name
        for name, array in pixels.items():
            assert np.array_equal(opened[name].data, array), name
            assert opened[name].header["BUNIT"] == "Angstrom"
    with pytest.raises(TypeError, match="no FITS format for columns of complex"):
        table({"z": np.zeros(2, complex)}, SEED)


def stars(survey: str, count: int = 6, size: int = 40):
    """Return columns and stamps of some objects in a row, two of which overlap."""
    rng = np.random.default_rng(1)
    scale = {"legacysurvey": 0.262, "hsc": 0.168}[survey]
    bands = {"legacysurvey": ("g", "r", "i", "z"), "hsc": ("g", "r", "i", "z", "y")}[survey]
    steps = np.array([0.0, 60, 120, 180, 205, 280])[:count] * scale / 3600
    middle = GRIDS[survey].piece(int(GRIDS[survey].locate(330.37, 0.02)))
    where = middle.ra + steps, np.full(count, middle.dec + 0.01)
    place = place_in(GRIDS[survey], where, where, size)
    shape = (count, len(bands), size, size)
    mask = rng.random(shape) > 0.02
    flux = rng.normal(0, 0.01, shape).astype("f4")
    level = rng.uniform(0.9e4, 1.1e4, (count, len(bands), 1, 1))
    stamps = Stamps(
        flux=np.where(mask, flux, np.float32(0)),
        ivar=np.where(mask, level, 0).astype("f4"),
        bad=tuple(f[~m] for f, m in zip(flux, mask, strict=True)),
        mask=mask,
        psf_fwhm_arcsec=np.full((count, len(bands)), 1.2),
        place=place,
        radius_arcsec=np.zeros(count),
        bands=bands,
        pixel_scale_arcsec=scale,
    )
    return where, stamps


def tractor(count: int, where) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    columns = legacysurvey.identify(np.arange(count) + 5, *where)
    columns |= {"TYPE": np.array(["PSF", "SER", "EXP", "DEV", "REX", "PSF"][:count])}
    columns |= {"RA": where[0], "DEC": where[1], "EBV": np.full(count, 0.03, "f4")}
    columns["SHAPE_R"] = rng.uniform(0.5, 2, count).astype("f4")
    columns["REF_CAT"] = np.array(["GE", "", "", "", "", "GE"][:count])
    columns["REF_EPOCH"] = np.where(columns["REF_CAT"] == "GE", 2016, 0).astype("f4")
    columns |= {name: rng.normal(0, 5, count).astype("f4") for name in ("PMRA", "PMDEC")}
    columns |= {f"{n}_IVAR": np.ones(count, "f4") for n in ("PMRA", "PMDEC")}
    for band in ("G", "R", "I", "Z", "W1", "W2", "W3", "W4"):
        columns[f"FLUX_{band}"] = rng.uniform(1, 9, count).astype("f4")
        columns[f"FLUX_IVAR_{band}"] = rng.uniform(1, 9, count).astype("f4")
    for band in "GRIZ":
        columns[f"PSFSIZE_{band}"] = rng.uniform(1, 1.5, count).astype("f4")
    return columns


def forced(count: int, where) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    columns = hsc.identify(np.arange(count) + 5, *where) | {"ra": where[0], "dec": where[1]}
    for band in "grizy":
        columns[f"{band}_cmodel_mag"] = rng.uniform(18, 24, count).astype("f4")
        columns[f"{band}_cmodel_magerr"] = rng.uniform(0.01, 0.1, count).astype("f4")
        columns[f"a_{band}"] = rng.uniform(0.01, 0.1, count).astype("f4")
        columns[f"{band}_extendedness_value"] = rng.integers(0, 2, count).astype("f4")
        for moment, value in (("11", 0.1), ("22", 0.11), ("12", 0.005)):
            columns[f"{band}_sdssshape_psf_shape{moment}"] = np.full(count, value, "f4")
    return columns


@pytest.mark.parametrize("survey", ["legacysurvey", "hsc"])
def test_catalogue_and_images_read_back(tmp_path, survey):
    where, stamps = stars(survey)
    module = {"legacysurvey": legacysurvey, "hsc": hsc}[survey]
    columns = (tractor if survey == "legacysurvey" else forced)(6, where)
    pieces = np.unique(stamps.place.piece)
    assert len(pieces) == 1
    paths = module.write(tmp_path, int(pieces[0]), columns, stamps, SEED)
    assert len(paths) == {"legacysurvey": 10, "hsc": 6}[survey]
    for path in paths:
        assert fits.getval(path, "MOCK", 0) is True
        assert fits.getval(path, "MOCK", 1) is True
        assert fits.getval(path, "SEED", 0) == SEED
    bricks = Bricks(tmp_path, survey=survey)
    found = one(cutout.read(paths[-1], images=bricks, size=40))
    expected = module.objects(columns, stamps)
    name = f"{survey}_image"
    found, expected = assert_same(found, expected, but=[name])
    mine, theirs = found.observations[name], expected.observations[name]
    assert mine.bands == theirs.bands
    assert np.array_equal(mine.psf_fwhm_arcsec, theirs.psf_fwhm_arcsec)
    assert np.allclose(mine.offset_pixels, theirs.offset_pixels, atol=1e-5)
    # Masked pixels are zero to readers, but files have what the detector gave.
    assert (mine.flux[~mine.mask] == 0).all()
    assert (stamps.measured(0)[~stamps.mask[0]] != 0).all()
    # The fourth and fifth overlap, the first three and the last are alone.
    alone = [0, 1, 2, 5]
    assert np.array_equal(mine.mask[alone], theirs.mask[alone])
    sigma = 1 / np.sqrt(theirs.ivar.max(axis=(1, 2, 3), keepdims=True))
    wrong = np.abs(mine.flux - theirs.flux) / sigma
    assert 0 < wrong[alone].max() <= 1 / 32 * 1.12  # in units of the deepest stamp's sky
    rough = np.abs(mine.ivar - theirs.ivar) / theirs.ivar.max()
    assert rough[alone].max() < 1e-3
    # Where they overlap, each shows its own half: 25 pixels apart, 40 wide.
    assert np.array_equal(mine.mask[3, ..., 8:33], theirs.mask[3, ..., 8:33])
    assert wrong[3, ..., 8:33].max() <= 1 / 32 * 1.12
    lost = [(wrong[i].reshape(-1, 40).max(axis=0) > 1).sum() for i in (3, 4)]
    assert sorted(lost) == [7, 8]


def arms(count: int) -> desi.Spectra:
    rng = np.random.default_rng(4)
    found = {}
    for camera, (_, pixels) in desi.CAMERAS.items():
        sharp = np.zeros((count, 11, pixels), "f4")
        sharp[:, 3:8] = np.array([0.05, 0.2, 0.5, 0.2, 0.05])[None, :, None]
        found[camera] = {
            "flux": rng.normal(3, 1, (count, pixels)).astype("f4"),
            "ivar": rng.uniform(0.5, 2, (count, pixels)).astype("f4"),
            "mask": (rng.random((count, pixels)) < 0.01).astype("u4") * 4,
            "resolution": sharp,
        }
    return desi.Spectra(arms=found)


def test_coadd_and_redrock_read_back(tmp_path):
    ra, dec = 330.3 + np.arange(5) * 0.01, np.full(5, 0.02)
    rng = np.random.default_rng(5)
    columns = {
        "TARGETID": 39627000000000000 + np.arange(5),
        "TARGET_RA": ra,
        "TARGET_DEC": dec,
        "COADD_FIBERSTATUS": np.zeros(5, "i4"),
        "OBJTYPE": np.full(5, "TGT"),
        "PMRA": np.array([0, 1, 2, 0, 3], "f4"),
        "PMDEC": np.array([0, 1, 2, 0, 3], "f4"),
        "REF_EPOCH": np.full(5, 2015.5, "f4"),
        "EBV": np.full(5, 0.02, "f4"),
        **{f"FLUX_{b}": rng.uniform(1, 9, 5).astype("f4") for b in ("G", "R", "Z", "W1", "W2")},
        **{f"FLUX_IVAR_{b}": np.ones(5, "f4") for b in ("G", "R", "Z", "W1", "W2")},
        "Z": rng.uniform(0, 1, 5),
        "ZERR": np.full(5, 1e-4),
        "ZWARN": np.array([0, 0, 4, 0, 0]),
        "SPECTYPE": np.array(["GALAXY", "STAR", "QSO", "GALAXY", "GALAXY"]),
    }
    spectra = arms(5)
    places = desi.place(ra, dec)
    assert len(np.unique(places)) == 1
    paths = desi.write(tmp_path, int(places[0]), columns, spectra, SEED)
    assert [fits.getval(path, "ORIGIN", 1) for path in paths] == ["omnisky mock"] * 2
    found = one(desi_survey.read([paths[1]], selection="all"))
    assert_same(found, desi.objects(columns, spectra))
    assert found.observations["desi_spectrum"].present.all()


def test_tiles_have_ten_petals():
    angle = np.linspace(0, 2 * np.pi, 3000, endpoint=False)
    row = np.floor(90 / 2.8)
    middle = (row + 0.5) * 2.8 - 90
    width = 2.8 / np.cos(np.radians(middle))
    places = desi.place(
        (10.5) * width + 0.4 * np.sin(angle) * width / 2.8, middle + 0.4 * np.cos(angle)
    )
    numbers, counts = np.unique(places, return_counts=True)
    assert len(np.unique(numbers // 10)) == 1
    assert np.array_equal(numbers % 10, np.arange(10))
    assert counts.min() > 290


def test_spec_files_read_back(tmp_path):
    rng = np.random.default_rng(6)
    columns = sdss.fibers(np.array([639, 640, 100_000]))
    columns["SPECOBJID"] = sdss.specobjid(*columns.values())
    columns |= {
        "PLUG_RA": np.array([10.0, 11.0, 12.0]),
        "PLUG_DEC": np.array([-1.0, 0.0, 1.0]),
        "Z": np.array([0.1, 0.0, 2.0], "f4"),
        "Z_ERR": np.array([1e-4, -1, 1e-3], "f4"),
        "ZWARNING": np.array([0, 4, 0], "i4"),
        "CLASS": np.array(["GALAXY", "STAR", "QSO"]),
        "PSFFLUX": rng.uniform(1, 9, (3, 5)).astype("f4"),
        "PSFFLUX_IVAR": np.ones((3, 5), "f4"),
        "CMODELFLUX": rng.uniform(1, 9, (3, 5)).astype("f4"),
        "CMODELFLUX_IVAR": np.array([[1, 1, 1, 1, 0]] * 3, "f4"),
    }
    # Two spectrographs: their spectra differ in length and begin.
    spectra = sdss.Spectra(
        tables=tuple(
            {
                "flux": rng.normal(3, 1, n).astype("f4"),
                "loglam": (first + 1e-4 * np.arange(n)).astype("f4"),
                "ivar": rng.uniform(0.5, 2, n).astype("f4"),
                "and_mask": (rng.random(n) < 0.01).astype("i4"),
                "or_mask": (rng.random(n) < 0.1).astype("i4"),
                "wdisp": np.full(n, 1.1, "f4"),
                "sky": np.full(n, 5, "f4"),
            }
            for n, first in ((3858, 3.5797), (3857, 3.5797), (4590, 3.5525))
        )
    )
    paths = sdss.write(tmp_path, columns, spectra, SEED)
    assert [p.name for p in paths] == [
        "spec-0266-51602-0640.fits",
        "spec-0267-51605-0001.fits",
        "spec-0422-52070-0161.fits",
    ]
    # The worked example of the SDSS documentation: plate 2680, MJD 54141, fibre 1 and so on share
    # this layout; here it is taken apart again.
    plate, fiber = int(columns["SPECOBJID"][2]) >> 50, int(columns["SPECOBJID"][2]) >> 38 & 0xFFF
    assert (plate, fiber) == (422, 161)
    assert_same(one(sdss_survey.read(paths)), sdss.objects(columns, spectra))
    assert fits.getval(paths[0], "MOCK", 2) is True


@pytest.mark.parametrize("with_xp", [True, False])
def test_gaia_tables_read_back(tmp_path, with_xp):
    rng = np.random.default_rng(8)
    columns = {
        "source_id": 2686 * 2**35 + np.arange(5),
        "ra": 330.3 + rng.random(5),
        "dec": rng.random(5),
        "ref_epoch": np.full(5, 2016.0),
        "parallax": np.array([1.0, -0.1, np.nan, 3.0, 1e-3]),
        "parallax_error": np.array([0.1, 0.1, np.nan, 0.1, 0.1]),
        "pmra": np.array([1.0, -0.1, np.nan, 3.0, 1e-3]),
        "pmdec": np.array([1.0, -0.1, np.nan, 3.0, 1e-3]),
        **{f"phot_{b}_mean_mag": rng.uniform(12, 20, 5) for b in ("g", "bp", "rp")},
        **{f"phot_{b}_mean_flux_over_error": rng.uniform(9, 99, 5) for b in ("g", "bp", "rp")},
    }
    present = np.array([1, 0, 1, 1, 0], bool) & with_xp
    count = int(present.sum())
    pairs = rng.uniform(-0.1, 0.1, (count, 2, 1485))
    results = [
        SimpleNamespace(
            bp=SimpleNamespace(correlations=bp, facts={"n_measurements": 40}),
            rp=SimpleNamespace(correlations=rp, facts={"n_measurements": 41}),
        )
        for bp, rp in pairs
    ]
    spectra = gaia.XpRows(
        present=present,
        values=rng.normal(0, 100, (count, 2, 55)),
        errors=rng.uniform(1, 2, (count, 2, 55)),
        results=tuple(results),
    )
    paths = gaia.write(tmp_path, 3, columns, spectra, SEED)
    beside = [paths[0]] if with_xp else None
    found = one(gaia_survey.read([paths[-1]], coefficients=beside, selection="all"))
    assert_same(found, gaia.objects(columns, spectra))
    assert "MOCK: true" in gzip.decompress(paths[-1].read_bytes()).decode()
    if with_xp:
        (rows,) = gaia_survey.coefficients.read_coefficients(paths[0])
        assert np.allclose(rows.correlations, pairs, rtol=1e-5)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    import resource

    there = put(tmp_path / "a", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            put(there, b"new" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert there.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
