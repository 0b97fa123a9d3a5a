"""Bins with evenly spaced values: the quantiser of numbers whose range is known beforehand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["GridBins"]


class GridBins(nn.Module):
    """Turn numbers into the index of one of `bins` evenly spaced values, and back.

    Parameters
    ----------
    low, high : float
        First and last value.
    bins : int
        Number of values.

    Raises
    ------
    ValueError
        If the range is empty or there are fewer than two bins.
    """

    values: Tensor

    def __init__(self, low: float, high: float, bins: int) -> None:
        super().__init__()
        if not low < high or bins < 2:
            raise ValueError(
                f"a grid of bins needs low < high and at least two bins; found {low}, {high}, "
                f"{bins}"
            )
        self.register_buffer("values", torch.linspace(low, high, bins))

    def encode(self, numbers: Tensor, *, nearest: bool = True) -> Tensor:
        """Return indices, of the shape of `numbers`; numbers beyond the ends get the end's index.

        Parameters
        ----------
        numbers : Tensor
            Numbers of any shape.
        nearest : bool
            True takes the nearest value, whose rounding error has no bias. False takes the smallest
            value that is not below the number, as AION-1 does: decoding is then too high by half a
            step on average.

        Raises
        ------
        ValueError
            If a number is NaN.
        """
        if numbers.isnan().any():
            raise ValueError(
                f"{int(numbers.isnan().sum())} of {numbers.numel()} numbers are NaN and have no "
                "bin; leave them out (mask False)"
            )
        values = self.values
        edges = (values[:-1] + values[1:]) / 2 if nearest else values[:-1]
        return torch.bucketize(numbers.to(values.dtype), edges)

    def decode(self, indices: Tensor) -> Tensor:
        """Return the value of each index."""
        return self.values[indices]

    def outside(self, numbers: Tensor) -> Tensor:
        """Return True where a number lies outside the range of the grid."""
        return (numbers < self.values[0]) | (numbers > self.values[-1])
