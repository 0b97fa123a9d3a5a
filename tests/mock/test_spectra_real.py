"""Noise, skies and errors of mock spectra beside those of real files, where these are there."""

import csv

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import median_filter

from omnisky.mock import tables
from omnisky.mock.spectra.desi_instrument import ARMS, PETALS, spectrograph
from omnisky.mock.spectra.exposure import Conditions
from omnisky.mock.spectra.fibre import Aperture
from omnisky.mock.spectra.gaia_xp import XpInstrument
from omnisky.mock.spectra.night import SkyState
from omnisky.mock.spectra.sdss_instrument import spectrograph as sdss_spectrograph

pytestmark = pytest.mark.real_data


def _vector(text):
    return np.array([float(part) for part in text.strip("()[] ").split(",")])


@pytest.fixture(scope="module")
def rows(real_data):
    """Return the rows of XP coefficients that the archive's files hold, by source."""
    found = {}
    for path in sorted((real_data / "native" / "gaia_xp").glob("*.csv")):
        with open(path) as file:
            for row in csv.DictReader(file):
                found.setdefault(row["source_id"], row)
    if len(found) < 6:
        pytest.skip("the archive's rows that errors were measured on are not there")
    return list(found.values())


def _arm_rows(rows, arm):
    for row in rows:
        if row[f"{arm}_coefficients"]:
            yield (
                _vector(row[f"{arm}_coefficients"]),
                _vector(row[f"{arm}_coefficient_errors"]) / float(row[f"{arm}_standard_deviation"]),
                int(row[f"{arm}_n_measurements"]) / 60,
            )


@pytest.mark.parametrize("arm", ["bp", "rp"])
def test_xp_errors_are_those_of_the_archive(rows, arm):
    instrument = XpInstrument().arms[arm]
    ratios = []
    for value, error, transits in _arm_rows(rows, arm):
        # The brightest was read out with gates and varies; it is no test of photon noise.
        if value[0] < 2e4:
            variance = instrument.noise(value, round(transits), 1.0)
            ratios.append(error / np.sqrt(instrument.fit_squared @ variance))
    ratios = np.array(ratios)
    assert len(ratios) >= 4
    assert np.median(ratios) == pytest.approx(1, abs=0.12)
    assert np.abs(np.log(np.median(ratios, axis=0))).max() < 0.5
    # The gains make the pattern over coefficients right: without them the last are off by ten.
    gain = tables.load("gaia_xp")[f"{arm}_error_gain"]
    with_gain = np.std(np.log(np.median(ratios, axis=0)))
    without = np.std(np.log(np.median(ratios, axis=0) * gain))
    assert with_gain < 0.35 * without


def test_desi_noise_is_that_of_a_real_coadd(real_data):
    path = real_data / "native" / "desi_coadd" / "coadd-special-dark-27247.fits"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    with fits.open(path) as hdus:
        # Effective seconds from the pipeline's signal to noise of galaxies (Guy et al. 2023).
        time = 12.15 * float(hdus["SCORES"].data["TSNR2_LRG"][0])
        exposures = 20 * time / float(hdus["FIBERMAP"].data["COADD_EXPTIME"][0])
        ivar = np.concatenate([hdus[f"{a}_IVAR"].data[0] for a in "BRZ"]).astype(float)
    loss = 0.97 * Aperture(1.5).point(1.0)
    dark = Conditions(time_s=time, exposures=round(exposures), loss=loss, sky=SkyState())
    faint = np.full(len(ivar), 0.05, dtype=np.float32)
    detectors = [spectrograph(petal).detector for petal in range(PETALS)]
    sigma = np.median([np.sqrt(d.variance(faint, d.sky_flux(dark), dark)) for d in detectors], 0)
    ratio = sigma * np.sqrt(ivar)
    for arm in ARMS:
        parts = np.array_split(ratio[arm], 16)
        # The outermost parts hang on each spectrograph's dichroics.
        assert np.median([np.median(p) for p in parts]) == pytest.approx(1, abs=0.06)
        assert np.abs([np.median(p) - 1 for p in parts[1:-1]]).max() < 0.25


def test_boss_noise_and_sky_are_those_of_a_real_plate(real_data):
    paths = sorted((real_data / "native" / "sdss_spec").glob("spec-3655-*.fits"))
    if len(paths) < 10:
        pytest.skip("the spectra of plate 3655 are not there")
    mock = sdss_spectrograph("boss", 0)
    usual = Conditions(time_s=4500.0, exposures=5, loss=0.64, sky=SkyState())
    noise, sky, flagged = [], [], []
    for path in paths[::4]:
        with fits.open(path) as hdus:
            data = hdus[1].data
            first = round(float(data["loglam"][0]) * 1e4) - mock.instrument.loglam[0]
            here = slice(first, first + len(data))
            flux = np.zeros(len(mock.wavelength), dtype=np.float32)
            flux[here] = median_filter(data["flux"].astype(float), 51)
            light = mock.detector.sky_flux(usual)
            sigma = np.sqrt(mock.detector.variance(flux, light, usual))[here]
            good = data["ivar"] > 0
            ratio = sigma[good] * np.sqrt(data["ivar"][good])
            noise.append([np.median(part) for part in np.array_split(ratio, 20)])
            lit = data["sky"] > 0
            if lit.mean() > 0.9:
                sky.append(np.median(light[0][here][lit] / data["sky"][lit]))
            flagged.append(np.mean((data["and_mask"].astype(np.int64) >> 23) & 1))
    assert np.abs(np.log(np.median(noise, axis=0))).max() < 0.2
    assert np.median(sky) == pytest.approx(1.05, abs=0.12)
    assert mock.bright_sky.mean() == pytest.approx(np.mean(flagged), rel=0.25)
