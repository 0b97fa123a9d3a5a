"""Spectra of galaxies: stars, dust, lines and active nuclei, part by part."""

from __future__ import annotations

from functools import cache

import numpy as np

from omnisky.mock.sed.dust import attenuation_curve, birth_cloud_curve, dust_emission
from omnisky.mock.sed.grids import C_KM_S, COARSE, GRIDS
from omnisky.mock.sed.nebular import WAVELENGTHS, line_luminosities
from omnisky.mock.sed.populations import filled, populations
from omnisky.mock.sed.stars import SOLAR_LUMINOSITY, blackbody

__all__ = ["absorption", "broad_lines", "coarse_light", "fine_light", "line_light"]

# Shares of the light that dust re-emits: aromatic features, small grains, large grains (da Cunha,
# Charlot & Elbaz 2008, section 2.2: birth clouds are hot, the medium between stars mostly cold).
_CLOUDS = np.array([0.07, 0.55, 0.38])
_DIFFUSE = np.array([0.13, 0.12, 0.75])
# Bolometric over [OIII]5007 luminosity (Heckman et al. 2004).
_BOLOMETRIC = 3500.0


@cache
def _curves(which: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the exponents of the two dust laws, in ln units per magnitude."""
    wavelength = WAVELENGTHS if which == "lines" else GRIDS[which].wavelength
    law, log_wavelength = attenuation_curve(wavelength)
    k = -0.4 * np.log(10)
    curves = k * law, log_wavelength, k * birth_cloud_curve(wavelength)
    # Single precision is enough for broad bands and spectra, and exp is four times faster in it.
    kind = np.float64 if which == "lines" else np.float32
    return curves[0].astype(kind), curves[1].astype(kind), curves[2].astype(kind)


def _transmission(truth, which: str, part: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Return what passes the diffuse dust and the birth clouds, shape (object, pixel) each."""
    law, log_wavelength, cloud = (c[part] for c in _curves(which))
    a_v, slope, a_v_young = (
        filled(truth, k)[:, None].astype(law.dtype) for k in ("a_v", "dust_slope", "a_v_young")
    )
    return np.exp(a_v * law * np.exp(slope * log_wavelength)), np.exp(a_v_young * cloud)


def coarse_light(truth) -> np.ndarray:
    """Return the light of galaxies on the coarse grid, lines and dust included.

    Parameters
    ----------
    truth : Truth
        Galaxies.

    Returns
    -------
    array of float32, shape (object, 3, pixel)
        L_lambda of bulge, disk and young stars, solar luminosities per Angstrom, at rest.
    """
    library = populations("coarse")
    young, old = (
        np.maximum(a.astype(np.float32) @ b, 0.0)
        for a, b in zip(library.amplitudes(truth), library.basis, strict=True)
    )
    diffuse, clouds = _transmission(truth, "coarse")
    width = _widths()
    born = young[:, 0] * clouds
    in_clouds = np.sum((young[:, 0] - born) * width, axis=1)
    free = np.stack([old[:, 1], old[:, 0], young[:, 1] + born], axis=1)
    light = free * diffuse[:, None]
    between = np.sum((free - light) * width, axis=2)
    features, warm, cold = _emission()
    # Dust glows where the gas is: that heated by the bulge with the disk.
    for part, diffuse_power, cloud_power in (
        (1, between[:, 0] + between[:, 1], np.zeros_like(in_clouds)),
        (2, between[:, 2], in_clouds),
    ):
        for i, shape in enumerate((features, warm, cold)):
            power = diffuse_power * _DIFFUSE[i] + cloud_power * _CLOUDS[i]
            light[:, part] += power.astype(np.float32)[:, None] * shape
    stars, nuclear = line_light(truth)
    _deposit(light[:, 2], stars / SOLAR_LUMINOSITY)
    active = np.flatnonzero(truth["agn"] > 0)
    if len(active):
        powered = truth[active]
        bulge = light[active, 0]
        _deposit(bulge, nuclear[active] / SOLAR_LUMINOSITY)
        light[active, 0] = bulge + _nucleus(powered, COARSE.wavelength)
    return light


def nuclear_light(truth) -> np.ndarray:
    """Return what `coarse_light` has of active nuclei in the bulge, (object, pixel); all active."""
    light = _nucleus(truth, COARSE.wavelength)
    _deposit(light, line_light(truth)[1] / SOLAR_LUMINOSITY)
    return light


@cache
def _widths() -> np.ndarray:
    return COARSE.width.astype(np.float32)


@cache
def _emission() -> np.ndarray:
    return dust_emission(COARSE.wavelength).astype(np.float32)


def fine_light(truth, share, which: str, part: slice) -> tuple[np.ndarray, np.ndarray | None]:
    """Return stars and nuclear continuum of one galaxy on a part of a grid, no lines.

    Parameters
    ----------
    truth : Truth
        One galaxy.
    share : (float, float, float, float)
        How much of bulge, disk, young stars and nucleus is seen.
    which : str
        Name of one of the `GRIDS`.
    part : slice
        Its pixels that are wanted.

    Returns
    -------
    stars, nucleus : array, shape (pixel,)
        Solar luminosities per Angstrom; None for the second where no continuum is seen.
    """
    library = populations(which)
    young, old = library.amplitudes(truth)
    diffuse, clouds = _transmission(truth, which, part)
    seen = (share[0] * old[0, 1] + share[1] * old[0, 0]).astype(np.float32)
    fresh = (share[2] * young[0]).astype(np.float32)
    born, recent = fresh @ library.basis[0][:, part]
    stars = np.maximum(seen @ library.basis[1][:, part], 0.0) + recent + born * clouds[0]
    stars = stars * diffuse[0]
    if truth["agn"][0] < 2:
        return stars, None
    return stars, share[3] * _nucleus(truth, GRIDS[which].wavelength[part], lines=False)[0]


def line_light(truth) -> tuple[np.ndarray, np.ndarray]:
    """Return line luminosities after dust, erg/s, (object, line): star formation, nucleus."""
    stars, nuclear = line_luminosities(truth)
    diffuse, clouds = _transmission(truth, "lines")
    return stars * diffuse * clouds, nuclear


_SODIUM = 5891.58, 5897.56
# Interstellar absorption: vacuum wavelength, equivalent width (A) for A_V = 1, speed (km/s). Sodium
# D after Chen et al. (2010); ultraviolet lines of outflows after Weiner et al. (2009).
_INTERSTELLAR = np.array(
    [
        [_SODIUM[0], 0.55, 0.0],
        [_SODIUM[1], 0.40, 0.0],
        [2796.35, 2.4, -150.0],
        [2803.53, 2.1, -150.0],
        [2852.96, 0.7, -80.0],
        [2600.17, 1.9, -120.0],
        [2586.65, 1.6, -120.0],
        [2382.77, 1.7, -120.0],
        [2374.46, 1.3, -120.0],
        [2344.21, 1.6, -120.0],
        [1548.20, 1.8, -150.0],
        [1670.79, 1.5, -150.0],
    ]
)


def absorption(truth, wavelength: np.ndarray) -> np.ndarray:
    """Return what cold gas lets through of the starlight of one galaxy, shape (pixel,).

    Parameters
    ----------
    truth : Truth
        One galaxy.
    wavelength : array, shape (pixel,)
        At rest, Angstrom.
    """
    a_v = min(float(filled(truth, "a_v")[0]), 2.0)
    stars = 10.0 ** float(truth["log_sigma_star"][0])
    sigma = max(10.0 ** float(truth["log_sigma_gas"][0]), 60.0) / C_KM_S
    # Massive galaxies are rich in sodium beyond what the library's stars have (Conroy et al. 2014).
    rich = min(max((np.log10(stars) - 2.0) / 0.4, 0.0), 1.2)
    depth = np.ones(len(wavelength))
    for line, width, speed in _INTERSTELLAR:
        width, spread = width * a_v, sigma
        if line in _SODIUM:
            width, spread = width + 0.6 * rich, max(sigma, stars / C_KM_S)
        if not wavelength[0] < line < wavelength[-1]:
            continue
        centre = line * (1 + speed / C_KM_S)
        low, high = np.searchsorted(
            wavelength, [centre * (1 - 5 * spread), centre * (1 + 5 * spread)]
        )
        x = (wavelength[low:high] / centre - 1) / spread
        tau = width / (centre * spread * np.sqrt(2 * np.pi))
        depth[low:high] *= np.exp(-tau * np.exp(-0.5 * x**2))
    return depth


@cache
def _line_pixels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixel below each line, and what one unit of power gives it and the next."""
    position = COARSE.position(WAVELENGTHS)
    low = position.astype(int)
    part = position - low
    return low, (1 - part) / COARSE.width[low], part / COARSE.width[low + 1]


def _deposit(light: np.ndarray, power: np.ndarray) -> None:
    """Add lines of given power to light, (object, pixel), shared by two pixels each."""
    low, first, second = _line_pixels()
    for i, pixel in enumerate(low):
        light[:, pixel] += power[:, i] * first[i]
        light[:, pixel + 1] += power[:, i] * second[i]


# Broad lines over broad Halpha (Vanden Berk et al. 2001, table 2; Greene & Ho 2005).
_BROAD = {
    6564.61: 1.0,
    4862.68: 0.32,
    4341.68: 0.15,
    4102.89: 0.075,
    2798.75: 0.45,
    5877.25: 0.05,
    1909.0: 0.6,
}


def broad_lines(truth) -> tuple[np.ndarray, np.ndarray, float]:
    """Return wavelengths (A), luminosities (erg/s) and width (km/s, sigma) of broad lines.

    Halpha follows the continuum at 5100 A (Greene & Ho 2005, equation 1); the width is that of gas
    around a black hole of the mass that the velocity dispersion asks for (ibid., equation 6;
    Gultekin et al. 2009).

    Parameters
    ----------
    truth : Truth
        One Seyfert 1 galaxy.
    """
    bolometric = _BOLOMETRIC * 10.0 ** float(truth["log_l_agn"][0])
    h_alpha = 5.25e42 * (bolometric / 9.0 / 1e44) ** 1.157
    sigma = 10.0 ** float(truth["log_sigma_star"][0])
    hole = 10**8.12 * (max(sigma, 60.0) / 200.0) ** 4.24
    width = 1e3 * (hole / 2.0e6 / (h_alpha / 1e42) ** 0.55) ** (1 / 2.06)
    ratios = np.array(list(_BROAD.values()))
    return np.array(list(_BROAD)), h_alpha * ratios, float(np.clip(width, 1500.0, 9000.0)) / 2.3548


def _nucleus(truth, wavelength: np.ndarray, lines: bool = True) -> np.ndarray:
    """Return continuum (and broad lines) of active nuclei, solar luminosities per Angstrom.

    Type 1 shows its disk, f_lambda proportional to lambda^-1.5, and hot dust; type 2 cooler dust
    only; LINERs, which accrete too little for a torus, nothing.
    """
    kind = truth["agn"]
    bolometric = _BOLOMETRIC * 10.0 ** truth["log_l_agn"] / SOLAR_LUMINOSITY * (kind >= 2)
    seen = kind == 3
    disk = bolometric / 9.0 / 5100.0
    light = (disk * seen)[:, None] * (wavelength / 5100.0) ** -1.5 * np.exp(-wavelength / 3e4)
    hot, warm = blackbody(wavelength, np.array([1300.0, 280.0]))
    torus = 0.25 * bolometric * np.where(seen, 0.4, 0.12)
    light += torus[:, None] * hot + (0.15 * bolometric)[:, None] * warm
    for i in np.flatnonzero(seen) if lines else ():
        centres, power, sigma = broad_lines(truth[[i]])
        for centre, p in zip(centres, power, strict=True):
            s = centre * np.hypot(sigma / C_KM_S, 0.5 / 500)
            shape = np.exp(-0.5 * ((wavelength - centre) / s) ** 2)
            light[i] += p / SOLAR_LUMINOSITY * shape / (s * np.sqrt(2 * np.pi))
    return light
