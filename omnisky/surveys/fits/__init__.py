"""How does a FITS file from outside get in? Checked before it is read, decoded where it can crash.

:func:`open_fits` reads all headers itself and refuses files that are truncated or lie about their
size, before astropy sees any data. :func:`image_of`, :func:`images_of`, :func:`table_of` and
:func:`header_of` give plain values and NumPy arrays in native byte order that do not hold the file
open; :func:`unit_is` refuses another unit than expected. Tile-compressed images go through C
decoders: unless the file is trusted these run in a child process with limits of memory and time,
so that a decoder that crashes takes nothing else down.
"""

from __future__ import annotations

from omnisky.surveys.fits.headers import FitsLimits, Hdu
from omnisky.surveys.fits.images import image_of, images_of, images_of_files
from omnisky.surveys.fits.opening import checked, header_of, open_fits
from omnisky.surveys.fits.tables import columns_of, table_of
from omnisky.surveys.fits.units import unit_is

__all__ = [
    "FitsLimits",
    "Hdu",
    "checked",
    "columns_of",
    "header_of",
    "image_of",
    "images_of",
    "images_of_files",
    "open_fits",
    "table_of",
    "unit_is",
]
