"""Spectra of several surveys as tokens on one latent wavelength grid: AION-1's kind of codec.

A spectrum becomes one normalisation token and one code a patch of the grid (272 of 32 pixels):

1. its level is quantised: the *normalisation* token;
2. flux and inverse error, in units of the level, are brought to the latent grid;
3. a ConvNeXt V2 encoder turns them into a code a patch, of signs (LFQ) or of levels (FSQ).

Decoding runs a ConvNeXt V2 decoder to flux in units of the level and to the logit that a pixel is
bad, and interpolates both onto the wavelengths asked for.

Sources: AION-1, arXiv:2510.17960, and its release polymathic-aion 0.0.2 for what the paper leaves
open. What differs here by default: pixels that are not good reach neither the level nor the codes;
what lies outside the grid is decoded as not good; an unknown inverse variance is zero. With
``normalisation="native"`` the level is also the median of the good pixels, and the encoder is given
signal to noise rather than one divided by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.codec import LearnedCodec, TokenGroup
from omnisky.codecs.figures import code_usage
from omnisky.codecs.quantisers import FSQ, LFQ, GridBins
from omnisky.codecs.spectrum.convnext import ConvNextDecoder, ConvNextEncoder, in_precision
from omnisky.codecs.spectrum.figures import reconstruction_figures
from omnisky.codecs.spectrum.latent_config import LatentSpectrumCodecConfig
from omnisky.codecs.spectrum.latent_grid import LatentGrid
from omnisky.modalities import Measurement, Spectrum
from omnisky.surveys import modalities

__all__ = ["LatentSpectrumCodec"]

# Objects at a time onto the latent grid, and through the network: one on a CPU, whose activations
# then stay in its cache.
_OBJECTS, _OBJECTS_CPU = 128, 1
# The release never divides by less.
_AION_FLOOR = 0.1
# Weights of the two terms that lookup-free quantisation adds to the loss.
_COMMITMENT, _ENTROPY = 0.25, 0.1


class LatentSpectrumCodec(LearnedCodec):
    """Encode spectra of several surveys; see the module's first lines for the design."""

    kind: ClassVar[str] = "latent-spectrum-codec"
    config_class: ClassVar[type] = LatentSpectrumCodecConfig

    #: Of the large matrix products without gradients: "float32", or "bf16", about twice as fast on
    #: processors with such arithmetic, with other codes where a latent value lies near a border.
    #: What the blocks add up stays in float32.
    precision: str = "float32"

    def __init__(self, config: LatentSpectrumCodecConfig) -> None:
        super().__init__()
        self.config = config
        channels, digits = config.encoder_dims[-1], len(config.levels)
        released = config.normalisation == "aion"
        self.grid = LatentGrid(*config.wavelength_nm, gap_nm=config.gap_nm, single=released)
        self.bins = GridBins(*config.log_range, config.bins)
        self.encoder = ConvNextEncoder(2, config.encoder_depths, config.encoder_dims)
        self.pre_quant_norm = nn.LayerNorm(channels)
        self.quant_conv = nn.Linear(channels, digits)
        self.quantiser = LFQ(digits) if config.quantiser == "lfq" else FSQ(config.levels)
        self.post_quant_conv = nn.Linear(digits, channels)
        self.decoder = ConvNextDecoder(channels, config.decoder_depths, config.decoder_dims)

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.config.modalities

    @property
    def n_codes(self) -> int:
        return self.quantiser.n_codes

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        config = self.config
        patches = config.wavelength_nm[2] // config.patch
        return (
            TokenGroup(kind="ordinal", n_tokens=1, vocab_size=config.bins),
            TokenGroup(
                kind="code", n_tokens=patches, vocab_size=self.n_codes, levels=config.levels
            ),
        )

    # -- spectra to tokens ---------------------------------------------------------------------

    def _tensors(self, spectra: Measurement) -> tuple[Tensor, Tensor, Tensor]:
        """Return flux, inverse variance and which pixels are good, on the codec's device."""
        device = self.bins.values.device
        assert isinstance(spectra, Spectrum)
        flux, ivar, good = (
            torch.from_numpy(np.ascontiguousarray(array)).to(device)
            for array in (spectra.flux, spectra.ivar, spectra.mask)
        )
        return flux, ivar, good

    def _check(self, measurement: Measurement) -> None:
        found, grid = self.expect(measurement, Spectrum).wavelength, self.grid.wavelength
        if np.count_nonzero(self.grid.overlaps(found)) < 2:
            ends = f"{found[0]:g} … {found[-1]:g} nm" if len(found) else "no pixels"
            raise ValueError(
                f"spectra of {self.modality!r} must lie within {grid[0]:g} … {grid[-1]:g} nm in at "
                f"least two pixels; found {ends}. Are the wavelengths in Ångström? Divide by ten"
            )

    def _level(self, flux: Tensor, good: Tensor) -> Tensor:
        """Return the level of each spectrum on the scale of its bins, shape (object,)."""
        if self.config.normalisation == "aion":
            mean = (flux * good).sum(-1) / (good.sum(-1) + 1.0)
            return torch.log10(mean.clamp(min=_AION_FLOOR) + 1.0)
        median = torch.where(good, flux, torch.nan).nanmedian(-1).values.nan_to_num()
        # Faint spectra can have a median below zero; they share the lowest bin.
        return median.clamp(min=1e-30).log10()

    def _unit(self, token: Tensor) -> Tensor:
        """Return the flux that a normalisation token stands for, shape (object, 1)."""
        level = 10 ** self.bins.decode(token)[:, None]
        if self.config.normalisation == "aion":
            return (level - 1.0).clamp(min=_AION_FLOOR)
        return level

    def _inputs(self, spectra: Spectrum) -> tuple[Tensor, Tensor]:
        """Return the encoder's input, shape (object, grid, 2), and the normalisation token."""
        config = self.config
        flux, ivar, good = self._tensors(spectra)
        if config.clip_flux is not None:
            flux = flux.clamp(-config.clip_flux, config.clip_flux)
        if config.clip_ivar is not None:
            ivar = ivar.clamp(max=config.clip_ivar)
        released = config.normalisation == "aion"
        token = self.bins.encode(self._level(flux, good), nearest=not released)
        unit = self._unit(token)
        istd = ivar.float().sqrt() / unit if released else (ivar.sqrt() * unit).float()
        flux = (flux / unit - 1.0) * config.input_scaling
        # The release takes whatever lies under the mask for flux.
        used = torch.ones_like(good) if config.compat else good
        placed = self.grid.place(flux, istd * config.input_scaling, used, spectra.wavelength)
        return torch.asinh(torch.stack(placed, dim=2)), token

    def _latent(
        self, encoder: Callable[[Tensor], Tensor], x: Tensor
    ) -> Float[Tensor, "object token digit"]:
        """Return what the quantiser takes, from the encoder's input."""
        return self.quant_conv(self.pre_quant_norm(encoder(x)))

    @torch.no_grad()
    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        self._check(measurement)
        assert isinstance(measurement, Spectrum)
        within = self.grid.overlaps(measurement.wavelength)
        mask = torch.from_numpy(measurement.mask[:, within].any(1))[:, None]
        encoder = in_precision(self.encoder, self.precision)
        tokens = [torch.empty(0, self.n_tokens, dtype=torch.long)]
        for start in range(0, len(measurement), _OBJECTS):
            inputs, level = self._inputs(measurement[start : start + _OBJECTS])
            for x, token in zip(self._split(inputs), self._split(level), strict=True):
                codes = self.quantiser.codes_to_indices(self.quantiser(self._latent(encoder, x)))
                tokens.append(torch.cat([token[:, None], codes], dim=1).cpu())
        return torch.where(mask, torch.cat(tokens), 0), mask.expand(-1, self.n_tokens).clone()

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Split rows into what goes through the network at a time."""
        return rows.split(_OBJECTS_CPU if rows.device.type == "cpu" else _OBJECTS)

    # -- tokens to spectra ---------------------------------------------------------------------

    def _output(
        self, decoder: Callable[[Tensor], Tensor], codes: Tensor
    ) -> Float[Tensor, "object grid 2"]:
        """Return flux in units of the level, less one, and the logit of a bad pixel."""
        return decoder(self.post_quant_conv(codes))

    @torch.no_grad()
    def reconstruct(self, ids: Tensor, wavelength: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return flux and the probability that a pixel is bad at wavelengths in nm.

        Parameters
        ----------
        ids : LongTensor, shape (object, token)
            Token ids, all of which exist.
        wavelength : array, shape (pixel,)
            Where to, in nm. Outside the grid flux is the level and the probability one half.

        Returns
        -------
        flux, bad : Tensor, shape (object, pixel)
            Flux in the modality's unit, and probability.
        """
        device = self.bins.values.device
        decoder = in_precision(self.decoder, self.precision)
        at = self.grid.back(wavelength, device)
        flux = [torch.empty(0, len(wavelength))]
        bad = [torch.empty(0, len(wavelength))]
        for part in self._split(ids.to(device)):
            output = self._output(decoder, self.quantiser.indices_to_codes(part[:, 1:]))
            flux.append(((at.interpolate(output[..., 0]) + 1.0) * self._unit(part[:, 0])).cpu())
            bad.append(at.interpolate(output[..., 1]).sigmoid().cpu())
        return torch.cat(flux), torch.cat(bad)

    def decode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        wavelength: np.ndarray | None = None,
        threshold: float = 0.5,
    ) -> Spectrum:
        """Return spectra in the modality's unit; their ivar is zero (unknown).

        Parameters
        ----------
        ids : LongTensor, shape (object, token)
            Token ids.
        mask : BoolTensor, shape (object, token), optional
            True where the token exists; objects without all their tokens come back absent.
        wavelength : array, shape (pixel,), optional
            Where to, in nm, increasing; by default the modality's own grid, or the latent grid if
            no survey declares the modality.
        threshold : float
            A pixel is good if the predicted probability that it is bad is at most this; 1 keeps all
            pixels within the grid.

        Raises
        ------
        ValueError
            If an id that exists is not in the vocabulary, or their number is wrong.
        """
        if wavelength is None:
            declared = modalities().get(self.modality)
            wavelength = self.grid.wavelength if declared is None else declared.wavelength
        wavelength = np.asarray(wavelength, dtype=np.float64)
        there = self.check_ids(ids, mask).all(1)
        flux, bad = self.reconstruct(torch.where(there[:, None], ids, 0), wavelength)
        good = bad.numpy() <= threshold
        if not self.config.compat:
            good &= self.grid.overlaps(wavelength)
        good &= there.cpu().numpy()[:, None]
        ivar = np.where(good, 1.0, 0.0) if self.config.compat else None
        return Spectrum(flux.numpy(), ivar, good, wavelength)

    def values(self) -> Tensor:
        """Return the level of each normalisation token on its log10 scale, shape (1, bins)."""
        return self.bins.values[None]

    def count_outside(self, measurement: Measurement) -> int:
        self._check(measurement)
        flux, _, good = self._tensors(measurement)
        level = self._level(flux, good)
        outside = self.bins.outside(level)
        if self.config.normalisation == "aion":
            outside |= level <= torch.log10(level.new_tensor(_AION_FLOOR) + 1.0)
        return int((outside & good.any(1)).sum())

    # -- training ------------------------------------------------------------------------------

    def prepare(self, measurement: Measurement) -> dict[str, Tensor]:
        """Return what `loss` needs of spectra, all of it independent of the weights.

        Returns
        -------
        dict
            ``inputs`` (object, grid, 2); at the spectrum's own pixels (object, pixel): ``flux`` in
            units of the level, ``ivar`` of it (zero where not good), ``bad``, and where the pixel
            lies on the grid: ``left``, ``fraction``, ``inside``.
        """
        self._check(measurement)
        assert isinstance(measurement, Spectrum)
        inputs, token = self._inputs(measurement)
        unit = self._unit(token)
        flux, ivar, good = self._tensors(measurement)
        at = self.grid.back(measurement.wavelength, flux.device)
        rows = (len(flux), -1)
        return {
            "inputs": inputs,
            "flux": (flux / unit).float(),
            "ivar": (ivar * unit.double().square() * at.inside).float(),
            "bad": (~good).float(),
            "left": at.left.expand(rows),
            "fraction": at.fraction.expand(rows),
            "inside": at.inside.expand(rows),
        }

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean training loss of a batch, and what to log.

        The loss is half the mean of χ² over the good pixels of the spectra themselves, a Gaussian
        negative log-likelihood, plus the cross-entropy of the mask; for signs plus 0.25 times the
        commitment and 0.1 times the entropy of `LFQ.losses`. The inverse variances are the given
        ones, with `error_floor` added to the errors.
        """
        z = self._latent(self.encoder, batch["inputs"])
        codes = self.quantiser(z)
        output = self._output(self.decoder, codes)
        flux, logit = (_at_pixels(output[..., i], batch) for i in (0, 1))
        ivar = batch["ivar"]
        floor = (self.config.error_floor * batch["flux"]).square()
        chi2 = (batch["flux"] - 1.0 - flux).square() * ivar / (1.0 + ivar * floor)
        chi2 = chi2.sum() / (ivar > 0).sum().clamp(min=1)
        each = F.binary_cross_entropy_with_logits(logit, batch["bad"], reduction="none")
        inside = batch["inside"]
        mask_loss = torch.where(inside, each, 0).sum() / inside.sum().clamp(min=1)
        metrics = {"chi2": chi2, "mask": mask_loss}
        total = chi2 / 2 + mask_loss
        if isinstance(self.quantiser, LFQ):
            commitment, entropy = self.quantiser.losses(z)
            metrics |= {"commitment": commitment, "entropy": entropy}
            total = total + _COMMITMENT * commitment + _ENTROPY * entropy
        metrics = {name: value.detach() for name, value in metrics.items()}
        return total, metrics | {"codes": self.quantiser.codes_to_indices(codes.detach())}

    def report(self, measurement: Measurement) -> dict[str, float]:
        """Return figures through the token ids: of `figures.reconstruction_figures`, and of codes.

        ``codes_used_fraction`` is the share of the vocabulary in use, ``code_entropy_bits`` the
        entropy of the codes.
        """
        assert isinstance(measurement, Spectrum)
        ids, mask = self.encode_masked(measurement)
        there = mask.all(1)
        spectra = measurement[there.numpy()]
        flux, bad = self.reconstruct(ids[there], spectra.wavelength)
        within = self.grid.overlaps(spectra.wavelength)
        figures = reconstruction_figures(spectra, flux.numpy(), bad.numpy(), within)
        return {**figures, **code_usage(ids[there][:, 1:], self.n_codes)}


def _at_pixels(values: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Interpolate (object, grid) onto the pixels of each object, zero outside."""
    left = batch["left"]
    before, after = values.gather(1, left), values.gather(1, left + 1)
    return torch.where(batch["inside"], before + batch["fraction"] * (after - before), 0)
