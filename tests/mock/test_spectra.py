"""Mock spectra: what a perfect instrument would see, plus a real one's noise and faults."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kstest

from omnisky.mock.spectra import DesiModel, SdssModel, SpectrumArtefacts, SpectrumFlag, XpModel
from omnisky.mock.spectra.desi_instrument import PARTS, PETALS, WAVELENGTH, spectrograph
from omnisky.mock.spectra.exposure import Conditions
from omnisky.mock.spectra.fibre import Aperture
from omnisky.mock.spectra.night import NightSky, SkyState
from omnisky.mock.truth import GALAXY, QUASAR, STAR, Truth
from omnisky.surveys import modality
from omnisky.surveys.desi.arms import grid_pixels, line_width
from omnisky.surveys.survey import log_pixels

CONFIG = SimpleNamespace(seed=5)
PERFECT = SpectrumArtefacts.none()


class Blackbody:
    """Light that needs no tables: `level` at 6200 Angstrom, of 5000 K or of the star's own."""

    def __init__(self, level=5.0):
        self.level = level
        self.seen = None

    def spectrum(self, truth, wavelength_angstrom, *, share=(1, 1, 1), resolution_fwhm=None):
        teff = float(np.nan_to_num(truth["teff"][0], nan=5000.0))
        self.seen = share

        def planck(wave):
            return wave**-5 / np.expm1(1.4388e8 / (wave * teff))

        return self.level * planck(wavelength_angstrom) / planck(6200.0)


def objects(n=1, kind=STAR, start=0, **columns):
    return Truth(
        {"object_id": np.arange(start, start + n), "kind": np.full(n, kind)}
        | {name: np.broadcast_to(value, n) for name, value in columns.items()}
    )


def one(i=0, kind=STAR, **columns):
    return objects(1, kind, start=i, **columns)


# --- artefacts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan])
def test_chances_are_checked(value):
    with pytest.raises(ValueError, match=r"missing_arm is a chance, from 0 to 1; found"):
        SpectrumArtefacts(missing_arm=value)


def test_switches_are_checked():
    with pytest.raises(ValueError, match=r"bad_pixels is True or False; found 0\.5"):
        SpectrumArtefacts(bad_pixels=0.5)


def test_each_artefact_can_be_forced_alone_and_is_flagged():
    names = ("low_throughput", "amplifier_step", "missing_arm", "cosmic_left", "sky_left")
    for name in (*names, "neighbour"):
        only = SpectrumArtefacts(**(vars(PERFECT) | {name: 1.0, "sky_residuals": True}))
        plain = SpectrumArtefacts(**(vars(PERFECT) | {"sky_residuals": True}))
        for model in (DesiModel, SdssModel):
            faulty = model(CONFIG, sed=Blackbody(), artefacts=only).observe(one())
            good = model(CONFIG, sed=Blackbody(), artefacts=plain).observe(one())
            assert faulty.flags == SpectrumFlag[name.upper()]
            assert good.flags == SpectrumFlag.NONE
            first, second = (_flux(result) for result in (faulty, good))
            assert not np.array_equal(first, second), f"{name} leaves {model.__name__} as it was"


def _flux(result):
    return (
        np.concatenate([a.flux for a in result.arms.values()])
        if hasattr(result, "b")
        else (result.flux)
    )


def test_a_lost_arm_has_no_data():
    lost = SpectrumArtefacts(**(vars(PERFECT) | {"missing_arm": 1.0}))
    arms = DesiModel(CONFIG, sed=Blackbody(), artefacts=lost).observe(one()).arms.values()
    empty = [not arm.ivar.any() and bool(arm.mask.all()) for arm in arms]
    assert sum(empty) == 1
    result = SdssModel(CONFIG, sed=Blackbody(), artefacts=lost).observe(one())
    assert 0.2 < (result.ivar == 0).mean() < 0.8
    assert np.all(result.and_mask[result.ivar == 0] != 0)


# --- fibres ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeing", [0.7, 1.0, 1.6])
def test_points_scatter_like_a_moffat_profile(seeing):
    alpha = 0.5 * seeing / np.sqrt(2 ** (1 / 3.5) - 1)
    enclosed = 1 - (1 + (0.75 / alpha) ** 2) ** (1 - 3.5)
    assert Aperture(1.5).point(seeing) == pytest.approx(enclosed, abs=0.007)


def test_a_small_galaxy_is_a_point():
    fibre = Aperture(1.5)
    assert fibre.sersic(0.003, 4.0, 1.1) == pytest.approx(fibre.point(1.1), rel=0.02)


@pytest.mark.parametrize(("index", "size"), [(1.0, 0.8), (1.0, 3.0), (4.0, 1.2), (2.5, 0.4)])
def test_share_in_a_fibre_against_scattered_photons(index, size):
    rng = np.random.default_rng(3)
    n = 400_000
    # Of a Sérsic profile, (r / re)^(1/n) b is distributed as a gamma variate of 2 n.
    b = 2 * index - 1 / 3 + 0.009876 / index
    radius = size * (rng.gamma(2 * index, size=n) / b) ** index
    angle = 2 * np.pi * rng.random(n)
    wide = np.where(rng.random(n) < 0.32, 2.015, 1.004) * 1.2 / 2.3548
    x = radius * np.cos(angle) + wide * rng.standard_normal(n)
    y = radius * np.sin(angle) + wide * rng.standard_normal(n)
    expected = np.mean(np.hypot(x, y) < 0.75)
    assert Aperture(1.5).sersic(size, index, 1.2) == pytest.approx(expected, rel=0.03)


def test_extended_components_lose_light_and_points_do_not():
    galaxy = one(kind=GALAXY, re_bulge=0.5, q_bulge=0.9, n_bulge=4, re_disk=4.0, q_disk=0.5)
    bulge, disk, young, nucleus = Aperture(1.5).shares(galaxy, 1.1)
    assert 1 > bulge > disk == young > 0
    assert Aperture(1.5).shares(one(), 1.1) == (1.0, 1.0, 1.0, 1.0)
    assert nucleus == 1.0  # a point, however large its galaxy
    sed = Blackbody()
    DesiModel(CONFIG, sed=sed).observe(galaxy)
    assert sed.seen[0] > sed.seen[1]


# --- the sky -----------------------------------------------------------------------------------


def test_resolution_keeps_the_light_of_lines():
    grid = np.arange(8300.0, 9000.0, 0.8)
    state = SkyState()
    sharp, soft = (NightSky(grid, np.full(len(grid), s)).emission(state) for s in (0.7, 1.4))
    assert sharp.max() > 1.5 * soft.max()
    assert sharp[50:-50].sum() == pytest.approx(soft[50:-50].sum(), rel=0.01)


def test_the_green_line_is_where_it_is():
    sky = spectrograph(0).detector.sky.emission(SkyState())
    # 5577.34 Angstrom in air.
    assert WAVELENGTH[int(np.argmax(sky[:2751]))] == pytest.approx(5578.9, abs=0.9)


# --- DESI --------------------------------------------------------------------------------------


def test_desi_arms_have_the_form_of_coadds():
    result = DesiModel(CONFIG, sed=Blackbody()).observe(one())
    shapes = {"b": (2751, 3600.0, 5800.0), "r": (2326, 5760.0, 7620.0), "z": (2881, 7520.0, 9824.0)}
    for name, (pixels, first, last) in shapes.items():
        arm = result.arms[name]
        assert (arm.wavelength[0], arm.wavelength[-1]) == (first, last)
        assert [len(v) for v in (arm.flux, arm.ivar, arm.mask)] == [pixels] * 3
        assert (arm.flux.dtype, arm.ivar.dtype, arm.mask.dtype) == (
            np.float32,
            np.float32,
            np.uint32,
        )
        assert arm.resolution.shape == (11, pixels)
        assert arm.resolution.dtype == np.float32
        # What the reader checks, and how it takes the width from the matrix.
        assert np.array_equal(grid_pixels(arm.wavelength, name), np.arange(7781)[PARTS[name]])
        width = line_width(arm.resolution[None])[0]
        assert 0.7 < width[20:-20].min() <= width[20:-20].max() < 1.05
        assert np.all(arm.ivar >= 0)
        assert np.all(np.isfinite(arm.flux))


def test_rows_of_the_resolution_matrix_sum_to_one():
    from scipy.sparse import dia_matrix

    matrix = spectrograph(3)._resolution[0]
    pixels = matrix.shape[1]
    rows = dia_matrix((matrix, np.arange(5, -6, -1)), shape=(pixels, pixels)) @ np.ones(pixels)
    assert rows[6:-6] == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("kind", [STAR, GALAXY, QUASAR])
@pytest.mark.parametrize("model", [DesiModel, SdssModel])
def test_noise_is_what_the_inverse_variance_says(model, kind):
    result = model(CONFIG, sed=Blackbody(2.0), artefacts=PERFECT).observe(
        one(11, kind, sample=0, redshift=1.0)
    )
    if model is DesiModel:
        chi = [
            (arm.flux - result.noiseless[PARTS[name]]) * np.sqrt(arm.ivar)
            for name, arm in result.arms.items()
        ]
    else:
        chi = [(result.flux - result.noiseless) * np.sqrt(result.ivar)]
    chi = np.concatenate(chi)
    assert chi.std() == pytest.approx(1, abs=0.03)
    assert kstest(chi, "norm").pvalue > 1e-3


def test_desi_is_as_deep_as_in_life():
    """One sigma of a faint source in 1000 s under nominal conditions; a real coadd, scaled."""
    loss = 0.97 * Aperture(1.5).point(1.0)
    nominal = Conditions(time_s=1000.0, exposures=1, loss=loss, sky=SkyState())
    at = {3737: 1.63, 4010: 0.85, 4840: 0.46, 6100: 0.34, 7000: 0.22, 8200: 0.16, 9000: 0.155}
    sigma = []
    for petal in range(PETALS):
        detector = spectrograph(petal).detector
        faint = np.zeros(7958, dtype=np.float32)
        variance = detector.variance(faint, detector.sky_flux(nominal), nominal)
        joined = [variance[:2751], variance[2751:5077], variance[5077:]]
        sigma.append(
            [
                np.sqrt(np.median(joined[arm][at_ - 40 : at_ + 40]))
                for arm, at_ in (_pixel(wave) for wave in at)
            ]
        )
    assert np.mean(sigma, axis=0) == pytest.approx(np.array(list(at.values())), rel=0.15)
    # Bright sky, two exposures: noisier.
    moon = Conditions(time_s=1000.0, exposures=2, loss=loss, sky=SkyState(moon=2.0))
    assert np.all(detector.variance(faint, detector.sky_flux(moon), moon) > variance)


def _pixel(wave):
    arm = 0 if wave < 5780 else 1 if wave < 7570 else 2
    return arm, int((wave - (3600, 5760, 7520)[arm]) / 0.8)


def test_merged_weighs_by_inverse_variance():
    result = DesiModel(CONFIG, sed=Blackbody()).observe(one(2))
    flux, ivar, good = result.merged
    i = 2720  # in b and in r
    b, r = (a.flux[k] for a, k in ((result.b, i), (result.r, i - 2700)))
    wb, wr = (float(a.ivar[k]) for a, k in ((result.b, i), (result.r, i - 2700)))
    assert flux[i] == pytest.approx((wb * b + wr * r) / (wb + wr))
    assert ivar[i] == pytest.approx(wb + wr)
    assert good.mean() > 0.99


def test_programs_of_desi():
    model = DesiModel(CONFIG, sed=Blackbody())
    bright = [model.observe(one(i, GALAXY, sample=0)) for i in range(20)]
    dark = [model.observe(one(i, GALAXY, sample=2)) for i in range(20)]
    assert {r.program for r in bright} == {"bright"}
    assert {r.program for r in dark} == {"dark"}
    assert 150 < np.median([r.effective_s for r in bright]) < 215
    assert 800 < np.median([r.effective_s for r in dark]) < 1200


def test_masked_pixels_are_few_and_have_no_weight():
    model = DesiModel(CONFIG, sed=Blackbody())
    results = [model.observe(one(i, GALAXY, sample=2)) for i in range(60)]
    kept = [r for r in results if not r.flags & SpectrumFlag.MISSING_ARM]
    masks = np.concatenate([a.mask for r in kept for a in r.arms.values()])
    ivar = np.concatenate([a.ivar for r in kept for a in r.arms.values()])
    assert 1e-4 < np.mean(masks != 0) < 3e-3
    assert np.array_equal(ivar == 0, masks != 0)


# --- SDSS --------------------------------------------------------------------------------------


def _fluxes(magnitude):
    return np.full((3, 24), 10 ** (-0.4 * (magnitude - 22.5)) / 3)


def test_sdss_spectra_are_on_the_grid_of_the_survey():
    pytest.importorskip("omnisky.mock.sed")
    model = SdssModel(CONFIG, sed=Blackbody())
    seen = {}
    for i in range(20):
        for magnitude in (17.0, 20.0):
            result = model.observe(one(i), _fluxes(magnitude))
            part = log_pixels(modality("sdss_spectrum"), result.loglam, "mock")
            assert part.stop - part.start == len(result.flux)
            ends = 10 ** result.loglam[[0, -1]]
            low, high = {"sdss": (3820, 9200), "boss": (3620, 10300)}[result.instrument]
            assert 0.97 * low < ends[0] < low
            assert high < ends[1] < 1.03 * high
            lengths = {
                len(getattr(result, name))
                for name in ("flux", "ivar", "loglam", "and_mask", "or_mask", "wdisp", "sky")
            }
            assert len(lengths) == 1
            assert 0.6 < result.wdisp.min() < result.wdisp.max() < 2.0
            assert result.sky.min() > 0
            assert np.all(result.or_mask & result.and_mask == result.and_mask)
            seen[magnitude, result.instrument] = seen.get((magnitude, result.instrument), 0) + 1
    assert seen[17.0, "sdss"] > 10
    assert seen[20.0, "boss"] == 20


def test_sdss_reaches_the_signal_of_its_main_sample():
    """A galaxy of r = 17.8 with a third of its light in the fibre has 7 to 20 sigma a pixel."""
    # 8e-17 erg / s / cm2 / A is r = 18.9, in the fibre.
    model = SdssModel(CONFIG, sed=Blackbody(8.0))
    ratios = []
    for i in range(20):
        result = model.observe(one(i, GALAXY, sample=0))
        good = (result.ivar > 0) & (np.abs(result.loglam - np.log10(6200)) < 0.03)
        ratios.append(np.median(result.noiseless[good] * np.sqrt(result.ivar[good])))
    assert 7 < np.median(ratios) < 20


# --- both --------------------------------------------------------------------------------------


def _bits(result):
    if hasattr(result, "bp"):
        parts = [v for arm in (result.bp, result.rp) for v in (arm.value, arm.error)]
        return np.concatenate([*parts, result.bp.correlations]).tobytes()
    if hasattr(result, "arms"):
        return b"".join(v.tobytes() for a in result.arms.values() for v in (a.flux, a.ivar, a.mask))
    return b"".join(v.tobytes() for v in (result.flux, result.ivar, result.and_mask, result.sky))


@pytest.mark.parametrize("model", [DesiModel, SdssModel, XpModel])
def test_an_object_is_the_same_whatever_the_batch_and_the_order(model):
    truth = objects(64, teff=np.linspace(4000, 9000, 64))
    first = model(CONFIG, sed=Blackbody())
    alone = [_bits(first.observe(truth[[i]])) for i in range(64)]
    for size in (1, 7, 64):
        again = model(CONFIG, sed=Blackbody())
        order = np.random.default_rng(size).permutation(64)
        for start in range(0, 64, size):
            part = truth[order[start : start + size]]
            for j in range(len(part)):
                assert _bits(again.observe(part[[j]])) == alone[int(part["object_id"][j])]
    other = model(SimpleNamespace(seed=6), sed=Blackbody())
    assert _bits(other.observe(truth[[0]])) != alone[0]
    assert len(set(alone)) == 64
