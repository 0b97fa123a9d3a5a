"""Star formation histories: from a specific star formation rate to t exp(-t / tau), and ages."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["LIVING_FRACTION", "mass_weighted_age", "recent_over_instant", "tau_of"]

# Share of the mass ever formed that still lives or is a remnant, some Gyr after it formed, for a
# Kroupa mass function (Leitner & Kravtsov 2011, eq. 1, between 1 and 10 Gyr: 0.62 to 0.52).
LIVING_FRACTION = 0.6


def _shape(x: np.ndarray) -> np.ndarray:
    """Return T SFR(now) / (mass ever formed) for x = T / tau."""
    small = np.abs(x) < 1e-3
    safe = np.where(small, 1.0, x)
    return np.where(small, 2.0 - 2.0 * x / 3.0, safe**2 / (np.expm1(safe) - safe))


@lru_cache(maxsize=1)
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Return (log10 of `_shape`, x), the first rising."""
    x = np.concatenate([np.linspace(60.0, 8.0, 400), np.linspace(8.0, -60.0, 2400)[1:]])
    return np.log10(_shape(x)), x


def tau_of(log_ssfr: np.ndarray, start_gyr: np.ndarray) -> np.ndarray:
    """Return tau of the history t exp(-t / tau) that has a specific star formation rate now.

    The mass in it is the living mass, `LIVING_FRACTION` of the mass ever formed.

    Parameters
    ----------
    log_ssfr : array, shape (object,)
        log10 of the present star formation rate over the living stellar mass, 1 / yr.
    start_gyr : array, shape (object,)
        Look-back time of the beginning, Gyr.

    Returns
    -------
    array, shape (object,)
        tau in Gyr; negative where star formation rises faster than t.
    """
    wanted = log_ssfr + 9 + np.log10(start_gyr * LIVING_FRACTION)
    shape, x = _table()
    found = np.interp(wanted, shape, x)
    return start_gyr / np.where(np.abs(found) < 1e-6, 1e-6, found)


def mass_weighted_age(start_gyr: np.ndarray, tau_gyr: np.ndarray) -> np.ndarray:
    """Return the mean age in Gyr of the mass formed by t exp(-t / tau).

    From the incomplete gamma functions of order 2 and 3 in x = start / tau, by their continued
    series where they cancel.
    """
    x = start_gyr / tau_gyr
    small = np.abs(x) < 0.05
    safe = np.where(small, 1.0, x)
    # Scaled by exp(x) where x < 0, so that nothing overflows.
    down = np.exp(-np.maximum(safe, 0.0))
    up = np.exp(np.minimum(safe, 0.0))
    first = up - down * (1 + safe)
    second = 2 * up - down * (2 + 2 * safe + safe**2)
    mean_time = np.where(small, 2 / 3 - x / 18, second / (first * safe))
    return start_gyr * (1 - mean_time)


def recent_over_instant(start_gyr: np.ndarray, tau_gyr: np.ndarray, span_gyr: float) -> np.ndarray:
    """Return the mean rate of the last `span_gyr` over the rate now, for t exp(-t / tau)."""
    ratio = span_gyr / tau_gyr
    early = 1 - span_gyr / start_gyr
    # Simpson's rule: the history is smooth on this scale for all but |tau| << span.
    half = (1 - 0.5 * span_gyr / start_gyr) * np.exp(np.minimum(0.5 * ratio, 50.0))
    return (1 + 4 * half + early * np.exp(np.minimum(ratio, 50.0))) / 6
