"""Galaxies: masses, star formation, chemistry, dust, motions and nuclei, drawn from scaling laws.

Every relation is a published one; scatter is added wherever real galaxies have it, so that
photometry alone does not give physical parameters away.
"""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.cosmology import age_gyr
from omnisky.mock.population.draws import Draws
from omnisky.mock.population.sfh import (
    mass_weighted_age,
    recent_over_instant,
    tau_of,
)

__all__ = [
    "LIGHT_NORMAL",
    "LIGHT_UNIFORM",
    "MASS_SCALE",
    "light",
    "mass_function",
    "physics",
    "quiescent_fraction",
]

Columns = dict[str, np.ndarray]

# Masses of the literature below are on the scale of Chabrier (2003) and Bruzual & Charlot (2003).
# Our populations (Kroupa 2001, BaSTI, MILES) are heavier at the same colour and light: log M/L_i
# lies this far above that of Taylor et al. (2011, eq. 7), for red and for blue galaxies alike.
MASS_SCALE = 0.20

# Double Schechter function of GAMA (Driver et al. 2022, MNRAS 513, 439, section 5), per Mpc^3 dex.
_LOG_M_STAR = 10.745
_PHI, _ALPHA = (10**-2.437, 10**-3.201), (-0.466, -1.530)
_PHI_EVOLUTION = -0.10  # dex per unit redshift (Moustakas et al. 2013, figure 8: little)

# Median stellar metallicity and half the 16 to 84 per cent range (Gallazzi et al. 2005, table 2).
_GALLAZZI_MASS = np.array([8.9, 9.5, 9.9, 10.1, 10.3, 10.5, 10.7, 10.9, 11.3, 11.9])
_GALLAZZI_Z = np.array([-0.60, -0.61, -0.41, -0.23, -0.11, -0.01, 0.04, 0.07, 0.12, 0.15])
_GALLAZZI_SCATTER = np.array([0.25, 0.25, 0.24, 0.23, 0.20, 0.17, 0.15, 0.13, 0.11, 0.10])

LIGHT_UNIFORM, LIGHT_NORMAL = 3, 4
_INCLINATION_DUST = 0.55  # d log A_V / d log (a / b), between Wild et al. 2011 and Yip et al. 2010


def mass_function(log_mass: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return galaxies per comoving Mpc^3 and dex of stellar mass."""
    x = 10.0 ** (log_mass - MASS_SCALE - _LOG_M_STAR)
    phi = sum(p * x ** (a + 1) for p, a in zip(_PHI, _ALPHA, strict=True))
    return np.log(10) * np.exp(-x) * phi * 10.0 ** (_PHI_EVOLUTION * z)


def quiescent_fraction(log_mass: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the share of quiescent galaxies (shape of Peng et al. 2010; see mock_closure)."""
    return 1 / (1 + np.exp(-(log_mass - MASS_SCALE - 10.56 - 0.20 * z) / 0.33))


def light(z: np.ndarray, log_mass: np.ndarray, quiescent: np.ndarray, u: np.ndarray) -> Columns:
    """Return what decides how bright a galaxy of given mass is.

    Parameters
    ----------
    z, log_mass, quiescent : array, shape (object,)
        Redshift, log10 of the stellar mass, and which of the two populations.
    u : array, shape (LIGHT_UNIFORM + LIGHT_NORMAL, object)
        Uniform numbers (green valley, inclination, beginning), then standard normal ones (rate,
        dust, dust of birth clouds, metallicity).

    Returns
    -------
    dict of array, shape (object,)
        log_ssfr (of the smooth history, 1 / yr) and its deviation sfr_offset in sigma, start of the
        history (look-back time, Gyr), cos_i, a_v (inclined) and a_v_young (mag), log_z_star.
    """
    mass = log_mass - MASS_SCALE
    median = np.interp(mass, _GALLAZZI_MASS, _GALLAZZI_Z)
    scatter = np.interp(mass, _GALLAZZI_MASS, _GALLAZZI_SCATTER)
    metals = median + scatter * u[6] + np.where(quiescent, -0.08, -0.02)
    return {
        "log_ssfr": _log_ssfr(z, mass, quiescent, u[0], u[3]),
        "sfr_offset": u[3],
        "start": _start(z, mass, quiescent, u[2]),
        "cos_i": u[1],
        "log_z_star": np.clip(metals, -1.6, 0.4),
        **_attenuation(mass, quiescent, u[1], u[4], u[5]),
    }


def _start(z, log_mass, quiescent, u) -> np.ndarray:
    """Draw when star formation began: earlier in massive galaxies (Thomas et al. 2010)."""
    universe = age_gyr(z)
    late = np.clip(0.40 - 0.08 * (log_mass - 9.0), 0.12, 0.45) * np.where(quiescent, 1.6, 1.0)
    return np.maximum(universe * (1 - late * u) - 0.35, 0.3 * universe)


def _log_ssfr(z, log_mass, quiescent, u_valley, normal) -> np.ndarray:
    """Draw specific star formation rates.

    These are the rates of smooth histories; `_history` adds what the last 100 Myr did. The main
    sequence is that of Speagle et al. (2014, eq. 28), with 0.34 dex of scatter in all; a tenth of
    its galaxies are on their way down (Schawinski et al. 2014). The quiescent cloud and its width
    follow Salim et al. (2016, figure 3).
    """
    t = age_gyr(z)
    main = (0.84 - 0.026 * t) * log_mass - (6.51 - 0.11 * t) - log_mass + 0.20 * normal
    valley = u_valley < 0.10
    main = np.where(valley, main - 0.2 - 10.0 * u_valley, main)
    dead = -12.0 - 0.30 * (log_mass - 10.5) + 0.35 * np.minimum(z, 1.5) + 0.35 * normal
    return np.where(quiescent, np.minimum(dead, main - 0.6), main) - MASS_SCALE


def _attenuation(log_mass, quiescent, cos_i, normal, normal_young) -> Columns:
    """Draw V attenuation of old stars, and the additional one of birth clouds.

    Star-forming galaxies follow A(Halpha) of Garn & Best (2010, eq. 4) with the 0.44 of
    Calzetti et al. (2000) between stars and gas; quiescent ones have little dust.
    """
    x = np.clip(log_mass, 8.5, 11.5) - 10.0
    a_gas = np.maximum(0.91 + 0.77 * x + 0.11 * x**2 - 0.09 * x**3, 0.1) / 0.82
    axis_ratio = np.sqrt(cos_i**2 + 0.04 * (1 - cos_i**2))
    inclined = axis_ratio**-_INCLINATION_DUST / 1.45  # 1.45: its mean over orientations
    face = 0.44 * a_gas * 10.0 ** (0.33 * normal)
    face = np.where(quiescent, 0.07 * 10.0 ** (0.42 * normal), face)
    young = 0.56 * a_gas * 10.0 ** (0.40 * normal_young)
    young = np.where(quiescent, 0.5 * young, young)
    a_v = np.minimum(face * np.where(quiescent, 1.0, inclined), 4.0)
    return {"a_v": a_v, "a_v_young": np.minimum(young, 4.0)}


def physics(
    draws: Draws, z: np.ndarray, log_mass: np.ndarray, quiescent: np.ndarray, lit: Columns
) -> Columns:
    """Draw everything about galaxies that is neither place nor shape.

    Parameters
    ----------
    draws : Draws
        Randomness of these galaxies.
    z, log_mass, quiescent : array, shape (object,)
        Redshift, log10 of the stellar mass, population.
    lit : dict of array
        What `light` returned.

    Returns
    -------
    dict of array, shape (object,)
        Columns of `omnisky.mock.truth.COLUMNS`.
    """
    columns: Columns = {
        "log_mass": log_mass,
        "quiescent": quiescent,
        "a_v": lit["a_v"],
        "a_v_young": lit["a_v_young"],
        "inclination": np.degrees(np.arccos(lit["cos_i"])),
    }
    columns |= _history(draws, log_mass - MASS_SCALE, quiescent, lit)
    columns |= _chemistry(draws, columns, lit)
    columns |= _motions(draws, columns)
    columns |= _nuclei(draws, columns)
    return columns


def _history(draws: Draws, log_mass, quiescent, lit: Columns) -> Columns:
    """Draw star formation histories that end at the wanted specific rate."""
    u_burst, u_fraction, u_age, u_recent = draws.uniform("galaxy history", 4)
    recent, jitter = draws.normal("galaxy history", 2)
    start = lit["start"]
    tau = tau_of(lit["log_ssfr"], start)
    instant = lit["log_ssfr"] + np.log10(recent_over_instant(start, tau, 0.1))
    # Bursts after which star formation fell back: they leave colours but no present rate.
    share = np.where(quiescent, 0.06, 0.20)
    burst = u_burst < share
    low, high = -2.5, -1.1
    fraction = np.where(burst, 10.0 ** (low + (high - low) * u_fraction), 0.0)
    burst_age = np.minimum(10.0 ** (-0.9 + 1.1 * u_age), 0.6 * start)  # 0.13 to 1.6 Gyr
    age = (1 - fraction) * mass_weighted_age(start, tau) + fraction * burst_age
    log_ssfr = instant + np.log10(1 - fraction) + _wander(log_mass, quiescent, recent, u_recent)
    log_sfr = log_ssfr + log_mass + MASS_SCALE
    # The last 10 Myr cannot form more than the last 100.
    burstiness = np.minimum((0.27 + 0.08 * np.clip(10 - log_mass, 0, 2)) * jitter, 0.97)
    return {
        "sfh_start": start,
        "sfh_tau": tau,
        "burst_fraction": fraction,
        "burst_age": np.where(burst, burst_age, np.nan),
        "age": age,
        "log_ssfr": log_ssfr,
        "log_sfr": log_sfr,
        # Short bursts move lines against the continuum (0.25 dex; Weisz et al. 2012 for dwarfs).
        "sfr_10": 10.0 ** (log_sfr + burstiness),
    }


def _wander(log_mass, quiescent, normal, u) -> np.ndarray:
    """Return by how much the last 100 Myr differ from the smooth history, dex.

    On the main sequence the rate wanders by 0.3 dex (Caplar & Tacchella 2019), more in dwarfs, and
    one galaxy in eleven has just faded. What the quiescent form comes from new gas, not from the
    tail of their history; a seventh of them is rejuvenated (Kaviraj et al. 2007 find more).
    """
    blue = (0.32 + 0.06 * np.clip(10 - log_mass, 0, 2)) * normal
    blue = np.where(u < 0.09, blue - 0.3 - 12.0 * u, blue)
    red = np.where(u < 0.15, 1.0 + 0.30 * normal, 0.35 + 0.75 * normal)
    return np.where(quiescent, red, blue)


def _chemistry(draws: Draws, columns: Columns, lit: Columns) -> Columns:
    """Draw metallicities, ionisation and the slope of the dust law."""
    n_bulge, n_gas, n_no, n_u, n_slope = draws.normal("galaxy chemistry", 5)
    log_mass, quiescent = columns["log_mass"] - MASS_SCALE, columns["quiescent"]
    bulge = lit["log_z_star"] + 0.05 + 0.10 * n_bulge
    # Curti et al. (2020, eq. 2); the rate term is their FMR to first order.
    mzr = 8.793 - 0.233 * np.log10(1 + 10.0 ** (-1.2 * (log_mass - 10.02)))
    excess = np.where(quiescent, 0.0, np.clip(0.20 * lit["sfr_offset"], -1.0, 1.0))
    oh = mzr - 0.15 * excess + 0.06 * n_gas
    # Ionisation falls with metallicity and rises with specific rate (Kashino & Inoue 2019).
    log_u = -2.95 - 0.45 * (oh - 8.69) + 0.25 * (columns["log_ssfr"] + 10) + 0.15 * n_u
    # Salim et al. (2018): steeper than Calzetti on average, shallower with more dust.
    slope = -0.35 + 0.25 * np.clip(np.log10(columns["a_v"] / 0.4), -1, 1) + 0.30 * n_slope
    return {
        "log_z_star": lit["log_z_star"],
        "log_z_bulge": np.clip(bulge, -1.6, 0.4),
        "oh": np.clip(oh, 7.6, 9.1),
        "no_offset": 0.09 * n_no,
        "log_u": np.clip(log_u, -3.9, -2.0),
        "dust_slope": np.clip(slope, -1.1, 0.5),
    }


def _motions(draws: Draws, columns: Columns) -> Columns:
    """Draw velocity dispersions of stars and gas.

    Faber-Jackson for quiescent galaxies (Bernardi et al. 2003), a bulge below it for others, and
    for gas the rotation of Reyes et al. (2011, eq. 12) seen at an inclination through a fibre.
    """
    n_star, n_gas = draws.normal("galaxy motions", 2)
    log_mass, quiescent = columns["log_mass"] - MASS_SCALE, columns["quiescent"]
    early = 2.27 + np.where(log_mass > 10.3, 0.27, 0.38) * (log_mass - 11.0)
    early = np.where(log_mass > 10.3, early, early + 0.077)
    late = 2.00 + 0.30 * (log_mass - 10.5)
    star = np.where(quiescent, early + 0.07 * n_star, late + 0.10 * n_star)
    rotation = 2.12 + 0.27 * (log_mass - 10.0)
    sine = np.sin(np.radians(columns["inclination"]))
    gas = np.log10(np.hypot(25.0, 0.5 * 10.0**rotation * sine)) + 0.08 * n_gas
    gas = np.where(quiescent, star + 0.05 * n_gas, gas)
    return {
        "log_sigma_star": np.clip(star, 1.3, 2.6),
        "log_sigma_gas": np.clip(gas, 1.2, 2.6),
    }


def _nuclei(draws: Draws, columns: Columns) -> Columns:
    """Draw active nuclei: LINERs in massive quiescent, Seyferts in massive blue galaxies.

    Shares follow Kauffmann et al. (2003) and Cid Fernandes et al. (2011); broad-line nuclei are a
    tenth of the Seyferts at these luminosities (Hao et al. 2005).
    """
    (u,) = draws.uniform("galaxy nucleus", 1)
    (normal,) = draws.normal("galaxy nucleus", 1)
    log_mass, quiescent = columns["log_mass"] - MASS_SCALE, columns["quiescent"]
    massive = 1 / (1 + np.exp(-(log_mass - 10.4) / 0.2))
    liner = np.where(quiescent, 0.30, 0.08) * massive
    narrow = np.where(quiescent, 0.02, 0.07) * massive
    broad = np.where(quiescent, 0.003, 0.012) * massive
    agn = np.select([u < broad, u < broad + narrow, u < broad + narrow + liner], [3, 2, 1], 0)
    mean = np.choose(agn, [0.0, 39.0, 40.3, 41.0]) + 0.2 * (log_mass - 10.8)
    level = mean + np.choose(agn, [0.0, 0.4, 0.6, 0.6]) * normal
    return {"agn": agn, "log_l_agn": np.where(agn > 0, level, np.nan)}
