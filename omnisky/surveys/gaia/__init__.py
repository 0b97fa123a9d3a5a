"""Gaia DR3: XP spectra, sampled and as coefficients, broad-band photometry, parallax."""

from __future__ import annotations

from omnisky.surveys.gaia.coefficients import XpCoefficients, arms, read_coefficients
from omnisky.surveys.gaia.declarations import GAIA, SELECTIONS
from omnisky.surveys.gaia.parts import kept_as, part_of, with_arms
from omnisky.surveys.gaia.reading import read

__all__ = [
    "GAIA",
    "SELECTIONS",
    "XpCoefficients",
    "arms",
    "kept_as",
    "part_of",
    "read",
    "read_coefficients",
    "with_arms",
]
