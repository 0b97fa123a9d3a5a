"""Codec room: measurements to tokens and back."""

from omnisky.codecs.codec import Codec, TokenGroup, load_codec
from omnisky.codecs.fsq import FSQ
from omnisky.codecs.scalar import ScalarCodec, ScalarCodecConfig
from omnisky.codecs.spectrum import SpectrumCodec, SpectrumCodecConfig
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens

__all__ = [
    "FSQ",
    "Codec",
    "ScalarCodec",
    "ScalarCodecConfig",
    "SpectrumCodec",
    "SpectrumCodecConfig",
    "TokenGroup",
    "Tokenizer",
    "Tokens",
    "load_codec",
]
