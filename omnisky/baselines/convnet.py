"""Convolutional baseline: a 1-D ConvNet on spectra, photometry joined before the dense head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.baselines.networks import NetworkBaseline, Settings

__all__ = ["ConvNetBaseline"]

_CHANNELS = 16


class ConvNetBaseline(NetworkBaseline):
    """Fit an ensemble of residual 1-D ConvNets from scratch.

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

    Notes
    -----
    Without a spectrum among the inputs it is its dense head alone.
    """

    def candidates(self, n_labels: int) -> list[Settings]:
        """Return the settings tried for this many labelled objects."""
        if n_labels < 1000:
            return [Settings(), Settings(dropout=0.3)]
        steps = 1600 if n_labels < 3000 else 2500 if n_labels < 10_000 else 3000
        return [Settings(dropout=d, steps=steps, batch_size=128) for d in (0.0, 0.1)]

    def members(self, n_labels: int) -> int:
        return 4 if n_labels < 3000 else 2

    def make_network(self, n_features: int, n_targets: int, settings: Settings) -> nn.Module:
        """Return a freshly initialised ConvNet."""
        return _ConvNet(self.features_.n_pixels_, n_features, n_targets, settings)


class _Residual(nn.Module):
    """Add two convolutions to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, channels, 3, padding=1)
        self.second = nn.Conv1d(channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(1, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(F.relu(self.norm(x)))
        return x + self.second(F.relu(y))


class _ConvNet(nn.Module):
    """Stem of large patches, residual blocks at two resolutions, dense head with the scalars."""

    def __init__(self, n_pixels: int, n_features: int, n_targets: int, settings: Settings) -> None:
        super().__init__()
        self.n_pixels = n_pixels
        self.body = nn.Sequential(
            nn.Conv1d(1, _CHANNELS, 16, stride=8, padding=4),
            _Residual(_CHANNELS),
            nn.ReLU(),
            nn.Conv1d(_CHANNELS, 2 * _CHANNELS, 3, stride=2, padding=1),
            _Residual(2 * _CHANNELS),
            nn.ReLU(),
            nn.Flatten(),
        )
        with torch.no_grad():
            length = self.body(torch.zeros(1, 1, n_pixels)).shape[1] if n_pixels else 0
        self.head = nn.Sequential(
            nn.Linear(length + n_features - n_pixels, settings.width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.width, settings.width),
            nn.GELU(),
            nn.Dropout(settings.dropout),
            nn.Linear(settings.width, n_targets),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.n_pixels == 0:
            return self.head(x)
        body = self.body(x[:, None, : self.n_pixels])
        return self.head(torch.cat([body, x[:, self.n_pixels :]], dim=1))
