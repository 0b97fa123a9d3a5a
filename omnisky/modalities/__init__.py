"""What is a measurement?

A :class:`Modality` is the frozen declaration of one kind of measurement (what it is, in which
unit, from which survey and column). :class:`Scalar`, :class:`Spectrum`, :class:`Image`,
:class:`Coefficients`, :class:`Catalog` and :class:`SegmentationMap` hold the measured values of
many objects; :class:`Observations` holds several modalities of the same objects;
:class:`SkyObjects` adds who they are and where. Everything here is
NumPy only, so that a catalogue can be opened without loading a deep-learning library.

Conventions, everywhere in omnisky: one row an object; masks are True where a value is good; a
missing value is a False in the mask, never a special number.
"""

from __future__ import annotations

from omnisky.modalities.declaration import Kind, Modality, UnknownModalityError
from omnisky.modalities.measurements import Coefficients, Image, Measurement, Scalar, Spectrum
from omnisky.modalities.objects import SkyObjects
from omnisky.modalities.observations import Observations, refuse_other
from omnisky.modalities.surroundings import Catalog, SegmentationMap

__all__ = [
    "Catalog",
    "Coefficients",
    "Image",
    "Kind",
    "Measurement",
    "Modality",
    "Observations",
    "Scalar",
    "SegmentationMap",
    "SkyObjects",
    "Spectrum",
    "UnknownModalityError",
    "refuse_other",
]
