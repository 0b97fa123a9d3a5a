"""Cut objects out of a survey's co-added images: for a list of positions, or for a catalogue.

Objects are taken brick by brick, so that a compressed brick is decoded once; their positions are
transformed in one go. Nothing is resampled: a cut-out starts at a whole pixel and says by how much
its object is off the centre. What lies outside of a brick is masked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from omnisky.data.bricks import Bricks
from omnisky.modalities import Image, Observations, SkyObjects
from omnisky.surveys import hsc, legacysurvey
from omnisky.surveys.coadds import windows
from omnisky.surveys.survey import Problems, Selection

__all__ = ["cut_into", "cut_out", "read"]

_CATALOGS: dict[str, Callable[..., Iterator[SkyObjects]]] = {
    "legacysurvey": legacysurvey.read,
    "hsc": hsc.read,
}
_MissingBands = Literal["error", "mask"]


def cut_out(
    bricks: Bricks,
    positions: Any,
    size: int = 160,
    bands: Sequence[str] | None = None,
    *,
    psf_fwhm_arcsec: np.ndarray | None = None,
    missing_bands: _MissingBands = "error",
    problems: Problems | None = None,
) -> Image:
    """Cut out a list of positions.

    Parameters
    ----------
    bricks : Bricks
        The images.
    positions : SkyCoord, or array of shape (object, 2)
        Right ascension and declination, ICRS, in degrees if they are plain numbers.
    size : int
        Side of the cut-outs in pixels.
    bands : sequence of str, optional
        Bands, in order. Without it, all of the survey.
    psf_fwhm_arcsec : array, shape (object, band), optional
        Widths of the point-spread function, where they are known; zero where not. Those are taken
        from the survey's maps, if the folder holds them.
    missing_bands : {"error", "mask"}
        What to do where a brick has no image in a band.
    problems : Problems, optional
        Takes positions outside of all bricks, and bricks that cannot be read; without it the first
        one is raised.

    Returns
    -------
    Image
        One cut-out a position, in the order given. Those with a problem are masked altogether.

    Raises
    ------
    ValueError
        If a position is not on the sphere, or something has a problem and `problems` raises.
    """
    ra, dec = _degrees(positions)
    bands = tuple(bands or bricks.bands)
    problems = problems if problems is not None else Problems()
    numbers = bricks.locate(ra, dec)
    for row in np.flatnonzero(numbers < 0).tolist():
        problems.report(bricks.folder, row, *_outside(bricks, ra[row], dec[row]))
    flux, ivar, mask = _buffers(len(ra), len(bands), size)
    psf, offsets = np.zeros(mask.shape[:2]), np.zeros((len(ra), 2), dtype=np.float32)
    # Brick after brick, without copies: objects of one brick get neighbouring rows, and the rows
    # are put in the order of the positions at the end, if they are not in it already.
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    for number in np.unique(numbers[numbers >= 0]).tolist():
        rows = slice(*np.searchsorted(ordered, [number, number + 1]).tolist())
        here = order[rows]
        known = None if psf_fwhm_arcsec is None else psf_fwhm_arcsec[here]
        done = False
        with problems.whole_file(bricks.file_of(number)):
            pixels = bricks.pixels_of(number, ra[here], dec[here])
            psf[rows], offsets[rows] = cut_into(
                bricks,
                number,
                pixels,
                (flux[rows], ivar[rows] if bricks.ivar else None, mask[rows]),
                bands,
                psf_fwhm_arcsec=known,
                missing_bands=missing_bands,
            )
            done = True
        if not done:  # some bands may have been written before the damage was met
            flux[rows], ivar[rows], mask[rows] = 0.0, 0.0, False
    parts = [flux, ivar, mask, psf, offsets]
    if not np.array_equal(order, np.arange(len(order))):
        back = np.argsort(order)
        parts = [part[back] for part in parts]
    return _image(parts, bands, bricks.pixel_scale_arcsec)


def cut_into(
    bricks: Bricks,
    number: int,
    pixels: tuple[np.ndarray, np.ndarray],
    out: tuple[np.ndarray, np.ndarray | None, np.ndarray],
    bands: Sequence[str],
    *,
    psf_fwhm_arcsec: np.ndarray | None = None,
    missing_bands: _MissingBands = "error",
) -> tuple[np.ndarray, np.ndarray]:
    """Cut objects of one brick into buffers, which may be used again and again.

    Parameters
    ----------
    bricks : Bricks
        The images.
    number : int
        The brick.
    pixels : (array, array)
        Positions x and y in it, from 0, shape (object,).
    out : (array, array, array)
        Flux and inverse variance (float32) and mask (bool), shape (object, band, size, size). Every
        pixel is written; masked ones are 0. The second may be None if the bricks are read without
        noise.
    bands : sequence of str
        Bands, in order.
    psf_fwhm_arcsec, missing_bands
        As in `cut_out`.

    Returns
    -------
    psf_fwhm_arcsec : array of float32, shape (object, band)
        Widths of the point-spread function; zero where unknown.
    offset_pixels : array of float32, shape (object, 2)
        Position of each object relative to the centre of its cut-out, x then y.

    Raises
    ------
    ValueError
        If a band is missing, or the brick cannot be read.
    """
    flux, ivar, mask = out
    shapes = {part.shape for part in out if part is not None}
    if len(shapes) > 1 or flux.shape[1] != len(bands) or (ivar is None and bricks.ivar):
        raise ValueError(
            f"the buffers must have one shape (object, {len(bands)}, size, size), ivar may be None "
            f"for bricks without; found {', '.join(map(str, shapes))}"
        )
    x, y = pixels
    corners, offsets = windows(x, y, flux.shape[-1])
    psf = np.zeros(flux.shape[:2], dtype=np.float32)
    if psf_fwhm_arcsec is not None:
        psf[...] = np.where(np.isfinite(psf_fwhm_arcsec), psf_fwhm_arcsec, 0.0)
    place = {band: i for i, band in enumerate(bands)}
    for band in set(place) - set(bricks.bands_of(number)) if missing_bands == "mask" else ():
        i = place.pop(band)
        for part in (*out, psf):
            if part is not None:
                part[:, i] = 0
    unknown = psf == 0
    for band, coadd in bricks.coadds(number, tuple(place), psf=bool(unknown.any())):
        i = place[band]
        coadd.cut(corners, flux[:, i], None if ivar is None else ivar[:, i], mask[:, i])
        some = unknown[:, i]
        psf[some, i] = coadd.psf_at(x[some], y[some])
    return psf, offsets


def read(
    catalogs: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    images: Bricks | str | os.PathLike,
    survey: str = "legacysurvey",
    size: int = 160,
    bands: Sequence[str] | None = None,
    selection: str | Selection | Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
    without_image: Literal["problem", "keep"] = "problem",
    missing_bands: _MissingBands = "error",
    problems: Problems | None = None,
    batch_size: int = 64,
    trusted: bool = False,
    **options: Any,
) -> Iterator[SkyObjects]:
    """Read catalogues, each object with its cut-out.

    Parameters
    ----------
    catalogs : path or sequence of paths
        Tables of the survey.
    images : Bricks or path
        The images, or their folder.
    survey : {"legacysurvey", "hsc"}
        Whose tables and images they are, if `images` is a folder.
    size, bands, missing_bands
        As in `cut_out`.
    selection : str, Selection or callable, optional
        Which rows to keep, as the reader of the survey takes it.
    without_image : {"problem", "keep"}
        Whether an object outside of all bricks, or in one that cannot be read, is a problem and
        left out, or kept without an image.
    problems : Problems, optional
        Takes rows, files and objects with a problem; without it the first one is raised.
    batch_size : int
        Objects a batch, at most.
    trusted : bool
        Whether limits do not apply to the tables, and to the images if `images` is a folder.
    **options
        Others of the survey's reader, such as ``surroundings=True``.

    Yields
    ------
    SkyObjects
        Scalars of the catalogue and the image; the objects of each file brick by brick, and no
        batch from two bricks. What is held in memory does not grow with the files.

    Raises
    ------
    FileNotFoundError
        If a file or folder is not there.
    ValueError
        If something has a problem and `problems` raises.
    """
    bricks = (
        images if isinstance(images, Bricks) else Bricks(images, survey=survey, trusted=trusted)
    )
    problems = problems if problems is not None else Problems()
    bands = tuple(bands or bricks.bands)
    batches = _CATALOGS[bricks.survey](
        catalogs,
        selection=selection,
        problems=problems,
        batch_size=batch_size,
        group_by=bricks.locate,
        trusted=trusted,
        **options,
    )
    unreadable: set[int] = set()
    for objects in batches:
        number = int(bricks.locate(objects.ra_deg[:1], objects.dec_deg[:1])[0])
        image = None
        if number >= 0 and number not in unreadable:
            with problems.whole_file(bricks.file_of(number)):
                image = _image_of(bricks, number, objects, size, bands, missing_bands)
            if image is None:
                unreadable.add(number)  # one report is enough
        if number < 0 and without_image == "problem":
            for i, who in enumerate(objects.object_id):
                where = _outside(bricks, objects.ra_deg[i], objects.dec_deg[i])
                problems.report(bricks.folder, None, *where, object_id=who)
        if image is None and without_image == "problem":
            continue
        if image is None:
            image = _absent(len(objects), size, bands, bricks)
        name = f"{bricks.survey}_image"
        yield replace(objects, observations=Observations({**objects.observations, name: image}))


def _image_of(
    bricks: Bricks,
    number: int,
    objects: SkyObjects,
    size: int,
    bands: tuple[str, ...],
    missing_bands: _MissingBands,
) -> Image:
    """Cut out objects of one brick, with the widths of the PSF that the catalogue knows."""
    flux, ivar, mask = _buffers(len(objects), len(bands), size)
    widths = np.zeros(mask.shape[:2])
    for i, band in enumerate(bands):
        name = f"{bricks.survey}_psfsize_{band}"
        if name in objects.observations:
            widths[:, i] = objects.observations[name].value
    pixels = bricks.pixels_of(number, objects.ra_deg, objects.dec_deg)
    psf, offsets = cut_into(
        bricks,
        number,
        pixels,
        (flux, ivar if bricks.ivar else None, mask),
        bands,
        psf_fwhm_arcsec=widths,
        missing_bands=missing_bands,
    )
    return _image([flux, ivar, mask, psf, offsets], bands, bricks.pixel_scale_arcsec)


def _absent(count: int, size: int, bands: tuple[str, ...], bricks: Bricks) -> Image:
    flux, ivar, mask = _buffers(count, len(bands), size)
    return Image(flux, ivar, mask, bands, bricks.pixel_scale_arcsec)


def _buffers(count: int, bands: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (count, bands, size, size)
    return (
        np.zeros(shape, dtype=np.float32),
        np.zeros(shape, dtype=np.float32),
        np.zeros(shape, dtype=bool),
    )


def _image(parts: Sequence[np.ndarray], bands: tuple[str, ...], scale: float) -> Image:
    """Make an image of cut-outs, without the checks of its constructor.

    These copy every pixel several times, slower than all the rest. What they check holds for what
    `Coadd.cut` writes: finite where good, zero elsewhere, no negative inverse variance.
    """
    image = object.__new__(Image)
    flux, ivar, mask, psf, offsets = parts
    values = {
        "flux": flux,
        "ivar": ivar,
        "mask": mask,
        "bands": bands,
        "pixel_scale_arcsec": scale,
        "psf_fwhm_arcsec": psf.astype(np.float32),
        "offset_pixels": offsets.astype(np.float32),
    }
    for name, value in values.items():
        object.__setattr__(image, name, value)
    return image


def _outside(bricks: Bricks, ra: float, dec: float) -> tuple[str, str]:
    """Say that a position lies in no brick, and what to do."""
    reason = f"position ({ra:.6f}, {dec:.6f}) lies in none of the {len(bricks)} bricks"
    for name, error in bricks.unreadable.items():  # the first will do
        others = len(bricks.unreadable) - 1
        more = f" and {others} more" if others else ""
        return f"{reason}, but {name}{more} cannot be read: {error}", "Fetch it again"
    return reason, "Fetch the brick there, or leave the object out"


def _degrees(positions: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return right ascension and declination in degrees, checked."""
    if hasattr(positions, "icrs"):
        sky = positions.icrs
        positions = np.stack([np.atleast_1d(sky.ra.deg), np.atleast_1d(sky.dec.deg)], axis=1)
    array = np.asarray(positions, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            "positions must be a SkyCoord, or of shape (object, 2), right ascension and "
            f"declination in degrees; found shape {array.shape}"
        )
    ra, dec = array.T
    wrong = ~(np.isfinite(ra) & (np.abs(dec) <= 90))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"position {row} is ({ra[row]}, {dec[row]}); expected finite degrees, with a "
            "declination between -90 and 90"
        )
    return ra % 360.0 % 360.0, dec  # twice, since -1e-17 % 360 is 360
