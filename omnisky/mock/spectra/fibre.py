"""How much of an object's light a round fibre takes in."""

from __future__ import annotations

import math
from bisect import bisect_right
from functools import cached_property

import numpy as np
from scipy.special import chndtr, gammaincinv

from omnisky.mock.truth import GALAXY, Truth

__all__ = ["Aperture"]

_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))
# The seeing as two Gaussians: share, and width over that of one of the same FWHM. They follow the
# enclosed light of a Moffat profile of beta 3.5 to 0.5 % out to four FWHM.
_PSF = ((0.68, 1.004), (0.32, 2.015))
_INDEX = [0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0]
_LOG_SIZE = np.linspace(np.log(0.004), np.log(100.0), 34).tolist()
_LOG_SEEING = np.linspace(np.log(0.2), np.log(4.0), 10).tolist()
_RINGS = 40


class Aperture:
    """Know the share of light in a round aperture, for Sérsic profiles and points in seeing.

    Parameters
    ----------
    diameter_arcsec : float
        Diameter of the fibre on the sky.
    """

    def __init__(self, diameter_arcsec: float) -> None:
        self.radius = 0.5 * diameter_arcsec
        self.area_arcsec2 = np.pi * self.radius**2

    @cached_property
    def _table(self) -> list[list[list[float]]]:
        """Logarithms of shares by (index, size, seeing), in units of the radius."""
        # Rings of equal light of each profile; a point scattered by a Gaussian falls into a disc
        # with the chance that the non-central chi-square distribution of 2 degrees gives.
        share = (np.arange(_RINGS) + 0.5) / _RINGS
        index = np.array(_INDEX)[:, None]
        ring = (gammaincinv(2 * index, share) / gammaincinv(2 * index, 0.5)) ** index
        seeing = np.exp(_LOG_SEEING)
        offset = ring[:, None, None, :] * np.exp(_LOG_SIZE)[:, None, None] / seeing[:, None]
        edge = np.broadcast_to(1 / seeing[:, None], offset.shape)
        near = offset < edge + 6
        inside = np.zeros(offset.shape)
        inside[near] = chndtr(edge[near] ** 2, 2.0, offset[near] ** 2)
        return np.log(inside.mean(axis=-1).clip(1e-12)).tolist()

    def point(self, seeing_fwhm: float) -> float:
        """Return the share of a point source's light at a seeing (FWHM, arcsec)."""
        sigma = seeing_fwhm / _FWHM / self.radius
        return sum(w * (1 - math.exp(-0.5 / (sigma * f) ** 2)) for w, f in _PSF)

    def sersic(self, size: float, index: float, seeing_fwhm: float) -> float:
        """Return the share of light of a round Sérsic profile.

        Parameters
        ----------
        size : float
            Half-light radius in arcsec; of an ellipse, the geometric mean of its axes.
        index : float
            Sérsic index, clipped to 0.5 to 6.
        seeing_fwhm : float
            Seeing, arcsec.
        """
        sigma = seeing_fwhm / _FWHM / self.radius
        i, di = _cell(_INDEX, index)
        j, dj = _cell(_LOG_SIZE, math.log(max(size, 1e-3) / self.radius))
        corners = (
            (i, j, (1 - di) * (1 - dj)),
            (i, j + 1, (1 - di) * dj),
            (i + 1, j, di * (1 - dj)),
            (i + 1, j + 1, di * dj),
        )
        total = 0.0
        for weight, factor in _PSF:
            k, dk = _cell(_LOG_SEEING, math.log(sigma * factor))
            value = 0.0
            for row, column, part in corners:
                cell = self._table[row][column]
                value += part * (cell[k] * (1 - dk) + cell[k + 1] * dk)
            total += weight * math.exp(value)
        return total

    def shares(self, truth: Truth, seeing_fwhm: float) -> tuple[float, float, float, float]:
        """Return the share of each light component in the fibre, over that of a point source.

        Surveys calibrate on stars, so that a point source has its total flux; a galaxy then has
        less than its total, by these factors.

        Parameters
        ----------
        truth : Truth
            Of length one.
        seeing_fwhm : float
            Seeing, arcsec.

        Returns
        -------
        tuple of float
            Of bulge, disk, young stars and the nucleus, which is a point.
        """
        if truth["kind"][0] != GALAXY:
            return 1.0, 1.0, 1.0, 1.0
        of = {
            name: float(truth[name][0])
            for name in ("re_bulge", "q_bulge", "n_bulge", "re_disk", "q_disk")
        }
        point = self.point(seeing_fwhm)

        def share(part: str, index: float) -> float:
            size = of[f"re_{part}"] * math.sqrt(of[f"q_{part}"])
            if not math.isfinite(size):
                return 1.0
            return min(1.0, self.sersic(size, index, seeing_fwhm) / point)

        bulge = share("bulge", of["n_bulge"] if math.isfinite(of["n_bulge"]) else 2.5)
        disk = share("disk", 1.0)
        return bulge, disk, disk, 1.0


def _cell(nodes: list[float], value: float) -> tuple[int, float]:
    """Return the cell of a value between nodes and its place in it, 0 to 1."""
    at = min(max(bisect_right(nodes, value) - 1, 0), len(nodes) - 2)
    part = (value - nodes[at]) / (nodes[at + 1] - nodes[at])
    return at, min(max(part, 0.0), 1.0)
