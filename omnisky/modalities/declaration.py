"""The declaration of one kind of measurement: what it is, in which unit, from which survey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["Kind", "Modality", "UnknownModalityError"]

Kind = Literal["scalar", "spectrum", "image", "coefficients", "catalog", "map"]
# Kinds whose number of values is fixed by `Modality.size`.
_SIZED = ("image", "coefficients", "catalog", "map")


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
    kind : {"scalar", "spectrum", "image", "coefficients", "catalog", "map"}
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
        First pixel centre, step and number of pixels of a spectrum's grid; the first two are
        log10 of nm where `spacing` says so.
    spacing : {"linear", "log10"}
        Spacing of a spectrum's grid.
    bands : tuple of str
        Bands of an image, in order.
    pixel_scale_arcsec : float, optional
        Side of a pixel of an image or map.
    size : int, optional
        Side of an image or map in pixels, number of coefficients, or most sources of a catalog.
    zero_point : float, optional
        AB magnitude of one unit of flux.
    error_column : str, optional
        Column of the 1-sigma errors, where the survey gives one.
    bibcodes : tuple of str
        What to cite when the modality is used.
    """

    name: str
    kind: Kind
    survey: str
    unit: str
    ucd: str
    column: str
    description: str
    valid_range: tuple[float, float] = (-np.inf, np.inf)
    role: Literal["observation", "label"] = "observation"
    wavelength_nm: tuple[float, float, int] | None = None
    spacing: Literal["linear", "log10"] = "linear"
    bands: tuple[str, ...] = ()
    pixel_scale_arcsec: float | None = None
    size: int | None = None
    zero_point: float | None = None
    error_column: str | None = None
    bibcodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind == "spectrum") != (self.wavelength_nm is not None):
            raise ValueError(
                f"modality {self.name!r}: a spectrum needs wavelength_nm=(start, step, pixels) and "
                f"nothing else has it; found kind={self.kind!r}, "
                f"wavelength_nm={self.wavelength_nm!r}"
            )
        scaled = self.pixel_scale_arcsec is not None
        if (self.kind == "image") != bool(self.bands) or (self.kind in ("image", "map")) != scaled:
            raise ValueError(
                f"modality {self.name!r}: an image needs bands and pixel_scale_arcsec, a map "
                f"pixel_scale_arcsec, and nothing else has them; found kind={self.kind!r}, "
                f"bands={self.bands!r}, pixel_scale_arcsec={self.pixel_scale_arcsec!r}"
            )
        if (self.kind in _SIZED) != (self.size is not None):
            raise ValueError(
                f"modality {self.name!r}: {', '.join(_SIZED)} need a size and nothing else has "
                f"one; found kind={self.kind!r}, size={self.size!r}"
            )
        low, high = self.valid_range
        if not low < high:
            raise ValueError(f"modality {self.name!r}: valid_range {self.valid_range} is empty")

    @property
    def wavelength(self) -> np.ndarray:
        """Pixel centres in nm, shape (pixel,); raises `ValueError` for other kinds."""
        if self.wavelength_nm is None:
            raise ValueError(f"modality {self.name!r} is a {self.kind}, it has no wavelength grid")
        start, step, pixels = self.wavelength_nm
        grid = start + step * np.arange(pixels)
        return 10.0**grid if self.spacing == "log10" else grid
