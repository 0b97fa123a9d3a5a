"""The convolutional autoencoder of maps: four times smaller each way three times over, and back.

The net is that of VQ-VAE (van den Oord et al. 2017, arXiv:1711.00937, appendix), as AION-1 uses it
for scalar fields; names of parameters follow the released codecs.
"""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MapDecoder", "MapEncoder"]


class _ResidualLayer(nn.Module):
    """ReLU, 3 × 3 convolution, batch norm, ReLU, 1 × 1 convolution, added to the input."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, width, 1),
        )

    def forward(self, x: Tensor, learning: bool) -> Tensor:
        """Return the output; batch statistics count only when `learning`, whatever the mode."""
        first, norm, second = self.net[1], self.net[2], self.net[4]
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.momentum is not None
        y = F.batch_norm(
            first(F.relu(x)),
            norm.running_mean,
            norm.running_var,
            norm.weight,
            norm.bias,
            learning,
            norm.momentum,
            norm.eps,
        )
        return x + second(F.relu(y))


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(_ResidualLayer(width, hidden) for _ in range(layers))

    def forward(self, x: Tensor, learning: bool) -> Tensor:
        for layer in self.net:
            x = layer(x, learning)
        return x


class _Net(nn.Module):
    """Layers in a row, numbered as the released codecs number theirs."""

    net: nn.ModuleList

    def forward(self, x: Float[Tensor, "object channel y x"], learning: bool) -> Tensor:
        for layer in self.net:
            x = layer(x, learning) if isinstance(layer, _ResidualBlock) else layer(x)
        return x


def _widths(width: int, steps: int) -> list[int]:
    """Return widths that double up to `width`, without the first."""
    return [width // 2**i for i in range(steps - 1, -1, -1)]


class MapEncoder(_Net):
    """Encode maps of one channel, each side shrinking by 2 ^ `steps`.

    Parameters
    ----------
    width : int
        Channels at the end; half as many one step before, and so on.
    hidden, layers : int
        Inner channels and number of residual layers.
    steps : int
        How often the side is halved.
    """

    def __init__(self, width: int, hidden: int, layers: int, steps: int) -> None:
        super().__init__()
        sizes = [1, *_widths(width, steps)]
        halve: list[nn.Module] = []
        for here, there in pairwise(sizes):
            halve += [nn.Conv2d(here, there, 4, stride=2, padding=1), nn.ReLU()]
        last = nn.Conv2d(width, width, 3, padding=1)
        self.net = nn.ModuleList([*halve, last, _ResidualBlock(width, hidden, layers)])


class MapDecoder(_Net):
    """Decode to maps of one channel, each side growing by 2 ^ `steps`; parameters as the encoder's.

    It does not mirror the encoder: after the first step it has the fewest channels, as released.
    """

    def __init__(self, width: int, hidden: int, layers: int, steps: int) -> None:
        super().__init__()
        sizes = [width, *_widths(width, steps)[:-1], 1]
        double: list[nn.Module] = []
        for here, there in pairwise(sizes):
            double += [nn.ReLU(), nn.ConvTranspose2d(here, there, 4, stride=2, padding=1)]
        first = nn.ConvTranspose2d(width, width, 3, padding=1)
        self.net = nn.ModuleList([first, _ResidualBlock(width, hidden, layers), *double])
