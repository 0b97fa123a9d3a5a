"""What blocks compute when they are trained on a CPU, keeping little for the backward pass.

Autograd keeps what goes into each operation. Much of it is made from the rest by a cheap operation:
here only what products take and give is kept, in the type that they are computed in, and what lies
between (normalisation, gate, attention) is computed again. Whatever is kept is kept once.

Other devices have kernels of their own, and compiled blocks are spared by the compiler: there, and
with modules that are not the plain ones, the modules are simply called.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from omnisky.model.fast.between import (
    chances,
    chances_back,
    gated,
    gated_back,
    normed,
    normed_back,
    normed_heads,
    normed_heads_back,
)
from omnisky.model.fast.packing import Packed

if TYPE_CHECKING:
    from omnisky.model.blocks import GatedMLP

__all__ = ["attend_normed", "gated_of_normed", "linear_of_normed", "plain_norm"]

Gradients = tuple[Tensor | None, ...]
_Place: TypeAlias = tuple[int, slice, slice]
_ALL = slice(None)

# What torch attends with on a CPU, which also says what its backward pass needs.
_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FUSED_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def linear_of_normed(
    x: Float[Tensor, "B N D"], norm: nn.Module, linear: nn.Linear, *, shared: bool = False
) -> Float[Tensor, "B N out"]:
    """Return ``linear(norm(x))``.

    Parameters
    ----------
    x : FloatTensor, shape (B, N, D)
        Vectors.
    norm, linear : Module
        Without biases.
    shared : bool
        Whether many ask for the same vectors: then these are what is kept.
    """
    if not _plain(x, norm, linear):
        return linear(norm(x))
    assert isinstance(norm, nn.LayerNorm)
    found = _LinearOfNormed.apply(x, norm.weight, linear.weight, norm.eps, _type_of(x), shared)
    assert isinstance(found, Tensor)
    return found


def gated_of_normed(x: Float[Tensor, "B N D"], norm: nn.Module, mlp: GatedMLP) -> Tensor:
    """Return ``mlp(norm(x))``, shape (B, N, D)."""
    if not _plain(x, norm, mlp.fc1, mlp.fc2, mlp.fc3):
        return mlp(norm(x))
    assert isinstance(norm, nn.LayerNorm)
    weights = (norm.weight, mlp.fc1.weight, mlp.fc3.weight, mlp.fc2.weight)
    found = _GatedOfNormed.apply(x, *weights, (norm.eps, _type_of(x)))
    assert isinstance(found, Tensor)
    return found


def attend_normed(
    heads: tuple[Float[Tensor, "B M H d"], Float[Tensor, "B N H d"], Float[Tensor, "B N H d"]],
    norms: tuple[nn.Module, nn.Module],
    mask: Bool[Tensor, "B 1 _ N"] | Packed | None,
) -> Float[Tensor, "B M D"]:
    """Return what queries, normalised, hear of keys, normalised, and values.

    Parameters
    ----------
    heads : tuple of FloatTensor, shape (B, M or N, H, d)
        Queries, keys and values.
    norms : tuple of Module
        Of queries and of keys.
    mask : BoolTensor, shape (B, 1, M or 1, N), or Packed, optional
        True where something may be heard; each query may hear something. Or which of the vectors
        belong together, where B is 1.
    """
    q, k, v = heads
    if not (_plain(q, norms[0]) and _plain(k, norms[1]) and q.dtype == k.dtype == v.dtype):
        q, k = _normed(q, norms[0]), _normed(k, norms[1])
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return _attend(q, k, v, mask).transpose(1, 2).flatten(2)
    assert isinstance(norms[0], nn.LayerNorm)
    assert isinstance(norms[1], nn.LayerNorm)
    gains, eps = (norms[0].weight, norms[1].weight), (norms[0].eps, norms[1].eps)
    found = _AttentionOfNormed.apply(q, k, v, *gains, (mask, *eps))
    assert isinstance(found, Tensor)
    return found


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | Packed | None) -> Tensor:
    """Return what heads, shape (B, H, M or N, d), hear."""
    if not isinstance(mask, Packed):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    parts = [
        F.scaled_dot_product_attention(q[:, :, m], k[:, :, n], v[:, :, n], attn_mask=own)
        for m, n, own in mask.objects()
    ]
    return torch.cat(parts, 2)


def _normed(x: Tensor, norm: nn.Module) -> Tensor:
    """Return vectors normalised, in the type they have."""
    if not plain_norm(norm):
        return norm(x)
    # Autocast would make them float32, which attention rounds again.
    with torch.autocast(x.device.type, enabled=False):
        return F.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), None, norm.eps)


def plain_norm(module: nn.Module) -> TypeGuard[nn.LayerNorm]:
    """Tell whether a module is a normalisation by its gain and nothing more."""
    return type(module) is nn.LayerNorm and module.bias is None and not module._forward_hooks


def _plain(x: Tensor, norm: nn.Module, *linears: nn.Module) -> bool:
    """Tell whether gradients are wanted on a CPU, of modules that are what they seem."""
    if not torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    if not plain_norm(norm):
        return False
    return all(type(m) is nn.Linear and m.bias is None and not m._forward_hooks for m in linears)


def _type_of(x: Tensor) -> torch.dtype:
    """Return the type that products of these vectors are computed in."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, x.shape[-1])


class _LinearOfNormed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
        shared: bool,
    ) -> Tensor:
        ctx.eps, ctx.dtype, ctx.shared, ctx.given = eps, dtype, shared, x.dtype
        with torch.autocast("cpu", enabled=False):
            found, standard, scale = normed(x, gain, eps, dtype)
            ctx.save_for_backward(
                x if shared else standard, None if shared else scale, gain, weight
            )
            return F.linear(found, weight.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> Gradients:
        kept, scale, gain, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            if ctx.shared:
                again, kept, scale = normed(kept, gain, ctx.eps, ctx.dtype)
            else:
                again = kept * gain.to(ctx.dtype)
            said = _flat(grad_outputs[0])
            of_weight = said.T @ _flat(again) if ctx.needs_input_grad[2] else None
            of_normed = (said @ weight.to(ctx.dtype)).view(kept.shape)
            of_x, of_gain = normed_back(of_normed, kept, scale, gain, ctx.given)
        of_weight = None if of_weight is None else of_weight.to(weight.dtype)
        return of_x, of_gain, of_weight, None, None, None


class _GatedOfNormed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gain: Tensor,
        opens: Tensor,
        says: Tensor,
        joins: Tensor,
        how: tuple[float, torch.dtype],
    ) -> Tensor:
        eps, dtype = how
        ctx.dtype, ctx.given = dtype, x.dtype
        with torch.autocast("cpu", enabled=False):
            found, standard, scale = normed(x, gain, eps, dtype)
            a, b = F.linear(found, opens.to(dtype)), F.linear(found, says.to(dtype))
            ctx.save_for_backward(standard, scale, a, b, gain, opens, says, joins)
            return F.linear(gated(a, b), joins.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> Gradients:
        standard, scale, a, b, gain, opens, says, joins = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            said, again = _flat(grad_outputs[0]), _flat(standard * gain.to(ctx.dtype))
            of_hidden = said @ joins.to(ctx.dtype)
            hidden, of_a, of_b = gated_back(of_hidden, _flat(a), _flat(b))
            of_joins = said.T @ hidden if ctx.needs_input_grad[4] else None
            of_says = of_b.T @ again if ctx.needs_input_grad[3] else None
            of_opens = of_a.T @ again if ctx.needs_input_grad[2] else None
            of_normed = torch.addmm(of_b @ says.to(ctx.dtype), of_a, opens.to(ctx.dtype))
            of_normed = of_normed.view(standard.shape)
            of_x, of_gain = normed_back(of_normed, standard, scale, gain, ctx.given)
        weights = [
            None if found is None else found.to(weight.dtype)
            for found, weight in ((of_opens, opens), (of_says, says), (of_joins, joins))
        ]
        return of_x, of_gain, *weights, None


class _AttentionOfNormed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_gain: Tensor,
        k_gain: Tensor,
        how: tuple[Tensor | Packed | None, float, float],
    ) -> Tensor:
        mask, *eps = how
        ctx.eps, ctx.packed = eps, mask if isinstance(mask, Packed) else None
        kept = sums = None
        with torch.autocast("cpu", enabled=False):
            queries = normed_heads(q, q_gain, eps[0], _factor(q))
            keys, values = normed_heads(k, k_gain, eps[1]), v.transpose(1, 2)
            # As the product after it takes them: heads beside each other.
            out = q.new_empty(q.shape).transpose(1, 2)
            if q.dtype == torch.bfloat16:
                # The fused kernel is slower; here an object's scores stay in cache.
                for m, n, own in _objects(mask, q):
                    chance = chances(queries[m] @ keys[n].transpose(1, 2), own)
                    out[m] = chance @ values[n]
            elif isinstance(mask, Packed):
                found = []
                for m, n, own in _objects(mask, q):
                    out[m], part = _fused(own, queries[m], keys[n], values[n])
                    found.append(part)
                kept, sums = out, torch.cat(found, 2)
            else:
                out, sums = _FUSED(queries, keys, values, attn_mask=_added(mask, q.dtype))
                kept = out
        mask = None if ctx.packed is not None else mask
        ctx.save_for_backward(q, k, v, q_gain, k_gain, mask, sums, kept)
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Any
    ) -> Gradients:
        q, k, v, q_gain, k_gain, mask, sums, out = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            queries = normed_heads(q, q_gain, ctx.eps[0], _factor(q))
            keys, values = normed_heads(k, k_gain, ctx.eps[1]), v.transpose(1, 2)
            said = grad_outputs[0].view(q.shape).transpose(1, 2)
            if sums is not None and ctx.packed is None:
                asked = (queries, keys, values, out, sums, 0.0, False)
                mask = _added(mask, q.dtype)
                of_q, of_k, of_v = _FUSED_BACKWARD(said, *asked, attn_mask=mask)
            else:
                of_q, of_k, of_v = (torch.empty_like(t) for t in (queries, keys, values))
                for m, n, own in _objects(mask if ctx.packed is None else ctx.packed, q):
                    one = (queries[m], keys[n], values[n], said[m])
                    if sums is None:
                        of_q[m], of_k[n], of_v[n] = _attention_backward(own, *one)
                    else:
                        told = out[m], sums[:, :, m[2]]
                        of_q[m], of_k[n], of_v[n] = _fused_backward(own, *one, *told)
            of_q, of_q_gain = normed_heads_back(of_q, q, q_gain, ctx.eps[0], _factor(q))
            of_k, of_k_gain = normed_heads_back(of_k, k, k_gain, ctx.eps[1])
        return of_q, of_k, of_v.transpose(1, 2), of_q_gain, of_k_gain, None


def _objects(
    mask: Tensor | Packed | None, q: Tensor
) -> Iterator[tuple[_Place, _Place, Tensor | None]]:
    """Yield where in queries, and in keys and values, each object's are, and its mask."""
    if isinstance(mask, Packed):
        for m, n, own in mask.objects():
            yield (0, _ALL, m), (0, _ALL, n), own
        return
    for b in range(len(q)):
        yield (b, _ALL, _ALL), (b, _ALL, _ALL), None if mask is None else mask[b]


def _fused(mask: Tensor | None, *heads: Tensor) -> tuple[Tensor, Tensor]:
    """Return what one object hears, shape (H, M, d), and sums that its backward pass needs."""
    q, k, _ = heads
    if not (q.shape[1] and k.shape[1]):
        return torch.zeros_like(q), q.new_zeros(1, *q.shape[:2])
    given = (t[None] for t in heads)
    out, sums = _FUSED(*given, attn_mask=None if mask is None else _added(mask[None], q.dtype))
    return out[0], sums


def _fused_backward(
    mask: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    said: Tensor,
    out: Tensor,
    sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of one object's queries, keys and values, shape (H, M or N, d)."""
    if not (q.shape[1] and k.shape[1]):
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    given = (*(t[None] for t in (said, q, k, v, out)), sums, 0.0, False)
    added = None if mask is None else _added(mask[None], q.dtype)
    of_q, of_k, of_v = (g[0] for g in _FUSED_BACKWARD(*given, attn_mask=added))
    return of_q, of_k, of_v


def _added(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Return a mask as what is added to scores."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def _factor(q: Tensor) -> float:
    """Return what queries are multiplied by, so that scores need not be; the fused kernel does."""
    return q.shape[-1] ** -0.5 if q.dtype == torch.bfloat16 else 1.0


def _attention_backward(
    mask: Tensor | None, q: Tensor, k: Tensor, v: Tensor, said: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of one object's queries, keys and values, shape (H, M or N, d)."""
    chance = chances(q @ k.transpose(1, 2), mask)
    of_v = chance.transpose(1, 2) @ said
    of_scores = chances_back(said @ v.transpose(1, 2), chance)
    return of_scores @ k, of_scores.transpose(1, 2) @ q, of_v
