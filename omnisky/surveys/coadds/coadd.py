"""Hold the pixels of a co-added image, and cut windows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["Brick", "Coadd", "Wanted", "windows"]

# Variances and inverse variances below are zero, but for rounding: their inverse is no number.
_LEAST = 1e-30


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Say which planes of an image to open, and how.

    Parameters
    ----------
    noise : bool
        Whether to open inverse variances or variances.
    psf : bool
        Whether to open maps of the width of the point-spread function, where there are.
    trusted : bool
        Whether compressed images may be decoded in this process.
    """

    noise: bool = True
    psf: bool = True
    trusted: bool = False


@dataclass(frozen=True, kw_only=True)
class Brick:
    """Name the files of one piece of a survey's mosaic.

    Parameters
    ----------
    name : str
        The survey's name of it.
    headers : mapping of str to path
        By band, the file whose first image has the world coordinates.
    open : callable
        Takes bands and what is wanted of them; returns a `Coadd` by band.
    centre_deg : (float, float), optional
        Right ascension and declination of its centre to `centre_error_deg`, where the name says
        so; saves opening the headers of a whole survey.
    centre_error_deg : float
        How far the centre of the pixels may be from `centre_deg`, plus half their diagonal.
    """

    name: str
    headers: Mapping[str, Path]
    open: Callable[[Sequence[str], Wanted], dict[str, Coadd]]
    centre_deg: tuple[float, float] | None = None
    centre_error_deg: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Coadd:
    """Hold the pixels of one band of one piece of sky, as the survey stores them.

    Parameters
    ----------
    where : str
        The file, for messages.
    header : Header or None
        Header of the flux image, with its world coordinates.
    flux : array, shape (y, x)
        In units of `scale` nanomaggies; may be memory-mapped and of any byte order.
    noise : array, shape (y, x), optional
        Inverse variances or, with `noise_is_variance`, variances, in the unit of `flux`. Without
        it inverse variances are zero (unknown), and pixels of exactly zero flux hold no data.
    noise_is_variance : bool
        Which of the two.
    flags : array of integers, shape (y, x), optional
        Bits that are set where something is wrong, or noteworthy.
    bad_bits : int
        Which of them make a pixel bad.
    scale : float
        Nanomaggies in one unit of `flux`.
    psf_fwhm_arcsec : array, shape (y, x), or float, optional
        Full width at half maximum of the point-spread function.

    Raises
    ------
    ValueError
        If the images do not have the same shape.
    """

    where: str
    header: Header | None
    flux: np.ndarray
    noise: np.ndarray | None = None
    noise_is_variance: bool = False
    flags: np.ndarray | None = None
    bad_bits: int = 0
    scale: float = 1.0
    psf_fwhm_arcsec: np.ndarray | float | None = None

    def __post_init__(self) -> None:
        if self.flags is not None and self.flags.dtype.kind == "i":
            # The highest bit is a flag as well, not a sign.
            unsigned = self.flags.view(self.flags.dtype.str.replace("i", "u"))
            object.__setattr__(self, "flags", unsigned)
        for name in ("noise", "flags", "psf_fwhm_arcsec"):
            other = getattr(self, name)
            if isinstance(other, np.ndarray) and other.shape != self.flux.shape:
                raise ValueError(
                    f"{self.where}: the image has shape {self.flux.shape}, but its {name} "
                    f"{other.shape}; they must agree. One of the files belongs to another piece or "
                    "release: fetch them together"
                )

    @property
    def nbytes(self) -> int:
        """Bytes of memory held; what is mapped from a file does not count."""
        planes = (self.flux, self.noise, self.flags, self.psf_fwhm_arcsec)
        return sum(p.nbytes for p in planes if isinstance(p, np.ndarray) and not _is_mapped(p))

    def cut(
        self, corners: np.ndarray, flux: np.ndarray, ivar: np.ndarray | None, mask: np.ndarray
    ) -> None:
        """Write windows into arrays; what lies outside of the image is masked.

        Parameters
        ----------
        corners : array of int, shape (object, 2)
            First pixel of each window, x then y; may be negative.
        flux, ivar : array of float32, shape (object, y, x)
            Filled with nanomaggies and inverse variances, both 0 where the mask is False. Without
            noise, `ivar` may be None.
        mask : array of bool, shape (object, y, x)
            Filled with True where a pixel is good.
        """
        height, width = self.flux.shape
        rows, columns = flux.shape[1:]
        # Rows of windows, from below: neighbouring windows then find their pixels in the cache.
        order = np.lexsort((corners[:, 0], corners[:, 1] // max(1, rows // 2)))
        for i, (x, y) in zip(order.tolist(), corners[order].tolist(), strict=True):
            outs = flux[i], None if ivar is None else ivar[i], mask[i]
            there = (slice(y, y + rows), slice(x, x + columns))
            if x < 0 or y < 0 or x + columns > width or y + rows > height:
                for out in outs:
                    if out is not None:
                        out[...] = 0
                left, right = max(x, 0), min(x + columns, width)
                low, top = max(y, 0), min(y + rows, height)
                if right <= left or top <= low:
                    continue
                here = (slice(low - y, top - y), slice(left - x, right - x))
                there = (slice(low, top), slice(left, right))
                outs = outs[0][here], None if outs[1] is None else outs[1][here], outs[2][here]
            self._measure(there, *outs)

    def cut_all(self, flux: np.ndarray, ivar: np.ndarray | None, mask: np.ndarray) -> None:
        """Write all pixels into arrays, as `cut` does with windows; shape (y, x)."""
        self._measure((slice(None), slice(None)), flux, ivar, mask)

    def _measure(
        self,
        there: tuple[slice, slice],
        flux: np.ndarray,
        ivar: np.ndarray | None,
        mask: np.ndarray,
    ) -> None:
        """Settle unit, kind of noise and polarity of the mask for one window."""
        with np.errstate(over="ignore"):  # of float64 that is beyond float32: infinite, so masked
            flux[...] = self.flux[there]
        if self.noise is None or ivar is None:
            np.not_equal(flux, 0.0, out=mask)
            clean = bool(mask.all()) and _finite(flux, flux)
            if ivar is not None:
                ivar[...] = 0.0
        else:
            with np.errstate(over="ignore"):
                ivar[...] = self.noise[there]
            mask[...] = True
            clean = _finite(flux, ivar) and ivar.min() > _LEAST
        # Most windows are clean, which sums tell faster than a look at each pixel.
        if not clean:
            mask &= np.isfinite(flux)
            if self.noise is not None and ivar is not None:
                # No weight has what is zero, negative, infinite or NaN.
                mask &= (ivar > _LEAST) & (ivar < np.inf)
        clean &= self._apply_flags(there, mask)
        if self.noise_is_variance and self.noise is not None and ivar is not None:
            np.reciprocal(ivar, out=ivar, where=mask)
        for values, unit in ((flux, self.scale), (ivar, self.scale**-2)):
            if values is not None and unit != 1.0:
                values *= unit
            if values is not None and not clean:
                values[~mask] = 0.0

    def _apply_flags(self, there: tuple[slice, slice], mask: np.ndarray) -> bool:
        """Mask what is flagged; return whether nothing is."""
        if self.flags is None or not self.bad_bits:
            return True
        flags = self.flags[there]
        bits = self.bad_bits & (1 << 8 * flags.itemsize) - 1
        if not int(np.bitwise_or.reduce(flags, axis=None)) & bits:
            return True
        mask &= (flags & bits) == 0
        return False

    def psf_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the width of the PSF at pixels, arcsec, shape (object,); zero where unknown."""
        widths = self.psf_fwhm_arcsec
        if not isinstance(widths, np.ndarray):
            return np.full(len(x), widths or 0.0, dtype=np.float32)
        height, width = widths.shape
        row = np.clip(np.rint(y).astype(np.int64), 0, height - 1)
        column = np.clip(np.rint(x).astype(np.int64), 0, width - 1)
        found = np.asarray(widths[row, column], dtype=np.float32)
        return np.where(np.isfinite(found) & (found > 0), found, np.float32(0.0))


def _finite(a: np.ndarray, b: np.ndarray) -> bool:
    """Tell that all numbers of two arrays are finite; may be False where large ones overflow."""
    return bool(np.isfinite(np.vdot(a, b)))


def _is_mapped(plane: np.ndarray) -> bool:
    """Tell whether an array, or what it is a view of, is mapped from a file."""
    base = plane.base
    return isinstance(plane, np.memmap) or (isinstance(base, np.ndarray) and _is_mapped(base))


def windows(x: np.ndarray, y: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Place windows around positions, without resampling.

    Parameters
    ----------
    x, y : array, shape (object,)
        Positions in pixels, from 0.
    size : int
        Side of the windows in pixels.

    Returns
    -------
    corners : array of int64, shape (object, 2)
        First pixel of each window, x then y.
    offsets : array of float32, shape (object, 2)
        Position relative to the centre of the window, which is at ``(size - 1) / 2``; in
        (-0.5, 0.5]. The same windows as `astropy.nddata.Cutout2D` makes.
    """
    positions = np.stack([x, y], axis=1)
    # To a millionth of a pixel, so that rounding of coordinates does not move a window whose object
    # lies exactly between two.
    corners = np.ceil(np.round(positions - size / 2, 6)).astype(np.int64)
    offsets = positions - corners - (size - 1) / 2
    return corners, offsets.astype(np.float32)
