"""3 x 3 convolutions with a quarter of the multiplications, in float32 and plain torch.

Winograd's F(4 x 4, 3 x 3): 16 neighbouring outputs take 36 products instead of 144. An image is cut
into overlapping tiles of 6 x 6 pixels, both tiles and kernels are changed to a basis in which the
convolution is a product of each of 36 elements, and the result is changed back to 4 x 4 pixels.
The products over channels of all tiles are then 36 matrix products.

Sources: Lavin and Gray 2015, arXiv:1509.09308; for the choice of points Barabasz et al. 2018,
arXiv:1803.10986. The error in float32 is some 1e-6 of the output's size, at most 1e-5.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from omnisky.codecs.fast.native import native_kernels
from omnisky.codecs.fast.workspace import Workspace

__all__ = ["conv3x3", "conv3x3_tiles", "tile_view", "untile"]

# Outputs of a tile along one side, and pixels it needs beyond them on each side.
_TILE, _BORDER = 4, 1
_INNER = _TILE + 2 * _BORDER
# Transformed weights of so many outputs at a time: these stay in the cache until they are used, so
# nothing has to be kept between batches.
_OUTPUTS = 128

# Where the polynomials are compared; infinity is the sixth. These err a third as much as 0, ±1, ±2.
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)


def _matrices(points: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what transforms a side of tiles, and both sides of kernels and of products.

    By the rule of Toom and Cook: products of polynomials from their values at points.
    """
    size = len(points) + 1
    tiles, kernels, back = np.zeros((size, size)), np.zeros((size, 3)), np.zeros((_TILE, size))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        tiles[i, :-1] = np.poly(others)[::-1]
        kernels[i] = point ** np.arange(3) / np.prod(point - np.array(others))
        back[:, i] = point ** np.arange(_TILE)
    tiles[-1] = np.poly(points)[::-1]
    kernels[-1, -1] = back[-1, -1] = 1

    def both_sides(matrix: np.ndarray) -> Tensor:
        return torch.from_numpy(np.kron(matrix, matrix)).float()

    return torch.from_numpy(tiles).float(), both_sides(kernels), both_sides(back)


_OF_SIDE, _OF_KERNEL, _OF_OUTPUT = _matrices(_POINTS)


def tile_view(x: Float[Tensor, "object height width channel"]) -> Tensor:
    """Return a view of shape (4, 4, object, tile row, tile column, channel)."""
    return x.unflatten(2, (-1, _TILE)).unflatten(1, (-1, _TILE)).permute(2, 4, 0, 1, 3, 5)


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
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    whole = tiles.unflatten(1, (n, rows, columns)).unflatten(0, (_TILE, _TILE))
    whole = whole.permute(2, 3, 0, 4, 1, 5).reshape(n, rows * _TILE, columns * _TILE, -1)
    return whole[:, :height, :width]


def _transformed(x: Tensor, work: Workspace) -> Tensor:
    """Return the tiles of images in Winograd's basis, shape (36, tile, channel)."""
    n, height, width, channels = x.shape
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    x = work.padded(x, _BORDER, rows * _TILE - height + _BORDER, columns * _TILE - width + _BORDER)
    to_object, to_row, to_column, _ = x.stride()
    shape = (_INNER, _INNER, n, rows, columns, channels)
    tiles = x.as_strided(
        shape, (to_row, to_column, to_object, _TILE * to_row, _TILE * to_column, 1)
    )
    gathered = work.take("tiles", *shape).copy_(tiles).view(_INNER, _INNER, -1)
    half = work.take("products", *gathered.shape)
    torch.mm(_OF_SIDE, gathered.view(_INNER, -1), out=half.view(_INNER, -1))
    torch.matmul(_OF_SIDE, half, out=gathered)
    return gathered.view(_INNER**2, n * rows * columns, channels)


def conv3x3_tiles(
    x: Float[Tensor, "object height width channel"],
    weight: Float[Tensor, "output channel 3 3"],
    bias: Float[Tensor, " output"],
    work: Workspace | None = None,
) -> Float[Tensor, "sixteen tile output"]:
    """Convolve with zeros around the images, and leave the result in tiles.

    Parameters
    ----------
    x : Tensor, shape (object, height, width, channel)
        Images, float32 on a CPU.
    weight, bias : Tensor
        As of `torch.nn.Conv2d`.
    work : Workspace, optional
        Memory to use; the result lies in its buffer "convolved".

    Returns
    -------
    Tensor, shape (16, tile, output)
        Pixel (4·i + a, 4·j + b) of object n is at ``[4 * a + b, (n * rows + i) * columns + j]``;
        sides that are no multiples of 4 are filled up. `untile` puts them together.
    """
    work = work or Workspace()
    tiles = _transformed(x, work)
    count, n_in, n_out = tiles.shape[1], weight.shape[1], weight.shape[0]
    out = work.take("convolved", _TILE**2, count, n_out)
    for start in range(0, n_out, _OUTPUTS):
        part = slice(start, min(start + _OUTPUTS, n_out))
        size = part.stop - start
        kernels = work.take("kernels", _INNER**2, size, n_in)
        # Weights are in memory (output, channel, 9).
        torch.mm(_OF_KERNEL, weight[part].reshape(-1, 9).t(), out=kernels.view(_INNER**2, -1))
        products = work.take("products", _INNER**2, count, size)
        torch.bmm(tiles, kernels.transpose(1, 2), out=products)
        block = work.take("block", _TILE**2, count, size)
        torch.mm(_OF_OUTPUT, products.view(_INNER**2, -1), out=block.view(_TILE**2, -1))
        torch.add(block, bias[part], out=out[:, :, part])
    return out


def conv3x3(
    x: Float[Tensor, "object height width channel"],
    weight: Float[Tensor, "output channel 3 3"],
    bias: Float[Tensor, " output"],
    work: Workspace | None = None,
) -> Float[Tensor, "object height width output"]:
    """Convolve with zeros around the images; see `conv3x3_tiles`."""
    work = work or Workspace()
    kernels = native_kernels()
    if kernels is not None and kernels.fits(x, len(weight)):
        tiles = kernels.conv3x3_tiles(x, weight, bias, work)
    else:
        tiles = conv3x3_tiles(x, weight, bias, work)
    n, height, width, _ = x.shape
    return untile(tiles, (n, height, width))
