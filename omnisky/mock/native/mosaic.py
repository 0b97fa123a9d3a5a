"""Write images of which little is observed: tile-compressed FITS that holds each empty tile once.

A brick of a real survey is full; of a mock brick only the surroundings of catalogued objects are
drawn. Tiles in which nothing is drawn share the compressed bytes of one blank tile, so that a file
of 3600 × 3600 pixels takes time and space for those that are there. To any reader it is an ordinary
tile-compressed image (FITS standard 4.0, section 10.1).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from omnisky.mock.native.files import BLOCK, padded

__all__ = ["TILE", "Canvas", "compressed"]

# The Legacy Surveys compress their images in tiles of this side.
TILE = 100


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


def compressed(canvas: Canvas, plane: str, cards: str, step: float | None = None) -> bytes:
    """Return one plane as a tile-compressed image extension.

    Parameters
    ----------
    canvas : Canvas
        The tiles.
    plane : str
        Which plane.
    cards : str
        Header cards to add, as `cards_of` returns them: world coordinates, names, units.
    step : float, optional
        Floating-point pixels are rounded to multiples of it; integers are kept exactly.

    Returns
    -------
    bytes
        Header and data, in whole FITS blocks.
    """
    from astropy.io import fits

    how: dict[str, Any] = {"compression_type": "GZIP_1", "tile_shape": (TILE, TILE)}
    if step is not None:
        how |= {"compression_type": "RICE_1", "quantize_level": -step, "quantize_method": -1}
    held = io.BytesIO()
    fits.CompImageHDU(canvas.stack(plane), **how).writeto(held)
    return _spread(canvas, held.getvalue()[BLOCK:], cards)


def _spread(canvas: Canvas, compact: bytes, cards: str) -> bytes:
    """Make a table of all tiles out of that of the drawn ones; rows say where their bytes lie."""
    header, body = _parted(compact)
    width, rows = int(header["NAXIS1"]), int(header["NAXIS2"])
    start = int(header.get("THEAP", width * rows))
    heap = bytearray(body[start : start + int(header["PCOUNT"])])
    drawn = np.frombuffer(body[: width * rows], dtype=np.uint8).reshape(rows, width)
    _forget_time(header, drawn, heap)
    across = canvas.side // TILE
    which = np.full(across * across, rows - 1)
    for number, (row, column) in enumerate(canvas.drawn):
        which[row * across + column] = number
    header |= {"NAXIS2": across**2, "ZNAXIS1": canvas.side, "ZNAXIS2": canvas.side}
    header = {k: v for k, v in header.items() if k not in ("THEAP", "CHECKSUM", "DATASUM")}
    if "EXTNAME " in cards:
        del header["EXTNAME"]
    text = "".join(_card(key, str(value)) for key, value in header.items())
    top = padded((text + cards + f"{'END':80s}").encode("ascii"), b" ")
    return top + padded(drawn[which].tobytes() + bytes(heap))


def _card(key: str, value: str) -> str:
    """Return a card in the fixed format: text begins in column 11, numbers end in column 30."""
    return (f"{key:8s}= {value}" if value.startswith("'") else f"{key:8s}= {value:>20s}").ljust(80)


def _parted(extension: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the cards of a header, values as written, and what follows it."""
    cards: dict[str, Any] = {}
    for start in range(0, len(extension), 80):
        card = extension[start : start + 80].decode("ascii")
        if card.startswith("END "):
            return cards, extension[-(-(start + 80) // BLOCK) * BLOCK :]
        if card[8:10] == "= ":
            text = card[10:].strip()
            end = text.index("'", 1) + 1 if text.startswith("'") else len(text.partition("/")[0])
            cards[card[:8].rstrip()] = text[:end].rstrip()
    raise ValueError("a header without END; astropy wrote something unknown")


_WIDTHS = {"P": 8, "Q": 16, "D": 8, "E": 4, "J": 4, "K": 8, "I": 2, "B": 1}


def _forget_time(header: dict[str, Any], drawn: np.ndarray, heap: bytearray) -> None:
    """Take out of compressed tiles the time at which gzip ran: equal pixels give equal files."""
    at = 0
    for field in range(1, int(header["TFIELDS"]) + 1):
        letter = header[f"TFORM{field}"].strip("' ").lstrip("0123456789")[0]
        if letter == "P":
            for length, first in drawn[:, at : at + 8].copy().view(">i4").tolist():
                if length and heap[first : first + 2] == b"\x1f\x8b":
                    heap[first + 4 : first + 8] = bytes(4)
        at += _WIDTHS[letter]
