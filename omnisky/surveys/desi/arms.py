"""Merge the arms of DESI spectra on their common grid, exactly, with the resolution kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from omnisky.modalities import Spectrum
from omnisky.surveys.desi.declarations import SPECTRUM
from omnisky.surveys.fits import checked, columns_of, header_of, image_of, table_of, unit_is

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["Arm", "Arms", "Columns", "grid_pixels", "line_width", "merged"]

_CAMERAS = ("B", "R", "Z", "BRZ")
_PREFIX = "TARGET"


def grid_pixels(angstrom: np.ndarray, where: str) -> np.ndarray:
    """Return the pixel of DESI's grid at each wavelength, shape (pixel,).

    Raises
    ------
    ValueError
        If a wavelength lies off the grid by more than a hundredth of a step, or outside of it.
    """
    start, step, pixels = SPECTRUM.wavelength_nm or (0.0, 1.0, 0)
    position = (np.asarray(angstrom, dtype=np.float64) / 10 - start) / step
    nearest = np.rint(position)
    if not np.all(np.abs(position - nearest) < 0.01):
        raise ValueError(
            f"{where}: wavelengths are not on DESI's grid of {10 * step:g} Angstrom from "
            f"{10 * start:g}. It was resampled, or is another product; give the coadd"
        )
    if not np.all((nearest >= 0) & (nearest < pixels)):
        raise ValueError(
            f"{where}: wavelengths reach outside {10 * start:g} to "
            f"{10 * (start + step * (pixels - 1)):g} Angstrom. It is another product; give the "
            "coadd"
        )
    return nearest.astype(np.int64)


def line_width(resolution: np.ndarray) -> np.ndarray:
    """Return the width of the line-spread function in pixels, one sigma, zero where unknown.

    Parameters
    ----------
    resolution : array, shape (object, diagonal, pixel)
        Diagonals of the resolution matrices, as DESI stores them.

    Returns
    -------
    array, shape (object, pixel)
        From the second moment, so that it holds for the sum of arms too.
    """
    half = resolution.shape[1] // 2
    offset = np.arange(half, half - resolution.shape[1], -1, dtype=np.float64)
    powers = np.stack([offset**k for k in range(3)])
    widths = np.empty((len(resolution), resolution.shape[2]))
    # Object by object: what one needs stays in the cache.
    for i, matrix in enumerate(resolution):
        weight = matrix.astype(np.float64)
        if not np.isfinite(weight).all():
            weight = np.nan_to_num(weight, posinf=0.0, neginf=0.0)
        total, first, second = powers @ weight
        known = total > 0
        total = np.where(known, total, 1.0)
        variance = second / total - (first / total) ** 2
        widths[i] = np.sqrt(np.where(known, variance, 0.0).clip(0))
    return widths


@dataclass(frozen=True)
class Arm:
    """Hold one arm of some spectra, as a coadd stores it.

    Parameters
    ----------
    part : slice
        Pixels of DESI's grid that it fills.
    flux, ivar, mask : array, shape (object, pixel)
        Flux, inverse variance, and a mask in which a set bit is a fault.
    resolution : array, shape (object, diagonal, pixel), optional
        Diagonals of the resolution matrices.
    """

    part: slice
    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    resolution: np.ndarray | None = None


def merged(arms: Iterable[Arm]) -> Spectrum:
    """Merge arms on the common grid, without resampling.

    Where arms overlap, fluxes are weighted by inverse variance and so are the variances of the
    line-spread functions. Pixels of a missing arm are masked.

    Parameters
    ----------
    arms : iterable of Arm
        The arms of the same objects; at least one.
    """
    total = weight = spread = np.zeros(0)
    sharp = False
    for number, arm in enumerate(arms):
        if not number:
            shape = (len(arm.flux), len(SPECTRUM.wavelength))
            total, weight, spread = (np.zeros(shape) for _ in range(3))
        good = (arm.mask == 0) & np.isfinite(arm.flux) & np.isfinite(arm.ivar) & (arm.ivar > 0)
        given = np.where(good, arm.ivar, 0.0).astype(np.float64)
        total[:, arm.part] += given * np.where(good, arm.flux, 0.0)
        weight[:, arm.part] += given
        if arm.resolution is not None:
            sharp = True
            spread[:, arm.part] += given * line_width(arm.resolution) ** 2
    mask = weight > 0
    safe = np.where(mask, weight, 1.0)
    step_nm = (SPECTRUM.wavelength_nm or (0.0, 1.0, 0))[1]
    lsf = np.sqrt(spread / safe) * step_nm if sharp else None
    return Spectrum(total / safe, weight, mask, SPECTRUM.wavelength, lsf)


@dataclass(frozen=True)
class _Arm:
    camera: str
    part: slice
    resolution: bool


class Arms:
    """Read the spectra of a coadd whose arms are images, ``B_FLUX`` and so on.

    Parameters
    ----------
    opened : HDUList
        What `open_fits` gave.
    length : int
        Number of objects.

    Raises
    ------
    ValueError
        If there is no arm, an arm is incomplete, or it is off the grid or in another unit.
    """

    def __init__(self, opened: HDUList, length: int) -> None:
        self._opened = opened
        self._path = checked(opened).path
        self._shapes = {hdu.name: hdu.shape for hdu in checked(opened).hdus}
        self._arms = [
            self._describe(camera, length)
            for camera in _CAMERAS
            if any(name.startswith(f"{camera}_") for name in self._shapes)
        ]

    @staticmethod
    def among(names: set[str]) -> bool:
        """Tell whether a file with HDUs of these names has arms."""
        return any(f"{camera}_FLUX" in names for camera in _CAMERAS)

    def _describe(self, camera: str, length: int) -> _Arm:
        missing = [
            f"{camera}_{part}"
            for part in ("WAVELENGTH", "FLUX", "IVAR", "MASK")
            if f"{camera}_{part}" not in self._shapes
        ]
        if missing:
            raise ValueError(
                f"{self._path}: arm {camera} is incomplete, it lacks {', '.join(missing)}. Fetch "
                "the file again"
            )
        where = f"{self._path}, {camera}_WAVELENGTH"
        unit_is(header_of(self._opened, f"{camera}_WAVELENGTH").get("BUNIT"), "Angstrom", where)
        flux_unit = header_of(self._opened, f"{camera}_FLUX").get("BUNIT")
        unit_is(flux_unit, SPECTRUM.unit, f"{self._path}, {camera}_FLUX")
        pixels = grid_pixels(image_of(self._opened, f"{camera}_WAVELENGTH"), where)
        if not np.array_equal(pixels, pixels[0] + np.arange(pixels.size)):
            raise ValueError(f"{where}: pixels are left out or repeated; expected each once")
        for name in ("FLUX", "IVAR", "MASK"):
            if self._shapes[f"{camera}_{name}"] != (length, pixels.size):
                raise ValueError(
                    f"{self._path}, {camera}_{name}: expected {length} objects of {pixels.size} "
                    f"pixels; found shape {self._shapes[f'{camera}_{name}']}. The file is damaged"
                )
        shape = self._shapes.get(f"{camera}_RESOLUTION")
        if shape is not None and (len(shape) != 3 or shape[::2] != (length, pixels.size)):
            raise ValueError(
                f"{self._path}, {camera}_RESOLUTION: expected shape ({length}, diagonals, "
                f"{pixels.size}); found {shape}. The file is damaged"
            )
        return _Arm(camera, slice(pixels[0], pixels[-1] + 1), shape is not None)

    def read(self, rows: slice) -> Spectrum:
        """Return merged spectra of consecutive objects.

        Where arms overlap, fluxes are weighted by inverse variance and so are the variances of
        the line-spread functions. Pixels of a missing arm are masked.
        """
        return merged(self._read(arm, rows) for arm in self._arms)

    def _read(self, arm: _Arm, rows: slice) -> Arm:
        """Return one arm of consecutive objects."""
        flux, ivar, mask = (
            image_of(self._opened, f"{arm.camera}_{part}", rows=rows)
            for part in ("FLUX", "IVAR", "MASK")
        )
        sharp = None
        if arm.resolution:
            sharp = image_of(self._opened, f"{arm.camera}_RESOLUTION", rows=rows)
        return Arm(arm.part, flux, ivar, mask, sharp)


class Columns:
    """Read the spectra of a mini-SV file: one table column an object, without errors or masks.

    Parameters
    ----------
    opened : HDUList
        What `open_fits` gave.

    Raises
    ------
    ValueError
        If its wavelengths are off the grid.
    """

    def __init__(self, opened: HDUList) -> None:
        self._opened = opened
        where = f"{checked(opened).path}, WAVELENGTH"
        self._names = [name for name in columns_of(opened, 1) if name.startswith(_PREFIX)]
        self._pixels = grid_pixels(table_of(opened, 1, ["WAVELENGTH"])["WAVELENGTH"], where)

    @staticmethod
    def among(opened: HDUList) -> bool:
        """Tell whether a file has this layout."""
        hdus = checked(opened).hdus
        if len(hdus) < 2 or hdus[1].kind != "table":
            return False
        names = columns_of(opened, 1)
        return "WAVELENGTH" in names and any(n[len(_PREFIX) :].isdigit() for n in names)

    @property
    def targetid(self) -> np.ndarray:
        """Identifiers, as the names of the columns give them, shape (object,)."""
        try:
            return np.array([int(name[len(_PREFIX) :]) for name in self._names], dtype=np.int64)
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{checked(self._opened).path}: a column is named {_PREFIX} without a TARGETID: "
                f"{', '.join(self._names)}. The file is damaged"
            ) from error

    def read(self, rows: slice) -> Spectrum:
        """Return spectra of consecutive objects.

        Where arms overlap, a wavelength is there once for each arm. Without errors nothing says
        which is better, so the mean is taken.
        """
        names = self._names[rows]
        table = table_of(self._opened, 1, names)
        length = len(SPECTRUM.wavelength)
        flux, count = np.zeros((2, len(names), length))
        for i, name in enumerate(names):
            finite = np.isfinite(table[name])
            pixels = self._pixels[finite]
            flux[i] = np.bincount(pixels, table[name][finite], minlength=length)
            count[i] = np.bincount(pixels, minlength=length)
        mask = count > 0
        return Spectrum(flux / np.where(mask, count, 1), None, mask, SPECTRUM.wavelength)
