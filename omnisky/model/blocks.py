"""Transformer blocks of the 4M/AION kind: pre-norm, QK-norm, gated MLP, no biases.

Shapes: B objects, N encoder slots, M decoder slots, D width. Masks are True where a slot may be
attended to. Parameter names follow the released AION-1 checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from omnisky.model.fast.packing import Packed
from omnisky.model.fast.sparing import attend_normed, gated_of_normed, linear_of_normed

__all__ = [
    "CrossAttention",
    "DecoderBlock",
    "EncoderBlock",
    "GatedMLP",
    "MeanAttention",
    "SelfAttention",
    "check_compiler",
    "compiled",
    "default_device",
    "norm",
    "usable_device",
    "xavier",
]

# Reasons of torch that go on to list all devices, functions or kernels there are.
_LISTS = ("Expected one of", "Could not run", "device() received an invalid")


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a block, fused by torch.compile when it is first called.

    All blocks of a size share one graph, as their weights are inputs to it; numbers of objects and
    tokens are symbols in it, so that batches of other shapes are not compiled again. A few graphs
    there are: with and without a mask, of one or several rows, by number format. torch keeps eight,
    and computes what would need more as it is written.
    """
    return torch.compile(function, dynamic=True)


def check_compiler(device: torch.device) -> None:
    """Compile the sum of two numbers.

    Raises
    ------
    OSError
        If that does not work on this machine.
    """
    tried = torch.compile(lambda x: x + 1, options={"fx_graph_cache": False})
    try:
        tried(torch.zeros(2, device=device))
    except Exception as error:  # whatever is amiss: torch has a class of its own for each
        last = str(error).strip().splitlines() or [type(error).__name__]
        needs = "a C++ compiler (g++ or clang++; CXX names another)"
        if device.type != "cpu":
            needs = "Triton and a C compiler"
        raise OSError(
            f"torch.compile does not work here ({last[0]}): on {device.type} it needs {needs}. "
            "Install it, or do without compiling"
        ) from error


def default_device() -> str:
    """Return a CUDA device where there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(device: str | torch.device | None) -> torch.device:
    """Return a device on which a number can be put: a CUDA device where there is one, for None.

    Raises
    ------
    ValueError
        If this machine, or this build of torch, has no such device.
    """
    device = default_device() if device is None else device
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()
    except Exception as error:  # whatever is amiss: torch has a class of its own for each
        here = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        here += ["mps"] if torch.backends.mps.is_available() else []
        why = str(error).strip().splitlines()[0]
        if why.startswith(_LISTS):
            why = "torch does not know it, or is built without it"
        raise ValueError(
            f"cannot compute on {str(device)!r} ({why}); this machine has "
            f"{', '.join(here)}. Choose one of them, or install torch for that device"
        ) from error
    return chosen


class _Block(nn.Module):
    """Add what its parts say to the vectors; in training a random share of it is left out."""

    # How one trains, not what the model is: no part of the configuration or the checkpoint.
    dropout = 0.0
    recompute = False
    compiled = False
    # What a kind of block does with the vectors and what else it is given.
    _compute: Callable[..., Tensor]

    def forward(
        self, x: Float[Tensor, "B N D"], *given: Tensor | Packed | None
    ) -> Float[Tensor, "B N D"]:
        """Compute the block; see `_compute` of its kind for what it is given."""
        # In training only: evaluation is short, and would need graphs of its own.
        fused = self.compiled and self.training
        compute = compiled(type(self)._compute) if fused else type(self)._compute
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return compute(self, x, *given)
        # Inside forward, so that weights divided among processes are put together before.
        random = bool(self.dropout)
        again = checkpoint(compute, self, x, *given, use_reentrant=False, preserve_rng_state=random)
        assert isinstance(again, Tensor)
        return again

    def _add(self, x: Tensor, said: Tensor) -> Tensor:
        return x + F.dropout(said, self.dropout, self.training) if self.dropout else x + said


def norm(dim: int) -> nn.LayerNorm:
    """Return a LayerNorm without bias."""
    return nn.LayerNorm(dim, eps=1e-6, bias=False)


def _hearable(mask: Tensor | Packed | None) -> Bool[Tensor, "B 1 _ N"] | Packed | None:
    """Return a mask for all heads under which each row may attend to something."""
    if mask is None or isinstance(mask, Packed):
        return mask
    # A row that may attend to nothing (padding) would be NaN; it attends everywhere instead and is
    # never read.
    return (mask | ~mask.any(-1, keepdim=True)).unsqueeze(1)


class SelfAttention(nn.Module):
    """Multi-head self-attention of vectors that go through a normalisation before."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.q_norm = norm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = norm(dim // num_heads) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B _ N"] | Packed | None,
        before: nn.Module,
    ) -> Float[Tensor, "B N D"]:
        qkv = linear_of_normed(x, before, self.qkv).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.unbind(2)
        return self.proj(attend_normed((q, k, v), (self.q_norm, self.k_norm), _hearable(mask)))


class MeanAttention(SelfAttention):
    """What AION-1 0.0.2 does in the decoder: all slots are blocked, so that each hears the mean.

    Every slot asked for counts, of whatever modality. Queries and keys play no part. One object a
    row: `packs` sees to it.
    """

    def forward(
        self, x: Tensor, mask: Tensor | Packed | None, before: nn.Module
    ) -> Float[Tensor, "B N D"]:
        v = linear_of_normed(x, before, self.qkv).chunk(3, dim=-1)[2]
        return self.proj(v.mean(1, keepdim=True).expand_as(v))


class CrossAttention(nn.Module):
    """Multi-head attention of decoder slots to the encoder's context, both normalised before."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.q_norm = norm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = norm(dim // num_heads) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B M D"],
        context: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B _ N"] | Packed | None,
        before: tuple[nn.Module, nn.Module],
    ) -> Float[Tensor, "B M D"]:
        q = linear_of_normed(x, before[0], self.q).unflatten(-1, (self.num_heads, -1))
        kv = linear_of_normed(context, before[1], self.kv, shared=True)
        k, v = kv.unflatten(-1, (2, self.num_heads, -1)).unbind(2)
        return self.proj(attend_normed((q, k, v), (self.q_norm, self.k_norm), _hearable(mask)))


class GatedMLP(nn.Module):
    """SwiGLU: ``fc2(SiLU(fc1 x) * fc3 x)`` (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, dim: int, ratio: float) -> None:
        super().__init__()
        hidden = int(2 * ratio * dim / 3)
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)
        self.fc3 = nn.Linear(dim, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))


class EncoderBlock(_Block):
    """Self-attention, then MLP."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        self.attn = SelfAttention(dim, num_heads, qk_norm)
        self.norm2 = norm(dim)
        self.mlp = GatedMLP(dim, mlp_ratio)

    def _compute(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B _ N"] | Packed | None,
    ) -> Float[Tensor, "B N D"]:
        x = self._add(x, self.attn(x, mask, self.norm1))
        return self._add(x, gated_of_normed(x, self.norm2, self.mlp))


class DecoderBlock(_Block):
    """Self-attention among the requested slots, cross-attention to the context, then MLP."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, qk_norm: bool, *, hear_mean: bool = False
    ) -> None:
        super().__init__()
        self.norm1 = norm(dim)
        attention = MeanAttention if hear_mean else SelfAttention
        self.self_attn = attention(dim, num_heads, qk_norm)
        self.query_norm = norm(dim)
        self.context_norm = norm(dim)
        self.cross_attn = CrossAttention(dim, num_heads, qk_norm)
        self.norm2 = norm(dim)
        self.mlp = GatedMLP(dim, mlp_ratio)

    def _compute(
        self,
        x: Float[Tensor, "B M D"],
        context: Float[Tensor, "B N D"],
        self_mask: Bool[Tensor, "B _ M"] | Packed | None,
        context_mask: Bool[Tensor, "B _ N"] | Packed | None,
    ) -> Float[Tensor, "B M D"]:
        x = self._add(x, self.self_attn(x, self_mask, self.norm1))
        before = (self.query_norm, self.context_norm)
        x = self._add(x, self.cross_attn(x, context, context_mask, before))
        return self._add(x, gated_of_normed(x, self.norm2, self.mlp))


def initialise(module: nn.Module) -> None:
    """Initialise in the MAE manner: Xavier uniform, fused matrices as separate ones."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear):
            xavier(child.weight, name)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
    torch.nn.Module.train(module, True)


def xavier(weight: Tensor, name: str, generator: torch.Generator | None = None) -> None:
    """Fill the weight of a linear map; its name tells how many maps are fused in it."""
    parts = 3 if name.endswith("qkv") else 2 if name.endswith(".kv") else 1
    for part in weight.chunk(parts):
        nn.init.xavier_uniform_(part, generator=generator)
