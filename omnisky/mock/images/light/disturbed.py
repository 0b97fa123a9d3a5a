"""Tidal tails and shells of mergers, and the patchy light of irregular galaxies."""

from __future__ import annotations

import numpy as np

from omnisky.mock.images.light.profiles import Grid
from omnisky.mock.images.light.shape import Shape
from omnisky.mock.images.light.structure import Plane
from omnisky.mock.images.light.textures import sample

__all__ = ["irregular", "shells", "tails"]


def tails(shape: Shape, grid: Grid) -> np.ndarray:
    """Return tidal tails, shape (y, x), not normalised.

    One or two open arms that leave the outer disk opposite each other and fade outwards, seen at an
    angle of their own (Toomre & Toomre 1972), over a faint, lopsided envelope.
    """
    d = shape.detail
    radius = max(shape.re_disk, shape.re_bulge)
    x, y = grid.along(shape.merger_angle + 70 * (d[24] - 0.5))
    y = y * np.float32(1 / (0.45 + 0.5 * d[25]))
    step = np.float32(22 / radius)
    wave = np.float32(0.35 * radius)
    waves = wave * sample("swells", x * step, y * step, (d[26], d[27]))
    x = x + np.real(waves)
    y = y + np.imag(waves)
    r = np.sqrt(x * x + y * y) * np.float32(1 / radius) + np.float32(0.05)
    turn = np.float32(shape.winding * (0.5 + 1.3 * d[30])) * np.log(r)
    c, s = np.cos(turn), np.sin(turn)
    cosine = (x * c + y * s) / (r * np.float32(radius))
    sharp = np.float32(3 + 7 * d[31])
    first = np.exp(sharp * (cosine - 1))
    second = np.exp(sharp * (-cosine - 1)) * np.float32(0.15 + 0.85 * d[32])
    length = 0.8 + 1.2 * d[33]
    fade = np.exp(r * np.float32(-1 / length)) * r**2 / (1 + r**2)
    clouds = sample(
        "clouds", x * np.float32(24 / radius), y * np.float32(24 / radius), (d[34], d[35])
    )
    light = (first + second) * fade * np.exp(np.float32(0.3) * clouds)
    halo = np.exp(r * np.float32(-0.9)) * (1 + np.float32(0.6) * cosine)
    return light + np.float32(0.12) * halo


def shells(shape: Shape, grid: Grid) -> np.ndarray:
    """Return shells of an elliptical, shape (y, x), not normalised.

    Caps with a sharp outer edge, in turn on either side along the axis of a radial merger (Quinn
    1984; Prieur 1990), on a diffuse fan.
    """
    d = shape.detail
    x, y = grid.along(shape.merger_angle + 50 * (d[24] - 0.5))
    y = y * np.float32(1.1 + 0.3 * d[25])
    r = np.sqrt(x * x + y * y) + np.float32(1e-3)
    cosine, sine = x / r, y / r
    light = np.zeros_like(r)
    for k in range(4):
        edge = shape.re_bulge * (1.3 + 0.8 * d[26 + k]) * 1.45**k
        inside = 1 - r * np.float32(1 / edge)
        sharp = 1 / (1 + np.exp(np.minimum(inside * np.float32(-25), np.float32(80))))
        # Each a little off the axis.
        turn = np.float32(0.8 * (d[20 + k] - 0.5))
        side = np.float32(1 if k % 2 == 0 else -1)
        cap = np.maximum(side * (cosine + turn * sine), 0) ** np.float32(2 + 6 * d[12 + k])
        light += sharp * np.exp(np.abs(inside) * np.float32(-5)) * cap * np.float32(0.55**k)
    fan = cosine**4 * np.exp(r * np.float32(-1 / (2.5 * shape.re_bulge)))
    return light + np.float32(0.3) * fan


def irregular(shape: Shape, plane: Plane) -> tuple[np.ndarray, np.ndarray]:
    """Return old and young light of an irregular galaxy, shape (y, x), not normalised.

    The old light has a flat, lopsided core; the young light is gathered into associations off the
    centre.
    """
    d, h = shape.detail, plane.length
    offset = np.float32(0.5 * h)
    x = plane.x - offset * np.float32(2 * d[36] - 1)
    y = plane.y - offset * np.float32(2 * d[37] - 1)
    r = np.sqrt(plane.r**2 + np.float32((0.5 * h) ** 2))
    step = np.float32(24 / h)
    clouds = sample("clouds", plane.x * step, plane.y * step, (d[38], d[39]))
    old = np.exp(r * np.float32(-1 / h)) * np.exp(np.float32(0.1) * clouds)
    near = np.sqrt(x * x + y * y + np.float32((0.3 * h) ** 2))
    strength = np.float32(0.6 + 1.1 * min(max(shape.clumpiness, 0.0), 1.0))
    field = sample("clumps", plane.x * (2 * step), plane.y * (2 * step), (d[40], d[41]))
    young = np.exp(near * np.float32(-1.1 / h))
    young *= np.exp(strength * (np.float32(1.0) * field + np.float32(0.25) * clouds))
    return old, young
