"""The Multimodal Universe: import of its data sets, v1 (HDF5) and v1.5 (HATS Parquet).

The data sets of Legacy Survey and HSC images, SDSS and DESI spectra and Gaia coefficients become
objects of these surveys, with the conventions of omnisky: masks are True where good in all of them,
identifiers are not ``b'...'``, widths of the line-spread function are in nm.
"""

from __future__ import annotations

from omnisky.surveys.mmu.files import find
from omnisky.surveys.mmu.reading import SELECTIONS, read

__all__ = ["SELECTIONS", "find", "read"]
