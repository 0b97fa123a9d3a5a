"""Put what a survey has of some objects beside objects that it does not have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from omnisky.mock.surroundings import measured
from omnisky.modalities import (
    Catalog,
    Coefficients,
    Image,
    Measurement,
    Scalar,
    SegmentationMap,
    Spectrum,
)
from omnisky.modalities.surroundings import CATALOG_COLUMNS

if TYPE_CHECKING:
    from omnisky.mock.native.rows import Rows

__all__ = ["scattered"]


def scattered(
    names: Sequence[str], rows: Rows | None, place: np.ndarray, like: tuple[int, int, int]
) -> dict[str, Measurement]:
    """Return measurements with a row for every object.

    Parameters
    ----------
    names : sequence of str
        Which modalities of the survey.
    rows : Rows or None
        What the survey has; None for nothing at all.
    place : array of int, shape (row,)
        Which object each row is.
    like : (int, int, int)
        Number of objects, side of images in pixels, and seed of the universe.
    """
    count, size, seed = like
    observed = None if rows is None else measured(rows, names, seed).observations
    found = {}
    for name in names:
        if observed is None:
            found[name] = _nothing(name, count, size)
        elif len(place) == count:
            found[name] = observed[name]
        else:
            found[name] = _spread(observed[name], place, count)
    return found


def _spread(found: Measurement, place: np.ndarray, count: int) -> Measurement:
    """Return a measurement with absent rows between those that are there."""

    def wide(array: np.ndarray) -> np.ndarray:
        out = np.zeros((count, *array.shape[1:]), dtype=array.dtype)
        out[place] = array
        return out

    if isinstance(found, Image):
        # Without the checks of its constructor, which copy each pixel several times.
        image = object.__new__(Image)
        image.__dict__.update(found.__dict__)
        for name in ("flux", "ivar", "mask", "psf_fwhm_arcsec", "offset_pixels"):
            object.__setattr__(image, name, wide(getattr(found, name)))
        return image
    if isinstance(found, Catalog):
        return Catalog(*(wide(getattr(found, n)) for n in (*CATALOG_COLUMNS, "mask")))
    if isinstance(found, SegmentationMap):
        scale = found.pixel_scale_arcsec
        return SegmentationMap(wide(found.field), wide(found.mask), scale)
    ivar, mask = wide(found.ivar), wide(found.mask)
    if isinstance(found, Spectrum):
        lsf = None if found.lsf_sigma is None else wide(found.lsf_sigma)
        return Spectrum(wide(found.flux), ivar, mask, found.wavelength, lsf)
    return type(found)(wide(found.value), ivar, mask)


def _nothing(name: str, count: int, size: int) -> Measurement:
    """Return a declared modality that no object has."""
    from omnisky.surveys import modality

    declared = modality(name)
    if declared.kind == "scalar":
        return Scalar(np.zeros(count), mask=np.zeros(count, dtype=bool))
    if declared.kind == "coefficients":
        shape = (count, declared.size or 0)
        return Coefficients(np.zeros(shape), mask=np.zeros(shape, dtype=bool))
    if declared.kind == "catalog":
        shape = (count, declared.size or 0)
        return Catalog(*np.zeros((5, *shape)), mask=np.zeros(shape, dtype=bool))
    if declared.kind == "map":
        shape = (count, declared.size or 0, declared.size or 0)
        absent = np.zeros(shape, dtype=bool)
        return SegmentationMap(np.zeros(shape), absent, declared.pixel_scale_arcsec or 0.0)
    if declared.kind == "spectrum":
        shape = (count, len(declared.wavelength))
        nothing = np.zeros(shape)
        return Spectrum(
            nothing,
            mask=np.zeros(shape, dtype=bool),
            wavelength=declared.wavelength,
            lsf_sigma=nothing,
        )
    shape = (count, len(declared.bands), size, size)
    return Image(
        np.zeros(shape, dtype=np.float32),
        mask=np.zeros(shape, dtype=bool),
        bands=declared.bands,
        pixel_scale_arcsec=declared.pixel_scale_arcsec or 0.0,
    )
