"""DESI: optical spectra of 5000 fibres at a time, in three arms, with redshifts.

Wavelengths are in vacuum, in the frame of the solar system's barycentre. The three arms share one
linear grid with steps of 0.8 Angstrom and overlap in it, so they are merged without resampling.
"""

from __future__ import annotations

from omnisky.surveys.desi.declarations import DESI, SELECTIONS
from omnisky.surveys.desi.reading import read

__all__ = ["DESI", "SELECTIONS", "read"]
