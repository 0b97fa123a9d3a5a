"""Files of the Multimodal Universe, made in its layouts, with the traps that are in them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.nddata import Cutout2D

from omnisky.surveys import Problems, mmu
from omnisky.surveys.sdss import SDSS

h5py = pytest.importorskip("h5py", reason="needs omnisky[data]")

COUNT = 6
RNG = np.random.default_rng(0)
RA = RNG.uniform(0, 360, COUNT)
DEC = RNG.uniform(-80, 80, COUNT)


def images(bands, size=8):
    """Return image columns in version 1: one mask for all bands where there is one."""
    shape = (COUNT, len(bands), size, size)
    return {
        "image_array": RNG.normal(size=shape).astype(np.float32),
        "image_ivar": RNG.uniform(1, 2, shape).astype(np.float32),
        "image_mask": RNG.random(shape) > 0.1,
        "image_band": np.tile(np.array(bands, "S5"), (COUNT, 1)),
        "image_psf_fwhm": np.full(shape[:2], 1.1, np.float32),
    }


def legacysurvey():
    found = images(["des-g", "des-r", "des-i", "des-z"])
    found["image_mask"] = found["image_mask"][:, 0]  # one plane for all bands
    found["image_scale"] = np.full((COUNT, 4), 0.262, np.float32)
    fluxes = {f"FLUX_{b}": RNG.uniform(1, 9, COUNT) for b in ("G", "R", "I", "Z", "W1")}
    ids = np.array([f"0001m002-{i}" for i in range(COUNT)], "S20")
    types = np.array(["REX", "DEV", "EXP", "SER", "REX", "EXP"], "S3")
    return found | fluxes | {"EBV": np.full(COUNT, 0.05), "TYPE": types, "object_id": ids}


def hsc():
    found = images([f"hsc-{b}" for b in "grizy"])
    found["image_scale"] = np.full((COUNT, 5), 0.168, np.float32)
    found["image_ivar"][0, 0, 0, 0] = np.finfo(np.float32).max  # nan_to_num(1 / 0)
    found["image_mask"][0, 0, 0, 0] = True
    for b in "grizy":
        found[f"{b}_cmodel_mag"], found[f"{b}_cmodel_magerr"] = (
            np.full(COUNT, 21.0),
            np.full(COUNT, 0.1),
        )
        found[f"{b}_sdssshape_psf_shape11"] = np.full(COUNT, 0.09)
        found[f"{b}_sdssshape_psf_shape22"] = np.full(COUNT, 0.09)
        found[f"{b}_sdssshape_psf_shape12"] = np.zeros(COUNT)
    return found | {"object_id": np.arange(COUNT) + 42_000_000_000_000_000}


def sdss():
    """Return spectra that start on different pixels and are padded to one length."""
    grid = 10 * 10 ** (2.54 + 1e-4 * np.arange(4801))
    columns = {
        "spectrum_flux": np.zeros((COUNT, 50), np.float32),
        "spectrum_ivar": np.zeros((COUNT, 50), np.float32),
        "spectrum_lsf_sigma": np.zeros((COUNT, 50), np.float32),
        "spectrum_lambda": np.full((COUNT, 50), -1, np.float32),
        "spectrum_mask": np.ones((COUNT, 50), bool),
    }
    for row in range(COUNT):
        length = 40 + row
        columns["spectrum_lambda"][row, :length] = grid[100 * row : 100 * row + length]
        columns["spectrum_flux"][row, :length] = 1 + np.arange(length)
        columns["spectrum_ivar"][row, :length] = 4
        columns["spectrum_lsf_sigma"][row, :length] = 2  # pixels
        columns["spectrum_mask"][row, :length] = False
        columns["spectrum_mask"][row, 3] = True  # bad
    ids = np.array([f"   257502523320751{i:04d}" for i in range(COUNT)], "S22")
    z = np.linspace(0.1, 0.6, COUNT)
    flags = np.array([0, 4, 0, 0, 0, 128])
    return columns | {"object_id": ids, "Z": z, "Z_ERR": np.full(COUNT, 1e-4), "ZWARNING": flags}


def desi():
    shape = (COUNT, 7781)
    return {
        "spectrum_flux": RNG.normal(size=shape).astype(np.float32),
        "spectrum_ivar": np.ones(shape, np.float32),
        "spectrum_lsf_sigma": np.full(shape, 1.5, np.float32),
        "spectrum_lambda": np.tile((3600 + 0.8 * np.arange(7781)).astype(np.float32), (COUNT, 1)),
        "spectrum_mask": RNG.random(shape) < 0.05,
        "object_id": 39627000000000000 + np.arange(COUNT),
        "Z": np.linspace(0.1, 0.6, COUNT),
        "ZERR": np.full(COUNT, 1e-4),
        "ZWARN": np.array([0, 4, 0, 0, 0, 0]),
        "EBV": np.full(COUNT, 0.03),
        "FLUX_G": np.full(COUNT, 2.0),
        "FLUX_IVAR_G": np.array([9.0, 0, 9, 9, 9, 9]),
    }


def gaia():
    coefficients = RNG.normal(size=(COUNT, 110))
    errors = np.full((COUNT, 110), 0.5)
    coefficients[1, :55] = errors[1, :55] = np.nan  # no BP
    return {
        "coeff": coefficients,
        "coeff_error": errors,
        "object_id": 5853498713190525696 + np.arange(COUNT),
        "parallax": np.full(COUNT, 5.0),
        "parallax_error": np.full(COUNT, 0.1),
        "pmra": np.full(COUNT, -3.0),
        "pmdec": np.full(COUNT, 4.0),
        "phot_g_mean_mag": np.full(COUNT, 14.0),
        "phot_g_mean_flux_over_error": np.full(COUNT, 500.0),
    }


MAKERS = {f.__name__: f for f in (legacysurvey, hsc, sdss, desi, gaia)}


def write_v1(path, columns, ra=RA, dec=DEC):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in {**columns, "ra": ra, "dec": dec, "healpix": np.zeros(COUNT)}.items():
            file.create_dataset(name, data=values)
    return path


def nested(values):
    """Return an array as lists of lists."""
    return pa.array(values.tolist(), lists_of(pa.from_numpy_dtype(values.dtype), values.ndim - 1))


def lists_of(kind, depth):
    for _ in range(depth):
        kind = pa.list_(kind)
    return kind


def write_v15(path, columns, ra=RA, dec=DEC):
    """Write what version 1 has as version 1.5 has it."""
    columns = dict(columns)
    arrays = {}
    if "image_array" in columns:
        mask = columns["image_mask"]
        if mask.ndim == 3:
            columns["image_mask"] = np.repeat(mask[:, None], columns["image_array"].shape[1], 1)
        columns["image_band"] = columns["image_band"].astype(str)
        columns["image_flux"] = columns.pop("image_array")
    for stem in ("image", "spectrum"):
        parts = {n: columns.pop(n) for n in list(columns) if n.startswith(f"{stem}_")}
        if parts:
            fields = {n.removeprefix(f"{stem}_"): v for n, v in parts.items()}
            lists = [
                pa.array(v.tolist()) if v.dtype.kind == "U" else nested(v) for v in fields.values()
            ]
            arrays[stem] = pa.StructArray.from_arrays(lists, list(fields))
    if "coeff" in columns:
        parts = {n: columns.pop(n) for n in ("coeff", "coeff_error")}
        lists = [nested(v.astype(np.float32)) for v in parts.values()]
        arrays["spectral_coefficients"] = pa.StructArray.from_arrays(lists, list(parts))
        for struct, stem in (("photometry", "phot"), ("astrometry", ("p", "ref"))):
            names = [n for n in columns if n.startswith(stem)]
            values = [pa.array(columns.pop(n)) for n in names]
            arrays[struct] = pa.StructArray.from_arrays(values, names)
    if "ZWARN" in columns:
        columns["ZWARN"] = columns["ZWARN"] == 0  # True: no problem
    if "ZWARNING" in columns:
        columns["ZWARNING"] = columns["ZWARNING"] != 0  # True: a problem
    ids = columns.pop("object_id")
    arrays["object_id"] = pa.array([str(i) for i in ids.tolist()])  # "b'...'" of bytes
    arrays |= {n: pa.array(v.astype(str) if v.dtype.kind == "S" else v) for n, v in columns.items()}
    arrays |= {"ra": pa.array(ra), "dec": pa.array(dec), "_healpix_29": pa.array(range(COUNT))}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path)
    return path


WRITERS = {"v1": (write_v1, "001-of-001.hdf5"), "v1.5": (write_v15, "Npix=0.parquet")}


@pytest.fixture(params=list(WRITERS))
def write(request, tmp_path):
    """Return a function that writes a data set in one of the two layouts."""
    writer, name = WRITERS[request.param]
    return lambda columns, **more: writer(tmp_path / name, columns, **more)


@pytest.mark.parametrize("name", list(MAKERS))
def test_both_layouts_give_the_same_objects(tmp_path, name):
    columns = MAKERS[name]()
    one, two = (
        list(mmu.read(writer(tmp_path / file, columns), batch_size=4))
        for writer, file in WRITERS.values()
    )
    assert [len(batch) for batch in one] == [4, 2]
    for mine, theirs in zip(one, two, strict=True):
        assert mine.survey == theirs.survey == name
        assert mine.object_id.tolist() == theirs.object_id.tolist()
        assert (mine.ra_deg == theirs.ra_deg).all()
        for modality, measured in mine.observations.items():
            if modality.endswith(("zwarn", "zwarning")):
                continue
            for part in ("flux", "value", "ivar", "mask", "lsf_sigma"):
                if hasattr(measured, part):
                    found = getattr(theirs.observations[modality], part)
                    np.testing.assert_allclose(found, getattr(measured, part), rtol=1e-6)


def test_offset_of_images_is_the_middle_of_where_their_recipe_puts_objects(write):
    # The recipe: positions from 1, given to Cutout2D, which counts from 0.
    x = np.linspace(200.0, 203.0, 31)
    corners = [Cutout2D(np.zeros((400, 400)), (p + 1, p + 1), 160).xmin_original for p in x]
    offsets = x - corners - (160 - 1) / 2
    (objects,) = mmu.read(write(legacysurvey()))
    given = float(objects.observations["legacysurvey_image"].offset_pixels[0, 0])
    assert np.abs(offsets - given).max() <= 0.5 + 1e-9


def test_legacysurvey_masks_are_good_where_true_and_one_for_all_bands(write):
    columns = legacysurvey()
    (objects,) = mmu.read(write(columns))
    image = objects.observations["legacysurvey_image"]
    assert image.bands == ("g", "r", "i", "z")
    assert (image.mask == columns["image_mask"][:, None]).all()
    np.testing.assert_array_equal(image.flux[image.mask], columns["image_array"][image.mask])
    assert (image.offset_pixels == -1.0).all()
    assert objects.object_id[0] == "0001m002-0"
    assert objects.observations["legacysurvey_type"].value.tolist() == [2, 4, 3, 5, 2, 3]
    assert not objects.observations["legacysurvey_shape_r"].mask.any()


def test_hsc_counts_become_nanomaggies_and_no_variance_is_no_measurement(write):
    columns = hsc()
    (objects,) = mmu.read(write(columns))
    image = objects.observations["hsc_image"]
    factor = 10 ** (-0.4 * (27 - 22.5))
    good = image.mask
    np.testing.assert_allclose(image.flux[good], columns["image_array"][good] * factor, rtol=1e-6)
    np.testing.assert_allclose(image.ivar[good], columns["image_ivar"][good] / factor**2, rtol=1e-6)
    assert not good[0, 0, 0, 0]
    assert objects.object_id.dtype == np.int64
    sigma = objects.observations["hsc_psfsize_i"].value
    np.testing.assert_allclose(sigma, 2.3548 * 0.3, rtol=1e-4)


def test_sdss_masks_are_bad_where_true_and_padding_goes(write):
    (objects,) = mmu.read(write(sdss()))
    spectrum = objects.observations["sdss_spectrum"]
    assert spectrum.flux.shape == (COUNT, 4801)
    for row in range(COUNT):
        part = slice(100 * row, 100 * row + 40 + row)
        expected = 1.0 + np.arange(40 + row)
        expected[3] = 0  # bad
        np.testing.assert_array_equal(spectrum.flux[row, part], expected)
        assert spectrum.mask[row].sum() == 39 + row
        assert not spectrum.mask[row, 100 * row + 3]
    known = spectrum.lsf_sigma > 0
    width = 2 * 1e-4 * np.log(10) * spectrum.wavelength  # of two pixels, in nm
    np.testing.assert_allclose(
        spectrum.lsf_sigma[known], np.broadcast_to(width, known.shape)[known], rtol=1e-5
    )
    assert objects.object_id[0] == "2575025233207510000"
    assert objects.observations["sdss_z"].ivar[0] == pytest.approx(1e8)
    assert spectrum.wavelength.tolist() == SDSS.modalities[0].wavelength.tolist()


def test_desi_is_on_its_grid(write):
    columns = desi()
    (objects,) = mmu.read(write(columns))
    spectrum = objects.observations["desi_spectrum"]
    assert (spectrum.mask == ~columns["spectrum_mask"]).all()
    np.testing.assert_allclose(spectrum.lsf_sigma, 1.5 * 0.08, rtol=1e-6)
    assert spectrum.wavelength[0] == pytest.approx(360.0)
    assert objects.object_id.tolist() == columns["object_id"].tolist()
    assert objects.observations["desi_flux_g"].mask.tolist() == [True, False, *[True] * 4]


def test_warning_flags_of_either_polarity(tmp_path):
    for name, maker, flags in (("sdss", sdss, [0, 4, 128]), ("desi", desi, [0, 4])):
        modality = "sdss_zwarning" if name == "sdss" else "desi_zwarn"
        (numbers,) = mmu.read(write_v1(tmp_path / name / "a.hdf5", maker()))
        (bools,) = mmu.read(write_v15(tmp_path / name / "Npix=0.parquet", maker()))
        found = numbers.observations[modality]
        assert sorted(set(found.value.tolist())) == flags
        # A bool says only that there is no warning; which there are is not known.
        good = bools.observations[modality]
        assert (good.mask == (found.value == 0)).all()
        assert not good.value.any()


def test_gaia_without_bp(write):
    (objects,) = mmu.read(write(gaia()))
    found = objects.observations["gaia_xp_coefficients"]
    assert not found.mask[1, :55].any()
    assert found.mask[1, 55:].all()
    np.testing.assert_allclose(found.ivar[0], 4.0)
    assert (objects.epoch.value == 2016.0).all()
    assert (objects.pm_ra.value == -3.0).all()
    assert objects.observations["gaia_parallax"].ivar[0] == pytest.approx(100)
    assert objects.observations["gaia_g"].value[0] == 14


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_positions_of_float32_precision_are_said(write, monkeypatch, kind):
    monkeypatch.setitem(globals(), "COUNT", 12)
    ra = np.random.default_rng(1).uniform(256, 360, 12).astype(np.float32).astype(kind)
    with pytest.warns(UserWarning, match=r"precision of float32 and are up to 0\.05 arcsec"):
        (objects,) = mmu.read(write(gaia(), ra=ra, dec=np.linspace(-1, 1, 12)))
    assert objects.ra_deg.dtype == np.float64


def test_bad_rows_are_raised_or_reported(write):
    columns = desi()
    columns["object_id"][4] = columns["object_id"][0]
    dec = DEC.copy()
    dec[2] = np.nan
    path = write(columns, dec=dec)
    with pytest.raises(ValueError, match=r"not on the sphere|was there before"):
        list(mmu.read(path, batch_size=2))
    problems = Problems("quarantine")
    found = list(mmu.read(path, batch_size=2, problems=problems))
    assert sum(map(len, found)) == 4
    assert sorted(p.row for p in problems.found) == [2, 4]


def test_a_selection_of_the_columns(write):
    found = list(mmu.read(write(desi()), selection=lambda columns: columns["Z"] > 0.35))
    assert sum(map(len, found)) == 3


OTHER_BANDS = np.tile(np.array(["a", "b", "c", "d"], "S5"), (COUNT, 1))
OTHER_GRID = np.tile(3600 + 0.7 * np.arange(7781), (COUNT, 1))
NAMES = np.array(["a", "b", "c", "d", "e", "f"], "S1")


@pytest.mark.parametrize(
    ("maker", "change", "message"),
    [
        (legacysurvey, {"image_band": OTHER_BANDS}, "have the bands"),
        (legacysurvey, {"image_scale": np.full((COUNT, 4), 0.5)}, "arcsec wide"),
        (desi, {"spectrum_lambda": OTHER_GRID}, "is not on the grid"),
        (gaia, {"coeff": np.zeros((COUNT, 100))}, "110 coefficients"),
        (desi, {"object_id": NAMES}, "whole numbers"),
    ],
)
def test_other_data_are_refused(write, maker, change, message):
    columns = maker() | change
    with pytest.raises(ValueError, match=message):
        list(mmu.read(write(columns)))


def test_damaged_and_unknown_files(tmp_path, write):
    path = write(desi())
    with pytest.raises(ValueError, match=r"lacks image\.band, image\.flux"):
        list(mmu.read(path, dataset="hsc"))
    with pytest.raises(ValueError, match="no data set 'plasticc'"):
        list(mmu.read(path, dataset="plasticc"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="fetch it again"):
        list(mmu.read(path))
    problems = Problems("quarantine")
    assert list(mmu.read(path, problems=problems)) == []
    assert [p.row for p in problems.found] == [None]
    other = write({"lightcurve": np.zeros(COUNT), "object_id": np.arange(COUNT)})
    with pytest.raises(ValueError, match="of no data set that omnisky reads"):
        list(mmu.read(other))


def test_columns_of_different_lengths(tmp_path):
    columns = desi() | {"Z": np.zeros(COUNT - 1)}
    with pytest.raises(ValueError, match="one entry an object"):
        list(mmu.read(write_v1(tmp_path / "a.h5", columns)))


def test_files_are_found_without_margins(tmp_path):
    write_v1(tmp_path / "one" / "edr" / "healpix=3" / "001-of-001.hdf5", desi())
    assert len(mmu.find(tmp_path / "one")) == 1
    root = tmp_path / "two"
    for catalogue in ("mmu_desi", "mmu_desi_10arcs"):
        write_v15(root / catalogue / "dataset" / "Norder=0" / "Dir=0" / "Npix=4.parquet", desi())
    (root / "collection.properties").write_text("#x\nhats_primary_table_url=mmu_desi\n")
    (found,) = mmu.find(root)
    assert "10arcs" not in str(found)
    with pytest.raises(FileNotFoundError, match="holds no data of the Multimodal Universe"):
        mmu.find(tmp_path / "one" / "edr" / "healpix=3")


@pytest.mark.parametrize("name", list(MAKERS))
def test_data_sets_are_packed(tmp_path, name):
    pytest.importorskip("cdshealpix", reason="needs omnisky[data]")
    from omnisky.data.store import open_store, pack

    root = tmp_path / "old"
    write_v15(root / "dataset" / "Norder=0" / "Dir=0" / "Npix=4.parquet", MAKERS[name]())
    codec = "raw" if name == "gaia" else "q16"
    store = open_store(pack(root, tmp_path / name, codec=codec))
    assert (store.survey, len(store)) == (name, COUNT)
    assert store.declaration(store.modalities[0]) is not None
