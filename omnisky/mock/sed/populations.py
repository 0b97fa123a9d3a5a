"""Stellar populations: star formation histories, and the light of what they left."""

from __future__ import annotations

from functools import cache

import numpy as np

from omnisky.mock import tables
from omnisky.mock.sed.grids import GRIDS, Grid, rebin
from omnisky.mock.sed.stars import place

__all__ = ["Populations", "filled", "formed_mass", "populations"]

# Parts of a galaxy that differ in age or dust: birth clouds (< 10 Myr), young stars (10 to 100
# Myr), disk and bulge.
BIRTH, YOUNG, DISK, BULGE = range(4)


def filled(truth, name: str, default: float = 0.0) -> np.ndarray:
    """Return a column of truth with `default` where it does not apply."""
    values = truth[name]
    return np.where(np.isnan(values), default, values)


@cache
def _ages() -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return ages (Gyr), their edges, and how many lie below 10 and below 100 Myr."""
    age = tables.load("populations")["age"]
    edges = np.concatenate([[0.0], np.sqrt(age[1:] * age[:-1]), [14.5]])
    n_birth, n_young = int(np.sum(age < 0.01)), int(np.sum(age < 0.1))
    edges[n_birth], edges[n_young] = 0.01, 0.1
    return age, edges, n_birth, n_young


def _cumulative(t: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """Return the integral of t exp(-t / tau) from 0 to t."""
    x = t / tau
    series = 0.5 * t**2 * (1 - 2 * x / 3 + x**2 / 4)
    return np.where(np.abs(x) < 0.01, series, tau**2 * (1 - (1 + x) * np.exp(-x)))


def formed_mass(truth) -> np.ndarray:
    """Return the mass formed in each age bin by each part of galaxies, per solar mass now living.

    Stars older than 100 Myr follow t exp(-t / tau) with a burst; the last 10 and 100 Myr follow
    `sfr_10` and `log_sfr`. The bulge takes the oldest stars first: its share of the mass rises
    linearly with the rank in age. Young masses are per solar mass; those of disk and bulge sum
    to one.

    Parameters
    ----------
    truth : Truth
        Galaxies.

    Returns
    -------
    array of float64, shape (object, 4, age)
        Parts: birth clouds, young stars, disk, bulge.
    """
    age, edges, n_birth, n_young = _ages()
    start = np.minimum(truth["sfh_start"], 14.0)[:, None]
    tau = truth["sfh_tau"][:, None]
    tau = np.where(tau < 0, -1.0, 1.0) * np.clip(np.abs(tau), 0.15, 1e4)
    done = _cumulative(np.maximum(start - edges, 0.0), tau)  # formed before the edge
    old = np.maximum(done[:, :-1] - done[:, 1:], 0.0)
    old[:, :n_young] = 0.0
    old /= np.sum(old, axis=1, keepdims=True)
    burst = filled(truth, "burst_fraction")[:, None]
    when = np.maximum(filled(truth, "burst_age", 1.0), age[n_young])
    position = np.interp(np.log(when), np.log(age), np.arange(len(age)))[:, None]
    tent = np.maximum(1 - np.abs(np.arange(len(age)) - position), 0.0)
    old = old * (1 - burst) + tent * burst
    living = 10.0 ** truth["log_mass"]
    sfr = 10.0 ** truth["log_sfr"] / living
    sfr_10 = np.where(np.isnan(truth["sfr_10"]), sfr, truth["sfr_10"] / living)
    parts = np.zeros((len(truth), 4, len(age)))
    widths = np.diff(edges)
    parts[:, BIRTH, :n_birth] = sfr_10[:, None] * 1e7 * widths[:n_birth] / 0.01
    rest = np.maximum(sfr * 1e8 - sfr_10 * 1e7, 0.0)
    parts[:, YOUNG, n_birth:n_young] = rest[:, None] * widths[n_birth:n_young] / 0.09
    rank = np.cumsum(old, axis=1) - 0.5 * old  # 0 young to 1 old
    bulge = filled(truth, "bulge_fraction")[:, None]
    share = np.where(bulge < 0.5, 2 * bulge * rank, 1 - 2 * (1 - bulge) * (1 - rank))
    parts[:, BULGE] = old * share
    parts[:, DISK] = old * (1 - share)
    return parts


class Populations:
    """Give the light of simple stellar populations on a grid.

    Parameters
    ----------
    grid : Grid
        Where spectra are wanted.
    """

    def __init__(self, grid: Grid) -> None:
        t = tables.load("populations")
        self.age, self.feh = t["age"], t["feh"]
        self.n_young = _ages()[3]
        self.basis, self.coefficients = [], []
        for name in ("young", "old"):
            # Each row of the basis is scaled to about one and float32 is enough.
            basis = rebin(t["wavelength"], t[f"{name}_basis"] * t[f"{name}_column"], grid.edges)
            self.basis.append(basis.astype(np.float32))
            # The living mass rides along as one more component.
            some = slice(self.n_young) if name == "young" else slice(self.n_young, None)
            living = t["living"][:, some, None]
            table = np.concatenate([t[f"{name}_coefficients"], living], axis=2)
            self.coefficients.append(table.astype(np.float64))

    def _mixed(self, table: np.ndarray, feh: np.ndarray) -> np.ndarray:
        """Interpolate a table (metal, ...) linearly in [Fe/H]."""
        low, part = place(feh, self.feh)
        part = part.reshape(-1, *[1] * (table.ndim - 1))
        return table[low] * (1 - part) + table[low + 1] * part

    def amplitudes(self, truth) -> tuple[np.ndarray, np.ndarray]:
        """Return amplitudes of the young and the old basis for each part of galaxies.

        Parameters
        ----------
        truth : Truth
            Galaxies.

        Returns
        -------
        young : array of float64, shape (object, 2, component)
            Birth clouds and young stars, solar luminosities per Angstrom.
        old : array of float64, shape (object, 2, component)
            Disk and bulge.
        """
        mass = formed_mass(truth)
        n = self.n_young
        disk = filled(truth, "log_z_star")
        bulge = np.where(np.isnan(truth["log_z_bulge"]), disk, truth["log_z_bulge"])
        young = mass[:, :2, :n] @ self._mixed(self.coefficients[0], disk)
        old = np.concatenate(
            [
                mass[:, i : i + 1, n:] @ self._mixed(self.coefficients[1], metal)
                for i, metal in ((DISK, disk), (BULGE, bulge))
            ],
            axis=1,
        )
        new = young[:, 0, -1] + young[:, 1, -1]
        share = np.maximum(1 - new, 0.05) / (old[:, 0, -1] + old[:, 1, -1])
        total = 10.0 ** truth["log_mass"]
        return (
            young[:, :, :-1] * total[:, None, None],
            old[:, :, :-1] * (share * total)[:, None, None],
        )


@cache
def populations(which: str) -> Populations:
    """Return the populations on one of the `GRIDS`."""
    return Populations(GRIDS[which])
