"""The measured values of many objects, one class a kind of measurement."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from omnisky.modalities.surroundings import Catalog, SegmentationMap, refuse_units
from omnisky.modalities.surroundings import rows_of as _rows

__all__ = ["Coefficients", "Image", "Measurement", "Scalar", "Spectrum"]


@dataclass(frozen=True)
class Scalar:
    """Hold one number for each object.

    Parameters
    ----------
    value : array, shape (object,)
        Values in the modality's unit; stored as 0 where the mask is False.
    ivar : array, shape (object,), optional
        Inverse variances in unit⁻²; zero where unknown.
    mask : array of bool, shape (object,), optional
        True where the value is good. Without it, finite values are good.

    Raises
    ------
    ValueError
        If shapes disagree, a value marked good is not finite, or an inverse variance is negative.
    """

    value: np.ndarray
    ivar: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    mask: np.ndarray = None  # pyright: ignore[reportAssignmentType]

    if TYPE_CHECKING:  # more may be given than is there afterwards

        def __init__(
            self, value: Any, ivar: np.ndarray | None = None, mask: np.ndarray | None = None
        ) -> None: ...

    def __post_init__(self) -> None:
        _clean(self, "value", ndim=1)

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index) -> Scalar:
        return Scalar(*(_rows(a, index) for a in (self.value, self.ivar, self.mask)))

    @property
    def present(self) -> np.ndarray:
        """True for the objects that have this measurement, shape (object,)."""
        return self.mask


@dataclass(frozen=True)
class Spectrum:
    """Hold one spectrum on a common wavelength grid for each object.

    Parameters
    ----------
    flux : array, shape (object, pixel)
        Flux density in the modality's unit; stored as 0 where the mask is False.
    ivar : array, shape (object, pixel), optional
        Inverse variances in unit⁻²; zero where unknown.
    mask : array of bool, shape (object, pixel), optional
        True where the pixel is good. Without it, pixels with finite flux are good.
    wavelength : array, shape (pixel,)
        Pixel centres in nm (vacuum, observed), strictly increasing.
    lsf_sigma : array, shape (object, pixel), optional
        Width of the line-spread function in nm, one Gaussian sigma; zero where unknown.

    Raises
    ------
    ValueError
        If shapes disagree, a good pixel is not finite, an inverse variance or width is negative,
        or the wavelengths do not increase.
    """

    flux: np.ndarray
    ivar: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    mask: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    wavelength: np.ndarray = field(default_factory=lambda: np.empty(0))
    lsf_sigma: np.ndarray | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            flux: Any,
            ivar: np.ndarray | None = None,
            mask: np.ndarray | None = None,
            wavelength: np.ndarray = ...,
            lsf_sigma: np.ndarray | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        _clean(self, "flux", ndim=2)
        refuse_units("Spectrum", "wavelength", self.wavelength)
        wavelength = np.asarray(self.wavelength, dtype=np.float64)
        if wavelength.shape != self.flux.shape[1:]:
            raise ValueError(
                f"Spectrum: {self.flux.shape[1]} flux pixels but wavelength has shape "
                f"{wavelength.shape}; give one wavelength a pixel, in nm"
            )
        if not np.all(np.diff(wavelength) > 0):
            raise ValueError(
                "Spectrum: wavelengths must increase strictly from pixel to pixel; found a step of "
                f"{np.diff(wavelength).min():g} nm. Sort wavelength and flux together first"
            )
        object.__setattr__(self, "wavelength", wavelength)
        if self.lsf_sigma is not None:
            lsf = _not_negative(self, "lsf_sigma", self.flux.shape)
            object.__setattr__(self, "lsf_sigma", lsf)

    @classmethod
    def from_error(cls, flux, error, wavelength, mask=None) -> Spectrum:
        """Make spectra from 1-sigma errors, shape (object, pixel), in the unit of the flux.

        Raises
        ------
        ValueError
            If an error of a good pixel is not positive and finite, naming the first such pixel.
        """
        for name, given in (("flux", flux), ("error", error)):
            refuse_units("Spectrum", name, given)
        if np.shape(flux) != np.shape(error):
            raise ValueError(f"flux has shape {np.shape(flux)} but error {np.shape(error)}")
        unmasked = ~(np.ma.getmaskarray(flux) | np.ma.getmaskarray(error))
        flux, error = np.asarray(np.ma.getdata(flux)), np.asarray(np.ma.getdata(error))
        good = unmasked & (np.isfinite(flux) if mask is None else np.asarray(mask, dtype=bool))
        bad = good & ~((error > 0) & np.isfinite(error))
        if bad.any():
            row, pixel = np.argwhere(bad)[0]
            raise ValueError(
                f"{bad.sum()} good pixels have an error that is not positive and finite; the first "
                f"is object {row}, pixel {pixel}: {error[row, pixel]!r}. Mask these pixels "
                "(mask=False) or give their real errors"
            )
        ivar = np.where(good, 1.0 / np.where(good, error, 1.0).astype(np.float64) ** 2, 0.0)
        return cls(flux, ivar, good, wavelength)

    def __len__(self) -> int:
        return len(self.flux)

    def __getitem__(self, index) -> Spectrum:
        flux, ivar, mask = (_rows(a, index) for a in (self.flux, self.ivar, self.mask))
        lsf = None if self.lsf_sigma is None else _rows(self.lsf_sigma, index)
        return Spectrum(flux, ivar, mask, self.wavelength, lsf)

    @property
    def present(self) -> np.ndarray:
        """True for the objects that have at least one good pixel, shape (object,)."""
        return np.asarray(self.mask.any(axis=1))


@dataclass(frozen=True)
class Image:
    """Hold one cut-out in several bands for each object.

    Parameters
    ----------
    flux : array, shape (object, band, y, x)
        Flux a pixel in the modality's unit; stored as 0 where the mask is False.
    ivar : array, shape (object, band, y, x), optional
        Inverse variances in unit⁻²; zero where unknown.
    mask : array of bool, shape (object, band, y, x), optional
        True where the pixel is good. Without it, pixels with finite flux are good.
    bands : tuple of str
        Names of the bands, in order.
    pixel_scale_arcsec : float
        Side of a pixel.
    psf_fwhm_arcsec : array, shape (object, band), optional
        Full width at half maximum of the point-spread function; zero where unknown.
    offset_pixels : array, shape (object, 2), optional
        Position of the object relative to the centre of the cut-out, x then y; zero without it.

    Raises
    ------
    ValueError
        If shapes disagree, a good pixel is not finite, or an inverse variance or width is negative.
    """

    flux: np.ndarray
    ivar: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    mask: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    bands: tuple[str, ...] = ()
    pixel_scale_arcsec: float = 0.0
    psf_fwhm_arcsec: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    offset_pixels: np.ndarray = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        _clean(self, "flux", ndim=4)
        object.__setattr__(self, "bands", tuple(self.bands))
        if len(self.bands) != self.flux.shape[1] or len(set(self.bands)) != len(self.bands):
            raise ValueError(
                f"Image: flux has {self.flux.shape[1]} bands but bands names {self.bands}; give "
                "one name a band, none twice"
            )
        if not (np.isfinite(self.pixel_scale_arcsec) and self.pixel_scale_arcsec > 0):
            raise ValueError(
                f"Image: pixel_scale_arcsec must be positive; found {self.pixel_scale_arcsec!r}"
            )
        psf = _not_negative(self, "psf_fwhm_arcsec", self.flux.shape[:2])
        object.__setattr__(self, "psf_fwhm_arcsec", psf)
        refuse_units("Image", "offset_pixels", self.offset_pixels)
        offset = np.zeros((len(self.flux), 2)) if self.offset_pixels is None else self.offset_pixels
        if np.shape(offset) != (len(self.flux), 2) or not np.isfinite(offset).all():
            raise ValueError(
                f"Image: offset_pixels must be finite, of shape ({len(self.flux)}, 2); found shape "
                f"{np.shape(offset)}"
            )
        object.__setattr__(self, "offset_pixels", np.asarray(offset, dtype=np.float32))

    def __len__(self) -> int:
        return len(self.flux)

    def __getitem__(self, index) -> Image:
        flux, ivar, mask = (_rows(a, index) for a in (self.flux, self.ivar, self.mask))
        psf, offset = (_rows(a, index) for a in (self.psf_fwhm_arcsec, self.offset_pixels))
        return Image(flux, ivar, mask, self.bands, self.pixel_scale_arcsec, psf, offset)

    @property
    def present(self) -> np.ndarray:
        """True for the objects that have at least one good pixel, shape (object,)."""
        return np.asarray(self.mask.any(axis=(1, 2, 3)))


@dataclass(frozen=True)
class Coefficients:
    """Hold the coefficients of a basis expansion for each object.

    Parameters
    ----------
    value : array, shape (object, coefficient)
        Coefficients in the modality's unit; stored as 0 where the mask is False.
    ivar : array, shape (object, coefficient), optional
        Inverse variances in unit⁻²; zero where unknown.
    mask : array of bool, shape (object, coefficient), optional
        True where the coefficient is good. Without it, finite coefficients are good.

    Raises
    ------
    ValueError
        If shapes disagree, a good value is not finite, or an inverse variance is negative.
    """

    value: np.ndarray
    ivar: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    mask: np.ndarray = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        _clean(self, "value", ndim=2)

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, index) -> Coefficients:
        return Coefficients(*(_rows(a, index) for a in (self.value, self.ivar, self.mask)))

    @property
    def present(self) -> np.ndarray:
        """True for the objects that have at least one good coefficient, shape (object,)."""
        return np.asarray(self.mask.any(axis=1))


_WithErrors: TypeAlias = Scalar | Spectrum | Image | Coefficients
Measurement: TypeAlias = _WithErrors | Catalog | SegmentationMap


def _not_negative(measurement: Measurement, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an optional array of widths as float32, checked; zeros without it."""
    array = getattr(measurement, name)
    refuse_units(type(measurement).__name__, name, array)
    array = np.zeros(shape) if array is None else np.asarray(array)
    if array.shape != shape or not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(
            f"{type(measurement).__name__}: {name} must be finite and not negative, of shape "
            f"{shape}, zero where unknown; found shape {array.shape}"
        )
    return array.astype(np.float32)


def _clean(measurement: _WithErrors, values: str, ndim: int) -> None:
    """Check and normalise the arrays of a measurement in place (it is frozen for everyone else)."""
    kind = type(measurement).__name__
    for name in (values, "ivar"):
        refuse_units(kind, name, getattr(measurement, name))
    given = np.ma.asarray(getattr(measurement, values))
    if given.ndim != ndim or given.dtype.kind not in "fiu":
        raise ValueError(
            f"{kind}: {values} must be a {ndim}-d array of numbers, one row an object; found "
            f"shape {given.shape} of {given.dtype}"
        )
    value = np.asarray(given.filled(0) if given.dtype.kind in "iu" else given.filled(np.nan))
    value = value.astype(np.float64 if ndim == 1 else np.float32, copy=False)
    mask = np.isfinite(value) if measurement.mask is None else np.asarray(measurement.mask)
    ivar = np.zeros_like(value) if measurement.ivar is None else measurement.ivar
    ivar = np.asarray(np.ma.filled(ivar, 0))
    for name, array in (("mask", mask), ("ivar", ivar)):
        if array.shape != value.shape:
            raise ValueError(
                f"{kind}: {name} has shape {array.shape} but {values} has shape {value.shape}"
            )
    if mask.dtype != bool:
        raise ValueError(f"{kind}: mask must be bool (True = good); found {mask.dtype}")
    mask = mask & ~np.ma.getmaskarray(given)
    for name, array in ((values, value), ("ivar", ivar)):
        wrong = mask & ~np.isfinite(array)
        if wrong.any():
            raise ValueError(
                f"{kind}: {wrong.sum()} values of {name} are marked good but are not finite; set "
                "their mask to False"
            )
    if (ivar[mask] < 0).any():
        raise ValueError(f"{kind}: ivar must not be negative; found {ivar[mask].min():g}")
    object.__setattr__(measurement, values, np.where(mask, value, 0))
    # float64: the inverse variance of a flux in W m-2 nm-1 overflows float32. Images, in
    # nanomaggies, need not pay for that.
    ivar = np.where(mask, ivar, 0.0).astype(np.float32 if ndim == 4 else np.float64, copy=False)
    object.__setattr__(measurement, "ivar", ivar)
    object.__setattr__(measurement, "mask", mask)
