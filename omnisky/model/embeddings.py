"""From token ids to vectors and from vectors to logits, one pair of modules a modality.

Plain vocabularies use a learned table, as AION-1 does. Where the codec says what an id means, the
vector is made from that meaning instead: an ordinal id from the value and rank of its bin, an FSQ
code from its digits. With tens of thousands of objects this is what makes 1024-bin tokens
learnable, and it needs a fraction of the parameters.

Scores from meanings alone are too poor for codes: their digits would be independent of each other
in what is said of one token, which costs 0.3 to 1.3 nats a token of images and maps. So each id may
add some numbers of its own to what it means (`ModelConfig.free_rank`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.codec import TokenGroup
from omnisky.model.config import ModalityTokens

__all__ = [
    "ANSWER_NUMBERS",
    "VECTOR_SCALE",
    "Divided",
    "TokenEmbedding",
    "TokenGroupWeights",
    "TokenGroups",
    "TokenLogits",
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
# Most tokens of what is one number, and no list.
_NUMBER = 2


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

    def scale_of(self, name: str) -> float:
        """Return the standard deviation of a parameter of a new network."""
        return self.initial_scale

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


@dataclass(frozen=True)
class _GroupRows:
    """Say which tokens of one group rows are of.

    Parameters
    ----------
    count : int
        How many there are.
    widest : int
        How many the token has that has most.
    token : LongTensor, shape (row,)
        Number of each row's token in the group.
    place : LongTensor, shape (row,)
        Where each row is in a table of `widest` rows for each token, flattened.
    """

    count: int
    widest: int
    token: Int[Tensor, " row"]
    place: Int[Tensor, " row"]

    def spread(self, x: Float[Tensor, "row a"], n_tokens: int) -> Float[Tensor, "token widest a"]:
        """Return the rows of each token side by side, zeros where one has fewer than another."""
        table = x.new_zeros(n_tokens * self.widest, x.shape[1]).index_copy(0, self.place, x)
        return table.view(n_tokens, self.widest, x.shape[1])

    def gathered(self, table: Float[Tensor, "token widest b"]) -> Float[Tensor, "row b"]:
        """Return rows again."""
        return table.flatten(0, 1).index_select(0, self.place)


# The order in which rows of one group come after those of another, and each group's part.
Divided: TypeAlias = tuple[Tensor, list[tuple[str, TokenGroupWeights, _GroupRows]]]


class _GroupEmbedding(TokenGroupWeights):
    initial_scale = 0.1

    def forward(self, ids: Int[Tensor, " row"], part: _GroupRows) -> Float[Tensor, "row D"]:
        """Return the vectors of ids."""
        if self.group.kind != "ordinal":
            levels = self.group.levels
            return self.features[ids] @ self.weight if levels else F.embedding(ids, self.weight)
        features = self.features[part.token, ids]
        if len(self.weight) == 1:
            return features @ self.weight[0]
        return part.gathered(torch.bmm(part.spread(features, len(self.weight)), self.weight))


class _GroupLogits(TokenGroupWeights):
    # Decoder outputs have unit variance in every dimension: a fresh model is nearly undecided.
    initial_scale = 0.02

    def __init__(self, group: TokenGroup, dim: int, free_rank: int = 0) -> None:
        super().__init__(group, dim)
        ordinal = group.kind == "ordinal"
        # Waves of the rank cannot single out a bin, as that of zeros in lists of sources. Numbers
        # of their own did no good to scalars: noise of rare bins (dev/LOG.md).
        self.is_free = free_rank > 0 and (
            group.n_tokens > _NUMBER if ordinal else bool(group.levels)
        )
        if self.is_free and ordinal:
            self.bias = nn.Parameter(torch.zeros(group.n_tokens, group.vocab_size))
        elif self.is_free:
            self.bias = nn.Parameter(torch.zeros(group.vocab_size))
            self.free = nn.Parameter(torch.zeros(group.vocab_size, free_rank))
            self.to_free = nn.Parameter(torch.randn(dim, free_rank) * self.scale_of("to_free"))

    def scale_of(self, name: str) -> float:
        """Return the standard deviation of a parameter of a new network."""
        scales = {"bias": 0.0, "free": 0.0, "to_free": self.weight.shape[-1] ** -0.5}
        return scales.get(name, self.initial_scale)

    def forward(self, x: Float[Tensor, "row D"], part: _GroupRows) -> Float[Tensor, "row id"]:
        """Score every id."""
        if self.group.kind != "ordinal":
            table = self.features @ self.weight if self.group.levels else self.weight
            if not self.is_free:
                return x @ table.T
            return x @ torch.addmm(table, self.free, self.to_free.T).T + self.bias
        if len(self.weight) == 1:
            return self._score(x)
        wide = part.spread(x, len(self.weight))
        scores = torch.bmm(torch.bmm(wide, self.weight.mT), self.features.mT)
        if self.is_free:
            scores = scores + self.bias[:, None]
        return part.gathered(scores).float()

    def _score(self, x: Float[Tensor, "row D"]) -> Float[Tensor, "row id"]:
        """Score every id of the group's one token."""
        return (x @ self.weight[0].T @ self.features[0].T).float()

    def expect(self, x: Float[Tensor, "row D"]) -> Float[Tensor, "row number"]:
        """Return what the id of the group's one token is expected to mean, `ANSWER_NUMBERS` a row.

        Mean of the standardised value, mean cosine of the rank (outliers do not move it), and the
        logarithm of the value's spread.
        """
        chance = self._score(x).softmax(-1)
        meaning = self.features[0][:, [1, 3]]
        mean = chance @ meaning
        value = meaning[:, 0] - mean[:, :1]
        spread = (chance * value**2).sum(1)
        # A floor far below one bin: certainty must stay finite.
        return torch.cat([mean, 0.5 * torch.log(spread + 1e-8)[:, None]], dim=1)


class TokenGroups(nn.Module):
    """Hold what embeds the tokens of one modality, or scores its ids, group by group."""

    def __init__(
        self, kind: Callable[[TokenGroup], TokenGroupWeights], modality: ModalityTokens
    ) -> None:
        super().__init__()
        self.groups = nn.ModuleList(kind(group) for group in modality.groups)


class _ByModality(nn.ModuleDict):
    """Hold the token groups of each modality, in the order of the slots."""

    def __init__(
        self,
        kind: Callable[[TokenGroup], TokenGroupWeights],
        modalities: Iterable[ModalityTokens],
    ) -> None:
        super().__init__({m.name: TokenGroups(kind, m) for m in modalities})

    def divided(self, slots: Int[Tensor, " row"]) -> Divided:
        """Divide rows among all token groups.

        Returns
        -------
        order : LongTensor, shape (row,)
            The order in which one group comes after the other, rows rising in each.
        parts : list of (str, Module, _GroupRows)
            Modality and module of each group, and its rows.
        """
        listed = [(name, group) for name, own in self.items() for group in _groups_of(own)]
        sizes = np.array([group.group.n_tokens for _, group in listed])
        # An accelerator is waited for here, once for all groups.
        counts = slots.bincount(minlength=int(sizes.sum())).cpu().numpy()
        first = np.cumsum(sizes) - sizes
        widest, total = np.maximum.reduceat(counts, first), np.add.reduceat(counts, first)
        # Of each slot: its group, its token there, and where its rows begin in the group's table,
        # less where they begin among all rows sorted by slot.
        token = np.arange(len(counts)) - np.repeat(first, sizes)
        start = token * np.repeat(widest, sizes) - (np.cumsum(counts) - counts)
        of_slot = np.stack([np.repeat(np.arange(len(sizes)), sizes), token, start])
        group, token, start = torch.from_numpy(of_slot).to(slots.device)[:, slots]
        order = group.argsort(stable=True)
        rank = torch.empty_like(order)
        rank[slots.argsort(stable=True)] = torch.arange(len(slots), device=slots.device)
        there = torch.stack([token, start + rank])[:, order].split(total.tolist(), dim=1)
        parts = [
            (name, group, _GroupRows(int(n), int(w), *own))
            for (name, group), n, w, own in zip(listed, total, widest, there, strict=True)
        ]
        return order, parts


class TokenEmbedding(_ByModality):
    """Embed tokens of any modality, without position and modality vectors."""

    def __init__(self, modalities: Iterable[ModalityTokens], dim: int) -> None:
        super().__init__(partial(_GroupEmbedding, dim=dim), modalities)

    def forward(
        self, ids: Int[Tensor, " row"], slots: Int[Tensor, " row"]
    ) -> Float[Tensor, "row D"]:
        """Return the vectors of ids at some slots."""
        order, parts = self.divided(slots)
        shown = ids[order].split([part.count for _, _, part in parts])
        # In training all take part, so that each weight has a gradient, zero if need be.
        vectors = torch.cat(
            [
                group(own, part)
                for own, (_, group, part) in zip(shown, parts, strict=True)
                if self.training or part.count or not len(slots)
            ]
        )
        return torch.zeros_like(vectors).index_copy(0, order, vectors)


class TokenLogits(_ByModality):
    """Score every id of requested tokens of any modality."""

    def __init__(self, modalities: Iterable[ModalityTokens], dim: int, free_rank: int = 0) -> None:
        super().__init__(partial(_GroupLogits, dim=dim, free_rank=free_rank), modalities)

    def forward(
        self, x: Float[Tensor, "row D"], divided: Divided
    ) -> list[tuple[str, Tensor, Tensor]]:
        """Return (modality, row numbers, which rise, logits) for each group that has rows.

        Parameters
        ----------
        x : FloatTensor, shape (row, D)
            Decoder outputs.
        divided : tuple
            What `divided` returned for the slots of these.
        """
        order, parts = divided
        counts = [part.count for _, _, part in parts]
        vectors = x.index_select(0, order).split(counts)
        return [
            (name, rows, group(own, part))
            for rows, own, (name, group, part) in zip(
                order.split(counts), vectors, parts, strict=True
            )
            if part.count
        ]


def expected_values(module: nn.Module, x: Float[Tensor, "row D"]) -> Float[Tensor, "row number"]:
    """Return what a modality of one ordinal token is expected to be, from decoder outputs."""
    assert isinstance(module, TokenGroups)
    (group,) = module.groups
    assert isinstance(group, _GroupLogits)
    return group.expect(x)


def set_values(module: nn.Module, values: Tensor) -> None:
    """Tell the ordinal groups of a modality what their ids mean.

    Parameters
    ----------
    module : TokenGroups
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


def _groups_of(module: nn.Module) -> Iterator[TokenGroupWeights]:
    """Yield the token groups of a modality."""
    assert isinstance(module, TokenGroups)
    for group in module.groups:
        assert isinstance(group, TokenGroupWeights)
        yield group


def _by_group(module: nn.Module, values: Tensor) -> Iterator[tuple[TokenGroupWeights, Tensor]]:
    """Yield each ordinal group with its part of the values."""
    for group in _groups_of(module):
        if group.group.kind == "ordinal":
            yield group, values[: group.group.n_tokens, : group.group.vocab_size]
            values = values[group.group.n_tokens :]
