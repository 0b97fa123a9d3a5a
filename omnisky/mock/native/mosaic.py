"""Write images of which little is observed: tile-compressed FITS that holds each empty tile once.

A brick of a real survey is full; of a mock brick only the surroundings of catalogued objects are
drawn. Tiles in which nothing is drawn share the compressed bytes of one blank tile, so that a file
of 3600 × 3600 pixels takes time and space for those that are there. To any reader it is an ordinary
tile-compressed image (FITS standard 4.0, section 10.1).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["TILE", "Canvas", "compressed", "plain"]

# The Legacy Surveys compress their images in tiles of this side.
TILE = 100
_BLOCK = 2880


class Canvas:
    """Hold the drawn tiles of several planes of one piece of sky.

    Parameters
    ----------
    side : int
        Pixels along a side of the piece, a multiple of `TILE`.
    blank : mapping of str to number
        Planes by name, with the value of pixels that are not drawn.
    dtypes : mapping of str to str
        Type of each plane.
    """

    def __init__(self, side: int, blank: Mapping[str, Any], dtypes: Mapping[str, str]) -> None:
        self.side, self.blank, self.dtypes = side, dict(blank), dict(dtypes)
        self._tiles: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self._cost: dict[tuple[int, int], np.ndarray] = {}

    @property
    def drawn(self) -> list[tuple[int, int]]:
        """Rows and columns of the drawn tiles, in the order of the file."""
        return sorted(self._tiles)

    def draw(
        self, corner: tuple[int, int], planes: Mapping[str, np.ndarray], cost: np.ndarray
    ) -> None:
        """Draw a stamp; a pixel keeps what was drawn there at the lowest cost.

        Parameters
        ----------
        corner : (int, int)
            Its first pixel, x then y; what lies outside of the piece is left out.
        planes : mapping of str to array, shape (y, x)
            Pixels of each plane.
        cost : array, shape (y, x)
            How far each pixel is from the object, in any measure.
        """
        height, width = cost.shape
        x0, y0 = corner
        first_x, first_y = max(x0, 0), max(y0, 0)
        last_x, last_y = min(x0 + width, self.side), min(y0 + height, self.side)
        for row in range(first_y // TILE, -(-last_y // TILE)):
            for column in range(first_x // TILE, -(-last_x // TILE)):
                left, low = max(column * TILE, first_x), max(row * TILE, first_y)
                right, top = min((column + 1) * TILE, last_x), min((row + 1) * TILE, last_y)
                here = (slice(low - y0, top - y0), slice(left - x0, right - x0))
                there = (
                    slice(low - row * TILE, top - row * TILE),
                    slice(left - column * TILE, right - column * TILE),
                )
                tile, best = self._tile((row, column))
                nearer = cost[here] < best[there]
                np.copyto(best[there], cost[here], where=nearer)
                for name, pixels in planes.items():
                    np.copyto(tile[name][there], pixels[here], where=nearer)

    def _tile(self, key: tuple[int, int]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        if key not in self._tiles:
            self._tiles[key] = {
                name: np.full((TILE, TILE), value, dtype=self.dtypes[name])
                for name, value in self.blank.items()
            }
            self._cost[key] = np.full((TILE, TILE), np.inf, dtype=np.float32)
        return self._tiles[key], self._cost[key]

    def stack(self, plane: str) -> np.ndarray:
        """Return the drawn tiles of a plane and a blank one after them, (tile * TILE, TILE)."""
        tiles = [self._tiles[key][plane] for key in self.drawn]
        blank = np.full((TILE, TILE), self.blank[plane], dtype=self.dtypes[plane])
        return np.concatenate([*tiles, blank])


def compressed(canvas: Canvas, plane: str, header: Header, step: float | None = None) -> bytes:
    """Return one plane as a tile-compressed image extension.

    Parameters
    ----------
    canvas : Canvas
        The tiles.
    plane : str
        Which plane.
    header : Header
        Cards to add: world coordinates, names, units.
    step : float, optional
        Floating-point pixels are rounded to multiples of it; integers are kept exactly.

    Returns
    -------
    bytes
        Header and data, in whole FITS blocks.
    """
    from astropy.io import fits

    stack = canvas.stack(plane)
    how: dict[str, Any] = {"compression_type": "GZIP_1", "tile_shape": (TILE, TILE)}
    if step is not None:
        how |= {"compression_type": "RICE_1", "quantize_level": -step, "quantize_method": -1}
    held = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(stack, header.copy(), **how)]).writeto(held)
    held.seek(0)
    with fits.open(held, disable_image_compression=True) as opened:
        table: Any = opened[1]
        cards = table.header.copy()
        fields = table.data.dtype.fields
        places = [at for name, (_, at) in fields.items() if name.endswith("COMPRESSED_DATA")]
        info = table.fileinfo()
        held.seek(info["datLoc"])
        data = held.read(info["datSpan"])
    return _spread(canvas, cards, data, places)


def _spread(canvas: Canvas, cards: Any, data: bytes, places: list[int]) -> bytes:
    """Make a table of all tiles out of that of the drawn ones; rows say where their bytes lie.

    The columns at `places` hold the length and the place of a tile's bytes in the heap.
    """
    width, rows = cards["NAXIS1"], cards["NAXIS2"]
    start = cards.get("THEAP", width * rows)
    heap = bytearray(data[start : start + cards["PCOUNT"]])
    drawn = np.frombuffer(data[: width * rows], dtype=np.uint8).reshape(rows, width)
    for at in places:
        for length, first in drawn[:, at : at + 8].copy().view(">i4").tolist():
            # The time at which gzip ran: equal pixels shall give equal files.
            if length and heap[first : first + 2] == b"\x1f\x8b":
                heap[first + 4 : first + 8] = bytes(4)
    across = canvas.side // TILE
    which = np.full(across * across, rows - 1)
    for number, (row, column) in enumerate(canvas.drawn):
        which[row * across + column] = number
    table = drawn[which].tobytes()
    cards["NAXIS2"], cards["ZNAXIS1"], cards["ZNAXIS2"] = across * across, canvas.side, canvas.side
    cards["PCOUNT"] = len(heap)
    for key in ("THEAP", "CHECKSUM", "DATASUM", "ZHECKSUM", "ZDATASUM"):
        cards.remove(key, ignore_missing=True)
    body = table + bytes(heap)
    return cards.tostring().encode("ascii") + body + bytes(-len(body) % _BLOCK)


def plain(header: Header | None = None) -> bytes:
    """Return a primary header-data unit without data."""
    from astropy.io import fits

    held = io.BytesIO()
    fits.PrimaryHDU(header=header).writeto(held)
    return held.getvalue()
