"""The few things blocks do with vectors, each in the way that is fast for its size and device.

For use, not training: nothing here is differentiable. Modules that are not the plain ones, of
another device or shape, or under autocast, are simply called.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.fast.compiling import random_tensors
from omnisky.model.fast.between import chances, gated, normed_heads
from omnisky.model.fast.few import FewKernels, few_kernels
from omnisky.model.fast.sparing import plain_norm

if TYPE_CHECKING:
    from omnisky.model.blocks import GatedMLP

__all__ = [
    "add_mlp",
    "add_product",
    "attend_densely",
    "attend_normed_densely",
    "attends_by_object",
    "product",
    "warn_if_imitated",
]

_ALL = slice(None)
# Vectors that a product made for many of them is not faster for.
_FEW = {torch.float32: 48, torch.bfloat16: 24}
# Products of a query with a key, beyond which matrix products are faster.
_FEW_SCORES = 1 << 15
# Scores in bfloat16 at a time.
_SCORES = 1 << 22


def product(
    x: Float[Tensor, "... in"], linear: nn.Linear, norm: nn.Module, outputs: slice = _ALL
) -> Tensor:
    """Return ``linear(norm(x))``, shape (..., out).

    Parameters
    ----------
    x : FloatTensor, shape (..., in)
        Vectors, of the type of the weights.
    linear : Linear
        Without bias.
    norm : Module
        What comes before.
    outputs : slice
        Which outputs to compute (all).
    """
    kernels = _for_few(x, linear, norm=norm)
    if kernels is None:
        return _linear(linear, _normed(x, norm), outputs)
    assert isinstance(norm, nn.LayerNorm)
    weight = linear.weight[outputs]
    return kernels.product(_rows(x), weight, gain=norm.weight, eps=norm.eps).unflatten(
        0, x.shape[:-1]
    )


def add_product(x: Float[Tensor, "... out"], said: Tensor, linear: nn.Linear) -> Tensor:
    """Return ``x + linear(said)``.

    Parameters
    ----------
    x : FloatTensor, shape (..., out)
        Vectors, of the type of the weights.
    said : FloatTensor, shape (..., in)
        What is multiplied.
    linear : Linear
        Without bias.
    """
    kernels = _for_few(said, linear) if x.dtype == said.dtype else None
    if kernels is None:
        return x + _linear(linear, said)
    return kernels.product(_rows(said), linear.weight, added=_rows(x)).view(x.shape)


def add_mlp(x: Float[Tensor, "... D"], mlp: GatedMLP, norm: nn.Module) -> Float[Tensor, "... D"]:
    """Return ``x + mlp(norm(x))``."""
    kernels = _for_few(x, mlp.fc1, mlp.fc3, norm=norm)
    if kernels is None:
        normed = _normed(x, norm)
        opens, says = _linear(mlp.fc1, normed), _linear(mlp.fc3, normed)
        hidden = gated(opens, says) if _here(x) else F.silu(opens, inplace=True).mul_(says)
        return x + _linear(mlp.fc2, hidden)
    assert isinstance(norm, nn.LayerNorm)
    hidden = kernels.gate(_rows(x), norm.weight, norm.eps, mlp.fc1.weight, mlp.fc3.weight)
    return add_product(x, hidden.unflatten(0, x.shape[:-1]), mlp.fc2)


def attend_densely(
    q: Float[Tensor, "B H M d"], k: Float[Tensor, "B H N d"], v: Float[Tensor, "B H N d"]
) -> Float[Tensor, "B H M d"]:
    """Attend without a mask, in the way that is fast on this device."""
    few = q.numel() // q.shape[-1] * k.shape[-2] <= _FEW_SCORES
    if few and q.device.type == "cpu" and _used():
        kernels = few_kernels()
        if kernels is not None and kernels.hears(q, k, v):
            return kernels.attend(q, k, v)
    if q.dtype != torch.bfloat16 or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    if _slow_in_bfloat16():
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)
    return _attend_by_object(q * q.shape[-1] ** -0.5, k, v)


def attend_normed_densely(
    q: Float[Tensor, "B M H d"],
    k: Float[Tensor, "B N H d"],
    v: Float[Tensor, "B N H d"],
    norms: tuple[nn.Module, nn.Module],
) -> Float[Tensor, "B M H d"]:
    """Attend without a mask, after queries and keys are normalised each by its own norm."""
    plain = plain_norm(norms[0]) and plain_norm(norms[1])
    many = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[1] > _FEW_SCORES
    if not (plain and many and attends_by_object(q)):
        q, k = norms[0](q), norms[1](k)
        return attend_densely(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
    assert isinstance(norms[0], nn.LayerNorm)
    assert isinstance(norms[1], nn.LayerNorm)
    queries = normed_heads(q, norms[0].weight.float(), norms[0].eps, q.shape[-1] ** -0.5)
    keys = normed_heads(k, norms[1].weight.float(), norms[1].eps)
    return _attend_by_object(queries, keys, v.transpose(1, 2)).transpose(1, 2)


def attends_by_object(x: Tensor) -> bool:
    """Tell whether heads like these attend object by object: in bfloat16 on a CPU that has it."""
    return _here(x) and x.dtype == torch.bfloat16 and not _slow_in_bfloat16()


def _attend_by_object(q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "B H M d"]:
    """Attend in bfloat16 on a CPU, where the fused kernel is slower than in float32.

    Queries are multiplied by one over the root of d before. Scores of some heads of one object stay
    in cache (measured, docs/explanation/speed.md).
    """
    # As the product after it takes them: heads beside each other.
    out = q.new_empty(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).transpose(1, 2)
    step = max(1, min(q.shape[1], _SCORES // max(1, q.shape[2] * k.shape[2])))
    scores = q.new_empty(step, q.shape[2], k.shape[2])
    for b in range(len(q)):
        for first in range(0, q.shape[1], step):
            part = slice(first, first + step)
            room = scores[: q.shape[1] - first]
            found = torch.bmm(q[b, part], k[b, part].mT, out=room)
            out[b, part] = chances(found, None) @ v[b, part]
    return out


def warn_if_imitated(device: torch.device, dtype: torch.dtype, instead: str) -> None:
    """Warn if a device has no arithmetic of a number format, here bfloat16.

    Parameters
    ----------
    device : torch.device
        Where something is to be computed.
    dtype : torch.dtype
        In what.
    instead : str
        What the caller calls the format that is fast.

    Warns
    -----
    UserWarning
        If torch imitates it.
    """
    if dtype != torch.bfloat16:
        return
    imitated = device.type == "cpu" and _slow_in_bfloat16()
    if device.type == "cuda":
        with torch.cuda.device(device):
            imitated = not torch.cuda.is_bf16_supported(including_emulation=False)
    if imitated:
        what = "processor" if device.type == "cpu" else "accelerator"
        warnings.warn(
            f"this {what} has no bfloat16 arithmetic, so it is imitated, several times slower; use "
            f"{instead}, or a device that has it",
            UserWarning,
            stacklevel=3,
        )


def _used() -> bool:
    """Tell whether nothing is trained, and types are those of the tensors."""
    return not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))


def _here(x: Tensor) -> bool:
    """Tell whether vectors are worked on by what is compiled for this processor."""
    return x.device.type == "cpu" and _used()


def _normed(x: Tensor, norm: nn.Module) -> Tensor:
    """Normalise many vectors."""
    if not (_here(x) and plain_norm(norm) and x.dtype in _FEW):
        return norm(x)
    rows = x.reshape(1, -1, 1, x.shape[-1])
    return normed_heads(rows, norm.weight.float(), norm.eps).reshape(x.shape)


def _plain_linear(module: nn.Module) -> bool:
    """Tell whether a module is its weights and nothing more."""
    return type(module) is nn.Linear and module.bias is None and not module._forward_hooks


def _rows(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1]).contiguous()


def _for_few(x: Tensor, *linears: nn.Module, norm: nn.Module | None = None) -> FewKernels | None:
    """Return the kernels for few vectors if these are few, and what is done is what they do."""
    if x.device.type != "cpu" or not 0 < x.numel() // x.shape[-1] <= _FEW.get(x.dtype, 0):
        return None
    if not _used():
        return None
    if norm is not None and not (plain_norm(norm) and norm.weight.dtype == x.dtype):
        return None
    kernels = few_kernels()
    if kernels is None:
        return None
    weights = [m.weight for m in linears if isinstance(m, nn.Linear) and _plain_linear(m)]
    plain = len(weights) == len(linears) and all(w.dtype == x.dtype for w in weights)
    return kernels if plain and kernels.fits(*weights) else None


def _linear(linear: nn.Linear, x: Tensor, outputs: slice = _ALL) -> Tensor:
    """Multiply many vectors."""
    if not _plain_linear(linear):
        return linear(x)[..., outputs]
    weight = linear.weight[outputs]
    if _used() and x.device.type == weight.device.type == "cpu" and x.dtype == weight.dtype:
        if x.dtype == torch.float32 and x.numel():
            return _multiply_float32()(x, weight)
        if x.dtype == torch.bfloat16 and _slow_in_bfloat16():
            return _multiply_float32()(x.float(), weight.float()).to(x.dtype)
    return F.linear(x, weight)


@cache
def _slow_in_bfloat16() -> bool:
    """Tell whether this processor has no products of bfloat16, so that torch imitates them."""
    tell = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return tell is not None and not tell()


@cache
def _multiply_float32() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the faster product of float32: oneDNN's, where torch has it; weights stay as they are.

    Torch by itself asks another library for float32, which is slower on some processors.
    """
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if found is None or not torch.backends.mkldnn.is_available():
        return F.linear

    def multiply(x: Tensor, weight: Tensor) -> Tensor:
        return found(x, weight, None, "none", [], "")

    random = random_tensors()
    x, weight = random(2, 40, 64), random(48, 64)
    try:
        with torch.no_grad():
            close = torch.allclose(multiply(x, weight), F.linear(x, weight), rtol=1e-4, atol=1e-4)
    except RuntimeError:
        return F.linear
    return multiply if close else F.linear
