"""Spectra of the mock universe's own light: the same object in every instrument and band."""

from types import SimpleNamespace

import numpy as np
import pytest

from omnisky.mock.spectra import DesiModel, SdssModel, SpectrumArtefacts, XpModel
from omnisky.mock.spectra.desi_instrument import WAVELENGTH
from omnisky.mock.truth import GALAXY, QUASAR, STAR, Truth

CONFIG = SimpleNamespace(seed=5)
PERFECT = SpectrumArtefacts.none()


def _sun_like():
    columns = dict(
        object_id=3,
        kind=STAR,
        teff=5800.0,
        logg=4.4,
        feh=-0.5,
        log_luminosity=0.0,
        distance=900.0,
        a_v_star=0.1,
        ebv=0.04,
        redshift=1e-4,
    )
    return Truth({name: np.array([value]) for name, value in columns.items()})


def test_spectra_and_photometry_are_of_one_star():
    from omnisky.mock import tables
    from omnisky.mock.sed import BANDS, SedModel

    star, table = _sun_like(), tables.load("filters")
    fluxes = SedModel.load().fluxes(star)[0].sum(axis=0)

    def through(band, wave, light):
        response = np.interp(
            wave, table[f"{band}_wavelength"], table[f"{band}_response"], left=0, right=0
        )
        mean = np.trapezoid(light * response * wave, wave) / np.trapezoid(response / wave, wave)
        return 10 ** (0.4 * (22.5 + 48.6)) * 1e-17 * mean / 2.99792458e18

    desi = DesiModel(CONFIG, artefacts=PERFECT).observe(star)
    sdss = SdssModel(CONFIG, artefacts=PERFECT).observe(star)
    for band, wave, light in (
        ("decam_r", WAVELENGTH, desi.noiseless),
        ("sdss_r", 10**sdss.loglam, sdss.noiseless),
        ("sdss_i", 10**sdss.loglam, sdss.noiseless),
    ):
        assert through(band, wave, light) == pytest.approx(fluxes[BANDS.index(band)], rel=0.01)
    xp = XpModel(CONFIG)
    result = xp.observe(star)
    for arm, zero_point in (("bp", 25.3540), ("rp", 25.1040)):
        seen = (xp.instrument.arms[arm].basis.T @ getattr(result, arm).truth).sum() * 0.5
        expected = fluxes[BANDS.index(f"gaia_{arm}")] * 10 ** (0.4 * (zero_point - 22.5))
        assert seen == pytest.approx(expected, rel=0.02)


def test_nothing_is_not_a_number_for_any_kind_of_object():
    from omnisky.mock.population import UniverseConfig, draw
    from omnisky.mock.sed import SedModel

    config = UniverseConfig(seed=8)
    truth = draw(config, np.arange(40))
    fluxes = SedModel.load().fluxes(truth)
    models = [model(config) for model in (DesiModel, SdssModel)]
    xp = XpModel(config)
    assert set(truth["kind"]) == {GALAXY, STAR, QUASAR}
    for i in range(len(truth)):
        for model in models:
            result = model.observe(truth[[i]], fluxes[i])
            parts = list(result.arms.values()) if hasattr(result, "arms") else [result]
            for part in parts:
                assert np.all(np.isfinite(part.flux))
                assert np.all(np.isfinite(part.ivar))
                assert np.all(part.ivar >= 0)
        measured = xp.observe(truth[[i]])
        assert np.all(np.isfinite([measured.bp.value, measured.rp.error]))
        assert np.all(measured.bp.error > 0)
