"""Spectra of any survey on their own pixels as tokens.

One spectrum becomes ``2 + n_amplitudes + n_bins`` tokens:

1. the *normalisation*, log10 of the median flux, and the *noise*, log10 of the median error over
   it;
2. *amplitudes* along the leading directions of the training spectra;
3. one *code* for each bin of wavelength that the spectrum covers: what is left, in units of the
   noise, goes through a convolutional autoencoder over bins with scalar quantisation.

Pixels are summed on the knots of a fixed partition of the wavelengths (see `Partition`), so one
network serves all grids, and a code token means the same interval for every survey. Codes of bins
without a good pixel do not exist. The decoder also says of each pixel how likely it is good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from omnisky.codecs.codec import LearnedCodec, TokenGroup
from omnisky.codecs.figures import code_usage
from omnisky.codecs.quantisers.fsq import FSQ
from omnisky.codecs.quantisers.lfq import LFQ
from omnisky.codecs.quantisers.quantile import QuantileBins
from omnisky.codecs.spectrum.native.config import NativeSpectrumCodecConfig
from omnisky.codecs.spectrum.native.directions import Directions
from omnisky.codecs.spectrum.native.knots import OnKnots, on_knots
from omnisky.codecs.spectrum.native.network import BinAutoencoder
from omnisky.codecs.spectrum.native.ordinals import even_bins, fit_wide_bins
from omnisky.codecs.spectrum.native.partition import Partition, Pixels
from omnisky.codecs.spectrum.native.quality import reconstruction
from omnisky.modalities import Measurement, Spectrum
from omnisky.surveys import modality as declaration

__all__ = ["NativeSpectrumCodec"]

# log10 of the normalisation, in whatever unit, and of the noise over it.
_NORM, _NOISE = (-4.0, 6.0), (-3.5, 1.5)
# Weights of the two losses of LFQ, those of AION-1.
_COMMITMENT, _ENTROPY = 0.25, 0.1
# Objects that go through the network at a time.
_BATCH = 64
# Grids whose geometry is kept.
_GRIDS = 8
# Residuals are compressed by asinh; beyond this they are no spectrum.
_LARGEST = 8.0
# Flux over the normalisation, and signal-to-noise, beyond which nothing changes.
_MOST = 1e6


class NativeSpectrumCodec(LearnedCodec):
    """Encode spectra of several surveys; see the module's first lines for the design."""

    kind: ClassVar[str] = "native-spectrum-codec"
    config_class: ClassVar[type] = NativeSpectrumCodecConfig
    config: NativeSpectrumCodecConfig

    def __init__(self, config: NativeSpectrumCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.partition = Partition()
        self.norm_bins = even_bins(*_NORM, config.bins)
        self.noise_bins = even_bins(*_NOISE, config.bins)
        self.amplitude_bins = QuantileBins(config.n_amplitudes, config.bins)
        self.directions = Directions(config.n_amplitudes, self.partition.n_knots)
        self.autoencoder = BinAutoencoder(
            FSQ(config.levels) if config.quantiser == "fsq" else LFQ(len(config.levels)),
            n_bins=self.partition.n_bins,
            per_bin=self.partition.per_bin,
            n_known=1 + config.n_amplitudes,
            width=config.width,
            depth=config.depth,
        )
        self._grids: dict[bytes, Pixels] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.config.modalities + self.config.untrained

    @property
    def trained_modalities(self) -> tuple[str, ...]:
        return self.config.modalities

    @property
    def n_codes(self) -> int:
        return self.autoencoder.quantiser.n_codes

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        config, codes = self.config, self.n_codes
        return (
            TokenGroup(kind="ordinal", n_tokens=2 + config.n_amplitudes, vocab_size=config.bins),
            TokenGroup(
                kind="code",
                n_tokens=self.partition.n_bins,
                vocab_size=codes,
                levels=config.levels,
            ),
        )

    @torch.no_grad()
    def fit(self, samples: Mapping[str, Measurement]) -> None:
        """Fit directions and amplitude bins to training spectra of all surveys together."""
        values, weights = [], []
        for measured in (m for spectra in samples.values() for m in self._in_batches(spectra)):
            value, weight = self._scaled(measured, self._scale(measured)[0])
            seen = (weight > 0).any(1)
            values.append(value[seen])
            weights.append(self._tempered(value, weight)[seen])
        value, weight = torch.cat(values), torch.cat(weights)
        self.directions.fit(value, weight)
        amplitudes = self.directions.amplitudes(value, weight)
        fit_wide_bins(self.amplitude_bins, amplitudes.double().cpu().numpy())

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.directions.mean.device)

    def _pixels(self, wavelength: np.ndarray) -> Pixels:
        key = wavelength.tobytes()
        if key not in self._grids:
            while len(self._grids) >= _GRIDS:
                self._grids.pop(next(iter(self._grids)), None)
            self._grids[key] = self.partition.pixels(wavelength)
        return self._grids[key]

    def _on_knots(self, measurement: Measurement) -> OnKnots:
        spectra = self.expect(measurement, Spectrum)
        return on_knots(spectra, self._pixels(spectra.wavelength))

    def _in_batches(self, measurement: Measurement) -> Iterator[OnKnots]:
        """Yield few objects at a time; at least one batch, of none if there are none."""
        for start in range(0, max(len(measurement), 1), _BATCH):
            yield self._on_knots(measurement[start : start + _BATCH])

    def _scale(self, measured: OnKnots) -> tuple[Tensor, Tensor]:
        """Return the quantised normalisation, shape (object, 1), and both tokens of the scale."""
        log_scale, log_noise = (
            self._tensor(np.log10(part))[:, None] for part in (measured.scale, measured.noise)
        )
        norm = self.norm_bins.encode(log_scale)
        log_norm = self.norm_bins.decode(norm)
        noise = self.noise_bins.encode(log_noise - log_norm)
        return 10**log_norm, torch.cat([norm, noise], dim=1)

    def _scaled(self, measured: OnKnots, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and inverse variances on the knots in units of the normalisation."""
        value, weight = self._tensor(measured.value), self._tensor(measured.weight)
        # Flux in another unit, beyond all bins, must not overflow.
        value, weight = value / norm, weight * norm.square()
        return value.clamp(-_MOST, _MOST).float(), weight.clamp(max=_MOST**2).float()

    def _tempered(self, value: Tensor, weight: Tensor) -> Tensor:
        return weight / (1 + (self.config.error_floor * value).square() * weight)

    def _prepare(self, measured: OnKnots) -> dict[str, Tensor]:
        norm, scale_tokens = self._scale(measured)
        value, weight = self._scaled(measured, norm)
        amplitudes = self.directions.amplitudes(value, self._tempered(value, weight))
        tokens = torch.cat([scale_tokens, self.amplitude_bins.encode(amplitudes)], dim=1)
        smooth, noise, about = self._meaning(tokens)
        known = weight > 0
        deviation = torch.where(known, (value - smooth) * weight.sqrt(), 0)
        log_error = torch.where(known, -0.5 * weight.clamp(min=1e-12).log() - noise.log(), 0)
        flux, ivar = self._tensor(measured.flux), self._tensor(measured.ivar)
        return {
            "tokens": tokens,
            # Compressing keeps outlying pixels from saturating the codes of their neighbourhood.
            "knots": torch.stack([deviation.asinh(), log_error.clamp(-4, 4), known.float()], dim=1),
            "smooth": smooth,
            "noise": noise,
            "about": about,
            "there": self._tensor(measured.there),
            "flux": (flux / norm).float(),
            "ivar": (ivar * norm.square()).float(),
            "good": self._tensor(measured.good),
        }

    def _meaning(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what ordinal tokens say, in units of the normalisation.

        Returns
        -------
        smooth : Tensor, shape (object, knot)
            The amplitudes' part of the spectrum.
        noise : Tensor, shape (object, 1)
            Median error.
        about : Tensor, shape (object, 1 + amplitude)
            What the network is told.
        """
        log_noise = self.noise_bins.decode(tokens[:, 1:2]).float()
        amplitudes = self.amplitude_bins.decode(tokens[:, 2:]).float()
        about = torch.cat([log_noise, amplitudes.asinh()], dim=1)
        return self.directions.spectrum(amplitudes), 10**log_noise, about

    def prepare(self, measurement: Measurement) -> dict[str, Tensor]:
        """Return what `loss` needs, one row an object; spectra must lie on the survey's grid.

        Raises
        ------
        ValueError
            If they lie on another grid: training compares pixels with the survey's own.
        """
        measured = self._on_knots(measurement)
        assert isinstance(measurement, Spectrum)
        grid = declaration(self.modality).wavelength
        if grid.shape != measurement.wavelength.shape or not np.allclose(
            grid, measurement.wavelength, rtol=1e-6
        ):
            raise ValueError(
                f"training spectra of {self.modality!r} must lie on its grid of {len(grid)} "
                f"pixels from {grid[0]:g} nm; found {len(measurement.wavelength)} pixels"
            )
        return self._prepare(measured)

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the training loss: mean log(1 + χ² per pixel) plus the mask's cross-entropy.

        The logarithm is the negative log-likelihood of Gaussian noise whose size is known up to one
        factor an object, which keeps bright objects from outvoting all others; `error_floor` is
        added to the errors.
        """
        about, there = batch["about"], batch["there"]
        network = self.autoencoder
        latents = network.latents(batch["knots"], about, there)
        codes = network.quantiser(latents)
        flux, logit, covered = self._read(codes, batch, declaration(self.modality).wavelength)
        good = batch["good"]
        deviation2 = torch.where(good, flux - batch["flux"], 0).square()
        floor = (self.config.error_floor * batch["flux"]).square()
        count = good.sum(1).clamp(min=1)
        chi2 = (deviation2 * batch["ivar"] / (1 + floor * batch["ivar"])).sum(1) / count
        entropy = F.binary_cross_entropy_with_logits(logit, good.float(), reduction="none")
        mask_loss = (entropy * covered).sum() / covered.sum().clamp(min=1)
        with torch.no_grad():
            plain = (deviation2 * batch["ivar"]).sum(1) / count
            ids = network.quantiser.codes_to_indices(codes)[there]
        metrics = {"chi2_per_pixel": plain.median(), "mask_loss": mask_loss.detach(), "codes": ids}
        total = chi2.log1p().mean() + self.config.mask_weight * mask_loss
        if isinstance(network.quantiser, LFQ):
            commitment, indecision = network.quantiser.losses(latents[there])
            total = total + _COMMITMENT * commitment + _ENTROPY * indecision
        return total, metrics

    def _read(
        self, codes: Tensor, said: Mapping[str, Tensor], wavelength: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return flux in units of the normalisation, log odds of being good, and coverage."""
        there = said["there"]
        decoded = self.autoencoder.decode_codes(codes, said["about"], there)
        residual = decoded.residual.flatten(1).clamp(-_LARGEST, _LARGEST).sinh() * said["noise"]
        pixels = self._pixels(wavelength)
        flux, covered = pixels.read(said["smooth"] + residual, there)
        return flux, pixels.read(decoded.logit.flatten(1), there)[0], covered

    def existing(self, ids: Tensor) -> Tensor:
        """Return the tokens of bins that the survey's own grid reaches, shape (object, token)."""
        grid = declaration(self.modality).wavelength
        bins = self._pixels(grid).bins_with(np.ones((1, len(grid)), dtype=bool))
        known = np.ones((1, self.n_tokens - bins.shape[1]), dtype=bool)
        there = torch.from_numpy(np.concatenate([known, bins], axis=1))
        return there.to(ids.device).expand(len(ids), -1).clone()

    @torch.no_grad()
    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        return self.encode_counted(measurement)[:2]

    @torch.no_grad()
    def encode_counted(self, measurement: Measurement) -> tuple[Tensor, Tensor, int]:
        """Return what `encode_masked` and `count_outside` do, in one pass over the spectra."""
        ids, masks, outside = [], [], 0
        for measured in self._in_batches(measurement):
            outside += self._outside(measured)
            batch = self._prepare(measured)
            codes = self.autoencoder.encode(batch["knots"], batch["about"], batch["there"])
            there = batch["there"]
            present = there.any(1, keepdim=True).expand_as(batch["tokens"])
            ids.append(torch.cat([batch["tokens"], codes], dim=1))
            masks.append(torch.cat([present, there], dim=1))
        mask = torch.cat(masks)
        return torch.where(mask, torch.cat(ids), 0).cpu(), mask.cpu(), outside

    @torch.no_grad()
    def decode(
        self, ids: Tensor, mask: Tensor | None = None, *, wavelength: np.ndarray | None = None
    ) -> Spectrum:
        """Return spectra in the modality's unit; their ivar is zero (unknown).

        Parameters
        ----------
        ids, mask : Tensor, shape (object, token)
            Token ids, and True where the token exists; by default all do.
        wavelength : array, shape (pixel,), optional
            Pixel centres in nm at which to read the spectra; by default the survey's own.

        Returns
        -------
        Spectrum
            Pixels are masked where the bin has no token or the codec says that they are bad.

        Raises
        ------
        ValueError
            If an id that exists is not in its vocabulary, or no wavelength is one of the codec's.
        """
        flux, chance, _ = self._decode(ids, mask, self._wavelength(wavelength))
        return Spectrum(flux, mask=chance > 0.5, wavelength=self._wavelength(wavelength))

    def _wavelength(self, given: np.ndarray | None) -> np.ndarray:
        if given is None:
            return declaration(self.modality).wavelength
        return np.asarray(given, dtype=np.float64)

    def _decode(
        self, ids: Tensor, mask: Tensor | None, wavelength: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return flux, chance of being good (0 without a token), and where there are tokens."""
        mask = self.check_ids(ids, mask)
        first = 2 + self.config.n_amplitudes
        device = self.directions.mean.device
        ids, mask = torch.where(mask, ids, 0).to(device), mask.to(device)
        there = mask[:, first:] & mask[:, :first].all(1, keepdim=True)
        flux, chance, covered = [], [], []
        for start in range(0, len(ids), _BATCH):
            part = slice(start, start + _BATCH)
            smooth, noise, about = self._meaning(ids[part, :first])
            said = {"smooth": smooth, "noise": noise, "about": about, "there": there[part]}
            codes = self.autoencoder.quantiser.indices_to_codes(ids[part, first:])
            x, logit, seen = self._read(codes, said, wavelength)
            flux.append(x.double() * 10 ** self.norm_bins.decode(ids[part, :1]))
            chance.append(torch.where(seen, logit.sigmoid(), 0))
            covered.append(seen)
        if not flux:
            nothing = np.zeros((0, len(wavelength)))
            return nothing, nothing, nothing > 0
        together = (torch.cat(parts).cpu().numpy() for parts in (flux, chance, covered))
        return next(together), next(together), next(together)

    def values(self) -> Tensor:
        parts = (self.norm_bins, self.noise_bins, self.amplitude_bins)
        return torch.cat([bins.means for bins in parts])

    def count_outside(self, measurement: Measurement) -> int:
        return sum(self._outside(measured) for measured in self._in_batches(measurement))

    def _outside(self, measured: OnKnots) -> int:
        scale, noise = (
            self._tensor(np.log10(part))[:, None] for part in (measured.scale, measured.noise)
        )
        outside = self.norm_bins.outside(scale) | self.noise_bins.outside(noise - scale)
        return int((outside[:, 0].cpu().numpy() & measured.good.any(1)).sum())

    @torch.no_grad()
    def report(self, measurement: Measurement) -> dict[str, float]:
        """Return reconstruction figures through the token ids, on whatever grid the spectra have.

        Returns
        -------
        dict
            What `reconstruction` of `omnisky.codecs.spectrum.native.quality` and
            `omnisky.codecs.figures.code_usage` say.
            χ² and R² compare with the noisy measurement: a χ² per pixel of 0 is a copy with its
            noise, 1 the true spectrum without.
        """
        measured = self._on_knots(measurement)
        assert isinstance(measurement, Spectrum)
        ids, mask = self.encode_masked(measurement)
        first = 2 + self.config.n_amplitudes
        flux, chance, seen = self._decode(ids, mask, measurement.wavelength)
        return {
            "objects": float(measured.good.any(1).sum()),
            "tokens_per_object": float(mask.sum() / mask.any(1).sum().clamp(min=1)),
            **reconstruction(measured, flux, chance, seen),
            **code_usage(ids[:, first:][mask[:, first:]], self.n_codes),
        }
