"""How to sample: which scheme, in how many steps, from which part of the distribution, how guided.

Guidance moves the logits away from what the network says without some of the conditions:

* a number w: ``(1 + w) * given - w * nothing given`` (Ho & Salimans 2022, arXiv:2207.12598, with
  logits in place of scores), so that 0 is no guidance;
* weights w_i of several modalities: ``others + sum_i w_i * (others and i - others)``, where others
  are the modalities given without a weight (a conjunction of conditions, Liu et al. 2022,
  arXiv:2206.01714). Weights of 1 treat the modalities as independent evidence.

The network was trained with any subset of modalities, so leaving a condition out needs no training.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from numbers import Real
from typing import Any, Literal, TypeAlias, TypedDict, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Branch", "Sampling", "SamplingOptions", "draw", "filtered"]

_Method: TypeAlias = Literal["roar", "maskgit", "autoregressive"]
_Schedule: TypeAlias = Literal["geometric", "linear", "cosine"]
_Context: TypeAlias = Literal["fresh", "append"]

_STEPS = 12
_OPTIONAL = ("steps", "top_k")
# Temperatures and weights of guidance beyond it, or temperatures below one over it, leave single
# precision.
_MOST = 1000


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling`, as options of `Model.generate`."""

    n_samples: int
    method: _Method
    steps: int | None
    schedule: _Schedule | None
    temperature: float
    top_k: int | None
    top_p: float | None
    guidance: float | Mapping[str, float]
    context: _Context
    seed: int


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class Branch:
    """State what part one reading of an object has in guided logits.

    Parameters
    ----------
    hidden : tuple of str
        Modalities given that this reading leaves out, sorted.
    weight : float
        Factor of its logits; those of all branches add up to 1.
    """

    hidden: tuple[str, ...]
    weight: float


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Say how to sample: the options of `Model.generate`.

    Parameters
    ----------
    n_samples : int
        Joint samples an object.
    method : {"roar", "maskgit", "autoregressive"}
        Order in which the tokens of a modality are drawn. "roar": ordinal ones as they come, then
        codes in an order drawn for each sample. "maskgit": all that are left are tried at each
        step and the most confident kept. "autoregressive": one by one as they come.
    steps : int, optional
        Decoder steps of a modality of many tokens, 12 by default; more is slower and more coherent.
        Not for "autoregressive".
    schedule : {"geometric", "linear", "cosine"}, optional
        How many tokens are drawn in each step; "cosine" for "maskgit" and "geometric" for "roar" by
        default, see `counts`.
    temperature : float
        1 samples the model's distribution, less concentrates it, 0 takes the most probable.
    top_k : int, optional
        Draw from this many most probable ids only.
    top_p : float, optional
        Draw from the most probable ids that together reach this probability only.
    guidance : float or mapping of str to float
        How far to go beyond what the conditions say, or weights of modalities given; see the top of
        this module.
    context : {"fresh", "append"}
        "fresh" reads all tokens anew after each step, as the network was trained. "append" keeps
        what was read and reads drawn tokens after it: much faster, approximate.
    seed : int
        Seed of the draws, which depend on seed, target, object and sample only.

    Raises
    ------
    ValueError
        If a value is unknown, out of range, or says nothing together with another.
    TypeError
        If one that counts is no whole number.
    """

    n_samples: int = 16
    method: _Method = "roar"
    steps: int | None = None
    schedule: _Schedule | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    guidance: float | Mapping[str, float] = 0.0
    context: _Context = "fresh"
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Sampling:
        """Return the sampling with these options; raise `TypeError` for an unknown one."""
        known = [field.name for field in fields(cls)]
        if strange := [name for name in options if name not in known]:
            raise TypeError(
                f"generate has no option {', '.join(strange)}; it has {', '.join(known)}"
            )
        return cls(**options)

    def __post_init__(self) -> None:
        for name in ("n_samples", "steps", "top_k", "seed"):
            value = getattr(self, name)
            if not (_whole(value) or (value is None and name in _OPTIONAL)):
                raise TypeError(f"{name} must be a whole number; found {value!r}")
        for name in ("temperature", "top_p"):
            value = getattr(self, name)
            if not (_number(value) or (value is None and name == "top_p")):
                raise TypeError(f"{name} must be a number; found {value!r}")
        for name, kind in (("method", _Method), ("context", _Context), ("schedule", _Schedule)):
            value, allowed = getattr(self, name), get_args(kind)
            if value not in allowed and not (name == "schedule" and value is None):
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; found {value!r}")
        steps = 1 if self.steps is None else self.steps
        if self.n_samples < 1 or steps < 1 or self.seed < 0:
            raise ValueError(
                "n_samples and steps must be at least 1, and seed at least 0; found "
                f"{self.n_samples}, {self.steps}, {self.seed}"
            )
        if self.temperature and not 1 / _MOST <= self.temperature <= _MOST:
            raise ValueError(
                f"temperature must lie from {1 / _MOST} to {_MOST}, or be 0 for the most probable "
                f"id; found {self.temperature}"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or left out; found {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(
                f"top_p must lie above 0 and up to 1, or be left out; found {self.top_p}"
            )
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.temperature == 0 and (self.top_k is not None or self.top_p is not None):
            raise ValueError(
                "temperature=0 takes the most probable id, so top_k and top_p do nothing; leave "
                f"them out. Found {self.top_k}, {self.top_p}"
            )
        if self.method == "autoregressive" and (self.steps or self.schedule):
            raise ValueError(
                "method='autoregressive' draws one token a step, so steps and schedule say "
                f"nothing; leave them out. Found {self.steps}, {self.schedule}"
            )
        weights = self.guidance.values() if isinstance(self.guidance, Mapping) else [self.guidance]
        if not weights or not all(_number(w) and abs(w) <= _MOST for w in weights):
            raise ValueError(
                f"guidance is a finite number up to {_MOST}, or such numbers by modality given; "
                f"found {self.guidance!r}"
            )

    def counts(self, n_tokens: int) -> list[int]:
        """Return how many tokens are drawn in each step; they add up to `n_tokens`.

        Geometric steps grow by a constant factor, so that the first tokens are drawn one by one
        (the paper of AION-1 reveals the same share of what is left each time, in the other order).
        Linear and cosine ones are those of 4M (Mizrahi et al. 2023, arXiv:2312.06647).
        """
        if self.method == "autoregressive":
            return [1] * n_tokens
        steps = min(self.steps or _STEPS, n_tokens)
        schedule = self.schedule or ("cosine" if self.method == "maskgit" else "geometric")
        if schedule == "geometric":
            edges, last = [], 0
            for i in range(steps):
                share = n_tokens ** (i / (steps - 1)) if steps > 1 else n_tokens
                last = max(round(share), last + 1)
                edges.append(last)
            edges[-1] = n_tokens
            return [b - a for a, b in zip([0, *edges[:-1]], edges, strict=True)]
        if schedule == "linear":
            sizes = [n_tokens * (i + 1) // steps - n_tokens * i // steps for i in range(steps)]
            return sorted(sizes, reverse=True)
        share = [0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
        sizes, left = [], n_tokens
        for before, after in pairwise(share):
            # Rounding may ask for more than there are left; 4M then goes below zero.
            sizes.append(min(round(n_tokens * (before - after)), left))
            left -= sizes[-1]
        # A step in which nothing would be drawn is no step.
        return [size for size in (*sizes, left) if size]

    def branches(self, given: Collection[str]) -> list[Branch]:
        """Return the readings to make and how their logits are mixed, without those of weight 0.

        Raises
        ------
        ValueError
            If a modality with a weight is not given.
        """
        if not isinstance(self.guidance, Mapping):
            nothing = tuple(sorted(given))
            mixed = [Branch((), 1 + self.guidance), Branch(nothing, -self.guidance)]
            return [branch for branch in mixed if branch.weight]
        if strange := [name for name in self.guidance if name not in given]:
            raise ValueError(
                f"guidance has weights of {', '.join(strange)}, which is not given; given are "
                f"{', '.join(given)}"
            )
        weighted = sorted(self.guidance)
        mixed = [Branch(tuple(weighted), 1 - sum(self.guidance.values()))]
        for name, weight in sorted(self.guidance.items()):
            mixed.append(Branch(tuple(other for other in weighted if other != name), weight))
        return [branch for branch in mixed if branch.weight]


def filtered(logits: Float[Tensor, "row id"], sampling: Sampling) -> Float[Tensor, "row id"]:
    """Return logits that are -inf beyond `top_k` and `top_p`, which look at temperature 1."""
    if sampling.top_k is not None and sampling.top_k < logits.shape[1]:
        least = logits.topk(sampling.top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if sampling.top_p is not None:
        ordered, place = logits.sort(dim=1, descending=True)
        chance = ordered.softmax(1)
        # The first id to cross the threshold is kept.
        ordered = ordered.masked_fill(chance.cumsum(1) - chance > sampling.top_p, -math.inf)
        logits = torch.empty_like(logits).scatter_(1, place, ordered)
    return logits


def draw(
    logits: Float[Tensor, "row id"], uniform: Float[Tensor, "row draw"], sampling: Sampling
) -> tuple[Int[Tensor, "row draw"], Float[Tensor, "row id"]]:
    """Draw ids by inverting the cumulative distribution at uniform numbers.

    Returns
    -------
    ids : LongTensor, shape (row, draw)
        What was drawn.
    chances : FloatTensor, shape (row, id)
        Probabilities drawn from; at temperature 0 those of temperature 1.
    """
    logits = filtered(logits.float(), sampling)
    chances = torch.softmax(logits / (sampling.temperature or 1.0), dim=1)
    if sampling.temperature == 0:
        return chances.argmax(1, keepdim=True).expand(uniform.shape), chances
    total = chances.double().cumsum(1)
    ids = torch.searchsorted(total, uniform.double() * total[:, -1:], right=True)
    return ids.clamp(max=chances.shape[1] - 1), chances
