"""Finite scalar quantisation: each latent dimension is rounded to a few levels.

Source: Mentzer et al. 2023, arXiv:2309.15505, equations 1-3 and appendix A.1; the first dimension
runs fastest in the index, as in the released AION-1 codecs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["FSQ"]


class FSQ(nn.Module):
    """Quantise vectors to one of ``prod(levels)`` codes with straight-through gradients.

    Parameters
    ----------
    levels : sequence of int
        Number of levels of each latent dimension, at least 2.

    Raises
    ------
    ValueError
        If a level is below 2 or the product does not fit an int32 index.
    """

    _level: Tensor
    _basis: Tensor
    _half: Tensor
    _offset: Tensor
    _shift: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2 or math.prod(levels) >= 2**31:
            raise ValueError(
                f"FSQ levels must all be at least 2 with a product below 2^31; found {list(levels)}"
            )
        self.levels = tuple(int(level) for level in levels)
        self.n_codes = math.prod(self.levels)
        level = torch.tensor(self.levels, dtype=torch.float32)
        basis = torch.tensor([math.prod(self.levels[:i]) for i in range(len(self.levels))])
        half = (level - 1) * (1 + 1e-3) / 2
        offset = torch.where(level % 2 == 0, 0.5, 0.0)
        for name, value in {
            "_level": level.long(),
            "_basis": basis,
            "_half": half,
            "_offset": offset,
            "_shift": torch.atanh(offset / half),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Return the quantised vectors, each element in [-1, 1]."""
        # Half-precision rounding loses codes for more than 2^8 levels between -1 and 1.
        bounded = torch.tanh(z.float() + self._shift) * self._half - self._offset
        rounded = bounded + (bounded.round() - bounded).detach()
        return (rounded / (self._level // 2)).to(z.dtype)

    def codes_to_indices(self, codes: Float[Tensor, "*batch dim"]) -> Int[Tensor, "*batch"]:
        """Return the index of each quantised vector, 0 … ``n_codes`` - 1."""
        half_width = self._level // 2
        digits = (codes.float() * half_width + half_width).round().long()
        return (digits * self._basis).sum(-1)

    def indices_to_codes(self, indices: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """Return the quantised vector of each index."""
        half_width = self._level // 2
        digits = (indices.unsqueeze(-1) // self._basis) % self._level
        return (digits - half_width) / half_width
