"""Quasars: redshifts, luminosities and the real spectrum each one starts from."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from omnisky.mock.population.config import UniverseConfig
from omnisky.mock.population.cosmology import distance_modulus, luminosity_mpc
from omnisky.mock.population.draws import Draws

__all__ = ["quasar_density", "quasars"]

Columns = dict[str, np.ndarray]

_BRIGHTEST = 15.5


@lru_cache(maxsize=8)
def _counts(limit: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return i magnitudes, the cumulative share of quasars and their number per square degree.

    A double power law through the counts of Palanque-Delabrouille et al. (2016, table 6): slopes
    0.85 and 0.30 about i = 19.1, 75 per square degree brighter than 21.5.
    """
    magnitude = np.linspace(_BRIGHTEST, limit, 400)
    step = magnitude - 19.1
    rate = 10.0 / (10.0 ** (-0.85 * step) + 10.0 ** (-0.30 * step))
    share = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(magnitude))])
    return magnitude, share / share[-1], float(share[-1])


def quasar_density(config: UniverseConfig) -> float:
    """Return quasars per square degree brighter than the limit that the priors predict."""
    return _counts(config.quasar_limit)[2]


def quasars(config: UniverseConfig, draws: Draws, templates: int) -> Columns:
    """Draw quasars.

    Parameters
    ----------
    config : UniverseConfig
        The universe.
    draws : Draws
        Randomness of these quasars.
    templates : int
        How many real spectra there are to start from.

    Returns
    -------
    dict of array, shape (object,)
        Columns of `omnisky.mock.truth.COLUMNS`.
    """
    u_i, u_z, u_template = draws.uniform("quasar", 3)
    (slope,) = draws.normal("quasar", 1)
    magnitude, share, _ = _counts(config.quasar_limit)
    i = np.interp(u_i, share, magnitude)
    z = _redshifts(u_z, i)
    # Luminosity at rest by a power law f_nu ~ nu^-0.5 (Vanden Berk et al. 2001).
    m_i = i - distance_modulus(z) + 1.25 * np.log10(1 + z)
    return {
        "redshift": z,
        "luminosity_distance": luminosity_mpc(z),
        "m_i": m_i,
        # On top of the slopes of the real spectra, whose scatter is most of the observed one.
        "slope_offset": 0.08 * slope,
        "template": np.minimum((u_template * templates).astype(np.int64), templates - 1),
    }


def _redshifts(u: np.ndarray, i: np.ndarray) -> np.ndarray:
    """Return redshifts: a gamma distribution of shape 3.6, mean 1.7 at i = 20, more for faint.

    Close to the distribution of eBOSS and DESI quasars (Chaussidon et al. 2023, figure 14).
    """
    from scipy.special import gammaincinv

    scale = 0.455 + 0.02 * (i - 20.0)
    return np.clip(0.08 + scale * gammaincinv(3.6, u), 0.08, 5.2)
