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

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from omnisky.codecs.codec import LearnedCodec, TokenGroup
from omnisky.codecs.image.bands import Band, Key, nanomaggies, pixel_scale
from omnisky.codecs.image.config import ImageCodecConfig
from omnisky.codecs.image.fast import checked_precision, decode_fast, encode_fast, is_fast
from omnisky.codecs.image.magvit import Decoder, Encoder
from omnisky.codecs.image.metadata import MetadataHead, MetadataStem
from omnisky.codecs.image.pixels import DEFAULT_LIMIT, compress, context_of, crop, expand
from omnisky.codecs.image.report import reconstruction_report
from omnisky.codecs.image.stems import TableHead, TableStem
from omnisky.codecs.image.training import objective
from omnisky.codecs.quantisers.fsq import FSQ
from omnisky.modalities import Image, Measurement

__all__ = ["ImageCodec", "ImageCodecConfig"]

# How bands enter and leave the network.
_STEMS: dict[str, tuple[type, type]] = {
    "table": (TableStem, TableHead),
    "metadata": (MetadataStem, MetadataHead),
}
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
    # What `with_bands` was given, by name.
    _given: Mapping[str, Band] = MappingProxyType({})

    #: "float32", or "bf16" for all convolutions, or for some of `image.fast` on a CPU.
    precision: str = "float32"

    def __init__(self, config: ImageCodecConfig) -> None:
        super().__init__()
        self.config = config
        if config.stem not in _STEMS:
            raise ValueError(f"stem must be one of {', '.join(_STEMS)}; found {config.stem!r}")
        stem, head = _STEMS[config.stem]
        more = {} if config.stem == "table" else {"patch": config.patch}
        self.stem = stem(config.keys, config.projection, with_mask=config.mask_channel, **more)
        self.encoder = Encoder(config.projection, config.widths, config.units, config.kernel)
        self.to_latent = nn.Conv2d(config.hidden, len(config.levels), 1)
        self.quantiser = FSQ(config.levels)
        self.from_latent = nn.Conv2d(len(config.levels), config.hidden, 1)
        self.decoder = Decoder(config.projection, config.widths, config.units)
        self.head = head(config.keys, config.projection, **more)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities it encodes."""
        return self.config.modalities

    @property
    def bands(self) -> tuple[str, ...]:
        """Known bands of its modality, in order."""
        given = tuple(band.name for band in self._given.values())
        return given or tuple(band for name, band in self.config.keys if name == self.modality)

    def of(self, modality: str) -> Self:
        """Return this codec for another of its modalities; weights are shared, not copied."""
        view = super().of(modality)
        view._given = {}
        return view

    def with_bands(self, bands: Sequence[Band]) -> Self:
        """Return this codec for bands it was not configured for; weights are shared, not copied.

        Parameters
        ----------
        bands : sequence of Band
            What is known of the bands, all of one modality, which may be any name. The view
            encodes images with some of these bands and decodes them, in the unit that their zero
            point tells.

        Raises
        ------
        ValueError
            If there are none, they are of several modalities or pixel scales, a name comes twice,
            or the codec's stem is a table, which knows its own bands only.
        """
        if self.config.stem == "table":
            raise ValueError(
                "this codec has a learned column for each of its own bands and can take no others; "
                "use one with stem = 'metadata'"
            )
        facts = [{b.modality for b in bands}, {b.pixel_scale_arcsec for b in bands}]
        if any(len(fact) != 1 for fact in facts) or len({b.name for b in bands}) != len(bands):
            raise ValueError(
                "bands must be of one modality and one pixel scale, none twice; found "
                f"{', '.join(f'{b.modality}/{b.name} ({b.pixel_scale_arcsec})' for b in bands)}"
            )
        view = copy.copy(self)
        view._modality = bands[0].modality
        view._given = {band.name: band for band in bands}
        return view

    @property
    def side(self) -> int:
        """Tokens along one side of an image."""
        return self.config.size // (self.config.patch * 2**self.config.compressions)

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
        bands: Sequence[Key],
        context: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return latent vectors (object, row, column, dim) of compressed flux."""
        if is_fast(self, flux):
            return encode_fast(self, flux, mask, bands, context)
        with self._autocast(flux):
            hidden = self.encoder(self.stem(flux, mask, bands, context))
            latent = self.to_latent(hidden).movedim(1, -1)
        return latent.to(flux.dtype)

    def _decode_latent(
        self, codes: Tensor, bands: Sequence[Key], context: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return compressed flux (object, band, y, x) of codes (object, row, column, dim)."""
        if is_fast(self, codes):
            return decode_fast(self, codes, bands, context)
        with self._autocast(codes):
            hidden = self.decoder(self.from_latent(codes.movedim(-1, 1)))
        # Flux is known better than to the three digits of a bfloat16 that autocast may ask for.
        with torch.autocast(codes.device.type, enabled=False):
            return self.head(hidden.to(codes.dtype), bands, context)

    def _autocast(self, x: Tensor) -> AbstractContextManager:
        """Return the context of the network for a precision of "bf16", else what is around."""
        if checked_precision(self) == "bf16":
            return torch.autocast(x.device.type, torch.bfloat16)
        return nullcontext()

    def _compress(self, flux: Tensor, bands: Sequence[Key]) -> Tensor:
        units = self.stem.units(bands)[:, None, None]
        return compress(flux / units, self.config.range_compression, self.config.multiplier)

    def _expand(
        self, compressed: Tensor, bands: Sequence[Key], limit: Tensor | float | None
    ) -> Tensor:
        units = self.stem.units(bands)[:, None, None]
        limit = None if limit is None else limit / units
        softening, gain = self.config.range_compression, self.config.multiplier
        return expand(compressed, softening, gain, limit) * units

    def _keys(self, bands: Sequence[str | Band]) -> tuple[Key, ...]:
        """Return each band as what was given of it, or else as its key."""
        named = (self._given.get(band, band) if isinstance(band, str) else band for band in bands)
        return tuple((self.modality, band) if isinstance(band, str) else band for band in named)

    def _limit(self, bands: Sequence[Key]) -> Tensor:
        """Return the largest absolute flux of each band in nanomaggies, shape (band, 1, 1)."""
        known = dict(zip(self.config.keys, self.config.limits, strict=True))
        limits = [
            known.get(key, DEFAULT_LIMIT)
            if isinstance(key, tuple)
            else min(key.limit * key.nanomaggies, DEFAULT_LIMIT)
            for key in bands
        ]
        return torch.tensor(limits, device=self.to_latent.weight.device)[:, None, None]

    # Measurements to tensors.

    def _check_image(self, measurement: Measurement) -> Image:
        """Return the measurement, or say why it does not fit."""
        name, size = self.modality, self.config.size
        if not isinstance(measurement, Image):
            raise TypeError(f"modality {name!r} is an image; found {type(measurement).__name__}")
        keys = zip(measurement.bands, self._keys(measurement.bands), strict=True)
        unknown = [band for band, key in keys if not self.stem.knows(key)]
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
        expected = pixel_scale(self._keys(measurement.bands))
        if not np.isclose(measurement.pixel_scale_arcsec, expected, rtol=_SCALE_TOLERANCE):
            other = ", or describe them: with_bands" if self.config.stem == "metadata" else ""
            raise ValueError(
                f"images of {name!r} have pixels of {expected} arcsec, and this codec knows no "
                f"others; found {measurement.pixel_scale_arcsec:g}. Resample them{other}"
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
        keys = self._keys(layout)
        unit = torch.from_numpy(nanomaggies(keys))
        tensors["flux"], tensors["ivar"] = tensors["flux"] * unit, tensors["ivar"] / unit**2
        limit = self._limit(keys).cpu()
        tensors["flux"] = torch.minimum(torch.maximum(tensors["flux"], -limit), limit)
        context = context_of(images, columns, len(layout))
        context["noise"] = context["noise"] * nanomaggies(keys)[:, 0, 0]
        return tensors | {name: torch.from_numpy(array) for name, array in context.items()}

    def _layout(self, images: Image) -> tuple[str, ...]:
        """Return the bands of the tensors: the codec's, then others that its stem can describe."""
        return (*self.bands, *(band for band in images.bands if band not in self.bands))

    def count_outside(self, measurement: Measurement) -> int:
        """Return how many objects have more than 1 % of their good pixels beyond the limits."""
        images = self._check_image(measurement)
        keys = self._keys(images.bands)
        limit = self._limit(keys).cpu().numpy()
        share = (np.abs(images.flux * nanomaggies(keys)) > limit).sum((1, 2, 3)) / images.mask.sum(
            (1, 2, 3)
        ).clip(1)
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
            flux = self._compress(batch["flux"], keys)
            latent = self._encode_latent(flux, batch["mask"], keys, batch)
            codes = self.quantiser(latent)
            ids.append(self.quantiser.codes_to_indices(codes).flatten(1).cpu())
        all_ids = torch.cat(ids) if ids else torch.zeros((0, self.n_tokens), dtype=torch.long)
        present = torch.from_numpy(images.present)[:, None]
        return torch.where(present, all_ids, 0), present.expand(-1, all_ids.shape[1]).clone()

    @torch.no_grad()
    def decode(
        self,
        ids: Tensor,
        mask: Tensor | None = None,
        *,
        bands: Sequence[str | Band] | None = None,
        batch_size: int = 16,
    ) -> Image:
        """Return the images that ids stand for; their ivar is zero (unknown).

        They are in nanomaggies, bands given as `Band` in the unit that its zero point tells.

        Parameters
        ----------
        ids : LongTensor, shape (object, token)
            Token ids.
        mask : BoolTensor, shape (object, token), optional
            True where the token exists; by default all do.
        bands : sequence of str or Band, optional
            Bands to decode, in order: of the codec's modality by name, by default all it knows; any
            others by what is known of them, if the stem is ``"metadata"``. The pixels are those
            that were encoded, so a `Band` must have their scale.
        batch_size : int
            Objects at a time.

        Raises
        ------
        ValueError
            If an id that exists is not in the vocabulary, or a band is unknown.
        """
        keys = self._keys(self.bands if bands is None else bands)
        names = tuple(key.name if isinstance(key, Band) else key[1] for key in keys)
        known = [self.head.knows(key) for key in keys]
        unknown = [name for name, knows in zip(names, known, strict=True) if not knows]
        if unknown or not keys:
            raise ValueError(
                f"bands to decode must be among {', '.join(self.bands)} of {self.modality!r}; "
                f"found {', '.join(map(repr, unknown)) or 'none'}"
            )
        if not self.config.compat:
            self.check_ids(ids, mask)
        there = torch.ones_like(ids[:, 0], dtype=torch.bool) if mask is None else mask.all(1)
        flux = [
            self._decode_batch(torch.where(good[:, None], part, 0), keys)
            for part, good in zip(ids.split(batch_size), there.split(batch_size), strict=True)
        ]
        pixels = torch.cat(flux).numpy() / nanomaggies(keys)
        # With `compat` a pixel may be infinite: it comes back masked.
        good = there.cpu().numpy()[:, None, None, None] & np.isfinite(pixels)
        return Image(pixels, mask=good, bands=names, pixel_scale_arcsec=pixel_scale(keys))

    def _decode_batch(self, ids: Tensor, keys: Sequence[Key]) -> Tensor:
        side = math.isqrt(ids.shape[1])
        codes = self.quantiser.indices_to_codes(ids.to(self.to_latent.weight.device))
        compressed = self._decode_latent(codes.unflatten(1, (side, side)), keys)
        return self._expand(compressed, keys, None if self.config.compat else _CEILING).cpu()

    # Training.

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return half the mean χ² of good pixels, and what to log; see `image.training`."""
        return objective(self, batch)

    def report(self, measurement: Measurement) -> dict[str, float]:
        """Return reconstruction figures through the token ids; see `image.report`."""
        return reconstruction_report(self, self._check_image(measurement))
