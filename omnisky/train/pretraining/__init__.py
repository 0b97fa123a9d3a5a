"""Pretrain the any-to-any transformer: data as tokens on disk, objective, evaluation."""

from __future__ import annotations

from omnisky.train.pretraining.evaluating import evaluate_run
from omnisky.train.pretraining.matrix import AnyToAny, any_to_any
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
    "AnyToAny",
    "EvaluationRecipe",
    "PretrainingData",
    "PretrainingObjective",
    "PretrainingRecipe",
    "PretrainingSource",
    "TokenTable",
    "any_to_any",
    "evaluate_run",
    "pretrain",
]
