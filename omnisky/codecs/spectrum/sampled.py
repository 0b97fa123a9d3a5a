"""Spectra on a fixed grid as tokens: normalisation, leading amplitudes, convolutional codes.

One spectrum becomes ``1 + n_amplitudes + n_codes`` tokens:

1. the *normalisation* token, log10 of the median flux;
2. *amplitude* tokens: projections of the compressed spectrum on the leading directions of the
   training spectra, each in units of the noise (a convolution as wide as the spectrum, whose
   weights have a closed form), quantile binned;
3. *code* tokens: what is left goes through a 1-D convolutional autoencoder with finite scalar
   quantisation, one code a patch of pixels.

Why not the autoencoder alone: XP pixels carry a signal of 1000 times their noise in the first
direction and about once the noise in the hundredth. A convolutional encoder alone needs hours to
learn to see the small ones under the large; with the large ones removed it needs minutes
(measured, dev/LOG.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from omnisky.codecs.codec import LearnedCodec, TokenGroup
from omnisky.codecs.figures import code_usage
from omnisky.codecs.quantisers.quantile import QuantileBins
from omnisky.codecs.spectrum.convolution import ResidualAutoencoder
from omnisky.modalities import Measurement, Spectrum

__all__ = ["SampledSpectrumCodec", "SampledSpectrumCodecConfig"]


@dataclass(frozen=True, kw_only=True)
class SampledSpectrumCodecConfig:
    """Configure a spectrum codec.

    Parameters
    ----------
    modality : str
        Name of the modality.
    n_pixels : int
        Pixels of the grid.
    n_amplitudes : int
        Amplitude tokens.
    bins : int
        Bins of the normalisation and of each amplitude.
    levels : tuple of int
        FSQ levels of the code tokens.
    patch : int
        Pixels a code token covers.
    width, depth : int
        Channels and residual blocks of the encoder and of the decoder.
    softening : float
        Flux, relative to the normalisation, below which the compression ``asinh`` is linear.
    error_floor : float
        Fractional error added in quadrature in the loss, so that few very bright objects do not
        outweigh all others.
    """

    modality: str
    n_pixels: int
    n_amplitudes: int = 16
    bins: int = 1024
    levels: tuple[int, ...] = (8, 5, 5, 5)
    patch: int = 16
    width: int = 128
    depth: int = 3
    softening: float = 0.1
    error_floor: float = 0.002

    def __post_init__(self) -> None:
        if not 0 < self.n_amplitudes < self.n_pixels or self.patch % 2 or self.patch < 2:
            raise ValueError(
                f"spectrum codec of {self.modality!r}: needs 0 < n_amplitudes < n_pixels and an "
                f"even patch; found {self.n_amplitudes}, {self.n_pixels}, {self.patch}"
            )


class SampledSpectrumCodec(LearnedCodec):
    """Encode spectra of one modality; see the module's first lines for the design."""

    kind: ClassVar[str] = "spectrum-codec"
    config_class: ClassVar[type] = SampledSpectrumCodecConfig
    wavelength: Tensor
    centre: Tensor
    weight: Tensor
    basis: Tensor
    scale: Tensor

    def __init__(self, config: SampledSpectrumCodecConfig) -> None:
        super().__init__()
        self.config = config
        pixels, directions = config.n_pixels, config.n_amplitudes
        self.norm_bins = QuantileBins(1, config.bins)
        self.amplitude_bins = QuantileBins(directions, config.bins)
        self.autoencoder = ResidualAutoencoder(
            pixels, config.patch, config.levels, config.width, config.depth
        )
        self.register_buffer("wavelength", torch.zeros(pixels, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(pixels))
        self.register_buffer("weight", torch.ones(pixels))
        self.register_buffer("basis", torch.zeros(directions, pixels))
        self.register_buffer("scale", torch.ones(()))

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        config, codes = self.config, self.autoencoder
        return (
            TokenGroup(kind="ordinal", n_tokens=1 + config.n_amplitudes, vocab_size=config.bins),
            TokenGroup(
                kind="code",
                n_tokens=codes.n_patches,
                vocab_size=codes.fsq.n_codes,
                levels=config.levels,
            ),
        )

    @property
    def n_codes(self) -> int:
        return self.autoencoder.fsq.n_codes

    def fit(self, samples: Mapping[str, Measurement]) -> None:
        """Fit to training spectra; see `fit_basis`."""
        self.fit_basis(self.expect(samples[self.modality], Spectrum))

    @torch.no_grad()
    def fit_basis(self, spectra: Spectrum) -> None:
        """Fit normalisation bins, mean, noise weights and amplitude directions to training spectra.

        Directions are the leading eigenvectors of the covariance of the compressed spectra divided
        by the median noise of each pixel. Spectra far from the mean (hot stars among cool ones)
        are scaled down first, so that a few per cent of the sample do not take the directions.

        Raises
        ------
        ValueError
            If no spectrum has errors.
        """
        known = _with_errors(spectra, self.modality)
        if not known.any():
            raise ValueError(
                f"{self.modality}: no spectrum has errors, so no pixel can be weighed; give them, "
                "e.g. Spectrum.from_error(flux, error, wavelength)"
            )
        spectra = spectra[known]
        tensors = _tensors(spectra, self.config)
        flux, error, mask = (tensor.to(self.centre.device) for tensor in tensors)
        self.wavelength.copy_(torch.from_numpy(spectra.wavelength))
        log_norm = self._log_norm(flux, mask)[:, 0]
        # A decade beyond the training range on both sides: a uniform grid, not quantiles.
        edges = torch.linspace(log_norm.min() - 1, log_norm.max() + 1, self.config.bins + 1)
        self.norm_bins.edges.copy_(edges[1:-1][None])
        self.norm_bins.means.copy_((edges[:-1] + edges[1:])[None] / 2)
        self.norm_bins.limits.copy_(torch.stack([edges[0], edges[-1]])[None])
        y, noise = self._compress(flux, error, self._norm(flux, mask)[0])
        self.centre.copy_(y.mean(0))
        self.weight.copy_(1 / noise.median(0).values)
        z = (y - self.centre) * self.weight
        size = z.square().mean(1, keepdim=True).sqrt()
        z_tame = z * (3 * size.median() / size).clamp(max=1)
        _, vectors = torch.linalg.eigh((z_tame.T @ z_tame).double())
        directions = vectors.flip(1)[:, : self.config.n_amplitudes].T
        # The sign of an eigenvector is arbitrary; make the largest element positive everywhere.
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        self.basis.copy_(directions * largest.sign())
        amplitudes = z @ self.basis.T
        self.amplitude_bins.fit(amplitudes.cpu().numpy())
        quantised = self.amplitude_bins.decode(self.amplitude_bins.encode(amplitudes)).float()
        residual = z - quantised @ self.basis
        self.scale.copy_(residual.square().mean(1).sqrt().median())

    def _log_norm(self, flux: Tensor, mask: Tensor) -> Tensor:
        median = torch.where(mask, flux, torch.nan).nanmedian(1, keepdim=True).values
        # Faint spectra can have a median below zero; they share the lowest bin.
        return median.clamp(min=1e-30).log10()

    def _norm(self, flux: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the quantised normalisation, shape (object, 1), and its token."""
        token = self.norm_bins.encode(self._log_norm(flux, mask))
        return 10 ** self.norm_bins.decode(token), token

    def _compress(self, flux: Tensor, error: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Return asinh-compressed flux and its 1-sigma error to first order."""
        x = flux / (norm * self.config.softening)
        noise = error / (norm * self.config.softening) / (1 + x.square()).sqrt()
        return torch.asinh(x).float(), noise.float()

    def _expand(self, z: Tensor, norm: Tensor) -> Tensor:
        """Return flux in units of the normalisation from noise-weighted compressed spectra."""
        y = (z / self.weight + self.centre).clamp(-15, 15)
        return torch.sinh(y) * self.config.softening * norm

    def prepare(self, measurement: Measurement) -> dict[str, Tensor]:
        """Return what `reconstruct` and `loss` need, all of it independent of the weights.

        Returns
        -------
        dict
            ``residual`` and ``log_noise`` (object, pixel), ``smooth`` (object, pixel),
            ``flux`` and ``error`` (object, pixel) in units of the normalisation, ``mask``,
            ``tokens`` (object, 1 + amplitude).
        """
        tensors = _tensors(self.expect(measurement, Spectrum), self.config)
        flux, error, mask = (tensor.to(self.centre.device) for tensor in tensors)
        norm, norm_token = self._norm(flux, mask)
        y, noise = self._compress(torch.where(mask, flux, 0), torch.where(mask, error, 1), norm)
        z = torch.where(mask, (y - self.centre) * self.weight, 0)
        token = self.amplitude_bins.encode(_project(z, mask, self.basis))
        smooth = self.amplitude_bins.decode(token).float() @ self.basis
        log_noise = torch.where(mask, (noise * self.weight).clamp(1e-3, 1e3).log(), 0)
        return {
            "residual": torch.where(mask, (z - smooth) / self.scale, 0),
            "log_noise": log_noise,
            "smooth": smooth,
            "flux": (flux / norm).float(),
            "error": (error / norm).float(),
            "mask": mask,
            "tokens": torch.cat([norm_token, token], dim=1),
        }

    def reconstruct(self, smooth: Tensor, residual: Tensor) -> Tensor:
        """Return flux in units of the normalisation from amplitudes' part and decoded residual."""
        return self._expand(smooth + residual * self.scale, torch.ones(()))

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss, and the median reconstruction χ² per pixel of the objects.

        χ² per pixel is the mean over good pixels of ((flux - reconstruction) / error)². The loss is
        the mean of log(1 + χ²) with `error_floor` added to the errors: the negative log-likelihood
        of Gaussian noise whose size is known up to one factor an object, which keeps bright stars
        from outvoting all others.
        """
        residual, codes = self.autoencoder(batch["residual"], batch["log_noise"])
        flux = self.reconstruct(batch["smooth"], residual)
        floor = self.config.error_floor * batch["flux"].abs()
        error = (batch["error"].square() + floor.square()).sqrt()
        chi2 = _chi2(flux, batch, batch["error"]).detach()
        return (
            _chi2(flux, batch, error).log1p().mean(),
            {"chi2_per_pixel": chi2.median(), "codes": codes},
        )

    @torch.no_grad()
    def report(self, measurement: Measurement) -> dict[str, float]:
        """Return reconstruction χ² per pixel and code usage through the token ids.

        χ² per pixel is the mean over good pixels of ((flux - decoded) / error)², where flux is the
        noisy measurement: 0 would be a perfect copy, noise included, and 1 a perfect model of the
        star without its noise.
        """
        spectra = self.expect(measurement, Spectrum)
        ids, present = self.encode_masked(spectra)
        decoded = self.decode(ids)
        good = spectra.mask & (spectra.ivar > 0)
        error2 = (decoded.flux.astype(np.float64) - spectra.flux) ** 2 * spectra.ivar
        chi2 = np.where(good, error2, 0).sum(1) / np.maximum(good.sum(1), 1)
        chi2 = chi2[present[:, 0].numpy()]
        codes = ids[present[:, 0], 1 + self.config.n_amplitudes :]
        return {
            "chi2_per_pixel_median": float(np.median(chi2)),
            "chi2_per_pixel_90": float(np.quantile(chi2, 0.9)),
            **code_usage(codes, self.n_codes),
        }

    @torch.no_grad()
    def encode_masked(
        self, measurement: Measurement, batch_size: int = 2048
    ) -> tuple[Tensor, Bool[Tensor, "object token"]]:
        measurement = self.expect(measurement, Spectrum)
        _check_grid(measurement.wavelength, self.wavelength.cpu().numpy(), self.modality)
        present = torch.from_numpy(_with_errors(measurement, self.modality))[:, None]
        tokens = []
        for start in range(0, len(measurement), batch_size):
            batch = self.prepare(measurement[start : start + batch_size])
            codes = self.autoencoder.encode(batch["residual"], batch["log_noise"])
            tokens.append(torch.cat([batch["tokens"], codes], dim=1))
        ids = torch.cat(tokens).cpu()
        return torch.where(present, ids, 0), present.expand(-1, self.n_tokens).clone()

    @torch.no_grad()
    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Spectrum:
        """Return spectra in the modality's unit; their ivar is zero (unknown)."""
        self.check_ids(ids, mask)
        directions = self.config.n_amplitudes
        norm, token, codes = ids.to(self.centre.device).split(
            [1, directions, self.autoencoder.n_patches], dim=1
        )
        smooth = self.amplitude_bins.decode(token).float() @ self.basis
        flux = self.reconstruct(smooth, self.autoencoder.decode(codes))
        flux = flux.double() * 10 ** self.norm_bins.decode(norm)
        good = None if mask is None else mask.all(1, keepdim=True).expand(flux.shape).cpu().numpy()
        return Spectrum(flux.cpu().numpy(), mask=good, wavelength=self.wavelength.cpu().numpy())

    def values(self) -> Tensor:
        return torch.cat([self.norm_bins.means, self.amplitude_bins.means])

    def count_outside(self, measurement: Measurement) -> int:
        tensors = _tensors(self.expect(measurement, Spectrum), self.config)
        flux, _, mask = (tensor.to(self.centre.device) for tensor in tensors)
        outside = self.norm_bins.outside(self._log_norm(flux, mask))[:, 0]
        return int((outside & mask.any(1)).sum())


def _check_grid(found: np.ndarray, grid: np.ndarray, modality: str) -> None:
    if len(found) != len(grid) or not np.allclose(found, grid, atol=1e-3):
        ends = f"{found[0]:g} … {found[-1]:g} nm in " if len(found) else ""
        raise ValueError(
            f"modality {modality!r} is sampled at {grid[0]:g} … {grid[-1]:g} nm in {len(grid)} "
            f"pixels; found {ends}{len(found)} pixels. Resample the spectra onto that grid, in nm"
        )


def _with_errors(spectra: Spectrum, modality: str) -> np.ndarray:
    """Return the objects that have a good pixel with a known error, shape (object,).

    Without errors no pixel can be weighed: every object would get the same tokens. It warns rather
    than raises even if no object has any, as tables and stores are encoded piece by piece.
    """
    known = np.any(spectra.mask & (spectra.ivar > 0), axis=1)
    lost = spectra.present & ~known
    if lost.any():
        warnings.warn(
            f"{modality}: {lost.sum()} of {spectra.present.sum()} spectra have no errors and count "
            f"as absent; the first is object {lost.argmax()}. Give their errors, e.g. "
            "Spectrum.from_error(flux, error, wavelength)",
            stacklevel=5,  # the caller of Tokenizer.encode
        )
    return known


def _tensors(
    spectra: Spectrum, config: SampledSpectrumCodecConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return flux, error and mask; a pixel without a known error is not used."""
    if spectra.flux.shape[1] != config.n_pixels:
        raise ValueError(
            f"modality {config.modality!r} has {config.n_pixels} pixels; found "
            f"{spectra.flux.shape[1]}"
        )
    mask = torch.from_numpy(spectra.mask & (spectra.ivar > 0))
    error = torch.from_numpy(np.where(mask.numpy(), spectra.ivar, 1.0)).rsqrt()
    return torch.from_numpy(np.ascontiguousarray(spectra.flux)).double(), error, mask


def _project(z: Tensor, mask: Tensor, basis: Tensor) -> Tensor:
    """Return least-squares amplitudes from the good pixels only."""
    amplitudes = z @ basis.T
    incomplete = ~mask.all(1)
    if incomplete.any():
        good = mask[incomplete].float()
        normal = torch.einsum("op,kp,lp->okl", good, basis, basis)
        # With few good pixels the fit is open; a weak pull to zero closes it.
        normal = normal + 1e-3 * torch.eye(len(basis), device=basis.device)
        amplitudes[incomplete] = torch.linalg.solve(normal, amplitudes[incomplete])
    return amplitudes


def _chi2(flux: Tensor, batch: Mapping[str, Tensor], error: Tensor) -> Tensor:
    good = batch["mask"]
    chi2 = torch.where(good, (flux - batch["flux"]) / error, 0).square()
    return chi2.sum(1) / good.sum(1).clamp(min=1)
