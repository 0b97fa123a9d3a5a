"""Dust: attenuation inside galaxies, extinction by the Milky Way, and what the dust re-emits."""

from __future__ import annotations

import numpy as np

__all__ = ["attenuation_curve", "birth_cloud_curve", "dust_emission", "milky_way_curve"]


def milky_way_curve(wavelength_angstrom: np.ndarray, r_v: float = 3.1) -> np.ndarray:
    """Return A(lambda) / E(B-V) of the mean Galactic extinction law.

    Fitzpatrick (1999, PASP 111, 63): the FM90 form in the ultraviolet (table 3 fixes its
    coefficients, equation 3 for R_V) and a cubic spline through the anchors of table 4 above
    2700 A.

    Parameters
    ----------
    wavelength_angstrom : array
        Vacuum wavelengths in the observer's frame, 912 A to 30 micron.
    r_v : float
        A(V) / E(B-V).

    Returns
    -------
    array of float64
        Magnitudes per magnitude of E(B-V).
    """
    from scipy.interpolate import CubicSpline

    x = 1e4 / np.asarray(wavelength_angstrom, dtype=np.float64)

    def ultraviolet(x):
        c2 = -0.824 + 4.717 / r_v
        c1 = 2.030 - 3.007 * c2
        drude = x**2 / ((x**2 - 4.596**2) ** 2 + (0.99 * x) ** 2)
        far = np.where(x > 5.9, 0.5392 * (x - 5.9) ** 2 + 0.05644 * (x - 5.9) ** 3, 0.0)
        return c1 + c2 * x + 3.23 * drude + 0.41 * far + r_v

    anchors = np.array(
        [0.0, 1e4 / 26500, 1e4 / 12200, 1e4 / 6000, 1e4 / 5470, 1e4 / 4670, 1e4 / 4110]
    )
    values = np.array(
        [
            0.0,
            0.26469 * r_v / 3.1,
            0.82925 * r_v / 3.1,
            -0.422809 + 1.00270 * r_v + 2.13572e-4 * r_v**2,
            -5.13540e-2 + 1.00216 * r_v - 7.35778e-5 * r_v**2,
            0.700127 + 1.00184 * r_v - 3.32598e-5 * r_v**2,
            1.19456
            + 1.01707 * r_v
            - 5.46959e-3 * r_v**2
            + 7.97809e-4 * r_v**3
            - 4.45636e-5 * r_v**4,
        ]
    )
    joints = np.array([1e4 / 2700, 1e4 / 2600])
    spline = CubicSpline(
        np.concatenate([anchors, joints]),
        np.concatenate([values, ultraviolet(joints)]),
        bc_type="natural",
    )
    return np.where(x > joints[0], ultraviolet(np.maximum(x, joints[0])), spline(x))


def attenuation_curve(wavelength_angstrom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the starburst law over A(V), and ln(lambda / 5500 A) for its slope.

    The law is Calzetti et al. (2000, equation 4), R_V = 4.05, continued below 1200 A by its slope
    there and above 2.2 micron as lambda^-1.7; Noll et al. (2009, equation 8) multiply it with
    (lambda / 5500 A)^delta.

    Parameters
    ----------
    wavelength_angstrom : array
        At rest.

    Returns
    -------
    law, log_wavelength : array of float64
        A(lambda) / A(V) for delta = 0; ln(lambda / 5500 A).
    """
    micron = np.asarray(wavelength_angstrom, dtype=np.float64) * 1e-4
    w = np.clip(micron, 0.12, 2.0)
    blue = 2.659 * (-2.156 + 1.509 / w - 0.198 / w**2 + 0.011 / w**3) + 4.05
    red = 2.659 * (-1.857 + 1.040 / w) + 4.05
    law = np.where(w < 0.63, blue, red) / 4.05
    law = law * np.where(micron < 0.12, (micron / 0.12) ** -0.8, 1.0)
    law = law * np.where(micron > 2.0, (micron / 2.0) ** -1.7, 1.0)
    return law, np.log(micron / 0.55)


def birth_cloud_curve(wavelength_angstrom: np.ndarray) -> np.ndarray:
    """Return A(lambda) / A(V) of birth clouds, lambda^-1.3 (Charlot & Fall 2000, section 3.2)."""
    return (np.asarray(wavelength_angstrom, dtype=np.float64) / 5500.0) ** -1.3


# Aromatic features: centre (micron), fractional width, share of the features' power. Positions and
# widths after Smith et al. (2007, table 3); shares for a normal star-forming galaxy.
_FEATURES = np.array(
    [
        [3.30, 0.012, 0.02],
        [6.22, 0.030, 0.13],
        [7.60, 0.044, 0.30],
        [7.85, 0.053, 0.18],
        [8.61, 0.039, 0.08],
        [11.33, 0.032, 0.13],
        [12.62, 0.042, 0.07],
        [17.04, 0.065, 0.09],
    ]
)


def dust_emission(wavelength_angstrom: np.ndarray) -> np.ndarray:
    """Return L_lambda of unit bolometric luminosity of three kinds of dust.

    Rows: aromatic features; small grains, warm in birth clouds; large grains at 23 K with
    emissivity lambda^-1.8 (the kinds of da Cunha, Charlot & Elbaz 2008).

    Parameters
    ----------
    wavelength_angstrom : array, shape (pixel,)
        At rest.

    Returns
    -------
    array of float64, shape (3, pixel)
        1 / Angstrom.
    """
    full = np.geomspace(2e4, 2e7, 4000)

    def kinds(angstrom):
        micron = angstrom * 1e-4
        features = np.zeros_like(micron)
        for centre, width, share in _FEATURES:
            drude = width**2 / ((micron / centre - centre / micron) ** 2 + width**2)
            features += share * drude * (2 / np.pi) * centre / width / micron**2
        # Grains heated by single photons glow at 850 K below the features (da Cunha et al. 2008).
        features += 0.10 * _planck(micron, 850.0) * micron**-1.0 / _HOT
        warm = sum(
            share * _planck(micron, t) * micron**-1.0 / t**5.0
            for t, share in ((250.0, 0.35), (130.0, 1.0), (55.0, 2.0))
        )
        return np.stack([features, warm, _planck(micron, 23.0) * micron**-1.8])

    total = np.trapezoid(kinds(full), full, axis=1)
    return kinds(np.asarray(wavelength_angstrom, dtype=np.float64)) / total[:, None]


# Integral over micron of _planck(x, 850 K) / x, so that its share is of power as the features'.
_HOT = 1.791e-5


def _planck(micron: np.ndarray, kelvin: float) -> np.ndarray:
    """Return B_lambda in arbitrary units."""
    return micron**-5 / np.expm1(np.minimum(14387.77 / (micron * kelvin), 600.0))
