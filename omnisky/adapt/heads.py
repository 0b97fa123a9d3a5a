"""What sits on the encoder: a linear probe, and queries that attend to its tokens.

Shapes: K members of an ensemble, B objects, S slots, D width, M queries, T targets or classes,
A answers, V input patterns ("views").
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.adapt.inputs import Features, View, encode
from omnisky.adapt.measured import DirectPart

__all__ = ["ENOUGH", "EnsembleHead", "HeadShape", "Unit", "blends_of"]

# The attentive part may change the scale of the linear one by e^±3.
_LOG_SCALE_SPAN = 3.0
# Hidden layers between the first and the last; pooled features beyond this many sigma are cut.
_MIDDLE_LAYERS, _FARTHEST = 2, 8.0
# Objects encoded and predicted at a time, for memory.
_CHUNK = 2048
# Each share of a blend is a multiple of one part in so many; objects that choose one, at least.
_BLEND_STEPS, ENOUGH = 4, 100


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """State the sizes of an `EnsembleHead`.

    Parameters
    ----------
    dim : int
        Width D of the encoder's tokens.
    outputs : int
        Number T of targets, or of classes.
    views : int
        Number V of input patterns.
    members : int
        Number K of members.
    attentive : bool
        With queries and MLP, or the linear probe alone.
    asks : tuple of str
        Quantities the decoder is asked for beside.
    answers : int
        Numbers it answers with, A in all.
    measured, pixels : int
        Measured numbers for a `DirectPart`, none without one, and how many of them are pixels.
    queries : int
        Number M of queries of each member.
    value_dim : int
        Width of what each query brings.
    hidden : int
        Width of the MLP.
    """

    dim: int
    outputs: int
    views: int
    members: int
    attentive: bool
    asks: tuple[str, ...] = ()
    answers: int = 0
    measured: int = 0
    pixels: int = 0
    queries: int = 8
    value_dim: int = 32
    hidden: int = 256


class EnsembleHead(nn.Module):
    """Predict targets from encoder tokens, K members at once.

    Each member has up to three parts. A linear probe of the mean-pooled tokens, one for each input
    pattern, fitted in closed form. And, if attentive, learned queries that attend to the tokens
    (efficient probing, arXiv 2506.10178); what they bring, together with the mean of the tokens,
    is standardised and goes through an MLP. And, beside it, a network on the measured numbers
    themselves, a `DirectPart`. The prediction blends them, by `shares` for each input pattern and
    target. With ten labels the first part does the work, with many the others take over. The first
    two parts of an attentive head also see the answers: what the pretrained decoder expects the
    quantities to be that were not given. A model that was pretrained with a label like the one
    wanted has most of the work done.

    Parameters
    ----------
    shape : HeadShape
        Sizes.
    """

    shift: Tensor
    scale: Tensor
    weight: Tensor
    offset: Tensor
    log_scale: Tensor
    shares: Tensor
    answer_shift: Tensor
    answer_scale: Tensor
    pooled_shift: Tensor
    pooled_scale: Tensor

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        k, v, d, t = shape.members, shape.views, shape.dim, shape.outputs
        a = shape.answers
        self.register_buffer("shift", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))
        self.register_buffer("answer_shift", torch.zeros(a))
        self.register_buffer("answer_scale", torch.ones(a))
        self.register_buffer("weight", torch.zeros(k, v, d + a, t))
        self.register_buffer("offset", torch.zeros(k, v, t))
        self.register_buffer("log_scale", torch.zeros(k, v, t))
        parts = 1 + shape.attentive + bool(shape.measured)
        self.register_buffer("shares", torch.zeros(parts, v, t))
        self.shares[int(shape.attentive)] = 1.0
        self.direct: DirectPart | None = None
        if shape.attentive:
            m, e, h = shape.queries, shape.value_dim, shape.hidden
            pooled = m * e + d + a
            self.register_buffer("pooled_shift", torch.zeros(k, v, pooled))
            self.register_buffer("pooled_scale", torch.ones(k, v, pooled))
            # Sharp from the start: queries that look alike everywhere learn to differ slowly.
            self.queries = nn.Parameter(2.0 * torch.randn(k, m, d))
            self.values = nn.Parameter(torch.randn(k * m, d, e) / d**0.5)
            self.pattern = nn.Parameter(torch.zeros(k, v, pooled))
            self.inner = nn.Parameter(torch.randn(k, pooled, h) / pooled**0.5)
            self.inner_bias = nn.Parameter(torch.zeros(k, 1, h))
            self.middle = nn.Parameter(torch.randn(_MIDDLE_LAYERS, k, h, h) * (2 / h) ** 0.5)
            self.middle_bias = nn.Parameter(torch.zeros(_MIDDLE_LAYERS, k, 1, h))
            self.outer = nn.Parameter(torch.zeros(k, h, 2 * t))
            self.outer_bias = nn.Parameter(torch.zeros(k, 1, 2 * t))
            if shape.measured:
                self.direct = DirectPart(k, shape.measured, shape.pixels, t)

    def standardise(self, features: Features) -> None:
        """Learn mean and spread of the tokens and of the answers, one number a channel."""
        self.shift, self.scale = _shift_and_scale(features.x[features.mask])
        self.answer_shift, self.answer_scale = _shift_and_scale(features.answers)

    @torch.no_grad()
    def standardise_pooled(self, views: list[tuple[int, Features]]) -> None:
        """Learn mean and spread of the pooled features, from (pattern, features) of each view.

        Pooled over slots that differ far more than objects do, features vary little about large
        means; left so, they hold training back. A pattern not given gets those of the first.
        """
        seen = [index for index, *_ in views]
        for index, features in views:
            parts = [features[i : i + _CHUNK] for i in range(0, len(features), _CHUNK)]
            pooled = torch.cat([self._pool_all(part) for part in parts], dim=1)
            spread = pooled.std(1, correction=0)
            self.pooled_shift[:, index] = pooled.mean(1)
            self.pooled_scale[:, index] = torch.where(spread > 1e-6, spread, 1.0)
        for index in set(range(self.shape.views)) - set(seen):
            self.pooled_shift[:, index] = self.pooled_shift[:, seen[0]]
            self.pooled_scale[:, index] = self.pooled_scale[:, seen[0]]

    def summarise(self, features: Features) -> Float[Tensor, "b f"]:
        """Return the mean of the tokens that are there, and the answers, standardised."""
        x, there = features.x, features.mask.to(features.x.dtype)
        mean = torch.einsum("bsd,bs->bd", x, there) / there.sum(1, keepdim=True)
        answers = (features.answers - self.answer_shift) / self.answer_scale
        return torch.cat([(mean - self.shift) / self.scale, answers], dim=1)

    def forward(
        self, features: Features, view: int, frozen: Features | None = None
    ) -> tuple[Float[Tensor, "k b t"], Float[Tensor, "k b t"]]:
        """Return location (or logits) and log-scale of each member.

        Parameters
        ----------
        features : Features
            Encoder tokens, at least one an object, and answers.
        view : int
            The input pattern these objects show.
        frozen : Features, optional
            The same from the pretrained encoder, where the others are from one trained along: the
            linear part was fitted to these.
        """
        parts, log_scale = self.parts(features, view, frozen)
        return torch.einsum("pkbt,pt->kbt", parts, self.shares[: len(parts), view]), log_scale

    def parts(
        self, features: Features, view: int, frozen: Features | None = None
    ) -> tuple[Float[Tensor, "p k b t"], Float[Tensor, "k b t"]]:
        """Return what each part says, and the log-scale; see `forward`."""
        pooled = self.summarise(features if frozen is None else frozen)
        linear = torch.einsum("bd,kdt->kbt", pooled, self.weight[:, view])
        said = [linear + self.offset[:, view, None]]
        log_scale = self.log_scale[:, view, None].expand_as(linear)
        if self.shape.attentive:
            attended, change_scale = self._attend(features, view).chunk(2, dim=-1)
            said.append(attended)
            log_scale = log_scale + _LOG_SCALE_SPAN * torch.tanh(change_scale)
        if self.direct is not None:
            said.append(self.direct(features.measured))
        return torch.stack(said), log_scale

    def _pool_all(self, features: Features) -> Tensor:
        """Return what the queries bring, the mean and the answers, shape (K, B, M E + D + A)."""
        k, m, d = self.queries.shape
        mean = self.summarise(features).expand(k, -1, -1)
        x = (features.x - self.shift) / self.scale
        logits = x @ self.queries.reshape(k * m, d).T / d**0.5
        weights = logits.masked_fill(~features.mask[:, :, None], -torch.inf).softmax(dim=1)
        # Weighted sums first, values second: S times fewer products than the usual order.
        context = (weights.transpose(1, 2) @ x).transpose(0, 1)
        brought = torch.bmm(context, self.values).reshape(k, m, len(x), -1)
        return torch.cat([brought.permute(0, 2, 1, 3).reshape(k, len(x), -1), mean], dim=-1)

    def _attend(self, features: Features, view: int) -> Tensor:
        """Return the output of the trained part, shape (K, B, 2 T)."""
        shift, scale = self.pooled_shift[:, view, None], self.pooled_scale[:, view, None]
        pooled = (self._pool_all(features) - shift) / scale
        hidden = pooled.clamp(-_FARTHEST, _FARTHEST) + self.pattern[:, view, None]
        hidden = F.gelu(torch.baddbmm(self.inner_bias, hidden, self.inner))
        for bias, weight in zip(self.middle_bias, self.middle, strict=True):
            hidden = F.gelu(torch.baddbmm(bias, hidden, weight))
        return torch.baddbmm(self.outer_bias, hidden, self.outer)


def blends_of(parts: int) -> Float[Tensor, "n p"]:
    """Return all shares of so many parts that sum to one, in quarters."""
    steps = itertools.product(range(_BLEND_STEPS + 1), repeat=parts)
    quarters = [shares for shares in steps if sum(shares) == _BLEND_STEPS]
    return torch.tensor(quarters, dtype=torch.float32) / _BLEND_STEPS


def _shift_and_scale(x: Float[Tensor, "n c"]) -> tuple[Tensor, Tensor]:
    shift = x.mean(0)
    spread = (x - shift).square().mean(0).sqrt()
    # A channel that never changes carries nothing; one would blow up its rounding errors.
    constant = spread <= 1e-6 * (1 + shift.abs())
    return shift, torch.where(constant, torch.ones_like(spread), spread)


@dataclass(frozen=True)
class Unit:
    """Hold a head and its encoders.

    Parameters
    ----------
    head : EnsembleHead
        What predicts.
    network : module, optional
        The pretrained encoder; none for plain arrays.
    tuned : module, optional
        A copy that was trained along with the head.
    """

    head: EnsembleHead
    network: Any = None
    tuned: Any = None

    @torch.no_grad()
    def run(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return location and log-scale of each member, shape (member, row, target)."""
        outputs = [head(own, view.index, frozen) for head, own, frozen in self._exactly(view)]
        location, log_scale = (
            torch.cat(o, dim=1).cpu().numpy() for o in zip(*outputs, strict=True)
        )
        return location, log_scale

    @torch.no_grad()
    def parts(self, view: View) -> np.ndarray:
        """Return what each part says, mean over members, shape (part, row, target)."""
        exactly = self._exactly(view)
        said = [head.parts(own, view.index, frozen)[0] for head, own, frozen in exactly]
        return torch.cat(said, dim=2).mean(1).cpu().numpy()

    def _exactly(self, view: View) -> Iterator[tuple[EnsembleHead, Features, Features]]:
        """Yield the head, features, and those of the pretrained encoder, some rows at a time.

        In float64 a prediction does not depend on which objects it is batched with.
        """
        exact, asks = copy.deepcopy(self.head).double().eval(), self.head.shape.asks
        for i in range(0, len(view.rows), _CHUNK):
            part = view[i : i + _CHUNK]
            # What a view carries came from the pretrained encoder.
            known = part if part.computed is not None else encode(self.network, part, asks)
            own = frozen = known.features().double()
            if self.tuned is not None:
                own = encode(self.tuned, part, asks).features().double()
            yield exact, own, frozen
