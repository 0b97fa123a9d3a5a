"""From token ids to vectors and from vectors to logits, one pair of modules a modality.

Plain vocabularies use a learned table, as AION-1 does. Where the codec says what an id means, the
vector is made from that meaning instead: an ordinal id from the value and rank of its bin, an FSQ
code from its digits. With tens of thousands of objects this is what makes 1024-bin tokens
learnable, and it needs a fraction of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.codec import TokenGroup
from omnisky.model.config import ModalityTokens

__all__ = [
    "ANSWER_NUMBERS",
    "VECTOR_SCALE",
    "ModalityEmbedding",
    "ModalityLogits",
    "TokenGroupWeights",
    "expected_values",
    "has_values",
    "set_values",
]

# Scale of the vectors of modalities, places and the mask in a new network.
VECTOR_SCALE = 0.02
_WAVES = 64
# What ids mean may have been stored in single precision.
_ROUNDING = 1e-5
# What is said of one ordinal token that was asked for, see `_GroupLogits.expect`.
ANSWER_NUMBERS = 3


def _ordinal_features(values: Float[Tensor, "token id"]) -> Float[Tensor, "token id feature"]:
    """Return a constant, the standardised value, and cosines of the rank."""
    quartiles = torch.quantile(values, values.new_tensor([0.25, 0.5, 0.75]), dim=1)[..., None]
    # 1.349 is the interquartile range of a unit Gaussian.
    scale = ((quartiles[2] - quartiles[0]) / 1.349).clamp(min=1e-12)
    z = ((values - quartiles[1]) / scale).clamp(-10, 10)
    # Weights are also read into networks that are on another device by then.
    place = torch.arange(values.shape[1], dtype=values.dtype, device=values.device)
    rank = (place + 0.5) / values.shape[1]
    order = torch.arange(1, _WAVES + 1, dtype=values.dtype, device=values.device)
    # Weights fall with frequency, so that a fresh model is smooth in the rank.
    waves = torch.cos(math.pi * order * rank[:, None]) / order.sqrt()
    bend = torch.tanh(z / 3)
    per_token = torch.stack([torch.ones_like(z), z / 3, bend], dim=-1)
    return torch.cat([per_token, waves.expand(len(values), -1, -1)], dim=-1).float()


def _digit_features(levels: tuple[int, ...]) -> Float[Tensor, "id feature"]:
    """Return the one-hot digits of every FSQ code and a constant."""
    ids = torch.arange(math.prod(levels))
    features = [torch.ones(len(ids), 1)]
    for i, level in enumerate(levels):
        digit = ids // math.prod(levels[:i]) % level
        features.append(F.one_hot(digit, level).float())
    return torch.cat(features, dim=1)


class TokenGroupWeights(nn.Module):
    """Hold the id features of one token group and a weight from features to the width.

    ``values`` (what each ordinal id means) is a buffer that travels with the weights.
    """

    features: Tensor
    values: Tensor
    initial_scale: float

    def __init__(self, group: TokenGroup, dim: int) -> None:
        super().__init__()
        self.group = group
        self.reset_buffers()
        shape: tuple[int, ...] = (group.vocab_size, dim)
        if group.kind == "ordinal":
            shape = (group.n_tokens, self.features.shape[-1], dim)
        elif group.levels:
            shape = (self.features.shape[-1], dim)
        self.weight = nn.Parameter(torch.randn(shape) * self.initial_scale)

    def reset_buffers(self) -> None:
        """Make the buffers anew, on the default device; ordinal ids mean their rank."""
        if self.group.kind == "ordinal":
            ranks = torch.linspace(-1, 1, self.group.vocab_size, dtype=torch.float64)
            self.register_buffer("values", ranks.repeat(self.group.n_tokens, 1))
            self.refresh()
        elif self.group.levels:
            self.register_buffer("features", _digit_features(self.group.levels), persistent=False)

    def refresh(self) -> None:
        """Recompute the features from ``values``."""
        if self.group.kind == "ordinal":
            features = _ordinal_features(self.values)
            self.register_buffer("features", features, persistent=False)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.refresh()


class _GroupEmbedding(TokenGroupWeights):
    initial_scale = 0.1

    def forward(self, ids: Int[Tensor, "B token"]) -> Float[Tensor, "B token D"]:
        if self.group.kind == "ordinal":
            position = torch.arange(self.group.n_tokens, device=ids.device)
            return torch.einsum("btf,tfd->btd", self.features[position, ids], self.weight)
        if self.group.levels:
            return self.features[ids] @ self.weight
        return F.embedding(ids, self.weight)


class _GroupLogits(TokenGroupWeights):
    # Decoder outputs have unit variance in every dimension: a fresh model is nearly undecided.
    initial_scale = 0.02

    def forward(
        self, x: Float[Tensor, "row D"], position: Int[Tensor, " row"]
    ) -> Float[Tensor, "row id"]:
        if self.group.kind != "ordinal":
            table = self.features @ self.weight if self.group.levels else self.weight
            return x @ table.T
        logits = torch.empty(len(x), self.group.vocab_size, device=x.device)
        for token in position.unique().tolist():
            row = position == token
            logits[row] = (x[row] @ self.weight[token].T @ self.features[token].T).float()
        return logits

    def expect(
        self, x: Float[Tensor, "row D"], position: Int[Tensor, " row"]
    ) -> Float[Tensor, "row number"]:
        """Return what an ordinal id is expected to mean: `ANSWER_NUMBERS` numbers a row.

        Mean of the standardised value, mean cosine of the rank (outliers do not move it), and the
        logarithm of the value's spread.
        """
        chance = self.forward(x, position).softmax(-1)
        meaning = self.features[:, :, [1, 3]][position]
        mean = torch.einsum("ri,rif->rf", chance, meaning)
        value = meaning[..., 0] - mean[:, :1]
        spread = torch.einsum("ri,ri->r", chance, value**2)
        # A floor far below one bin: certainty must stay finite.
        return torch.cat([mean, 0.5 * torch.log(spread + 1e-8)[:, None]], dim=1)


class ModalityEmbedding(nn.Module):
    """Embed the tokens of one modality, without position and modality vectors."""

    def __init__(self, modality: ModalityTokens, dim: int) -> None:
        super().__init__()
        self.sizes = [g.n_tokens for g in modality.groups]
        self.groups = nn.ModuleList(_GroupEmbedding(g, dim) for g in modality.groups)

    def forward(self, ids: Int[Tensor, "B token"]) -> Float[Tensor, "B token D"]:
        parts = [g(i) for g, i in zip(self.groups, ids.split(self.sizes, dim=1), strict=True)]
        return torch.cat(parts, dim=1)


class ModalityLogits(nn.Module):
    """Score every id of requested tokens of one modality."""

    def __init__(self, modality: ModalityTokens, dim: int) -> None:
        super().__init__()
        self.sizes = [g.n_tokens for g in modality.groups]
        self.groups = nn.ModuleList(_GroupLogits(g, dim) for g in modality.groups)

    def forward(
        self, x: Float[Tensor, "row D"], position: Int[Tensor, " row"]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return, for each token group with rows, (row numbers, logits)."""
        found, first = [], 0
        for group, size in zip(self.groups, self.sizes, strict=True):
            rows = ((position >= first) & (position < first + size)).nonzero()[:, 0]
            if len(rows):
                found.append((rows, group(x[rows], position[rows] - first)))
            first += size
        return found


def expected_values(module: nn.Module, x: Float[Tensor, "row D"]) -> Float[Tensor, "row number"]:
    """Return what a modality of one ordinal token is expected to be, from decoder outputs."""
    assert isinstance(module, ModalityLogits)
    (group,) = module.groups
    assert isinstance(group, _GroupLogits)
    return group.expect(x, torch.zeros(len(x), dtype=torch.long, device=x.device))


def set_values(module: nn.Module, values: Tensor) -> None:
    """Tell the ordinal groups of a `ModalityEmbedding` or `ModalityLogits` what their ids mean.

    Parameters
    ----------
    module : ModalityEmbedding or ModalityLogits
        Whose groups to tell.
    values : Tensor, shape (ordinal token, id)
        Meaning of each id, in the modality's unit; groups of fewer ids read the first ones.
    """
    for group, meaning in _by_group(module, values):
        group.values.copy_(meaning)
        group.refresh()


def has_values(module: nn.Module, values: Tensor) -> bool:
    """Return True if the ordinal groups were told these values, see `set_values`."""
    return all(
        bool(
            (group.values - meaning.to(group.values)).abs().max() <= _ROUNDING * meaning.abs().max()
        )
        for group, meaning in _by_group(module, values)
    )


def _by_group(module: nn.Module, values: Tensor) -> Iterator[tuple[TokenGroupWeights, Tensor]]:
    """Yield each ordinal group with its part of the values."""
    assert isinstance(module, (ModalityEmbedding, ModalityLogits))
    for group in module.groups:
        assert isinstance(group, TokenGroupWeights)
        if group.group.kind == "ordinal":
            yield group, values[: group.group.n_tokens, : group.group.vocab_size]
            values = values[group.group.n_tokens :]
