"""ConvNeXt V2 along one axis: the encoder and decoder of the latent-grid spectrum codec.

Source: Woo et al. 2023, arXiv:2301.00808; parameter names and shapes are those of AION-1's spectrum
codec, so that its weights load. Everything runs on (object, pixel, channel) arrays: a strided
convolution whose kernel is as long as its stride is a matrix product on neighbouring pixels, the
depthwise one a channels-last image of height one, and the response normalisation goes into the
weights of the next product where these are fewer numbers than the activations. Without gradients
and on a CPU, compiled kernels do what lies between the products of a block, see `in_precision`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.fast import BlockKernels, BlockWeights, block_kernels

__all__ = ["ConvNextDecoder", "ConvNextEncoder", "in_precision"]

# The first strided convolution of the encoder and the last of the decoder; all others take two.
_OUTER, _INNER = 4, 2


class _Pool(nn.Module):
    """Make one pixel of `stride` neighbours: a convolution with kernel and stride alike."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_normal(outputs, inputs, stride))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "object pixel channel"]) -> Tensor:
        objects, pixels, channels = x.shape
        stride = self.weight.shape[2]
        patches = x.reshape(objects, pixels // stride, stride * channels)
        return F.linear(patches, self.weight.transpose(1, 2).flatten(1), self.bias)


class _Spread(nn.Module):
    """Make `stride` neighbours of one pixel: the transposed convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_normal(inputs, outputs, stride))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Float[Tensor, "object pixel channel"]) -> Tensor:
        objects, pixels, _ = x.shape
        outputs, stride = self.weight.shape[1:]
        weight = self.weight.permute(2, 1, 0).flatten(0, 1)
        y = F.linear(x, weight, self.bias.repeat(stride))
        return y.view(objects, pixels * stride, outputs)


class _Depthwise(nn.Module):
    """Convolve each channel with its own kernel of seven pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(_normal(channels, 1, 7))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "object pixel channel"]) -> Tensor:
        image = x.unsqueeze(1).permute(0, 3, 1, 2)
        y = F.conv2d(image, self.weight.unsqueeze(2), self.bias, padding=(0, 3), groups=x.shape[2])
        return y.permute(0, 2, 3, 1).squeeze(1)


class _ResponseNorm(nn.Module):
    """Hold the parameters of the global response normalisation, equation 1-3 of the paper."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, channels))

    def scale(self, x: Float[Tensor, "object pixel channel"]) -> Float[Tensor, "object 1 channel"]:
        """Return the factor of each channel; the whole is ``x * scale + beta``."""
        # Not torch.linalg.vector_norm: along this axis it takes ten times as long on a CPU.
        power = x.square().sum(1, keepdim=True, dtype=torch.float32)
        # The root of an exact zero has no gradient; this is far below any activation's square.
        response = (power + 1e-24).sqrt()
        relative = response / (response.mean(-1, keepdim=True) + 1e-6)
        return (1 + self.gamma * relative).to(x.dtype)


class _Block(nn.Module):
    """Convolve, normalise, mix channels through four times as many, add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = _Depthwise(channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = _linear(channels, 4 * channels)
        self.grn = _ResponseNorm(4 * channels)
        self.pwconv2 = _linear(4 * channels, channels)

    def forward(self, x: Float[Tensor, "object pixel channel"]) -> Tensor:
        # The products may be in bfloat16; what is added up stays in the precision of the input.
        weight = self.pwconv2.weight
        y = self.norm(self.dwconv(x)).to(weight.dtype)
        y = F.gelu(self.pwconv1(y))
        scale, beta = self.grn.scale(y), self.grn.beta[0].to(weight.dtype)
        if len(x) == 1 and x.shape[1] > x.shape[2]:
            # As a product of matrices, not with a vector: that is slow in bfloat16 on a CPU.
            bias = F.linear(beta, weight, self.pwconv2.bias)
            return x + F.linear(y, weight * scale[0], bias[0])
        return x + F.linear(torch.addcmul(beta, y, scale), weight, self.pwconv2.bias)

    def weights(self, dtype: torch.dtype) -> BlockWeights:
        """Return what the compiled kernels need, with the weights of products in a precision."""
        return BlockWeights(
            self.dwconv.weight[:, 0].t().contiguous(),
            self.dwconv.bias,
            self.norm.weight,
            self.norm.bias,
            self.pwconv1.weight.to(dtype),
            self.pwconv1.bias,
            self.grn.gamma[0, 0],
            self.grn.beta[0, 0],
            self.pwconv2.weight.to(dtype),
            self.pwconv2.bias,
        )


class ConvNextEncoder(nn.Module):
    """Reduce pixels to features, each of ``4 * 2 ** (stages - 1)`` pixels.

    Parameters
    ----------
    inputs : int
        Channels of the input.
    depths : sequence of int
        Blocks of each stage.
    dims : sequence of int
        Channels of each stage.
    """

    def __init__(self, inputs: int, depths: Sequence[int], dims: Sequence[int]) -> None:
        super().__init__()
        pools = [nn.Sequential(_Pool(inputs, dims[0], _OUTER), nn.LayerNorm(dims[0], eps=1e-6))]
        for before, after in pairwise(dims):
            norm = nn.LayerNorm(before, eps=1e-6)
            pools.append(nn.Sequential(norm, _Pool(before, after, _INNER)))
        self.downsample_layers = nn.ModuleList(pools)
        self.stages = _stages(depths, dims)
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)

    def steps(self) -> list[nn.Module]:
        """Return the layers in the order they are applied."""
        pairs = zip(self.downsample_layers, self.stages, strict=True)
        return [*(layer for pair in pairs for layer in pair), self.norm]

    def forward(self, x: Float[Tensor, "object pixel input"]) -> Float[Tensor, "object token dim"]:
        for layer in self.steps():
            x = layer(x)
        return x


class ConvNextDecoder(nn.Module):
    """Expand features to pixels, the mirror image of the encoder.

    Parameters
    ----------
    inputs : int
        Channels of the features.
    depths : sequence of int
        Blocks of each stage.
    dims : sequence of int
        Channels of each stage; the last is the number of outputs.
    """

    def __init__(self, inputs: int, depths: Sequence[int], dims: Sequence[int]) -> None:
        super().__init__()
        spreads = [nn.Sequential(_Spread(inputs, dims[0], _INNER), nn.LayerNorm(dims[0], eps=1e-6))]
        for before, after in pairwise(dims):
            stride = _OUTER if len(spreads) == len(dims) - 1 else _INNER
            norm = nn.LayerNorm(before, eps=1e-6)
            spreads.append(nn.Sequential(norm, _Spread(before, after, stride)))
        self.upsample_layers = nn.ModuleList(spreads)
        self.stages = _stages(depths, dims)

    def steps(self) -> list[nn.Module]:
        """Return the layers in the order they are applied."""
        pairs = zip(self.upsample_layers, self.stages, strict=True)
        return [layer for pair in pairs for layer in pair]

    def forward(self, x: Float[Tensor, "object token dim"]) -> Float[Tensor, "object pixel output"]:
        *inner, spread, stage = self.steps()
        for layer in inner:
            x = layer(x)
        # Flux is known better than to the three digits of a bfloat16 that autocast may ask for.
        with torch.autocast(x.device.type, enabled=False):
            return stage(spread(x.to(next(self.stages[-1].parameters()).dtype)))


def in_precision(
    network: ConvNextEncoder | ConvNextDecoder, precision: str
) -> Callable[[Tensor], Tensor]:
    """Return a network for use without gradients, as fast as it can be had.

    Nothing of it is kept longer than the caller keeps it, as weights may change.

    Parameters
    ----------
    network : ConvNextEncoder or ConvNextDecoder
        The network.
    precision : {"float32", "bf16"}
        Of the blocks' matrix products. What the blocks add up stays in float32.

    Raises
    ------
    ValueError
        If the precision is neither.
    """
    if precision not in ("float32", "bf16"):
        raise ValueError(f"precision must be 'float32' or 'bf16'; found {precision!r}")
    weight = next(network.parameters())
    on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
    kernels = block_kernels() if on_cpu else None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if kernels is not None:
        steps = [_compiled(layer, kernels, dtype) for layer in network.steps()]
        return partial(_apply, steps)
    return network if precision == "float32" else _in_bf16(network)


def _apply(steps: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    # The precision is the one that was asked for, not that of an autocast around.
    with torch.autocast("cpu", enabled=False):
        x = x.float()
        for step in steps:
            x = step(x)
        return x


def _compiled(
    layer: nn.Module, kernels: BlockKernels, dtype: torch.dtype
) -> Callable[[Tensor], Tensor]:
    """Return a layer whose blocks, if it is a stage, go through the kernels where they fit.

    Hooks of blocks are not called.
    """
    blocks = [part for part in layer.children() if isinstance(part, _Block)]
    if not blocks:
        return layer
    if not kernels.fits(blocks[0].norm.weight.shape[0]):
        return layer if dtype == torch.float32 else _in_bf16(layer)
    weights = [block.weights(dtype) for block in blocks]

    def stage(x: Tensor) -> Tensor:
        # The layer before made x; nobody else has it.
        x = x.contiguous()
        kernels.add(x, weights)
        return x

    return stage


def _in_bf16(network: nn.Module) -> nn.Module:
    """Return a copy with large products in bfloat16; all other parameters are shared with it."""
    products = {
        id(p) for m in network.modules() if isinstance(m, nn.Linear) for p in m.parameters()
    }
    memo = {
        id(p): nn.Parameter(p.bfloat16(), requires_grad=False) if id(p) in products else p
        for p in network.parameters()
    }
    return copy.deepcopy(network, memo)


def _stages(depths: Sequence[int], dims: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Sequential(*(_Block(dim) for _ in range(depth)))
        for depth, dim in zip(depths, dims, strict=True)
    )


def _normal(*shape: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=0.02)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer
