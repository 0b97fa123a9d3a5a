"""Emission lines of star-forming regions and of active nuclei."""

from __future__ import annotations

import numpy as np

from omnisky.mock.sed.populations import filled

__all__ = ["LINES", "WAVELENGTHS", "line_luminosities"]

# Name: vacuum wavelength (A), and what it hangs on. Balmer ratios to Hbeta: case B, 10^4 K, 100
# cm-3 (Osterbrock & Ferland 2006, table 4.4). Ratios of forbidden doublets: atomic physics (ibid.).
LINES = {
    "H_alpha": 6564.61,
    "H_beta": 4862.68,
    "H_gamma": 4341.68,
    "H_delta": 4102.89,
    "H_epsilon": 3971.20,
    "H_8": 3890.15,
    "H_9": 3836.48,
    "H_10": 3798.98,
    "OII_3727": 3727.09,
    "OII_3730": 3729.88,
    "OIII_4960": 4960.30,
    "OIII_5008": 5008.24,
    "OIII_4364": 4364.44,
    "NII_6550": 6549.86,
    "NII_6585": 6585.27,
    "SII_6718": 6718.29,
    "SII_6733": 6732.67,
    "OI_6302": 6302.05,
    "OI_6366": 6365.54,
    "NeIII_3870": 3869.86,
    "NeIII_3969": 3968.59,
    "HeI_5877": 5877.25,
    "HeI_6680": 6679.99,
    "HeI_4473": 4472.73,
    "HeI_7067": 7067.14,
    "ArIII_7138": 7137.76,
    "SIII_9071": 9071.1,
    "SIII_9533": 9533.2,
    "HeII_4687": 4687.02,
    "NeV_3427": 3426.85,
    "Pa_delta": 10052.1,
}
WAVELENGTHS = np.array(list(LINES.values()))
_INDEX = {name: i for i, name in enumerate(LINES)}
_BALMER = {
    "H_alpha": 2.863,
    "H_beta": 1.0,
    "H_gamma": 0.468,
    "H_delta": 0.259,
    "H_epsilon": 0.159,
    "H_8": 0.105,
    "H_9": 0.0731,
    "H_10": 0.0530,
    "Pa_delta": 0.0555,
}
# L(Halpha) of a star formation rate of one solar mass a year (Murphy et al. 2011, equation 2).
H_ALPHA_PER_SFR = 1 / 5.37e-42


# Every other ratio to Hbeta is a share of 10^(a + b R) with R the logarithm of one of four: R3
# ([OIII]5008 / Hbeta), R2 ([OII] / Hbeta), N2 ([NII]6585 / Halpha), S2 ([SII] / Halpha). Columns:
# which, a, b, share. Weak lines follow the strong ones as in the sample of Berg et al. (2015).
_H = float(np.log10(_BALMER["H_alpha"]))
_RATIOS = {
    "OIII_5008": (0, 0.0, 1.0, 1.0),
    "OIII_4960": (0, 0.0, 1.0, 1 / 2.98),
    "OIII_4364": (0, -2.5, 1.5, 1.0),
    "OII_3730": (1, 0.0, 1.0, 0.585),
    "OII_3727": (1, 0.0, 1.0, 0.415),
    "NII_6585": (2, _H, 1.0, 1.0),
    "NII_6550": (2, _H, 1.0, 1 / 3.05),
    "SII_6718": (3, _H, 1.0, 0.575),
    "SII_6733": (3, _H, 1.0, 0.425),
    "OI_6302": (3, _H - 1.0, 1.0, 1.0),
    "OI_6366": (3, _H - 1.0, 1.0, 1 / 3.0),
    "NeIII_3870": (0, -1.05, 1.0, 1.0),
    "NeIII_3969": (0, -1.05, 1.0, 0.31),
    "HeI_5877": (0, np.log10(0.125), 0.0, 1.0),
    "HeI_6680": (0, np.log10(0.034), 0.0, 1.0),
    "HeI_4473": (0, np.log10(0.043), 0.0, 1.0),
    "HeI_7067": (0, np.log10(0.025), 0.0, 1.0),
    "ArIII_7138": (0, -0.95, 0.3, 1.0),
    "SIII_9071": (0, -0.75, 0.35, 1.0),
    "SIII_9533": (0, -0.75, 0.35, 2.5),
}
# Polynomials in x = 12 + log(O/H) - 8.69, lowest order first (Curti et al. 2020, table 2), and how
# the ratios move with log U about its mean at that abundance and with log N/O, as photoionisation
# models do (Kewley et al. 2013, figures 2 and 3).
_CURTI = np.array(
    [
        [-0.277, -3.549, -3.593, -0.981, 0.0, 0.0],
        [0.435, -1.362, -5.655, -4.851, -0.478, 0.736],
        [-0.489, 1.513, -2.554, -5.293, -2.867, 0.0],
        [-0.442, -0.360, -6.271, -8.339, -3.559, 0.0],
    ]
)
_WITH_U, _WITH_N = np.array([0.6, -0.35, -0.1, -0.3]), np.array([0.0, 0.0, 1.0, 0.0])


def _templates() -> tuple[np.ndarray, np.ndarray]:
    """Return a + log share of each line, and b as (ratio, line)."""
    base, slope = np.full(len(LINES), -30.0), np.zeros((4, len(LINES)))
    for name, ratio in _BALMER.items():
        base[_INDEX[name]] = np.log10(ratio)
    for name, (which, a, b, share) in _RATIOS.items():
        base[_INDEX[name]] = a + np.log10(share)
        slope[which, _INDEX[name]] = b
    return base, slope


_BASE, _SLOPE = _templates()


def _star_forming(oh, log_u, no_offset) -> np.ndarray:
    """Return fluxes over Hbeta, shape (object, line)."""
    # Beyond 8.87 the calibrations leave the data.
    x = (np.clip(oh, 7.6, 8.87) - 8.69)[:, None]
    ratios = _CURTI[:, 5]
    for order in (4, 3, 2, 1, 0):
        ratios = ratios * x + _CURTI[:, order]
    du = np.clip(log_u - (-2.95 - 0.45 * (oh - 8.69)), -0.9, 0.9)
    ratios = ratios + du[:, None] * _WITH_U + no_offset[:, None] * _WITH_N
    # No galaxy of the SDSS has R3 below some -1.2 dex (Kauffmann et al. 2003, figure 1), and stars
    # alone give no more than some 0.9 (Kewley et al. 2001).
    ratios[:, 0] = np.log10(10.0 ** ratios[:, 0] + 0.05)
    ratios[:, 0] = -0.25 * np.log10(10.0 ** (-4 * ratios[:, 0]) + 10.0 ** (-4 * 0.9))
    log_flux = _BASE + ratios[:, :1] * _SLOPE[0]
    for k in (1, 2, 3):
        log_flux = log_flux + ratios[:, k : k + 1] * _SLOPE[k]
    return 10.0**log_flux


# Fluxes over [OIII]5008 of narrow-line regions: Seyfert 2 and LINER, in the middle of their parts
# of the diagrams of Kewley et al. (2006).
_NUCLEI = {
    "H_beta": (0.10, 0.45),
    "NII_6585": (0.33, 1.75),
    "SII_6718": (0.085, 0.75),
    "SII_6733": (0.080, 0.68),
    "OII_3727": (0.14, 1.3),
    "OII_3730": (0.16, 1.6),
    "OI_6302": (0.055, 0.42),
    "NeIII_3870": (0.09, 0.15),
    "HeII_4687": (0.022, 0.02),
    "NeV_3427": (0.05, 0.0),
    "HeI_5877": (0.013, 0.05),
    "SIII_9071": (0.06, 0.10),
    "OIII_4364": (0.015, 0.02),
    "ArIII_7138": (0.02, 0.03),
}


def _nuclear() -> np.ndarray:
    """Return fluxes over [OIII]5008, (Seyfert or LINER, line)."""
    r = np.zeros((2, len(LINES)))
    for name, values in _NUCLEI.items():
        r[:, _INDEX[name]] = values
    for name, ratio in _BALMER.items():
        # 3.1: collisions raise Halpha in narrow-line regions (Osterbrock & Ferland 2006, 14.3).
        r[:, _INDEX[name]] = r[:, _INDEX["H_beta"]] * (3.1 if name == "H_alpha" else ratio)
    r[:, _INDEX["OIII_5008"]] = 1.0
    r[:, _INDEX["OIII_4960"]] = 1 / 2.98
    r[:, _INDEX["NII_6550"]] = r[:, _INDEX["NII_6585"]] / 3.05
    r[:, _INDEX["OI_6366"]] = r[:, _INDEX["OI_6302"]] / 3.0
    r[:, _INDEX["NeIII_3969"]] = r[:, _INDEX["NeIII_3870"]] * 0.31
    r[:, _INDEX["SIII_9533"]] = r[:, _INDEX["SIII_9071"]] * 2.5
    return r


_NUCLEAR = _nuclear()


def line_luminosities(truth) -> tuple[np.ndarray, np.ndarray]:
    """Return luminosities of lines before dust, of star formation and of the nucleus.

    Parameters
    ----------
    truth : Truth
        Galaxies.

    Returns
    -------
    star_forming, nuclear : array of float64, shape (object, line)
        erg/s, in the order of `LINES`. The nuclear ones are as observed: `log_l_agn` is not
        corrected for dust.
    """
    sfr = filled(truth, "sfr_10")
    h_beta = sfr * H_ALPHA_PER_SFR / _BALMER["H_alpha"]
    oh, log_u, dn = (
        filled(truth, name, default)
        for name, default in (("oh", 8.7), ("log_u", -3.0), ("no_offset", 0.0))
    )
    stars = h_beta[:, None] * _star_forming(oh, log_u, dn)
    agn = truth["agn"]
    nuclear = _NUCLEAR[np.where(agn == 1, 1, 0)]
    luminosity = np.where(agn > 0, 10.0 ** filled(truth, "log_l_agn"), 0.0)
    return stars, luminosity[:, None] * nuclear
