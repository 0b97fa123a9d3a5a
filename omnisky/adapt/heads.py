"""What sits on the encoder: a linear probe, and queries that attend to its tokens.

Shapes: K members of an ensemble, B objects, S slots, D width, M queries, T targets or classes,
V input patterns ("views").
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.adapt.inputs import View, encode, take

__all__ = ["EnsembleHead", "HeadShape", "Unit"]

# The attentive part may change the scale of the linear one by e^±3.
_LOG_SCALE_SPAN = 3.0
# Hidden layers between the first and the last; pooled features beyond this many sigma are cut.
_MIDDLE_LAYERS, _FARTHEST = 2, 8.0
# Objects encoded and predicted at a time, for memory.
_CHUNK = 2048


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
    queries: int = 8
    value_dim: int = 32
    hidden: int = 256


class EnsembleHead(nn.Module):
    """Predict targets from encoder tokens, K members at once.

    Each member has two parts. A linear probe of the mean-pooled tokens, one for each input
    pattern, fitted in closed form. And, if attentive, learned queries that attend to the tokens
    (efficient probing, arXiv 2506.10178); what they bring, together with the mean of the tokens,
    is standardised and goes through an MLP. The prediction blends both parts: `share` is that of
    the attentive one, for each target. With ten labels the first part does the work, with many the
    second takes over.

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
    share: Tensor
    pooled_shift: Tensor
    pooled_scale: Tensor

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.shape = shape
        k, v, d, t = shape.members, shape.views, shape.dim, shape.outputs
        self.register_buffer("shift", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))
        self.register_buffer("weight", torch.zeros(k, v, d, t))
        self.register_buffer("offset", torch.zeros(k, v, t))
        self.register_buffer("log_scale", torch.zeros(k, v, t))
        self.register_buffer("share", torch.full((t,), float(shape.attentive)))
        if shape.attentive:
            m, e, h = shape.queries, shape.value_dim, shape.hidden
            pooled = m * e + d
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

    def standardise_tokens(self, x: Float[Tensor, "b s d"], mask: Bool[Tensor, "b s"]) -> None:
        """Learn mean and spread of the tokens, one number a channel."""
        present = x[mask]
        self.shift = present.mean(0)
        spread = present.std(0, correction=0)
        # A channel that never changes carries nothing; one would blow up its rounding errors.
        constant = spread <= 1e-6 * (1 + self.shift.abs())
        self.scale = torch.where(constant, torch.ones_like(spread), spread)

    @torch.no_grad()
    def standardise_pooled(self, views: list[tuple[int, Tensor, Tensor]]) -> None:
        """Learn mean and spread of the pooled features, from (pattern, tokens, mask) of each view.

        Pooled over slots that differ far more than objects do, features vary little about large
        means; left so, they hold training back. A pattern not given gets those of the first.
        """
        seen = [index for index, *_ in views]
        for index, x, mask in views:
            parts = [slice(i, i + _CHUNK) for i in range(0, len(x), _CHUNK)]
            pooled = torch.cat([self._pool_all(x[part], mask[part]) for part in parts], dim=1)
            spread = pooled.std(1, correction=0)
            self.pooled_shift[:, index] = pooled.mean(1)
            self.pooled_scale[:, index] = torch.where(spread > 1e-6, spread, 1.0)
        for index in set(range(self.shape.views)) - set(seen):
            self.pooled_shift[:, index] = self.pooled_shift[:, seen[0]]
            self.pooled_scale[:, index] = self.pooled_scale[:, seen[0]]

    def pool(self, x: Float[Tensor, "b s d"], mask: Bool[Tensor, "b s"]) -> Float[Tensor, "b d"]:
        """Return the mean of the standardised tokens that are there."""
        there = mask.to(x.dtype)
        mean = torch.einsum("bsd,bs->bd", x, there) / there.sum(1, keepdim=True)
        return (mean - self.shift) / self.scale

    def forward(
        self, x: Float[Tensor, "b s d"], mask: Bool[Tensor, "b s"], view: int
    ) -> tuple[Float[Tensor, "k b t"], Float[Tensor, "k b t"]]:
        """Return location (or logits) and log-scale of each member.

        Parameters
        ----------
        x : tensor, shape (B, S, D)
            Encoder tokens.
        mask : tensor, shape (B, S)
            True where there is a token; at least one an object.
        view : int
            The input pattern these objects show.
        """
        linear = torch.einsum("bd,kdt->kbt", self.pool(x, mask), self.weight[:, view])
        location = linear + self.offset[:, view, None]
        log_scale = self.log_scale[:, view, None].expand_as(location)
        if not self.shape.attentive:
            return location, log_scale
        attended, change_scale = self._attend(x, mask, view).chunk(2, dim=-1)
        location = location + self.share * (attended - location)
        return location, log_scale + _LOG_SCALE_SPAN * torch.tanh(change_scale)

    def _pool_all(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return what the queries bring and the mean of the tokens, shape (K, B, M E + D)."""
        k, m, d = self.queries.shape
        mean = self.pool(x, mask).expand(k, -1, -1)
        x = (x - self.shift) / self.scale
        logits = x @ self.queries.reshape(k * m, d).T / d**0.5
        weights = logits.masked_fill(~mask[:, :, None], -torch.inf).softmax(dim=1)
        # Weighted sums first, values second: S times fewer products than the usual order.
        context = (weights.transpose(1, 2) @ x).transpose(0, 1)
        brought = torch.bmm(context, self.values).reshape(k, m, len(x), -1)
        return torch.cat([brought.permute(0, 2, 1, 3).reshape(k, len(x), -1), mean], dim=-1)

    def _attend(self, x: Tensor, mask: Tensor, view: int) -> Tensor:
        """Return the output of the trained part, shape (K, B, 2 T)."""
        shift, scale = self.pooled_shift[:, view, None], self.pooled_scale[:, view, None]
        pooled = (self._pool_all(x, mask) - shift) / scale
        hidden = pooled.clamp(-_FARTHEST, _FARTHEST) + self.pattern[:, view, None]
        hidden = F.gelu(torch.baddbmm(self.inner_bias, hidden, self.inner))
        for bias, weight in zip(self.middle_bias, self.middle, strict=True):
            hidden = F.gelu(torch.baddbmm(bias, hidden, weight))
        return torch.baddbmm(self.outer_bias, hidden, self.outer)


@dataclass(frozen=True)
class Unit:
    """Hold a head and the encoder it belongs to.

    Parameters
    ----------
    head : EnsembleHead
        What predicts.
    network : module, optional
        The encoder; none for plain arrays.
    tuned : bool
        True if the encoder is this unit's own and not the pretrained one.
    """

    head: EnsembleHead
    network: Any = None
    tuned: bool = False

    @torch.no_grad()
    def run(self, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Return location and log-scale of each member, shape (member, row, target)."""
        # In float64 a prediction does not depend on which objects it is batched with.
        exact = copy.deepcopy(self.head).double().eval()
        outputs = []
        for part in self._chunks(view):
            x, mask = encode(self.network, part).features()
            outputs.append([o.cpu().numpy() for o in exact(x.double(), mask, view.index)])
        location, log_scale = (np.concatenate(o, axis=1) for o in zip(*outputs, strict=True))
        return location, log_scale

    def _chunks(self, view: View) -> Iterator[View]:
        """Cut a view; encoder outputs it carries came from the pretrained encoder."""
        for i in range(0, len(view.rows), _CHUNK):
            cut = slice(i, i + _CHUNK)
            rows = view.rows[cut]
            if view.x is None or view.mask is None or self.tuned:
                assert view.tokens is not None, "a view has tokens or features"
                yield View(index=view.index, rows=rows, tokens=take(view.tokens, cut))
            else:
                yield View(index=view.index, rows=rows, x=view.x[cut], mask=view.mask[cut])
