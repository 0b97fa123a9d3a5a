"""Matched data as batches of torch tensors: scheduled, read row by row, resumable to the sample."""

from __future__ import annotations

from omnisky.data.stream.batch import (
    CatalogBatch,
    CoefficientsBatch,
    ImageBatch,
    MapBatch,
    MeasurementBatch,
    ObjectBatch,
    ScalarBatch,
    SpectrumBatch,
)
from omnisky.data.stream.rows import RowReader
from omnisky.data.stream.schedule import Permutation, Schedule
from omnisky.data.stream.stream import Stream

__all__ = [
    "CatalogBatch",
    "CoefficientsBatch",
    "ImageBatch",
    "MapBatch",
    "MeasurementBatch",
    "ObjectBatch",
    "Permutation",
    "RowReader",
    "ScalarBatch",
    "Schedule",
    "SpectrumBatch",
    "Stream",
]
