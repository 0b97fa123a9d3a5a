"""How the light of galaxies is distributed, before any instrument sees it."""

from omnisky.mock.images.light.galaxy import Light, draw_galaxy
from omnisky.mock.images.light.lens import Lens, draw_source
from omnisky.mock.images.light.profiles import Grid, Sersic, sersic_norm
from omnisky.mock.images.light.shape import DISK, ELLIPTICAL, MERGER, Shape

__all__ = [
    "DISK",
    "ELLIPTICAL",
    "MERGER",
    "Grid",
    "Lens",
    "Light",
    "Sersic",
    "Shape",
    "draw_galaxy",
    "draw_source",
    "sersic_norm",
]
