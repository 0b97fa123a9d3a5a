"""Pretrain the any-to-any transformer: its data as tokens on disk, its objective, its evaluation."""

from __future__ import annotations

from omnisky.train.pretraining.objective import PretrainingObjective
from omnisky.train.pretraining.recipe import (
    EvaluationRecipe,
    PretrainingData,
    PretrainingRecipe,
    PretrainingSource,
)
from omnisky.train.pretraining.running import pretrain
from omnisky.train.pretraining.tokentable import TokenTable

__all__ = [
    "EvaluationRecipe",
    "PretrainingData",
    "PretrainingObjective",
    "PretrainingRecipe",
    "PretrainingSource",
    "TokenTable",
    "pretrain",
]
