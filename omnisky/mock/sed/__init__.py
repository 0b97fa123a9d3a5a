"""One spectral energy distribution an object, from which every modality follows."""

from omnisky.mock.sed.bands import BANDS
from omnisky.mock.sed.model import COMPONENTS, SedModel
from omnisky.mock.sed.quick import quick_r_magnitude

__all__ = ["BANDS", "COMPONENTS", "SedModel", "quick_r_magnitude"]
