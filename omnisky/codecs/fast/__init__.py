"""Networks on a CPU with fewer operations or passes over memory, exact to float32 rounding."""

from omnisky.codecs.fast.convnext import BlockKernels, BlockWeights, block_kernels
from omnisky.codecs.fast.fourier import conv_fourier
from omnisky.codecs.fast.native import native_kernels
from omnisky.codecs.fast.winograd import conv3x3, conv3x3_tiles, tile_view
from omnisky.codecs.fast.workspace import Workspace

__all__ = [
    "BlockKernels",
    "BlockWeights",
    "Workspace",
    "block_kernels",
    "conv3x3",
    "conv3x3_tiles",
    "conv_fourier",
    "native_kernels",
    "tile_view",
]
