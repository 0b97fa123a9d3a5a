"""Which piece of a survey's mosaic shows an object, and what are its pixels?

:class:`Bricks` finds the brick (Legacy Surveys) or patch (HSC) of each position and keeps the
pixels of the last ones in memory, up to a limit. `omnisky.data.cutout` cuts from it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from astropy.wcs import WCS

from omnisky.surveys import hsc, legacysurvey
from omnisky.surveys.coadds import Brick, Coadd, Wanted, first_image, scale_of, unit_vectors, wcs_of
from omnisky.surveys.survey import Survey

__all__ = ["Bricks"]

_FINDERS: dict[str, tuple[Survey, Callable[..., dict[str, Brick]]]] = {
    "legacysurvey": (legacysurvey.LEGACYSURVEY, legacysurvey.find_bricks),
    "hsc": (hsc.HSC, hsc.find_patches),
}
_GEOMETRIES = 4096
_Value = TypeVar("_Value")


class _Recent(Generic[_Value]):
    """Keep the values that were used last, up to a total weight; always the newest one."""

    def __init__(self, limit: int, weigh: Callable[[_Value], int]) -> None:
        self.limit, self.weigh, self.total = limit, weigh, 0
        self.kept: OrderedDict[Hashable, _Value] = OrderedDict()

    def get(self, key: Hashable) -> _Value | None:
        if key in self.kept:
            self.kept.move_to_end(key)
        return self.kept.get(key)

    def put(self, key: Hashable, value: _Value) -> None:
        self.kept[key] = value
        self.total += self.weigh(value)
        while self.total > self.limit and len(self.kept) > 1:
            _, dropped = self.kept.popitem(last=False)
            self.total -= self.weigh(dropped)


@dataclass(frozen=True)
class _Geometry:
    """Where one brick lies: world coordinates, shape, and the area that is its own."""

    wcs: WCS
    shape: tuple[int, int]
    centre: np.ndarray  # unit vector
    radius: float  # of the circle around it, as a chord of the unit sphere
    bounds: tuple[float, float, float, float] | None

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        height, width = self.shape
        return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)

    def owns(self, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
        """Tell which positions lie in the area that no other brick has."""
        if self.bounds is None:
            return np.zeros(len(ra), dtype=bool)
        west, east, south, north = self.bounds
        width = (east - west) % 360.0 or 360.0
        return ((ra - west) % 360.0 < width) & (dec >= south) & (dec < north)


class Bricks:
    """Find and read the co-added images of a survey.

    Parameters
    ----------
    folder : path
        Holds the images of bricks or patches, in it or below, as the survey names them.
    survey : {"legacysurvey", "hsc"}
        Whose images they are.
    cache_bytes : int
        Decoded pixels to keep in memory. Images that are not compressed are mapped from their
        files and take none. One band of one brick is held in any case.
    ivar : bool
        Whether to read the noise. Without it all inverse variances are zero (unknown), decoding
        takes half the time, and of the masks those pixels are left that hold no data or are
        flagged.
    trusted : bool
        Whether compressed images may be decoded in this process: faster by the start of a child
        process for each file, but a damaged file may take this process down.

    Attributes
    ----------
    names : tuple of str
        Names of the bricks; their index is their number.
    unreadable : dict of str to str
        Bricks whose headers turned out to be damaged, and what is wrong.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds no images of this survey, or the survey is unknown.

    Notes
    -----
    May be used from several threads; they wait for each other while an image is decoded.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        survey: str = "legacysurvey",
        cache_bytes: int = 2**30,
        ivar: bool = True,
        trusted: bool = False,
    ) -> None:
        if survey not in _FINDERS:
            raise ValueError(f"no images of survey {survey!r}; known are {', '.join(_FINDERS)}")
        self.folder, self.survey = folder, survey
        self.trusted, self.ivar = trusted, ivar
        facts, find = _FINDERS[survey]
        self._declared = next(m for m in facts.modalities if m.kind == "image")
        found = find(folder)
        self.names: tuple[str, ...] = tuple(found)
        self._bricks: tuple[Brick, ...] = tuple(found.values())
        self._geometries = _Recent[_Geometry](_GEOMETRIES, lambda _: 1)
        self._coadds = _Recent[Coadd](cache_bytes, lambda coadd: coadd.nbytes)
        self._lock = threading.RLock()
        self.unreadable: dict[str, str] = {}
        self._tree: Any = None

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Bricks({len(self)} of {self.survey} in {self.folder})"

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands of the survey, in order; a brick may lack some."""
        return self._declared.bands

    @property
    def pixel_scale_arcsec(self) -> float:
        """Side of a pixel, the same in all bricks."""
        assert self._declared.pixel_scale_arcsec is not None, "images have a scale"
        return self._declared.pixel_scale_arcsec

    def bands_of(self, number: int) -> tuple[str, ...]:
        """Return the bands in which there are images of a brick, given by its number."""
        return tuple(band for band in self.bands if band in self._bricks[number].headers)

    def file_of(self, number: int) -> str:
        """Return the file that messages about a brick name."""
        return str(next(iter(self._bricks[number].headers.values())))

    def locate(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
        """Find the brick of each position.

        Parameters
        ----------
        ra_deg, dec_deg : array, shape (object,)
            ICRS positions in degrees.

        Returns
        -------
        array of int64, shape (object,)
            Number of the brick, the index into `names`; -1 outside of all. Where bricks overlap it
            is the one whose own area (``RAMIN`` to ``DECMAX`` of its header) holds the position,
            else the one with the nearest centre. Bricks whose header cannot be read are left out,
            and noted in `unreadable`.
        """
        ra = np.asarray(ra_deg, dtype=np.float64) % 360.0
        dec = np.asarray(dec_deg, dtype=np.float64)
        positions = unit_vectors(ra, dec)
        found = np.full(len(ra), -1, dtype=np.int64)
        # Of two candidates the one with the lower number is better: 2 for a foreign area, plus the
        # distance of the centre, a chord below 2.
        best = np.full(len(ra), np.inf)
        rows, bricks = self._candidates(positions)
        for number in np.unique(bricks).tolist():
            here = rows[bricks == number]
            geometry = self._geometry_or_none(number)
            if geometry is None:
                continue
            distance = np.linalg.norm(positions[here] - geometry.centre, axis=1)
            near = distance <= geometry.radius
            here, distance = here[near], distance[near]
            x, y = geometry.wcs.all_world2pix(ra[here], dec[here], 0)
            cost = np.where(geometry.owns(ra[here], dec[here]), 0.0, 2.0) + distance
            better = geometry.inside(x, y) & (cost < best[here])
            found[here[better]], best[here[better]] = number, cost[better]
        return found

    def pixels_of(
        self, number: int, ra_deg: np.ndarray, dec_deg: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixel positions x and y, from 0, of positions in one brick."""
        x, y = self._geometry(number).wcs.all_world2pix(ra_deg, dec_deg, 0)
        return np.asarray(x), np.asarray(y)

    def coadds(
        self, number: int, bands: Sequence[str], *, psf: bool = False
    ) -> Iterator[tuple[str, Coadd]]:
        """Yield the pixels of some bands of one brick, from memory where they are there.

        Parameters
        ----------
        number : int
            The brick.
        bands : sequence of str
            Bands of it, each once.
        psf : bool
            Whether to read maps of the width of the point-spread function, where there are.

        Yields
        ------
        str, Coadd
            Each band with its pixels; all are opened together if they may be kept together, else
            one after the other.

        Raises
        ------
        ValueError
            If there is no image in one of the bands, a file is damaged, images of one brick differ
            in shape or place, or world coordinates cannot be used.
        """
        missing = [band for band in bands if band not in self._bricks[number].headers]
        if missing:
            raise ValueError(
                f"brick {self.names[number]} of {self.folder} has no image in "
                f"{', '.join(missing)}; it has {', '.join(self.bands_of(number))}. Ask for these "
                "bands only, fetch the others, or allow missing bands"
            )
        height, width = self._geometry(number).shape
        # Flux, noise, flags and width of the PSF of a pixel, decoded.
        together = height * width * len(bands) * (10 + 4 * psf) <= self._coadds.limit
        for some in [bands] if together else [[band] for band in bands]:
            yield from self._open(number, some, psf)

    def _open(self, number: int, bands: Sequence[str], psf: bool) -> list[tuple[str, Coadd]]:
        with self._lock:
            found = {band: self._coadds.get((number, band, psf)) for band in bands}
            absent = [band for band, coadd in found.items() if coadd is None]
            if absent:
                wanted = Wanted(noise=self.ivar, psf=psf, trusted=self.trusted)
                for band, coadd in self._bricks[number].open(absent, wanted).items():
                    self._check_place(number, coadd)
                    self._coadds.put((number, band, psf), coadd)
                    found[band] = coadd
        return [(band, coadd) for band, coadd in found.items() if coadd is not None]

    def _check_place(self, number: int, coadd: Coadd) -> None:
        """Refuse an image that does not lie where the brick's first image does."""
        geometry = self._geometry(number)
        height, width = geometry.shape
        if coadd.flux.shape != geometry.shape:
            raise ValueError(
                f"{coadd.where}: shape {coadd.flux.shape}, but {self.file_of(number)} has "
                f"{geometry.shape}; the bands of a brick must agree. Fetch them together"
            )
        assert coadd.header is not None, "read from a file"
        wcs = wcs_of(coadd.header, coadd.where)
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
        back = wcs.all_world2pix(geometry.wcs.all_pix2world(corners, 0), 0)
        if not np.abs(back - corners).max() < 0.01:
            raise ValueError(
                f"{coadd.where} lies {np.abs(back - corners).max():.3g} pixels off "
                f"{self.file_of(number)}; the bands of a brick must share their pixels. Fetch them "
                "together"
            )

    def _geometry_or_none(self, number: int) -> _Geometry | None:
        """Return where a brick lies, or note that this cannot be known."""
        name = self.names[number]
        if name in self.unreadable:
            return None
        try:
            return self._geometry(number)
        except (ValueError, OSError) as error:
            self.unreadable[name] = str(error)
            return None

    def _geometry(self, number: int) -> _Geometry:
        with self._lock:
            known = self._geometries.get(number)
            if known is None:
                known = self._read_geometry(number)
                self._geometries.put(number, known)
        return known

    def _read_geometry(self, number: int) -> _Geometry:
        path = self.file_of(number)
        header, _ = first_image(path, trusted=self.trusted)
        wcs = wcs_of(header, path)
        if abs(scale_of(wcs) / self.pixel_scale_arcsec - 1) > 0.01:
            raise ValueError(
                f"{path}: pixels of {scale_of(wcs):.4g} arcsec; those of {self.survey} have "
                f"{self.pixel_scale_arcsec}. It is no image of that survey, or was resampled"
            )
        shape = header["NAXIS2"], header["NAXIS1"]
        x, y = (np.array([0.5, 0.0, 0.0, 1.0, 1.0]), np.array([0.5, 0.0, 1.0, 0.0, 1.0]))
        sky = wcs.all_pix2world(x * shape[1] - 0.5, y * shape[0] - 0.5, 0)
        vectors = unit_vectors(*sky)
        radius = float(np.linalg.norm(vectors[1:] - vectors[0], axis=1).max())
        edges = [header.get(key) for key in ("RAMIN", "RAMAX", "DECMIN", "DECMAX")]
        bounds: Any = tuple(map(float, edges)) if None not in edges else None
        # A little more than the corners, for what is lost in rounding.
        return _Geometry(wcs, shape, vectors[0], radius * 1.0001, bounds)

    def _candidates(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs of position and brick that may belong together."""
        from scipy.spatial import cKDTree

        with self._lock:
            if self._tree is None:
                places = {number: self._place(number) for number in range(len(self))}
                known = {number: place for number, place in places.items() if place is not None}
                self._placed = np.array(list(known), dtype=np.int64)
                centres = [centre for centre, _ in known.values()]
                self._tree = cKDTree(np.array(centres).reshape(-1, 3))
                self._reach = max((reach for _, reach in known.values()), default=0.0)
        if not len(positions) or not len(self._placed):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        lists = self._tree.query_ball_point(positions, self._reach)
        lengths = np.array([len(some) for some in lists])
        rows = np.repeat(np.arange(len(positions)), lengths)
        return rows, self._placed[[number for some in lists for number in some]]

    def _place(self, number: int) -> tuple[np.ndarray, float] | None:
        """Return the centre of a brick and how far its pixels reach, from its name if possible."""
        brick = self._bricks[number]
        if brick.centre_deg is None:
            geometry = self._geometry_or_none(number)
            return None if geometry is None else (geometry.centre, geometry.radius)
        reach = 2.0 * np.sin(np.radians(brick.centre_error_deg) / 2.0)
        return unit_vectors(*np.array(brick.centre_deg)[:, None])[0], float(reach)
