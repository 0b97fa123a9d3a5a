"""omnisky: one Python system from survey files to any-to-any models of the sky and their use.

Everything here is loaded when it is first used, so that ``import omnisky`` takes milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnisky import mock
    from omnisky.adapt import Embedder, FineTunedModel
    from omnisky.codecs import Codec, Tokenizer, Tokens
    from omnisky.data import datasets
    from omnisky.data.match import match
    from omnisky.data.sky import open_sky as open
    from omnisky.data.tables import read_table, write_table
    from omnisky.data.usertable import observations_from_table
    from omnisky.modalities import (
        Catalog,
        Coefficients,
        Image,
        Modality,
        Observations,
        Scalar,
        SegmentationMap,
        SkyObjects,
        Spectrum,
    )
    from omnisky.model import Model
    from omnisky.model.model import tokenize

__all__ = [
    "Catalog",
    "Codec",
    "Coefficients",
    "Embedder",
    "FineTunedModel",
    "Image",
    "Modality",
    "Model",
    "Observations",
    "Scalar",
    "SegmentationMap",
    "SkyObjects",
    "Spectrum",
    "Tokenizer",
    "Tokens",
    "datasets",
    "match",
    "mock",
    "observations_from_table",
    "open",
    "read_table",
    "tokenize",
    "write_table",
]

# Where a name lives, with the name there if it is another one.
_HOME = {
    "Catalog": "omnisky.modalities",
    "Codec": "omnisky.codecs",
    "Coefficients": "omnisky.modalities",
    "Embedder": "omnisky.adapt",
    "FineTunedModel": "omnisky.adapt",
    "Image": "omnisky.modalities",
    "Modality": "omnisky.modalities",
    "Model": "omnisky.model",
    "Observations": "omnisky.modalities",
    "Scalar": "omnisky.modalities",
    "SegmentationMap": "omnisky.modalities",
    "SkyObjects": "omnisky.modalities",
    "Spectrum": "omnisky.modalities",
    "Tokenizer": "omnisky.codecs",
    "Tokens": "omnisky.codecs",
    "match": "omnisky.data.match",
    "observations_from_table": "omnisky.data.usertable",
    "open": "omnisky.data.sky:open_sky",
    "read_table": "omnisky.data.tables",
    "tokenize": "omnisky.model.model",
    "write_table": "omnisky.data.tables",
}

try:
    __version__ = version("omnisky")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "datasets":
        return import_module("omnisky.data.datasets")
    if name == "mock":
        return import_module("omnisky.mock")
    if name in _HOME:
        home, _, other = _HOME[name].partition(":")
        return getattr(import_module(home), other or name)
    raise AttributeError(f"module 'omnisky' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
