"""What a stream yields: measurements as torch tensors, with their units and grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from omnisky.data.store.schema import ModalityLayout
    from omnisky.data.stream.source import Source

__all__ = [
    "CatalogBatch",
    "CoefficientsBatch",
    "ImageBatch",
    "MapBatch",
    "MeasurementBatch",
    "ObjectBatch",
    "ScalarBatch",
    "SpectrumBatch",
    "batches_of",
]


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectBatch:
    """Identify the objects of one store in a batch.

    Parameters
    ----------
    object_id : array of int64 or str, shape (object,)
        The survey's identifiers; 0 or empty where `present` is False.
    ra_deg, dec_deg : Tensor of float64, shape (object,)
        ICRS positions in degrees; 0 where `present` is False.
    row : Tensor of int64, shape (object,)
        Rows of the store; -1 where `present` is False.
    present : Tensor of bool, shape (object,)
        False where a group has no member in this store; all its masks are False as well.
    separation_arcsec : Tensor of float64, shape (object,)
        Angle from the first store's object, 0 for the first store and where `present` is False.
    """

    object_id: np.ndarray
    ra_deg: Tensor
    dec_deg: Tensor
    row: Tensor
    present: Tensor
    separation_arcsec: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class ScalarBatch:
    """Hold one number an object; parts that were not asked for, or are not known, are None.

    Parameters
    ----------
    value, ivar : Tensor of float64, shape (object,)
        Values and inverse variances; 0 where the mask is False.
    mask : Tensor of bool, shape (object,)
        True where the value is good.
    unit : str
        Unit of the values.
    """

    value: Tensor | None = None
    ivar: Tensor | None = None
    mask: Tensor | None = None
    unit: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class SpectrumBatch:
    """Hold spectra; parts that were not asked for, or are not known, are None.

    Parameters
    ----------
    flux, ivar : Tensor, shape (object, pixel)
        Flux densities and inverse variances; 0 where the mask is False.
    mask : Tensor of bool, shape (object, pixel)
        True where the pixel is good.
    lsf_sigma : Tensor, shape (object, pixel)
        Width of the line-spread function in nm; 0 where unknown.
    wavelength : Tensor of float64, shape (pixel,)
        Pixel centres in nm; the same tensor in all batches.
    unit : str
        Unit of the flux.
    """

    flux: Tensor | None = None
    ivar: Tensor | None = None
    mask: Tensor | None = None
    lsf_sigma: Tensor | None = None
    wavelength: Tensor
    unit: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageBatch:
    """Hold cut-outs; parts that were not asked for, or are not known, are None.

    Parameters
    ----------
    flux, ivar : Tensor of float32, shape (object, band, y, x)
        Flux a pixel and inverse variances; 0 where the mask is False.
    mask : Tensor of bool, shape (object, band, y, x)
        True where the pixel is good.
    psf_fwhm_arcsec : Tensor of float32, shape (object, band)
        Width of the point-spread function; 0 where unknown.
    offset_pixels : Tensor of float32, shape (object, 2)
        Position of the object relative to the centre, x then y.
    bands : tuple of str
        Bands, in order.
    pixel_scale_arcsec : float
        Side of a pixel.
    unit : str
        Unit of the flux.
    """

    flux: Tensor | None = None
    ivar: Tensor | None = None
    mask: Tensor | None = None
    psf_fwhm_arcsec: Tensor | None = None
    offset_pixels: Tensor | None = None
    bands: tuple[str, ...]
    pixel_scale_arcsec: float
    unit: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class CoefficientsBatch:
    """Hold coefficients; parts that were not asked for, or are not known, are None.

    Parameters
    ----------
    value, ivar : Tensor, shape (object, coefficient)
        Coefficients and inverse variances; 0 where the mask is False.
    mask : Tensor of bool, shape (object, coefficient)
        True where the coefficient is good.
    unit : str
        Unit of the coefficients.
    """

    value: Tensor | None = None
    ivar: Tensor | None = None
    mask: Tensor | None = None
    unit: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class CatalogBatch:
    """Hold the sources about objects; parts that were not asked for are None.

    Parameters
    ----------
    x, y, e1, e2, r : Tensor, shape (object, source)
        As in `omnisky.modalities.Catalog`; 0 where the mask is False.
    mask : Tensor of bool, shape (object, source)
        True where there is a source.
    unit : str
        Unit of offsets and radii.
    """

    x: Tensor | None = None
    y: Tensor | None = None
    e1: Tensor | None = None
    e2: Tensor | None = None
    r: Tensor | None = None
    mask: Tensor | None = None
    unit: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class MapBatch:
    """Hold maps; parts that were not asked for are None.

    Parameters
    ----------
    field : Tensor, shape (object, y, x)
        Values from 0 to 1; 0 where the mask is False.
    mask : Tensor of bool, shape (object, y, x)
        True where the value is known.
    pixel_scale_arcsec : float
        Side of a pixel.
    unit : str
        Unit of the values.
    """

    field: Tensor | None = None
    mask: Tensor | None = None
    pixel_scale_arcsec: float
    unit: str = ""


MeasurementBatch: TypeAlias = (
    ScalarBatch | SpectrumBatch | ImageBatch | CoefficientsBatch | CatalogBatch | MapBatch
)


def batches_of(
    source: Source, heavy: dict[tuple[str, str], Tensor], rows: np.ndarray, apart: np.ndarray
) -> dict[str, ObjectBatch | MeasurementBatch]:
    """Return what a batch holds of one store, by ``"store.objects"`` and ``"store.modality"``.

    Parameters
    ----------
    source : Source
        The store; the tables of all partitions concerned are filled.
    heavy : dict of (str, str) to Tensor
        What was read, by modality and part.
    rows : array of int64, shape (object,)
        Rows of the store, -1 for none.
    apart : array, shape (object,)
        Separations from the first store's object, NaN for none.
    """
    import torch

    present = rows >= 0
    ids = source.identifiers(rows)
    positions = [np.nan_to_num(source.light(name, rows)) for name in ("ra", "dec")]
    columns = [*positions, rows, present, np.nan_to_num(apart)]
    ra, dec, row, held, separation = map(torch.from_numpy, columns)
    batch: dict[str, ObjectBatch | MeasurementBatch] = {
        f"{source.name}.objects": ObjectBatch(
            object_id=ids,
            ra_deg=ra,
            dec_deg=dec,
            row=row,
            present=held,
            separation_arcsec=separation,
        )
    }
    for name, layout in source.layouts.items():
        parts = {part: tensor for (modality, part), tensor in heavy.items() if modality == name}
        if layout.kind == "scalar":
            parts = _scalar(source, layout, rows)
        batch[f"{source.name}.{name}"] = _measurement(source, layout, parts)
    return batch


def _scalar(source: Source, layout: ModalityLayout, rows: np.ndarray) -> dict[str, Tensor]:
    import torch

    value = source.light(layout.name, rows)
    arrays = {"value": np.nan_to_num(value), "mask": ~np.isnan(value)}
    wanted = source.chosen[layout.name]
    if "ivar" in wanted:
        arrays["ivar"] = np.nan_to_num(source.light(f"{layout.name}_ivar", rows))
    return {part: torch.from_numpy(arrays[part]) for part in wanted}


def _measurement(source: Source, layout: ModalityLayout, parts: Any) -> MeasurementBatch:
    unit = source.unit(layout.name)
    if layout.kind == "scalar":
        return ScalarBatch(unit=unit, **parts)
    if layout.kind == "spectrum":
        return SpectrumBatch(wavelength=source.wavelength(layout.name), unit=unit, **parts)
    if layout.kind == "image":
        scale = layout.pixel_scale_arcsec
        return ImageBatch(bands=layout.bands, pixel_scale_arcsec=scale, unit=unit, **parts)
    if layout.kind == "map":
        return MapBatch(pixel_scale_arcsec=layout.pixel_scale_arcsec, unit=unit, **parts)
    return (CatalogBatch if layout.kind == "catalog" else CoefficientsBatch)(unit=unit, **parts)
