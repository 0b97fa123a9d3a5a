"""Train the codecs of a recipe: scalars are fitted at once, learned codecs run in the loop."""

from __future__ import annotations

from omnisky.train.codec.objective import CodecObjective
from omnisky.train.codec.recipe import (
    CodecRecipe,
    DataRecipe,
    LearnedRecipe,
    MockRecipe,
    ScalarsRecipe,
)
from omnisky.train.codec.running import train_codec

__all__ = [
    "CodecObjective",
    "CodecRecipe",
    "DataRecipe",
    "LearnedRecipe",
    "MockRecipe",
    "ScalarsRecipe",
    "train_codec",
]
