"""Plain galaxies, and r magnitudes from a table, for drawing flux-limited samples."""

from __future__ import annotations

import numpy as np

from omnisky.mock import tables
from omnisky.mock.sed.stars import trilinear
from omnisky.mock.truth import GALAXY, Truth

__all__ = ["quick_r_magnitude", "typical", "typical_metals", "typical_start"]


def typical_start(redshift) -> np.ndarray:
    """Return how long ago plain galaxies began, Gyr: the universe is 13.8 / (1 + z)^1.3 old."""
    return 0.85 * 13.8 / (1 + np.asarray(redshift)) ** 1.3


def typical_metals(log_mass) -> np.ndarray:
    """Return log10 of the metallicity, solar, of plain galaxies (Gallazzi et al. 2005)."""
    return np.interp(log_mass, [9.5, 10.0, 10.5, 11.0, 12.0], [-0.6, -0.3, 0.0, 0.08, 0.15])


def typical(redshift, log_mass, log_ssfr, a_v) -> Truth:
    """Return plain galaxies: a smooth history, metals of their mass, no nucleus.

    Parameters
    ----------
    redshift, log_mass, log_ssfr, a_v : array, shape (object,)
        Redshift, log solar masses, log 1 / yr, mag.

    Returns
    -------
    Truth
        Without distances: at one Mpc.
    """
    from omnisky.mock.population.sfh import tau_of

    z, log_mass, log_ssfr, a_v = (
        np.atleast_1d(np.array(x, dtype=np.float64))
        for x in np.broadcast_arrays(redshift, log_mass, log_ssfr, a_v)
    )
    n = len(z)
    start, metal = typical_start(z), typical_metals(log_mass)
    tau = tau_of(log_ssfr, start)
    rate = log_ssfr + log_mass
    columns = {
        "redshift": z,
        "log_mass": log_mass,
        "log_ssfr": log_ssfr,
        "log_sfr": rate,
        "sfr_10": 10.0**rate,
        "sfh_start": start,
        "sfh_tau": tau,
        "log_z_star": metal,
        "log_z_bulge": metal,
        "oh": 8.75 + 0.4 * np.minimum(metal, 0),
        "a_v": a_v,
        "a_v_young": a_v,
    }
    fixed = {
        "luminosity_distance": 1.0,
        "ebv": 0.0,
        "burst_fraction": 0.0,
        "no_offset": 0.0,
        "log_u": -3.0,
        "dust_slope": -0.3,
        "bulge_fraction": 0.3,
        "log_sigma_star": 2.1,
        "log_sigma_gas": 2.0,
    }
    columns |= {name: np.full(n, value) for name, value in fixed.items()}
    return Truth(
        {"object_id": np.arange(n), "kind": np.full(n, GALAXY), "agn": np.zeros(n), **columns}
    )


def quick_r_magnitude(z, log_mass, log_ssfr, a_v) -> np.ndarray:
    """Return approximate DECam r magnitudes of galaxies, for drawing flux-limited samples.

    Parameters
    ----------
    z, log_mass, log_ssfr, a_v : array, shape (object,)
        Redshift (0.003 to 2.5), log solar masses, log 1 / yr, mag.

    Returns
    -------
    array of float64, shape (object,)
        AB magnitudes, without Galactic extinction; good to some 0.15 mag.
    """
    t = tables.load("quick")
    z, log_mass, log_ssfr, a_v = (
        np.asarray(x, dtype=np.float64) for x in np.broadcast_arrays(z, log_mass, log_ssfr, a_v)
    )
    knots = t["log_one_plus_z"], t["log_mass"], t["log_ssfr"]
    found = trilinear(knots, t["r"], (np.log1p(z), log_mass, log_ssfr))
    modulus = np.interp(np.log1p(z), t["log_one_plus_z"], t["modulus"])
    near = np.log1p(z) < t["log_one_plus_z"][0]
    modulus = np.where(near, modulus + 5 * np.log10(np.maximum(z, 1e-6) / t["z_min"]), modulus)
    return found[..., 0] + modulus - 2.5 * log_mass + found[..., 1] * a_v
