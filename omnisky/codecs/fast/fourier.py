"""Large convolutions through the Fourier transforms of tiles, in float32 and plain torch.

A kernel of side k over a tile of side n = m + k - 1 gives m x m outputs. In Fourier space each
frequency of all tiles is one product of complex matrices over the channels: for k = 7 and m = 8
these are six real products an output instead of 49. Transforms of such small tiles are matrix
products themselves, one side after the other, which keeps everything in rows of channels.

Of the frequencies (u, v) of a real tile, v = 0 … n/2 say all. Along the first side, v = 0 and
v = n/2 are real, so that their u = 0 … n/2 say all; the others are complex and need all n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from omnisky.codecs.fast.compiling import random_tensors
from omnisky.codecs.fast.native import Kernels, native_kernels
from omnisky.codecs.fast.workspace import Workspace

__all__ = ["conv_fourier"]

# Outputs of a tile along one side. Larger tiles take fewer products, but longer transforms of the
# weights, and leave fewer rows to each matrix product.
_TILE = 8
# Weights of so many outputs are transformed at a time: see `omnisky.codecs.fast.winograd`.
_OUTPUTS = 64


@dataclass(frozen=True)
class _Transforms:
    """Matrices for tiles of side n, of which `real` act on v = 0 and n/2 and `full` on others.

    Forward matrices hold the rows (real, imaginary) of each frequency; those of tiles also the row
    -real, so that rows 0-1 and 1-2 are the factors of the real and imaginary parts of a weight.
    """

    first: Tensor
    tile_real: Tensor
    tile_full: Tensor
    weight_real: Tensor
    weight_full: Tensor
    back_real: Tensor
    back_full: Tensor
    last: Tensor


def _waves(n: int, frequencies: range, places: int) -> Tensor:
    """Return exp(-2πi·u·a/n) of shape (frequency, place)."""
    phase = torch.outer(torch.tensor(frequencies), torch.arange(places)) % n
    angle = -2 * math.pi / n * phase.double()
    return torch.polar(torch.ones_like(angle), angle)


def _real_side(n: int, places: int) -> Tensor:
    """Return the transform of a real side: v = 0, n/2, then (real, imaginary) of the others."""
    waves = _waves(n, range(n // 2 + 1), places)
    others = torch.stack([waves.real, waves.imag], 1)[1:-1].flatten(0, 1)
    return torch.cat([waves.real[:1], waves.real[-1:], others])


def _rows(of_real: Tensor, of_imaginary: Tensor | None, signs: tuple[complex, ...]) -> Tensor:
    """Return a real matrix with a row for the real part of each sign times the transform.

    Its columns are the places of the real, then of the imaginary part of the input, if it has one.
    """
    parts = [of_real] if of_imaginary is None else [of_real, of_imaginary]
    waves = torch.cat(parts, 1)
    return torch.stack([(sign * waves).real for sign in signs], 1).flatten(0, 1)


@cache
def _transforms(n: int, kernel: int) -> _Transforms:
    m = n - kernel + 1
    half, every = range(n // 2 + 1), range(n)
    complex_parts, with_negative = (1, -1j), (1, -1j, -1)
    matrices = {"first": _real_side(n, n)}
    for name, places, signs in (("tile", n, with_negative), ("weight", kernel, complex_parts)):
        one, all = _waves(n, half, places), _waves(n, every, places)
        matrices[f"{name}_real"] = _rows(one, None, signs)
        matrices[f"{name}_full"] = _rows(all, 1j * all, signs)
    # Frequencies between 0 and n/2 stand for their conjugates too.
    twice = torch.tensor([1.0, *[2.0] * (n // 2 - 1), 1.0], dtype=torch.float64)
    back = _waves(n, half, m).conj() * twice[:, None] / n
    matrices["back_real"] = torch.stack([back.real, -back.imag], 1).flatten(0, 1).t()
    back = _waves(n, every, m).conj() / n
    # Columns (real, imaginary) of each frequency; rows the real, then the imaginary places.
    to_real = torch.stack([back.real, -back.imag], 1).flatten(0, 1).t()
    to_imaginary = torch.stack([back.imag, back.real], 1).flatten(0, 1).t()
    matrices["back_full"] = torch.cat([to_real, to_imaginary])
    back = _waves(n, half, m).conj() * twice[:, None] / n
    others = torch.stack([back.real, -back.imag], 1)[1:-1].flatten(0, 1)
    matrices["last"] = torch.cat([back.real[:1], back.real[-1:], others]).t()
    return _Transforms(**{name: matrix.float().contiguous() for name, matrix in matrices.items()})


def _tiles(x: Tensor, kernel: int, work: Workspace) -> Tensor:
    """Return overlapping tiles, shape (column in tile, row in tile, tile, channel)."""
    n, height, width, channels = x.shape
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    border, inner = kernel // 2, _TILE + kernel - 1
    below, right = rows * _TILE - height + border, columns * _TILE - width + border
    x = work.padded(x, border, below, right)
    to_object, to_row, to_column, _ = x.stride()
    shape = (inner, inner, n, rows, columns, channels)
    tiles = x.as_strided(
        shape, (to_column, to_row, to_object, _TILE * to_row, _TILE * to_column, 1)
    )
    gathered = work.take("tiles", *shape).copy_(tiles)
    return gathered.view(inner, inner, n * rows * columns, channels)


def _one_side(tiles: Tensor, first: Tensor, work: Workspace) -> Tensor:
    """Transform the columns of (column, row, …) to (v, row, rest)."""
    flat = tiles.flatten(2)
    side = work.take("side", len(first), *flat.shape[1:])
    torch.mm(first, flat.flatten(1), out=side.view(len(first), -1))
    return side


def _other_side(side: Tensor, v: int, real: Tensor, full: Tensor, out: Tensor) -> None:
    """Transform the rows of the v-th of v = 0, n/2, 1, 2, … into `out`."""
    if v < 2:
        torch.mm(real, side[v], out=out)
    else:
        torch.mm(full, side[2 * v - 2 : 2 * v].flatten(0, 1), out=out)


def _spectra(
    x: Tensor, kernel: int, first: Tensor, real: Tensor, full: Tensor, work: Workspace
) -> tuple[Tensor, list[int]]:
    """Return the frequencies of all tiles, shape (row, tile · channel), and the rows of each v."""
    count, height, width, channels = x.shape
    tiles = -(-height // _TILE) * -(-width // _TILE)
    sizes = [len(real)] * 2 + [len(full)] * (len(first) // 2 - 1)
    out = work.take("spectra", sum(sizes), count, tiles * channels)
    # One object at a time: what lies between is larger than the result.
    for i in range(count):
        side = _one_side(_tiles(x[i : i + 1], kernel, work), first, work)
        for v, rows in enumerate(out[:, i].split(sizes)):
            _other_side(side, v, real, full, rows)
    return out.flatten(1), sizes


def _compiled(
    kernels: Kernels, x: Tensor, layer: tuple[Tensor, Tensor], by: _Transforms, work: Workspace
) -> Tensor:
    """Return the convolution in whole tiles, by compiled kernels."""
    kernel = len(layer[0][0, 0])
    # Without the negative real parts.
    real, full = (
        matrix.unflatten(0, (-1, 3))[:, :2].flatten(0, 1) for matrix in (by.tile_real, by.tile_full)
    )
    spectra, _ = _spectra(x, kernel, by.first, real, full, work)
    shape = len(x), -(-x.shape[1] // _TILE), -(-x.shape[2] // _TILE)
    weights = by.first[:, :kernel], by.weight_real, by.weight_full
    matrices = *weights, by.back_real, by.back_full, by.last
    flat = spectra.view(len(spectra), -1, x.shape[3])
    return kernels.fourier(flat, layer, matrices, shape, work)


@cache
@torch.no_grad()
def _agree(kernels: Kernels) -> bool:
    """Tell whether the kernels give what torch gives, on images that fill no tile."""
    random = random_tensors()
    x, weight, bias = random(2, 19, 9, 5), random(64, 5, 7, 7) / 16, random(64)
    work = Workspace()
    if not kernels.fits_fourier(x, weight):
        return False
    with torch.autocast("cpu", enabled=False):
        by = _transforms(_TILE + 6, 7)
        found = _compiled(kernels, x, (weight, bias), by, work)[:, :19, :9]
        wanted = F.conv2d(x.movedim(3, 1), weight, bias, padding=3).movedim(1, 3)
    return torch.allclose(found, wanted, rtol=0, atol=1e-4)


def _products(
    spectra: tuple[Tensor, ...], weight: Tensor, by: _Transforms, work: Workspace
) -> Tensor:
    """Return outputs (column, row, tile, output) of the tiles' spectra for a block of outputs."""
    n_out, n_in, kernel, _ = weight.shape
    n, m = len(by.first), len(by.last)
    taps = work.take("padded", kernel, kernel, n_out, n_in).copy_(weight.permute(3, 2, 0, 1))
    side = _one_side(taps, by.first[:, :kernel].contiguous(), work)
    count = spectra[0].shape[1] // n_in
    back = work.take("back", n, m, count * n_out)
    row = 0
    for v, spectrum in enumerate(spectra):
        tiles = spectrum.view(-1, 3 * count, n_in)
        kernels = work.take("kernels", 2 * len(tiles), n_out * n_in)
        _other_side(side, v, by.weight_real, by.weight_full, kernels)
        pair = kernels.view(len(tiles), 2, n_out, n_in).transpose(2, 3)
        out = work.take("products", len(tiles), 2 * count, n_out)
        torch.bmm(tiles[:, : 2 * count], pair[:, 0], out=out)
        # A correlation: the weight's spectrum is conjugated.
        out.baddbmm_(tiles[:, count:], pair[:, 1])
        matrix, height = (by.back_real, 1) if v < 2 else (by.back_full, 2)
        torch.mm(matrix, out.view(-1, count * n_out), out=back[row : row + height].flatten(0, 1))
        row += height
    out = work.take("block", m, m, count, n_out)
    torch.mm(by.last, back.flatten(1), out=out.view(m, -1))
    return out


def conv_fourier(
    x: Float[Tensor, "object height width channel"],
    weight: Float[Tensor, "output channel side side"],
    bias: Float[Tensor, " output"],
    work: Workspace | None = None,
) -> Float[Tensor, "object height width output"]:
    """Convolve with a large odd kernel and zeros around the images.

    Parameters
    ----------
    x : Tensor, shape (object, height, width, channel)
        Images, float32 on a CPU.
    weight, bias : Tensor
        As of `torch.nn.Conv2d` with padding ``side // 2``.
    work : Workspace, optional
        Memory to use.

    Raises
    ------
    ValueError
        If the kernel is no square of odd side.
    """
    n_out, _, kernel, other = weight.shape
    if kernel != other or kernel % 2 == 0:
        raise ValueError(f"the kernel must be a square of odd side; found {kernel} x {other}")
    work = work or Workspace()
    count, height, width, _ = x.shape
    by = _transforms(_TILE + kernel - 1, kernel)
    kernels = native_kernels()
    if kernels is not None and kernels.fits_fourier(x, weight) and _agree(kernels):
        return _compiled(kernels, x, (weight, bias), by, work)[:, :height, :width]
    flat, sizes = _spectra(x, kernel, by.first, by.tile_real, by.tile_full, work)
    spectra = flat.split(sizes)
    rows, columns = -(-height // _TILE), -(-width // _TILE)
    out = x.new_empty(count, rows, _TILE, columns, _TILE, n_out)
    for start in range(0, n_out, _OUTPUTS):
        part = slice(start, start + _OUTPUTS)
        outputs = _products(spectra, weight[part], by, work).add_(bias[part])
        out[..., part] = outputs.unflatten(2, (count, rows, columns)).permute(2, 3, 1, 4, 0, 5)
    return out.view(count, rows * _TILE, columns * _TILE, n_out)[:, :height, :width]
