"""What lies about Legacy Survey objects: the sources in their cut-outs, and a map of what they are.

Both come from a tractor or sweep table alone. A tractor table lists the sources of its whole brick,
which overlaps its neighbours by 22 arcsec on each side, more than half a cut-out: the table of an
object's own brick holds all of its neighbours, those outside of the primary area included.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from omnisky.modalities import Catalog, Observations, SegmentationMap, SkyObjects
from omnisky.surveys.catalog import stream
from omnisky.surveys.legacysurvey.catalog import FORMAT, SELECTIONS, TYPES
from omnisky.surveys.legacysurvey.declarations import (
    MAP_PIXELS,
    MOST_SOURCES,
    PIXEL_SCALE_ARCSEC,
)
from omnisky.surveys.survey import Problems, Selection

__all__ = ["FILL", "Neighbours", "Placed", "sources_in", "surroundings_of", "with_surroundings"]

# Value of the pixels that a source covers, by its type: AION-1's (arXiv:2510.17960, appendix on
# data), extended to the types of older releases. DUP has no light of its own and is left out.
FILL = {"PSF": 0.2, "REX": 0.4, "SIMP": 0.4, "EXP": 0.6, "DEV": 0.8, "SER": 1.0, "COMP": 1.0}
_FILL_OF_CODE = np.array([FILL.get(n, 0.0) for n in ("", *sorted(TYPES, key=TYPES.__getitem__))])
# Half the FWHM of the point-spread function where the table does not tell, arcsec.
_SEEING_RADIUS = 0.65
# A source covers at least the centre of one pixel: half a diagonal, and a little more.
_LEAST_RADIUS = 0.75 * PIXEL_SCALE_ARCSEC
# Sources larger than this are few, and looked at one by one, arcsec.
_LARGE = 10.0
_AT_ONCE = 65536
# All that is needed of a table.
_LIGHT = replace(
    FORMAT,
    optional=tuple(n for n in FORMAT.optional if n.startswith(("TYPE", "SHAPE", "PSFSIZE_R"))),
)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Hold sources; arrays of one shape.

    Parameters
    ----------
    x, y : array
        Position: offset in arcsec, x to the west and y to the north, or right ascension and
        declination in degrees, as whoever takes it says.
    kind : array of int
        Type of model, a number of `omnisky.surveys.legacysurvey.TYPES`.
    r, e1, e2 : array
        Half-light radius (arcsec) and ellipticity; 0 for point sources.
    psf_radius : array
        Half-light radius of the point-spread function, arcsec.
    """

    x: np.ndarray
    y: np.ndarray
    kind: np.ndarray
    r: np.ndarray
    e1: np.ndarray
    e2: np.ndarray
    psf_radius: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index) -> Placed:
        return Placed(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def surroundings_of(
    owner: np.ndarray, sources: Placed, count: int
) -> dict[str, Catalog | SegmentationMap]:
    """Return catalogues and maps of objects whose sources are known.

    Parameters
    ----------
    owner : array of int, shape (source,)
        Which object each source is seen with; a source seen with two objects is given twice.
    sources : Placed
        With offsets from the object. Those outside of the cut-out are not listed, but painted where
        they reach into it.
    count : int
        Number of objects.

    Returns
    -------
    dict
        ``legacysurvey_catalog`` and ``legacysurvey_segmentation``. An object without any source in
        its cut-out has neither.

    Notes
    -----
    In the map, each source covers the ellipse that holds half of its light, that of the
    point-spread function for point sources, with the value that `FILL` gives its type. The smaller
    of two sources lies on top, so that none hides another altogether. AION-1 does not say which
    does.
    """
    half = MAP_PIXELS * PIXEL_SCALE_ARCSEC / 2
    inside = np.flatnonzero(np.maximum(np.abs(sources.x), np.abs(sources.y)) < half)
    distance = np.hypot(sources.x, sources.y)[inside]
    inside = inside[np.lexsort((distance, owner[inside]))]
    first = np.searchsorted(owner[inside], np.arange(count))
    place = np.arange(len(inside)) - first[owner[inside]]
    kept = inside[place < MOST_SOURCES], place[place < MOST_SOURCES]
    at = owner[kept[0]], kept[1]
    columns = {}
    for name in ("x", "y", "e1", "e2", "r"):
        columns[name] = np.zeros((count, MOST_SOURCES), dtype=np.float32)
        columns[name][at] = getattr(sources, name)[kept[0]]
    mask = np.zeros((count, MOST_SOURCES), dtype=bool)
    mask[at] = True
    field = _paint(owner, sources, count)
    known = np.repeat(mask.any(axis=1), MAP_PIXELS**2).reshape(field.shape)
    return {
        "legacysurvey_catalog": Catalog(**columns, mask=mask),
        "legacysurvey_segmentation": SegmentationMap(field, known, PIXEL_SCALE_ARCSEC),
    }


def _paint(owner: np.ndarray, sources: Placed, count: int) -> np.ndarray:
    """Return maps, shape (object, y, x)."""
    field = np.zeros((count, MAP_PIXELS, MAP_PIXELS), dtype=np.float32)
    scale, middle = PIXEL_SCALE_ARCSEC, (MAP_PIXELS - 1) / 2
    point = sources.r <= 0
    size = np.where(point, sources.psf_radius, sources.r)
    flattening = np.minimum(np.hypot(sources.e1, sources.e2), 0.99)
    minor = np.maximum(size * (1 - flattening) / (1 + flattening), _LEAST_RADIUS) / scale
    major = np.maximum(size / scale, minor)
    angle = 0.5 * np.arctan2(sources.e2, sources.e1)
    # The position angle is counted from north to east, and x grows to the west.
    along_x, along_y = -np.sin(angle), np.cos(angle)
    x, y = sources.x / scale + middle, sources.y / scale + middle
    fill = _FILL_OF_CODE[sources.kind.astype(np.int64)]
    pixels = np.arange(MAP_PIXELS)
    for k in np.argsort(-major, kind="stable").tolist():
        left, right = np.searchsorted(pixels, [x[k] - major[k], x[k] + major[k]])
        low, top = np.searchsorted(pixels, [y[k] - major[k], y[k] + major[k]])
        dx, dy = pixels[left : right + 1] - x[k], pixels[low : top + 1, None] - y[k]
        u = (dx * along_x[k] + dy * along_y[k]) / major[k]
        v = (dx * along_y[k] - dy * along_x[k]) / minor[k]
        np.copyto(field[owner[k], low : top + 1, left : right + 1], fill[k], where=u**2 + v**2 <= 1)
    return field


def sources_in(path: str | os.PathLike, *, trusted: bool = False) -> Placed:
    """Return all sources of a tractor or sweep table with their positions in degrees.

    Parameters
    ----------
    path : path
        FITS table of DR6 or later. Rows that no object can be made of, and DUP, are left out.
    trusted : bool
        Whether the limits for files from outside do not apply.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is damaged or no such table.
    """
    parts = []
    everything = Selection.choose(None, SELECTIONS)
    # Whoever reads the objects of the file reports its rows without a position.
    quiet = Problems("quarantine")
    for objects in stream(
        _LIGHT, path, selection=everything, problems=quiet, batch_size=_AT_ONCE, trusted=trusted
    ):
        # All are scalars.
        found: dict[str, Any] = {
            n.removeprefix("legacysurvey_"): m for n, m in objects.observations.items()
        }
        seeing = found["psfsize_r"]
        sources = Placed(
            x=objects.ra_deg,
            y=objects.dec_deg,
            kind=found["type"].value.astype(np.int64),
            **{part: found[f"shape_{part}"].value for part in ("r", "e1", "e2")},
            psf_radius=np.where(seeing.mask, seeing.value / 2, _SEEING_RADIUS),
        )
        parts.append(sources[_FILL_OF_CODE[sources.kind] > 0])
    whole = [p for p in quiet.found if p.row is None]
    if whole:
        raise ValueError(str(whole[0]))
    return Placed(**{f.name: np.concatenate([getattr(p, f.name) for p in parts] or [np.empty(0)])
                     for f in fields(Placed)})  # fmt: skip


class Neighbours:
    """Find the sources of a table about positions.

    Parameters
    ----------
    sources : Placed
        With positions in degrees, see `sources_in`.
    """

    def __init__(self, sources: Placed) -> None:
        self.sources = sources
        large = sources.r > _LARGE
        self._small, self._large = np.flatnonzero(~large), np.flatnonzero(large)
        self._vectors = _vectors(sources.x, sources.y)
        self._tree = KDTree(self._vectors[self._small]) if len(self._small) else None

    def about(
        self, ra_deg: np.ndarray, dec_deg: np.ndarray
    ) -> dict[str, Catalog | SegmentationMap]:
        """Return what lies about positions in degrees, shape (object,); see `surroundings_of`."""
        centres = _vectors(ra_deg, dec_deg)
        corner = np.sqrt(0.5) * MAP_PIXELS * PIXEL_SCALE_ARCSEC
        owners, found = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        if self._tree is not None:
            near = self._tree.query_ball_point(centres, np.radians((corner + _LARGE) / 3600))
            owners.append(np.repeat(np.arange(len(near)), [len(n) for n in near]))
            found.append(self._small[np.concatenate([*near, []]).astype(np.int64)])
        for k in self._large.tolist():
            reach = np.radians((corner + self.sources.r[k]) / 3600)
            here = np.flatnonzero(np.linalg.norm(centres - self._vectors[k], axis=1) < reach)
            owners.append(here)
            found.append(np.full(len(here), k))
        owner, which = np.concatenate(owners), np.concatenate(found)
        sources = self.sources[which]
        x, y = _offsets(ra_deg[owner], dec_deg[owner], sources.x, sources.y)
        return surroundings_of(owner, replace(sources, x=x, y=y), len(centres))


def with_surroundings(
    read: Callable[..., Iterator[SkyObjects]], path: str | os.PathLike, trusted: bool
) -> Iterator[SkyObjects]:
    """Yield the objects that `read` finds in a table, with what lies about them in the same table.

    Parameters
    ----------
    read : callable
        Takes the path, yields the objects.
    path : path
        The table.
    trusted : bool
        Whether the limits for files from outside do not apply.
    """
    neighbours: Neighbours | None = None
    for objects in read(path):
        neighbours = neighbours or Neighbours(sources_in(path, trusted=trusted))
        about: Mapping = neighbours.about(objects.ra_deg, objects.dec_deg)
        yield replace(objects, observations=Observations({**objects.observations, **about}))


def _vectors(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Return unit vectors, shape (position, 3)."""
    ra, dec = np.radians(ra_deg), np.radians(dec_deg)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)


def _offsets(
    ra_0: np.ndarray, dec_0: np.ndarray, ra: np.ndarray, dec: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets to the west and to the north in arcsec, on the tangent plane."""
    ra_0, dec_0, ra, dec = (np.radians(a) for a in (ra_0, dec_0, ra, dec))
    sin_0, cos_0, sin, cos = np.sin(dec_0), np.cos(dec_0), np.sin(dec), np.cos(dec)
    ahead = sin_0 * sin + cos_0 * cos * np.cos(ra - ra_0)
    west = -cos * np.sin(ra - ra_0) / ahead
    north = (cos_0 * sin - sin_0 * cos * np.cos(ra - ra_0)) / ahead
    return np.degrees(west) * 3600, np.degrees(north) * 3600
