"""The convolutional encoder and decoder of the image codec, in the manner of MagViT-2.

Source: Yu et al. 2024, arXiv:2310.05737, without attention and in two dimensions, with the global
context gate of Cao et al. 2020, arXiv:2012.13375; layer order as in the released AION-1 codecs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ChannelNorm", "Decoder", "Encoder", "GlobalContext", "ResidualUnit", "Upsample"]

Pixels = Float[Tensor, "object channel y x"]
Others = Float[Tensor, "object other row column"]

# A gate starts nearly closed: sigmoid(-10) = 5e-5, so that a unit starts as the identity.
_CLOSED = -10.0


def _conv(n_in: int, n_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2)


class GlobalContext(nn.Module):
    """Gate each channel by a mean over the image whose weights are learned.

    Parameters
    ----------
    width : int
        Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(16, width // 2)
        self.attention = nn.Conv2d(width, 1, 1)
        self.squeeze = nn.Conv2d(width, hidden, 1)
        self.excite = nn.Conv2d(hidden, width, 1)
        nn.init.zeros_(self.excite.weight)
        assert self.excite.bias is not None
        nn.init.constant_(self.excite.bias, _CLOSED)

    def forward(self, x: Pixels) -> Pixels:
        weight = self.attention(x).flatten(2).softmax(-1)
        context = (x.flatten(2) @ weight.transpose(1, 2)).unsqueeze(-1)
        return x * torch.sigmoid(self.excite(F.leaky_relu(self.squeeze(context), 0.1)))


class ResidualUnit(nn.Module):
    """Add to the input two convolutions of it, gated by the global context.

    Parameters
    ----------
    width : int
        Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = _conv(width, width, 3)
        self.mix = nn.Conv2d(width, width, 1)
        self.gate = GlobalContext(width)

    def forward(self, x: Pixels) -> Pixels:
        return x + self.gate(F.elu(self.mix(F.elu(self.spatial(x)))))


class Upsample(nn.Module):
    """Double both sides: four output pixels from each input pixel.

    Parameters
    ----------
    n_in, n_out : int
        Channels.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(n_in, 4 * n_out, 1)
        # The four pixels start equal, so that no checkerboard has to be unlearned.
        one = torch.empty(n_out, n_in, 1, 1)
        nn.init.kaiming_uniform_(one)
        assert self.expand.bias is not None
        with torch.no_grad():
            self.expand.weight.copy_(one.repeat_interleave(4, 0))
        nn.init.zeros_(self.expand.bias)

    def forward(self, x: Pixels) -> Others:
        return F.pixel_shuffle(F.silu(self.expand(x)), 2)


class ChannelNorm(nn.LayerNorm):
    """Normalise over the channels of each pixel."""

    def forward(self, input: Pixels) -> Pixels:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def _units(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualUnit(width) for _ in range(count)))


class Encoder(nn.Module):
    """Turn projected bands into latent vectors, each for a square of pixels.

    Parameters
    ----------
    n_in : int
        Channels of the input.
    widths : sequence of int
        Channels at full resolution and after each halving of both sides.
    units : int
        Residual units at each resolution but the first, which has one.
    kernel : int
        Side of the first and of the last convolution.
    """

    def __init__(self, n_in: int, widths: Sequence[int], units: int, kernel: int = 7) -> None:
        super().__init__()
        self.conv_in = _conv(n_in, widths[0], kernel)
        layers: list[nn.Module] = [ResidualUnit(widths[0])]
        for n_in_stage, n_out in pairwise(widths):
            layers += [_conv(n_in_stage, n_out, 3, stride=2), _units(n_out, units)]
        last = widths[-1]
        layers += [_conv(last, last, kernel), _units(last, units), ChannelNorm(last)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Pixels) -> Others:
        x = self.conv_in(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Decoder(nn.Module):
    """Turn latent vectors into features of each pixel; the encoder in reverse.

    Parameters
    ----------
    n_out : int
        Channels of the output.
    widths : sequence of int
        As for `Encoder`: channels at full resolution first.
    units : int
        Residual units at each resolution but the first, which has one.
    """

    def __init__(self, n_out: int, widths: Sequence[int], units: int) -> None:
        super().__init__()
        last = widths[-1]
        layers: list[nn.Module] = [_units(last, units), _conv(last, last, 3)]
        for n_small, n_in in zip(widths[-2::-1], widths[:0:-1], strict=True):
            layers += [_units(n_in, units), Upsample(n_in, n_small)]
        layers.append(ResidualUnit(widths[0]))
        self.layers = nn.ModuleList(layers)
        self.conv_out = _conv(widths[0], n_out, 3)

    def forward(self, x: Pixels) -> Others:
        for layer in self.layers:
            x = layer(x)
        return self.conv_out(x)
