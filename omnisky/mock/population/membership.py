"""Which survey has which object: footprints, limits, incompleteness, fibres."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from omnisky.mock.population.conditions import conditions
from omnisky.mock.population.config import UniverseConfig
from omnisky.mock.population.draws import Draws
from omnisky.mock.population.places import collides, holes, in_hsc_area
from omnisky.mock.population.stars.pool import GAIA_AB_MINUS_VEGA
from omnisky.mock.truth import GALAXY, QUASAR, STAR

__all__ = ["gaia_magnitude", "magnitude", "members"]

GAIA_LIMIT, XP_LIMIT = 20.7, 17.65
_HSC_DETECTED, _LEGACY_DETECTED = 5.0, 6.0  # signal-to-noise ratios


def magnitude(flux: np.ndarray) -> np.ndarray:
    """Return AB magnitudes of nanomaggies; infinite where the flux is not positive."""
    positive = flux > 0
    return np.where(positive, 22.5 - 2.5 * np.log10(np.where(positive, flux, 1.0)), np.inf)


def gaia_magnitude(flux: np.ndarray, band: str) -> np.ndarray:
    """Return Gaia magnitudes in the Vega system of nanomaggies in gaia_g, gaia_bp or gaia_rp."""
    return magnitude(flux) - GAIA_AB_MINUS_VEGA[band]


def members(
    config: UniverseConfig,
    draws: Draws,
    columns: Mapping[str, np.ndarray],
    flux: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Decide which surveys have each object.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    draws : Draws
        Randomness of the objects.
    columns : mapping of str to array, shape (object,)
        Truth columns.
    flux : mapping of str to array, shape (object,)
        Fluxes of each band, nanomaggies.

    Returns
    -------
    dict of array of bool, shape (object,)
        in_legacysurvey, in_hsc, in_desi, in_sdss, in_gaia and has_xp.
    """
    ra, dec = columns["ra"], columns["dec"]
    u = draws.uniform("membership", 8)
    legacy = ~holes(config, ra, dec, 1.0) & _seen(
        config, columns, flux, "legacysurvey", _LEGACY_DETECTED
    )
    hsc = in_hsc_area(config, ra, dec) & ~holes(config, ra, dec, 2.2)
    hsc &= _seen(config, columns, flux, "hsc", _HSC_DETECTED) & (u[0] < 0.97)
    gaia, xp = _gaia(columns, flux, u[1], u[2])
    return {
        "in_legacysurvey": legacy,
        "in_hsc": hsc,
        "in_desi": legacy & _desi(config, draws, columns, flux, u[3:5]),
        "in_sdss": _sdss(columns, flux, u[5:8]),
        "in_gaia": gaia,
        "has_xp": xp,
    }


def _seen(config, columns, flux, survey: str, least: float) -> np.ndarray:
    """Return what is detected in one of the bands, light spread over its size."""
    here = conditions(config, columns["ra"], columns["dec"], survey)
    size = np.nan_to_num(np.where(columns["kind"] == GALAXY, columns["re_disk"], 0.0))
    found = np.zeros(len(size), dtype=bool)
    for i, band in enumerate(here.bands):
        spread = np.sqrt(1 + (2.355 * 0.7 * size / here.psf_fwhm[:, i]) ** 2)
        found |= flux[band] / (here.sigma[:, i] * spread) > least
    return found


def _gaia(columns, flux, u_found, u_xp) -> tuple[np.ndarray, np.ndarray]:
    """Return what Gaia has: points to G = 20.7 with losses at the end, and some compact galaxies.

    Completeness at high latitude: Cantat-Gaudin et al. (2023). XP spectra: De Angeli et al. (2023).
    """
    g = gaia_magnitude(flux["gaia_g"], "gaia_g")
    chance = 0.995 / (1 + np.exp((g - GAIA_LIMIT) / 0.08))
    galaxy = columns["kind"] == GALAXY
    size = np.where(columns["bulge_fraction"] > 0.6, columns["re_bulge"], columns["re_disk"])
    compact = galaxy & (size < 0.6) & (columns["bulge_fraction"] > 0.4)
    chance = np.where(galaxy, np.where(compact, 0.5 * chance, 0.0), chance)
    gaia = u_found < chance
    return gaia, gaia & ~galaxy & (g < XP_LIMIT) & (u_xp < 0.985)


def _desi(config, draws, columns, flux, u) -> np.ndarray:
    """Return what gets a fibre: in a tile, a target, chosen, and no neighbour in its place.

    Targets: bright galaxies r < 19.5, luminous red and emission-line galaxies, quasars r < 23 and
    stars 16 < r < 19 (Myers et al. 2023; Cooper et al. 2023 for a third of the faint stars).
    """
    r = magnitude(flux["decam_r"])
    kind = columns["kind"]
    target = np.select(
        [kind == GALAXY, kind == QUASAR],
        [r < np.where(columns["sample"] >= 2, 24.0, config.galaxy_limit + 0.3), r < 23.0],
        (r > 16.0) & (r < 19.0) & (u[0] < 0.6),
    ).astype(bool)
    sample = np.where(kind == GALAXY, columns["sample"], -1)
    return target & (u[1] < config.desi_completeness) & ~collides(config, draws, sample)


def _sdss(columns, flux, u) -> np.ndarray:
    """Return what has an SDSS-like spectrum: the main galaxy sample, LRGs, quasars, some stars.

    Strauss et al. (2002): r < 17.77, 94 per cent with fibre collisions; Eisenstein et al. (2001);
    Richards et al. (2002): i < 19.1; the rest stand for BOSS and SEGUE.
    """
    r, i = magnitude(flux["sdss_r"]), magnitude(flux["sdss_i"])
    kind = columns["kind"]
    main = (r < 17.77) & (u[0] < 0.93)
    red = columns["quiescent"] & (i < 19.9) & (r < 20.5) & (columns["log_mass"] > 11.1)
    galaxy = main | (red & (u[0] < 0.6))
    quasar = ((i < 19.1) & (u[1] < 0.85)) | ((i < 21.5) & (u[1] < 0.25))
    star = (r > 14.5) & (r < 19.5) & (u[2] < 0.12)
    return np.select([kind == GALAXY, kind == QUASAR, kind == STAR], [galaxy, quasar, star], False)
