"""Codec room: measurements to tokens and back."""

from omnisky.codecs.codec import Codec, LearnedCodec, TokenGroup
from omnisky.codecs.image.codec import ImageCodec
from omnisky.codecs.image.config import ImageCodecConfig
from omnisky.codecs.loading import load_codec
from omnisky.codecs.quantisers import FSQ, LFQ
from omnisky.codecs.scalars.scalar import ScalarCodec, ScalarCodecConfig
from omnisky.codecs.spectrum.latent import LatentSpectrumCodec
from omnisky.codecs.spectrum.latent_config import LatentSpectrumCodecConfig
from omnisky.codecs.spectrum.native import NativeSpectrumCodec, NativeSpectrumCodecConfig
from omnisky.codecs.spectrum.sampled import SampledSpectrumCodec, SampledSpectrumCodecConfig
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens

__all__ = [
    "FSQ",
    "LFQ",
    "Codec",
    "ImageCodec",
    "ImageCodecConfig",
    "LatentSpectrumCodec",
    "LatentSpectrumCodecConfig",
    "LearnedCodec",
    "NativeSpectrumCodec",
    "NativeSpectrumCodecConfig",
    "SampledSpectrumCodec",
    "SampledSpectrumCodecConfig",
    "ScalarCodec",
    "ScalarCodecConfig",
    "TokenGroup",
    "Tokenizer",
    "Tokens",
    "load_codec",
]
