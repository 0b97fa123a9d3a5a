"""What surveys say of mock objects: errors that are honest, frames, epochs, rows for nothing."""

import numpy as np
import pytest

from omnisky.mock.population import UniverseConfig, draw_with_fluxes
from omnisky.mock.population.catalogs import (
    FIRST_NUMBER,
    SURVEYS,
    catalog,
    fragments,
    spurious,
    spurious_fraction,
)
from omnisky.mock.sed import BANDS
from omnisky.mock.truth import GALAXY, QUASAR, STAR, Truth

PLACE = {
    "legacysurvey": ("RA", "DEC"),
    "hsc": ("ra", "dec"),
    "gaia": ("ra", "dec"),
    "sdss": ("PLUG_RA", "PLUG_DEC"),
    "desi": ("TARGET_RA", "TARGET_DEC"),
}


@pytest.fixture(scope="module")
def some():
    """Return a configuration, 1500 objects of all kinds and their fluxes."""
    config = UniverseConfig(seed=11)
    return config, *draw_with_fluxes(config, np.arange(1500))


@pytest.fixture(scope="module")
def rows(some):
    """Return the rows of all surveys."""
    config, truth, fluxes = some
    return {survey: catalog(config, truth, survey, fluxes) for survey in SURVEYS}


def apart(a, b):
    """Return offsets to the east and north in arcsec."""
    east = ((b[0] - a[0] + 180) % 360 - 180) * np.cos(np.radians(a[1]))
    return 3600 * east, 3600 * (b[1] - a[1])


def place(rows, survey):
    return tuple(rows[survey][key] for key in PLACE[survey])


@pytest.mark.parametrize("survey", SURVEYS)
@pytest.mark.parametrize("batch", [1, 7, 64])
def test_rows_do_not_depend_on_the_batch(some, rows, survey, batch):
    config, truth, fluxes = some
    order = np.random.default_rng(1).permutation(1500)[: max(batch, 20)]
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        again = catalog(config, truth[part], survey, fluxes[part])
        for name, values in rows[survey].items():
            assert np.array_equal(again[name], values[part], equal_nan=values.dtype.kind == "f"), (
                name
            )


def test_fluxes_are_made_where_they_are_not_given(some, rows):
    config, truth, _ = some
    again = catalog(config, truth[:20], "hsc")
    assert np.array_equal(again["g_cmodel_mag"], rows["hsc"]["g_cmodel_mag"][:20], equal_nan=True)


def test_unknown_surveys_are_refused(some):
    config, truth, fluxes = some
    for call in (
        lambda: catalog(config, truth, "lsst", fluxes),
        lambda: spurious(config, "lsst", np.arange(3)),
        lambda: fragments(config, truth, "lsst", fluxes),
    ):
        with pytest.raises(ValueError, match="no survey 'lsst'; there are legacysurvey, hsc"):
            call()


def test_stated_errors_of_fluxes_are_right(some, rows):
    _, _, fluxes = some
    total = fluxes.sum(axis=1)
    for survey, band, name in (
        ("legacysurvey", "decam_g", "FLUX_G"),
        ("legacysurvey", "wise_w3", "FLUX_W3"),
    ):
        true = total[:, list(BANDS).index(band)]
        ivar = rows[survey][name.replace("FLUX", "FLUX_IVAR")].astype(float)
        variance = 1 / ivar + (0.01 * true) ** 2  # errors of models are not stated
        pull = (rows[survey][name] - true) / np.sqrt(variance)
        assert np.std(pull) == pytest.approx(1, abs=0.08)
        assert np.mean(pull) == pytest.approx(0, abs=0.1)


def test_stated_reddening_takes_galactic_dust_away(some, rows):
    from omnisky.mock.sed import SedModel

    _, truth, fluxes = some
    there = truth["kind"] != STAR  # dust lies in front of all of it
    some = truth[there]
    clear = SedModel.load().fluxes(
        Truth({**{name: some[name] for name in some}, "ebv": np.zeros(len(some))})
    )
    lost = -2.5 * np.log10(fluxes[there].sum(axis=1) / clear.sum(axis=1))
    for band, stated in (
        ("decam_g", -2.5 * np.log10(rows["legacysurvey"]["MW_TRANSMISSION_G"])),
        ("decam_r", -2.5 * np.log10(rows["legacysurvey"]["MW_TRANSMISSION_R"])),
        ("decam_z", -2.5 * np.log10(rows["legacysurvey"]["MW_TRANSMISSION_Z"])),
        ("hsc_g", rows["hsc"]["a_g"]),
        ("hsc_i", rows["hsc"]["a_i"]),
    ):
        ratio = stated[there] / lost[:, list(BANDS).index(band)]
        assert np.median(ratio) == pytest.approx(1, abs=0.03), band


def test_stated_errors_of_gaia_are_right(some, rows):
    _, truth, _ = some
    gaia, star = rows["gaia"], truth["kind"] == STAR
    for name, true, zero in (("parallax", "parallax", -0.03), ("pmra", "pm_ra", 0.0)):
        pull = (gaia[name] - truth[true] - zero)[star] / gaia[f"{name}_error"][star]
        assert np.std(pull) == pytest.approx(1, abs=0.12)
    quasar = truth["kind"] == QUASAR
    assert np.abs(gaia["parallax"][quasar] / gaia["parallax_error"][quasar]).max() < 5
    assert np.isnan(gaia["parallax"][truth["kind"] == GALAXY]).all()
    assert len(np.unique(gaia["source_id"])) == 1500
    assert (gaia["source_id"] > 0).all()


@pytest.mark.parametrize(
    ("other", "low", "high"), [("gaia", 0.012, 0.04), ("hsc", 0.02, 0.045), ("sdss", 0.08, 0.15)]
)
def test_surveys_agree_on_places_as_real_ones_do(some, rows, other, low, high):
    _, truth, _ = some
    both = truth["in_legacysurvey"] & truth[f"in_{other}"]
    if other == "gaia":
        both &= rows["legacysurvey"]["REF_CAT"] == ""
    east, north = apart(place(rows, "legacysurvey"), place(rows, other))
    assert low < np.median(np.hypot(east, north)[both]) < high


def test_stars_have_moved_since_sdss(some, rows):
    _, truth, _ = some
    fast = (truth["kind"] == STAR) & (np.hypot(truth["pm_ra"], truth["pm_dec"]) > 30)
    east, north = apart(place(rows, "sdss"), place(rows, "gaia"))
    assert east[fast] == pytest.approx(13.0 * truth["pm_ra"][fast] / 1000, abs=0.4)
    assert north[fast] == pytest.approx(13.0 * truth["pm_dec"][fast] / 1000, abs=0.4)
    fixed = rows["legacysurvey"]["REF_CAT"] == "GE"
    assert fixed[truth["in_gaia"] & (truth["kind"] == STAR)].mean() > 0.3
    assert np.array_equal(rows["legacysurvey"]["RA"][fixed], rows["gaia"]["ra"][fixed])


def test_tractor_types_and_shapes_follow_the_light(some, rows):
    _, truth, _ = some
    tractor, galaxy = rows["legacysurvey"], truth["kind"] == GALAXY
    assert (tractor["TYPE"][~galaxy] == "PSF").all()
    assert np.mean(tractor["TYPE"][galaxy] != "PSF") > 0.85
    round_ = tractor["TYPE"] == "REX"
    assert (tractor["SHAPE_E1"][round_] == 0).all()
    assert (tractor["SHAPE_R"][tractor["TYPE"] == "PSF"] == 0).all()
    disk = galaxy & (truth["bulge_fraction"] < 0.05) & (truth["re_disk"] > 4)
    disk &= np.isin(tractor["TYPE"], ("SER", "EXP"))
    ratio = tractor["SHAPE_R"][disk] / truth["re_disk"][disk]
    assert np.median(ratio) == pytest.approx(1, abs=0.1)
    pa = 0.5 * np.degrees(np.arctan2(tractor["SHAPE_E2"], tractor["SHAPE_E1"]))
    thin = disk & (truth["q_disk"] < 0.5)
    off = (pa[thin] - truth["pa"][thin] + 90) % 180 - 90
    assert np.median(np.abs(off)) < 5


def test_hsc_tells_points_from_galaxies(some, rows):
    _, truth, _ = some
    wide = rows["hsc"]["i_extendedness_value"]
    assert wide[truth["kind"] == GALAXY].mean() > 0.9
    assert wide[truth["kind"] == STAR].mean() < 0.1
    area = rows["hsc"]["i_sdssshape_psf_shape11"] * rows["hsc"]["i_sdssshape_psf_shape22"]
    assert 2.355 * np.median(area) ** 0.25 == pytest.approx(0.6, abs=0.12)


def test_redshifts_are_right_but_for_some(some, rows):
    _, truth, _ = some
    for survey, flag, error in (("desi", "ZWARN", "ZERR"), ("sdss", "ZWARNING", "Z_ERR")):
        here = truth[f"in_{survey}"]
        table = {name: values[here] for name, values in rows[survey].items()}
        wrong = np.abs(table["Z"] - truth["redshift"][here]) > 6 * table[error] + 2e-6
        assert wrong.mean() < 0.1
        assert wrong[table[flag] == 0].mean() < 0.03
        assert wrong[table[flag] != 0].mean() > 0.3
        name = np.array(["GALAXY", "STAR", "QSO"])[truth["kind"][here]]
        kind = table["SPECTYPE" if survey == "desi" else "CLASS"]
        assert np.mean(kind == name) > 0.95


def test_desi_has_the_photometry_of_its_targets(rows):
    assert np.array_equal(rows["desi"]["FLUX_R"], rows["legacysurvey"]["FLUX_R"])
    east, north = apart(place(rows, "legacysurvey"), place(rows, "desi"))
    assert np.hypot(east, north).max() < 0.1


@pytest.mark.parametrize("survey", SURVEYS)
def test_spurious_rows_are_functions_of_their_number(some, survey):
    config, truth, _ = some
    ids, whole = spurious(config, survey, np.arange(60))
    again, part = spurious(config, survey, np.array([41, 7]))
    assert again.tolist() == [FIRST_NUMBER + 41, FIRST_NUMBER + 7]
    for name, values in whole.items():
        same = np.array_equal(part[name], values[[41, 7]], equal_nan=values.dtype.kind == "f")
        assert same, name
    assert set(whole) == set(catalog(config, truth[:3], survey, np.ones((3, 3, len(BANDS)))))
    assert np.array_equal(np.unique(ids), ids)
    assert 0 <= spurious_fraction(survey) < 0.1


def test_spurious_rows_match_hardly_anything(some, rows):
    config, _, _ = some
    _, nothing = spurious(config, "legacysurvey", np.arange(300))
    ra, dec = place(rows, "legacysurvey")
    east, north = apart((nothing["RA"][:, None], nothing["DEC"][:, None]), (ra, dec))
    assert np.mean(np.hypot(east, north).min(axis=1) < 1.0) < 0.02


def test_fragments_lie_beside_large_galaxies(some, rows):
    config, truth, fluxes = some
    ids, pieces = fragments(config, truth, "legacysurvey", fluxes)
    parent = ids - 2 * FIRST_NUMBER
    assert len(ids) > 5
    assert (truth["re_disk"][parent] > 3).all()
    assert (pieces["FLUX_R"] < 0.3 * rows["legacysurvey"]["FLUX_R"][parent]).all()
    again, _ = fragments(config, truth[parent[:3]], "legacysurvey", fluxes[parent[:3]])
    assert np.array_equal(again, ids[:3])
