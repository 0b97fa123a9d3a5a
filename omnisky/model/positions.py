"""Fixed position vectors: sines and cosines of a token's place.

Source: MoCo v3 (Chen et al. 2021, arXiv:2104.02057) in the arrangement of the released AION-1
checkpoints: for a grid, the sine and cosine of the row, then of the column.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["fixed_positions"]

_PERIOD = 10000.0


def _waves(place: Tensor, n: int) -> Float[Tensor, "token wave"]:
    """Return sines, then cosines, of n frequencies each."""
    angle = place[:, None] * _PERIOD ** -(torch.arange(n, dtype=torch.float32) / n)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def fixed_positions(grid: tuple[int, ...], dim: int) -> Float[Tensor, "token dim"]:
    """Return one vector a token.

    Parameters
    ----------
    grid : tuple of int
        Rows and columns of tokens, numbered row by row; or the length of a sequence.
    dim : int
        Width of the vectors: a multiple of four for a grid, of two for a sequence.

    Raises
    ------
    ValueError
        If the width does not fit.
    """
    if dim % (2 * len(grid)):
        raise ValueError(
            f"fixed positions in {len(grid)} dimensions need a width that is a multiple of "
            f"{2 * len(grid)}; found {dim}"
        )
    if len(grid) == 1:
        return _waves(torch.arange(grid[0]).float(), dim // 2)
    rows, columns = grid
    index = torch.arange(rows * columns)
    # The release counts by the number of rows: a single column has its place in the second half.
    slow, fast = (index // rows).float(), (index % rows).float()
    return torch.cat([_waves(slow, dim // 4), _waves(fast, dim // 4)], dim=1)
