"""Lookup-free quantisation: each latent dimension is reduced to its sign.

Source: Yu et al. 2023 (MAGVIT-v2), arXiv:2310.05737, section 3.1; the first dimension is the most
significant bit of the index, as in the released AION-1 codecs.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LFQ"]


class LFQ(nn.Module):
    """Quantise vectors to one of ``2 ** bits`` sign patterns with straight-through gradients.

    Parameters
    ----------
    bits : int
        Latent dimensions.
    inverse_temperature : float
        Sharpness of the soft assignment that the entropies are taken of.

    Raises
    ------
    ValueError
        If there is not at least one bit, or more than the joint entropy can be taken of.
    """

    _basis: Tensor

    def __init__(self, bits: int, inverse_temperature: float = 100.0) -> None:
        super().__init__()
        if not 1 <= bits <= 20:
            raise ValueError(f"LFQ takes 1 to 20 bits; found {bits}")
        self.bits = bits
        self.n_codes = 2**bits
        self.levels = (2,) * bits
        self.inverse_temperature = inverse_temperature
        self.register_buffer("_basis", 2 ** torch.arange(bits - 1, -1, -1), persistent=False)

    def forward(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Return the quantised vectors, each element -1 or 1; zero becomes -1."""
        signs = torch.where(z > 0, 1.0, -1.0).to(z.dtype)
        return z + (signs - z).detach() if z.requires_grad else signs

    def codes_to_indices(self, codes: Float[Tensor, "*batch dim"]) -> Int[Tensor, "*batch"]:
        """Return the index of each quantised vector, 0 … ``n_codes`` - 1."""
        return ((codes > 0) * self._basis).sum(-1)

    def indices_to_codes(self, indices: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """Return the quantised vector of each index."""
        return ((indices.unsqueeze(-1) & self._basis) != 0).float() * 2 - 1

    def losses(self, z: Float[Tensor, "*batch dim"]) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return what training adds for unquantised vectors: commitment and entropy.

        The commitment is the mean of (z - sign z)². The entropy term is the mean entropy of the
        soft assignment of each vector, to be small (a clear decision), less the entropy of the mean
        assignment, to be large (all codes in use).
        """
        # In half precision the logits, some thousands, would be rounded to several units.
        with torch.autocast(z.device.type, enabled=False):
            return self._losses(z.float().flatten(0, -2))

    def _losses(self, z: Float[Tensor, "vector dim"]) -> tuple[Tensor, Tensor]:
        commitment = F.mse_loss(z, torch.where(z > 0, 1.0, -1.0))
        codebook = self.indices_to_codes(torch.arange(self.n_codes, device=z.device))
        log_p = (2 * self.inverse_temperature * z @ codebook.T).log_softmax(-1)
        p = log_p.exp()
        each = -(p * log_p).sum(-1).mean()
        # A code that nothing leans to has probability 0, where the logarithm has no gradient.
        mean = p.mean(0).clamp(min=1e-12)
        together = -(mean * mean.log()).sum()
        return commitment, each - together
