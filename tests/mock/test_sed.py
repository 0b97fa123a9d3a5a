"""Light of galaxies and quasars, bands, dust and spectra: closure against the literature."""

import numpy as np
import pytest

from omnisky.mock import sed
from omnisky.mock.sed import BANDS, SedModel, bands, dust, galaxies, grids, nebular, quasars
from omnisky.mock.sed.quick import typical
from omnisky.mock.truth import Truth

WAVE = np.arange(3600.0, 9824.0, 0.8)


@pytest.fixture(scope="module")
def model() -> SedModel:
    return SedModel.load()


def changed(truth: Truth, **columns) -> Truth:
    """Return truth with some columns replaced."""
    new = {name: np.broadcast_to(values, (len(truth),)) for name, values in columns.items()}
    return Truth({**{name: truth[name] for name in truth}, **new})


def galaxy(redshift=0.1, log_mass=10.5, log_ssfr=-10.3, a_v=0.3, **columns) -> Truth:
    return changed(typical(redshift, log_mass, log_ssfr, a_v), **columns)


def quasar(redshift, **columns) -> Truth:
    z = np.atleast_1d(np.asarray(redshift, dtype=float))
    n = len(z)
    fixed = {"luminosity_distance": 1e4, "m_i": -26.0, "slope_offset": 0.0, "ebv": 0.0}
    return Truth(
        {
            "object_id": np.arange(n),
            "kind": np.full(n, 2),
            "redshift": z,
            "template": np.arange(n) * 37 % quasars.N_TEMPLATES,
            **{k: np.full(n, v) for k, v in (fixed | columns).items()},
        }
    )


def magnitude(flux: np.ndarray, band: str) -> np.ndarray:
    return 22.5 - 2.5 * np.log10(flux[..., BANDS.index(band)])


def colour(model, truth, one: str, other: str) -> np.ndarray:
    flux = model.fluxes(truth, components=False)
    return magnitude(flux, one) - magnitude(flux, other)


# Bands and grids


def test_flat_spectrum_has_the_same_magnitude_in_every_band():
    flat = 3.6308e-29 / 1e-17 * 2.99792e18 / bands.CANVAS.wavelength**2  # 1 nmgy
    np.testing.assert_allclose(flat @ bands.band_matrix(), 1.0, rtol=3e-3)


def test_rebinning_keeps_the_integral():
    x = np.array([1.0, 2.0, 4.0, 5.0])
    y = np.array([1.0, 3.0, 3.0, 0.0])
    edges = np.array([0.0, 1.5, 2.5, 4.2, 9.0])
    got = np.sum(grids.rebin(x, y, edges) * np.diff(edges))
    assert got == pytest.approx(np.trapezoid(y, x))


def test_lines_keep_their_power_and_width():
    wave = np.arange(4000.0, 5000.0, 0.7)
    flux = grids.lines_on(wave, np.array([4444.4]), np.array([3.0]), np.array([2.0]))
    assert np.sum(flux) * 0.7 == pytest.approx(3.0, rel=1e-6)
    assert np.sum(flux * wave) / flux.sum() == pytest.approx(4444.4, abs=0.01)
    sigma = np.sqrt(np.sum(flux * (wave - 4444.4) ** 2) / flux.sum())
    assert sigma == pytest.approx(np.hypot(2.0, 0.7 / np.sqrt(12)), rel=1e-3)


def test_smoothing_with_a_changing_width_has_the_wanted_width_everywhere():
    light = np.zeros(400)
    light[[100, 300]] = 1.0
    sigma = np.where(np.arange(400) < 200, 2.0, 5.0)
    seen = grids.smoothed(light, sigma)
    for centre, wanted in ((100, 2.0), (300, 5.0)):
        part = slice(centre - 60, centre + 60)
        x = np.arange(400)[part] - centre
        width = np.sqrt(np.sum(seen[part] * x**2) / seen[part].sum())
        assert width == pytest.approx(wanted, rel=0.02)


# Dust


def test_galactic_extinction_law():
    # Fitzpatrick (1999), table 3: A(lambda) / E(B-V) for R_V = 3.1.
    wave = np.array([26500.0, 12200.0, 6000.0, 5470.0, 4670.0, 4110.0, 2700.0, 2600.0])
    published = np.array([0.265, 0.829, 2.688, 3.055, 3.806, 4.315, 6.265, 6.591])
    np.testing.assert_allclose(dust.milky_way_curve(wave), published, rtol=0.01)
    bump = dust.milky_way_curve(np.array([1900.0, 2175.0, 2500.0]))
    assert bump[1] > bump[0] + 0.5
    assert bump[1] > bump[2] + 1.0


def test_extinction_of_the_bands_is_that_of_schlafly_and_finkbeiner(model):
    # Schlafly & Finkbeiner (2011), table 6, DECam; their scale is 0.78 of F99 at 1 micron.
    red = changed(galaxy(), ebv=0.1)
    ratio = model.fluxes(red, False)[0] / model.fluxes(galaxy(), False)[0]
    ours = -2.5 * np.log10(ratio) / 0.1
    got = ours[[BANDS.index(f"decam_{b}") for b in "grz"]]
    published = np.array([3.237, 2.176, 1.217])
    np.testing.assert_allclose(got / got[1], published / published[1], rtol=0.03)


def test_dust_emits_what_it_absorbs():
    full = np.geomspace(1.0e4, 2e7, 20000)
    np.testing.assert_allclose(np.trapezoid(dust.dust_emission(full), full, axis=1), 1, rtol=0.01)
    clear = galaxy(a_v=0.0, a_v_young=0.0, log_ssfr=-9.6)
    dusty = changed(clear, a_v=1.0, a_v_young=0.5)
    near = grids.COARSE.wavelength < 2e4
    lines = [np.sum(galaxies.line_light(t)[0]) / 3.828e33 for t in (clear, dusty)]
    lost, gained = 0.0, 0.0
    for sign, truth, line in ((1, clear, lines[0]), (-1, dusty, lines[1])):
        light = galaxies.coarse_light(truth)[0].sum(axis=0).astype(float) * grids.COARSE.width
        lost += sign * (light[near].sum() - line)
        gained -= sign * light[~near].sum()
    emitted = dust.dust_emission(grids.COARSE.wavelength) * grids.COARSE.width
    seen = emitted[:, ~near].sum(axis=1)
    # Between all heat in the medium between stars and all in birth clouds.
    shares = sorted(float(s @ seen) for s in (galaxies._DIFFUSE, galaxies._CLOUDS))
    assert lost > 0
    assert shares[0] < gained / lost < shares[1]


def test_star_forming_galaxies_glow_in_w3(model):
    # WISE: W2 - W3 (Vega) some 0.5 in ellipticals, 3.5 to 4.5 in spirals (Wright et al. 2010).
    def w2_w3(log_ssfr, a_v):
        truth = galaxy(0.03, 10.5, log_ssfr, a_v)
        return float(colour(model, truth, "wise_w2", "wise_w3")[0]) + 5.174 - 3.339

    assert -0.2 < w2_w3(-12.5, 0.05) < 1.3
    assert 3.0 < w2_w3(-10.0, 0.6) < 5.0


# Galaxies


def test_red_sequence(model):
    # Observed g - r of the red sequence: Blanton & Moustakas (2009), Padmanabhan et al. (2007).
    z = np.array([0.1, 0.2, 0.3, 0.42])
    truth = galaxy(z, 11.0, -12.3, 0.05)
    got = colour(model, truth, "sdss_g", "sdss_r")
    np.testing.assert_allclose(got, [0.96, 1.25, 1.53, 1.70], atol=0.09)
    # W1 - W2 (Vega) of ellipticals is near zero (Wright et al. 2010).
    vega = colour(model, truth[:1], "wise_w1", "wise_w2") - 2.699 + 3.339
    assert abs(float(vega[0])) < 0.15


def test_blue_cloud(model):
    truth = galaxy(0.1, 9.8, -9.7, 0.3)
    assert 0.3 < float(colour(model, truth, "sdss_g", "sdss_r")[0]) < 0.6
    assert 0.8 < float(colour(model, truth, "sdss_u", "sdss_g")[0]) < 1.3


def test_mass_to_light_ratio(model):
    # Old populations with this mass function (Vazdekis et al. 2010, figure 7; Kroupa).
    truth = galaxy(0.02, 11.0, -12.5, 0.0)
    r = float(magnitude(model.fluxes(truth, False), "sdss_r")[0])
    absolute = r - 25.0  # distance 1 Mpc, and the dimming of 1 + z
    ratio = 1e11 / 10 ** (-0.4 * (absolute - 4.65)) / 1.02
    assert 2.2 < ratio < 3.5


def d4000(model, truth) -> float:
    """Return the narrow break of Balogh et al. (1999)."""
    z = 1 + float(truth["redshift"][0])
    means = []
    for low, high in ((3850.0, 3950.0), (4000.0, 4100.0)):
        wave = np.arange(low, high, 0.8) * z
        means.append(np.mean(model.spectrum(truth, wave, share=(1, 1, 0)) * wave**2))
    return means[1] / means[0]


def test_break_grows_with_age(model):
    # Kauffmann et al. (2003, figure 2): solar bursts of 0.3, 1, 3 and 10 Gyr.
    breaks = [
        d4000(model, galaxy(0.05, 11, -13.0, 0.0, sfh_start=a, sfh_tau=0.15, log_z_star=0.0))
        for a in (0.6, 1.3, 3.3, 10.3)
    ]
    assert np.all(np.diff(breaks) > 0)
    np.testing.assert_allclose(breaks, [1.2, 1.42, 1.68, 1.95], atol=0.15)


def test_parts_add_up_in_bands_and_spectra(model):
    truth = galaxy(agn=2, log_l_agn=41.0)
    flux = model.fluxes(truth)
    np.testing.assert_allclose(flux.sum(axis=1), model.fluxes(truth, components=False))
    assert np.all(flux > 0)
    parts = [model.spectrum(truth, WAVE, share=tuple(row)) for row in np.eye(3)]
    np.testing.assert_allclose(sum(parts), model.spectrum(truth, WAVE), rtol=1e-4)


@pytest.mark.parametrize(
    "truth",
    [galaxy(0.15, 10.8, -12.0, 0.1), galaxy(0.3, 10.0, -9.5, 0.5), quasar(1.3)],
    ids=["old", "young", "quasar"],
)
def test_bands_and_spectra_agree(model, truth):
    wave = np.arange(3300.0, 9900.0, 0.5)
    truth = changed(truth, ebv=0.05)
    if truth["kind"][0] == 2:
        truth = changed(truth, object_id=9)  # without intervening absorbers in these bands
    flux = model.spectrum(truth, wave)
    bright = model.fluxes(truth, components=False)[0]
    for band in ("decam_g", "decam_r", "sdss_r", "sdss_i", "hsc_r", "hsc_i"):
        at, response = bands.curve(band)
        seen = np.interp(wave, at, response, left=0, right=0)
        f_nu = np.sum(flux * wave * seen) / np.sum(seen / wave) / 2.99792e18 * 1e-17
        assert f_nu / 3.6308e-29 == pytest.approx(bright[BANDS.index(band)], rel=0.012), band


def test_bands_agree_with_speclite(model):
    filters = pytest.importorskip("speclite.filters")
    from astropy import units as u

    wave = np.arange(3200.0, 11400.0, 1.0)
    unit = 1e-17 * u.erg / u.s / u.cm**2 / u.Angstrom
    ours = {"decam2014": ("decam", "grz"), "sdss2010": ("sdss", "gri"), "hsc2017": ("hsc", "gri")}
    for truth in (galaxy(0.1, 11.0, -12.0, 0.1), galaxy(0.25, 10.0, -9.6, 0.4)):
        spectrum = model.spectrum(truth, wave) * unit
        bright = model.fluxes(truth, components=False)[0]
        for group, (name, letters) in ours.items():
            for letter in letters:
                band = filters.load_filter(f"{group}-{letter}")
                flux, at = band.pad_spectrum(spectrum, wave * u.Angstrom, method="edge")
                theirs = float(band.get_ab_magnitude(flux, at))
                mine = 22.5 - 2.5 * np.log10(bright[BANDS.index(f"{name}_{letter}")])
                assert mine == pytest.approx(theirs, abs=0.012), f"{group}-{letter}"


# Lines


def ratios(truth) -> tuple[np.ndarray, np.ndarray]:
    """Return log [NII]/Halpha and log [OIII]/Hbeta of all light."""
    names = list(nebular.LINES)
    total = sum(galaxies.line_light(truth))
    n2, ha, o3, hb = (
        total[:, names.index(k)] for k in ("NII_6585", "H_alpha", "OIII_5008", "H_beta")
    )
    return np.log10(n2 / ha), np.log10(o3 / hb)


def test_star_forming_galaxies_lie_below_the_line_of_kauffmann():
    oh = np.linspace(7.9, 8.95, 30)
    n2, o3 = ratios(galaxy(0.1, 10.0, -9.8 + 0 * oh, 0.3, oh=oh, log_u=-2.95 - 0.45 * (oh - 8.69)))
    # Kauffmann et al. (2003, equation 1), where it is defined, with the 0.1 dex of models.
    assert np.all(o3 < 0.61 / (np.minimum(n2, 0.0) - 0.05) + 1.3 + 0.1)
    # The sequence spans what the SDSS shows.
    assert n2.min() < -1.4
    assert n2.max() > -0.55
    assert o3.max() > 0.6
    assert np.all(np.diff(n2) > -1e-6)


def test_no_stars_ionise_as_a_nucleus_does():
    oh, shift = (x.ravel() for x in np.meshgrid(np.linspace(7.7, 8.9, 13), [-0.6, 0.0, 0.6]))
    log_u = -2.95 - 0.45 * (oh - 8.69) + shift
    n2, o3 = ratios(galaxy(0.1, 9.5 + 0 * oh, -9.0, 0.1, oh=oh, log_u=log_u))
    assert np.all(o3 < 0.61 / (n2 - 0.47) + 1.19 + 0.1)  # Kewley et al. (2001, eq. 5)


@pytest.mark.parametrize(("kind", "low", "high"), [(1, -0.1, 0.6), (2, 0.6, 1.2)])
def test_nuclei_lie_above_the_line_of_kewley(kind, low, high):
    n2, o3 = ratios(galaxy(0.05, 11.0, -13.5, 0.1, agn=kind, log_l_agn=41.0))
    assert o3[0] > 0.61 / (n2[0] - 0.47) + 1.19 or n2[0] > 0.47  # Kewley et al. (2001, eq. 5)
    assert low < o3[0] < high


def measured_line(model, truth, line: float) -> float:
    """Return the flux of a line above the continuum either side."""
    centre = line * (1 + float(truth["redshift"][0]))
    wave = np.arange(centre - 60, centre + 60, 0.4)
    lined = model.spectrum(truth, wave, share=(0, 0, 1))
    bare = model.spectrum(changed(truth, sfr_10=1e-9), wave, share=(0, 0, 1))
    near = np.abs(wave - centre) < 16
    excess = lined - bare
    return float(np.sum((excess - np.median(excess[~near]))[near]) * 0.4)


def test_balmer_lines_have_the_power_of_the_star_formation(model):
    truth = galaxy(0.1, 10.0, -9.8, 0.0, log_sigma_gas=1.8, sfr_10=1.0, a_v_young=0.0)
    h_beta = measured_line(model, truth, 4862.68)
    # Murphy et al. (2011): 1 Msun / yr is 1.86e41 erg / s of Halpha; case B.
    wanted = 1 / 5.37e-42 / 2.863 / (4 * np.pi * 3.0857e24**2) / 1e-17
    assert h_beta == pytest.approx(wanted, rel=0.06)  # less the young stars' own absorption
    assert h_beta < wanted


def test_birth_clouds_redden_lines_more_than_stars(model):
    clear = galaxy(0.1, 10.0, -9.8, 0.3, a_v_young=0.0)
    dusty = changed(clear, a_v_young=1.0)
    names = list(nebular.LINES)
    ha, hb = (
        galaxies.line_light(dusty)[0][0, i] / galaxies.line_light(clear)[0][0, i]
        for i in (names.index("H_alpha"), names.index("H_beta"))
    )
    assert hb < ha < 0.6
    flux = model.fluxes(dusty, False) / model.fluxes(clear, False)
    assert flux[0, BANDS.index("decam_r")] > 0.9


def test_seyferts_of_type_one_have_broad_lines_and_those_of_type_two_not(model):
    wave = np.arange(6900.0, 7500.0, 0.8)
    truth = galaxy(0.1, 11.0, -12.0, 0.1, log_l_agn=41.5, log_sigma_star=2.25)
    bare, narrow, broad = (model.spectrum(changed(truth, agn=k), wave) for k in (0, 2, 3))
    off = (np.abs(wave - 7221) > 45) & (np.abs(wave - 7221) < 75)
    assert np.mean(narrow[off]) < 1.05 * np.mean(bare[off])
    assert np.mean(broad[off]) > np.mean(broad[np.abs(wave - 7221) > 220]) * 1.05


def test_sodium_absorbs_in_dusty_and_in_massive_galaxies(model):
    wave = np.arange(5840.0, 5950.0, 0.5) * 1.05
    plain = galaxy(0.05, 10.5, -11.5, 0.0, log_sigma_star=2.0)

    def depth(truth):
        flux = model.spectrum(truth, wave)
        return 1 - flux[np.abs(wave / 1.05 - 5894) < 5].mean() / np.median(flux)

    assert depth(changed(plain, a_v=1.0)) > depth(plain) + 0.03
    assert depth(changed(plain, log_sigma_star=2.45)) > depth(plain)


# Quasars


def test_quasars_have_the_magnitude_that_truth_states(model):
    truth = quasar(np.linspace(0.05, 0.1, 40), luminosity_distance=1e-5)
    # At 10 pc, barely shifted, i is M_i but for Halpha, of some 195 A (Vanden Berk et al. 2001).
    i = magnitude(model.fluxes(truth, False), "sdss_i")
    assert np.median(i) == pytest.approx(-26.0 - 0.2, abs=0.1)


def test_quasar_colours(model):
    # Richards et al. (2001), W1 - W2 (Vega) above 0.8 (Stern et al. 2012).
    truth = quasar(np.full(200, 1.3), template=0)
    truth = changed(truth, template=np.arange(200) * 17, object_id=np.arange(200))
    g_r = colour(model, truth, "sdss_g", "sdss_r")
    assert -0.1 < np.median(g_r) < 0.35
    assert 0.08 < np.std(g_r) < 0.6
    w1_w2 = colour(model, truth, "wise_w1", "wise_w2") - 2.699 + 3.339
    assert 0.9 < np.median(w1_w2) < 1.5
    assert 0.02 < np.std(w1_w2) < 0.4


def test_forest_has_the_mean_of_its_mean():
    truth = quasar(np.full(120, 3.0) + np.arange(120) * 1e-4)
    part = slice(int(grids.FINE.position(1100.0)), int(grids.FINE.position(1190.0)))
    seen = np.mean([quasars.forest(truth[[i]], part).mean() for i in range(120)])
    wanted = quasars.mean_transmission(
        grids.FINE.wavelength[part] * 4.006, np.array([3.006])
    ).mean()
    # Damped absorbers, of which the mean knows nothing, take a little more.
    assert 0.92 * wanted < seen < 1.01 * wanted


def test_lyman_beta_and_alpha_are_of_the_same_gas():
    truth = quasar(np.full(60, 3.0) + np.arange(60) * 1e-4)
    part = slice(int(grids.FINE.position(950.0)), int(grids.FINE.position(1015.0)))
    seen = np.mean([quasars.forest(truth[[i]], part).mean() for i in range(60)])
    wave = grids.FINE.wavelength[part] * 4.003
    wanted = quasars.mean_transmission(wave, np.array([3.003])).mean()
    # Wings of damped absorbers take more, as in Lyman alpha.
    assert 0.85 * wanted < seen < 1.02 * wanted
    assert wanted < np.exp(-0.0018 * (wave / 1215.67) ** 3.92).mean()


@pytest.mark.parametrize("z", [3.0, 4.0, 5.0])
def test_the_mean_free_path_of_ionising_light(z):
    from omnisky.mock.population.cosmology import age_gyr

    # Worseck et al. (2014): 37 Mpc at z = 4. Light travels 306.6 Mpc in a Gyr.
    travelled = (age_gyr(z - 0.005) - age_gyr(z)) * 306.6
    depth = quasars._continuum_depth(np.array([911.75 * (1 + z - 0.005)]), np.array([1 + z]))[0]
    assert travelled / depth == pytest.approx(37.0 * ((1 + z) / 5.0) ** -5.4, rel=0.03)


def test_light_below_the_lyman_limit_of_distant_quasars_is_lost(model):
    wave = np.arange(3700.0, 7000.0, 1.0)
    flux = model.spectrum(quasar(4.0), wave)
    assert flux[wave < 911 * 4.9].mean() < 0.1 * flux[wave > 6200].mean()
    assert np.all(flux >= 0)


def test_quasars_differ_and_forests_differ(model):
    truth = quasar([2.6, 2.6000001, 2.6])
    truth = changed(truth, template=5)
    one, two, three = (model.spectrum(truth[[i]], WAVE) for i in range(3))
    blue = WAVE < 1190 * 3.6
    assert not np.allclose(one[blue], two[blue], rtol=0.05)
    assert not np.allclose(one[blue], three[blue], rtol=0.05)
    other = model.spectrum(changed(truth, template=900)[[0]], WAVE)
    assert np.std(np.log(other / one)[~blue]) > 0.02


# Lensed sources, quick magnitudes


def test_sources_have_the_wanted_flux_and_are_blue(model):
    truth = galaxy(0.5, 11.3, -12.3, 0.05)
    assert np.all(model.source_fluxes(truth) == 0)
    lens = changed(truth, lens_theta_e=1.2, source_redshift=2.0, source_flux_r=3.0, ebv=0.02)
    flux = model.source_fluxes(lens)
    assert flux[0, BANDS.index("decam_r")] == pytest.approx(3.0)
    g_r = magnitude(flux, "decam_g") - magnitude(flux, "decam_r")
    assert g_r[0] < 0.6 < float(colour(model, truth, "decam_g", "decam_r")[0])


@pytest.mark.parametrize("agn", [2, 3])
def test_nuclei_have_what_they_add_to_the_bulge(model, agn):
    quiet = changed(galaxy(0.1, 10.8, -11.0, 0.3), agn=0)
    assert np.all(model.nucleus_fluxes(quiet) == 0)
    active = changed(quiet, agn=agn, log_l_agn=41.5)
    added = model.fluxes(active) - model.fluxes(quiet)
    assert model.nucleus_fluxes(active) == pytest.approx(added[:, 0], rel=1e-4)
    assert np.all(added[:, 1:] == 0)


def test_quick_magnitudes_are_close(model):
    rng = np.random.default_rng(0)
    n = 200
    z, mass = rng.uniform(0.02, 1.0, n), rng.uniform(9.5, 11.3, n)
    ssfr, a_v = rng.uniform(-12.5, -9.2, n), rng.uniform(0.0, 1.0, n)
    distance = 3000.0
    truth = changed(
        typical(z, mass, ssfr, a_v),
        luminosity_distance=distance,
        log_z_star=np.clip(rng.normal(-0.1, 0.25, n), -1.5, 0.3),
        bulge_fraction=rng.uniform(0, 1, n),
    )
    from omnisky.mock.sed import quick
    from omnisky.mock.tables import load

    got = sed.quick_r_magnitude(z, mass, ssfr, a_v)
    t = load("quick")
    got -= np.interp(np.log1p(z), t["log_one_plus_z"], t["modulus"]) - 5 * np.log10(distance)
    off = got - magnitude(model.fluxes(truth, False), "decam_r")
    assert abs(np.median(off)) < 0.06
    assert np.percentile(np.abs(off), 68) < 0.15
    assert quick.quick_r_magnitude(0.1, 10.0, -10.0, 0.3).shape == ()


# The contract


def test_a_spectrum_is_of_one_object(model):
    with pytest.raises(ValueError, match="one object"):
        model.spectrum(galaxy(np.array([0.1, 0.2])), WAVE)
    with pytest.raises(ValueError, match="two or more"):
        model.spectrum(galaxy(), WAVE[:1])
    for wrong in (WAVE[::-1], np.array([4000.0, np.nan, 4002.0])):
        with pytest.raises(ValueError, match="must increase"):
            model.spectrum(galaxy(), wrong)


def test_what_comes_towards_us_has_a_far_ultraviolet_too(model):
    wave = np.arange(890.0, 1400.0, 0.5)
    near = changed(galaxy(log_ssfr=-9.5), luminosity_distance=1.0, ebv=0.05)
    away, towards = (model.spectrum(changed(near, redshift=z), wave) for z in (1e-3, -1e-3))
    assert towards.shape == wave.shape
    assert np.sum(towards) == pytest.approx(np.sum(away), rel=0.02)


def test_the_light_of_a_nucleus_may_have_its_own_share(model):
    truth = galaxy(0.1, 11.0, -12.5, 0.1, agn=2, log_l_agn=41.5)
    wave = np.arange(5450.0, 5560.0, 0.8)
    usual, same, alone, none = (
        model.spectrum(truth, wave, share=share)
        for share in ((0.3, 0, 0), (0.3, 0, 0, 0.3), (0, 0, 0, 1.0), (0.3, 0, 0, 0.0))
    )
    np.testing.assert_array_equal(usual, same)
    np.testing.assert_allclose(none + 0.3 * alone, usual, rtol=1e-4)


def test_resolution_widens_lines(model):
    truth = galaxy(0.1, 10.0, -9.3, 0.2, log_sigma_gas=1.6)
    wave = np.arange(5480.0, 5540.0, 0.4)
    sharp, blurred = (model.spectrum(truth, wave, resolution_fwhm=f) for f in (1.5, 6.0))
    assert sharp.max() - np.median(sharp) > 2.5 * (blurred.max() - np.median(blurred))
    assert np.sum(sharp) == pytest.approx(np.sum(blurred), rel=0.02)


def test_coarse_pixels_average(model):
    truth = galaxy(0.1, 10.5, -12.0, 0.1)
    fine = model.spectrum(truth, np.arange(5000.0, 7000.0, 0.5))
    coarse = model.spectrum(truth, np.arange(5010.0, 6990.0, 20.0))
    at = [(k - 20, k + 20) for k in range(20, len(fine) - 20, 40)]
    means = np.array([fine[a:b].mean() for a, b in at])[: len(coarse)]
    np.testing.assert_allclose(coarse[: len(means)], means, rtol=6e-3)


def mixture() -> Truth:
    rng = np.random.default_rng(3)
    n = 40
    rows = [
        galaxy(
            rng.uniform(0.02, 1.2, n),
            rng.uniform(9, 11.5, n),
            rng.uniform(-12.5, -9, n),
            rng.uniform(0, 1, n),
            agn=np.arange(n) % 4,
            log_l_agn=41.0,
            ebv=0.03,
        ),
        quasar(rng.uniform(0.3, 4.0, n), ebv=0.03),
        Truth(
            {
                "object_id": np.arange(n),
                "kind": np.ones(n),
                "teff": np.geomspace(2700.0, 40000.0, n),
                "logg": np.where(np.arange(n) % 5 == 0, 8.0, 4.0),
                "feh": rng.uniform(-2, 0.3, n),
                "log_luminosity": np.zeros(n),
                "distance": rng.uniform(50, 5000, n),
                "a_v_star": rng.uniform(0, 0.5, n),
                "redshift": np.zeros(n),
                "binary": np.arange(n) % 2 == 0,
                "teff_2": np.full(n, 3500.0),
                "logg_2": np.full(n, 4.8),
                "log_luminosity_2": np.full(n, -1.5),
            }
        ),
    ]
    order = rng.permutation(3 * n)
    return Truth({k: np.concatenate([row[k] for row in rows])[order] for k in rows[0]})


def test_nothing_depends_on_the_batch(model):
    truth = mixture()
    n = len(truth)
    whole = model.fluxes(truth)
    assert np.all(np.isfinite(whole))
    assert np.all(whole >= 0)
    for size in (1, 7, 64):
        parts = [model.fluxes(truth[i : i + size]) for i in range(0, n, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(0).permutation(n)
    np.testing.assert_array_equal(model.fluxes(truth[order]), whole[order])
    alone = [model.spectrum(truth[[i]], WAVE) for i in range(0, n, 10)]
    again = [model.spectrum(truth[i : i + 1], WAVE) for i in range(0, n, 10)]
    for a, b in zip(alone, again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.all(np.isfinite(a))
