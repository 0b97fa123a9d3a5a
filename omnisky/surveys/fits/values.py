"""Turn the numbers that a FITS file stores into those that they stand for."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

__all__ = ["in_units", "whole_number"]


def in_units(stored: Any, scale: str, zero: str) -> np.ndarray:
    """Return stored numbers times scale plus zero, in native byte order.

    Parameters
    ----------
    stored : array
        As they lie in the file, in either byte order.
    scale, zero : str
        BSCALE and BZERO of an image or TSCAL and TZERO of a column, empty where not given.

    Returns
    -------
    array
        Of the stored type without scaling, unsigned integers where `zero` is how FITS writes them,
        otherwise float32 or, from integers of 32 bits on, float64.

    Raises
    ------
    ValueError
        If scale or zero are no finite numbers.
    """
    values = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    factor, offset = _number(scale, 1.0), _number(zero, 0.0)
    bits = 8 * values.itemsize
    if values.dtype.kind == "i" and factor == 1 and offset == 2.0 ** (bits - 1):
        # How FITS stores unsigned integers: the sign bit is turned.
        unsigned = np.dtype(f"u{values.itemsize}")
        return values.view(unsigned) ^ np.array(1 << (bits - 1), dtype=unsigned)
    if factor == 1 and offset == 0:
        return values
    if values.dtype.kind in "iu":
        values = values.astype(np.float32 if bits < 32 else np.float64)
    with np.errstate(all="ignore"):  # what overflows is infinite, and readers mask that
        return values * factor + offset


def whole_number(text: str) -> int:
    """Return the integer that a header states; raises `ValueError` if it is none."""
    if not re.fullmatch(r"[+-]?\d{1,20}", text):
        raise ValueError(f"{text!r} should be an integer")
    return int(text)


def _number(text: str, default: float) -> float:
    try:
        value = float(text.upper().replace("D", "E")) if text else default
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} should be a finite number")
    return value
