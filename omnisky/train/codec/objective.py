"""Reconstruction by a learned codec, as the loop of `omnisky.train` wants it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from omnisky.codecs.codec import LearnedCodec
from omnisky.train.codec.sources import Part

__all__ = ["CodecObjective"]

_Batches = list[tuple[str, dict[str, Tensor]]]


class CodecObjective:
    """Train a codec of one or several modalities on objects of one or several sources.

    Each source's loss counts by its number of objects in the batch. Where a codec's own loss is a
    mean over objects, splitting a batch over processes changes nothing; where it is one over good
    pixels, a process whose objects have few of them counts for as much as the others.

    Parameters
    ----------
    codec : LearnedCodec
        What is trained.
    parts : sequence of Part
        The sources.
    """

    def __init__(self, codec: LearnedCodec, parts: Sequence[Part]) -> None:
        self.module: nn.Module = _LossModule(codec)
        self.codec, self.parts = codec, tuple(parts)
        counts = [len(part.training) for part in parts]
        self.n_examples = sum(counts)
        self.mixture = [(n, p.source.weight) for n, p in zip(counts, parts, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._usage = torch.zeros(codec.n_codes, dtype=torch.long)
        told = [(part.modality, part.training.fingerprint()) for part in parts]
        text = json.dumps([codec.kind, asdict(codec.config), told], default=str)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def loss(
        self, module: nn.Module, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss over some objects, and what the codec says of them."""
        batches, counts = self._prepared(indices.numpy(), generator)
        losses, metrics = module(batches)
        for found in metrics:
            codes = found.pop("codes").flatten()
            # What is not finite has no code; the step is not taken then.
            codes = codes[(codes >= 0) & (codes < len(self._usage))]
            self._usage = self._usage.to(codes.device)
            self._usage.index_add_(0, codes, torch.ones_like(codes))
        weights = torch.tensor(counts or [0], dtype=losses.dtype, device=losses.device)
        loss = (losses * weights).sum() / len(indices)
        return loss, _merged([name for name, _ in batches], metrics, counts)

    def _prepared(
        self, indices: np.ndarray, generator: torch.Generator
    ) -> tuple[_Batches, list[int]]:
        """Read objects; return a batch and the number of objects of each source among them."""
        device = next(self.codec.parameters()).device
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        batches: _Batches = []
        counts = []
        for number in np.unique(owner).tolist():
            part = self.parts[number]
            found = part.training.read(indices[owner == number] - self._starts[number])
            found = found if found.present.all() else found[found.present]
            if not len(found):
                continue
            view = self.codec.of(part.modality)
            tensors = view.prepare(view.augment(found, generator))
            on_device = {k: t.to(device, non_blocking=True) for k, t in tensors.items()}
            batches.append((part.modality, on_device))
            counts.append(len(found))
        return batches, counts

    def describe(self, index: int) -> str:
        """Return where a training object is found: source, modality and row."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        part, place = self.parts[number], index - int(self._starts[number])
        return f"{part.training.place(place)} of the {part.source}, {part.modality}"

    def take_usage(self) -> Tensor:
        """Return how often each code was chosen since the last call, LongTensor (code,)."""
        usage, self._usage = self._usage.cpu(), torch.zeros_like(self._usage)
        return usage

    def evaluate(self) -> dict[str, float]:
        """Return the figures of the codec's own report on held-out objects, by source."""
        alone = len(self.parts) == 1
        return {
            name if alone else f"{name}/{part.name}": value
            for part in self.parts
            if len(part.held_out)
            for name, value in self.report(part).items()
        }

    @torch.no_grad()
    def report(self, part: Part) -> dict[str, float]:
        """Return the figures of the codec's own report on the held-out objects of one source."""
        found = part.held_out.read(np.arange(len(part.held_out)))
        return self.codec.of(part.modality).report(found[found.present])


class _LossModule(nn.Module):
    """Make the losses of all modalities one forward pass, so that DDP sees it."""

    def __init__(self, codec: LearnedCodec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, batches: _Batches) -> tuple[Tensor, list[dict[str, Tensor]]]:
        found = [self.codec.of(modality).loss(batch) for modality, batch in batches]
        if not found:
            # No object has a measurement: nothing to learn, but every process must take part.
            return torch.stack([p.sum() for p in self.parameters()]).sum()[None] * 0, []
        return torch.stack([loss for loss, _ in found]), [dict(metrics) for _, metrics in found]


def _merged(
    modalities: list[str], metrics: list[dict[str, Tensor]], counts: list[int]
) -> dict[str, Tensor]:
    """Return the mean metrics over objects, also by modality if there are several."""
    merged: dict[str, Tensor] = {}
    groups = [("", range(len(metrics)))]
    if len(set(modalities)) > 1:
        groups += [
            (f"/{m}", [i for i, name in enumerate(modalities) if name == m])
            for m in dict.fromkeys(modalities)
        ]
    for ending, members in groups:
        for name in dict.fromkeys(name for i in members for name in metrics[i]):
            having = [i for i in members if name in metrics[i]]
            total = sum(counts[i] for i in having)
            values = [metrics[i][name].detach() * (counts[i] / total) for i in having]
            merged[name + ending] = torch.stack(values).sum()
    return merged
