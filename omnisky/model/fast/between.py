"""What lies between the products of blocks on a CPU, forward and, for training, backward.

Normalisation, gate and chances are cheap in arithmetic, but torch goes over the numbers once for
each operation, and once more for each change of their type. `between.c`, compiled where it runs,
goes over them once. Where there is no compiler, or it does not give what torch gives, torch
computes the same.

Types are those of the tensors: autocast is off where these functions are called.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from omnisky.codecs.fast.compiling import call, compiled, random_tensors

__all__ = [
    "BetweenKernels",
    "between_kernels",
    "chances",
    "chances_back",
    "gated",
    "gated_back",
    "normed",
    "normed_back",
    "normed_heads",
    "normed_heads_back",
]

_SOURCE = Path(__file__).with_name("between.c")
_TYPES = (torch.float32, torch.bfloat16)
# Of results of about one; what is rounded to bfloat16 is rounded once, torch does so in between.
_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2}


class BetweenKernels:
    """Call the compiled kernels, with as many threads as torch uses; see the functions.

    Parameters
    ----------
    library : CDLL
        Compiled `between.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._lanes, self._chunk = int(library.lanes()), int(library.chunk())
        self._most_width, self._most_keys = int(library.most_width()), int(library.most_keys())

    def norms(self, gain: Tensor, *others: Tensor) -> bool:
        """Tell whether rows of others can be normalised and multiplied by a gain."""
        width = gain.shape[0]
        plain = gain.dtype == torch.float32 and gain.is_contiguous()
        fits = width % self._lanes == 0 and width <= self._most_width
        return plain and fits and all(t.dtype in _TYPES and t.stride(-1) == 1 for t in others)

    def gates(self, *given: Tensor) -> bool:
        """Tell whether these can go through a gate together."""
        return _alike(*given) and given[0].numel() % self._lanes == 0

    def hears(self, *scores: Tensor) -> bool:
        """Tell whether these can become chances, or gradients of some."""
        return _alike(*scores) and 0 < scores[0].shape[-1] <= self._most_keys

    def norm(
        self, x: Tensor, gain: Tensor, how: tuple[float, float], out: Tensor, kept: Sequence[Tensor]
    ) -> None:
        """Write rows (object, token, head, width) of x normalised; of both the last axis is dense.

        Parameters
        ----------
        x, gain : Tensor
            Rows, and what they are multiplied by.
        how : tuple of float
            Epsilon, and another factor.
        out : Tensor
            Shaped as x.
        kept : sequence of Tensor
            Nothing, or what gets the rows without gain, which lies as out does, and one over
            deviations.
        """
        standard, scales = kept or (0, 0)
        steps = torch.tensor([*x.stride()[:3], *out.stride()[:3]], device="cpu")
        given = (x, gain, *how, standard, out, scales, steps, *x.shape)
        short = int(x.dtype == torch.bfloat16), int(out.dtype == torch.bfloat16)
        call(self._library, "norm", *given, *short, torch.get_num_threads())

    def norm_back(
        self,
        said: Tensor,
        x: Tensor,
        scales: Tensor | None,
        gain: Tensor,
        how: tuple[float, float],
        out: Tensor,
    ) -> Tensor:
        """Write the gradient of x, given that of what `norm` gave of it; return that of the gain.

        With scales, x is what `norm` kept.
        """
        objects, tokens, heads, width = x.shape
        parts = gain.new_empty(-(-objects * tokens * heads // self._chunk), width)
        steps = torch.tensor([n for t in (said, x, out) for n in t.stride()[:3]], device="cpu")
        given = (said, x, 0 if scales is None else scales, gain, *how, out, parts, steps, *x.shape)
        short = [int(t.dtype == torch.bfloat16) for t in (said, x, out)]
        call(self._library, "norm_back", *given, *short, torch.get_num_threads())
        return parts.sum(0)

    def gate(self, a: Tensor, b: Tensor) -> Tensor:
        """See `gated`."""
        out = torch.empty_like(a)
        how = (a.numel(), int(a.dtype == torch.bfloat16), torch.get_num_threads())
        call(self._library, "gate", a, b, out, *how)
        return out

    def gate_back(self, said: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `gated_back`."""
        product, of_a, of_b = (torch.empty_like(a) for _ in range(3))
        how = (a.numel(), int(a.dtype == torch.bfloat16), torch.get_num_threads())
        call(self._library, "gate_back", said, a, b, product, of_a, of_b, *how)
        return product, of_a, of_b

    def chances(self, scores: Tensor, mask: Tensor | None) -> None:
        """See `chances`."""
        masks = 1 if mask is None else mask.shape[-2]
        given = (scores, 0 if mask is None else mask.contiguous(), *scores.shape, masks)
        short = int(scores.dtype == torch.bfloat16)
        call(self._library, "chances", *given, short, torch.get_num_threads())

    def chances_back(self, said: Tensor, chance: Tensor) -> None:
        """See `chances_back`."""
        rows, keys = chance.numel() // chance.shape[-1], chance.shape[-1]
        how = (rows, keys, int(chance.dtype == torch.bfloat16), torch.get_num_threads())
        call(self._library, "chances_back", said, chance, *how)


@cache
def between_kernels() -> BetweenKernels | None:
    """Return the kernels if they can be compiled and give what torch gives, else None."""
    return compiled(_SOURCE, BetweenKernels, _agree)


def normed(
    x: Float[Tensor, "... D"], gain: Float[Tensor, " D"], eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise rows; return them with gain and without, and one over the deviations they had.

    Parameters
    ----------
    x : FloatTensor, shape (..., D)
        Rows.
    gain : FloatTensor, shape (D,)
        What they are multiplied by.
    eps : float
        Of the LayerNorm.
    dtype : torch.dtype
        Of the rows returned; what they are divided by is not rounded.
    """
    kernels = between_kernels()
    if kernels is None or not kernels.norms(gain, x) or dtype not in _TYPES:
        standard, scale = _standard(x, eps)
        standard = standard.to(dtype)
        return standard * gain.to(dtype), standard, scale
    rows = _as_rows(x.contiguous())
    out, standard = (x.new_empty(x.shape, dtype=dtype) for _ in range(2))
    scale = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    kernels.norm(rows, gain, (eps, 1.0), _as_rows(out), (_as_rows(standard), scale))
    return out, standard, scale


def normed_back(
    said: Float[Tensor, "... D"],
    standard: Float[Tensor, "... D"],
    scale: Float[Tensor, "... 1"],
    gain: Float[Tensor, " D"],
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of rows, in a type, and of the gain.

    Parameters
    ----------
    said : FloatTensor, shape (..., D)
        Gradient of what `normed` returned first.
    standard, scale : FloatTensor, shape (..., D) and (..., 1)
        The rest that it returned.
    gain : FloatTensor, shape (D,)
        As was given to it.
    dtype : torch.dtype
        Of the rows that it was given.
    """
    kernels = between_kernels()
    fits = kernels is not None and scale.dtype == torch.float32 and dtype in _TYPES
    if kernels is None or not (fits and kernels.norms(gain, said, standard)):
        of_x, of_gain = _back_to(said, standard, scale, gain)
        return of_x.to(dtype), of_gain
    out = said.new_empty(said.shape, dtype=dtype)
    rows = _as_rows(said.contiguous()), _as_rows(standard)
    return out, kernels.norm_back(*rows, scale, gain, (0.0, 1.0), _as_rows(out))


def normed_heads(
    x: Float[Tensor, "B N H d"], gain: Float[Tensor, " d"], eps: float, factor: float = 1.0
) -> Float[Tensor, "B H N d"]:
    """Normalise the rows of heads, multiply by a gain and a factor, and put heads first."""
    kernels = between_kernels()
    if kernels is None or not kernels.norms(gain, x):
        standard = _standard(x, eps)[0]
        return (standard * (gain * factor).to(x.dtype)).transpose(1, 2)
    objects, tokens, heads, width = x.shape
    if x.dtype == torch.bfloat16:
        out = x.new_empty(objects, heads, tokens, width)  # the order that products are quick in
    else:
        # Fused attention answers in the order of its queries: that of the product after it.
        out = x.new_empty(x.shape).transpose(1, 2)
    kernels.norm(x, gain, (eps, factor), out.transpose(1, 2), ())
    return out


def normed_heads_back(
    said: Float[Tensor, "B H N d"],
    x: Float[Tensor, "B N H d"],
    gain: Float[Tensor, " d"],
    eps: float,
    factor: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of x, shape (B, N, H, d), and of the gain, given that of the result."""
    kernels = between_kernels()
    said = said.transpose(1, 2)
    if kernels is None or not kernels.norms(gain, said, x):
        standard, scale = _standard(x, eps)
        of_x, of_gain = _back_to(said, standard, scale, gain)
        return (of_x * factor).to(x.dtype), of_gain * factor
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, kernels.norm_back(said, x, None, gain, (eps, factor), out)


def gated(a: Tensor, b: Tensor) -> Tensor:
    """Return ``SiLU(a) * b`` of tensors of one shape and type."""
    kernels = between_kernels()
    if kernels is None or not kernels.gates(a, b):
        return F.silu(a).mul_(b)
    return kernels.gate(a, b)


def gated_back(said: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `gated` returned, and the gradients of a and b, given that of it."""
    kernels = between_kernels()
    if kernels is None or not kernels.gates(said, a, b):
        opens = F.silu(a)
        of_a = torch.ops.aten.silu_backward(said * b, a)
        return opens * b, of_a, opens.mul_(said)
    return kernels.gate_back(said, a, b)


def chances(
    scores: Float[Tensor, "H M N"], mask: Bool[Tensor, "1 _ N"] | None
) -> Float[Tensor, "H M N"]:
    """Return the softmax of scores over keys, 0 where the mask is False; may be made in place.

    Parameters
    ----------
    scores : FloatTensor, shape (H, M, N)
        One number a head, query and key.
    mask : BoolTensor, shape (1, M or 1, N), optional
        True where something may be heard; each query may hear something.
    """
    kernels = between_kernels()
    if kernels is None or not kernels.hears(scores):
        return (scores if mask is None else scores.masked_fill_(~mask, -torch.inf)).softmax(-1)
    kernels.chances(scores, mask)
    return scores


def chances_back(said: Float[Tensor, "H M N"], chance: Float[Tensor, "H M N"]) -> Tensor:
    """Return the gradient of scores, given chances and the gradient of them; may be in place."""
    kernels = between_kernels()
    if kernels is None or not kernels.hears(said, chance):
        return torch.ops.aten._softmax_backward_data(said, chance, -1, chance.dtype)
    kernels.chances_back(said, chance)
    return said


def _alike(first: Tensor, *others: Tensor) -> bool:
    """Tell whether tensors are contiguous and of one type and shape that kernels take."""
    plain = first.dtype in _TYPES and first.is_contiguous()
    same = all(t.dtype == first.dtype and t.shape == first.shape for t in others)
    return plain and same and all(t.is_contiguous() for t in others)


def _as_rows(x: Tensor) -> Tensor:
    """Return contiguous rows as (1, row, 1, width)."""
    return x.view(1, -1, 1, x.shape[-1])


def _standard(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return vectors of mean 0 and variance 1, and one over the deviation they had, unrounded."""
    whole = x.float() if x.dtype == torch.bfloat16 else x
    standard, _, scale = torch.native_layer_norm(whole, x.shape[-1:], None, None, eps)
    return standard.to(x.dtype), scale


def _back_to(
    gradient: Tensor, standard: Tensor, scale: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of vectors, and of the gain, given that of standardised times gain."""
    if gradient.device.type == "cpu" and gradient.dtype == torch.bfloat16:
        # In bfloat16 the gain's would be added up in that, and lose some hundredths.
        gradient, standard = gradient.float(), standard.float()
    zero, one = (torch.full_like(scale, n, dtype=gain.dtype) for n in (0, 1))
    found = torch.ops.aten.native_layer_norm_backward(
        gradient, standard, standard.shape[-1:], zero, one, gain, None, [True, True, False]
    )
    return found[0] * scale, found[1]


@torch.no_grad()
def _agree(kernels: BetweenKernels) -> bool:
    """Tell whether the kernels give what torch gives, in both types, and NaN of NaN."""
    random = random_tensors()
    gain, mask = 1 + random(64) / 8, random(5, 37) > 0
    mask[:, 3] = True
    long, said, a, b = (random(2, 70, 64) for _ in range(4))
    scores, of_chances = random(3, 5, 37), random(3, 5, 37)
    for dtype, tolerance in _TOLERANCE.items():
        pairs = [
            *_of_norm(kernels, long.to(dtype), gain, said.to(dtype)),
            # Of residuals, which stay float32.
            *_of_norm(kernels, long, gain, said.to(dtype)),
            *_of_gate(kernels, said.to(dtype), a.to(dtype), b.to(dtype)),
            *_of_chances(kernels, scores.to(dtype), mask, of_chances.to(dtype)),
        ]
        if not all(torch.allclose(f.float(), w.float(), tolerance, tolerance) for f, w in pairs):
            return False
    scores[0, 0, 0] = torch.nan
    kernels.chances(scores, None)
    return bool(scores[0, 0].isnan().all() and not scores[0, 1].isnan().any())


def _of_norm(
    kernels: BetweenKernels, x: Tensor, gain: Tensor, said: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of what kernels and torch make of rows, as heads of half their width too."""
    standard, scale = _standard(x, 1e-6)
    of_x, of_gain = _back_to(said.float(), standard.float(), scale, gain)
    rows, out, kept = _as_rows(x), torch.empty_like(said), torch.empty_like(said)
    scales, back = torch.empty_like(scale), torch.empty_like(x)
    kernels.norm(rows, gain, (1e-6, 1.0), _as_rows(out), (_as_rows(kept), scales))
    given = (_as_rows(said), _as_rows(kept), scales, gain, (0.0, 1.0), _as_rows(back))
    pairs = [(out, standard * gain), (kept, standard), (scales, scale)]
    pairs += [(kernels.norm_back(*given) / 10, of_gain / 10), (back, of_x)]
    heads, narrow = x.to(said.dtype).unflatten(-1, (2, 32)), gain[:32].contiguous()
    standard, scale = _standard(heads, 1e-6)
    of_x, of_gain = _back_to(said.unflatten(-1, (2, 32)).float(), standard.float(), scale, narrow)
    out = heads.new_empty(2, 2, 70, 32).transpose(1, 2)
    back = torch.empty_like(heads)
    kernels.norm(heads, narrow, (1e-6, 0.5), out, ())
    given = (said.unflatten(-1, (2, 32)), heads, None, narrow, (1e-6, 0.5), back)
    pairs += [(kernels.norm_back(*given) / 10, of_gain / 20), (back, of_x / 2)]
    return [*pairs, (out, standard * narrow / 2)]


def _of_gate(
    kernels: BetweenKernels, said: Tensor, a: Tensor, b: Tensor
) -> list[tuple[Tensor, Tensor]]:
    opens = F.silu(a.float())
    of_a = torch.ops.aten.silu_backward(said.float() * b.float(), a.float())
    wanted = (opens * b, opens * b, of_a, opens * said)
    return list(zip((kernels.gate(a, b), *kernels.gate_back(said, a, b)), wanted, strict=True))


def _of_chances(
    kernels: BetweenKernels, scores: Tensor, mask: Tensor, said: Tensor
) -> list[tuple[Tensor, Tensor]]:
    wanted, found = [], []
    for own in (None, mask[None], mask[None, :1]):
        shown = scores.float() if own is None else scores.float().masked_fill(~own, -torch.inf)
        wanted.append(shown.softmax(-1))
        found.append(scores.clone())
        kernels.chances(found[-1], own)
    back = said.clone()
    kernels.chances_back(back, found[0])
    of_scores = torch.ops.aten._softmax_backward_data(
        said.float(), found[0].float(), -1, torch.float32
    )
    return [*zip(found, wanted, strict=True), (back, of_scores)]
