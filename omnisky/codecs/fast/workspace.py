"""Memory that consecutive layers share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Workspace"]


class Workspace:
    """Hand out tensors for intermediate results, from memory that is used again.

    Fresh large tensors come from the operating system page by page, which takes as long as filling
    them; a network whose layers share one workspace pays that once. A tensor is valid until the
    next one of the same name is taken. The memory is given back with the workspace or by `clear`.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Give the memory back."""
        self._buffers.clear()

    def take(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialised contiguous float32 tensor of a shape."""
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < size:
            self._buffers.pop(name, None)
            buffer = self._buffers[name] = torch.empty(size, dtype=torch.float32, device="cpu")
        return buffer[:size].view(shape)

    def padded(self, x: Tensor, before: int, below: int, right: int) -> Tensor:
        """Return images (object, row, column, channel) with a border of zeros.

        Parameters
        ----------
        x : Tensor
            Images.
        before, below, right : int
            Pixels to add above and to the left, below, and to the right.
        """
        count, height, width, channels = x.shape
        shape = (count, before + height + below, before + width + right, channels)
        out = self.take("padded", *shape).zero_()
        out[:, before : before + height, before : before + width] = x
        return out
