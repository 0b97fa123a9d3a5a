"""What was measured, as columns of numbers, and a small network on them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.modalities import Observations, Spectrum
from omnisky.surveys import modalities

__all__ = ["DirectPart", "MeasuredColumns"]

# Principal components of all pixels, and hidden layers behind them.
_COMPONENTS, _WIDTH, _LAYERS = 64, 256, 3
# Numbers beyond so many sigma are cut.
_FARTHEST = 6.0
_DROPOUT = 0.1


@dataclass(frozen=True)
class MeasuredColumns:
    """Name columns of numbers that observations become.

    A spectrum becomes log(max(flux / median flux, floor)) a pixel and the magnitude of its median;
    magnitudes, that one included, become themselves and all their colours; other scalars pass as
    they are. The pixels of all spectra come first.

    Parameters
    ----------
    pixels : dict of str to int
        Number of pixels of each modality that is a spectrum; 0 for scalars.
    floor : float
        Smallest flux, in units of the spectrum's median; also tames negative pixels.
    """

    pixels: dict[str, int]
    floor: float = 0.02

    @classmethod
    def of(cls, observations: Observations, floor: float = 0.02) -> MeasuredColumns:
        """Return the columns of observations of spectra and scalars."""
        found = {
            name: m.flux.shape[1] if isinstance(m, Spectrum) else 0
            for name, m in observations.items()
        }
        return cls(found, floor)

    @property
    def n_pixels(self) -> int:
        """Number of columns that are pixels; they come first."""
        return sum(self.pixels.values())

    @property
    def width(self) -> int:
        """Number of columns."""
        spectra = sum(n > 0 for n in self.pixels.values())
        magnitudes = spectra + sum(_is_magnitude(m) for m, n in self.pixels.items() if not n)
        others = len(self.pixels) - magnitudes
        return self.n_pixels + magnitudes * (magnitudes + 1) // 2 + others

    def table(self, observations: Observations) -> np.ndarray:
        """Return the columns, shape (object, column), NaN where something is missing.

        Raises
        ------
        ValueError
            If a modality is now a scalar or a spectrum of other pixels. It may be absent.
        """
        pixels, magnitudes, others = [], [], []
        for name, n_pixels in self.pixels.items():
            if n_pixels:
                shape, brightness = self._spectrum(observations, name)
                pixels.append(shape)
                magnitudes.append(brightness)
            else:
                value = _scalar(observations, name)
                (magnitudes if _is_magnitude(name) else others).append(value)
        colours = [blue - red for blue, red in combinations(magnitudes, 2)]
        columns = [c[:, None] for c in (*magnitudes, *colours, *others)]
        return np.hstack([*pixels, *columns])

    def _spectrum(self, observations: Observations, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return log of flux over median, shape (object, pixel), and the median's magnitude."""
        n_pixels = self.pixels[name]
        if name not in observations:
            length = len(observations)
            return np.full((length, n_pixels), np.nan), np.full(length, np.nan)
        spectrum = observations[name]
        found = spectrum.flux.shape[1] if isinstance(spectrum, Spectrum) else 0
        if found != n_pixels:
            raise ValueError(
                f"{name!r} was a spectrum of {n_pixels} pixels at fit; found a "
                f"{type(spectrum).__name__} with {found or 'no'} pixels"
            )
        flux = np.where(spectrum.mask, spectrum.flux.astype(np.float64), np.nan)
        median = np.full(len(flux), np.nan)
        seen = spectrum.present
        median[seen] = np.nanmedian(flux[seen], axis=1)
        median = np.where(median > 0, median, np.nan)
        return np.log(np.maximum(flux / median[:, None], self.floor)), -2.5 * np.log10(median)


def _is_magnitude(name: str) -> bool:
    declared = modalities().get(name)
    return declared is not None and declared.ucd.startswith("phot.mag")


def _scalar(observations: Observations, name: str) -> np.ndarray:
    if name not in observations:
        return np.full(len(observations), np.nan)
    scalar = observations[name]
    if isinstance(scalar, Spectrum):
        raise ValueError(f"{name!r} was a scalar at fit and is a spectrum now")
    return np.where(scalar.mask, scalar.value, np.nan)


class DirectPart(nn.Module):
    """Predict targets from measured numbers, K members at once.

    A pretrained model rounds what its training had no use for. With thousands of labels, a network
    on the measurement itself knows things that the model's vectors do not, and errs independently.

    Pixels become principal components whose spread falls with the root of their power: enough
    for training to be fast, and not so even that noise counts as much as signal (measured,
    dev/LOG.md). Missing numbers become the training median, with an indicator.

    Parameters
    ----------
    members : int
        Number K.
    columns, pixels : int
        Measured numbers, and how many of them, the first ones, are pixels of spectra.
    outputs : int
        Number T of targets, or of classes.
    """

    median: Tensor
    shift: Tensor
    scale: Tensor
    basis: Tensor
    gap_seen: Tensor

    def __init__(self, members: int, columns: int, pixels: int, outputs: int) -> None:
        super().__init__()
        self.pixels = pixels
        components = min(_COMPONENTS, pixels)
        self.register_buffer("median", torch.zeros(columns))
        self.register_buffer("shift", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.register_buffer("basis", torch.zeros(pixels, components))
        self.register_buffer("gap_seen", torch.zeros(columns))
        widths = [components + 2 * (columns - pixels), *[_WIDTH] * _LAYERS]
        inner = pairwise(widths)
        self.weights = nn.ParameterList(
            torch.randn(members, a, b) * ((2 if i else 1) / a) ** 0.5
            for i, (a, b) in enumerate(inner)
        )
        self.weights.append(torch.zeros(members, _WIDTH, outputs))
        self.biases = nn.ParameterList(
            torch.zeros(members, 1, weight.shape[2]) for weight in self.weights
        )

    @torch.no_grad()
    def standardise(self, table: Float[Tensor, "b c"], shown: list[Float[Tensor, "_ c"]]) -> None:
        """Learn medians and spreads of a table, and which numbers are missing in what is shown."""
        known = table.isfinite()
        # The median of nothing is NaN.
        self.median = table.nanmedian(dim=0).values.nan_to_num()
        filled = torch.where(known, table, self.median)
        spread = filled.std(0, correction=0)
        self.shift, self.scale = filled.mean(0), torch.where(spread > 1e-6, spread, 1.0)
        self.gap_seen = torch.cat([~part.isfinite() for part in shown]).any(0).to(table)
        self.basis.zero_()
        if not self.pixels:
            return
        pixels = self._standardised(filled)[:, : self.pixels]
        _, power, vectors = torch.linalg.svd(pixels, full_matrices=False)
        found = min(self.basis.shape[1], int((power > 1e-4 * power[0].clamp(min=1e-6)).sum()))
        if found:
            spread = power[:found] / len(pixels) ** 0.5
            # Twice the spread of other columns for the first component, then falling.
            self.basis[:, :found] = vectors[:found].T / spread * 2 * (spread / spread[0]) ** 0.5

    def forward(self, measured: Float[Tensor, "b c"]) -> Float[Tensor, "k b t"]:
        """Return the location of each target, or the logits, of each member."""
        filled = torch.where(measured.isfinite(), measured, self.median)
        scaled = self._standardised(filled)
        # A spectrum that is missing lacks its magnitude too: pixels need no indicators.
        gaps = ((~measured.isfinite()).to(scaled.dtype) * self.gap_seen)[:, self.pixels :]
        pixels = scaled[:, : self.pixels] @ self.basis
        x = torch.cat([pixels, scaled[:, self.pixels :], gaps], dim=1)
        x = x.expand(len(self.weights[0]), -1, -1)
        *inner, last = zip(self.biases, self.weights, strict=True)
        for bias, weight in inner:
            x = F.dropout(F.gelu(torch.baddbmm(bias, x, weight)), _DROPOUT, self.training)
        return torch.baddbmm(last[0], x, last[1])

    def _standardised(self, filled: Tensor) -> Tensor:
        return ((filled - self.shift) / self.scale).clamp(-_FARTHEST, _FARTHEST)
