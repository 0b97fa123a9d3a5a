"""Stamps of objects in the pixels of a survey's mosaic: where they lie, and how they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from omnisky.mock.native.grid import BRICKS, PATCHES
from omnisky.mock.native.mosaic import Canvas

if TYPE_CHECKING:
    from omnisky.mock.images import ImageModel
    from omnisky.mock.native.grid import Grid
    from omnisky.mock.native.rows import Instruments
    from omnisky.mock.truth import Truth
    from omnisky.modalities import Image, SkyObjects

__all__ = ["Place", "Stamps", "draw", "place_in", "sky_level", "taken", "with_images"]

# Where a stamp gives way to that of another object grows with the size of the object: arcsec that
# are added to its half-light radius.
_SOFTENING_ARCSEC = 2.0
_GRIDS = {"legacysurvey": BRICKS, "hsc": PATCHES}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Say where the stamps of some objects lie.

    Parameters
    ----------
    piece : array of int, shape (object,)
        Number of the brick or patch.
    corner : array of int, shape (object, 2)
        First pixel of the stamp in it, x then y.
    offset : array of float32, shape (object, 2)
        Catalogued position in the stamp, relative to its centre at (size - 1) / 2; in (-0.5, 0.5].
    true_offset : array, shape (object, 2)
        True position in the stamp, relative to its centre.
    """

    piece: np.ndarray
    corner: np.ndarray
    offset: np.ndarray
    true_offset: np.ndarray

    def __getitem__(self, index) -> Place:
        return Place(
            piece=self.piece[index],
            corner=self.corner[index],
            offset=self.offset[index],
            true_offset=self.true_offset[index],
        )


def place_in(
    grid: Grid,
    catalogued: tuple[np.ndarray, np.ndarray],
    true: tuple[np.ndarray, np.ndarray],
    size: int,
) -> Place:
    """Place stamps in the pixels of a mosaic, as the cut-outs that readers make of it.

    Parameters
    ----------
    grid : Grid
        The mosaic.
    catalogued : (array, array)
        Right ascensions and declinations in the survey's catalogue, degrees, shape (object,).
    true : (array, array)
        Those where the light is.
    size : int
        Side of the stamps in pixels.
    """
    from omnisky.surveys.coadds import windows

    piece = grid.locate(*catalogued)
    pixels = np.zeros((2, len(piece), 2))
    for number in np.unique(piece).tolist():
        here = piece == number
        known = grid.piece(number)
        for which, (ra, dec) in enumerate((catalogued, true)):
            pixels[which, here] = known.pixels(ra[here], dec[here])
    corner, offset = windows(pixels[0, :, 0], pixels[0, :, 1], size)
    true_offset = pixels[1] - corner - (size - 1) / 2
    return Place(piece=piece, corner=corner, offset=offset, true_offset=true_offset)


@dataclass(frozen=True, kw_only=True)
class Stamps:
    """Hold the stamps of some objects, as an instrument sees them.

    Parameters
    ----------
    flux, ivar : array of float32, shape (object, band, y, x)
        Nanomaggies a pixel and inverse variances; zero where the mask is False.
    mask : array of bool, shape (object, band, y, x)
        True where good.
    psf_fwhm_arcsec : array, shape (object, band)
        Widths of the point-spread function.
    place : Place
        Where they lie.
    radius_arcsec : array, shape (object,)
        Half-light radii, zero for points.
    bands : tuple of str
        Names of the bands.
    pixel_scale_arcsec : float
        Side of a pixel.
    bad : tuple of array of float32, or None, shape (object,)
        What the detector gave in the masked pixels of each object; None where there are none.
    """

    flux: np.ndarray
    ivar: np.ndarray
    mask: np.ndarray
    psf_fwhm_arcsec: np.ndarray
    place: Place
    radius_arcsec: np.ndarray
    bands: tuple[str, ...]
    pixel_scale_arcsec: float
    bad: tuple[np.ndarray | None, ...]

    def __len__(self) -> int:
        return len(self.flux)

    def __getitem__(self, index) -> Stamps:
        parts = ("flux", "ivar", "mask", "psf_fwhm_arcsec", "place", "radius_arcsec")
        some = {name: getattr(self, name)[index] for name in parts}
        rows = np.arange(len(self))[index].tolist()
        return replace(self, bad=tuple(self.bad[i] for i in rows), **some)

    def measured(self, i: int) -> np.ndarray:
        """Return the flux of one object as the detector gave it, shape (band, y, x)."""
        flux, bad = self.flux[i], self.bad[i]
        if bad is not None:
            flux = flux.copy()
            flux[~self.mask[i]] = bad
        return flux

    def plus(self, other: Stamps) -> Stamps:
        """Return these stamps and others of the same instrument after them."""
        parts = ("flux", "ivar", "mask", "psf_fwhm_arcsec", "radius_arcsec")
        joined = {k: np.concatenate([getattr(self, k), getattr(other, k)]) for k in parts}
        place = {
            k: np.concatenate([getattr(self.place, k), getattr(other.place, k)])
            for k in ("piece", "corner", "offset", "true_offset")
        }
        return replace(self, place=Place(**place), bad=self.bad + other.bad, **joined)

    def behind(self) -> Stamps:
        """Return stamps that give way to others of the same objects where they overlap."""
        return replace(self, radius_arcsec=0.9 * self.radius_arcsec - 0.1)

    def image(self, psf_fwhm_arcsec: np.ndarray) -> Image:
        """Return them as a typed image.

        Parameters
        ----------
        psf_fwhm_arcsec : array, shape (object, band)
            Widths of the point-spread function that the catalogue tells.

        Notes
        -----
        Made without the checks of `Image`, which copy each pixel several times: what they check is
        true of stamps.
        """
        from omnisky.modalities import Image

        image = object.__new__(Image)
        values = {
            "flux": self.flux,
            "ivar": self.ivar,
            "mask": self.mask,
            "bands": self.bands,
            "pixel_scale_arcsec": self.pixel_scale_arcsec,
            "psf_fwhm_arcsec": np.asarray(psf_fwhm_arcsec).astype(np.float32),
            "offset_pixels": self.place.offset.astype(np.float32),
        }
        for name, value in values.items():
            object.__setattr__(image, name, value)
        return image


def with_images(found: SkyObjects, stamps: Stamps | None) -> SkyObjects:
    """Return catalogued objects with their images, whose PSF is as wide as the catalogue says."""
    from omnisky.modalities import Observations

    if stamps is None:
        return found
    survey, seen = found.survey, found.observations
    known = [seen[f"{survey}_psfsize_{band}"].value for band in stamps.bands]
    image = stamps.image(np.stack(known, axis=1))
    return replace(found, observations=Observations({**seen, f"{survey}_image": image}))


def taken(
    instruments: Instruments,
    survey: str,
    catalogued: tuple[np.ndarray, np.ndarray],
    year: np.ndarray | float,
    scene: tuple[Truth, np.ndarray],
) -> Stamps:
    """Take the images of some objects of a survey.

    Parameters
    ----------
    instruments : Instruments
        The models of the universe.
    survey : str
        An imaging survey.
    catalogued : (array, array)
        Right ascensions and declinations in its catalogue, degrees, shape (object,).
    year : array, shape (object,), or float
        When it looked.
    scene : (Truth, array)
        What is there, and its fluxes (object, component, band) in nanomaggies.
    """
    from omnisky.mock.population.catalogs.measure import moved

    truth, fluxes = scene
    place = place_in(_GRIDS[survey], catalogued, moved(truth, year), instruments.size)
    return _rendered(instruments.images(survey), truth, fluxes, place, instruments.size)


def _rendered(
    model: ImageModel, truth: Truth, fluxes: np.ndarray, place: Place, size: int
) -> Stamps:
    from omnisky.mock.truth import GALAXY

    bands = model.instrument.bands
    shape = (len(truth), len(bands), size, size)
    flux, ivar = (np.empty(shape, dtype=np.float32) for _ in range(2))
    mask = np.empty(shape, dtype=bool)
    psf = np.empty(shape[:2])
    bad: list[np.ndarray | None] = [None] * len(truth)
    for i in range(len(truth)):
        x, y = place.true_offset[i].tolist()
        result = model.render(truth[i : i + 1], fluxes[i], size=size, offset=(x, y), maps=False)
        flux[i], ivar[i], mask[i], psf[i] = result.flux, result.ivar, result.mask, result.psf_fwhm
        if not result.mask.all():
            wrong = ~result.mask
            bad[i] = result.flux[wrong]
            flux[i][wrong] = 0.0
            ivar[i][wrong] = 0.0
    return Stamps(
        flux=flux,
        ivar=ivar,
        mask=mask,
        psf_fwhm_arcsec=psf,
        place=place,
        radius_arcsec=np.where(truth["kind"] == GALAXY, np.nan_to_num(truth["re_disk"]), 0.0),
        bands=bands,
        pixel_scale_arcsec=model.instrument.pixel_scale_arcsec,
        bad=tuple(bad),
    )


def draw(stamps: Stamps, canvas: Canvas, planes: Callable[[int], Mapping[str, np.ndarray]]) -> None:
    """Draw stamps into a piece; where they overlap, each pixel is that of the nearest object.

    Parameters
    ----------
    stamps : Stamps
        All of one piece.
    canvas : Canvas
        Where to.
    planes : callable
        Takes the number of a stamp, returns its planes.
    """
    size = stamps.flux.shape[-1]
    grid = np.arange(size) - (size - 1) / 2
    for i in range(len(stamps)):
        x, y = stamps.place.true_offset[i]
        distance = np.hypot(grid[None, :] - x, grid[:, None] - y)
        scale = stamps.pixel_scale_arcsec / (_SOFTENING_ARCSEC + stamps.radius_arcsec[i])
        corner = stamps.place.corner[i].tolist()
        canvas.draw((corner[0], corner[1]), planes(i), (distance * scale).astype(np.float32))


def sky_level(stamps: Stamps, band: int) -> float:
    """Return the inverse variance of the sky in the deepest of some stamps."""
    some = stamps.ivar[:, band, ::4, ::4]
    good = stamps.mask[:, band, ::4, ::4]
    levels = [float(np.median(v[g])) for v, g in zip(some, good, strict=True) if g.any()]
    return max([level for level in levels if level > 0], default=1.0)
