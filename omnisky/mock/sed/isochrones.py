"""Stars of a given mass, age and composition, and quick magnitudes for drawing samples."""

from __future__ import annotations

from functools import cache

import numpy as np

from omnisky.mock import tables
from omnisky.mock.sed.bands import BANDS, CANVAS, OFFSET, band_matrix
from omnisky.mock.sed.stars import SOLAR_LUMINOSITY, library, place, trilinear

__all__ = ["draw_star_parameters", "stage_of", "star_magnitudes", "white_dwarf"]

DWARF, SUBGIANT, GIANT, HORIZONTAL, WHITE_DWARF = range(5)
# Rows of BaSTI's isochrones (Hidalgo et al. 2018, table 4) at which a stage ends: past the
# turn-off, base and tip of the giant branch, helium in the core used up (giants again follow).
_TURNED_OFF, _BASE, _TIP, _CORE_EMPTY = 436, 490, 1291, 1990
_CHUNK = 4096
# Teff, A(G) / A_V and A(r) / A_V for A_V = 0.5.
_EXTINCTION = np.array(
    [
        [3000.0, 3400.0, 3800.0, 4400.0, 5200.0, 5800.0, 6500.0, 8000.0, 1e4, 1.5e4, 2.5e4],
        [0.590, 0.640, 0.697, 0.748, 0.796, 0.827, 0.857, 0.902, 0.945, 0.973, 1.002],
        [0.753, 0.767, 0.776, 0.782, 0.786, 0.788, 0.791, 0.794, 0.798, 0.800, 0.801],
    ]
)


@cache
def _grid() -> tuple[np.ndarray, ...]:
    t = tables.load("isochrones")
    cube = np.stack([t["mass"].astype(np.float64), t["log_t"], t["logg"], t["log_l"]])
    # (age, feh, row, quantity): the rows of one star lie together.
    return np.log(t["age"]), t["feh"], t["eep"], np.ascontiguousarray(cube.transpose(2, 3, 1, 0))


def draw_star_parameters(mass, age, feh) -> tuple[np.ndarray, ...]:
    """Return what stars of given initial mass look like at a given age.

    Parameters
    ----------
    mass : array, shape (star,)
        Initial mass, solar masses; below 0.1 as 0.1.
    age : array, shape (star,)
        Gyr, 0.02 to 14.
    feh : array, shape (star,)
        [Fe/H], -2.5 to 0.3.

    Returns
    -------
    teff, logg, log_luminosity : array of float64, shape (star,)
        K, log cm s-2, log solar luminosities.
    stage : array of int, shape (star,)
        0 dwarf, 1 subgiant, 2 giant, 3 horizontal branch (helium in the core), 4 white dwarf.

    Examples
    --------
    >>> teff, logg, luminosity, stage = draw_star_parameters([1.0, 1.0], [4.6, 13.0], [0.0, 0.0])
    >>> int(round(teff[0], -2)), stage.tolist()
    (5800, [0, 4])
    """
    mass, age, feh = (np.asarray(x, dtype=np.float64) for x in (mass, age, feh))
    values, stage = np.zeros((len(mass), 3)), np.zeros(len(mass), dtype=np.int64)
    for i in range(0, len(mass), _CHUNK):
        part = slice(i, i + _CHUNK)
        values[part], stage[part] = _interpolated(mass[part], age[part], feh[part])
    return values[:, 0], values[:, 1], values[:, 2], stage


def _interpolated(mass, age, feh) -> tuple[np.ndarray, np.ndarray]:
    """Return (teff, logg, log L) and stage."""
    log_age, metals, eep, cube = _grid()
    i, p = place(np.log(age), log_age)
    j, q = place(feh, metals)
    p, q = p[:, None, None], q[:, None, None]
    track = (
        cube[i, j] * ((1 - p) * (1 - q))
        + cube[i + 1, j] * (p * (1 - q))
        + cube[i, j + 1] * ((1 - p) * q)
        + cube[i + 1, j + 1] * (p * q)
    )
    masses = np.maximum.accumulate(track[:, :, 0], axis=1)
    above = np.sum(masses <= mass[:, None], axis=1)
    low = np.clip(above - 1, 0, masses.shape[1] - 2)
    rows = np.arange(len(mass))
    m0, m1 = masses[rows, low], masses[rows, low + 1]
    part = np.clip((mass - m0) / np.maximum(m1 - m0, 1e-12), 0, 1)[:, None]
    values = track[rows, low, 1:] * (1 - part) + track[rows, low + 1, 1:] * part
    values[:, 0] = 10.0 ** values[:, 0]
    stage = stage_of(eep[low])
    dead = mass > masses[:, -1]
    if np.any(dead):
        values[dead] = _white_dwarfs(mass[dead], age[dead], masses[dead, -1])
        stage = np.where(dead, WHITE_DWARF, stage)
    return values, stage


def stage_of(eep: np.ndarray) -> np.ndarray:
    """Return 0 dwarf, 1 subgiant, 2 giant or 3 horizontal branch of rows of the isochrones."""
    ends = (_TURNED_OFF, _BASE, _TIP, _CORE_EMPTY)
    stages = (DWARF, SUBGIANT, GIANT, HORIZONTAL)
    return np.select([eep < end for end in ends], stages, GIANT)


def white_dwarf(
    cooling_gyr: np.ndarray, mass: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log Teff / K, log g and log L / Lsun of carbon-oxygen white dwarfs.

    Luminosities after Mestel's law (Mestel 1952; as in Shapiro & Teukolsky 1983, eq. 4.3.8:
    L = 5.7e-5 (t / 1.2 Gyr)^-7/5 for 0.6 solar masses); radii from Nauenberg (1972).

    Parameters
    ----------
    cooling_gyr, mass : array, shape (star,)
        Time since the star died, Gyr; mass of the white dwarf, solar masses.
    """
    log_l = -3.0 - 1.4 * np.log10(cooling_gyr) + np.log10(mass / 0.6)
    log_l = np.minimum(log_l, 0.5)
    m = mass / 1.44
    radius = 0.01125 * np.sqrt(m ** (-2 / 3) - m ** (2 / 3))
    log_t = 0.25 * (log_l - 2 * np.log10(radius)) + np.log10(5772.0)
    log_g = 4.438 + np.log10(mass) - 2 * np.log10(radius)
    return log_t, log_g, log_l


def _white_dwarfs(mass, age, turn_off) -> np.ndarray:
    """Return Teff, log g, log L of what stars left (masses: Kalirai et al. 2008, equation 1)."""
    final = np.minimum(0.109 * mass + 0.394, 1.3)
    # A star of mass m > turn-off died when the turn-off was there: lifetimes go as m^-2.5.
    cooling = np.maximum(age * (1 - (mass / turn_off) ** -2.5), 1e-3)
    log_t, logg, log_l = white_dwarf(cooling, final)
    return np.stack([10.0**log_t, logg, log_l], axis=1)


@cache
def _corrections(dense: bool) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Return knots in log T, log g, [Fe/H] and magnitudes of G and r at 10 pc for L = 1."""
    if dense:
        log_t, logg, feh = np.arange(3.5, 4.95, 0.04), np.array([7.0, 9.0]), np.array([-1.0, 0.0])
    else:
        log_t = np.concatenate([np.arange(3.40, 3.7, 0.02), np.arange(3.7, 4.8, 0.05)])
        logg = np.array([0.0, 1.5, 3.0, 4.0, 4.5, 4.75, 5.0, 5.25, 5.5])
        feh = np.array([-2.5, -1.5, -0.75, -0.25, 0.1, 0.4])
    t, g, z = (x.ravel() for x in np.meshgrid(log_t, logg, feh, indexing="ij"))
    matrix = band_matrix()[:, [BANDS.index("gaia_g"), BANDS.index("decam_r")]]
    scale = SOLAR_LUMINOSITY / (4 * np.pi * (3.0857e19) ** 2) / 1e-17
    # G and r see nothing beyond 1.15 micron.
    seen = slice(OFFSET, OFFSET + int(CANVAS.position(11500.0)))
    light = library("coarse").spectra(10**t, g, z, seen)
    # Not one matrix product: the last bit of a large one depends on the number of threads.
    through = matrix[: seen.stop - seen.start].T
    flux = np.stack([np.sum(light * row, axis=1) for row in through], axis=1) * scale
    magnitudes = 22.5 - 2.5 * np.log10(flux)
    return (log_t, logg, feh), magnitudes.reshape(len(log_t), len(logg), len(feh), 2)


def star_magnitudes(teff, logg, feh, log_luminosity, distance, a_v) -> tuple[np.ndarray, ...]:
    """Return quick magnitudes of stars, good to some 0.05 mag, for drawing samples.

    Parameters
    ----------
    teff, logg, feh, log_luminosity, distance, a_v : array, shape (star,)
        K, log cm s-2, dex, log solar luminosities, pc, mag.

    Returns
    -------
    g, r : array of float64, shape (star,)
        Gaia G and DECam r, AB magnitudes.
    """
    teff, logg, feh = np.broadcast_arrays(*(np.asarray(x, float) for x in (teff, logg, feh)))
    total = np.zeros((*teff.shape, 2))
    for dense in (False, True):
        some = (logg > 6.5) == dense
        if np.any(some):
            knots, cube = _corrections(dense)
            total[some] = trilinear(knots, cube, (np.log10(teff[some]), logg[some], feh[some]))
    modulus = 5 * np.log10(np.asarray(distance) / 10) - 2.5 * np.asarray(log_luminosity)
    # Extinction over A_V, of Fitzpatrick (1999) seen through the bands, hangs on the colour.
    in_g = np.interp(teff, _EXTINCTION[0], _EXTINCTION[1])
    in_r = np.interp(teff, _EXTINCTION[0], _EXTINCTION[2])
    return total[..., 0] + modulus + in_g * a_v, total[..., 1] + modulus + in_r * a_v
