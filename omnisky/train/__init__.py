"""How is it trained? One plain loop, its configuration, its checkpoints and its log.

The configuration and the recipes are read without loading torch; `train` loads it when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from omnisky.train.config import TrainConfig
from omnisky.train.recipe import read_recipe, write_json

if TYPE_CHECKING:
    from omnisky.train.loop import train
    from omnisky.train.step import Objective

__all__ = ["Objective", "TrainConfig", "read_recipe", "train", "write_json"]


def __getattr__(name: str):
    if name in ("Objective", "train"):
        from omnisky.train import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
