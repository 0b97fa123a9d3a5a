"""Spectra of any survey on their own pixels as tokens, one code a bin of wavelength."""

from omnisky.codecs.spectrum.native.codec import NativeSpectrumCodec
from omnisky.codecs.spectrum.native.config import NativeSpectrumCodecConfig
from omnisky.codecs.spectrum.native.partition import Partition, Pixels

__all__ = ["NativeSpectrumCodec", "NativeSpectrumCodecConfig", "Partition", "Pixels"]
