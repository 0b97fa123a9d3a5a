"""Products and attention for few tokens, compiled where they run; optional.

Ten tokens are multiplied with every weight of a network: the time goes into reading the weights,
and a library's products, made for many rows, reach a fifth of what the memory gives. `few.c` reads
them once, as they are stored: nothing is packed beforehand, nothing is kept twice.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from omnisky.codecs.fast.compiling import call, compiled, random_tensors

__all__ = ["FewKernels", "few_kernels"]

_SOURCE = Path(__file__).with_name("few.c")
_TYPES = (torch.float32, torch.bfloat16)
# Of outputs of about one, in float32; bfloat16 is rounded once, at the end.
_TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}


class FewKernels:
    """Call the compiled kernels on tensors, with as many threads as torch uses.

    All tensors of a call have one type, float32 or bfloat16, and lie contiguously on the CPU;
    sums are made in float32.

    Parameters
    ----------
    library : CDLL
        Compiled `few.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._lanes, self._columns = int(library.lanes()), int(library.columns())
        self._most_keys, self._most_width = int(library.most_keys()), int(library.most_width())

    def fits(self, *weights: Tensor) -> bool:
        """Tell whether weights of shape (out, in) can be multiplied with."""
        return all(
            w.dtype in _TYPES
            and w.device.type == "cpu"
            and w.is_contiguous()
            and w.shape[1] % self._lanes == 0
            and w.shape[0] % self._columns == 0
            for w in weights
        )

    def product(
        self,
        x: Tensor,
        weight: Tensor,
        *,
        gain: Tensor | None = None,
        eps: float = 0.0,
        added: Tensor | None = None,
    ) -> Tensor:
        """Return ``x @ weight.T``.

        Parameters
        ----------
        x : Tensor, shape (row, in)
            Vectors.
        weight : Tensor, shape (out, in)
            Which `fits`.
        gain : Tensor, shape (in,), optional
            Of the LayerNorm that x goes through before, if any.
        eps : float
            Of that LayerNorm.
        added : Tensor, shape (row, out), optional
            What the product is added to.
        """
        rows, short = len(x), int(x.dtype == torch.bfloat16)
        out = x.new_empty(rows, len(weight))
        room = x.new_empty(x.shape, dtype=torch.float32)
        given = (x, 0 if gain is None else gain, eps, weight, 0 if added is None else added)
        sizes = (rows, x.shape[1], len(weight), short, torch.get_num_threads())
        call(self._library, "product", *given, out, room, *sizes)
        return out

    def gate(self, x: Tensor, gain: Tensor, eps: float, opens: Tensor, said: Tensor) -> Tensor:
        """Return ``SiLU(n @ opens.T) * (n @ said.T)``, n being x after a LayerNorm.

        Parameters
        ----------
        x : Tensor, shape (row, in)
            Vectors.
        gain, eps : Tensor, shape (in,), and float
            Of the LayerNorm.
        opens, said : Tensor, shape (out, in)
            Which `fits`.
        """
        rows, short = len(x), int(x.dtype == torch.bfloat16)
        out = x.new_empty(rows, len(said))
        room = x.new_empty(x.shape, dtype=torch.float32)
        sizes = (rows, x.shape[1], len(said), short, torch.get_num_threads())
        call(self._library, "gate", x, gain, eps, opens, said, out, room, *sizes)
        return out

    def hears(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Tell whether `attend` can be asked."""
        return (
            q.dtype == k.dtype == v.dtype
            and q.dtype in _TYPES
            and q.device.type == "cpu"
            and q.shape[-1] % self._lanes == 0
            and q.shape[-1] <= self._most_width
            and 0 < k.shape[-2] <= self._most_keys
            and q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        )

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return what queries hear, without a mask, shape (B, H, M, d).

        Parameters
        ----------
        q : Tensor, shape (B, H, M, d)
            Queries, in any order of memory but along d.
        k, v : Tensor, shape (B, H, N, d)
            Keys and values.
        """
        objects, heads, queries, width = q.shape
        # As the product after it takes them: heads beside each other.
        out = q.new_empty(objects, queries, heads, width).transpose(1, 2)
        steps = [step for t in (q, k, v, out) for step in t.stride()[:3]]
        short = int(q.dtype == torch.bfloat16)
        sizes = (objects, heads, queries, k.shape[2], width, short, torch.get_num_threads())
        call(self._library, "attend", q, k, v, out, torch.tensor(steps, device="cpu"), *sizes)
        return out


@cache
def few_kernels() -> FewKernels | None:
    """Return the kernels if they can be compiled and give what torch gives, else None."""
    return compiled(_SOURCE, FewKernels, _agree)


@torch.no_grad()
def _agree(kernels: FewKernels) -> bool:
    """Tell whether the kernels give what torch gives, in both types, and NaN of NaN."""
    random = random_tensors()
    vectors, weights = random(7, 64), [random(64), random(32, 64) / 8, random(32, 64) / 8]
    added, heads = random(7, 32), [random(2, 3, n, 32) for n in (5, 9, 9)]
    for dtype, tolerance in _TOLERANCE.items():
        x, gain, wide, other, more, q, k, v = (
            t.to(dtype, copy=True) for t in (vectors, *weights, added, *heads)
        )
        whole = x.float() @ wide.float().T
        normed = F.layer_norm(x.float(), (64,), gain.float(), None, 1e-6)
        gated = F.silu(normed @ wide.float().T) * (normed @ other.float().T)
        heard = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        pairs = [
            (kernels.product(x, wide), whole),
            (kernels.product(x, wide, gain=gain, eps=1e-6), normed @ wide.float().T),
            (kernels.product(x, wide, added=more), more.float() + whole),
            (kernels.gate(x, gain, 1e-6, wide, other), gated),
            (kernels.attend(q, k, v), heard),
        ]
        if not all(torch.allclose(f.float(), w, tolerance, tolerance) for f, w in pairs):
            return False
        x[0, 0] = q[0, 0, 0, 0] = torch.nan
        unknown = kernels.gate(x, gain, 1e-6, wide, other)[0], kernels.attend(q, k, v)[0, 0, 0]
        if not all(bool(t.isnan().all()) for t in unknown):
            return False
    return True
