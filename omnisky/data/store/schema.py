"""What columns a store has: the layout of its modalities, and observations to and from columns.

Light columns are identity, position and scalars. Heavy columns are everything with a shape: they
are bytes of a fixed length a row where they are not compressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

from omnisky.modalities import (
    Catalog,
    Coefficients,
    Image,
    Measurement,
    Modality,
    Observations,
    Scalar,
    SegmentationMap,
    SkyObjects,
    Spectrum,
)
from omnisky.modalities.surroundings import CATALOG_COLUMNS

__all__ = [
    "COORDINATES",
    "HEALPIX",
    "Column",
    "Layout",
    "ModalityLayout",
    "heavy_arrays",
    "light_arrays",
]

HEALPIX = "_healpix_29"
_MOVING = ("epoch", "pm_ra", "pm_dec")
# Who and where: what matching needs, and all that a margin has.
COORDINATES = (HEALPIX, "object_id", "ra", "dec", *_MOVING)
# The arrays with a measurement's values and their axes, by kind.
_VALUES = {
    "spectrum": (("flux",), ("pixel",)),
    "image": (("flux",), ("band", "y", "x")),
    "coefficients": (("value",), ("coefficient",)),
    "catalog": (CATALOG_COLUMNS, ("source",)),
    "map": (("field",), ("y", "x")),
}
# Inverse variances are float64 in memory; float32 holds them to 6e-8 within these bounds.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38


@dataclass(frozen=True)
class Column:
    """Describe one heavy column.

    Parameters
    ----------
    name : str
        Its name in the store.
    modality, part : str
        Modality and which of its arrays: flux, value, field, one of a catalog's columns, ivar,
        mask, lsf, psf_fwhm or offset.
    shape : tuple of int
        Shape of one row.
    dtype : str
        Type of one element.
    dims : tuple of str
        Names of the axes.
    unit : str
        Unit, as `astropy.units` writes it.
    codec : str
        How rows are coded, see `omnisky.data.store.codecs`.
    """

    name: str
    modality: str
    part: str
    shape: tuple[int, ...]
    dtype: str
    dims: tuple[str, ...]
    unit: str = ""
    codec: str = "raw"

    @property
    def nbytes(self) -> int:
        """Bytes of one row when not coded."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class ModalityLayout:
    """State what all rows of one modality share.

    Parameters
    ----------
    name, kind : str
        Name and kind of the modality.
    shape : tuple of int
        Shape of one object's values; empty for a scalar.
    ivar : str
        Type of its inverse variances, ``""`` if none is known.
    bands : tuple of str
        Bands of an image.
    pixel_scale_arcsec : float
        Side of a pixel of an image or map; 0 for the other kinds.
    wavelength : tuple of float
        Pixel centres of a spectrum in nm.
    lsf : bool
        Whether a spectrum's line-spread function is known.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    ivar: str = ""
    bands: tuple[str, ...] = ()
    pixel_scale_arcsec: float = 0.0
    wavelength: tuple[float, ...] = ()
    lsf: bool = False

    @classmethod
    def of(cls, name: str, measurement: Measurement) -> ModalityLayout:
        """Return the layout of a measurement."""
        ivar = _ivar_type(measurement)
        if isinstance(measurement, Scalar):
            return cls(name, "scalar", ivar=ivar)
        if isinstance(measurement, Spectrum):
            return cls(
                name,
                "spectrum",
                measurement.flux.shape[1:],
                ivar,
                wavelength=tuple(measurement.wavelength.tolist()),
                lsf=measurement.lsf_sigma is not None,
            )
        if isinstance(measurement, Image):
            scale = float(measurement.pixel_scale_arcsec)
            return cls(name, "image", measurement.flux.shape[1:], ivar, measurement.bands, scale)
        if isinstance(measurement, Catalog):
            return cls(name, "catalog", measurement.mask.shape[1:])
        if isinstance(measurement, SegmentationMap):
            scale = float(measurement.pixel_scale_arcsec)
            return cls(name, "map", measurement.field.shape[1:], pixel_scale_arcsec=scale)
        return cls(name, "coefficients", measurement.value.shape[1:], ivar)

    def merge(self, other: ModalityLayout) -> ModalityLayout:
        """Return a layout that holds both.

        Raises
        ------
        ValueError
            If they differ in what all rows must share.
        """
        for part in ("kind", "shape", "bands", "pixel_scale_arcsec", "wavelength"):
            mine, theirs = getattr(self, part), getattr(other, part)
            if mine != theirs:
                raise ValueError(
                    f"modality {self.name!r}: all objects of a store share one {part}, but found "
                    f"{_short(mine)} and {_short(theirs)}. Bring them to one {part}, or write two "
                    "stores"
                )
        return replace(self, ivar=max(self.ivar, other.ivar), lsf=self.lsf or other.lsf)

    def columns(self, declared: Modality | None = None) -> list[Column]:
        """Return its heavy columns, none for a scalar; units as declared."""
        if self.kind == "scalar":
            return []
        unit = declared.unit if declared else ""
        inverse = f"({unit})-2" if unit else ""
        values, dims = _VALUES[self.kind]
        units = {"e1": "", "e2": ""}
        parts = [(v, self.shape, "float32", dims, units.get(v, unit)) for v in values]
        if self.ivar:
            parts += [("ivar", self.shape, self.ivar, dims, inverse)]
        parts += [("mask", self.shape, "bool", dims, "")]
        if self.lsf:
            parts += [("lsf", self.shape, "float32", dims, "nm")]
        if self.kind == "image":
            parts += [("psf_fwhm", self.shape[:1], "float32", ("band",), "arcsec")]
            parts += [("offset", (2,), "float32", ("xy",), "pix")]
        return [Column(f"{self.name}_{part[0]}", self.name, *part) for part in parts]


def _short(value: object) -> str:
    if isinstance(value, tuple) and len(value) > 8:
        return f"{len(value)} values from {value[0]!r} to {value[-1]!r}"
    return repr(value)


def _ivar_type(measurement: Measurement) -> str:
    """Return the narrowest type that holds the inverse variances, "" if all are zero."""
    ivar = getattr(measurement, "ivar", None)
    if ivar is None or not ivar.any():
        return ""
    if isinstance(measurement, Scalar):
        return "float64"
    if ivar.dtype == np.float32:  # images
        return "float32"
    fits = ivar.max() <= _LARGEST and ivar.min(where=ivar > 0, initial=1.0) >= _SMALLEST
    return "float32" if fits else "float64"


@dataclass(frozen=True)
class Layout:
    """State what all rows of a store share.

    Parameters
    ----------
    survey : str
        Name of the survey.
    text_ids : bool
        Whether identifiers are text; otherwise they are int64.
    moving : tuple of ModalityLayout
        Those of epoch, pm_ra and pm_dec that are known, as scalars.
    modalities : tuple of ModalityLayout
        The modalities.
    """

    survey: str
    text_ids: bool
    moving: tuple[ModalityLayout, ...]
    modalities: tuple[ModalityLayout, ...]

    @classmethod
    def of(cls, objects: SkyObjects) -> Layout:
        """Return the layout of some objects."""
        moving = ((name, getattr(objects, name)) for name in _MOVING)
        return cls(
            objects.survey,
            objects.object_id.dtype.kind == "U",
            tuple(ModalityLayout.of(n, s) for n, s in moving if s is not None),
            tuple(ModalityLayout.of(n, m) for n, m in objects.observations.items()),
        )

    def merge(self, other: Layout) -> Layout:
        """Return a layout that holds both; a modality that one lacks is absent there.

        Raises
        ------
        ValueError
            If survey, kind of identifier or a modality's grid differ.
        """
        for part, say in (("survey", "survey"), ("text_ids", "kind of identifier")):
            mine, theirs = getattr(self, part), getattr(other, part)
            if mine != theirs:
                raise ValueError(
                    f"all objects of a store are of one {say}; found {part}={mine!r} and "
                    f"{theirs!r}. Write two stores"
                )
        return replace(
            self,
            moving=_union(self.moving, other.moving),
            modalities=_union(self.modalities, other.modalities),
        )

    def heavy(self, declared: Mapping[str, Modality]) -> list[Column]:
        """Return all heavy columns."""
        return [c for m in self.modalities for c in m.columns(declared.get(m.name))]

    @property
    def scalars(self) -> tuple[ModalityLayout, ...]:
        """Scalar modalities, with epoch and proper motions first."""
        return self.moving + tuple(m for m in self.modalities if m.kind == "scalar")

    def light(self, declared: Mapping[str, Modality]) -> list[pa.Field]:
        """Return the Arrow fields of the light columns."""
        text = pa.string() if self.text_ids else pa.int64()
        fields = [
            pa.field(HEALPIX, pa.int64(), nullable=False),
            pa.field("object_id", text, nullable=False),
            pa.field("ra", pa.float64(), nullable=False, metadata={"unit": "deg"}),
            pa.field("dec", pa.float64(), nullable=False, metadata={"unit": "deg"}),
        ]
        units = {"epoch": "yr", "pm_ra": "mas / yr", "pm_dec": "mas / yr"}
        units |= {name: m.unit for name, m in declared.items()}
        for scalar in self.scalars:
            unit = units.get(scalar.name, "")
            fields.append(pa.field(scalar.name, pa.float64(), metadata={"unit": unit}))
            if scalar.ivar:
                meta = {"unit": f"({unit})-2" if unit else ""}
                fields.append(pa.field(f"{scalar.name}_ivar", pa.float64(), metadata=meta))
        return fields

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Layout:
        """Make a layout from the values of `as_dict`."""

        def read(parts: Iterable[Mapping[str, Any]]) -> tuple[ModalityLayout, ...]:
            return tuple(ModalityLayout(**with_tuples(part)) for part in parts)

        return cls(
            values["survey"], values["text_ids"], read(values["moving"]), read(values["modalities"])
        )


def with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values read from JSON, with tuples in place of lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _union(
    mine: Sequence[ModalityLayout], theirs: Sequence[ModalityLayout]
) -> tuple[ModalityLayout, ...]:
    merged = {m.name: m for m in mine}
    for other in theirs:
        merged[other.name] = merged[other.name].merge(other) if other.name in merged else other
    return tuple(merged.values())


def light_arrays(objects: SkyObjects, layout: Layout, healpix: np.ndarray) -> dict[str, pa.Array]:
    """Return the light columns of some objects as Arrow arrays."""
    arrays: dict[str, pa.Array] = {
        HEALPIX: pa.array(healpix),
        "object_id": pa.array(objects.object_id, pa.string() if layout.text_ids else pa.int64()),
        "ra": pa.array(objects.ra_deg),
        "dec": pa.array(objects.dec_deg),
    }
    for scalar in layout.scalars:
        moving = scalar in layout.moving
        found = getattr(objects, scalar.name) if moving else objects.observations.get(scalar.name)
        if not isinstance(found, Scalar):
            found = Scalar(np.zeros(len(objects)), mask=np.zeros(len(objects), bool))
        arrays[scalar.name] = pa.array(found.value, mask=~found.mask)
        if scalar.ivar:
            arrays[f"{scalar.name}_ivar"] = pa.array(found.ivar, mask=~found.mask)
    return arrays


_PARTS = {"lsf": "lsf_sigma", "psf_fwhm": "psf_fwhm_arcsec", "offset": "offset_pixels"}


def heavy_arrays(objects: SkyObjects, column: Column) -> np.ndarray:
    """Return a heavy column of some objects, a row each; zeros where it is absent."""
    found = objects.observations.get(column.modality)
    array = None if found is None else getattr(found, _PARTS.get(column.part, column.part))
    if array is None:
        return np.zeros((len(objects), *column.shape), column.dtype)
    return array.astype(column.dtype, copy=False)


def _scalar(columns: Mapping[str, np.ndarray], name: str) -> Scalar:
    """Return a scalar from its columns, in which missing is NaN."""
    value = columns[name]
    mask = ~np.isnan(value)
    ivar = columns.get(f"{name}_ivar")
    return Scalar(np.where(mask, value, 0), None if ivar is None else np.where(mask, ivar, 0), mask)


def _measurement(layout: ModalityLayout, columns: Mapping[str, np.ndarray]) -> Measurement:
    if layout.kind == "scalar":
        return _scalar(columns, layout.name)
    part = {p: columns.get(f"{layout.name}_{p}") for p in ("ivar", "lsf", "psf_fwhm", "offset")}
    mask = columns[f"{layout.name}_mask"]
    flux, *rest = (columns[f"{layout.name}_{p}"] for p in _VALUES[layout.kind][0])
    if layout.kind == "catalog":
        return Catalog(flux, *rest, mask=mask)
    if layout.kind == "map":
        return SegmentationMap(flux, mask, layout.pixel_scale_arcsec)
    if layout.kind == "coefficients":
        return Coefficients(flux, part["ivar"], mask)  # pyright: ignore[reportArgumentType]
    if layout.kind == "spectrum":
        wavelength = np.asarray(layout.wavelength)
        return Spectrum(flux, part["ivar"], mask, wavelength, part["lsf"])
    return Image(
        flux,
        part["ivar"],  # pyright: ignore[reportArgumentType]
        mask,
        layout.bands,
        layout.pixel_scale_arcsec,
        part["psf_fwhm"],  # pyright: ignore[reportArgumentType]
        part["offset"],  # pyright: ignore[reportArgumentType]
    )


def objects_of(
    layout: Layout, columns: Mapping[str, np.ndarray], modalities: Sequence[str]
) -> SkyObjects:
    """Make objects from columns: plain arrays, in which a missing scalar is NaN."""
    wanted = {m.name: m for m in layout.modalities}
    return SkyObjects(
        survey=layout.survey,
        object_id=columns["object_id"],
        ra_deg=columns["ra"],
        dec_deg=columns["dec"],
        observations=Observations({n: _measurement(wanted[n], columns) for n in modalities}),
        **{m.name: _scalar(columns, m.name) for m in layout.moving},
    )
