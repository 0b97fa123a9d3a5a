"""Gaia XP coefficients: the exact inverse of what GaiaXPy does, with the archive's errors."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from omnisky.mock import tables
from omnisky.mock.spectra import XpModel
from omnisky.mock.spectra.gaia_xp import PUPIL_M2, XpInstrument, hermite
from omnisky.mock.truth import STAR, Truth
from omnisky.surveys.gaia.coefficients import BASES, COLUMNS

CONFIG = SimpleNamespace(seed=2)
# AB zero points of photo-electrons a second (Riello et al. 2021).
ZERO_POINTS = {"bp": 25.3540, "rp": 25.1040}
HC = 6.62607004e-34 * 2.99792458e8


class Blackbody:
    def __init__(self, teff, level=200.0):
        self.teff, self.level = teff, level

    def spectrum(self, truth, wavelength_angstrom, *, share=(1, 1, 1), resolution_fwhm=None):
        wave = np.asarray(wavelength_angstrom)
        planck = wave**-5 / np.expm1(1.4388e8 / (wave * self.teff))
        return self.level * planck / (6200.0**-5 / np.expm1(1.4388e8 / (6200.0 * self.teff)))


def star(i=0):
    return Truth({"object_id": np.array([i]), "kind": np.array([STAR])})


def observed(teff=5500.0, i=0, level=200.0):
    return XpModel(CONFIG, sed=Blackbody(teff, level)).observe(star(i))


@pytest.mark.parametrize("teff", [3200, 4500, 5800, 9000, 20000])
@pytest.mark.parametrize("arm", ["bp", "rp"])
def test_the_sum_of_a_spectrum_is_the_flux_through_the_passband(teff, arm):
    result = getattr(observed(teff), arm)
    total = (XpInstrument().arms[arm].basis.T @ result.truth).sum() * 0.5
    table = tables.load("filters")
    wave, response = table[f"gaia_{arm}_wavelength"], table[f"gaia_{arm}_response"]
    flux = 1e-17 * Blackbody(teff).spectrum(None, wave)
    mean = np.trapezoid(flux * response * wave, wave) / np.trapezoid(response / wave, wave)
    magnitude = -2.5 * np.log10(mean / 2.99792458e18) - 48.6
    assert total == pytest.approx(10 ** (0.4 * (ZERO_POINTS[arm] - magnitude)), rel=0.02)


@pytest.mark.parametrize("teff", [3500, 5000, 8000])
def test_the_published_synthesis_returns_the_spectrum(teff):
    """f = hc / (P R lambda) c T C H, written from the paper, without our matrices."""
    result = observed(teff)
    for arm, low, high in (("bp", 400, 630), ("rp", 650, 1000)):
        table = {k[3:]: v for k, v in tables.load("gaia_xp").items() if k.startswith(arm)}
        wave = np.arange(low, high, 2.0)
        start, stop, norm_low, norm_high = table["range"]
        u = CubicSpline(*table["dispersion"])(wave)
        x = norm_low + (u - start) * (norm_high - norm_low) / (stop - start)
        design = table["rotation"] @ table["bases"] @ hermite(x)
        response = CubicSpline(*table["response"].astype(float))(wave)
        flux = getattr(result, arm).truth @ design * 1e9 * HC / (PUPIL_M2 * response * wave)
        ratio = flux / (1e-19 * Blackbody(teff).spectrum(None, 10 * wave))
        assert np.mean(ratio) == pytest.approx(1, abs=0.005)
        assert np.std(ratio) < 0.012


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("teff", [3500, 5000, 8000])
def test_gaiaxpy_returns_the_spectrum(teff, capfd):
    gaiaxpy = pytest.importorskip("gaiaxpy")
    pandas = pytest.importorskip("pandas")
    result = observed(teff)
    row = result.columns() | {"source_id": 1}
    row["bp_coefficients"], row["rp_coefficients"] = result.bp.truth, result.rp.truth
    grid = np.arange(336.0, 1021.0, 2.0)
    spectra, _ = gaiaxpy.calibrate(pandas.DataFrame([row]), sampling=grid, save_file=False)
    flux = np.asarray(spectra["flux"][0])
    ratio = flux / (1e-19 * Blackbody(teff).spectrum(None, 10 * grid))
    inside = (grid > 400) & (grid < 980)
    assert np.mean(ratio[inside]) == pytest.approx(1, abs=0.003)
    assert np.std(ratio[inside]) < 0.01


def test_noise_scatters_as_errors_and_correlations_say():
    model = XpModel(CONFIG, sed=Blackbody(5000.0, 100.0))
    results = [model.observe(star(i)) for i in range(1500)]
    for arm in ("bp", "rp"):
        chi = np.array([(r.value - r.truth) / r.error for r in (getattr(x, arm) for x in results)])
        assert np.abs(chi.mean(axis=0)).max() < 0.13
        assert chi.std(axis=0) == pytest.approx(1, abs=0.08)
        found = np.corrcoef(chi.T)[np.tril_indices(55, -1)]
        stated = np.mean([getattr(r, arm).correlations for r in results[:40]], axis=0)
        assert np.corrcoef(found, stated)[0, 1] > 0.6
        assert np.std(found - stated) == pytest.approx(1500**-0.5, rel=0.15)


def test_correlations_are_a_matrix_of_correlations():
    values = observed().rp.correlations
    assert values.shape == (1485,)
    matrix = np.eye(55)
    matrix[np.tril_indices(55, -1)] = values
    assert np.linalg.eigvalsh(matrix + np.tril(matrix, -1).T).min() > 0.01
    # Real rows scatter by 0.04 to 0.13.
    assert 0.02 < values.std() < 0.15


def test_brighter_stars_have_smaller_relative_errors():
    ratios = [
        np.linalg.norm((r := observed(level=level).rp).error) / r.truth[0]
        for level in (5.0, 50.0, 500.0)
    ]
    assert ratios[0] > 2 * ratios[1] > 4 * ratios[2]


def test_columns_are_those_of_the_archive(real_data):
    with open(real_data / "native" / "gaia_xp" / "XP_CONTINUOUS_RAW.csv") as file:
        header = next(csv.reader(file))
    assert set(observed().columns()) == set(header) - {"source_id", "solution_id"}


def test_columns_are_what_the_reader_wants():
    columns = observed().columns()
    assert set(COLUMNS) | set(BASES) <= set(columns)
    assert (columns["bp_basis_function_id"], columns["rp_basis_function_id"]) == (56, 57)
    assert columns["bp_degrees_of_freedom"] == columns["bp_n_measurements"] - 55
    assert 1 <= columns["rp_n_relevant_bases"] <= 55
    assert 0.999 < columns["rp_relative_shrinking"] <= 1
    model = XpModel(CONFIG, sed=Blackbody(5500.0))
    counts = [model.observe(star(i)).rp.transits for i in range(200)]
    assert 30 < np.median(counts) < 46
    assert min(counts) > 9
