"""Compare a unit that a file states with the one that is expected."""

from __future__ import annotations

import re

__all__ = ["unit_is"]


def unit_is(found: object, allowed: str, where: str) -> None:
    """Refuse a unit that is stated and another one than expected.

    Parameters
    ----------
    found : object
        What the file says; empty or None if it says nothing.
    allowed : str
        As `astropy.units` writes it.
    where : str
        How messages call the values.
    """
    import astropy.units as u

    if found in (None, ""):
        return
    # How DESI writes powers of ten, and SDSS an Angstrom and a fraction.
    text = re.sub(r"\bAng\b", "Angstrom", str(found).replace("10**", "1e"))
    if text.count("/") > 1:
        top, *bottom = text.split("/")
        text = f"{top}/({' '.join(bottom)})"
    try:
        same = u.Unit(text) == u.Unit(allowed)
    except (ValueError, TypeError):
        same = False
    if not same:
        raise ValueError(
            f"{where} is in {str(found)!r}; expected {allowed!r}. Convert it, or correct the unit"
        )
