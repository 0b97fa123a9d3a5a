"""Gaia DR3: XP spectra, sampled and as coefficients, broad-band photometry, parallax."""

from __future__ import annotations

from omnisky.surveys.gaia.coefficients import XpCoefficients, arms, read_coefficients
from omnisky.surveys.gaia.declarations import GAIA, SELECTIONS
from omnisky.surveys.gaia.reading import read

__all__ = ["GAIA", "SELECTIONS", "XpCoefficients", "arms", "read", "read_coefficients"]
