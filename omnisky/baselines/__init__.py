"""Baselines room: what a careful astronomer would do without a pretrained model, same contract.

Each baseline is a scikit-learn regressor on :class:`~omnisky.modalities.Observations`: any subset
of modalities, missing values at fit and at predict, unknown labels as NaN. Each chooses its own
settings by validation inside the labelled objects it was given.
"""

from __future__ import annotations

from omnisky.baselines.convnet import ConvNetBaseline
from omnisky.baselines.features import PHOTOMETRY, XP, ObservationFeatures
from omnisky.baselines.mlp import MLPBaseline
from omnisky.baselines.ridge import RidgeBaseline
from omnisky.baselines.trees import TreesBaseline

__all__ = [
    "PHOTOMETRY",
    "XP",
    "ConvNetBaseline",
    "MLPBaseline",
    "ObservationFeatures",
    "RidgeBaseline",
    "TreesBaseline",
]
