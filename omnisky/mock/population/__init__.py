"""The population of the mock universe: what objects there are, where, and who observes them."""

from omnisky.mock.population.conditions import SURVEY_BANDS, Conditions, conditions
from omnisky.mock.population.config import SAMPLES, UniverseConfig
from omnisky.mock.population.draw import draw, draw_with_fluxes

__all__ = [
    "SAMPLES",
    "SURVEY_BANDS",
    "Conditions",
    "UniverseConfig",
    "conditions",
    "draw",
    "draw_with_fluxes",
]
