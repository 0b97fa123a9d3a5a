"""The two imaging surveys: their bands, pixels, and the conditions under which they look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from omnisky.mock import seeds
from omnisky.mock.images.psf import Psf

__all__ = ["INSTRUMENTS", "Conditions", "Instrument", "conditions_at"]

# Side of a patch of sky that is observed under the same conditions; a brick of the Legacy Surveys.
_PATCH_DEG = 0.25
# Steps of ln(FWHM): PSFs are drawn from so many widths that their transforms can be kept.
_FWHM_STEP = 0.04


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """Describe an imaging survey; tuples have one entry a band.

    Parameters
    ----------
    name : str
        The survey.
    bands : tuple of str
        Names of the bands in the survey's images.
    sed_bands : tuple of str
        Their names among the bands of the SED model.
    pixel_scale_arcsec : float
        Side of a pixel.
    fwhm_arcsec, fwhm_scatter : tuple of float, float
        Median width of the PSF and its scatter from patch to patch, in ln.
    beta, wing : float, float
        Shape of the PSF; see `Psf`.
    depths : tuple of two tuples of float
        5 sigma limits for point sources, AB, of the two modes of the survey.
    deep_share : float
        Share of the sky in the second mode.
    sky : tuple of float
        Brightness of the night sky, AB mag a square arcsec: it sets how many electrons the noise of
        the sky stands for.
    saturation : tuple of float
        Flux of the brightest pixel that is measured, nmgy.
    correlation : (float, float)
        Range of the fraction of a pixel by which exposures are shifted in the co-added image;
        neighbouring pixels share noise.
    """

    name: str
    bands: tuple[str, ...]
    sed_bands: tuple[str, ...]
    pixel_scale_arcsec: float
    fwhm_arcsec: tuple[float, ...]
    fwhm_scatter: float
    beta: float
    wing: float
    depths: tuple[tuple[float, ...], tuple[float, ...]]
    deep_share: float
    sky: tuple[float, ...]
    saturation: tuple[float, ...]
    correlation: tuple[float, float]


INSTRUMENTS: dict[str, Instrument] = {
    # Seeing and depth: Dey et al. (2019), tables 3 and 4, and the depths of DR9 and DR10.
    "legacysurvey": Instrument(
        name="legacysurvey",
        bands=("g", "r", "i", "z"),
        sed_bands=("decam_g", "decam_r", "decam_i", "decam_z"),
        pixel_scale_arcsec=0.262,
        fwhm_arcsec=(1.38, 1.25, 1.20, 1.17),
        fwhm_scatter=0.10,
        beta=3.2,
        wing=0.03,
        depths=((24.3, 23.7, 23.3, 23.0), (24.9, 24.4, 23.9, 23.4)),
        deep_share=0.35,
        sky=(22.0, 21.0, 19.9, 18.8),
        saturation=(18.0, 16.0, 20.0, 30.0),
        correlation=(0.12, 0.28),
    ),
    # Aihara et al. (2022), table 2: the Wide layer, and its deepest overlaps.
    "hsc": Instrument(
        name="hsc",
        bands=("g", "r", "i", "z", "y"),
        sed_bands=("hsc_g", "hsc_r", "hsc_i", "hsc_z", "hsc_y"),
        pixel_scale_arcsec=0.168,
        fwhm_arcsec=(0.77, 0.75, 0.60, 0.68, 0.68),
        fwhm_scatter=0.09,
        beta=3.0,
        wing=0.025,
        depths=((26.5, 26.1, 25.9, 25.1, 24.4), (27.1, 26.7, 26.5, 25.9, 25.0)),
        deep_share=0.12,
        sky=(22.1, 21.1, 20.1, 19.2, 18.2),
        saturation=(9.0, 9.0, 10.0, 14.0, 16.0),
        correlation=(0.06, 0.14),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Hold the conditions under which a patch of sky was observed.

    Parameters
    ----------
    psfs : tuple of Psf
        One a band.
    sigma : tuple of float
        Noise of the sky in a pixel if pixels were independent, nmgy, one a band: it sets the depth.
        Noise shared with neighbours lowers that of a pixel itself, see `noise.smoothed`.
    sky : tuple of float
        Light of the sky in a pixel, nmgy, one a band.
    shift : float
        Fraction of a pixel by which noise is shared with neighbours.
    deep : bool
        Whether the patch is in the deep mode.
    """

    psfs: tuple[Psf, ...]
    sigma: tuple[float, ...]
    sky: tuple[float, ...]
    shift: float
    deep: bool


def conditions_at(seed: int, instrument: Instrument, ra: float, dec: float) -> Conditions:
    """Return the conditions at a place, the same all over its patch of sky.

    Parameters
    ----------
    seed : int
        Seed of the universe.
    instrument : Instrument
        The survey.
    ra, dec : float
        Position in degrees.
    """
    row = int(np.floor((dec + 90) / _PATCH_DEG))
    columns = max(1, int(360 * np.cos(np.radians(min(abs(dec), 89.9))) / _PATCH_DEG))
    column = int((ra % 360) / 360 * columns)
    return _conditions(seed, instrument, row * 1440 + column)


@lru_cache(maxsize=4096)
def _conditions(seed: int, instrument: Instrument, patch: int) -> Conditions:
    n = len(instrument.bands)
    purpose = f"images/{instrument.name}/conditions"
    (u,) = seeds.uniforms(seed, np.array([patch]), purpose, 4)
    (z,) = seeds.normals(seed, np.array([patch]), purpose + "/scatter", 2 * n + 1)
    deep = bool(u[0] < instrument.deep_share)
    low, high = instrument.correlation
    ellipticity = ((0.0, 0.0), (0.03, 0.0), (0.0, 0.03))[int(3 * u[1])]
    psfs, sigmas, skies = [], [], []
    for band in range(n):
        # Half of the scatter is the night's, shared by the bands.
        scatter = instrument.fwhm_scatter * (0.7 * z[2 * n] + 0.7 * z[band])
        log_fwhm = np.log(instrument.fwhm_arcsec[band]) + min(max(scatter, -0.22), 0.35)
        fwhm = float(np.exp(round(log_fwhm / _FWHM_STEP) * _FWHM_STEP))
        psfs.append(Psf(fwhm, instrument.beta, instrument.wing, *ellipticity))
        limit = 10 ** (-0.4 * (instrument.depths[deep][band] + 0.12 * z[n + band] - 22.5))
        # Noise-equivalent area of a Gaussian PSF, 4 pi s^2 pixels.
        area = 4 * np.pi * (fwhm / 2.3548 / instrument.pixel_scale_arcsec) ** 2
        sigmas.append(float(limit / 5 / np.sqrt(area)))
        bright = 10 ** (-0.4 * (instrument.sky[band] - 22.5))
        skies.append(float(bright * instrument.pixel_scale_arcsec**2))
    return Conditions(
        psfs=tuple(psfs),
        sigma=tuple(sigmas),
        sky=tuple(skies),
        shift=float(low + (high - low) * u[2]),
        deep=deep,
    )
