"""Images of several surveys as tokens: one network, shared by all of them.

1. The centre of each image is cut out, pixels are limited and range compressed; bad pixels become
   zeros, and a band without good pixels counts as missing.
2. A *stem* projects whatever bands there are to shared channels (`omnisky.codecs.image.stems`).
3. A convolutional encoder halves the sides a few times (`omnisky.codecs.image.magvit`).
4. Each latent vector is rounded to one code of a finite scalar quantiser: one token.

Decoding goes back the same way, to any of the known bands. AION-1's image codec is the
configuration `ImageCodecConfig.aion`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from omnisky.codecs.codec import LearnedCodec, TokenGroup
from omnisky.codecs.image.config import ImageCodecConfig
from omnisky.codecs.image.fast import decode_fast, encode_fast, is_fast
from omnisky.codecs.image.magvit import Decoder, Encoder
from omnisky.codecs.image.pixels import DEFAULT_LIMIT, compress, context_of, crop, expand
from omnisky.codecs.image.report import reconstruction_report
from omnisky.codecs.image.stems import Band, TableHead, TableStem
from omnisky.codecs.quantisers.fsq import FSQ
from omnisky.modalities import Image, Measurement
from omnisky.surveys import modality

__all__ = ["ImageCodec", "ImageCodecConfig"]

# How bands enter and leave the network.
_STEMS: dict[str, tuple[type, type]] = {"table": (TableStem, TableHead)}
# Decoded flux grows exponentially with what the network says; in nanomaggies a pixel, beyond any
# limit of a band.
_CEILING = 1e4
# More than this fraction of an image beyond the limits is no star's core.
_OUTSIDE = 0.01
# Surveys round their pixel scales.
_SCALE_TOLERANCE = 0.02


class ImageCodec(LearnedCodec):
    """Encode images of one or several surveys; see the module's first lines for the design."""

    kind: ClassVar[str] = "image-codec"
    config_class: ClassVar[type] = ImageCodecConfig

    #: Of some convolutions on a CPU without gradients: "float32" or "bf16"; see `image.fast`.
    precision: str = "float32"

    def __init__(self, config: ImageCodecConfig) -> None:
        super().__init__()
        self.config = config
        if config.stem not in _STEMS:
            raise ValueError(f"stem must be one of {', '.join(_STEMS)}; found {config.stem!r}")
        stem, head = _STEMS[config.stem]
        self.stem = stem(config.keys, config.projection, with_mask=config.mask_channel)
        self.encoder = Encoder(config.projection, config.widths, config.units, config.kernel)
        self.to_latent = nn.Conv2d(config.hidden, len(config.levels), 1)
        self.quantiser = FSQ(config.levels)
        self.from_latent = nn.Conv2d(len(config.levels), config.hidden, 1)
        self.decoder = Decoder(config.projection, config.widths, config.units)
        self.head = head(config.keys, config.projection)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities it encodes."""
        return self.config.modalities

    @property
    def bands(self) -> tuple[str, ...]:
        """Known bands of its modality, in order."""
        return tuple(band for name, band in self.config.keys if name == self.modality)

    @property
    def side(self) -> int:
        """Tokens along one side of an image."""
        return self.config.size // 2**self.config.compressions

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        """One group: a code for each square of pixels, row by row."""
        return (
            TokenGroup(
                kind="code",
                n_tokens=self.side**2,
                vocab_size=self.n_codes,
                levels=self.config.levels,
            ),
        )

    @property
    def n_codes(self) -> int:
        return self.quantiser.n_codes

    def values(self) -> None:
        """Return None: its codes are no numbers."""
        return None

    # The network itself: what a faster implementation replaces.

    def _encode_latent(
        self,
        flux: Tensor,
        mask: Tensor,
        bands: Sequence[Band],
        context: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return latent vectors (object, row, column, dim) of compressed flux."""
        if is_fast(self, flux):
            return encode_fast(self, flux, mask, bands, context)
        hidden = self.encoder(self.stem(flux, mask, bands, context))
        return self.to_latent(hidden).movedim(1, -1)

    def _decode_latent(
        self, codes: Tensor, bands: Sequence[Band], context: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return compressed flux (object, band, y, x) of codes (object, row, column, dim)."""
        if is_fast(self, codes):
            return decode_fast(self, codes, bands, context)
        hidden = self.decoder(self.from_latent(codes.movedim(-1, 1)))
        return self.head(hidden, bands, context)

    def _compress(self, flux: Tensor) -> Tensor:
        return compress(flux, self.config.range_compression, self.config.multiplier)

    def _expand(self, compressed: Tensor, limit: Tensor | float | None) -> Tensor:
        return expand(compressed, self.config.range_compression, self.config.multiplier, limit)

    def _keys(self, bands: Sequence[str]) -> tuple[Band, ...]:
        return tuple((self.modality, band) for band in bands)

    def _limit(self, bands: Sequence[str]) -> Tensor:
        """Return the largest absolute flux of each band, shape (band, 1, 1)."""
        known = dict(zip(self.config.keys, self.config.limits, strict=True))
        limits = [known.get(key, DEFAULT_LIMIT) for key in self._keys(bands)]
        return torch.tensor(limits, device=self.to_latent.weight.device)[:, None, None]

    # Measurements to tensors.

    def _check_image(self, measurement: Measurement) -> Image:
        """Return the measurement, or say why it does not fit."""
        name, size = self.modality, self.config.size
        if not isinstance(measurement, Image):
            raise TypeError(f"modality {name!r} is an image; found {type(measurement).__name__}")
        unknown = [b for b in measurement.bands if not self.stem.knows((name, b))]
        if unknown:
            raise ValueError(
                f"modality {name!r} has no band {', '.join(map(repr, unknown))} in this codec; it "
                f"knows {', '.join(self.bands)}. Leave other bands out, or rename them"
            )
        if min(measurement.flux.shape[2:]) < size and not self.config.compat:
            height, width = measurement.flux.shape[2:]
            raise ValueError(
                f"images of {name!r} must have at least {size} x {size} pixels; found {height} x "
                f"{width}. Cut larger images, or add a masked border: "
                f"omnisky.codecs.image.padded(images, {size})"
            )
        expected = modality(name).pixel_scale_arcsec
        if self.config.stem == "table" and not np.isclose(
            measurement.pixel_scale_arcsec, expected or 0, rtol=_SCALE_TOLERANCE
        ):
            raise ValueError(
                f"images of {name!r} have pixels of {expected} arcsec, and this codec knows no "
                f"others; found {measurement.pixel_scale_arcsec:g}. Resample them"
            )
        return measurement

    def prepare(self, measurement: Measurement) -> dict[str, Tensor]:
        """Return the tensors, one row an object, that `loss` needs of images.

        Returns
        -------
        dict
            ``flux`` and ``ivar`` in nanomaggies and their inverse square, ``mask`` (True = good),
            each of shape (object, band, y, x), of the bands of the modality in order and others
            that the images have; and what `omnisky.codecs.image.pixels.context_of` returns.

        Raises
        ------
        TypeError, ValueError
            If the measurement is no image, or its bands, size or pixel scale do not fit.
        """
        images = self._check_image(measurement)
        layout = self._layout(images)
        columns = [layout.index(band) for band in images.bands]
        tensors = {}
        for name, array in (("flux", images.flux), ("ivar", images.ivar), ("mask", images.mask)):
            cut = crop(array, self.config.size)
            whole = np.zeros((len(cut), len(layout), *cut.shape[2:]), dtype=array.dtype)
            whole[:, columns] = cut
            tensors[name] = torch.from_numpy(whole)
        if self.config.compat:
            # That release knows no masks: what is given is good, and zero where it is not.
            tensors["mask"][:, columns] = True
        limit = self._limit(layout).cpu()
        tensors["flux"] = torch.minimum(torch.maximum(tensors["flux"], -limit), limit)
        context = context_of(images, columns, len(layout))
        return tensors | {name: torch.from_numpy(array) for name, array in context.items()}

    def _layout(self, images: Image) -> tuple[str, ...]:
        """Return the bands of the tensors: the codec's, then others that its stem can describe."""
        return (*self.bands, *(band for band in images.bands if band not in self.bands))

    def count_outside(self, measurement: Measurement) -> int:
        """Return how many objects have more than 1 % of their good pixels beyond the limits."""
        images = self._check_image(measurement)
        limit = self._limit(images.bands).cpu().numpy()
        share = (np.abs(images.flux) > limit).sum((1, 2, 3)) / images.mask.sum((1, 2, 3)).clip(1)
        return int((share > _OUTSIDE).sum())

    # Tokens.

    @torch.no_grad()
    def encode_masked(
        self, measurement: Measurement, batch_size: int = 16
    ) -> tuple[Tensor, Bool[Tensor, "object token"]]:
        """Return ids and mask (True = token exists), both of shape (object, token).

        Parameters
        ----------
        measurement : Image
            Images of its modality in nanomaggies, any of its bands in any order.
        batch_size : int
            Objects at a time.
        """
        images = self._check_image(measurement)
        keys, device = self._keys(self._layout(images)), self.to_latent.weight.device
        ids = []
        for start in range(0, len(images), batch_size):
            batch = self.prepare(images[start : start + batch_size])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            flux = self._compress(batch["flux"])
            latent = self._encode_latent(flux, batch["mask"], keys, batch)
            codes = self.quantiser(latent)
            ids.append(self.quantiser.codes_to_indices(codes).flatten(1).cpu())
        all_ids = torch.cat(ids) if ids else torch.zeros((0, self.n_tokens), dtype=torch.long)
        present = torch.from_numpy(images.present)[:, None]
        return torch.where(present, all_ids, 0), present.expand(-1, all_ids.shape[1]).clone()

    def _check_ids(self, ids: Tensor, mask: Tensor | None) -> None:
        if ids.ndim != 2 or ids.dtype.is_floating_point or ids.shape[1] != self.n_tokens:
            raise ValueError(
                f"token ids of {self.modality!r} must be integers of shape (object, "
                f"{self.n_tokens}); found {tuple(ids.shape)} of {ids.dtype}"
            )
        real = ids if mask is None else ids[mask]
        if real.numel() and (real.min() < 0 or real.max() >= self.n_codes):
            raise ValueError(
                f"token ids of {self.modality!r} lie in 0 … {self.n_codes - 1}; found "
                f"{int(real.min())} … {int(real.max())}"
            )

    @torch.no_grad()
    def decode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        bands: Sequence[str] | None = None,
        batch_size: int = 16,
    ) -> Image:
        """Return the images that ids stand for, in nanomaggies; their ivar is zero (unknown).

        Parameters
        ----------
        ids : LongTensor, shape (object, token)
            Token ids.
        mask : BoolTensor, shape (object, token), optional
            True where the token exists; by default all do.
        bands : sequence of str, optional
            Bands of the codec's modality to decode, in order; by default all it knows.
        batch_size : int
            Objects at a time.

        Raises
        ------
        ValueError
            If an id that exists is not in the vocabulary, or a band is unknown.
        """
        bands = self.bands if bands is None else tuple(bands)
        keys = self._keys(bands)
        unknown = [key[1] for key in keys if not self.head.knows(key)]
        if unknown or not bands:
            raise ValueError(
                f"bands to decode must be among {', '.join(self.bands)} of {self.modality!r}; "
                f"found {', '.join(map(repr, unknown)) or 'none'}"
            )
        if not self.config.compat:
            self._check_ids(ids, mask)
        there = torch.ones(len(ids), dtype=torch.bool) if mask is None else mask.all(1)
        flux = [
            self._decode_batch(torch.where(good[:, None], part, 0), keys)
            for part, good in zip(ids.split(batch_size), there.split(batch_size), strict=True)
        ]
        pixels = torch.cat(flux).numpy()
        # With `compat` a pixel may be infinite: it comes back masked.
        good = there.numpy()[:, None, None, None] & np.isfinite(pixels)
        scale = modality(self.modality).pixel_scale_arcsec
        assert scale is not None  # every declared image has one
        return Image(pixels, mask=good, bands=bands, pixel_scale_arcsec=scale)

    def _decode_batch(self, ids: Tensor, keys: Sequence[Band]) -> Tensor:
        side = math.isqrt(ids.shape[1])
        codes = self.quantiser.indices_to_codes(ids.to(self.to_latent.weight.device))
        compressed = self._decode_latent(codes.unflatten(1, (side, side)), keys)
        return self._expand(compressed, None if self.config.compat else _CEILING).cpu()

    # Training.

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return half the mean χ² of good pixels, and what to log.

        The negative log-likelihood of Gaussian noise with the given errors (and `error_floor` of
        the flux), in the unit of the measurement: range compression is undone first, on a straight
        line beyond the limit of the band. Pixels that are masked or whose error is unknown do not
        count.
        """
        keys = self._keys(self.bands)
        flux, ivar, mask = batch["flux"], batch["ivar"], batch["mask"]
        if flux.shape[1] != len(keys):
            raise ValueError(
                f"training images of {self.modality!r} have bands {', '.join(self.bands)}; found "
                f"{flux.shape[1]} bands. Put others into the configuration"
            )
        latent = self._encode_latent(self._compress(flux), mask, keys, batch)
        codes = self.quantiser(latent)
        decoded = self._expand(self._decode_latent(codes, keys, batch), self._limit(self.bands))
        good = mask & (ivar > 0)
        weight = ivar / (1 + ivar * (self.config.error_floor * flux).square())
        chi2 = torch.where(good, weight * (decoded - flux).square(), 0)
        of_object = chi2.sum((1, 2, 3)) / good.sum((1, 2, 3)).clamp(min=1)
        return 0.5 * chi2.sum() / good.sum().clamp(min=1), {
            "chi2_per_pixel": of_object.detach().median(),
            "codes": self.quantiser.codes_to_indices(codes.detach()),
        }

    def report(self, measurement: Measurement) -> dict[str, float]:
        """Return reconstruction figures through the token ids; see `image.report`."""
        return reconstruction_report(self, self._check_image(measurement))
