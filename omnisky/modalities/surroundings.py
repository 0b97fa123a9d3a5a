"""What lies about each object: a catalogue of its neighbours, and a map of what covers a pixel.

Both are laid on the pixels of a cut-out: x grows with the column of a pixel, y with its row, so
that in a cut-out with north up and east to the left x grows to the west and y to the north.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CATALOG_COLUMNS", "Catalog", "SegmentationMap", "refuse_units", "rows_of"]

# What is known of each source, in the order of its tokens.
CATALOG_COLUMNS = ("x", "y", "e1", "e2", "r")


def rows_of(array: np.ndarray, index: Any) -> np.ndarray:
    """Take rows; a single integer still gives a batch of one object."""
    rows = array[index]
    return rows[None] if isinstance(index, (int, np.integer)) else rows


def refuse_units(kind: str, name: str, given: object) -> None:
    """Refuse numbers that have a unit: it would be lost.

    Parameters
    ----------
    kind, name : str
        Class and attribute they are given for.
    given : object
        The numbers: an array, a Quantity, a column of a table.
    """
    # By attribute, so that a catalogue can be opened without astropy. A Quantity is refused also
    # if it has no unit: NumPy does not see the mask that it may have.
    unit = getattr(given, "unit", None)
    quantity = hasattr(given, "to_value")
    if quantity or (unit is not None and str(unit)):
        how = "quantity.to_value(...)" if quantity else "column.quantity.to_value(...)"
        raise ValueError(
            f"{kind}: {name} is a {type(given).__name__} in {str(unit)!r}, and its unit would be "
            "lost; give plain numbers in the modality's unit (wavelengths in nm), for example "
            f"{how}, or read a whole table with omnisky.observations_from_table, which converts"
        )


@dataclass(frozen=True)
class Catalog:
    """Hold the catalogued sources about each object.

    The sources of an object stand in the order of their distance, so the object itself is the
    first; places behind the last one are empty.

    Parameters
    ----------
    x, y : array, shape (object, source)
        Offset from the object along the axes of the cut-out, arcsec.
    e1, e2 : array, shape (object, source)
        Ellipticity of the source: (a - b) / (a + b) times the cosine and the sine of twice the
        position angle of the major axis, north through east. Zero for round and point sources.
    r : array, shape (object, source)
        Half-light radius along the major axis, arcsec; 0 for point sources.
    mask : array of bool, shape (object, source), optional
        True where there is a source. Without it, where all five numbers are finite.

    Raises
    ------
    ValueError
        If shapes disagree, a source has a number that is not finite, an ellipticity above 1 or a
        negative radius.
    """

    x: np.ndarray
    y: np.ndarray
    e1: np.ndarray
    e2: np.ndarray
    r: np.ndarray
    mask: np.ndarray = None  # pyright: ignore[reportAssignmentType]

    def __post_init__(self) -> None:
        given = {name: _numbers(self, name, 2) for name in CATALOG_COLUMNS}
        shapes = {name: values.shape for name, values in given.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(
                f"Catalog: all columns need one shape (object, source); found {shapes}"
            )
        finite = np.logical_and.reduce([np.isfinite(values) for values in given.values()])
        mask = _mask(self, finite)
        wrong = {
            "finite": ~finite,
            "of |e1|, |e2| <= 1": np.maximum(abs(given["e1"]), abs(given["e2"])) > 1,
            "of r >= 0": given["r"] < 0,
        }
        for what, where in wrong.items():
            if (where & mask).any():
                row, source = np.argwhere(where & mask)[0]
                raise ValueError(
                    f"Catalog: sources must be {what}; {(where & mask).sum()} are not, the first "
                    f"is source {source} of object {row}. Leave it out (mask=False) or correct it"
                )
        for name, values in given.items():
            object.__setattr__(self, name, np.where(mask, values, 0).astype(np.float32))
        object.__setattr__(self, "mask", mask)

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, index) -> Catalog:
        return Catalog(*(rows_of(getattr(self, n), index) for n in (*CATALOG_COLUMNS, "mask")))

    @property
    def present(self) -> np.ndarray:
        """True for the objects that have at least one source, shape (object,)."""
        return np.asarray(self.mask.any(axis=1))


@dataclass(frozen=True)
class SegmentationMap:
    """Hold a map of numbers from 0 to 1 for each object, such as what covers a pixel.

    Parameters
    ----------
    field : array, shape (object, y, x)
        Values from 0 to 1; stored as 0 where the mask is False.
    mask : array of bool, shape (object, y, x), optional
        True where the value is known. Without it, finite values are known.
    pixel_scale_arcsec : float
        Side of a pixel.

    Raises
    ------
    ValueError
        If shapes disagree, a known value is not finite or not from 0 to 1, or the pixel scale is
        not positive.
    """

    field: np.ndarray
    mask: np.ndarray = None  # pyright: ignore[reportAssignmentType]
    pixel_scale_arcsec: float = 0.0

    def __post_init__(self) -> None:
        values = _numbers(self, "field", 3)
        mask = _mask(self, np.isfinite(values))
        if not (np.isfinite(self.pixel_scale_arcsec) and self.pixel_scale_arcsec > 0):
            raise ValueError(
                "SegmentationMap: pixel_scale_arcsec must be positive; found "
                f"{self.pixel_scale_arcsec!r}"
            )
        # ~(inside) and not (outside), so that NaN is wrong as well.
        wrong = mask & ~((values >= 0) & (values <= 1))
        if wrong.any():
            raise ValueError(
                f"SegmentationMap: values must lie from 0 to 1; {wrong.sum()} known ones do not, "
                f"for example {values[wrong][0]:g}. Scale the map, or mask them (mask=False)"
            )
        object.__setattr__(self, "field", np.where(mask, values, 0).astype(np.float32))
        object.__setattr__(self, "mask", mask)

    def __len__(self) -> int:
        return len(self.field)

    def __getitem__(self, index) -> SegmentationMap:
        field, mask = (rows_of(array, index) for array in (self.field, self.mask))
        return SegmentationMap(field, mask, self.pixel_scale_arcsec)

    @property
    def present(self) -> np.ndarray:
        """True for the objects that have at least one known value, shape (object,)."""
        return np.asarray(self.mask.any(axis=(1, 2)))


def _numbers(measurement: Catalog | SegmentationMap, name: str, ndim: int) -> np.ndarray:
    """Return an array of numbers as floats, NaN where it is masked."""
    kind = type(measurement).__name__
    refuse_units(kind, name, getattr(measurement, name))
    given = np.ma.asarray(getattr(measurement, name))
    if given.ndim != ndim or given.dtype.kind not in "fiu":
        raise ValueError(
            f"{kind}: {name} must be a {ndim}-d array of numbers, one row an object; found shape "
            f"{given.shape} of {given.dtype}"
        )
    precision = np.float32 if given.dtype.itemsize <= 4 else np.float64
    return np.where(np.ma.getmaskarray(given), np.nan, np.ma.getdata(given)).astype(precision)


def _mask(measurement: Catalog | SegmentationMap, finite: np.ndarray) -> np.ndarray:
    """Return the mask given, checked, or else what is finite."""
    if measurement.mask is None:
        return finite
    mask = np.asarray(measurement.mask)
    if mask.shape != finite.shape or mask.dtype != bool:
        raise ValueError(
            f"{type(measurement).__name__}: mask must be bool (True = good) of shape "
            f"{finite.shape}; found {mask.dtype} of shape {mask.shape}"
        )
    return mask.copy()
