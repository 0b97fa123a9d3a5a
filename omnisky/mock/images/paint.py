"""Paint a galaxy into a frame: its light in each band, dimmed by dust, through the PSF."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from omnisky.mock import seeds
from omnisky.mock.images.frame import Frame, point_size
from omnisky.mock.images.light import DISK, Grid, Light, Shape, draw_galaxy, sersic_norm
from omnisky.mock.images.psf import see, stamp_size

__all__ = ["paint_galaxy"]

# Attenuation over that in V at the effective wavelengths of g, r, i, z, y, for R_V = 3.1; Cardelli,
# Clayton & Mathis (1989), eqs. 2 and 3.
_DUST = {"g": 1.19, "r": 0.86, "i": 0.66, "z": 0.48, "y": 0.43}
_EDGE = 0.15

Source = tuple[Callable[[Grid], np.ndarray], np.ndarray]


def paint_galaxy(
    frame: Frame,
    at: tuple[float, float],
    shape: Shape,
    fluxes: np.ndarray,
    key: tuple[int, int],
    *,
    source: Source | None = None,
    knots: str = "images/knots",
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Add a galaxy to a frame.

    Parameters
    ----------
    frame : Frame
        Where to.
    at : (float, float)
        Pixel x, y.
    shape : Shape
        What it looks like.
    fluxes : array, shape (3, band) or (4, band)
        Fluxes of bulge, disk and young light as observed: dust changes where light comes from, not
        how much. A fourth is of a point in the middle, which no dust dims further.
    key : (int, int)
        Seed and number of the object.
    source : (callable, array of shape (band,)), optional
        Draws a lensed source of unit flux on a grid; and its fluxes.
    knots : str
        Purpose of the random numbers of knots; empty for none.

    Returns
    -------
    arm_mask, bar_mask : array of bool, shape (y, x), or None
        In the frame; None if it keeps no maps.
    """
    scale = frame.instrument.pixel_scale_arcsec
    widest = max(psf.fwhm_arcsec for psf in frame.conditions.psfs)
    sharpest = min(psf.fwhm_arcsec for psf in frame.conditions.psfs)
    wanted = (_extent(frame, shape, fluxes) + widest) / scale
    size = max(
        stamp_size(2 * wanted, frame.largest),
        point_size(0.5 * fluxes.sum(axis=0), frame.conditions, frame.instrument, frame.largest),
    )
    if source is not None:
        size = max(size, stamp_size(64, frame.largest))
    grid, corner = frame.grid(at, size)
    random = _random_knots(shape, key, knots, sharpest)
    light = draw_galaxy(shape, grid, fwhm_arcsec=sharpest, random_knots=random)
    planes, parts, transforms = _in_bands(frame, grid, light, fluxes)
    if source is not None:
        images = source[0](grid)
        planes = 0 if planes is None else planes
        planes = planes + source[1].astype(np.float32)[:, None, None] * images
    image = see(frame.conditions.psfs, grid, planes=planes, fluxes=parts, smooth=transforms)
    frame.add(image, corner)
    if not frame.maps:
        return None, None
    return frame.mask_of(light.arms, corner), frame.mask_of(light.bar, corner)


def _random_knots(
    shape: Shape, key: tuple[int, int], purpose: str, sharpest: float
) -> np.ndarray | None:
    """Return uniform numbers of the knots of a disk that is large enough to show them."""
    if not purpose or shape.re_disk < 2 * sharpest:
        return None
    n = 30 + int(110 * shape.detail[44] ** 2)
    (u,) = seeds.uniforms(key[0], np.array([key[1]]), purpose, 4 * n)
    return u.reshape(n, 4)


def _extent(frame: Frame, shape: Shape, fluxes: np.ndarray) -> float:
    """Return the radius, arcsec, at which a galaxy falls far below the noise of all bands."""
    sigma = np.array(frame.conditions.sigma)
    scale = frame.instrument.pixel_scale_arcsec
    excess = (fluxes / sigma).max(axis=1)
    radius = 0.0
    disk = float(excess[1] + excess[2])
    tail = 3.0 if shape.tail_strength > 0 else 1.0
    # Disks end (see `structure.old_disk`); those of irregular and disturbed galaxies are warped.
    end = 6.5 if shape.morphology == DISK else 8.5
    for light, re, n, q in (
        (float(excess[0]), shape.re_bulge, shape.n_bulge, shape.q_bulge),
        (disk, shape.re_disk, 1.0, shape.q_disk),
    ):
        b, norm = sersic_norm(round(n, 4))
        ratio = light * norm * scale**2 / (re * re * q) / _EDGE
        if ratio > 1:
            found = re * (np.log(ratio) / b) ** n
            found = min(found, end * re / 1.678) if n == 1.0 else found
            radius = max(radius, found, re * tail)
    return radius


def _in_bands(
    frame: Frame, grid: Grid, light: Light, fluxes: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray, list[np.ndarray | None]]:
    """Return light in pixels (band, y, x), and fluxes (part, band) and transforms of the rest."""
    planes = None if light.planes is None else _dimmed(frame, light.planes, light.dust, fluxes[:3])
    parts, transforms = [], []
    for components, share, profile in light.smooth:
        flux = share * fluxes[list(components)].sum(axis=0)
        if not flux.any():
            continue
        split = profile.split(grid)
        if split is not None:
            pixels = profile.pixels(grid, split)
            added = flux.astype(np.float32)[:, None, None] * pixels
            planes = added if planes is None else np.add(planes, added, out=planes)
        parts.append(flux)
        transforms.append(profile.transform(grid, split))
    for point in fluxes[3:]:
        parts.append(point)
        transforms.append(None)
    if planes is None and not parts:  # no light at all
        planes = np.zeros((len(frame.instrument.bands), grid.size, grid.size), dtype=np.float32)
    return planes, np.array(parts), transforms


def _dimmed(
    frame: Frame, planes: np.ndarray, dust: np.ndarray | None, fluxes: np.ndarray
) -> np.ndarray:
    """Return light of all components behind dust in each band, shape (band, y, x), float32.

    Each component keeps its flux, which is the one observed.
    """
    components, rows, columns = planes.shape
    flat = planes.reshape(components, -1)
    bands = frame.instrument.bands
    if dust is None:
        return (fluxes.T.astype(np.float32) @ flat).reshape(len(bands), rows, columns)
    whole = flat.sum(axis=1)
    out = np.empty((len(bands), rows * columns), dtype=np.float32)
    depth = dust.reshape(-1)
    for band, name in enumerate(bands):
        left = np.exp(depth * np.float32(-_DUST[name]))
        scaled = fluxes[:, band] * whole / np.maximum(flat @ left, 1e-30)
        np.matmul(scaled.astype(np.float32), flat, out=out[band])
        out[band] *= left
    return out.reshape(len(bands), rows, columns)
