"""Multi-layer perceptron baseline: three hidden layers on the features, a small ensemble."""

from __future__ import annotations

from torch import nn

from omnisky.baselines.networks import NetworkBaseline, Settings

__all__ = ["MLPBaseline"]


class MLPBaseline(NetworkBaseline):
    """Fit an ensemble of three-layer perceptrons on the features.

    Parameters
    ----------
    n_members : int, optional
        Networks in the ensemble; without it fewer where there are many labels.
    settings : Settings or sequence of Settings, optional
        What to choose from by validation; a single one is taken as it is.
    log_targets : "auto" or tuple of int
        Targets fitted in log10.
    random_state : int
        Seed of folds, weights and batches.
    """

    def candidates(self, n_labels: int) -> list[Settings]:
        """Return the settings tried for this many labelled objects."""
        if n_labels < 1000:
            return [Settings(), Settings(steps=1600), Settings(dropout=0.0)]
        steps = 2500 if n_labels < 3000 else 4000 if n_labels < 10_000 else 6000
        return [
            Settings(pixel_gain=1.0, dropout=dropout, steps=steps, batch_size=128)
            for dropout in (0.0, 0.1)
        ]

    def make_network(self, n_features: int, n_targets: int, settings: Settings) -> nn.Module:
        """Return a freshly initialised perceptron."""
        layers: list[nn.Module] = []
        width_in = n_features
        for _ in range(3):
            layers += [nn.Linear(width_in, settings.width), nn.GELU(), nn.Dropout(settings.dropout)]
            width_in = settings.width
        return nn.Sequential(*layers, nn.Linear(width_in, n_targets))
