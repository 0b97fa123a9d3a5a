"""The uniform wavelength grid that spectra of all surveys are brought to, and back from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Brackets", "LatentGrid"]

# A grid point this close to a pixel, in pixels, lies on it.
_ON_PIXEL = 1e-3


@dataclass(frozen=True)
class Brackets:
    """Where new points lie among increasing points.

    Parameters
    ----------
    left : LongTensor, shape (new,)
        Index of the point before; the one after is the next.
    fraction : Tensor, shape (new,)
        How far between the two, 0 … 1.
    inside : BoolTensor, shape (new,)
        False where the new point lies before the first or after the last.
    """

    left: Tensor
    fraction: Tensor
    inside: Tensor

    def interpolate(self, values: Float[Tensor, "object point"]) -> Float[Tensor, "object new"]:
        """Return linearly interpolated values, zero outside."""
        before, after = values[:, self.left], values[:, self.left + 1]
        return torch.where(self.inside, before + self.fraction * (after - before), 0)


@dataclass(frozen=True)
class LatentGrid:
    """A uniform grid of wavelengths.

    Parameters
    ----------
    start_nm, step_nm : float
        First pixel centre and distance of pixels.
    n_pixels : int
        Number of pixels.
    gap_nm : float
        Widest gap between good pixels that flux is interpolated across.
    single : bool
        Compute with wavelengths in Ångström rounded to float32, as AION-1 does. Its network was
        trained on the resulting shifts, of up to 0.0005 Å.
    """

    start_nm: float
    step_nm: float
    n_pixels: int
    gap_nm: float
    single: bool = False

    @property
    def wavelength(self) -> np.ndarray:
        """Pixel centres in nm, shape (pixel,)."""
        return self.start_nm + self.step_nm * np.arange(self.n_pixels)

    def overlaps(self, wavelength: np.ndarray) -> np.ndarray:
        """Return True where a wavelength in nm lies within the grid."""
        grid = self.wavelength
        return (wavelength >= grid[0]) & (wavelength <= grid[-1])

    def onto(self, wavelength: np.ndarray, device: torch.device | None = None) -> Brackets:
        """Return where the grid lies among wavelengths in nm, shape (pixel,)."""
        return _brackets(self._angstrom(wavelength), self._own_angstrom(), device)

    def back(self, wavelength: np.ndarray, device: torch.device | None = None) -> Brackets:
        """Return where wavelengths in nm, shape (pixel,), lie on the grid."""
        return _brackets(self._own_angstrom(), self._angstrom(wavelength), device)

    def place(
        self,
        flux: Float[Tensor, "object pixel"],
        istd: Float[Tensor, "object pixel"],
        good: Bool[Tensor, "object pixel"],
        wavelength: np.ndarray,
    ) -> tuple[Float[Tensor, "object grid"], Float[Tensor, "object grid"]]:
        """Return flux and inverse error on the grid, without any part of pixels that are not good.

        Flux is interpolated linearly between the nearest good pixels on both sides. Where there is
        none on one side, or they are further apart than `gap_nm`, both are zero, as they are
        outside the spectrum. The inverse error falls to zero towards a pixel that is not good.
        """
        at = self.onto(wavelength, flux.device)
        # Only where every gap is bridged: a spectrum's tokens must not depend on its company.
        if good.all() and np.diff(self._angstrom(wavelength)).max() <= 10 * self.gap_nm:
            return at.interpolate(flux), at.interpolate(istd)
        points = torch.from_numpy(self._angstrom(wavelength)).to(flux.device)
        own = torch.from_numpy(self._own_angstrom()).to(flux.device)
        before, after, both = _good_neighbours(good, at.left)
        width = points[after] - points[before]
        fraction = ((own - points[before]) / width).to(flux.dtype)
        first, second = flux.gather(1, before), flux.gather(1, after)
        known = at.inside & both & (width <= 10 * self.gap_nm)
        placed = torch.where(known, first + fraction * (second - first), 0)
        # A good pixel without good neighbours still counts where a grid point lies on it.
        for side, near in ((0, at.fraction < _ON_PIXEL), (1, at.fraction > 1 - _ON_PIXEL)):
            alone = ~known & at.inside & near & good[:, at.left + side]
            placed = torch.where(alone, flux[:, at.left + side], placed)
            known = known | alone
        return placed, torch.where(known, at.interpolate(torch.where(good, istd, 0)), 0)

    def _own_angstrom(self) -> np.ndarray:
        if not self.single:
            return 10 * self.wavelength
        # Product and sum are rounded to float32 one by one, as in the release.
        index = np.arange(self.n_pixels, dtype=np.float32)
        grid = index * np.float32(10 * self.step_nm) + np.float32(10 * self.start_nm)
        return grid.astype(np.float64)

    def _angstrom(self, wavelength: np.ndarray) -> np.ndarray:
        angstrom = 10 * np.asarray(wavelength, dtype=np.float64)
        return angstrom.astype(np.float32).astype(np.float64) if self.single else angstrom


def _brackets(points: np.ndarray, new: np.ndarray, device: torch.device | None) -> Brackets:
    left = np.clip(np.searchsorted(points, new) - 1, 0, len(points) - 2)
    fraction = (new - points[left]) / (points[left + 1] - points[left])
    return Brackets(
        torch.from_numpy(left).to(device),
        torch.from_numpy(fraction).float().to(device),
        torch.from_numpy((new >= points[0]) & (new <= points[-1])).to(device),
    )


def _good_neighbours(good: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the last good pixel up to `left`, the first after it, and whether both exist.

    All have shape (object, new). Where one does not exist, 0 and 1 stand in.
    """
    pixels = good.shape[1]
    index = torch.arange(pixels, device=good.device)
    last = torch.where(good, index, -1).cummax(1).values[:, left]
    following = torch.where(good, index, pixels).flip(1).cummin(1).values.flip(1)[:, left + 1]
    both = (last >= 0) & (following < pixels)
    return torch.where(both, last, 0), torch.where(both, following, 1), both
