"""Distances and ages of a flat universe close to that of Planck 2018, from one table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

__all__ = [
    "C_KM_S",
    "H0",
    "OMEGA_M",
    "age_gyr",
    "comoving_mpc",
    "distance_modulus",
    "kpc_per_arcsec",
    "luminosity_mpc",
]

H0, OMEGA_M = 67.7, 0.31
C_KM_S = 299792.458
_GYR_KM_S_MPC = 977.792  # (km / s / Mpc)^-1 in Gyr
_Z_MAX = 8.0


@dataclass(frozen=True)
class _Table:
    """Comoving distance in Mpc and age in Gyr on a grid of redshifts."""

    z: np.ndarray
    comoving: np.ndarray
    age: np.ndarray


@lru_cache(maxsize=1)
def _table() -> _Table:
    """Integrate 1/E(z) and 1/((1+z)E(z)) by Simpson's rule on a grid fine near z = 0."""
    x = np.linspace(0.0, np.log1p(_Z_MAX), 4001)  # ln(1 + z)
    z = np.expm1(x)
    e = np.sqrt(OMEGA_M * (1 + z) ** 3 + 1 - OMEGA_M)
    middle = np.expm1(0.5 * (x[1:] + x[:-1]))
    e_middle = np.sqrt(OMEGA_M * (1 + middle) ** 3 + 1 - OMEGA_M)
    step = (x[1] - x[0]) / 6
    rate, rate_middle = (1 + z) / e, (1 + middle) / e_middle
    path = step * (rate[:-1] + 4 * rate_middle + rate[1:])
    comoving = np.concatenate([[0.0], np.cumsum(path)]) * C_KM_S / H0
    # The age has a closed form in a flat universe (e.g. Peebles 1993, eq. 13.20).
    root = np.sqrt((1 - OMEGA_M) / (OMEGA_M * (1 + z) ** 3))
    age = 2 / (3 * np.sqrt(1 - OMEGA_M)) * np.arcsinh(root) * _GYR_KM_S_MPC / H0
    return _Table(z, comoving, age)


def comoving_mpc(z: np.ndarray) -> np.ndarray:
    """Return the comoving distance in Mpc to each redshift, 0 to 8."""
    table = _table()
    return np.interp(z, table.z, table.comoving)


def luminosity_mpc(z: np.ndarray) -> np.ndarray:
    """Return the luminosity distance in Mpc to each redshift, 0 to 8."""
    return (1 + z) * comoving_mpc(z)


def age_gyr(z: np.ndarray) -> np.ndarray:
    """Return the age of the universe in Gyr at each redshift, 0 to 8."""
    table = _table()
    return np.interp(z, table.z, table.age)


def distance_modulus(z: np.ndarray) -> np.ndarray:
    """Return the distance modulus in magnitudes of each redshift above 0."""
    return 5 * np.log10(luminosity_mpc(z)) + 25


def kpc_per_arcsec(z: np.ndarray) -> np.ndarray:
    """Return the proper transverse size in kpc of one arcsec at each redshift."""
    return comoving_mpc(z) / (1 + z) * np.pi / 180 / 3600 * 1e3
