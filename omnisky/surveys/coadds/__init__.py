"""How do pixels come out of a survey's co-added images? One band of one piece of sky at a time.

Surveys cut their mosaics into pieces: bricks (Legacy Surveys), patches (HSC). A :class:`Brick`
says which files hold one piece, a :class:`Coadd` holds the pixels of one of its bands and turns
windows of them into flux in nanomaggies, inverse variance and a mask that is True where good:
whatever a survey does differently ends here.

Pixel (0, 0) is the centre of the first pixel, x runs along a row.
"""

from __future__ import annotations

from omnisky.surveys.coadds.coadd import Brick, Coadd, Wanted, windows
from omnisky.surveys.coadds.planes import first_image, planes_of
from omnisky.surveys.coadds.stamps import Stamp, objects_of
from omnisky.surveys.coadds.world import scale_of, unit_vectors, wcs_of

__all__ = [
    "Brick",
    "Coadd",
    "Stamp",
    "Wanted",
    "first_image",
    "objects_of",
    "planes_of",
    "scale_of",
    "unit_vectors",
    "wcs_of",
    "windows",
]
