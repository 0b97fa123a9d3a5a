"""Codec room: measurements to tokens and back."""

from omnisky.codecs.codec import Codec, LearnedCodec, TokenGroup
from omnisky.codecs.image.codec import ImageCodec
from omnisky.codecs.image.config import ImageCodecConfig
from omnisky.codecs.loading import load_codec
from omnisky.codecs.quantisers.fsq import FSQ
from omnisky.codecs.scalars.scalar import ScalarCodec, ScalarCodecConfig
from omnisky.codecs.spectrum.sampled import SampledSpectrumCodec, SampledSpectrumCodecConfig
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens

__all__ = [
    "FSQ",
    "Codec",
    "ImageCodec",
    "ImageCodecConfig",
    "LearnedCodec",
    "SampledSpectrumCodec",
    "SampledSpectrumCodecConfig",
    "ScalarCodec",
    "ScalarCodecConfig",
    "TokenGroup",
    "Tokenizer",
    "Tokens",
    "load_codec",
]
