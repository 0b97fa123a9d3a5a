"""The arms of Gaia XP spectra, which stores and mock universes keep as one modality.

AION-1 has a modality for the coefficients of BP and one for those of RP; the archive gives both in
one row, and so do we.
"""

from __future__ import annotations

from collections.abc import Collection

from omnisky.modalities import Coefficients, Measurement
from omnisky.surveys.gaia.coefficients import arms

__all__ = ["kept_as", "part_of", "with_arms"]

_WHOLE, _ARMS = "gaia_xp_coefficients", ("gaia_xp_bp", "gaia_xp_rp")


def with_arms(names: Collection[str]) -> tuple[str, ...]:
    """Return modalities that are kept, and those that can be taken out of them."""
    more = _ARMS if _WHOLE in names else ()
    return (*names, *(name for name in more if name not in names))


def kept_as(name: str, names: Collection[str]) -> str:
    """Return under which of the names that are kept a modality is found: its own, as a rule."""
    return name if name in names or name not in with_arms(names) else _WHOLE


def part_of(measurement: Measurement, name: str, kept: str) -> Measurement:
    """Return a modality's part of what it is kept as."""
    if name == kept:
        return measurement
    assert isinstance(measurement, Coefficients), "only arms are parts of something"
    return arms(measurement)[_ARMS.index(name)]
