"""3 x 3 convolutions with a quarter of the multiplications, in float32 and plain torch.

Winograd's F(4 x 4, 3 x 3): 16 neighbouring outputs take 36 products instead of 144. An image is cut
into overlapping tiles of 6 x 6 pixels, both tiles and kernels are changed to a basis in which the
convolution is a product of each of 36 elements, and the result is changed back to 4 x 4 pixels.
The products over channels of all tiles are then 36 matrix products.

Source: Lavin and Gray 2015, arXiv:1509.09308, with their points 0, ±1, ±2, ∞. In float32 the error
is some 1e-6 of the output's size.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BORDER", "TILE", "conv3x3", "conv3x3_tiles", "tile_view", "untile"]

# Outputs of a tile along one side, and pixels it needs beyond them on each side.
TILE, BORDER = 4, 1
_INNER = TILE + 2 * BORDER
# Transformed weights of so many outputs at a time: these stay in the cache until they are used, so
# nothing has to be kept, and made again for each batch they cost 3 % of the time.
_OUTPUTS = 256

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
# The element that every one of the 16 outputs contains once: a bias is added there.
_CONSTANT = 1 * _INNER + 1


def _both_sides(matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Return the matrix that transforms both sides of a tile at once."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).float()


_OF_KERNEL, _OF_OUTPUT = _both_sides(_KERNEL), _both_sides(_OUTPUT)
_OF_SIDE = torch.tensor(_INPUT, dtype=torch.float32)


def tile_view(x: Float[Tensor, "object height width channel"]) -> Tensor:
    """Return a view of shape (4, 4, object, tile row, tile column, channel)."""
    return x.unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE)).permute(2, 4, 0, 1, 3, 5)


def untile(
    tiles: Float[Tensor, "sixteen tile channel"], size: tuple[int, int, int]
) -> Float[Tensor, "object height width channel"]:
    """Put tiles together to images.

    Parameters
    ----------
    tiles : Tensor, shape (16, tile, channel)
        As returned by `conv3x3_tiles`.
    size : (object, height, width)
        Size of the images; both sides are cut to it.
    """
    n, height, width = size
    rows, columns = -(-height // TILE), -(-width // TILE)
    whole = tiles.unflatten(1, (n, rows, columns)).unflatten(0, (TILE, TILE))
    whole = whole.permute(2, 3, 0, 4, 1, 5).reshape(n, rows * TILE, columns * TILE, -1)
    return whole[:, :height, :width]


def _transformed(x: Tensor) -> Tensor:
    """Return the tiles of images in Winograd's basis, shape (36, tile, channel)."""
    n, height, width, channels = x.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    below, right = rows * TILE - height + BORDER, columns * TILE - width + BORDER
    x = F.pad(x, (0, 0, BORDER, right, BORDER, below))
    to_object, to_row, to_column, _ = x.stride()
    tiles = x.as_strided(
        (_INNER, _INNER, n, rows, columns, channels),
        (to_row, to_column, to_object, TILE * to_row, TILE * to_column, 1),
    )
    gathered = tiles.contiguous()
    half = torch.mm(_OF_SIDE, gathered.view(_INNER, -1))
    torch.matmul(_OF_SIDE, half.view(_INNER, _INNER, -1), out=gathered.view(_INNER, _INNER, -1))
    return gathered.view(_INNER**2, n * rows * columns, channels)


def conv3x3_tiles(
    x: Float[Tensor, "object height width channel"],
    weight: Float[Tensor, "output channel 3 3"],
    bias: Float[Tensor, " output"],
) -> Float[Tensor, "sixteen tile output"]:
    """Convolve with zeros around the images, and leave the result in tiles.

    Parameters
    ----------
    x : Tensor, shape (object, height, width, channel)
        Images, float32 on a CPU.
    weight, bias : Tensor
        As of `torch.nn.Conv2d`.

    Returns
    -------
    Tensor, shape (16, tile, output)
        Pixel (4·i + a, 4·j + b) of object n is at ``[4 * a + b, (n * rows + i) * columns + j]``;
        sides that are no multiples of 4 are filled up. `untile` puts them together.
    """
    tiles = _transformed(x)
    count, n_in, n_out = tiles.shape[1], weight.shape[1], weight.shape[0]
    out = x.new_empty(TILE**2, count, n_out)
    for start in range(0, n_out, _OUTPUTS):
        part = slice(start, start + _OUTPUTS)
        # Contiguous weights are in memory (output, channel, 9): no copy.
        kernels = torch.mm(_OF_KERNEL, weight[part].reshape(-1, 9).t())
        products = torch.bmm(tiles, kernels.view(_INNER**2, -1, n_in).transpose(1, 2))
        products[_CONSTANT] += bias[part]
        flat = products.view(_INNER**2, -1)
        if part.stop >= n_out and start == 0:
            torch.mm(_OF_OUTPUT, flat, out=out.view(TILE**2, -1))
        else:
            out[:, :, part] = torch.mm(_OF_OUTPUT, flat).view(TILE**2, count, -1)
    return out


def conv3x3(
    x: Float[Tensor, "object height width channel"],
    weight: Float[Tensor, "output channel 3 3"],
    bias: Float[Tensor, " output"],
) -> Float[Tensor, "object height width output"]:
    """Convolve with zeros around the images; see `conv3x3_tiles`."""
    n, height, width, _ = x.shape
    return untile(conv3x3_tiles(x, weight, bias), (n, height, width))
