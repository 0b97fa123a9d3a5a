"""Blocks of ConvNeXt V2 along one axis, compiled where they run; optional.

A block is two matrix products, which torch computes, and what lies between: `convnext.c` goes over
that memory as seldom as it can. Source of the block: Woo et al. 2023, arXiv:2301.00808.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from omnisky.codecs.fast.compiling import call, compiled, random_tensors

__all__ = ["BlockKernels", "BlockWeights", "block_kernels"]

_SOURCE = Path(__file__).with_name("convnext.c")
_EPS = 1e-6
# Of outputs of about one.
_TOLERANCE = 1e-4


class BlockWeights(NamedTuple):
    """What a block multiplies with; the two products may be in bfloat16, all else is float32.

    Attributes
    ----------
    spatial : Tensor, shape (7, channel)
        Kernels of the depthwise convolution.
    spatial_bias, gain, shift : Tensor, shape (channel,)
        Its bias, and the layer normalisation after it.
    wide : Tensor, shape (4 channel, channel)
        Weight of the first product.
    wide_bias, gamma, beta : Tensor, shape (4 channel,)
        Its bias, and the response normalisation after the GELU.
    narrow : Tensor, shape (channel, 4 channel)
        Weight of the second product.
    narrow_bias : Tensor, shape (channel,)
        Its bias.
    """

    spatial: Tensor
    spatial_bias: Tensor
    gain: Tensor
    shift: Tensor
    wide: Tensor
    wide_bias: Tensor
    gamma: Tensor
    beta: Tensor
    narrow: Tensor
    narrow_bias: Tensor


class BlockKernels:
    """Call the compiled kernels on tensors, with as many threads as torch uses.

    Parameters
    ----------
    library : CDLL
        Compiled `convnext.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._lanes, self._pieces = int(library.lanes()), int(library.pieces())
        self._most = int(library.most_channels())

    def fits(self, channels: int) -> bool:
        """Tell whether blocks of so many channels can be computed."""
        return channels % self._lanes == 0 and channels <= self._most

    def add(self, x: Tensor, blocks: Sequence[BlockWeights]) -> None:
        """Add to x what blocks add, one after the other, in place.

        Parameters
        ----------
        x : Tensor, shape (object, pixel, channel)
            Contiguous, float32, on the CPU.
        blocks : sequence of BlockWeights
            The products of all of them in one precision.
        """
        objects, pixels, channels = x.shape
        rows, short, threads = objects * pixels, blocks[0].wide.dtype, torch.get_num_threads()
        half = int(short == torch.bfloat16)
        if x.dtype != torch.float32 or not x.is_contiguous() or x.device.type != "cpu":
            raise TypeError(
                f"x must be contiguous float32 on the CPU; found {x.dtype} on {x.device}, strides "
                f"{x.stride()}"
            )
        normed = x.new_empty(rows, channels, dtype=short)
        hidden = x.new_empty(rows, 4 * channels, dtype=short)
        power = x.new_empty(objects, self._pieces, 4 * channels)
        how, size = (half, threads), (objects, pixels)
        for b in blocks:
            given = (x, b.spatial, b.spatial_bias, b.gain, b.shift, normed, *size, channels, _EPS)
            call(self._library, "depthwise_norm", *given, *how)
            torch.mm(normed, b.wide.t(), out=hidden)
            given = (hidden, b.wide_bias, power, *size, 4 * channels)
            call(self._library, "gelu_power", *given, *how)
            scale = _response(power.sum(1), b.gamma)
            call(self._library, "scale_shift", hidden, scale, b.beta, *size, 4 * channels, *how)
            # Where the normalised pixels were.
            torch.mm(hidden, b.narrow.t(), out=normed)
            call(self._library, "add", x, normed, b.narrow_bias, rows, channels, *how)


def _response(power: Tensor, gamma: Tensor) -> Tensor:
    """Return the factor of each channel, equations 1-3 of the paper, shape (object, channel)."""
    response = power.sqrt()
    return 1 + gamma * (response / (response.mean(1, keepdim=True) + 1e-6))


@cache
def block_kernels() -> BlockKernels | None:
    """Return the kernels if they can be compiled and give what torch gives, else None."""
    return compiled(_SOURCE, BlockKernels, _agree)


def _example() -> tuple[BlockWeights, Tensor]:
    """Return a random block of 32 channels, and pixels."""
    random, channels = random_tensors(), 32
    many = 4 * channels
    weights = BlockWeights(
        random(7, channels) / 3,
        random(channels),
        random(channels),
        random(channels),
        random(many, channels) / 6,
        random(many),
        random(many),
        random(many),
        random(channels, many) / 11,
        random(channels),
    )
    return weights, random(2, 13, channels)


@torch.no_grad()
def _agree(kernels: BlockKernels) -> bool:
    """Tell whether the kernels give what torch gives, in both precisions."""
    weights, x = _example()
    channels = x.shape[2]
    y = F.conv1d(
        x.movedim(2, 1), weights.spatial.t()[:, None], weights.spatial_bias, 1, 3, 1, channels
    )
    y = F.layer_norm(y.movedim(1, 2), (channels,), weights.gain, weights.shift, _EPS)
    y = F.gelu(F.linear(y, weights.wide, weights.wide_bias))
    y = y * _response(y.square().sum(1), weights.gamma)[:, None] + weights.beta
    wanted = x + F.linear(y, weights.narrow, weights.narrow_bias)
    hidden_nan = x.clone()
    hidden_nan[0, 0, 0] = torch.nan
    kernels.add(hidden_nan, [weights])
    if not bool(hidden_nan[0, 0].isnan().all()):
        return False
    for dtype, tolerance in ((torch.float32, _TOLERANCE), (torch.bfloat16, 0.02)):
        found = x.clone()
        products = {"wide": weights.wide.to(dtype), "narrow": weights.narrow.to(dtype)}
        kernels.add(found, [weights._replace(**products)])
        close = tolerance * float(wanted.std())
        if not torch.allclose(found, wanted, rtol=0, atol=close):
            return False
    return True
