"""A universe is a function of seed, configuration, object and modality alone, and reads back."""

from __future__ import annotations

import hashlib
import json
import pickle
import resource
import subprocess
import sys

import numpy as np
import pytest

from omnisky.data import cutout
from omnisky.data.bricks import Bricks
from omnisky.data.match import match_coordinates
from omnisky.mock import SURVEYS, Universe, UniverseConfig
from omnisky.mock.native.writing import write
from omnisky.mock.universe import modalities_of
from omnisky.modalities import Image, Scalar, Spectrum
from omnisky.surveys import desi, gaia, modality, sdss

# All in one brick and one patch, so that little is decoded.
PATCH = {"area_deg2": 0.03, "center": (217.59375, 0.75), "hsc_fraction": 1.0}
CONFIG = UniverseConfig(seed=5, **PATCH)
N = 64
SIZE = 48
HEAVY = {
    "legacysurvey": "legacysurvey_image",
    "hsc": "hsc_image",
    "desi": "desi_spectrum",
    "sdss": "sdss_spectrum",
    "gaia": "gaia_xp_coefficients",
}
PARTS = ("value", "flux", "ivar", "mask", "lsf_sigma", "psf_fwhm_arcsec", "offset_pixels")


@pytest.fixture(scope="module")
def universe() -> Universe:
    return Universe(n=N, config=CONFIG, size=SIZE)


@pytest.fixture(scope="module")
def observed(universe):
    """Return what all surveys have of all objects."""
    return {survey: universe.observe(survey) for survey in SURVEYS}


def arrays_of(objects):
    """Yield name and array of everything that objects hold."""
    yield "object_id", objects.object_id
    yield "ra", objects.ra_deg
    yield "dec", objects.dec_deg
    for name in ("epoch", "pm_ra", "pm_dec"):
        if (scalar := getattr(objects, name)) is not None:
            yield from ((f"{name}.{p}", getattr(scalar, p)) for p in ("value", "ivar", "mask"))
    for name, measured in objects.observations.items():
        for part in PARTS:
            if getattr(measured, part, None) is not None:
                yield f"{name}.{part}", getattr(measured, part)


def assert_identical(found, expected):
    """Assert that two sets of objects are the same to the last bit, in the same order."""
    mine, theirs = dict(arrays_of(found)), dict(arrays_of(expected))
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert array.dtype == theirs[name].dtype, name
        assert array.tobytes() == theirs[name].tobytes(), name


def in_survey(universe, survey) -> np.ndarray:
    return np.flatnonzero(np.asarray(universe.truth[f"in_{survey}"]).astype(bool))


@pytest.mark.parametrize("survey", SURVEYS)
def test_batches_and_order_do_not_matter(universe, observed, survey):
    there = in_survey(universe, survey)
    assert len(observed[survey]) == len(there) > 3
    order = np.random.default_rng(0).permutation(len(there))
    for size in (1, 7):
        fresh = Universe(n=N, config=CONFIG, size=SIZE)  # holds nothing
        for start in range(0, min(len(order), 21), size):
            some = order[start : start + size]
            assert_identical(fresh.observe(survey, there[some]), observed[survey][some])


@pytest.mark.parametrize("survey", SURVEYS)
def test_modalities_do_not_depend_on_each_other(universe, observed, survey):
    names = modalities_of(survey)
    assert list(observed[survey].observations) == list(names)
    light = [name for name in names if name != HEAVY[survey]]
    for wanted in ([HEAVY[survey]], light, light[::-2]):
        found = universe.observe(survey, modalities=wanted)
        assert list(found.observations) == wanted
        for name in wanted:
            mine, theirs = found.observations[name], observed[survey].observations[name]
            for part in PARTS:
                if getattr(mine, part, None) is not None:
                    assert np.array_equal(getattr(mine, part), getattr(theirs, part))


def test_the_number_of_objects_does_not_matter(observed):
    more = Universe(n=10 * N, config=CONFIG, size=SIZE)
    there = in_survey(more[:N], "sdss")[:3]
    assert_identical(more.observe("sdss", there), observed["sdss"][:3])


DIGEST = """
import hashlib, json, sys
from omnisky.mock import SURVEYS, Universe
sys.path.insert(0, sys.argv[2])
from test_universe import CONFIG, N, SIZE, digest
universe = Universe(n=N, config=CONFIG, size=SIZE)
print(json.dumps({s: digest(universe.observe(s, json.loads(sys.argv[1])[s])) for s in SURVEYS}))
"""


def digest(objects) -> str:
    """Return the checksum of everything that objects hold."""
    total = hashlib.sha256()
    for name, array in arrays_of(objects):
        total.update(name.encode())
        total.update(array.tobytes())
    return total.hexdigest()


def test_processes_do_not_matter(universe, observed, root):
    rows = {survey: in_survey(universe, survey)[[2, 0]].tolist() for survey in SURVEYS}
    command = [sys.executable, "-c", DIGEST, json.dumps(rows), str(root / "tests" / "mock")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=280)
    assert done.returncode == 0, done.stderr
    expected = {survey: digest(observed[survey][[2, 0]]) for survey in SURVEYS}
    assert json.loads(done.stdout) == expected


def test_seeds_give_other_universes(observed):
    other = Universe(seed=6, n=N, config=CONFIG, size=SIZE)
    assert other.config.seed == 6
    assert not np.isin(
        other.observe("sdss", modalities=["sdss_z"]).ra_deg, observed["sdss"].ra_deg
    ).any()


def test_truth_says_what_it_is(universe):
    truth = universe.truth
    assert len(truth) == N
    assert truth.meta["MOCK"] is True
    assert truth.meta["ORIGIN"] == "omnisky mock"
    assert str(truth["teff"].unit) == "K"
    assert truth["log_mass"].description == "stellar mass now living"
    star = np.asarray(truth["kind"] == 1)
    assert truth["log_mass"].mask[star].all()
    assert not truth["log_mass"].mask[np.asarray(truth["kind"] == 0)].any()
    assert not truth["ra"].mask.any()


def test_everything_declared_is_observed(observed):
    for survey in SURVEYS:
        for name, measured in observed[survey].observations.items():
            declared = modality(name)
            assert measured.present.any(), name
            if declared.kind == "image":
                assert isinstance(measured, Image)
                assert measured.bands == declared.bands
                assert measured.pixel_scale_arcsec == declared.pixel_scale_arcsec
                assert measured.present.all()
                assert (np.abs(measured.offset_pixels) <= 0.5).all()
                assert (measured.psf_fwhm_arcsec > 0.3).all()
            if declared.kind == "scalar":
                assert isinstance(measured, Scalar)
            if declared.kind == "spectrum":
                assert isinstance(measured, Spectrum)
                assert np.array_equal(measured.wavelength, declared.wavelength)
                assert measured.lsf_sigma is not None


def test_unchecked_images_pass_the_checks(observed):
    # Beside a bright star transforms once left negative variances: object 1868 of seed 1.
    found = Universe(seed=1, n=2000).observe("hsc", [1868], modalities=["hsc_image"])
    for image in (
        observed["legacysurvey"].observations["legacysurvey_image"],
        observed["hsc"].observations["hsc_image"],
        found.observations["hsc_image"],
    ):
        checked = image[:]  # through the constructor, which objects to NaN and negative weights
        assert np.array_equal(checked.flux, image.flux)
        assert np.array_equal(checked.ivar, image.ivar)
        assert np.array_equal(checked.mask, image.mask)


def test_images_show_the_object_where_the_catalogue_says(universe, observed):
    truth = universe.truth
    for survey, band in (("legacysurvey", 1), ("hsc", 2)):
        rows = in_survey(universe, survey)
        image = observed[survey].observations[f"{survey}_image"]
        stars = np.asarray(truth["kind"] == 1)[rows]
        part = (slice(None), band, slice(18, 30), slice(18, 30))
        peak = image.flux[part].max(axis=(1, 2))
        noise = 1 / np.sqrt(np.maximum(np.median(image.ivar[:, band], axis=(1, 2)), 1e-9))
        # Bright and not saturated.
        bright = stars & (peak > 60 * noise) & image.mask[part].all(axis=(1, 2))
        bright = np.flatnonzero(bright)
        assert len(bright) >= 2
        off = []
        for i in bright:
            core = image.flux[i, band, 19:29, 19:29]
            weights = np.clip(core, 0, None)
            middle = np.arange(19, 29) - 23.5
            x = (weights * middle[None, :]).sum() / weights.sum()
            y = (weights * middle[:, None]).sum() / weights.sum()
            off.append(np.hypot(*(np.array([x, y]) - image.offset_pixels[i])))
        # Some have a neighbour in the window.
        assert np.median(off) < 0.3


def test_observations_have_a_row_an_object(universe, observed):
    rows = np.array([5, 1, 40, 17])
    names = ["gaia_g", "legacysurvey_flux_z", "desi_spectrum", "hsc_image", "gaia_xp_coefficients"]
    found = universe.observations(rows, names)
    assert list(found) == names
    assert len(found) == 4
    for name in names:
        survey = name.partition("_")[0]
        there = in_survey(universe, survey)
        member = np.isin(rows, there)
        assert not found[name].present[~member].any()
        for k in np.flatnonzero(member):
            (i,) = np.flatnonzero(there == rows[k])
            expected = observed[survey].observations[name]
            for part in PARTS:
                if getattr(expected, part, None) is not None:
                    assert np.array_equal(getattr(found[name], part)[k], getattr(expected, part)[i])
    everything = universe.observations(slice(0, 3))
    assert set(everything) == {name for survey in SURVEYS for name in modalities_of(survey)}


def test_a_survey_without_any_of_the_objects_is_missing(universe):
    outside = np.setdiff1d(np.arange(N), in_survey(universe, "sdss"))[:2]
    names = ["sdss_spectrum", "sdss_z", "gaia_g"]
    found = universe.observations(outside, names)
    assert not found["sdss_spectrum"].present.any()
    assert not found["sdss_z"].present.any()
    with pytest.raises(ValueError, match="none of these objects is in sdss"):
        universe.observe("sdss", outside)


def test_one_object_by_survey(universe, observed):
    (i,) = in_survey(universe, "desi")[:1]
    found = universe.observe_one(int(i))
    assert set(found) == {s for s in SURVEYS if universe.truth[f"in_{s}"][i]}
    assert_identical(found["desi"], observed["desi"][:1])


def test_parts_of_a_universe(universe, observed):
    part = universe[10:30]
    assert len(part) == 20
    assert part.numbers.tolist() == list(range(10, 30))
    assert len(part[-3:]) == 3
    assert part[[0, 5]].numbers.tolist() == [10, 15]
    assert part[np.arange(20) < 2].numbers.tolist() == [10, 11]
    there = in_survey(universe, "gaia")
    inside = (there >= 10) & (there < 30)
    assert_identical(part.observe("gaia"), observed["gaia"][inside])
    assert_identical(pickle.loads(pickle.dumps(part)).observe("gaia"), observed["gaia"][inside])
    assert "mock" in repr(part)


@pytest.mark.parametrize("survey", ["legacysurvey", "hsc", "gaia"])
def test_spurious_rows_are_no_objects(universe, survey):
    rows = universe.spurious(survey, [0, 3, 1])
    again = universe.spurious(survey, [3])
    assert_identical(rows[1:2].objects(), again.objects())
    assert (rows.number >= 2**40).all()
    found = rows.objects()
    ids, numbers = universe.owners(survey)
    assert len(np.unique(ids)) == len(ids)
    more = len(universe.fragments(survey, heavy=False))
    assert (numbers == -1).sum() == universe.n_spurious(survey) + more
    if survey != "gaia":
        assert found.observations[f"{survey}_image"].present.all()


def test_fragments_show_their_galaxy(universe):
    large = Universe(n=400, config=CONFIG, size=SIZE)
    rows = large.fragments("legacysurvey", slice(0, 200))
    assert len(rows) >= 1
    galaxies = rows.number - 2**41
    truth = large.truth
    assert (np.asarray(truth["re_disk"])[galaxies] > 3).all()
    image = rows.objects().observations["legacysurvey_image"]
    place = rows.heavy.place.true_offset
    # Off the middle by up to 1.7 radii, and the light is where the galaxy is.
    assert (np.hypot(*place.T) * 0.262 > 1).all()
    for i in np.flatnonzero(np.abs(place).max(axis=1) < SIZE / 2 - 4):
        x, y = np.rint(place[i] + (SIZE - 1) / 2).astype(int)
        at_galaxy = image.flux[i, 1, y - 2 : y + 3, x - 2 : x + 3].mean()
        # Three standard deviations of the mean of 25 pixels.
        assert at_galaxy > 0.6 * 1.48 * np.median(np.abs(image.flux[i, 1]))
    assert len(large.fragments("desi", slice(0, 200))) == 0


def test_bad_input_is_said():
    for arguments, message in (
        ({"n": 0}, "n must be from 1"),
        ({"n": -4}, "n must be from 1"),
        ({"n": 2.5}, "n must be an integer"),
        ({"n": True}, "n must be an integer"),
        ({"size": 4}, "size must be from 16"),
        ({"seed": -1}, "seed must be an integer from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Universe(**arguments)
    with pytest.raises(ValueError, match="reaches a pole"):
        UniverseConfig(area_deg2=400, center=(0.0, 85.0))
    universe = Universe(n=4, config=CONFIG)
    for call, message in (
        (lambda: universe.observe("2mass"), "no mock survey '2mass'; there are legacysurvey"),
        (lambda: universe.observe("gaia", modalities=["desi_z"]), "gaia has no modality desi_z"),
        (lambda: universe.observations(modalities=["gaia_xp"]), "no mock survey has gaia_xp"),
        (lambda: universe.spurious("2df", [0]), "no mock survey '2df'"),
        (lambda: modalities_of("x"), "no mock survey 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(IndexError, match="no object 4; there are 4"):
        universe.observe("gaia", [4])
    with pytest.raises(TypeError, match="index must be integers"):
        universe.observe("gaia", [1.5])


@pytest.fixture(scope="module")
def folder(universe, tmp_path_factory):
    """Return the universe as native files."""
    return write(universe, tmp_path_factory.mktemp("mock") / "sky", SURVEYS)


def read_all(batches):
    """Return everything a reader yields, as arrays by object and name."""
    found = {}
    for objects in batches:
        for i, who in enumerate(objects.object_id.tolist()):
            found[who] = {name: array[i] for name, array in arrays_of(objects)}
    return found


def both(universe, survey):
    """Return what a survey has, fragments and spurious rows included."""
    parts = [
        universe.native(survey),
        universe.fragments(survey),
        universe.spurious(survey, np.arange(universe.n_spurious(survey))),
    ]
    return read_all(part.objects() for part in parts if len(part))


@pytest.mark.parametrize("survey", ["desi", "sdss", "gaia"])
def test_spectra_and_tables_read_back_bit_for_bit(universe, folder, survey):
    here = folder / survey
    if survey == "desi":
        found = read_all(desi.read(sorted(here.rglob("coadd-*.fits")), selection="all"))
    elif survey == "sdss":
        found = read_all(sdss.read(sorted(here.rglob("spec-*.fits"))))
    else:
        sources, spectra = sorted(here.rglob("Gaia*.gz")), sorted(here.rglob("Xp*.gz"))
        found = read_all(gaia.read(sources, coefficients=spectra, selection="all"))
    expected = both(universe, survey)
    assert found.keys() == expected.keys()
    for who, row in expected.items():
        assert found[who].keys() == row.keys()
        for name, value in row.items():
            assert np.array_equal(found[who][name], value), (who, name)


@pytest.mark.parametrize("survey", ["legacysurvey", "hsc"])
def test_catalogues_read_back_and_images_up_to_compression(universe, folder, survey):
    tables = sorted(
        (folder / survey).rglob({"legacysurvey": "tractor-*", "hsc": "forced-*"}[survey])
    )
    bricks = Bricks(folder / survey, survey=survey, trusted=True)
    found = read_all(cutout.read(tables, images=bricks, size=SIZE))
    expected = both(universe, survey)
    assert found.keys() == expected.keys()
    image = f"{survey}_image"
    apart = {}
    for who, row in expected.items():
        mine = found[who]
        for name, value in row.items():
            if not name.startswith(image):
                assert np.array_equal(mine[name], value), (who, name)
        offsets = mine[f"{image}.offset_pixels"] - row[f"{image}.offset_pixels"]
        assert np.abs(offsets).max() < 1e-4
        assert np.array_equal(mine[f"{image}.psf_fwhm_arcsec"], row[f"{image}.psf_fwhm_arcsec"])
        apart[who] = separation(expected, who, 3600 / {"legacysurvey": 0.262, "hsc": 0.168}[survey])
    alone = [who for who, pixels in apart.items() if pixels > SIZE + 2]
    assert len(alone) > 0.4 * len(expected)
    for who in alone:
        assert_as_compressed(found[who], expected[who], image)
    # Where stamps overlap, each object has its own surroundings still.
    part = (slice(None), slice(SIZE // 2 - 2, SIZE // 2 + 2), slice(SIZE // 2 - 2, SIZE // 2 + 2))
    for who in [who for who, pixels in apart.items() if 30 < pixels <= SIZE]:
        assert_as_compressed(found[who], expected[who], image, part)


def separation(rows, who, pixels_per_degree) -> float:
    """Return how far the nearest other object is, along the axes, in pixels."""
    dec = np.array([row["dec"] for row in rows.values()]) - rows[who]["dec"]
    ra = np.array([row["ra"] for row in rows.values()]) - rows[who]["ra"]
    away = np.maximum(np.abs(ra) * np.cos(np.radians(rows[who]["dec"])), np.abs(dec))
    return float(np.sort(away)[1] * pixels_per_degree)


def assert_as_compressed(mine, row, image, part=...):
    """Assert that an image is the expected one, rounded to 16ths of the noise of the sky."""
    flux, ivar, mask = (row[f"{image}.{name}"][part] for name in ("flux", "ivar", "mask"))
    assert np.array_equal(mine[f"{image}.mask"][part], mask)
    # The deepest stamp of a piece sets the step, so that others are rounded more finely.
    level = np.median(row[f"{image}.ivar"], axis=(1, 2))[:, None, None]
    sigma = 1 / np.sqrt(np.maximum(level, 1e-9))  # 0 in a band that was not observed
    assert (np.abs(mine[f"{image}.flux"][part] - flux) <= sigma / 32 * 1.001).all()
    assert np.allclose(mine[f"{image}.ivar"][part], ivar, rtol=2e-3, atol=1e-4 * ivar.max())


def test_full_disk_leaves_nothing_behind(universe, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        with pytest.raises(OSError, match="Nothing was kept: free some space"):
            write(universe[:8], tmp_path / "sky", ["legacysurvey"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileExistsError, match="exists; choose another folder"):
        write(universe[:8], tmp_path, ["gaia"])


LIGHT = {"legacysurvey": "flux_r", "hsc": "i_cmodel_mag"}


def test_matching_has_false_positives_that_the_truth_finds():
    config = UniverseConfig(seed=2, area_deg2=2.0)
    universe = Universe(n=1500, config=config).hold()
    light = {s: universe.observe(s, modalities=[f"{s}_{m}"]) for s, m in LIGHT.items()}
    ids, numbers = universe.owners("legacysurvey")
    owner = dict(zip(ids.tolist(), numbers.tolist(), strict=True))
    invented = np.arange(universe.n_spurious("legacysurvey"))
    left = [
        light["legacysurvey"],
        universe.fragments("legacysurvey", heavy=False).objects(),
        universe.spurious("legacysurvey", invented, heavy=False).objects(),
    ]
    ra = np.concatenate([o.ra_deg for o in left])
    dec = np.concatenate([o.dec_deg for o in left])
    who = np.concatenate([o.object_id for o in left])
    right_ids, right_numbers = universe.owners("hsc")
    right_owner = dict(zip(right_ids.tolist(), right_numbers.tolist(), strict=True))
    right = light["hsc"]
    purity = {}
    for radius in (1.0, 20.0):
        pairs = match_coordinates(ra, dec, right.ra_deg, right.dec_deg, radius, one_to_one=False)
        true = [
            owner[who[a]] == right_owner[right.object_id[b]]
            for a, b in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)
        ]
        purity[radius] = np.mean(true)
        assert len(true) > 200
    assert 0.97 < purity[1.0] <= 1
    assert purity[20.0] < purity[1.0]
