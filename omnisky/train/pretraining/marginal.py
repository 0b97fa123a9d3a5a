"""What is a token worth to somebody who is given nothing? How often ids are met, smoothed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from omnisky.model.transformer import Transformer
from omnisky.train.pretraining.objective import Laid

__all__ = ["marginal_entropies"]

_ROWS_AT_ONCE = 4096
# Counts that are added to every id; the one that says best what each object is to the others.
_ADDED = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


def marginal_entropies(network: Transformer, training: Sequence[Laid]) -> Float[Tensor, "slot id"]:
    """Return the nats that each id at each slot costs, by its frequency in training.

    A small count is added to all ids, the same for all slots of a modality: the one that makes each
    training object most probable by the counts of the others.

    Parameters
    ----------
    network : Transformer
        Whose slots.
    training : sequence of Laid
        Training tokens.
    """
    sizes = [
        g.vocab_size for m in network.config.modalities for g in m.groups for _ in range(g.n_tokens)
    ]
    widest = max(sizes)
    counts = np.zeros((len(sizes), widest))
    for source in training:
        slots = source.slots.numpy()
        for start in range(0, len(source), _ROWS_AT_ONCE):
            rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(source)))
            ids, present = (t.numpy() for t in source.take(rows))
            flat = (slots * widest + ids)[present]
            counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
    cost = np.full(counts.shape, np.inf)
    vocabulary = np.array(sizes)
    modality = network.slot_modality.cpu().numpy()
    for number in range(len(network.names)):
        mine = modality == number
        own = counts[mine]
        added = max(_ADDED, key=lambda a: _left_out(own, vocabulary[mine], a))
        total = own.sum(1, keepdims=True) + added * vocabulary[mine][:, None]
        cost[mine] = -np.log((own + added) / total)
    return torch.from_numpy(cost)


def _left_out(counts: np.ndarray, vocabulary: np.ndarray, added: float) -> float:
    """Return the log-likelihood of all objects, each by the counts of the others."""
    slot, number = counts.nonzero()
    count = counts[slot, number]
    total = counts.sum(1)[slot] - 1 + added * vocabulary[slot]
    return float((count * np.log((count - 1 + added) / total)).sum())
