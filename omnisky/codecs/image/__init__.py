"""Images of several surveys to tokens and back."""

from omnisky.codecs.image.codec import ImageCodec
from omnisky.codecs.image.config import ImageCodecConfig
from omnisky.codecs.image.pixels import padded

__all__ = ["ImageCodec", "ImageCodecConfig", "padded"]
