"""How surveys measure: positions with their errors and epochs, fluxes with theirs, sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.mock.population.conditions import Conditions, conditions
from omnisky.mock.population.config import UniverseConfig
from omnisky.mock.population.draws import Draws
from omnisky.mock.truth import GALAXY, STAR, Truth

__all__ = ["Sky", "half_light", "map_ebv", "measured_flux", "moved", "offset_deg", "seen"]

# Systematic offset of each survey's frame from Gaia's from field to field, and the floor of random
# errors, arcsec (Dey et al. 2019, section 7; Aihara et al. 2022; Pier et al. 2003, table 1).
_ASTROMETRY = {
    "legacysurvey": (0.012, 0.014),
    "hsc": (0.012, 0.012),
    "sdss": (0.055, 0.055),
}
_FIELD_DEG = 0.5
# True E(B-V) over that of the map of Schlegel et al. (1998), with which the coefficients that
# surveys state go (Schlafly & Finkbeiner 2011, section 5: the map is too high by some 12 %).
_OF_MAP = 0.894


@dataclass(frozen=True, kw_only=True)
class Sky:
    """Hold objects and what a survey sees of them, ready to be measured.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    truth : Truth
        The objects.
    fluxes : array, shape (object, component, band)
        True fluxes, nanomaggies.
    draws : Draws
        Randomness of the objects.
    """

    config: UniverseConfig
    truth: Truth
    fluxes: np.ndarray
    draws: Draws

    def flux(self, band: str) -> np.ndarray:
        """Return the true flux of all components in a band, nanomaggies."""
        from omnisky.mock.sed import BANDS

        part = np.ascontiguousarray(self.fluxes[:, :, [str(b) for b in BANDS].index(band)].T)
        return part[0] + part[1] + part[2]

    def conditions(self, survey: str) -> Conditions:
        """Return seeing and depth of a survey at the objects."""
        return conditions(self.config, self.truth["ra"], self.truth["dec"], survey)


def half_light(sky: Sky) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return half-light radius (arcsec), axis ratio and bulge share of the light in r.

    Radii are zero for point sources; the two components are averaged in the logarithm.
    """
    from omnisky.mock.sed import BANDS

    truth = sky.truth
    parts = np.ascontiguousarray(sky.fluxes[:, :, list(BANDS).index("decam_r")].T)
    total = parts[0] + parts[1] + parts[2]
    share = np.clip(parts[0] / np.where(total > 0, total, 1.0), 0.0, 1.0)
    galaxy = truth["kind"] == GALAXY
    share = np.where(truth["bulge_fraction"] >= 1, 1.0, share)
    disk, bulge = (np.where(galaxy, truth[f"re_{part}"], 1.0) for part in ("disk", "bulge"))
    radius = np.exp(share * np.log(bulge) + (1 - share) * np.log(disk))
    q = share * np.where(galaxy, truth["q_bulge"], 1.0)
    q = q + (1 - share) * np.where(galaxy, truth["q_disk"], 1.0)
    return np.where(galaxy, radius, 0.0), q, np.where(galaxy, share, 0.0)


def map_ebv(sky: Sky) -> np.ndarray:
    """Return E(B-V) as surveys state it: on the scale of the map of Schlegel et al. (1998).

    All surveys take it from the same map, with its errors of 3 per cent.
    """
    (error,) = sky.draws.normal("reddening map")
    return sky.truth["ebv"] / _OF_MAP * np.exp(0.03 * error)


def spread(radius: np.ndarray, fwhm: np.ndarray) -> np.ndarray:
    """Return by how much the noise of an extended source exceeds that of a point."""
    return np.sqrt(1 + (1.6 * radius / fwhm) ** 2)


def measured_flux(
    sky: Sky, band: str, sigma: np.ndarray, purpose: str, *, gain: float = 5000.0
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the flux of a band.

    Parameters
    ----------
    sky : Sky
        The objects.
    band : str
        One of `omnisky.mock.sed.BANDS`.
    sigma : array, shape (object,)
        Error from the sky, nanomaggies.
    purpose : str
        Name of the random numbers; equal names give the same measurement.
    gain : float
        Photo-electrons of a nanomaggy, for the noise of the source.

    Returns
    -------
    flux, ivar : array, shape (object,)
        Measured flux and its stated inverse variance. Fluxes scatter by another one per cent
        (calibration, model errors) that surveys do not state.
    """
    true = sky.flux(band)
    noise, model = sky.draws.normal(f"{purpose} {band}", 2)
    variance = sigma**2 + np.maximum(true, 0.0) / gain
    flux = true * (1 + 0.01 * model) + np.sqrt(variance) * noise
    return flux, 1.0 / variance


def moved(truth: Truth, epoch: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return positions in degrees that proper motion leads to from 2016.0 to an epoch."""
    years = np.asarray(epoch) - 2016.0
    star = truth["kind"] == STAR
    east, north = (np.where(star, truth[name], 0.0) * years / 1000 for name in ("pm_ra", "pm_dec"))
    return offset_deg(truth["ra"], truth["dec"], east, north)


def offset_deg(
    ra: np.ndarray, dec: np.ndarray, east_arcsec: np.ndarray, north_arcsec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions some arcsec to the east and north of others, degrees, ra in [0, 360)."""
    found = ra + east_arcsec / 3600 / np.cos(np.radians(dec))
    found = np.where(found < 0, found + 360.0, found)
    return np.where(found >= 360.0, found - 360.0, found), dec + north_arcsec / 3600


def seen(
    sky: Sky, survey: str, epoch: np.ndarray | float, band: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return catalogued positions: truth, proper motion, frame, and FWHM / (2.355 S/N).

    The error of a centroid is that of King (1983, PASP 95, 163) for a Gaussian; an extended source
    has the width of its blurred light.
    """
    system, floor = _ASTROMETRY[survey]
    ra, dec = moved(sky.truth, epoch)
    here = sky.conditions(survey)
    at = here.bands.index(band)
    fwhm, sigma = (np.ascontiguousarray(x[:, at]) for x in (here.psf_fwhm, here.sigma))
    radius = half_light(sky)[0]
    signal = np.maximum(sky.flux(band), 1e-3) / (sigma * spread(radius, fwhm))
    width = np.sqrt(fwhm**2 + (1.2 * radius) ** 2)
    error = np.minimum(np.hypot(floor, width / (2.355 * signal)), 1.0)
    noise = sky.draws.normal(f"position {survey}", 2)
    row = np.floor((sky.truth["dec"] + 90) / _FIELD_DEG)
    cell = (row * 1_000_000 + np.floor(sky.truth["ra"] / _FIELD_DEG)).astype(np.int64)
    frame = Draws(sky.config.seed, cell).normal(f"frame {survey}", 2)
    return offset_deg(
        ra, dec, error * noise[0] + system * frame[0], error * noise[1] + system * frame[1]
    )
