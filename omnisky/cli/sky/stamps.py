"""Cut a list of positions out of images or out of a store, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from omnisky.cli.sky.sources import bricks_of
from omnisky.data.cutout import cut_out
from omnisky.data.positions import Places
from omnisky.data.sky import is_store
from omnisky.data.store import Source, Store, open_store
from omnisky.data.store.checksums import MANIFEST
from omnisky.modalities import Image, Observations, SkyObjects
from omnisky.surveys.coadds import windows
from omnisky.surveys.survey import Problems

__all__ = ["BrickCutter", "Cutter", "StoreCutter", "cutter_of"]

# Positions of a task, and those cut out at a time.
_TASK, _BATCH = 4096, 64
_MARKS = {"legacysurvey": "legacysurvey-*-image-*.fits*", "hsc": "*HSC-*.fits*"}


class Cutter(Protocol):
    """Cut positions out of something.

    Parameters
    ----------
    survey : str
        Whose images they are.
    bands : tuple of str
        Bands of the cut-outs.
    row_bytes : int
        Bytes of one cut-out with its inverse variances and mask.
    """

    @property
    def survey(self) -> str: ...
    @property
    def bands(self) -> tuple[str, ...]: ...
    @property
    def row_bytes(self) -> int: ...
    def pieces(self, places: Places) -> Iterator[Places]: ...
    def cut(self, places: Places, *, problems: Problems) -> Iterator[SkyObjects]: ...
    def sources(self, places: Places, table: Path) -> list[Source]: ...


@dataclass(frozen=True, kw_only=True)
class _Positions:
    """What both kinds share: positions in pieces, and these as tasks."""

    where: str
    size: int

    def order(self, places: Places) -> np.ndarray:
        """Return the order in which positions are cut out."""
        return np.arange(len(places))

    def pieces(self, places: Places, length: int = _BATCH) -> Iterator[Places]:
        """Yield positions in the order in which they are cut out, some at a time."""
        order = self.order(places)
        for start in range(0, len(order), length):
            yield places[order[start : start + length]]

    def sources(self, places: Places, table: Path) -> list[Source]:
        """Return the tasks that cut out all positions."""
        return [
            Source(
                name=f"{table}, piece {number} of its positions",
                read=partial(self.cut, piece),
                files=(table,),
            )
            for number, piece in enumerate(self.pieces(places, _TASK))
        ]

    def cut(self, places: Places, *, problems: Problems) -> Iterator[SkyObjects]:
        """Yield the cut-outs of some positions; those without one are problems."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class BrickCutter(_Positions):
    """Cut positions out of a folder of co-added images.

    Parameters
    ----------
    where : str
        The folder.
    survey : str
        Whose images they are.
    size : int
        Side of a cut-out in pixels.
    bands : tuple of str
        Bands, in order.
    missing_bands : {"error", "mask"}
        What to do where a brick has no image in a band.
    trusted : bool
        Whether images may be decoded in this process.
    command : int
        Tells this command from others.
    """

    survey: str
    bands: tuple[str, ...]
    missing_bands: Literal["error", "mask"] = "error"
    trusted: bool = False
    command: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one cut-out with its inverse variances and mask."""
        return 9 * len(self.bands) * self.size**2

    def order(self, places: Places) -> np.ndarray:
        """Return the order of the bricks."""
        return np.argsort(self._bricks().locate(places.ra_deg, places.dec_deg), kind="stable")

    def _bricks(self) -> Any:
        return bricks_of(self.where, self.survey, self.trusted, self.command)

    def cut(self, places: Places, *, problems: Problems) -> Iterator[SkyObjects]:
        """Yield the cut-outs of some positions; those without one are problems."""
        bricks = self._bricks()
        numbers = bricks.locate(places.ra_deg, places.dec_deg)
        for row in np.flatnonzero(numbers < 0).tolist():
            problems.report(
                self.where,
                None,
                f"position ({places.ra_deg[row]:.6f}, {places.dec_deg[row]:.6f}) lies in none of "
                f"the {len(bricks)} bricks",
                "Fetch the brick there, or leave the position out",
                object_id=places.object_id[row],
            )
        for number in np.unique(numbers[numbers >= 0]).tolist():
            here = np.flatnonzero(numbers == number)
            for start in range(0, len(here), _BATCH):
                some = places[here[start : start + _BATCH]]
                before = len(problems.found)
                sky = np.stack([some.ra_deg, some.dec_deg], axis=1)
                image = cut_out(
                    bricks,
                    sky,
                    self.size,
                    self.bands,
                    missing_bands=self.missing_bands,
                    problems=problems,
                )
                if len(problems.found) > before:
                    break  # the brick cannot be read, and one report is enough
                yield _objects(self.survey, f"{self.survey}_image", some, image)


@dataclass(frozen=True, kw_only=True)
class StoreCutter(_Positions):
    """Take the images of the nearest objects of a store.

    Parameters
    ----------
    where : str
        The store.
    size : int
        Side of a cut-out in pixels, at most that of the images.
    modality : str
        Modality of the images.
    wanted : tuple of str
        Bands, in order; all of them if empty.
    radius_arcsec : float
        Largest distance of an object from its position.
    """

    modality: str
    wanted: tuple[str, ...] = ()
    radius_arcsec: float = 1.0

    @property
    def _store(self) -> Store:
        return _opened(self.where)

    @property
    def survey(self) -> str:
        """Survey of the store."""
        return self._store.survey

    @cached_property
    def _layout(self) -> Any:
        return next(m for m in self._store.layout.modalities if m.name == self.modality)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the cut-outs."""
        return self.wanted or self._layout.bands

    @property
    def row_bytes(self) -> int:
        """Bytes of one cut-out with its inverse variances and mask."""
        return 9 * len(self.bands) * self.size**2

    def cut(self, places: Places, *, problems: Problems) -> Iterator[SkyObjects]:
        """Yield the images of the nearest objects; positions without one are problems."""
        from omnisky.data.match import match_coordinates

        ra, dec = _positions_of(self._store)
        pairs = match_coordinates(
            places.ra_deg, places.dec_deg, ra, dec, self.radius_arcsec, one_to_one=False
        )
        for row in np.setdiff1d(np.arange(len(places)), pairs.left).tolist():
            problems.report(
                self.where,
                None,
                f"no object within {self.radius_arcsec:g} arcsec of ({places.ra_deg[row]:.6f}, "
                f"{places.dec_deg[row]:.6f})",
                "Give a wider --radius-arcsec, or leave the position out",
                object_id=places.object_id[row],
            )
        for start in range(0, len(pairs.left), _BATCH):
            part = slice(start, start + _BATCH)
            objects = self._store.read(pairs.right[part], [self.modality])
            image = self._part(objects.observations[self.modality])
            # The image shows the object, so it has the object's position.
            who = places.object_id[pairs.left[part]]
            found = Places(who, objects.ra_deg, objects.dec_deg)
            yield _objects(self.survey, self.modality, found, image)

    def _part(self, image: Image) -> Image:
        """Return the bands and the middle that were asked for."""
        which = [image.bands.index(band) for band in self.bands]
        side = image.flux.shape[-1]
        flux, ivar, mask = (a[:, which] for a in (image.flux, image.ivar, image.mask))
        offsets = image.offset_pixels
        if self.size < side:
            place = (side - 1) / 2 + offsets.astype(np.float64)
            corners, offsets = windows(place[:, 0], place[:, 1], self.size)
            corners = corners.clip(0, side - self.size)
            flux, ivar, mask = (_windows(a, corners, self.size) for a in (flux, ivar, mask))
        psf = image.psf_fwhm_arcsec[:, which]
        return Image(flux, ivar, mask, self.bands, image.pixel_scale_arcsec, psf, offsets)


def _windows(plane: np.ndarray, corners: np.ndarray, size: int) -> np.ndarray:
    """Return a window of each row's image."""
    cut = [p[:, y : y + size, x : x + size] for p, (x, y) in zip(plane, corners, strict=True)]
    return np.stack(cut)


def _opened(path: str) -> Store:
    """Return a store, opened once in each process while it stays as it is."""
    if not is_store(path):
        return open_store(path)  # which says what is wrong
    return _kept(path, (Path(path) / MANIFEST).stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _kept(path: str, changed: int) -> Store:
    return open_store(path)


@lru_cache(maxsize=1)
def _positions_of(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of all objects of a store, read once in each process."""
    held = store.coordinates()
    return held["ra"], held["dec"]


def _objects(survey: str, modality: str, places: Places, image: Image) -> SkyObjects:
    return SkyObjects(
        survey=survey,
        object_id=places.object_id,
        ra_deg=places.ra_deg,
        dec_deg=places.dec_deg,
        observations=Observations({modality: image}),
    )


def cutter_of(
    where: Path,
    *,
    survey: str | None,
    size: int,
    bands: tuple[str, ...] | None,
    missing_bands: Literal["error", "mask"],
    radius_arcsec: float,
    trusted: bool,
) -> Cutter:
    """Return what cuts out of a store, or of a folder of images.

    Parameters
    ----------
    where : Path
        The store or folder.
    survey, size, bands, missing_bands, radius_arcsec, trusted
        As in `omnisky.cli.sky.cutout.cutout`.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it holds no images, or lacks a band, or images of a store are smaller than asked for.
    """
    if not where.is_dir():
        raise FileNotFoundError(f"no folder {where}; expected co-added images or a sky store")
    if is_store(where):
        cutter = _store_cutter(where, size, radius_arcsec)
        return replace(cutter, wanted=_checked(bands, cutter.bands, where))
    survey = survey or next((s for s, mark in _MARKS.items() if any(where.rglob(mark))), None)
    if survey is None:
        raise ValueError(
            f"{where} is no sky store and holds no co-added images; expected files such as "
            "legacysurvey-<brick>-image-<band>.fits.fz or calexp-HSC-<band>-<tract>-<patch>.fits"
        )
    command = time.time_ns()
    known = bricks_of(str(where), survey, trusted, command)
    return BrickCutter(
        where=str(where),
        size=size,
        survey=survey,
        bands=_checked(bands, known.bands, where),
        missing_bands=missing_bands,
        trusted=trusted,
        command=command,
    )


def _store_cutter(where: Path, size: int, radius_arcsec: float) -> StoreCutter:
    images = [m for m in _opened(str(where)).layout.modalities if m.kind == "image"]
    if len(images) != 1:
        found = ", ".join(m.name for m in images) or "none"
        raise ValueError(f"{where} must have one modality of images to cut out of; found {found}")
    if size > min(images[0].shape[-2:]):
        raise ValueError(
            f"--size {size}: the images of {where} have {images[0].shape[-2:]} pixels; ask for "
            "less, or cut out of the co-added images"
        )
    return StoreCutter(
        where=str(where), size=size, modality=images[0].name, radius_arcsec=radius_arcsec
    )


def _checked(asked: tuple[str, ...] | None, there: Sequence[str], where: Path) -> tuple[str, ...]:
    wrong = [band for band in asked or () if band not in there]
    if wrong or len(set(asked or ())) < len(asked or ()):
        raise ValueError(
            f"--bands: {where} has {', '.join(there)}, each to be named once; found "
            f"{', '.join(asked or ())}"
        )
    return tuple(asked or there)
