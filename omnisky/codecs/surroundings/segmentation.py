"""Maps of numbers from 0 to 1 as codes: a convolutional autoencoder with FSQ, one code a patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from omnisky.codecs.codec import LearnedCodec, TokenGroup
from omnisky.codecs.quantisers.fsq import FSQ
from omnisky.codecs.surroundings.convolution import MapDecoder, MapEncoder
from omnisky.modalities import Measurement, SegmentationMap

__all__ = ["SegmentationCodec", "SegmentationCodecConfig"]

_BATCH = 256
# Values of segmentation maps are multiples of this: what `report` rounds to.
_STEP = 0.2


@dataclass(frozen=True, kw_only=True)
class SegmentationCodecConfig:
    """Configure a codec of maps; the defaults are AION-1's sizes.

    Parameters
    ----------
    modality : str
        Name of the modality.
    size : int
        Side of the maps in pixels, a multiple of 2 ^ `steps`; larger ones are cropped about their
        middle.
    pixel_scale_arcsec : float
        Side of a pixel.
    width, decoder_width : int
        Channels at the codes, of the encoder and of the decoder; 0 for the same in both.
    hidden, layers : int
        Inner channels and number of residual layers, of each.
    steps : int
        How often the side is halved: a code covers 2 ^ `steps` pixels each way.
    levels : tuple of int
        FSQ levels.
    extension : float
        The decoder's sigmoid reaches from -extension to 1 + extension before it is cut to 0 … 1.
    compat : str
        Release of AION-1 whose behaviour is reproduced, empty for none.
    """

    modality: str
    size: int = 96
    pixel_scale_arcsec: float = 0.262
    width: int = 512
    decoder_width: int = 0
    hidden: int = 64
    layers: int = 2
    steps: int = 3
    levels: tuple[int, ...] = (8, 5, 5, 5)
    extension: float = 0.0
    compat: str = ""

    def __post_init__(self) -> None:
        patch = 2**self.steps
        if self.steps < 1 or self.size < patch or self.size % patch:
            raise ValueError(
                f"segmentation codec of {self.modality!r}: size must be a multiple of 2^steps; "
                f"found size={self.size}, steps={self.steps}"
            )
        least = 2 ** (self.steps - 1)
        if min(self.width, self.decoder_width or self.width) < least or self.hidden < 1:
            raise ValueError(
                f"segmentation codec of {self.modality!r}: widths must be at least {least} and "
                f"hidden at least 1; found {self.width}, {self.decoder_width}, {self.hidden}"
            )


class SegmentationCodec(LearnedCodec):
    """Encode a map as one FSQ code a patch of 8 × 8 pixels, row after row."""

    kind: ClassVar[str] = "segmentation-codec"
    config_class: ClassVar[type] = SegmentationCodecConfig

    def __init__(self, config: SegmentationCodecConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.hidden, config.layers, config.steps)
        decoder_width = config.decoder_width or config.width
        self.fsq = FSQ(config.levels)
        self.encoder = MapEncoder(config.width, *shape)
        self.encode_proj = nn.Conv2d(config.width, len(config.levels), 1)
        self.decode_proj = nn.Conv2d(len(config.levels), decoder_width, 1)
        self.decoder = MapDecoder(decoder_width, *shape)

    @property
    def side(self) -> int:
        """Codes along each side of a map."""
        return self.config.size // 2**self.config.steps

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        vocabulary, levels = self.fsq.n_codes, self.fsq.levels
        tokens = self.side**2
        return (TokenGroup(kind="code", n_tokens=tokens, vocab_size=vocabulary, levels=levels),)

    @property
    def n_codes(self) -> int:
        return self.fsq.n_codes

    def augment(self, measurement: Measurement, generator: torch.Generator) -> Measurement:
        """Return square maps turned by right angles and mirrored: the sky prefers no direction."""
        assert isinstance(measurement, SegmentationMap)
        turns = torch.randint(8, (len(measurement),), generator=generator).numpy()
        parts = [measurement.field.copy(), measurement.mask.copy()]
        for turn in range(8):
            rows = turns == turn
            for part in parts:
                mirrored = part[rows][:, :, :: -1 if turn > 3 else 1]
                part[rows] = np.rot90(mirrored, turn % 4, (1, 2))
        return SegmentationMap(parts[0], parts[1], measurement.pixel_scale_arcsec)

    def prepare(self, measurement: Measurement) -> dict[str, Tensor]:
        """Return ``field`` and ``mask``, shape (object, 1, y, x), cropped to the codec's size."""
        if not isinstance(measurement, SegmentationMap):
            raise TypeError(
                f"modality {self.modality!r} is a map; found a {type(measurement).__name__}"
            )
        config, side = self.config, measurement.field.shape[1:]
        if min(side) < config.size:
            raise ValueError(
                f"modality {self.modality!r} has {config.size} × {config.size} pixels; found "
                f"{side[0]} × {side[1]}. Pad the maps and their masks (False) to that size"
            )
        if not np.isclose(measurement.pixel_scale_arcsec, config.pixel_scale_arcsec, rtol=0.01):
            raise ValueError(
                f"modality {self.modality!r} has pixels of {config.pixel_scale_arcsec:g} arcsec; "
                f"found {measurement.pixel_scale_arcsec:g}. Paint the maps at that scale"
            )
        low, left = ((n - config.size) // 2 for n in side)
        window = (slice(None), None, slice(low, low + config.size), slice(left, left + config.size))
        field, mask = measurement.field[window], measurement.mask[window]
        return {"field": torch.from_numpy(field.copy()), "mask": torch.from_numpy(mask.copy())}

    def _codes(self, field: Tensor, learning: bool = False) -> Float[Tensor, "object y x digit"]:
        return self.fsq(self.encode_proj(self.encoder(field, learning)).movedim(1, -1))

    def _maps(self, codes: Tensor, learning: bool = False) -> Float[Tensor, "object 1 y x"]:
        found = self.decoder(self.decode_proj(codes.movedim(-1, 1)), learning).sigmoid()
        return found * (1 + 2 * self.config.extension) - self.config.extension

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean squared error of the known pixels."""
        codes = self._codes(batch["field"], self.training)
        error = torch.where(
            batch["mask"], self._maps(codes, self.training) - batch["field"], 0
        ).square()
        mse = error.sum() / batch["mask"].sum().clamp(min=1)
        ids = self.fsq.codes_to_indices(codes.detach())
        return mse, {"mse": mse.detach(), "codes": ids}

    @torch.no_grad()
    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        batch = self.prepare(measurement)
        device = self.encode_proj.weight.device
        parts = [
            self.fsq.codes_to_indices(self._codes(field.to(device))).flatten(1)
            for field in batch["field"].split(_BATCH)
        ]
        ids = torch.cat(parts).cpu()
        present = batch["mask"].any((1, 2, 3))[:, None]
        return torch.where(present, ids, 0), present.expand(-1, self.n_tokens).clone()

    @torch.no_grad()
    def decode(self, ids: Tensor, mask: Tensor | None = None) -> SegmentationMap:
        """Return maps; those of objects without all their tokens are absent."""
        known = self.check_ids(ids, mask).all(1)
        ids = torch.where(known[:, None], ids, 0).to(self.encode_proj.weight.device)
        grid: Int[Tensor, "object y x"] = ids.unflatten(1, (self.side, self.side))
        fields = [self._maps(self.fsq.indices_to_codes(part)) for part in grid.split(_BATCH)]
        field = torch.cat(fields)[:, 0].clamp(0, 1).cpu()
        good = known.cpu()[:, None, None].expand(field.shape)
        return SegmentationMap(field.numpy(), good.numpy(), self.config.pixel_scale_arcsec)

    def values(self) -> None:
        return None

    def count_outside(self, measurement: Measurement) -> int:
        """Return 0: values lie from 0 to 1 or there is no such measurement."""
        self.prepare(measurement[:0])
        return 0

    @torch.no_grad()
    def report(self, measurement: Measurement) -> dict[str, float]:
        """Return figures of maps that went through their token ids; absent ones do not count.

        Returns
        -------
        dict
            ``mse`` of the known pixels, ``mse_of_zero`` that of an empty map, ``pixels_right`` the
            share whose value is that of the nearest step of 0.2, ``covered_iou`` the intersection
            over union of what is not sky, ``code_usage`` the share of codes used, ``objects``.
        """
        given = measurement[np.asarray(measurement.present)]
        batch = self.prepare(given)
        ids, _ = self.encode_masked(given)
        mask = batch["mask"][:, 0]
        field = batch["field"][:, 0][mask]
        found = torch.from_numpy(self.decode(ids).field)[mask]
        covered, seen = field > _STEP / 2, found > _STEP / 2
        return {
            "mse": float((found - field).square().mean()),
            "mse_of_zero": float(field.square().mean()),
            "pixels_right": float(((found - field).abs() < _STEP / 2).float().mean()),
            "covered_iou": float((covered & seen).sum() / (covered | seen).sum().clamp(min=1)),
            "code_usage": len(ids.unique()) / self.n_codes,
            "objects": float(len(ids)),
        }
