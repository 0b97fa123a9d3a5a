"""Shapes of galaxies: bulge, disk, bar, arms, rings, dust lanes, irregulars, mergers, lenses."""

from __future__ import annotations

import numpy as np

from omnisky.mock.population.config import SAMPLES
from omnisky.mock.population.cosmology import C_KM_S, comoving_mpc, kpc_per_arcsec
from omnisky.mock.population.draws import Draws, pick
from omnisky.mock.population.galaxies.physics import MASS_SCALE

__all__ = [
    "DISK",
    "EDGE_ON_Q",
    "ELLIPTICAL",
    "IRREGULAR",
    "MERGER",
    "SCALE_LENGTHS",
    "lenses",
    "shapes",
]

ELLIPTICAL, DISK, IRREGULAR, MERGER = 0, 1, 2, 3
SCALE_LENGTHS = 1.678  # half-light radius of an exponential disk in scale lengths
EDGE_ON_Q = 0.30  # axis ratio below which a disk counts as edge-on

Columns = dict[str, np.ndarray]


def shapes(draws: Draws, z: np.ndarray, physical: Columns) -> Columns:
    """Draw the shape of each galaxy.

    Parameters
    ----------
    draws : Draws
        Randomness of these galaxies.
    z : array, shape (object,)
        Redshift.
    physical : dict of array
        log_mass, quiescent, log_ssfr, a_v and inclination.

    Returns
    -------
    dict of array, shape (object,)
        Columns of `omnisky.mock.truth.COLUMNS`, angles in degrees, sizes in arcsec.
    """
    columns: Columns = {"morphology": _classes(draws, z, physical)}
    columns["pa"] = 180.0 * draws.uniform("position angle")[0]
    columns |= _profile(draws, z, physical, columns["morphology"])
    columns |= _arms(draws, physical, columns)
    columns |= _bars(draws, physical, columns)
    columns |= _disturbed(draws, physical, columns)
    return columns


def _classes(draws: Draws, z: np.ndarray, physical: Columns) -> np.ndarray:
    """Draw elliptical, disk, irregular or merger.

    Mergers: 3 + 3 z per cent, within what Lotz et al. (2011) find for pairs in progress. Early
    types become round with mass (Emsellem et al. 2011: slow rotators above 10^11); irregulars
    take over at low mass and at high redshift (Conselice 2014).
    """
    u_merger, u_kind = draws.uniform("morphology class", 2)
    log_mass, quiescent = physical["log_mass"] - MASS_SCALE, physical["quiescent"]
    round_ = 0.30 + 0.55 / (1 + np.exp(-(log_mass - 10.9) / 0.25))
    irregular = 0.85 / (1 + np.exp((log_mass - 8.9 - 0.5 * np.minimum(z, 1.5)) / 0.3))
    kind = np.where(
        quiescent,
        np.where(u_kind < round_, ELLIPTICAL, DISK),
        np.where(u_kind < irregular, IRREGULAR, np.where(u_kind > 0.98, ELLIPTICAL, DISK)),
    )
    return np.where(u_merger < 0.03 + 0.03 * np.minimum(z, 1.5), MERGER, kind)


def _profile(draws: Draws, z: np.ndarray, physical: Columns, kind: np.ndarray) -> Columns:
    """Draw bulge fraction, sizes, Sérsic index and axis ratios.

    Sizes: van der Wel et al. (2014, table 1 and section 3), half-light radii along the major
    axis. Bulges: Lackner & Gunn (2012), Simard et al. (2011).
    """
    n_size, n_bulge, n_share, n_thick, n_index = draws.normal("profile", 5)
    (u_round,) = draws.uniform("profile", 1)
    log_mass, quiescent = physical["log_mass"] - MASS_SCALE, physical["quiescent"]
    elliptical = kind == ELLIPTICAL
    share = _bulge_fraction(log_mass, quiescent, n_share)
    share = np.where(elliptical, 1.0, np.where(kind == IRREGULAR, 0.0, share))
    late = np.log10(8.9) - 0.75 * np.log10(1 + z) + 0.22 * (log_mass - 10.699) + 0.17 * n_size
    early = np.log10(5.6) - 1.48 * np.log10(1 + z) + 0.75 * (log_mass - 10.699) + 0.12 * n_size
    # Below 2e10 early types keep their size (Shen et al. 2003; Lange et al. 2015).
    knee = np.log10(5.6) - 1.48 * np.log10(1 + z) + 0.75 * (10.3 - 10.699) + 0.12 * n_size
    early = np.where(log_mass < 10.3, knee + 0.15 * (log_mass - 10.3), early)
    total = 10.0 ** np.where(quiescent | elliptical, early, late) / kpc_per_arcsec(z)
    bulge = np.where(elliptical, total, 0.28 * total * 10.0 ** (0.18 * n_bulge))
    disk = total / np.maximum(1 - 0.55 * share, 0.45)  # so that both together have the size
    index = np.where(
        elliptical,
        2.6 + 2.2 * (np.clip(log_mass, 9.5, 11.7) - 9.8) / 1.4 + 0.8 * n_index,
        np.where(share > 0.3, 2.8, 1.6) + 0.7 * n_index,
    )
    cos2 = np.cos(np.radians(physical["inclination"])) ** 2
    thick = np.clip(np.where(kind == IRREGULAR, 0.42, 0.19) + 0.05 * n_thick, 0.08, 0.7)
    flat = np.where(elliptical, 0.45 + 0.55 * u_round**0.8, 0.6)
    oblate = np.sqrt(flat**2 + (1 - flat**2) * cos2)
    return {
        "bulge_fraction": share,
        "re_bulge": bulge,
        "n_bulge": np.clip(index, 0.8, 6.0),
        "q_bulge": np.where(elliptical, flat, oblate),
        "re_disk": disk,
        "q_disk": np.sqrt(thick**2 + (1 - thick**2) * cos2),
    }


def _bulge_fraction(log_mass, quiescent, normal) -> np.ndarray:
    """Draw the bulge share of the mass: logit-normal about a mean that rises with mass."""
    mean = np.where(quiescent, 0.3 + 0.8 * (log_mass - 10.5), -1.7 + 1.0 * (log_mass - 10.5))
    share = 1 / (1 + np.exp(-(mean + 0.9 * normal)))
    return np.where(share < 0.02, 0.0, np.minimum(share, 0.9))


def _arms(draws: Draws, physical: Columns, columns: Columns) -> Columns:
    """Draw spiral arms.

    Three of four star-forming disks have arms (Willett et al. 2013); 60 per cent of them two
    (Hart et al. 2016); pitch falls with the bulge (Kennicutt 1981; Davis et al. 2015), 7 to 42.
    """
    u_any, u_many, u_phase, u_hand, u_floc = draws.uniform("arms", 5)
    n_pitch, n_contrast = draws.normal("arms", 2)
    log_mass, share = physical["log_mass"] - MASS_SCALE, columns["bulge_fraction"]
    likely = 0.80 / (1 + np.exp(-(log_mass - 9.4) / 0.25))
    likely = np.where(physical["quiescent"], 0.12, likely)
    disk = (columns["morphology"] == DISK) | (columns["morphology"] == MERGER)
    there = disk & (u_any < likely) & (share < 0.75)
    count = np.array([2, 3, 4, 5])[pick(u_many, (0.60, 0.22, 0.12, 0.06))]
    pitch = np.clip(26.0 - 22.0 * share + 6.0 * n_pitch, 7.0, 42.0)
    contrast = np.clip(0.45 + 0.16 * n_contrast, 0.12, 0.9)
    contrast = np.where(physical["quiescent"], 0.5 * contrast, contrast)
    return {
        "n_arms": np.where(there, count, 0),
        "arm_pitch": np.where(there, pitch, np.nan),
        "arm_contrast": np.where(there, contrast, 0.0),
        "arm_phase": 360.0 * u_phase,
        "winding": np.where(there, np.where(u_hand < 0.5, 1, -1), -1),
        "flocculence": np.clip(np.where(count > 2, 0.35, 0.1) + 0.5 * u_floc, 0.0, 1.0),
    }


def _bars(draws: Draws, physical: Columns, columns: Columns) -> Columns:
    """Draw bars, rings and dust lanes of disks.

    A third of massive disks is barred (Masters et al. 2011); bars reach 1.3 scale lengths (Erwin
    2005). Inner rings end at the bar, others lie near 2.2 scale lengths (Buta 2017).
    """
    u_bar, u_strength, u_angle, u_ring, u_where, u_lane = draws.uniform("bar", 6)
    (n_length,) = draws.normal("bar", 1)
    log_mass = physical["log_mass"] - MASS_SCALE
    disk = columns["morphology"] == DISK
    scale = columns["re_disk"] / SCALE_LENGTHS
    barred = disk & (u_bar < 0.12 + 0.26 / (1 + np.exp(-(log_mass - 9.9) / 0.3)))
    length = 1.3 * scale * 10.0 ** (0.14 * n_length)
    strength = 0.06 + 0.22 * u_strength
    ringed = disk & (u_ring < np.where(barred, 0.22, 0.08)) & (log_mass > 9.7)
    radius = np.where(barred & (u_where < 0.7), length, (1.6 + 1.2 * u_where) * scale)
    edge_on = disk & (columns["q_disk"] < EDGE_ON_Q) & ~physical["quiescent"]
    depth = np.where(edge_on, (0.4 + 1.6 * u_lane) * np.clip(log_mass - 8.8, 0.0, 2.0), 0.0)
    return {
        "bar_length": np.where(barred, length, 0.0),
        "bar_strength": np.where(barred, strength, 0.0),
        "bar_angle": 180.0 * u_angle,
        "ring_radius": np.where(ringed, radius, 0.0),
        "ring_strength": np.where(ringed, 0.04 + 0.12 * u_where, 0.0),
        "dust_lane": depth,
    }


def _disturbed(draws: Draws, physical: Columns, columns: Columns) -> Columns:
    """Draw what irregulars and mergers have: clumps, a companion, tails and shells.

    Half of the mergers are pairs with a mass ratio of 1:10 to 1:1, uniform in its logarithm; the
    others have coalesced and show tails or shells.
    """
    u_ratio, u_apart, u_angle, u_tail, u_pair, u_clump = draws.uniform("disturbed", 6)
    merger = columns["morphology"] == MERGER
    pair = merger & (u_pair < 0.5)
    size = np.maximum(columns["re_disk"], columns["re_bulge"])
    apart = size * (0.8 + 2.7 * u_apart)
    tail = np.where(merger, 0.04 + 0.22 * u_tail**1.5, 0.0)
    # A few massive early types show shells (Tal et al. 2009; Atkinson et al. 2013).
    shells = (
        (columns["morphology"] == ELLIPTICAL)
        & (physical["log_mass"] > 10.8 + MASS_SCALE)
        & (u_tail < 0.1)
    )
    irregular = columns["morphology"] == IRREGULAR
    return {
        "merger_ratio": np.where(pair, 10.0 ** (-u_ratio), 0.0),
        "merger_separation": np.where(pair, apart, np.nan),
        "merger_angle": np.where(pair, 360.0 * u_angle, np.nan),
        "tail_strength": np.where(shells, 0.02 + 0.06 * u_pair, tail),
        "clumpiness": np.where(irregular, 0.1 + 0.5 * u_clump, 0.0),
    }


def lenses(draws: Draws, sample: np.ndarray, z: np.ndarray, physical: Columns) -> Columns:
    """Draw the mass that lenses, and the galaxy behind it, for galaxies of the lens sample.

    The Einstein radius is that of a singular isothermal ellipsoid, 4 pi (sigma / c)^2 D_ls / D_s
    (Kormann et al. 1994); sources are blue, faint and lie where they have two images or more.
    """
    u_z, u_beta, u_angle, u_q, u_pa, u_shear, u_shear_pa, u_source = draws.uniform("lens", 8)
    n_q, n_re, n_flux = draws.normal("lens source", 3)
    lens = sample == SAMPLES.index("lens")
    source = z + 0.35 + 2.2 * u_z
    near, far = comoving_mpc(z), comoving_mpc(source)
    sigma = 10.0 ** physical["log_sigma_star"]
    theta = 4 * np.pi * (sigma / C_KM_S) ** 2 * (1 - near / far) * 206264.806
    beta, angle = 0.75 * theta * np.sqrt(u_beta), 2 * np.pi * u_angle
    columns = {
        "lens_q": np.clip(0.80 + 0.12 * n_q, 0.45, 0.98),
        "lens_pa": (physical["pa"] + 20.0 * (u_pa - 0.5)) % 180.0,
        "lens_shear": 0.12 * u_shear**1.5,
        "lens_shear_pa": 180.0 * u_shear_pa,
        "source_redshift": source,
        "source_x": beta * np.sin(angle),
        "source_y": beta * np.cos(angle),
        "source_re": 0.25 * 10.0 ** (0.2 * n_re),
        "source_q": 0.35 + 0.6 * u_q,
        "source_pa": 180.0 * u_source,
        "source_flux_r": 10.0 ** (0.4 * (22.5 - 24.0) + 0.3 * n_flux),
    }
    columns = {name: np.where(lens, values, np.nan) for name, values in columns.items()}
    return {"lens_theta_e": np.where(lens, theta, 0.0), **columns}
