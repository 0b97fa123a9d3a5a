"""The convolutional autoencoder with finite scalar quantisation inside the spectrum codec.

Convolutions over patches are written as one matrix product on neighbouring patches: on a CPU this
runs several times faster than ``nn.Conv1d`` on such short axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.quantisers.fsq import FSQ

__all__ = ["ResidualAutoencoder"]


class _Block(nn.Module):
    """Residual block: normalise, convolve over three patches, mix channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.spatial = nn.Linear(3 * width, width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "object patch width"]) -> Tensor:
        y = F.pad(self.norm(x), (0, 0, 1, 1))
        neighbours = torch.cat([y[:, :-2], y[:, 1:-1], y[:, 2:]], dim=2)
        return x + self.mix(F.gelu(self.spatial(neighbours)))


class ResidualAutoencoder(nn.Module):
    """Encode pixels as one FSQ code a patch; patches overlap by half on both sides.

    Parameters
    ----------
    n_pixels : int
        Pixels of a spectrum.
    patch : int
        Pixels between patch centres; patches see twice as many.
    levels : sequence of int
        FSQ levels.
    width, depth : int
        Channels and residual blocks of the encoder, and of the decoder.
    """

    def __init__(
        self, n_pixels: int, patch: int, levels: Sequence[int], width: int, depth: int
    ) -> None:
        super().__init__()
        self.n_pixels, self.patch = n_pixels, patch
        self.n_patches = -(-n_pixels // patch)
        padding = self.n_patches * patch - n_pixels
        self._pad = (padding // 2 + patch // 2, padding - padding // 2 + patch // 2)
        self.fsq = FSQ(levels)
        self.encoder = nn.Sequential(
            nn.Linear(4 * patch, width),
            *(_Block(width) for _ in range(depth)),
            nn.Linear(width, len(self.fsq.levels)),
        )
        self.decoder = nn.Sequential(
            nn.Linear(len(self.fsq.levels), width),
            *(_Block(width) for _ in range(depth)),
            nn.Linear(width, 2 * patch),
        )

    def _quantise(self, residual: Tensor, log_noise: Tensor) -> Float[Tensor, "object patch digit"]:
        # Compressing keeps outlying pixels from saturating every code of their neighbourhood.
        x = F.pad(torch.stack([torch.asinh(residual), log_noise], dim=1), self._pad)
        windows = x.unfold(2, 2 * self.patch, self.patch).transpose(1, 2).flatten(2)
        return self.fsq(self.encoder(windows))

    def _decode(self, codes: Tensor) -> Float[Tensor, "object pixel"]:
        windows = self.decoder(codes)
        half = self.patch
        # Overlap-add: each pixel is the sum of the two windows that see it.
        left = F.pad(windows[..., :half].flatten(1), (0, half))
        right = F.pad(windows[..., half:].flatten(1), (half, 0))
        start = self._pad[0]
        return (left + right)[:, start : start + self.n_pixels]

    def forward(self, residual: Tensor, log_noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoded residual, with straight-through gradients, and the code indices."""
        codes = self._quantise(residual, log_noise)
        return self._decode(codes), self.fsq.codes_to_indices(codes.detach())

    def encode(self, residual: Tensor, log_noise: Tensor) -> Int[Tensor, "object patch"]:
        """Return code indices."""
        return self.fsq.codes_to_indices(self._quantise(residual, log_noise))

    def decode(self, indices: Int[Tensor, "object patch"]) -> Float[Tensor, "object pixel"]:
        """Return the residual that the indices stand for."""
        return self._decode(self.fsq.indices_to_codes(indices))
