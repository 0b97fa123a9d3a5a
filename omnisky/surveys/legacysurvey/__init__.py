"""DESI Legacy Imaging Surveys: catalogues (tractor, sweep), bricks and viewer cut-outs.

Settled at this door: names of columns in either case and of older releases, padded text, missing
bands, inverse variance 0 for "not observed", DR8's two shapes, the viewer's interpolated pixels.
"""

from __future__ import annotations

from omnisky.surveys.legacysurvey.catalog import SELECTIONS, TYPES, extended, read
from omnisky.surveys.legacysurvey.declarations import LEGACYSURVEY
from omnisky.surveys.legacysurvey.images import find_bricks, read_cutouts

__all__ = [
    "LEGACYSURVEY",
    "SELECTIONS",
    "TYPES",
    "extended",
    "find_bricks",
    "read",
    "read_cutouts",
]
