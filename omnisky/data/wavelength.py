"""Wavelength grids of spectra in a user's table: read, compared, resampled."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np

from omnisky.data.columns import UserColumns
from omnisky.modalities import Modality, Spectrum

__all__ = ["describe_grid", "read_spectrum", "same_grid"]

# A wavelength written in float32 Angstrom is good to 1e-4 nm; a wrong grid is off by much more.
_SAME_NM = 2e-3


def same_grid(found: np.ndarray, expected: np.ndarray) -> bool:
    """Tell whether wavelengths, shape (..., pixel) in nm, are those of a grid."""
    return found.shape[-1:] == expected.shape and bool(np.all(np.abs(found - expected) < _SAME_NM))


def describe_grid(declared: Modality) -> str:
    """Return the wavelength grid of a modality in words."""
    grid = declared.wavelength
    return f"{grid[0]:g} to {grid[-1]:g} nm in steps of {grid[1] - grid[0]:g} ({len(grid)} pixels)"


def read_spectrum(
    source: UserColumns, declared: Modality, column: str, *, resample: bool
) -> Spectrum:
    """Read the spectra of a modality from vector columns.

    Parameters
    ----------
    source : UserColumns
        The table.
    declared : Modality
        What the spectra are.
    column : str
        Column of the flux, shape (object, pixel).
    resample : bool
        Interpolate linearly where the table has another grid.

    Raises
    ------
    ValueError
        If there are no errors, shapes disagree, wavelengths decrease or are on another grid, or no
        spectrum overlaps the grid it is to be resampled to.

    Warns
    -----
    UserWarning
        If some spectra lose all their pixels in resampling.
    """
    given = source.numbers(column, ndim=2)
    shape = given.shape
    wavelength = _wavelength(source, declared, given)
    at_nm = declared.wavelength if wavelength is None else wavelength
    if wavelength is None and shape[1] != len(declared.wavelength):
        raise ValueError(
            f"column {column!r}: {shape[1]} pixels, but {declared.name} is sampled at "
            f"{describe_grid(declared)}; resample the spectra to it, or give their wavelengths in "
            f"a vector column {declared.name}_wavelength and ask for resampling (resample=True, "
            "omnisky --resample)"
        )
    flux = source.values(declared, column, at_nm)
    error = source.errors(declared, column, at_nm)
    if error is None:
        raise ValueError(
            f"column {column!r} has no 1-sigma errors, which {declared.name} needs to weigh its "
            f"pixels; add a vector column {declared.name}_error, or name it with columns="
            f"{{'{declared.name}_error': ...}} (omnisky --column {declared.name}_error=...)"
        )
    if error.shape != flux.shape:
        raise ValueError(
            f"{declared.name}: flux has {flux.shape[1]} pixels, its errors have {error.shape[1]}; "
            "give one error a pixel"
        )
    if not same_grid(at_nm, declared.wavelength):
        if not resample:
            raise ValueError(
                f"{declared.name}: wavelengths {at_nm.min():g} to {at_nm.max():g} nm in "
                f"{shape[1]} pixels, expected {describe_grid(declared)}; resample the spectra to "
                "that grid, or allow it here (resample=True, omnisky --resample)"
            )
        _check_overlap(at_nm, declared)
        had = np.any(np.isfinite(flux) & np.isfinite(error), axis=1)
        flux, error = _resample(flux, error, at_nm, declared.wavelength)
        _warn_lost(had, np.isfinite(flux) & np.isfinite(error), declared)
    good = np.isfinite(flux) & np.isfinite(error)
    return Spectrum.from_error(flux, error, declared.wavelength, mask=good)


def _check_overlap(found: np.ndarray, declared: Modality) -> None:
    """Refuse to resample if the wavelengths of no spectrum overlap the grid."""
    grid = declared.wavelength
    first, last = found[..., 0] - _SAME_NM, found[..., -1] + _SAME_NM
    if not np.any((first <= grid[-1]) & (last >= grid[0])):
        raise ValueError(
            f"{declared.name}: no spectrum overlaps its grid: wavelengths {found.min():g} to "
            f"{found.max():g} nm, the grid is {grid[0]:g} to {grid[-1]:g} nm; is the unit nm? Set "
            "the unit of the wavelength column (Angstrom, um), or convert to nm"
        )


def _warn_lost(had: np.ndarray, good: np.ndarray, declared: Modality) -> None:
    """Say how many spectra, shape (object,), have no good pixel left, shape (object, pixel)."""
    lost = had & ~good.any(1)
    if lost.any():
        warnings.warn(
            f"{declared.name}: {lost.sum()} of {had.sum()} spectra have no good pixel on "
            f"{describe_grid(declared)} and count as absent; the first is in row {lost.argmax()}. "
            "Are their wavelengths right, and in nm?",
            stacklevel=5,  # the caller of observations_from_table
        )


def _wavelength(source: UserColumns, declared: Modality, flux: np.ndarray) -> np.ndarray | None:
    """Return the wavelengths in nm, shape (pixel,) or (object, pixel); None if not given."""
    pixels = flux.shape[1]
    purpose = f"{declared.name}_wavelength"
    column = source.find(purpose, purpose, "wavelength")
    if column is not None:
        values, unit = source.numbers(column, ndim=2), source.table[column].unit
    else:
        meta = {str(k).lower(): v for k, v in source.table.meta.items()}
        given = meta.get(purpose, meta.get("wavelength"))
        if given is None:
            return None
        column = "wavelength (table meta)"
        try:
            values = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{column}: expected a list of numbers, found {given!r}") from error
        unit = getattr(given, "unit", None) or meta.get("wavelength_unit")
    values = values * _to_nm(unit, column)
    if values.ndim == 0 or values.shape[-1] != pixels:
        raise ValueError(
            f"{column}: {values.shape[-1] if values.ndim else 'no'} wavelengths for {pixels} "
            f"pixels of {declared.name}; give one a pixel"
        )
    if values.ndim == 2:
        # An absent spectrum needs no wavelengths of its own.
        absent = np.isnan(values).all(1) & np.isnan(flux).all(1)
        if absent.any() and not absent.all():
            values[absent] = values[~absent][0]
    return _increasing(values, column)


def _to_nm(unit: object, column: str) -> float:
    """Return the length of a unit in nm; without a unit it is nm."""
    if unit is None or unit == u.dimensionless_unscaled:
        return 1.0
    try:
        return float(u.Unit(str(unit)).to(u.nm))
    except (u.UnitsError, TypeError, ValueError) as error:
        raise ValueError(
            f"{column}: unit {str(unit)!r} is not a length; give wavelengths in nm, Angstrom or "
            "micron"
        ) from error


def _increasing(values: np.ndarray, column: str) -> np.ndarray:
    steps = np.diff(np.atleast_2d(values), axis=1)
    if not np.all(steps > 0):  # NaN too
        row, pixel = np.argwhere(~(steps > 0))[0]
        raise ValueError(
            f"{column}: wavelengths must be finite and increase from pixel to pixel; found a step "
            f"of {steps[row, pixel]:g} nm after pixel {pixel} of row {row}. Reverse or sort "
            "wavelength, flux and error together"
        )
    # One grid for all rows is the common case, and then resampling is one operation.
    shared = values.ndim == 2 and bool(np.all(values == values[0]))
    return values[0] if shared else values


def _resample(
    flux: np.ndarray, error: np.ndarray, found: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate linearly, shape (object, pixel); NaN outside coverage and beside bad pixels."""
    variance = np.where(np.isfinite(flux), error, np.nan) ** 2
    flux = np.where(np.isfinite(error), flux, np.nan)
    if found.ndim == 1:
        return _interpolate(flux, variance, found, expected)
    rows = [
        _interpolate(f[None], v[None], w, expected)
        for f, v, w in zip(flux, variance, found, strict=True)
    ]
    return np.concatenate([f for f, _ in rows]), np.concatenate([e for _, e in rows])


def _interpolate(
    flux: np.ndarray, variance: np.ndarray, found: np.ndarray, expected: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    right = np.searchsorted(found, expected).clip(1, len(found) - 1)
    left = right - 1
    weight = (expected - found[left]) / (found[right] - found[left])
    # Within the tolerance of a pixel centre the other neighbour, good or bad, has no say.
    left, right = np.where(weight > 1 - 1e-6, right, left), np.where(weight < 1e-6, left, right)
    covered = (expected >= found[0] - _SAME_NM) & (expected <= found[-1] + _SAME_NM)
    weight = np.where(covered, weight.clip(0, 1), np.nan)
    new = (1 - weight) * flux[:, left] + weight * flux[:, right]
    new_variance = (1 - weight) ** 2 * variance[:, left] + weight**2 * variance[:, right]
    same = left == right
    return new, np.sqrt(np.where(same, variance[:, left] + 0 * weight, new_variance))
