"""Gaia XP: the 55 + 55 coefficients of a spectrum, their errors and correlations.

The archive's coefficients `c` describe a mean spectrum ``c T H(u)`` of photo-electrons a second
and sample on the axis of pseudo-wavelength u, with Hermite functions H and a rotation T (De Angeli
et al. 2023, A&A 674, A2; Carrasco et al. 2021, A&A 652, A86). GaiaXPy turns them into an absolute
spectrum ``hc / (P R lambda) c T C H(u)`` (Montegriffo et al. 2023, A&A 674, A3). Since H is an
orthonormal and complete set, that can be inverted: the photo-electrons a second and nanometre,
``f P R lambda / hc``, have the Hermite coefficients ``h = c T C``, so that ``c = h C^-1 T^-1``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.special import ndtri

from omnisky.mock import tables
from omnisky.mock.seeds import Seeded, uniforms
from omnisky.mock.spectra.settings import Sed, light_of
from omnisky.mock.truth import Truth

__all__ = ["XpArm", "XpInstrument", "XpMeasurement", "XpModel", "XpResult", "hermite"]

SIZE = 55
_PLANCK, _LIGHT = 6.62607004e-34, 2.99792458e8
PUPIL_M2 = 0.7278
# W m-2 nm-1 of 1e-17 erg s-1 cm-2 A-1.
_SI = 1e-19
# One transit over a row of detectors exposes for this many seconds and reads out 60 samples.
EXPOSURE_S, SAMPLES = 4.42, 60
# Background and read-out noise of a sample, (photo-electrons a second)^2, and relative error of
# a transit's calibration: from the archive's rows of faint and of bright stars.
_BACKGROUND = {"bp": 4.8, "rp": 6.5}
_RELATIVE = 0.006
# Stars brighter than this are read out with shorter gates, which keeps them off saturation.
_GATE_MAG = 11.5
_ZERO_POINTS = {"bp": 25.3385, "rp": 24.7479}  # Vega (Riello et al. 2021)
# Fine in u, so that products of two basis functions are integrated without aliasing.
_STEP_U = 0.5
_BASIS_ID = {"bp": 56, "rp": 57}
# Largest share of transits that an arm loses to crowding.
_LOST = {"bp": 0.4, "rp": 0.1}
# Scatter of the remaining coefficients, in errors, above which they are not yet noise.
_NOISY = 1.15


def hermite(x: np.ndarray) -> np.ndarray:
    """Return the normalised Hermite functions of orders below 55, by their recurrence.

    Parameters
    ----------
    x : array, shape (position,)
        Normalised pseudo-wavelengths.

    Returns
    -------
    array of float64, shape (55, position)
    """
    values = np.zeros((SIZE, len(x)))
    values[0] = np.pi**-0.25 * np.exp(-0.5 * x**2)
    values[1] = np.sqrt(2.0) * x * values[0]
    for n in range(2, SIZE):
        values[n] = np.sqrt(2.0 / n) * x * values[n - 1] - np.sqrt(1 - 1 / n) * values[n - 2]
    return values


class XpArm:
    """Hold one arm of the XP instrument, BP or RP.

    Parameters
    ----------
    name : {"bp", "rp"}
        Which.
    wavelength_nm : array, shape (pixel,)
        Where spectra will be given; the arm takes what its response covers.
    """

    def __init__(self, name: str, wavelength_nm: np.ndarray) -> None:
        table = {k.removeprefix(f"{name}_"): v for k, v in tables.load("gaia_xp").items()}
        self.name = name
        start, stop, low, high = table["range"]
        scale = (high - low) / (stop - start)
        response = table["response"].astype(np.float64)
        inside = (wavelength_nm > response[0, 0]) & (wavelength_nm < response[0, -1])
        self.part = slice(int(np.argmax(inside)), len(inside) - int(np.argmax(inside[::-1])))
        grid = wavelength_nm[self.part]
        dispersion = CubicSpline(*table["dispersion"])
        x = low + (dispersion(grid) - start) * scale
        # Trapezium rule in wavelength for the integral over the normalised axis.
        steps = np.gradient(grid)
        jacobian = np.abs(dispersion(grid, 1)) * scale
        photons = _SI * PUPIL_M2 * CubicSpline(*response)(grid) * grid
        photons /= 1e9 * _PLANCK * _LIGHT
        weighted = hermite(x) * (photons * jacobian * steps)
        # c T C = h, and T is orthogonal.
        self.matrix = table["rotation"] @ np.linalg.solve(table["bases"].T, weighted)
        samples = np.arange(0.0, SAMPLES, _STEP_U)
        self.basis = table["rotation"] @ hermite(low + (samples - start) * scale)
        weighted = self.basis * np.sqrt(_STEP_U)
        fit = np.linalg.solve(weighted @ weighted.T, weighted)
        self.fit = np.ascontiguousarray(table["error_gain"][:, None] * fit)
        self.fit_squared = self.fit**2

    def noise(self, coefficients: np.ndarray, transits: int, background: float) -> np.ndarray:
        """Return the variance of each sample of the mean spectrum, shape (sample,)."""
        light = np.einsum("nu,n->u", self.basis, coefficients).clip(0)
        magnitude = _ZERO_POINTS[self.name] - 2.5 * np.log10(light.sum() * _STEP_U + 1e-9)
        gated = min(1.0, 10 ** (0.4 * (magnitude - _GATE_MAG)))
        noise = background * _BACKGROUND[self.name] + light / (EXPOSURE_S * gated)
        return (noise + (_RELATIVE * light) ** 2) / transits


class XpInstrument:
    """Hold both arms and the wavelengths at which they want a spectrum."""

    def __init__(self) -> None:
        # The bases resolve 1.5 nm in the blue, 3 nm in the red.
        self.wavelength_nm = np.concatenate(
            [np.arange(325.0, 450.0, 1.0), np.arange(450.0, 1096.0, 2.0)]
        )
        self.wavelength = 10 * self.wavelength_nm
        self.resolution_fwhm = np.where(self.wavelength_nm < 450, 15.0, 30.0)
        self.arms = {name: XpArm(name, self.wavelength_nm) for name in ("bp", "rp")}

    def project(self, flux: np.ndarray) -> dict[str, np.ndarray]:
        """Return the coefficients of a spectrum, without noise.

        Parameters
        ----------
        flux : array, shape (pixel,)
            At `wavelength`, 1e-17 erg s-1 cm-2 A-1.

        Returns
        -------
        dict of str to array, shape (55,)
            Of ``bp`` and of ``rp``.
        """
        # einsum, not a BLAS product: the same bits whatever the number of threads.
        return {
            name: np.einsum("np,p->n", arm.matrix, flux[arm.part])
            for name, arm in self.arms.items()
        }


@dataclass(frozen=True)
class XpMeasurement:
    """Hold what the archive has of one arm.

    Parameters
    ----------
    value, error : array of float64, shape (55,)
        Coefficients, and their errors with the standard deviation of the fit in them.
    truth : array of float64, shape (55,)
        Coefficients without noise.
    transits : int
        Transits that went into the mean.
    standard_deviation : float
        By which the residuals of the fit exceed their errors.
    """

    value: np.ndarray
    error: np.ndarray
    truth: np.ndarray
    transits: int
    standard_deviation: float
    _arm: XpArm = field(repr=False)
    _variance: np.ndarray = field(repr=False)
    _chance: tuple[float, float] = field(repr=False)

    @cached_property
    def correlations(self) -> np.ndarray:
        """Correlations of the coefficients, shape (1485,).

        They are the triangle below the diagonal row after row, as the archive writes them.
        """
        root = self._arm.fit * np.sqrt(self._variance)
        covariance = np.einsum("nu,mu->nm", root, root)
        sigma = np.sqrt(np.diagonal(covariance))
        return (covariance / np.outer(sigma, sigma))[np.tril_indices(SIZE, -1)]

    @cached_property
    def facts(self) -> dict[str, int | float]:
        """Columns of the archive that describe the fit, without ``bp_`` or ``rp_``."""
        lost, thrown = self._chance
        measurements = SAMPLES * self.transits - int(SAMPLES * lost)
        freedom = measurements - SIZE
        # The fewest leading bases after which the rest looks like noise.
        squares = (self.value / self.error) ** 2
        rest = np.sqrt(np.cumsum(squares[::-1])[::-1] / np.arange(SIZE, 0, -1))
        noisy = np.flatnonzero(rest > _NOISY)
        relevant = int(noisy[-1]) + 1 if noisy.size else 1
        kept = np.sum(self.value[:relevant] ** 2) / np.sum(self.value**2)
        return {
            "basis_function_id": _BASIS_ID[self._arm.name],
            "degrees_of_freedom": freedom,
            "n_parameters": SIZE,
            "n_measurements": measurements,
            "n_rejected_measurements": int(0.01 * measurements * thrown),
            "standard_deviation": self.standard_deviation,
            "chi_squared": self.standard_deviation**2 * freedom,
            "n_relevant_bases": relevant,
            "relative_shrinking": float(np.sqrt(kept)),
        }


@dataclass(frozen=True)
class XpResult:
    """Hold the XP spectrum of one object as the archive would.

    Parameters
    ----------
    bp, rp : XpMeasurement
        The two arms.
    """

    bp: XpMeasurement
    rp: XpMeasurement

    def columns(self) -> dict[str, int | float | np.ndarray]:
        """Return the columns of the archive's table XP_CONTINUOUS_RAW, without source_id."""
        found: dict[str, int | float | np.ndarray] = {}
        for name, arm in (("bp", self.bp), ("rp", self.rp)):
            found |= {f"{name}_{key}": value for key, value in arm.facts.items()}
            found[f"{name}_coefficients"] = arm.value
            found[f"{name}_coefficient_errors"] = arm.error.astype(np.float32)
            found[f"{name}_coefficient_correlations"] = arm.correlations.astype(np.float32)
        return found


class XpModel:
    """Observe objects with Gaia's blue and red photometers.

    Parameters
    ----------
    config : UniverseConfig
        Its seed is used.
    sed : SedModel, optional
        The light of the objects; by default the universe's.
    """

    def __init__(self, config: Seeded, *, sed: Sed | None = None) -> None:
        self._seed, self._sed = config.seed, light_of(sed)
        self.instrument = XpInstrument()

    def observe(self, truth: Truth) -> XpResult:
        """Return the XP spectrum of one object.

        Parameters
        ----------
        truth : Truth
            Of length one.
        """
        instrument = self.instrument
        light = self._sed.spectrum(
            truth, instrument.wavelength, resolution_fwhm=instrument.resolution_fwhm
        )
        ideal = instrument.project(np.asarray(light, dtype=np.float64))
        n = instrument.arms["bp"].fit.shape[1]
        u = uniforms(self._seed, truth["object_id"][:1], "xp", 2 * n + 12)[0]
        random, u = ndtri(u[:-6]), u[-6:]
        # Transits follow the scanning law: some 40, few below 20; BP loses more to neighbours.
        transits = 38 * np.exp(0.33 * min(max(random[-1], -2.6), 2.6))
        measured = {}
        for i, (name, arm) in enumerate(instrument.arms.items()):
            kept = max(10, round(transits * (1 - _LOST[name] * u[i] ** 2)))
            deviation = 1.03 + 0.02 * abs(random[-4 - i])
            variance = arm.noise(ideal[name], kept, np.exp(0.25 * random[-2 - i]))
            variance *= deviation**2
            noise = np.einsum("nu,u->n", arm.fit, np.sqrt(variance) * random[i * n : (i + 1) * n])
            error = np.sqrt(np.einsum("nu,u->n", arm.fit_squared, variance))
            chance = (u[2 + i], u[4 + i])
            measured[name] = XpMeasurement(
                ideal[name] + noise, error, ideal[name], kept, deviation, arm, variance, chance
            )
        return XpResult(**measured)
