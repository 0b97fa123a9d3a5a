"""What is a measurement?

A :class:`Modality` is the frozen declaration of one kind of measurement (what it is, in which
unit, from which survey and column). :class:`Scalar` and :class:`Spectrum` hold the measured values
of many objects; :class:`Observations` holds several modalities of the same objects. Everything here
is NumPy only, so that a catalogue can be opened without loading a deep-learning library.

Conventions, everywhere in omnisky: one row an object; masks are True where a value is good; a
missing value is a False in the mask, never a special number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

import numpy as np

__all__ = ["Measurement", "Modality", "Observations", "Scalar", "Spectrum", "UnknownModalityError"]


class UnknownModalityError(KeyError):
    """A modality was asked for that is not declared, or not part of these objects."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


@dataclass(frozen=True, kw_only=True)
class Modality:
    """Declare one kind of measurement.

    Parameters
    ----------
    name : str
        Unique name, ``survey_quantity``, for example ``"gaia_xp"``.
    kind : {"scalar", "spectrum"}
        Shape of one object's measurement.
    survey : str
        Name of the survey that measured it.
    unit : str
        Unit inside omnisky, as `astropy.units` writes it (``""`` for dimensionless).
    ucd : str
        IVOA Unified Content Descriptor (UCD1+).
    column : str
        Column of the survey's own table.
    description : str
        One line for people.
    valid_range : (float, float)
        Values outside are not physical for this quantity; a reader masks them and says so.
    role : {"observation", "label"}
        Labels are what other pipelines derived; they are never inputs unless asked for.
    wavelength_nm : (float, float, int), optional
        First pixel centre, step and number of pixels of a spectrum's grid.
    error_column : str, optional
        Column of the 1-sigma errors, where the survey gives one.
    bibcodes : tuple of str
        What to cite when the modality is used.
    """

    name: str
    kind: Literal["scalar", "spectrum"]
    survey: str
    unit: str
    ucd: str
    column: str
    description: str
    valid_range: tuple[float, float] = (-np.inf, np.inf)
    role: Literal["observation", "label"] = "observation"
    wavelength_nm: tuple[float, float, int] | None = None
    error_column: str | None = None
    bibcodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind == "spectrum") != (self.wavelength_nm is not None):
            raise ValueError(
                f"modality {self.name!r}: a spectrum needs wavelength_nm=(start, step, pixels) and "
                f"a scalar has none; found kind={self.kind!r}, wavelength_nm={self.wavelength_nm!r}"
            )
        low, high = self.valid_range
        if not low < high:
            raise ValueError(f"modality {self.name!r}: valid_range {self.valid_range} is empty")

    @property
    def wavelength(self) -> np.ndarray:
        """Pixel centres in nm, shape (pixel,); raises `ValueError` for scalars."""
        if self.wavelength_nm is None:
            raise ValueError(f"modality {self.name!r} is a {self.kind}, it has no wavelength grid")
        start, step, pixels = self.wavelength_nm
        return start + step * np.arange(pixels)


def _rows(array: np.ndarray, index: Any) -> np.ndarray:
    """Take rows; a single integer still gives a batch of one object."""
    rows = array[index]
    return rows[None] if isinstance(index, (int, np.integer)) else rows


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

    Raises
    ------
    ValueError
        If shapes disagree, a good pixel is not finite, an inverse variance is negative, or the
        wavelengths do not increase.
    """

    flux: np.ndarray
    ivar: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    mask: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    wavelength: np.ndarray = field(default_factory=lambda: np.empty(0))

    if TYPE_CHECKING:

        def __init__(
            self,
            flux: Any,
            ivar: np.ndarray | None = None,
            mask: np.ndarray | None = None,
            wavelength: np.ndarray = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        _clean(self, "flux", ndim=2)
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

    @classmethod
    def from_error(cls, flux, error, wavelength, mask=None) -> Spectrum:
        """Make spectra from 1-sigma errors, shape (object, pixel), in the unit of the flux.

        Raises
        ------
        ValueError
            If an error of a good pixel is not positive and finite, naming the first such pixel.
        """
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
        return Spectrum(flux, ivar, mask, self.wavelength)

    @property
    def present(self) -> np.ndarray:
        """True for the objects that have at least one good pixel, shape (object,)."""
        return np.asarray(self.mask.any(axis=1))


Measurement: TypeAlias = Scalar | Spectrum


def _clean(measurement: Measurement, values: str, ndim: int) -> None:
    """Check and normalise the arrays of a measurement in place (it is frozen for everyone else)."""
    kind = type(measurement).__name__
    if hasattr(getattr(measurement, values), "to_value"):
        raise ValueError(
            f"{kind}: {values} is a Quantity; give plain numbers in the modality's unit, for "
            "example quantity.to_value('mag')"
        )
    given = np.ma.asarray(getattr(measurement, values))
    if given.ndim != ndim or given.dtype.kind not in "fiu":
        raise ValueError(
            f"{kind}: {values} must be a {ndim}-d array of numbers, one row an object; found "
            f"shape {given.shape} of {given.dtype}"
        )
    value = np.asarray(given.filled(0) if given.dtype.kind in "iu" else given.filled(np.nan))
    value = value.astype(np.float64 if ndim == 1 else np.float32)
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
    object.__setattr__(measurement, values, np.where(mask, value, 0).astype(value.dtype))
    # float64: the inverse variance of a flux in W m-2 nm-1 overflows float32.
    object.__setattr__(measurement, "ivar", np.where(mask, ivar, 0.0).astype(np.float64))
    object.__setattr__(measurement, "mask", mask)


class Observations(Mapping[str, Measurement]):
    """Hold several modalities of the same objects; any object may miss any of them.

    A read-only mapping from modality name to measurement. Indexing with a name gives the
    measurement; indexing with integers, a slice or a boolean array gives the same modalities of
    these objects, so that scikit-learn's splitters work on it.

    Parameters
    ----------
    measurements : mapping of str to Scalar or Spectrum
        Measurements by modality name, all of the same length.

    Raises
    ------
    ValueError
        If it is empty or the lengths disagree.
    """

    def __init__(self, measurements: Mapping[str, Measurement]) -> None:
        if not measurements:
            raise ValueError("Observations need at least one modality; found none")
        for name, measurement in measurements.items():
            if not isinstance(measurement, (Scalar, Spectrum)):
                raise TypeError(
                    f"modality {name!r}: expected a Scalar or a Spectrum, "
                    f"found {type(measurement).__name__}"
                )
        lengths = {name: len(m) for name, m in measurements.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all modalities need one row an object; found lengths {lengths}")
        self._measurements = dict(measurements)
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return iter(self._measurements)

    # Any, since the caller knows whether it asks for a scalar or a spectrum.
    @overload
    def __getitem__(self, key: str) -> Any: ...
    @overload
    def __getitem__(self, key: Any) -> Observations: ...
    def __getitem__(self, key):
        if isinstance(key, str):
            if key not in self._measurements:
                raise UnknownModalityError(
                    f"no modality {key!r} here; these objects have {', '.join(self)}"
                )
            return self._measurements[key]
        if isinstance(key, tuple):
            if len(key) != 2 or key[1] is not Ellipsis:
                raise TypeError(
                    "Observations have one axis (objects); use select(...) for modalities"
                )
            key = key[0]  # scikit-learn takes rows as array[rows, ...]
        return Observations({name: m[key] for name, m in self._measurements.items()})

    def __contains__(self, key: object) -> bool:
        return key in self._measurements

    def keys(self):
        """Return the modality names."""
        return self._measurements.keys()

    def items(self):
        """Return (name, measurement) pairs."""
        return self._measurements.items()

    def values(self):
        """Return the measurements."""
        return self._measurements.values()

    def __repr__(self) -> str:
        parts = ", ".join(f"{k} {int(m.present.sum())}" for k, m in self._measurements.items())
        return f"Observations({len(self)} objects; present: {parts})"

    @property
    def shape(self) -> tuple[int, int]:
        """(objects, modalities); lets scikit-learn index it like an array."""
        return len(self), len(self._measurements)

    def select(self, *names: str) -> Observations:
        """Return the same objects with only these modalities."""
        return Observations({name: self[name] for name in names})

    def drop(self, *names: str) -> Observations:
        """Return the same objects without these modalities; each must be there."""
        for name in names:
            self[name]
        return Observations({k: m for k, m in self._measurements.items() if k not in names})
