"""Images of several surveys to tokens and back."""

from omnisky.codecs.image.bands import BANDS, Band, bands_of
from omnisky.codecs.image.codec import ImageCodec
from omnisky.codecs.image.config import ImageCodecConfig
from omnisky.codecs.image.pixels import padded

__all__ = ["BANDS", "Band", "ImageCodec", "ImageCodecConfig", "bands_of", "padded"]
