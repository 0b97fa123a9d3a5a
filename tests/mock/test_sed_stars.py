"""Light and lives of stars: closure against the literature."""

import numpy as np
import pytest

from omnisky.mock.sed import BANDS, SedModel, grids
from omnisky.mock.sed.isochrones import draw_star_parameters, star_magnitudes
from omnisky.mock.sed.stars import library
from omnisky.mock.truth import Truth

# Vega minus AB zero points (Gaia: Riello et al. 2021; 2MASS, WISE: Jarrett et al. 2011).
VEGA = {
    "gaia_g": 0.1136,
    "gaia_bp": 0.0155,
    "gaia_rp": 0.3561,
    "twomass_j": 0.91,
    "twomass_ks": 1.85,
    "wise_w1": 2.699,
    "wise_w2": 3.339,
}


@pytest.fixture(scope="module")
def model() -> SedModel:
    return SedModel.load()


def stars(teff, logg=4.5, feh=0.0, **columns) -> Truth:
    teff = np.atleast_1d(np.asarray(teff, dtype=float))
    n = len(teff)
    fixed = {
        "logg": logg,
        "feh": feh,
        "log_luminosity": 0.0,
        "distance": 10.0,
        "a_v_star": 0.0,
        "redshift": 0.0,
        **columns,
    }
    return Truth(
        {
            "object_id": np.arange(n),
            "kind": np.ones(n),
            "teff": teff,
            **{k: np.broadcast_to(v, (n,)) for k, v in fixed.items()},
        }
    )


def dwarfs(mass, age=4.0) -> Truth:
    mass = np.asarray(mass, dtype=float)
    teff, logg, log_l, _ = draw_star_parameters(mass, np.full(len(mass), age), 0.0 * mass)
    return stars(teff, logg, log_luminosity=log_l)


def magnitude(flux, band: str) -> np.ndarray:
    return 22.5 - 2.5 * np.log10(flux[..., BANDS.index(band)]) - VEGA.get(band, 0.0)


def colour(model, truth, one: str, other: str) -> np.ndarray:
    flux = model.fluxes(truth, components=False)
    return magnitude(flux, one) - magnitude(flux, other)


def test_absolute_magnitudes_of_the_sun(model):
    # Willmer (2018), table 3.
    flux = model.fluxes(stars(5772.0, 4.438), components=False)[0]
    published = {
        "sdss_u": 6.39,
        "sdss_g": 5.11,
        "sdss_r": 4.65,
        "sdss_i": 4.53,
        "sdss_z": 4.50,
        "gaia_g": 4.67,
        "twomass_j": 3.67,
        "twomass_ks": 3.27,
        "wise_w1": 3.26,
    }
    for band, wanted in published.items():
        tolerance = 0.15 if band == "sdss_u" else 0.08
        assert magnitude(flux, band) == pytest.approx(wanted, abs=tolerance), band


def test_spectra_hold_the_luminosity():
    teff = np.array([3300.0, 4000.0, 5000.0, 6000.0, 8000.0, 12000.0, 20000.0])
    giants, dwarfs = np.array([0.5, 1.3, 2.5, 3.0, 3.0, 3.5, 3.5]), np.full(7, 4.5)
    for logg in (giants, dwarfs):
        light = library("coarse").spectra(teff, logg, np.zeros(7))
        total = np.sum(light * grids.COARSE.width, axis=1)
        np.testing.assert_allclose(total, 1.0, atol=0.13)


def test_colours_of_the_main_sequence(model):
    # BP - RP of dwarfs (Pecaut & Mamajek 2013, table 5, version of 2022).
    teff = np.array([3200.0, 3400.0, 3550.0, 3850.0, 4440.0, 5280.0, 5770.0, 6550.0, 8000.0])
    published = np.array([2.83, 2.50, 2.21, 1.84, 1.34, 0.98, 0.82, 0.58, 0.21])
    logg = np.array([5.0, 4.9, 4.8, 4.7, 4.6, 4.5, 4.44, 4.3, 4.2])
    got = colour(model, stars(teff, logg), "gaia_bp", "gaia_rp")
    # Scales of temperature of M dwarfs differ by some 70 K (Mann et al. 2015).
    assert np.all(np.abs(got - published) < np.where(teff < 3600.0, 0.2, 0.12))


def test_m_dwarfs_lie_on_the_observed_locus(model):
    # Covey et al. (2007), table 3: g - r levels off while r - i grows.
    truth = dwarfs([0.12, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6])
    r_i = colour(model, truth, "sdss_r", "sdss_i")
    g_r = colour(model, truth, "sdss_g", "sdss_r")
    assert np.all(np.diff(r_i) < 0)
    np.testing.assert_allclose(
        g_r, np.interp(r_i, [0.45, 0.62, 0.9, 1.5, 2.1], [1.2, 1.36, 1.42, 1.49, 1.6]), atol=0.06
    )
    u_g = colour(model, truth, "sdss_u", "sdss_g")
    assert np.all((u_g > 1.9) & (u_g < 3.2))


def test_metal_poor_stars_are_bluer_in_the_ultraviolet(model):
    truth = stars([5800.0, 5800.0], 4.4, np.array([0.0, -2.0]))
    u_g = colour(model, truth, "sdss_u", "sdss_g")
    assert 0.25 < u_g[0] - u_g[1] < 0.6


def test_infrared_colours_of_stars(model):
    # W1 - W2 (Vega): -0.05 in K dwarfs, 0.2 in late M dwarfs (Pecaut & Mamajek 2013).
    w1_w2 = colour(model, stars([3000.0, 4400.0, 6000.0], 4.8), "wise_w1", "wise_w2")
    np.testing.assert_allclose(w1_w2, [0.19, -0.05, -0.03], atol=0.05)
    j_k = colour(model, stars([3600.0, 5770.0, 9000.0], 4.6), "twomass_j", "twomass_ks")
    np.testing.assert_allclose(j_k, [0.83, 0.38, 0.03], atol=0.08)


def test_white_dwarfs(model):
    # Pure hydrogen, log g 8 (Holberg & Bergeron 2006): u - g and g - r, SDSS AB.
    teff = np.array([8000.0, 10000.0, 15000.0, 20000.0, 30000.0])
    truth = stars(teff, 8.0)
    u_g = colour(model, truth, "sdss_u", "sdss_g")
    g_r = colour(model, truth, "sdss_g", "sdss_r")
    np.testing.assert_allclose(u_g, [0.39, 0.43, 0.23, 0.00, -0.27], atol=0.08)
    np.testing.assert_allclose(g_r, [0.13, -0.04, -0.22, -0.33, -0.43], atol=0.08)


def equivalent_width(model, truth, line: float, half: float) -> float:
    wave = np.arange(line - 2 * half, line + 2 * half, 0.5)
    flux = model.spectrum(truth, wave)
    side = np.abs(wave - line) > 1.7 * half
    level = np.polyval(np.polyfit(wave[side], flux[side], 1), wave)
    near = np.abs(wave - line) < 1.5 * half
    return float(np.sum((1 - flux / level)[near]) * 0.5)


def test_balmer_lines_of_white_dwarfs_are_broad_and_strongest_near_13000_k(model):
    width = [
        equivalent_width(model, stars(t, 8.0), 4862.7, 120.0)
        for t in (7000.0, 9000.0, 13000.0, 25000.0, 60000.0)
    ]
    # Observed EW of Hbeta peak at some 45 A (Greenstein 1986).
    assert 30.0 < width[2] < 65.0
    assert width[0] < width[1] < width[2] > width[3] > width[4]
    normal = equivalent_width(model, stars(13000.0, 4.0), 4862.7, 120.0)
    assert normal < 0.5 * width[2]


def test_binaries_add_up(model):
    one, two = stars(5800.0, 4.4), stars(3800.0, 4.7, log_luminosity=-1.2)
    pair = stars(5800.0, 4.4, binary=True, teff_2=3800.0, logg_2=4.7, log_luminosity_2=-1.2)
    total = model.fluxes(one, False) + model.fluxes(two, False)
    np.testing.assert_allclose(model.fluxes(pair, False), total, rtol=1e-12)
    wave = np.arange(4000.0, 9000.0, 1.0)
    both = model.spectrum(one, wave) + model.spectrum(two, wave)
    np.testing.assert_allclose(model.spectrum(pair, wave), both, rtol=1e-10)


def test_stars_move(model):
    wave = np.arange(6400.0, 6700.0, 0.5)
    still, fast = (
        wave[np.argmin(model.spectrum(stars(7500.0, 4.2, redshift=z), wave))] for z in (0.0, 1e-3)
    )
    assert still == pytest.approx(6564.6, abs=1.0)
    assert fast - still == pytest.approx(6.56, abs=0.6)


def test_the_sun_of_the_isochrones():
    teff, logg, log_l, stage = draw_star_parameters([1.0], [4.57], [0.0])
    assert teff[0] == pytest.approx(5772.0, abs=120.0)
    assert logg[0] == pytest.approx(4.438, abs=0.03)
    assert log_l[0] == pytest.approx(0.0, abs=0.06)
    assert stage[0] == 0


def test_stars_live_and_die():
    mass = np.linspace(0.1, 4.0, 40000)
    teff, logg, log_l, stage = draw_star_parameters(mass, np.full(40000, 5.0), np.zeros(40000))
    # In order of mass: dwarfs, subgiants, giants, horizontal branch, giants again, white dwarfs.
    assert [stage[0], *stage[1:][np.diff(stage) != 0]] == [0, 1, 2, 3, 2, 4]
    # The base of the giant branch of 5 Gyr is at log g = 3.75.
    assert logg[stage == 1].min() == pytest.approx(3.75, abs=0.1)
    assert 1.0 < mass[stage == 2].min() < mass[stage == 3].max() < 1.5  # turn-off of 5 Gyr
    assert log_l[stage == 2].max() > 3.0
    assert np.all((logg[stage == 4] > 7.5) & (logg[stage == 4] < 9.5))
    # Luminosity, radius and temperature agree: L is R^2 T^4.
    alive = stage < 4
    radius = 10 ** (0.5 * (4.438 + np.log10(mass) - logg))
    off = log_l - np.log10(radius**2 * (teff / 5772.0) ** 4)
    assert np.percentile(np.abs(off[alive]), 95) < 0.05


def test_white_dwarfs_cool():
    age = np.array([0.9, 1.2, 2.0, 4.0, 8.0])
    teff, logg, log_l, stage = draw_star_parameters(np.full(5, 2.5), age, np.zeros(5))
    assert np.all(stage == 4)
    assert np.all(np.diff(teff) < 0)
    assert np.all(np.diff(log_l) < 0)
    np.testing.assert_allclose(logg, logg[0])
    # A white dwarf of 0.67 Msun is at some 8000 K after a Gyr (Fontaine et al. 2001, figure 5).
    assert 7000.0 < teff[2] < 11000.0


def test_quick_magnitudes_are_close(model):
    rng = np.random.default_rng(1)
    n = 300
    mass, age = rng.uniform(0.12, 2.0, n), rng.uniform(0.5, 12, n)
    feh = rng.uniform(-2, 0.3, n)
    teff, logg, log_l, _ = draw_star_parameters(mass, age, feh)
    a_v = rng.uniform(0, 0.6, n)
    truth = stars(teff, logg, feh, log_luminosity=log_l, distance=500.0, a_v_star=a_v)
    flux = model.fluxes(truth, False)
    g, r = star_magnitudes(teff, logg, feh, log_l, np.full(n, 500.0), a_v)
    for got, band in ((g, "gaia_g"), (r, "decam_r")):
        off = got - (magnitude(flux, band) + VEGA.get(band, 0.0))
        assert np.percentile(np.abs(off), 90) < 0.1, band


def test_drawing_does_not_depend_on_the_batch():
    rng = np.random.default_rng(2)
    mass, age, feh = (
        rng.uniform(0.1, 3, 300),
        rng.uniform(0.1, 13, 300),
        rng.uniform(-2.5, 0.3, 300),
    )
    whole = draw_star_parameters(mass, age, feh)
    parts = [
        draw_star_parameters(mass[i : i + 7], age[i : i + 7], feh[i : i + 7])
        for i in range(0, 300, 7)
    ]
    for k in range(4):
        np.testing.assert_array_equal(np.concatenate([part[k] for part in parts]), whole[k])
