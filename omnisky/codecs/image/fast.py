"""The network of the image codec on a CPU, without gradients: the same function in less time.

* Activations are (object, row, column, channel), so that 1 x 1 convolutions are matrix products.
* 3 x 3 convolutions go through Winograd's transform and the large one through Fourier's
  (`omnisky.codecs.fast`); a residual unit stays in Winograd's tiles, as the order of pixels matters
  to none of its other steps.
* The table stem and the first convolution are one convolution, of the bands and a constant channel;
  so are the last convolution and the head, for the bands asked for.
* Where there is a C compiler, the two convolutions of a unit are compiled for the machine
  (`omnisky.codecs.fast.native`).
* Objects go through the largest maps one at a time, and weights are transformed in pieces just
  before their use: nothing is kept between calls, so weights may change at any time.

All this is exact to the rounding of float32. With the precision "bf16", strided and 1 x 1
convolutions outside the compiled units are computed in bfloat16, which changes some tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.fast import (
    Workspace,
    conv3x3,
    conv3x3_tiles,
    conv_fourier,
    native_kernels,
    tile_view,
)
from omnisky.codecs.image.bands import Key
from omnisky.codecs.image.magvit import GlobalContext, ResidualUnit, Upsample
from omnisky.codecs.image.stems import TableHead, TableStem

if TYPE_CHECKING:
    from omnisky.codecs.image.codec import ImageCodec

__all__ = ["checked_precision", "decode_fast", "encode_fast", "is_fast"]

# Objects at a time: on small maps they share the transforms of the weights; on the largest maps
# one fills the cache. More gain little and take more memory.
_MANY, _ONE = 4, 1
# Numbers of a residual unit's input at a time, which take several times the memory: of the paper's
# codec 4 objects with sides of 24, 2 of 48, 1 of 96.
_AT_A_TIME = 1_200_000
# Below so many channels a direct convolution is faster.
_NARROW = 64


class _How(NamedTuple):
    """How to compute: the type of 1 x 1 and strided convolutions, and the memory to use."""

    dtype: torch.dtype
    work: Workspace


class _Conv(NamedTuple):
    """What a convolution is, whether it is a module or was folded from several."""

    weight: Tensor
    bias: Tensor
    stride: int = 1


def is_fast(codec: ImageCodec, x: Tensor) -> bool:
    """Tell whether `encode_fast` and `decode_fast` can and should replace the codec's network."""
    weight = codec.to_latent.weight
    return (
        x.device.type == "cpu"
        and weight.dtype == x.dtype == torch.float32
        and not (torch.is_grad_enabled() or codec.training)
        and codec.config.widths[0] >= _NARROW
        # Tiles of 4 x 4 pixels have no pixel outside the image at any resolution.
        and codec.side % 4 == 0
    )


def encode_fast(
    codec: ImageCodec,
    flux: Tensor,
    mask: Tensor,
    bands: Sequence[Key],
    context: Mapping[str, Tensor] | None,
) -> Tensor:
    """Return latent vectors (object, row, column, dim) of compressed flux.

    Parameters
    ----------
    codec : ImageCodec
        The codec, whose weights are used.
    flux, mask : Tensor, shape (object, band, y, x)
        Compressed flux, and which pixels are good.
    bands : sequence of (str, str)
        The bands of flux.
    context : mapping, optional
        What the stem of the codec is given of each object.
    """
    how = _how(codec)
    layers = list(codec.encoder.layers)
    strided = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d)]
    large, small = layers[: strided[0] + 1], layers[strided[0] + 1 :]
    folded = _folded_stem(codec, bands)

    def enter(part: slice) -> Tensor:
        if folded is None:
            given = {name: tensor[part] for name, tensor in (context or {}).items()}
            x = codec.stem(flux[part], mask[part], bands, given or None).permute(0, 2, 3, 1)
            return _conv(x, _of(codec.encoder.conv_in), how)
        constant = torch.ones_like(flux[part, :1])
        scale = codec.stem.scale(mask[part])[:, None, None, None]
        x = scale * torch.cat([flux[part], constant], 1)
        return _conv(x.permute(0, 2, 3, 1), folded, how)

    latents = []
    for many in _slices(0, len(flux), _MANY):
        x = [_run(large, enter(one), how) for one in _slices(many.start, many.stop, _ONE)]
        latents.append(_linear(_run(small, torch.cat(x), how), codec.to_latent, how))
    return torch.cat(latents)


def decode_fast(
    codec: ImageCodec,
    codes: Tensor,
    bands: Sequence[Key],
    context: Mapping[str, Tensor] | None,
) -> Tensor:
    """Return compressed flux (object, band, y, x) of codes (object, row, column, dim)."""
    how = _how(codec)
    layers = list(codec.decoder.layers)
    upsampling = [i for i, layer in enumerate(layers) if isinstance(layer, Upsample)]
    last = upsampling[-1] if upsampling else len(layers)
    small, large = layers[:last], layers[last:]
    folded = _folded_head(codec, bands)

    def leave(x: Tensor, part: slice) -> Tensor:
        if folded is not None:
            return _conv(x, folded, how).permute(0, 3, 1, 2)
        given = {name: tensor[part] for name, tensor in (context or {}).items()}
        hidden = _conv(x, _of(codec.decoder.conv_out), how).permute(0, 3, 1, 2)
        return codec.head(hidden, bands, given or None)

    flux = []
    for many in _slices(0, len(codes), _MANY):
        x = _run(small, _linear(codes[many], codec.from_latent, how), how)
        for one, few in zip(_slices(many.start, many.stop, _ONE), x.split(_ONE), strict=True):
            flux.append(leave(_run(large, few, how), one))
    return torch.cat(flux)


def _how(codec: ImageCodec) -> _How:
    dtype = torch.bfloat16 if checked_precision(codec) == "bf16" else torch.float32
    return _How(dtype, Workspace())


def checked_precision(codec: ImageCodec) -> str:
    """Return the precision asked for.

    Raises
    ------
    ValueError
        If there is no such precision.
    """
    if codec.precision not in ("float32", "bf16"):
        raise ValueError(f"precision must be 'float32' or 'bf16'; found {codec.precision!r}")
    return codec.precision


def _slices(start: int, stop: int, step: int) -> Iterator[slice]:
    return (slice(i, min(i + step, stop)) for i in range(start, stop, step))


def _folded_stem(codec: ImageCodec, bands: Sequence[Key]) -> _Conv | None:
    """Return stem and first convolution as one of the bands and a constant channel, if possible.

    The stem's bias ends at the border of the image, as the constant channel does.
    """
    stem, conv = codec.stem, codec.encoder.conv_in
    if not isinstance(stem, TableStem) or stem.mask_weight is not None:
        return None
    columns = stem.weight[:, [stem.bands.index(band) for band in bands]]
    columns = torch.cat([columns, stem.bias[:, None]], 1)
    weight = torch.einsum("odyx,dc->ocyx", conv.weight, columns)
    return _Conv(weight, _of(conv).bias)


def _folded_head(codec: ImageCodec, bands: Sequence[Key]) -> _Conv | None:
    """Return the last convolution and the head as one convolution to the bands, if possible."""
    head, conv = codec.head, _of(codec.decoder.conv_out)
    if not isinstance(head, TableHead):
        return None
    index = [head.bands.index(band) for band in bands]
    rows = head.weight[index]
    weight = torch.einsum("cd,dnyx->cnyx", rows, conv.weight)
    return _Conv(weight, head.bias[index] + rows @ conv.bias)


def _of(conv: nn.Conv2d) -> _Conv:
    assert conv.bias is not None
    return _Conv(conv.weight, conv.bias, conv.stride[0])


def _run(layers: Iterable[nn.Module], x: Tensor, how: _How) -> Tensor:
    """Apply layers to (object, row, column, channel); x itself may be overwritten."""
    for layer in layers:
        match layer:
            case nn.Sequential():
                x = _run(layer, x, how)
            case ResidualUnit():
                for part in x.split(max(1, _AT_A_TIME // x[0].numel())):
                    _add_unit(layer, part, how)
            case Upsample():
                x = _upsample(layer, x, how)
            case nn.Conv2d():
                x = _conv(x, _of(layer), how)
            case nn.LayerNorm():
                x = F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
            case _:
                raise TypeError(f"no fast form of a {type(layer).__name__}")
    return x


def _add_unit(unit: ResidualUnit, x: Tensor, how: _How) -> None:
    """Add to x what a residual unit adds, in place."""
    spatial = _of(unit.spatial)
    kernels = native_kernels()
    if kernels is not None and kernels.fits(x, len(spatial.weight)):
        mix = unit.mix.weight.flatten(1), _of(unit.mix).bias
        mixed = kernels.unit(x, spatial[:2], mix, how.work)
    else:
        tiles = F.elu_(conv3x3_tiles(x, spatial.weight, spatial.bias, how.work))
        mixed = F.elu_(_linear(tiles, unit.mix, how))
    mixed = mixed.unflatten(1, (len(x), -1))
    gates = _gates(unit.gate, mixed)
    view = tile_view(x)
    view.addcmul_(mixed.view(view.shape), gates[:, None, None])


def _gates(gate: GlobalContext, tiles: Tensor) -> Tensor:
    """Return the gates (object, channel) of features (pixel of tile, object, tile, channel)."""
    # The bias of the attention shifts all pixels alike: the softmax does not see it.
    score = (tiles @ gate.attention.weight.flatten()).transpose(0, 1)
    weight = score.flatten(1).softmax(1).view(score.shape).transpose(0, 1)
    context = (weight.unsqueeze(2) @ tiles).squeeze(2).sum(0)
    squeezed = F.leaky_relu(_linear(context, gate.squeeze), 0.1)
    return _linear(squeezed, gate.excite).sigmoid()


def _linear(x: Tensor, conv: nn.Conv2d, how: _How | None = None) -> Tensor:
    """Apply a 1 x 1 convolution to the last axis."""
    weight, bias, _ = _of(conv)
    dtype = torch.float32 if how is None else how.dtype
    return F.linear(x.to(dtype), weight.flatten(1).to(dtype), bias.to(dtype)).float()


def _upsample(layer: Upsample, x: Tensor, how: _How) -> Tensor:
    """Double both sides; the channels of `layer` are (channel, row, column) of the new pixels."""
    count, height, width, _ = x.shape
    pixels = F.silu(_linear(x, layer.expand, how), inplace=True)
    pixels = pixels.view(count, height, width, -1, 2, 2).permute(0, 1, 4, 2, 5, 3)
    return pixels.reshape(count, 2 * height, 2 * width, -1)


def _conv(x: Tensor, conv: _Conv, how: _How) -> Tensor:
    """Apply a convolution with a border of half its side."""
    weight, bias, stride = conv
    side = weight.shape[-1]
    if stride == 1 and side > 1 and min(weight.shape[:2]) >= _NARROW:
        if side == 3:
            return conv3x3(x, weight, bias, how.work)
        # One such layer among many: its memory is large, and not kept with that of others.
        how.work.clear()
        out = conv_fourier(x, weight, bias, how.work)
        how.work.clear()
        return out
    x, weight, bias = (tensor.to(how.dtype) for tensor in (x.permute(0, 3, 1, 2), weight, bias))
    out = F.conv2d(x, weight, bias, stride=stride, padding=side // 2)
    # Channels lie last in memory already, or are laid so.
    return out.permute(0, 2, 3, 1).float().contiguous()
