"""Arms, bars, rings, knots and dust in the plane of a disk."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from omnisky.mock.images.light.profiles import Grid
from omnisky.mock.images.light.shape import Shape
from omnisky.mock.images.light.textures import sample

__all__ = ["Plane", "arms", "bar", "dust", "knots", "old_disk", "plane_of", "ring", "young_disk"]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Hold coordinates in the plane of a disk; arrays of float32, shape (y, x).

    Parameters
    ----------
    x, y : array
        Arcsec along the major axis and across it, corrected for the inclination.
    r : array
        Distance from the centre, arcsec.
    length : float
        Scale length of the disk, arcsec.
    """

    x: np.ndarray
    y: np.ndarray
    r: np.ndarray
    length: float


def plane_of(shape: Shape, grid: Grid) -> Plane:
    """Return coordinates in the plane of a disk; irregular and disturbed ones are warped."""
    x, y = grid.along(shape.pa)
    y = y * np.float32(1 / shape.q_disk)
    length = shape.re_disk / 1.678
    warp = {2: 0.3, 3: 0.35}.get(int(shape.morphology), 0.08) * length
    d = shape.detail
    step = np.float32(26 / length)
    waves = sample("swells", x * step, y * step, (d[0], d[1]))
    waves *= np.float32(warp)
    x += np.real(waves)
    y += np.imag(waves)
    return Plane(x=x, y=y, r=np.sqrt(x * x + y * y), length=length)


@dataclass(frozen=True, kw_only=True)
class Arms:
    """Hold the pattern of arms; arrays of float32, shape (y, x).

    Parameters
    ----------
    pattern : array
        Light over its mean along a circle.
    envelope : array
        Where arms exist, 0 to 1.
    ridge : array
        Smooth arms alone, 1 on their crests.
    cosine, sine : array
        Of the angle in the unwound disk.
    log_r : array
        Logarithm of the radius in scale lengths.
    """

    pattern: np.ndarray
    envelope: np.ndarray
    ridge: np.ndarray
    cosine: np.ndarray
    sine: np.ndarray
    log_r: np.ndarray


def arms(shape: Shape, plane: Plane) -> Arms:
    """Wind a pattern of arms and flocculent patches up a logarithmic spiral.

    Arms lie at phi = phase + winding ln(r / h) / tan(pitch) (e.g. Binney & Tremaine 2008, sect.
    6.1.2), with wiggles. Patches are a texture in the unwound disk, stretched along radius, so that
    they trail like arms.
    """
    d, h = shape.detail, plane.length
    inner = max(0.85 * shape.bar_length, 0.45 * h)
    scaled = plane.r * np.float32(1 / h) + np.float32(0.02)
    log_r = np.log(scaled)
    cotangent = shape.winding / np.tan(np.radians(min(max(shape.arm_pitch, 4.0), 60.0)))
    step = np.float32(28 / h)
    wiggle = np.real(sample("swells", plane.x * step, plane.y * step, (d[4], d[5])))
    angle = np.float32(cotangent) * log_r + np.float32(np.radians(shape.arm_phase))
    angle += np.float32(0.16 + 0.2 * d[6]) * wiggle
    wound_c, wound_s = np.cos(angle), np.sin(angle)
    inverse = 1 / (plane.r + np.float32(1e-6))
    c, s = plane.x * inverse, plane.y * inverse
    cosine, sine = c * wound_c + s * wound_s, s * wound_c - c * wound_s
    envelope = _envelope(plane.r, inner, (3.2 + d[7]) * h)
    ridge = _ridge(shape, cosine, sine)
    patches = _patches(shape, cosine, sine, log_r)
    f = min(max(shape.flocculence, 0.0), 1.0) if shape.n_arms else 1.0
    pattern = np.float32(1 - f) * ridge * (0.45 + 0.55 * patches) + np.float32(f) * patches
    pattern *= np.float32(1 / max(float(pattern.mean()), 1e-3))
    return Arms(
        pattern=pattern, envelope=envelope, ridge=ridge, cosine=cosine, sine=sine, log_r=log_r
    )


def _envelope(r: np.ndarray, inner: float, outer: float) -> np.ndarray:
    """Return where arms exist: from an inner radius, smoothly, to an outer one."""
    out = r * np.float32(1 / outer)
    out *= out
    out *= out
    rise = r * np.float32(1 / inner)
    rise *= rise
    rise *= rise
    return rise / ((1 + rise) * (1 + out))


def _ridge(shape: Shape, cosine: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Return smooth arms, 1 on their crests: exp(k (cos(m angle) - 1)), of unequal strength."""
    m = int(shape.n_arms)
    if m < 1:
        return np.ones_like(cosine)
    c, s = cosine, sine
    for _ in range(m - 1):
        c, s = c * cosine - s * sine, s * cosine + c * sine
    d = shape.detail
    ridge = np.exp(np.float32(1.6 + 2.2 * d[8]) * (c - 1))
    turn = 2 * np.pi * d[9]
    uneven = np.float32(0.3 * d[10])
    lopsided = np.float32(np.cos(turn)) * cosine + np.float32(np.sin(turn)) * sine
    return ridge * (1 + uneven * lopsided)


def _patches(shape: Shape, cosine: np.ndarray, sine: np.ndarray, log_r: np.ndarray) -> np.ndarray:
    """Return trailing patches: lognormal, mean 1."""
    d = shape.detail
    around = np.float32(26 + 22 * d[11]) + 14 * log_r
    field = sample("clouds", around * cosine, around * sine, (d[12], d[13]))
    width = np.float32(0.75)
    return np.exp(width * field - width * width / 2)


def old_disk(shape: Shape, plane: Plane, modulation: np.ndarray) -> np.ndarray:
    """Return the old disk: exponential, modulated by half as much as the young one, and ended.

    Disks end, most with a steeper slope beyond three to four scale lengths (Pohlen & Trujillo
    2006); beside a bar they are empty.
    """
    disk = np.exp(plane.r * np.float32(-1 / plane.length))
    disk *= 1 + np.float32(0.5) * modulation
    end = plane.r * np.float32(1 / ((3.2 + 1.5 * shape.detail[23]) * plane.length))
    end *= end
    disk /= 1 + end * end
    if shape.bar_length > 0:
        near = plane.r * np.float32(1 / shape.bar_length)
        near *= near
        disk *= 1 - np.float32(min(2.0 * shape.bar_strength, 0.6)) * np.exp(-near * near)
    return disk


def young_disk(shape: Shape, plane: Plane, modulation: np.ndarray, *, clumpy: bool) -> np.ndarray:
    """Return the young disk: wider, with a hole, in arms and clumps."""
    young = np.exp(plane.r * np.float32(-1 / (1.25 * plane.length)))
    hole = min(0.15 + shape.bar_strength, 0.8)
    young *= 1 - np.float32(hole) * np.exp(plane.r * np.float32(-1.4 / plane.length))
    young *= 1 + modulation
    if clumpy:
        young *= clumps(shape, plane, 0.55)
    return young


def bar(shape: Shape, plane: Plane) -> tuple[np.ndarray, np.ndarray]:
    """Return a bar of unit mean and where it is, both of shape (y, x).

    A boxy ellipse of nearly constant brightness with soft ends, as bars of early spirals are
    (Elmegreen & Elmegreen 1985).
    """
    angle = np.radians(shape.bar_angle)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    thin = 0.2 + 0.2 * shape.detail[14]
    along = (plane.x * c + plane.y * s) * np.float32(1 / shape.bar_length)
    across = (plane.y * c - plane.x * s) * np.float32(1 / (thin * shape.bar_length))
    along *= along
    across *= across
    inside = along**2 + across**2 + np.float32(0.6) * along * across
    light = np.exp(np.float32(-1.3) * inside) * (1 + np.exp(np.float32(-3) * along))
    return light, inside < 1


def ring(shape: Shape, plane: Plane) -> np.ndarray:
    """Return a ring with patches, shape (y, x)."""
    d = shape.detail
    width = (0.10 + 0.12 * d[15]) * shape.ring_radius
    off = (plane.r - np.float32(shape.ring_radius)) * np.float32(1 / width)
    step = np.float32(30 / shape.ring_radius)
    patches = sample("clouds", plane.x * step, plane.y * step, (d[16], d[17]))
    return np.exp(-off * off) * np.exp(np.float32(0.35) * patches)


def clumps(shape: Shape, plane: Plane, strength: float) -> np.ndarray:
    """Return a lognormal field of clumps of mean 1, a tenth of a scale length in size."""
    d = shape.detail
    step = np.float32(34 / plane.length)
    field = sample("clumps", plane.x * step, plane.y * step, (d[18], d[19]))
    return np.exp(np.float32(strength) * field - np.float32(strength**2 / 2))


def knots(shape: Shape, grid: Grid, random: np.ndarray) -> np.ndarray:
    """Return star-forming knots, point-like on their pixels, of unit total flux, shape (y, x).

    Luminosities follow dN/dL ~ L^-2 over two decades (H II regions; Kennicutt, Edgar & Hodge 1989);
    places follow the arms, or the disk where there are none.

    Parameters
    ----------
    shape : Shape
        The galaxy.
    grid : Grid
        Where the pixels are.
    random : array, shape (knot, 4)
        Uniform numbers.
    """
    h = shape.re_disk / 1.678
    radius = h * (0.4 + 2.6 * random[:, 0])
    angle = 2 * np.pi * random[:, 1]
    if shape.n_arms:
        pitch = np.radians(min(max(shape.arm_pitch, 4.0), 60.0))
        arm = np.floor(random[:, 1] * shape.n_arms) / shape.n_arms * 2 * np.pi
        wound = shape.winding * np.log(radius / h + 0.02) / np.tan(pitch)
        spread = (0.12 + 0.5 * shape.flocculence) * (2 * random[:, 2] - 1) * 2 / shape.n_arms
        angle = np.radians(shape.arm_phase) + wound + arm + spread
    light = 1 / (1 - random[:, 3] * 0.99)
    light *= np.exp(-radius / (1.6 * h))
    u, v = radius * np.cos(angle), radius * np.sin(angle) * shape.q_disk
    pa = np.radians(shape.pa)
    x = grid.x + (-u * np.sin(pa) - v * np.cos(pa)) / grid.scale
    y = grid.y + (u * np.cos(pa) - v * np.sin(pa)) / grid.scale
    return _scatter(x, y, light / light.sum(), grid.size)


def _scatter(x: np.ndarray, y: np.ndarray, light: np.ndarray, size: int) -> np.ndarray:
    """Share points among the four pixels about each."""
    left, low = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    inside = (left >= 0) & (low >= 0) & (left < size - 1) & (low < size - 1)
    left, low, light = left[inside], low[inside], light[inside]
    fx, fy = x[inside] - left, y[inside] - low
    pixel = low * size + left
    at = np.concatenate([pixel, pixel + 1, pixel + size, pixel + size + 1])
    shares = np.concatenate([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
    image = np.bincount(at, weights=np.tile(light, 4) * shares, minlength=size * size)
    return image.reshape(size, size).astype(np.float32)


def dust(shape: Shape, plane: Plane, pattern: Arms | None) -> np.ndarray:
    """Return the optical depth in V of filaments in a disk, shape (y, x).

    Lanes run along the inner edges of arms (Roberts 1969) and, as thin ridges of a texture that is
    wound with the arms, between them.
    """
    d = shape.detail
    depth = np.float32(min(0.3 + 0.9 * shape.a_v, 1.3))
    fall = np.exp(plane.r * np.float32(-1 / (1.6 * plane.length)))
    if pattern is None:
        step = np.float32(26 / plane.length)
        field = sample("clouds", plane.x * step, plane.y * step, (d[20], d[21]))
        return depth * fall * np.exp(-((field * np.float32(2.2)) ** 2))
    around = np.float32(30 + 20 * d[22]) + 10 * pattern.log_r
    field = sample("clouds", around * pattern.cosine, around * pattern.sine, (d[20], d[21]))
    filaments = np.exp(-((field * np.float32(2.5)) ** 2))
    lanes = np.float32(0.0)
    m = int(shape.n_arms)
    if m:
        # Nearer to the centre, at the same azimuth, is a larger angle in the unwound disk.
        shift = shape.winding * 0.42 / m
        c, s = np.float32(np.cos(shift)), np.float32(np.sin(shift))
        narrow = _ridge(
            shape, pattern.cosine * c + pattern.sine * s, pattern.sine * c - pattern.cosine * s
        )
        lanes = narrow * narrow * np.float32(1.2 * (1 - 0.6 * shape.flocculence))
    return depth * fall * pattern.envelope * (filaments * np.float32(0.7) + lanes)
