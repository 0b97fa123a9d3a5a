"""Train small networks from scratch: settings by validation, then an ensemble on all labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.baselines.estimator import Baseline, LogTargets, relative_error, validation_folds

__all__ = ["NetworkBaseline", "Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Hold what a network baseline chooses by validation.

    Parameters
    ----------
    width : int
        Hidden units.
    pixel_gain : float
        Factor on the pixels of spectra, which are many and much alike, against the scalars.
    dropout, weight_decay : float
        Regularisation.
    steps : int
        Optimizer steps.
    batch_size : int
        Objects a step.
    learning_rate : float
        Peak of the one-cycle schedule.
    """

    width: int = 256
    pixel_gain: float = 0.5
    dropout: float = 0.1
    weight_decay: float = 0.1
    steps: int = 800
    batch_size: int = 64
    learning_rate: float = 2e-3


class NetworkBaseline(Baseline):
    """Fit an ensemble of networks; the base of the MLP and the ConvNet."""

    def __init__(
        self,
        n_members: int | None = None,
        settings: Settings | Sequence[Settings] | None = None,
        log_targets: LogTargets = "auto",
        random_state: int = 0,
    ) -> None:
        self.n_members = n_members
        self.settings = settings
        self.log_targets = log_targets
        self.random_state = random_state

    def candidates(self, n_labels: int) -> list[Settings]:
        """Return the settings tried for this many labelled objects."""
        raise NotImplementedError

    def members(self, n_labels: int) -> int:
        """Return the ensemble's size where none is asked for: fewer where each takes long."""
        return 5 if n_labels < 3000 else 3

    def make_network(self, n_features: int, n_targets: int, settings: Settings) -> nn.Module:
        """Return a freshly initialised network of features to targets."""
        raise NotImplementedError

    def _fit(self, x: np.ndarray, z: np.ndarray) -> None:
        given = self.settings
        tried = [given] if isinstance(given, Settings) else list(given or self.candidates(len(x)))
        scores = [self._validate(x, z, s) for s in tried] if len(tried) > 1 else [0.0]
        self.settings_ = tried[int(np.argmin(scores))]
        self.validation_scores_ = scores
        self.networks_ = [
            self._train(x, z, self.settings_, 1000 * self.random_state + member)
            for member in range(self.n_members or self.members(len(x)))
        ]

    def _validate(self, x: np.ndarray, z: np.ndarray, settings: Settings) -> float:
        """Return the median error over targets and folds, in standard deviations."""
        errors = []
        for fold, (train, held) in enumerate(validation_folds(len(x), self.random_state, most=3)):
            network = self._train(x[train], z[train], settings, 1000 * self.random_state + fold)
            errors.append(relative_error(z[held], _forward(network, x[held])))
        return float(np.mean(errors))

    def _train(self, x: np.ndarray, z: np.ndarray, settings: Settings, seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        inputs, known = torch.from_numpy(x), torch.from_numpy(np.isfinite(z))
        targets = torch.from_numpy(np.where(np.isfinite(z), z, 0)).float()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # initial weights and dropout draw from the global generator
            gain = torch.ones(x.shape[1])
            gain[: self.features_.n_pixels_] = settings.pixel_gain
            network = nn.Sequential(
                _Gain(gain), self.make_network(x.shape[1], z.shape[1], settings)
            )
            optimizer = torch.optim.AdamW(
                network.parameters(), weight_decay=settings.weight_decay, fused=True
            )
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, settings.learning_rate, total_steps=settings.steps, pct_start=0.1
            )
            for rows in _batches(len(x), settings, generator):
                predicted = network(inputs[rows])
                loss = F.smooth_l1_loss(predicted, targets[rows], reduction="none", beta=0.1)
                optimizer.zero_grad()
                (loss * known[rows]).mean().backward()
                optimizer.step()
                schedule.step()
        return network.eval()

    def _predict(self, x: np.ndarray) -> np.ndarray:
        return np.mean([_forward(network, x) for network in self.networks_], axis=0)


class _Gain(nn.Module):
    """Multiply each feature by its own constant."""

    gain: Tensor

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        self.register_buffer("gain", gain)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def _batches(n: int, settings: Settings, generator: torch.Generator):
    """Yield row numbers of each step: passes over a fresh permutation each."""
    order = torch.empty(0, dtype=torch.long)
    for _ in range(settings.steps):
        while len(order) < settings.batch_size:
            order = torch.cat([order, torch.randperm(n, generator=generator)])
        rows, order = order[: settings.batch_size], order[settings.batch_size :]
        yield rows


@torch.no_grad()
def _forward(network: nn.Module, x: np.ndarray) -> np.ndarray:
    parts: Sequence[Tensor] = torch.from_numpy(x).split(4096)
    return torch.cat([network(part) for part in parts]).double().numpy()
