"""From light to a sky-subtracted, calibrated spectrum with noise: what all instruments share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from omnisky.mock.spectra.night import NightSky, SkyState
from omnisky.mock.spectra.settings import SpectrumFlag

__all__ = [
    "Conditions",
    "Detector",
    "Exposed",
    "add_artefacts",
    "per_photon",
    "transmission",
]

_PLANCK_LIGHT = 1.98644586e-8  # h c in erg Angstrom
# Normal numbers behind what is left of the sky: four, and one a group of lines.
_RESIDUALS = 204
# A cosmic ray over three pixels.
_HIT = np.array([0.4, 1.0, 0.3], dtype=np.float32)
# Sky models err by this share of the lines; pipelines add it to their variances (real coadds have
# 0.9 to 1.2 % beyond photon noise on lines).
_LINE_ERROR = 0.011


# Bands of the earth's atmosphere: centre, half-width, depth at the middle, Angstrom.
_TELLURIC = (
    (6872.0, 6.0, 0.25),
    (6885.0, 14.0, 0.15),
    (7186.0, 26.0, 0.10),
    (7240.0, 40.0, 0.10),
    (7596.0, 5.0, 0.45),
    (7608.0, 10.0, 0.50),
    (7630.0, 18.0, 0.35),
    (8165.0, 25.0, 0.08),
    (8240.0, 45.0, 0.09),
    (9330.0, 28.0, 0.35),
    (9400.0, 60.0, 0.30),
    (9500.0, 60.0, 0.22),
)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """State under which conditions a spectrum was taken.

    Parameters
    ----------
    time_s : float
        Open shutter in all.
    exposures : int
        Number of read-outs.
    loss : float
        Share of a point source's light in the fibre.
    sky : SkyState
        Brightness of the sky.
    """

    time_s: float
    exposures: int
    loss: float
    sky: SkyState


def per_photon(wavelength: np.ndarray, width: np.ndarray, area_cm2: float) -> np.ndarray:
    """Return photons a second and pixel of 1e-17 erg s-1 cm-2 A-1 that falls on a mirror."""
    return 1e-17 * area_cm2 * width * wavelength / _PLANCK_LIGHT


def transmission(wavelength: np.ndarray) -> np.ndarray:
    """Return what the oxygen and water of the atmosphere let through, shape (pixel,)."""
    through = np.ones(len(wavelength))
    for centre, width, depth in _TELLURIC:
        through *= 1 - depth * np.exp(-0.5 * ((wavelength - centre) / width) ** 2)
    return through


class Exposed(NamedTuple):
    """Hold a spectrum as it comes out: flux, inverse variance, true noise, sky."""

    flux: np.ndarray
    ivar: np.ndarray
    sigma: np.ndarray
    sky: np.ndarray


class Detector:
    """Hold what decides the noise of one spectrograph on one wavelength grid.

    Parameters
    ----------
    efficiency : array, shape (pixel,)
        Photo-electrons a second of a flux density of 1e-17 erg s-1 cm-2 A-1 that is in the fibre.
    read_variance : array, shape (pixel,)
        Read-out noise squared of an extracted pixel, electrons squared an exposure.
    sky : NightSky
        On the same grid.
    area_arcsec2 : float
        Sky that the fibre sees.
    ripple : array, shape (pixel,)
        Factor on the inverse variance, about one: pixels differ.
    place : array of float32, shape (pixel,)
        From -1 to 1 along each arm.
    """

    def __init__(
        self,
        efficiency: np.ndarray,
        read_variance: np.ndarray,
        sky: NightSky,
        area_arcsec2: float,
        ripple: np.ndarray,
        place: np.ndarray,
    ) -> None:
        self.flux_per_electron = (1 / efficiency).astype(np.float32)
        self.read_flux2 = (read_variance / efficiency**2).astype(np.float32)
        self.sky = sky
        self.area = area_arcsec2
        self.ripple = ripple.astype(np.float32)
        self.place = place

    def sky_flux(self, conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
        """Return the sky in the fibre and its emission lines alone, each of shape (pixel,).

        Calibrated like an object, that is for the light that a point source loses.
        """
        scale = np.float32(self.area / conditions.loss)
        lines = self.sky.emission(conditions.sky) * scale
        return self.sky.smooth(conditions.sky) * scale + lines, lines

    def expose(
        self,
        flux: np.ndarray,
        gain: np.ndarray,
        conditions: Conditions,
        rng: np.random.Generator,
        sky_error: float,
    ) -> Exposed:
        """Return what comes out of the pipeline.

        Parameters
        ----------
        flux : array of float32, shape (pixel,)
            Light in the fibre, calibrated.
        gain : array of float32, shape (pixel,)
            By which the calibration errs.
        conditions : Conditions
            Of the observation.
        rng : numpy.random.Generator
            Of this object's noise.
        sky_error : float
            How badly the sky is subtracted; 0 is perfectly, 1 as usual.
        """
        sky = self.sky_flux(conditions)
        variance = self.variance(flux, sky, conditions)
        sigma = np.sqrt(variance)
        # Always drawn, so that the noise is the same with and without artefacts.
        noise = rng.standard_normal(len(flux), dtype=np.float32)
        normal = rng.standard_normal(_RESIDUALS)
        measured = flux * gain + noise * sigma
        if sky_error:
            measured += _sky_residual(sky, self.place, sky_error * normal)
        return Exposed(measured, self.ripple / variance, sigma, sky[0])

    def variance(
        self, flux: np.ndarray, sky: tuple[np.ndarray, np.ndarray], conditions: Conditions
    ) -> np.ndarray:
        """Return the variance of the calibrated flux: photons, read-out, model of sky lines.

        Parameters
        ----------
        flux : array of float32, shape (pixel,)
            Of the object, calibrated.
        sky : (array, array)
            What `sky_flux` gave.
        conditions : Conditions
            Of the observation.
        """
        signal = np.float32(1 / (conditions.time_s * conditions.loss))
        variance = (sky[0] + np.maximum(flux, np.float32(0))) * (self.flux_per_electron * signal)
        variance += self.read_flux2 * (np.float32(conditions.exposures) * signal**2)
        variance += (sky[1] * np.float32(_LINE_ERROR)) ** 2
        return variance


def _sky_residual(
    sky: tuple[np.ndarray, np.ndarray], place: np.ndarray, normal: np.ndarray
) -> np.ndarray:
    """Return what sky subtraction leaves: shares of the sky and of each group of lines, a shift."""
    a, b, c, d = normal[:4].astype(np.float32)
    total, lines = sky
    left = total * (np.float32(0.004) * a + place * (np.float32(0.003) * b))
    # Neighbouring lines, of one transition, come and go together; others on their own.
    groups = normal[4:].astype(np.float32) * np.float32(0.008) + np.float32(0.003) * c
    left += lines * np.repeat(groups, -(-len(lines) // len(groups)))[: len(lines)]
    # Lines shifted by some thousandths of a pixel.
    left[1:-1] += (lines[2:] - lines[:-2]) * (np.float32(0.004) * d)
    return left


def add_artefacts(
    flag: SpectrumFlag,
    flux: np.ndarray,
    sigma: np.ndarray,
    arms: tuple[slice, ...],
    rng: np.random.Generator,
) -> None:
    """Add the artefacts that leave no trace in errors or masks to a spectrum, in place.

    Parameters
    ----------
    flag : SpectrumFlag
        Which.
    flux, sigma : array of float32, shape (pixel,)
        Spectrum and its noise.
    arms : tuple of slice
        Pixels of each arm.
    rng : numpy.random.Generator
        Of this object's artefacts.
    """
    u = rng.random(6)
    if flag & SpectrumFlag.AMPLIFIER_STEP:
        arm = arms[int(u[0] * len(arms))]
        middle = arm.start + int((0.4 + 0.2 * u[1]) * (arm.stop - arm.start))
        step = 0.6 * rng.standard_normal() * np.median(sigma[arm])
        flux[middle : arm.stop] += np.float32(step)
    if flag & SpectrumFlag.COSMIC_LEFT:
        at = int(u[2] * (len(flux) - 4))
        flux[at : at + 3] += _HIT * sigma[at] * np.float32(8 + 40 * u[3])
    if flag & SpectrumFlag.NEIGHBOUR:
        level = (0.3 + u[4]) * np.median(sigma)
        slope = np.linspace(1 + u[5], 1 - u[5], len(flux), dtype=np.float32)
        flux += np.float32(level) * slope
