"""Pixels of any grid and one fixed partition of the wavelengths, without resampling.

The partition is even in log10 wavelength: 24 knots a bin, 1e-4 dex (69 km/s) apart, from 330 nm on,
so that a redshift moves a spectrum along it and a bin is 25 Å wide at 4500 Å. Between two
neighbouring knots light is a straight line (each knot carries a *hat* function). A pixel is the
mean of that line over the part of the pixel by which it is wider than a knot; the pixels of SDSS
and LAMOST sit on the knots exactly, those of DESI between two of them.

The same weights serve both ways. Encoding sums the pixels on the knots, each by its inverse
variance times its weight: a masked pixel adds nothing, and the sums know how much they rest on.
Decoding reads the line at the pixels of whatever grid is asked for. This is a convolution of
scattered points with a fixed kernel, the idea of Gordon et al. 2020 (arXiv:1910.13556).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

__all__ = ["Partition", "Pixels"]

# log10 of a wavelength in nm is exact to this many knots; a weight below it is rounding.
_EXACT = 6


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Divide the wavelengths into bins of knots.

    Parameters
    ----------
    first : float
        log10 of the wavelength in nm of the first knot.
    step : float
        Distance of two knots in dex.
    per_bin : int
        Knots of a bin.
    n_bins : int
        Bins.
    """

    first: float = 2.5184
    step: float = 1e-4
    per_bin: int = 24
    n_bins: int = 211

    @property
    def n_knots(self) -> int:
        """Number of knots."""
        return self.n_bins * self.per_bin

    @property
    def edges(self) -> np.ndarray:
        """Wavelengths in nm between which each bin lies, shape (bin + 1,)."""
        knot = np.arange(self.n_bins + 1) * self.per_bin - 0.5
        return 10 ** (self.first + self.step * knot)

    def pixels(self, wavelength: np.ndarray) -> Pixels:
        """Return how the pixels of a grid lie in it.

        Parameters
        ----------
        wavelength : array, shape (pixel,)
            Pixel centres in nm, increasing.

        Raises
        ------
        ValueError
            If no pixel lies inside.
        """
        at = (np.log10(wavelength.clip(1e-9)) - self.first) / self.step
        inside = (at > -0.5) & (at < self.n_knots - 0.5)
        if not inside.any():
            found = f"{wavelength[0]:g} … {wavelength[-1]:g}" if len(at) else "none"
            raise ValueError(
                f"this codec knows wavelengths of {self.edges[0]:.0f} … {self.edges[-1]:.0f} nm; "
                f"found {found}. Give vacuum wavelengths in nm (10 Angstrom are one nm)"
            )
        width = np.gradient(at) if len(at) > 1 else np.ones(1)
        beyond = (width - 1).clip(0)
        # A wide pixel is read at several places; their number is that of the widest.
        places = max(1, int(np.ceil(np.round(width[inside].max(), 3))))
        offset = (np.arange(places) + 0.5) / places - 0.5
        read = np.round(at[:, None] + beyond[:, None] * offset, _EXACT).clip(0, self.n_knots - 1)
        left = np.floor(read).astype(np.int64).clip(max=self.n_knots - 2)
        share = read - left
        weight = np.concatenate([1 - share, share], axis=1) / places
        nearest = np.rint(at).astype(np.int64).clip(0, self.n_knots - 1)
        return Pixels(
            knot=np.concatenate([left, left + 1], axis=1),
            weight=np.where(inside[:, None], weight, 0).astype(np.float32),
            bin=nearest // self.per_bin,
            inside=inside,
            partition=self,
        )


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Hold how the pixels of one grid lie in a partition.

    Parameters
    ----------
    knot : array of int, shape (pixel, tap)
        Knots that a pixel touches.
    weight : array of float32, shape (pixel, tap)
        Their weights, which sum to one inside the partition and are zero outside.
    bin : array of int, shape (pixel,)
        Bin in which the centre of the pixel lies.
    inside : array of bool, shape (pixel,)
        Whether the pixel lies inside the partition.
    partition : Partition
        The partition.
    """

    knot: np.ndarray
    weight: np.ndarray
    bin: np.ndarray
    inside: np.ndarray
    partition: Partition

    @cached_property
    def _taps(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.knot), torch.from_numpy(self.weight)

    @cached_property
    def _matrix(self) -> csr_array:
        pixel = np.repeat(np.arange(len(self.knot)), self.knot.shape[1])
        shape = (self.partition.n_knots, len(self.knot))
        weight = self.weight.astype(np.float64).ravel()
        return csr_array((weight, (self.knot.ravel(), pixel)), shape=shape)

    def on_knots(self, values: np.ndarray) -> np.ndarray:
        """Return weighted sums of pixel values on the knots, float64, shape (object, knot).

        Pixels are added in their order, so that zeros before, between or after them change nothing,
        to the bit.
        """
        columns = np.ascontiguousarray(values.T, dtype=np.float64)
        return np.asarray(self._matrix @ columns).T

    def bins_with(self, good: np.ndarray) -> np.ndarray:
        """Return which bins hold at least one good pixel, shape (object, bin)."""
        there = np.zeros((len(good), self.partition.n_bins), dtype=bool)
        row, pixel = np.nonzero(good & self.inside)
        there[row, self.bin[pixel]] = True
        return there

    def read(self, knots: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a line through knots is at the pixels, and which pixels can be read.

        Parameters
        ----------
        knots : Tensor, shape (object, knot)
            Values at the knots.
        there : BoolTensor, shape (object, bin)
            Which bins are known; knots of others are left out of the line.

        Returns
        -------
        values : Tensor, shape (object, pixel)
            The line; 0 where it cannot be read.
        covered : BoolTensor, shape (object, pixel)
            True where the bin of the pixel is known.
        """
        taps, weights = (part.to(knots.device) for part in self._taps)
        known = there.repeat_interleave(self.partition.per_bin, dim=1)
        knots = torch.where(known, knots, 0)
        known = known.to(knots.dtype)
        value, total = knots.new_zeros(()), knots.new_zeros(())
        for tap, weight in zip(taps.T, weights.T, strict=True):
            value = value + knots[:, tap] * weight
            total = total + known[:, tap] * weight
        bins = torch.from_numpy(self.bin).to(knots.device)
        covered = there[:, bins] & (total > 0)
        return torch.where(covered, value / total.clamp(min=1e-6), 0), covered
