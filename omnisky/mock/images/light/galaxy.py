"""Put a galaxy together: bulge, disk and young light, with dust in front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.mock.images.light import disturbed, structure
from omnisky.mock.images.light.profiles import Grid, Sersic, edge_on
from omnisky.mock.images.light.shape import ELLIPTICAL, IRREGULAR, MERGER, Shape

__all__ = ["Light", "draw_galaxy"]

BULGE, DISK, YOUNG = 0, 1, 2
# Below this ratio of scale length to the width of the PSF no structure in a disk can be seen.
_RESOLVED = 0.55
# Half-light radius of a disk, in widths of the PSF, from which its fine structure can be seen.
_FINE = 2.0
# Inclination from which a disk is drawn as a slab seen from its edge.
_EDGE_ON_DEG = 77.0


@dataclass(frozen=True, kw_only=True)
class Light:
    """Hold the light of a galaxy before the PSF.

    Parameters
    ----------
    smooth : tuple of (components, float, Sersic)
        Smooth parts: which of bulge (0), disk (1) and young light (2) they belong to, what share
        of the light of these they have, and their profile.
    planes : array of float32, shape (3, y, x), or None
        Other light of bulge, disk and young light in pixels, in units of the component's flux.
    dust : array of float32, shape (y, x), or None
        Optical depth in V of dust that dims `planes`.
    arms, bar : array of bool, shape (y, x), or None
        Where arms and bar are.
    """

    smooth: tuple[tuple[tuple[int, ...], float, Sersic], ...]
    planes: np.ndarray | None = None
    dust: np.ndarray | None = None
    arms: np.ndarray | None = None
    bar: np.ndarray | None = None


def draw_galaxy(
    shape: Shape, grid: Grid, *, fwhm_arcsec: float, random_knots: np.ndarray | None = None
) -> Light:
    """Draw the light of a galaxy.

    Parameters
    ----------
    shape : Shape
        What it looks like.
    grid : Grid
        Where the pixels are.
    fwhm_arcsec : float
        Width of the PSF: structure far below it is left out.
    random_knots : array, shape (knot, 4), optional
        Uniform numbers for knots of star formation in disks.
    """
    bulge = Sersic(re=shape.re_bulge, n=shape.n_bulge, q=shape.q_bulge, pa_deg=shape.pa)
    disk = Sersic(re=shape.re_disk, n=1.0, q=shape.q_disk, pa_deg=shape.pa)
    blurred = shape.re_disk / 1.678 < _RESOLVED * fwhm_arcsec
    if blurred or (shape.morphology == ELLIPTICAL and shape.tail_strength <= 0):
        return Light(smooth=(((BULGE,), 1.0, bulge), ((DISK, YOUNG), 1.0, disk)))
    if shape.morphology == ELLIPTICAL:
        share = 0.5 * min(shape.tail_strength, 0.6)
        planes = np.zeros((3, grid.size, grid.size), dtype=np.float32)
        planes[BULGE] = _scaled(disturbed.shells(shape, grid), share)
        return Light(
            smooth=(((BULGE,), 1 - share, bulge), ((DISK, YOUNG), 1.0, disk)), planes=planes
        )
    if shape.inclination > _EDGE_ON_DEG and shape.morphology != IRREGULAR:
        return _from_edge(shape, grid, bulge)
    fine = shape.re_disk > _FINE * fwhm_arcsec
    return _from_above(shape, grid, bulge, random_knots if fine else None, fine=fine)


def _scaled(light: np.ndarray, flux: float) -> np.ndarray:
    """Scale light in place to a total flux."""
    light *= np.float32(flux / max(float(light.sum()), 1e-30))
    return light


def _within(shape: Shape, grid: Grid) -> float:
    """Return about which share of an exponential disk lies in a stamp; one for nearly all."""
    wide = shape.re_disk / 1.678 * (0.4 + 0.6 * shape.q_disk)
    x = grid.size / 2 * grid.scale / wide
    return float(1 - (1 + x) * np.exp(-x))


def _add_tails(shape: Shape, grid: Grid, planes: np.ndarray) -> None:
    """Move light of disk and young stars to tails, in place."""
    if shape.tail_strength <= 0:
        return
    t = np.float32(min(shape.tail_strength, 0.6))
    tail = _scaled(disturbed.tails(shape, grid), _within(shape, grid))
    planes[DISK] += t * (tail - planes[DISK])
    planes[YOUNG] += np.float32(0.7) * t * (tail - planes[YOUNG])


def _from_edge(shape: Shape, grid: Grid, bulge: Sersic) -> Light:
    """Draw a disk seen from its edge, thinner in young light, with a dust lane."""
    d, length = shape.detail, shape.re_disk / 1.678
    # Half the light of sech^2 is within 0.549 z0; along the plane, within 0.94 of the length.
    height = max(shape.q_disk, 0.09) * length * 0.94 / 0.549 * 0.75
    u, v = grid.along(shape.pa)
    step = np.float32(30 / length)
    clouds = structure.sample("clouds", u * step, v * (2 * step), (d[12], d[13]))
    planes = np.zeros((3, grid.size, grid.size), dtype=np.float32)
    planes[DISK] = edge_on(grid, length=length, height=height, pa_deg=shape.pa)
    young = edge_on(grid, length=1.15 * length, height=0.5 * height, pa_deg=shape.pa)
    whole = float(young.sum())
    planes[YOUNG] = _scaled(young * np.exp(np.float32(0.55) * clouds), whole)
    _add_tails(shape, grid, planes)
    # Half of a bulge that pixels can show is behind the lane.
    behind = 0.5 if shape.re_bulge * shape.q_bulge > 1.5 * grid.scale else 0.0
    if behind:
        planes[BULGE] = _scaled(bulge.pixels(grid, 1), behind)
    # The lane lies on the near side of a disk that is not quite seen from its edge, and is warped.
    side = 1 if d[42] < 0.5 else -1
    off = np.float32((90 - min(shape.inclination, 90)) / 13 * 0.5 * side * height)
    bend = np.float32(0.2 * height) * np.real(structure.sample("swells", u * step, v, (d[0], d[1])))
    z = (v - off - bend) * np.float32(1 / (0.3 * height + 0.03 * length))
    depth = np.float32(1.6 * max(shape.dust_lane, 0.6 * shape.a_v))
    lane = depth * np.exp(np.abs(u) * np.float32(-1 / (1.8 * length)) - z * z)
    lane *= np.exp(np.float32(0.5) * clouds)
    return Light(smooth=(((BULGE,), 1 - behind, bulge),), planes=planes, dust=lane)


def _from_above(
    shape: Shape, grid: Grid, bulge: Sersic, random_knots: np.ndarray | None, *, fine: bool
) -> Light:
    """Draw a disk that is not seen from its edge, with the structure in its plane.

    Clumps, knots and dust are drawn only where they are `fine` enough to be seen.
    """
    plane = structure.plane_of(shape, grid)
    within = _within(shape, grid)
    planes = np.zeros((3, grid.size, grid.size), dtype=np.float32)
    smooth = (((BULGE,), 1.0, bulge),)
    if shape.morphology == IRREGULAR:
        old, young = disturbed.irregular(shape, plane)
        if random_knots is not None and len(random_knots):
            share = 0.08 + 0.22 * min(max(shape.clumpiness, 0.0), 1.0)
            young = _mix(young, structure.knots(shape, grid, random_knots), share)
        planes[DISK], planes[YOUNG] = _scaled(old, within), _scaled(young, within)
        depth = structure.dust(shape, plane, None) if fine else None
        return Light(smooth=smooth, planes=planes, dust=depth)
    pattern = structure.arms(shape, plane)
    a = np.float32(min(max(1.25 * shape.arm_contrast, 0.12), 1.0)) * pattern.envelope
    modulation = a * (pattern.pattern - 1)
    disk = _scaled(structure.old_disk(shape, plane, modulation), within)
    young = structure.young_disk(shape, plane, modulation, clumpy=fine)
    bar_mask, arm_mask = None, None
    if shape.bar_length > 0 and shape.bar_strength > 0:
        light, bar_mask = structure.bar(shape, plane)
        disk = _mix(disk, light, shape.bar_strength)
    if shape.ring_radius > 0 and shape.ring_strength > 0:
        light = structure.ring(shape, plane)
        disk = _mix(disk, light, shape.ring_strength)
        young = _mix(young, light, min(2 * shape.ring_strength, 0.7))
    if random_knots is not None and len(random_knots):
        share = 0.03 + 0.10 * float(shape.detail[43])
        young = _mix(young, structure.knots(shape, grid, random_knots), share)
    planes[DISK], planes[YOUNG] = disk, _scaled(young, within)
    if shape.n_arms:
        arm_mask = (pattern.ridge > 0.6) & (pattern.envelope > 0.4)
    if shape.morphology == MERGER:
        _add_tails(shape, grid, planes)
    depth = structure.dust(shape, plane, pattern) if fine else None
    return Light(smooth=smooth, planes=planes, dust=depth, arms=arm_mask, bar=bar_mask)


def _mix(disk: np.ndarray, light: np.ndarray, share: float) -> np.ndarray:
    """Give a share of the disk's light to a part of it."""
    whole = float(disk.sum())
    return disk * np.float32(1 - share) + _scaled(light, whole * share)
