"""The convolutional autoencoder over bins of wavelength, with one code a bin."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.quantisers.fsq import FSQ
from omnisky.codecs.quantisers.lfq import LFQ

__all__ = ["BinAutoencoder", "Decoded"]


class Decoded(NamedTuple):
    """What the decoder says of each knot, shape (object, bin, knot).

    Parameters
    ----------
    residual : Tensor
        Compressed residual.
    logit : Tensor
        Log odds that a pixel there is good.
    """

    residual: Float[Tensor, "object bin knot"]
    logit: Float[Tensor, "object bin knot"]


class _Block(nn.Module):
    """Residual block: normalise, convolve over three bins some distance apart, mix channels."""

    def __init__(self, width: int, distance: int) -> None:
        super().__init__()
        self.distance = distance
        self.norm = nn.LayerNorm(width)
        self.spatial = nn.Linear(3 * width, width)
        self.mix = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "object bin width"], there: Tensor) -> Tensor:
        d = self.distance
        # A bin that is not there counts as much as one beyond the end: nothing.
        y = F.pad(self.norm(x) * there, (0, 0, d, d))
        neighbours = torch.cat([y[:, : -2 * d], y[:, d:-d], y[:, 2 * d :]], dim=2)
        return x + self.mix(F.gelu(self.spatial(neighbours)))


class _Stack(nn.Module):
    """Blocks whose reach doubles, told where each bin lies and what is known of the object."""

    def __init__(self, sizes: tuple[int, int, int, int], n_bins: int, depth: int) -> None:
        super().__init__()
        given, known, width, wanted = sizes
        self.enter = nn.Linear(given, width)
        self.about = nn.Linear(known, width)
        self.place = nn.Parameter(torch.randn(n_bins, width) * 0.1)
        self.blocks = nn.ModuleList(_Block(width, 2 ** (i % 3)) for i in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, wanted)

    def forward(self, x: Tensor, about: Tensor, there: Tensor) -> Tensor:
        there = there[:, :, None].to(x.dtype)
        x = self.enter(x) + self.place + self.about(about)[:, None]
        for block in self.blocks:
            x = block(x, there)
        return self.leave(self.norm(x))


class BinAutoencoder(nn.Module):
    """Encode what each bin holds as one code and decode it.

    Parameters
    ----------
    quantiser : FSQ or LFQ
        Turns vectors into ids and back.
    n_bins, per_bin : int
        Bins, and knots of each.
    n_known : int
        Numbers known of an object on both sides, such as its signal-to-noise.
    width, depth : int
        Channels and blocks of the encoder, and of the decoder.
    """

    quantiser: FSQ | LFQ

    def __init__(
        self,
        quantiser: FSQ | LFQ,
        *,
        n_bins: int,
        per_bin: int,
        n_known: int,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.quantiser = quantiser
        n_digits = len(quantiser.levels)
        self.encoder = _Stack((3 * per_bin, n_known, width, n_digits), n_bins, depth)
        self.decoder = _Stack((n_digits, n_known, width, 2 * per_bin), n_bins, depth)
        self.shape = (n_bins, per_bin)
        # The reconstruction starts as the amplitudes alone, with all pixels good.
        nn.init.zeros_(self.decoder.leave.weight)
        nn.init.constant_(self.decoder.leave.bias[per_bin:], 5.0)

    def latents(
        self,
        knots: Float[Tensor, "object channel knot"],
        about: Float[Tensor, "object known"],
        there: Bool[Tensor, "object bin"],
    ) -> Float[Tensor, "object bin digit"]:
        """Return what is quantised; of bins that are not there it means nothing."""
        n_bins, per_bin = self.shape
        inputs = knots.unflatten(2, (n_bins, per_bin)).transpose(1, 2).flatten(2)
        return self.encoder(inputs, about, there)

    def encode(self, knots: Tensor, about: Tensor, there: Tensor) -> Int[Tensor, "object bin"]:
        """Return code ids; of bins that are not there they mean nothing."""
        codes = self.quantiser(self.latents(knots, about, there))
        return self.quantiser.codes_to_indices(codes)

    def decode_codes(self, codes: Tensor, about: Tensor, there: Tensor) -> Decoded:
        """Return what quantised vectors, shape (object, bin, digit), stand for."""
        out = self.decoder(torch.where(there[:, :, None], codes, 0), about, there)
        # In float32 whatever the network computes in: the residual is an exponent.
        residual, logit = out.float().chunk(2, dim=2)
        return Decoded(residual, logit)

    def decode(self, ids: Tensor, about: Tensor, there: Tensor) -> Decoded:
        """Return what code ids stand for."""
        return self.decode_codes(self.quantiser.indices_to_codes(ids), about, there)
