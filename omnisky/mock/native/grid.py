"""Into which pieces is a survey's mosaic cut? Bricks of the Legacy Surveys, patches of HSC.

Pieces stand in rings of equal declination. Each has an area that is its own, an interval of right
ascension and one of declination, and pixels in a tangential projection around its centre, which
reach beyond that area on all sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["BRICKS", "PATCHES", "Grid", "Piece"]

_ARCSEC = np.pi / 180 / 3600


@dataclass(frozen=True, kw_only=True)
class Grid:
    """State how a mosaic is cut into pieces.

    Parameters
    ----------
    step_deg : float
        Height of the area that is a piece's own, and about its width.
    side : int
        Pixels along a side of a piece.
    scale_arcsec : float
        Side of a pixel.
    name : callable
        Takes a `Piece`, returns the survey's name of it.
    """

    step_deg: float
    side: int
    scale_arcsec: float
    name: Callable[[Piece], str]

    @cached_property
    def _centres(self) -> np.ndarray:
        """Declination of each ring, from pole to pole, in degrees."""
        count = round(180 / self.step_deg)
        return (np.arange(count + 1) - count / 2) * self.step_deg

    @cached_property
    def _columns(self) -> np.ndarray:
        """Pieces of each ring: an even number, none wider than `step_deg`; one at each pole."""
        widest = np.abs(self._centres) - self.step_deg / 2
        around = 360 * np.cos(np.radians(widest)) / self.step_deg
        columns = np.ceil(around - 1e-9).astype(np.int64)
        columns += columns % 2
        columns[[0, -1]] = 1
        return columns

    @cached_property
    def _first(self) -> np.ndarray:
        """Number of the first piece of each ring, counted from 1 at the southern pole."""
        return 1 + np.concatenate([[0], np.cumsum(self._columns)[:-1]])

    def locate(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
        """Return the number of the piece whose own area holds each position, shape (object,).

        Parameters
        ----------
        ra_deg, dec_deg : array, shape (object,)
            ICRS positions in degrees, right ascension in [0, 360).
        """
        ring = np.floor((np.asarray(dec_deg) - self._centres[0]) / self.step_deg + 0.5)
        ring = ring.astype(np.int64).clip(0, len(self._centres) - 1)
        columns = self._columns[ring]
        column = np.floor(np.asarray(ra_deg) / (360.0 / columns)).astype(np.int64)
        return self._first[ring] + column.clip(0, columns - 1)

    def piece(self, number: int) -> Piece:
        """Return a piece by its number."""
        ring = int(np.searchsorted(self._first, number, side="right")) - 1
        width = 360.0 / int(self._columns[ring])
        column = int(number - self._first[ring])
        dec = float(self._centres[ring])
        return Piece(
            grid=self,
            number=int(number),
            ring=ring,
            column=column,
            ra=(column + 0.5) * width,
            dec=dec,
            bounds=(
                column * width,
                (column + 1) * width,
                dec - self.step_deg / 2,
                dec + self.step_deg / 2,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Hold where one brick or patch lies.

    Parameters
    ----------
    grid : Grid
        Of which it is a piece.
    number, ring, column : int
        Its number from 1, its ring from the south, and its place in the ring.
    ra, dec : float
        Its centre in degrees.
    bounds : tuple of float
        Right ascensions and declinations of the area that is its own, in degrees.
    """

    grid: Grid
    number: int
    ring: int
    column: int
    ra: float
    dec: float
    bounds: tuple[float, float, float, float]

    @property
    def name(self) -> str:
        """The survey's name of it."""
        return self.grid.name(self)

    def pixels(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
        """Return pixel positions x and y, from 0, shape (object, 2).

        The gnomonic projection (Calabretta & Greisen 2002, section 5.1.3); x grows to the west, y
        to the north.
        """
        ra, dec = np.radians(np.asarray(ra_deg) - self.ra), np.radians(dec_deg)
        dec0 = np.radians(self.dec)
        depth = np.sin(dec) * np.sin(dec0) + np.cos(dec) * np.cos(dec0) * np.cos(ra)
        east = np.cos(dec) * np.sin(ra) / depth
        north = (np.sin(dec) * np.cos(dec0) - np.cos(dec) * np.sin(dec0) * np.cos(ra)) / depth
        step = self.grid.scale_arcsec * _ARCSEC
        middle = (self.grid.side - 1) / 2
        return np.stack([middle - east / step, middle + north / step], axis=-1)

    def header(self) -> Header:
        """Return the cards of its world coordinates and of the area that is its own."""
        from astropy.io.fits import Header

        step = self.grid.scale_arcsec / 3600
        middle = (self.grid.side + 1) / 2
        cards: list[tuple[str, Any]] = [("CTYPE1", "RA---TAN"), ("CTYPE2", "DEC--TAN")]
        cards += [("CRVAL1", self.ra), ("CRVAL2", self.dec)]
        cards += [("CRPIX1", middle), ("CRPIX2", middle)]
        cards += [("CD1_1", -step), ("CD1_2", 0.0), ("CD2_1", 0.0), ("CD2_2", step)]
        cards += [("CUNIT1", "deg"), ("CUNIT2", "deg"), ("EQUINOX", 2000.0)]
        cards += zip(("RAMIN", "RAMAX", "DECMIN", "DECMAX"), self.bounds, strict=True)
        return Header(cards)


def _brick_name(piece: Piece) -> str:
    """Return ``rrrr[pm]ddd``: tenths of a degree of the centre, cut off (not rounded)."""
    sign = "m" if piece.dec < 0 else "p"
    # Whole steps of 1e-9 degree keep 10.1 from becoming 100.99999.
    tenth = [int(np.floor(round(abs(value) * 10, 8))) for value in (piece.ra, piece.dec)]
    return f"{tenth[0]:04d}{sign}{tenth[1]:03d}"


def _patch_name(piece: Piece) -> str:
    """Return ``<tract>-<x>,<y>``: nine by nine patches share the number of a tract."""
    tract = 1000 * (piece.ring // 9) + piece.column // 9
    return f"{tract}-{piece.column % 9},{piece.ring % 9}"


# 0.25 degree and 3600 pixels of 0.262 arcsec (Dey et al. 2019, section 7).
BRICKS = Grid(step_deg=0.25, side=3600, scale_arcsec=0.262, name=_brick_name)
# 4200 pixels of 0.168 arcsec (Aihara et al. 2018, section 4). HSC cuts tracts into patches along
# their pixels; here patches stand in rings, as bricks do, so that each has an area of its own.
PATCHES = Grid(step_deg=0.1875, side=4200, scale_arcsec=0.168, name=_patch_name)
