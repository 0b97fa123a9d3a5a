"""How fast does it train, and how much of what the machine can do is that?

Model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): the arithmetic that
the model requires, by formula, over what the machine does at most in the same time. Padding and
what activation checkpointing computes again are no use, so they do not count. The peak is measured
with a large matrix product, not looked up, so that any device has one.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.transformer import Selection, Transformer
from omnisky.train.config import TrainConfig
from omnisky.train.parallel import Processes

__all__ = ["Speed", "matmul_flops_per_second", "training_flops", "work_of"]

_BACKWARD_AND_FORWARD = 3
# Widths of the square matrices that are multiplied, and how often: some tens of milliseconds.
_ON_CPU, _ON_ACCELERATOR = ((256, 1024), 4), ((8192,), 8)
# Most seconds that one product may take: a CPU without bfloat16 would need some for the wider.
_PATIENCE = 0.2


class Speed:
    """Turn times and what an objective says of its work into rates.

    Parameters
    ----------
    config : TrainConfig
        Objects and micro-batches a step.
    processes : Processes
        How many there are, and on what they compute.
    """

    def __init__(self, config: TrainConfig, processes: Processes) -> None:
        self.config, self.processes = config, processes
        self._peak: float | None = None

    def rates(self, means: dict[str, float], steps: int, seconds: float) -> dict[str, float]:
        """Return rates over some steps.

        Parameters
        ----------
        means : dict of str to float
            Means over micro-batches and processes. ``tokens`` and ``flops``, if they are there, are
            taken out.
        steps : int
            Steps taken.
        seconds : float
            How long they took.

        Returns
        -------
        dict of str to float
            ``examples_per_second``, and ``tokens_per_second`` and ``mfu`` if the objective tells
            its tokens and its FLOPs.
        """
        found = {"examples_per_second": steps * self.config.batch_size / seconds}
        parts = self.config.accumulate * self.processes.world_size * steps / seconds
        if "tokens" in means:
            found["tokens_per_second"] = means.pop("tokens") * parts
        if "flops" in means:
            done = means.pop("flops") * parts
            found["mfu"] = done / (self._peak_of_one() * self.processes.world_size)
        return found

    def _peak_of_one(self) -> float:
        if self._peak is None:
            dtype = torch.bfloat16 if self.config.precision == "bf16" else torch.float32
            self._peak = matmul_flops_per_second(self.processes.device, dtype)
        return self._peak


@torch.no_grad()
def matmul_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOPs a second that a large matrix product reaches here, the best of some."""
    widths, tries = _ON_CPU if device.type == "cpu" else _ON_ACCELERATOR
    best = 0.0
    for width in widths:
        if best == 0 or 2 * width**3 / best < _PATIENCE:
            best = max(best, *_rates(width, tries, device, dtype))
    return best


def _rates(width: int, tries: int, device: torch.device, dtype: torch.dtype) -> list[float]:
    """Return the FLOPs a second of some products of square matrices."""
    # Accelerators multiply equal numbers faster. The generators of others stay as they are.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (
        torch.randn(width, width, generator=generator, device=device).to(dtype) for _ in range(2)
    )
    product, found = torch.empty_like(a), []
    for _ in range(tries):
        _finish(device)
        began = time.perf_counter()
        torch.mm(a, b, out=product)
        _finish(device)
        found.append(2 * width**3 / (time.perf_counter() - began))
    return found


def _finish(device: torch.device) -> None:
    """Wait until an accelerator has done what it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def work_of(network: Transformer, visible: Selection, asked: Selection) -> dict[str, float]:
    """Return what an objective tells of its work on a batch, as metrics for the loop.

    Parameters
    ----------
    network : Transformer
        What is trained.
    visible, asked : Selection
        What it sees and what it is asked for.

    Returns
    -------
    dict of str to float
        ``tokens``, seen and asked for, and ``flops``, forward and backward.
    """
    # Of the configuration, not of the network: that may lie where it is waited for.
    numbers = torch.arange(len(network.names))
    sizes = torch.tensor([m.n_tokens for m in network.config.modalities])
    modality = numbers.repeat_interleave(sizes).to(asked.slots.device)[asked.slots]
    seen, numbers = visible.mask.sum(1), numbers.to(modality.device)
    wanted = ((modality[..., None] == numbers) & asked.mask[..., None]).sum(1)
    flops = training_flops(network.config, seen, wanted)
    return {"tokens": float(seen.sum() + wanted.sum()), "flops": flops}


def training_flops(config: ModelConfig, seen: Tensor, wanted: Tensor) -> float:
    """Return the FLOPs of a forward and a backward pass; a multiplication and addition are two.

    Parameters
    ----------
    config : ModelConfig
        Sizes and modalities.
    seen : LongTensor, shape (B,)
        Visible tokens of each object.
    wanted : LongTensor, shape (B, modality)
        Tokens asked for of each object and modality. Attention among them stays within a modality.
    """
    dim, seen, wanted = config.dim, seen.double(), wanted.double()
    mlp = 6 * dim * int(2 * config.mlp_ratio * dim / 3)
    asked = wanted.sum(1)
    encoder = seen * (8 * dim**2 + mlp) + 4 * dim * seen**2
    own = asked * (8 * dim**2 + mlp) + 4 * dim * (wanted**2).sum(1)
    across = (asked + seen) * 4 * dim**2 + 4 * dim * asked * seen
    scores = wanted.sum(0) @ torch.tensor(
        [_score_flops(m, dim) for m in config.modalities], dtype=torch.double, device=wanted.device
    )
    forward = (
        config.encoder_depth * encoder.sum()
        + config.decoder_depth * (own + across).sum()
        + 2 * dim**2 * seen.sum()
        + scores
    )
    return float(_BACKWARD_AND_FORWARD * forward)


def _score_flops(modality: ModalityTokens, dim: int) -> float:
    """Return the FLOPs of scoring one token, the mean over those of a modality."""
    return sum(2 * dim * g.vocab_size * g.n_tokens for g in modality.groups) / modality.n_tokens
