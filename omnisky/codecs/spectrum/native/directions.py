"""The leading directions of noisy spectra with gaps, and amplitudes along them.

A spectrum is the mean plus a few amplitudes times directions, each amplitude of unit variance.
Directions are fitted in turns with the amplitudes, with the inverse variance of every knot, so
that masked knots and spectra that cover only a part are no special case (the idea is that of
Bailey 2012, PASP 124, 1015). Amplitudes are the mean of the Gaussian posterior: least squares for
good spectra, and near zero, instead of noise, for faint ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Directions"]

_ROUNDS = 12
_MOST = 6000
# Objects further out than so many times the usual size do not count for more.
_TAME = 3.0
# Deviations beyond so many sigma (emission lines, cosmic rays) lose weight in the second fit.
_OUTLYING = 4.0


class Directions(nn.Module):
    """Hold a mean and directions on the knots.

    Parameters
    ----------
    n_directions : int
        Number of directions.
    n_knots : int
        Number of knots.
    """

    mean: Tensor
    basis: Tensor

    def __init__(self, n_directions: int, n_knots: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_knots))
        self.register_buffer("basis", torch.zeros(n_directions, n_knots))

    @torch.no_grad()
    def fit(self, value: Tensor, weight: Tensor) -> None:
        """Fit mean and directions.

        Parameters
        ----------
        value, weight : Tensor, shape (object, knot)
            Values and their inverse variances; zero weight where there is no value.
        """
        # More objects change the directions little, and cost memory.
        every = -(-len(value) // _MOST)
        value, weight = value[::every], weight[::every]
        mean = (value * weight).sum(0) / weight.sum(0).clamp(min=1e-12)
        known = weight.sum(0) > 0
        x = torch.where(weight > 0, value - mean, 0)
        size = (x.square().sum(1) / (weight > 0).sum(1).clamp(min=1)).sqrt()
        tame = (_TAME * size.median() / size.clamp(min=1e-12)).clamp(max=1)[:, None]
        x, weight = x * tame, weight / tame.square()
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(len(self.basis), x.shape[1], generator=generator)
        basis = basis.to(x) * size.median()
        for _ in range(_ROUNDS):
            amplitudes = _posterior(x, weight, basis)
            # The same problem with objects and knots exchanged; the pull to zero closes gaps.
            basis = _posterior(x.T, weight.T, amplitudes.T, pull=1e-3).T
            basis = _standard(amplitudes, basis)
        place = torch.arange(len(known), device=known.device)
        nearest = (place[:, None] - place[known]).abs().argmin(1)
        # Where nothing was seen, the next knot seen is the best guess.
        self.mean.copy_(mean[known][nearest])
        self.basis.copy_(basis[:, known][:, nearest])

    def amplitudes(self, value: Tensor, weight: Tensor) -> Tensor:
        """Return amplitudes, shape (object, direction), which emission lines move little."""
        x = torch.where(weight > 0, value - self.mean, 0)
        first = _posterior(x, weight, self.basis)
        deviation = (x - first @ self.basis).abs() * weight.sqrt()
        return _posterior(x, weight * (_OUTLYING / deviation).clamp(max=1), self.basis)

    def spectrum(self, amplitudes: Tensor) -> Tensor:
        """Return mean plus amplitudes times directions, shape (object, knot)."""
        return self.mean + amplitudes @ self.basis


def _posterior(x: Tensor, weight: Tensor, basis: Tensor, *, pull: float = 1.0) -> Tensor:
    """Return the weighted least-squares amplitudes, shape (object, direction), pulled to zero."""
    n = len(basis)
    row, column = torch.triu_indices(n, n)
    normal = x.new_zeros(len(x), n, n)
    normal[:, row, column] = weight @ (basis[row] * basis[column]).T
    normal = normal + normal.triu(1).mT
    scale = normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    ridge = pull + 1e-6 * scale
    right = (weight * x) @ basis.T
    return torch.linalg.solve(normal + ridge * torch.eye(n, device=x.device), right)


def _standard(amplitudes: Tensor, basis: Tensor) -> Tensor:
    """Return orthogonal directions, largest first, each as long as its amplitudes scatter."""
    left, size, right = torch.linalg.svd(basis, full_matrices=False)
    covariance = torch.cov((amplitudes @ (left * size)).T)
    variance, turn = torch.linalg.eigh(covariance)
    directions = turn.flip(1).T @ right
    # The sign is arbitrary; make the largest element positive everywhere.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    return directions * largest.sign() * variance.flip(0).clamp(min=1e-12).sqrt()[:, None]
