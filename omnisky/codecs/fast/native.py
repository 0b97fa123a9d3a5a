"""The convolutions of image networks, compiled where they run; optional.

`kernels.c` does what the modules `winograd` and `fourier` beside this one and torch's linear layer
do, in fewer passes over memory; plain torch does the work where it cannot be used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from omnisky.codecs.fast.compiling import call, compiled, random_tensors
from omnisky.codecs.fast.workspace import Workspace

__all__ = ["Kernels", "native_kernels"]

_SOURCE = Path(__file__).with_name("kernels.c")
_FREQUENCIES, _PIXELS = 36, 16
# Of outputs of a convolution, relative to their standard deviation of about one.
_TOLERANCE = 1e-4


class _FourierPlan(ctypes.Structure):
    """``fourier_plan`` of `kernels.c`."""

    _matrices = ("first", "weight_real", "weight_full", "back_real", "back_full", "last")
    _sizes = ("count", "channels", "outputs", "kernel", "n", "m", "tile_rows", "tile_columns")
    _fields_ = [
        *((name, ctypes.c_void_p) for name in (*_matrices, "weight", "bias")),
        *((name, ctypes.c_long) for name in _sizes),
    ]


class Kernels:
    """Call the compiled kernels on tensors, with as many threads as torch uses.

    Parameters
    ----------
    library : CDLL
        Compiled `kernels.c`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._library.fourier_scratch.restype = ctypes.c_long
        self._rows = int(self._library.group_rows())
        self._wide = 2 * int(self._library.lanes())

    def fits(self, x: Tensor, outputs: int) -> bool:
        """Tell whether images (object, row, column, channel) have whole tiles and lanes."""
        _, height, width, channels = x.shape
        whole = channels % self._wide == outputs % self._wide == height % 4 == width % 4 == 0
        return whole and x.dtype == torch.float32

    def fits_fourier(self, x: Tensor, weight: Tensor) -> bool:
        """Tell whether outputs are whole panels, and tiles no larger than the kernels know."""
        return len(weight) % self._wide == 0 and len(weight[0, 0]) < 24 and x.dtype == torch.float32

    def conv3x3_tiles(self, x: Tensor, weight: Tensor, bias: Tensor, work: Workspace) -> Tensor:
        """Do what `omnisky.codecs.fast.winograd.conv3x3_tiles` does; the result lies in "mixed"."""
        count = x.shape[0] * x.shape[1] * x.shape[2] // _PIXELS
        out = work.take("mixed", _PIXELS, count, len(weight))
        self._convolve(self._tiles(x, work), weight, bias, out, work, packed=False)
        return out

    def unit(
        self, x: Tensor, spatial: tuple[Tensor, Tensor], mix: tuple[Tensor, Tensor], work: Workspace
    ) -> Tensor:
        """Return elu(mix(elu(spatial(x)))) in tiles.

        Parameters
        ----------
        x : Tensor, shape (object, row, column, channel)
            Images.
        spatial, mix : (weight, bias)
            Of a 3 x 3 and of a 1 x 1 convolution.
        work : Workspace
            Memory to use; the result lies in its buffer "mixed".

        Returns
        -------
        Tensor, shape (16, tile, output)
            As of `conv3x3_tiles`.
        """
        tiles = self._tiles(x, work)
        count, channels = tiles.shape[0], len(spatial[0])
        middle = work.take("convolved", _PIXELS, self._whole(count), channels)
        self._convolve(tiles, *spatial, middle, work, packed=True)
        weight, bias = (tensor.contiguous() for tensor in mix)
        out = work.take("mixed", _PIXELS, count, len(weight))
        scratch = work.take("kernels", torch.get_num_threads(), channels * self._wide)
        tensors = (middle, weight, bias, out, scratch)
        call(self._library, "mix", *tensors, count, channels, len(weight), len(scratch))
        return out

    def fourier(
        self,
        spectra: Tensor,
        layer: tuple[Tensor, Tensor],
        matrices: Sequence[Tensor],
        shape: tuple[int, int, int],
        work: Workspace,
    ) -> Tensor:
        """Return a large convolution of tiles in Fourier space.

        Parameters
        ----------
        spectra : Tensor, shape (frequency and part, tile, channel)
            Real and imaginary part of each frequency of all tiles.
        layer : (weight, bias)
            As of `torch.nn.Conv2d`.
        matrices : sequence of Tensor
            In the order of ``fourier_plan`` in `kernels.c`.
        shape : (object, tile row, tile column)
            Order of the tiles.
        work : Workspace
            Memory to use.

        Returns
        -------
        Tensor, shape (object, row, column, output)
            In whole tiles.
        """
        parts, count, channels = spectra.shape
        threads = torch.get_num_threads()
        packed = work.take("tiles", parts, self._whole(count), channels)
        call(self._library, "pack", spectra, packed, parts, count, channels, threads)
        tensors = [tensor.contiguous() for tensor in (*matrices, *layer)]
        (n, kernel), m, n_out = matrices[0].shape, len(matrices[-1]), len(layer[0])
        sizes = (count, channels, n_out, kernel, n, m, *shape[1:])
        plan = _FourierPlan(*(tensor.data_ptr() for tensor in tensors), *sizes)
        size = self._library.fourier_scratch(ctypes.byref(plan))
        scratch = work.take("kernels", threads, size)
        out = spectra.new_empty(shape[0], shape[1] * m, shape[2] * m, n_out)
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (packed, out, scratch)]
        self._library.fourier(ctypes.byref(plan), *pointers, ctypes.c_long(threads))
        return out

    def _tiles(self, x: Tensor, work: Workspace) -> Tensor:
        """Return packed tiles, seen as (tile, …)."""
        objects, height, width, channels = x.shape
        rows, columns = height // 4, width // 4
        count = objects * rows * columns
        out = work.take("tiles", self._whole(count), _FREQUENCIES, channels)
        sizes = (objects, rows, columns, channels, torch.get_num_threads())
        call(self._library, "tiles", work.padded(x, 1, 1, 1), out, *sizes)
        return out[:count]

    def _whole(self, count: int) -> int:
        """Return the number of rows in the groups that hold so many."""
        return -(-count // self._rows) * self._rows

    def _convolve(
        self,
        tiles: Tensor,
        weight: Tensor,
        bias: Tensor,
        out: Tensor,
        work: Workspace,
        *,
        packed: bool,
    ) -> None:
        count, channels = len(tiles), tiles.shape[-1]
        size = (45 * channels + _FREQUENCIES * (1 + self._whole(count))) * self._wide
        scratch = work.take("kernels", torch.get_num_threads(), size)
        tensors = (tiles, weight.contiguous(), bias.contiguous(), out, scratch)
        call(
            self._library,
            "convolve",
            *tensors,
            count,
            channels,
            len(weight),
            int(packed),
            len(scratch),
        )


@cache
def native_kernels() -> Kernels | None:
    """Return the kernels if they can be compiled and give what torch gives, else None."""
    return compiled(_SOURCE, Kernels, _agree)


@torch.no_grad()
def _agree(kernels: Kernels) -> bool:
    """Tell whether the kernels give what torch gives, on sizes that fill no group of rows."""
    random = random_tensors()
    x, spatial, mix = random(2, 12, 20, 64), random(96, 64, 3, 3) / 24, random(32, 96) / 10
    bias, mix_bias = random(96), random(32)
    found = kernels.unit(x, (spatial, bias), (mix, mix_bias), Workspace())
    tiles = kernels.conv3x3_tiles(x, spatial, bias, Workspace())
    middle = F.conv2d(x.permute(0, 3, 1, 2), spatial, bias, padding=1).permute(0, 2, 3, 1)
    wanted = F.elu(F.linear(F.elu(middle), mix, mix_bias))
    return all(
        torch.allclose(
            got.view(4, 4, 2, 3, 5, -1).permute(2, 3, 0, 4, 1, 5).reshape(want.shape),
            want,
            rtol=0,
            atol=_TOLERANCE,
        )
        for got, want in ((found, wanted), (tiles, middle))
    )
