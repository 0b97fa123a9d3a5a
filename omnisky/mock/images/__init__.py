"""Images of mock objects as the Legacy Surveys and HSC-SSP would take them."""

from omnisky.mock.images.artefacts import NO_ARTEFACTS, Artefacts
from omnisky.mock.images.instruments import INSTRUMENTS, Instrument
from omnisky.mock.images.model import ImageModel, StampResult

__all__ = ["INSTRUMENTS", "NO_ARTEFACTS", "Artefacts", "ImageModel", "Instrument", "StampResult"]
