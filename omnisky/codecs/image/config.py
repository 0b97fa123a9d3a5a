"""How an image codec is configured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from omnisky.codecs.aion import COMPAT
from omnisky.codecs.image.pixels import DEFAULT_LIMIT, LIMITS
from omnisky.surveys import modality

__all__ = ["ImageCodecConfig"]


@dataclass(frozen=True, kw_only=True)
class ImageCodecConfig:
    """Configure an image codec.

    Parameters
    ----------
    modalities : tuple of str
        Names of the modalities.
    bands : tuple of str
        Known bands as ``modality/band``, in the order of the stem's table; by default all that the
        modalities declare.
    limits : tuple of float
        Largest absolute flux of a pixel in each band, nanomaggies; by default AION-1's.
    levels : tuple of int
        FSQ levels.
    size : int
        Side of the cut-out in pixels.
    compressions : int
        How often both sides are halved.
    width, hidden : int
        Channels at full resolution and of the latent vectors; they double with each halving until
        they are `hidden`. A width of 0 is the one that gets there at the last halving.
    units : int
        Residual units at each resolution.
    kernel : int
        Side of the first and of the last convolution of the encoder.
    projection : int
        Channels the bands are projected to.
    stem : {"table", "metadata"}
        How they are projected: by a learned column each, or by columns made from what is known of
        a band (`omnisky.codecs.image.metadata`).
    patch : int
        Pixels from one square that the stem looks at to the next; 1 for a table.
    mask_channel : bool
        Tell the network which pixels are bad.
    range_compression, multiplier : float
        A pixel x becomes ``multiplier · range_compression · asinh(x / range_compression)``; x is in
        nanomaggies for a table, in units of the band's typical noise for metadata.
    error_floor : float
        Fractional error added in quadrature in the loss, so that a few bright pixels, whose errors
        no model of a galaxy reaches, do not outweigh all others; 0 is the pure likelihood.
    balance : float
        Weigh objects in the loss by ``1 / (balance + χ² per pixel beyond 1)``, so that the many
        faint ones, whose pixels are noise in the main, count as much as the bright; 0 weighs all
        pixels alike.
    band_dropout : float
        How often a band is hidden from the encoder in training, which must still be decoded.
    band_mixing : float
        How often, in training, two neighbouring bands become one of their weighted mean, at a
        wavelength in between; for metadata.
    turn : bool
        Whether to turn and mirror images in training.
    crop : int
        Side in pixels of squares that eight of ten training steps look at, cut out at random places
        around the middle: less to compute, and objects off the centre; 0 for whole images always.
    compat : {"", "aion-0.0.2"}
        Also reproduce what that release does wrong.
    """

    modalities: tuple[str, ...]
    bands: tuple[str, ...] = ()
    limits: tuple[float, ...] = ()
    levels: tuple[int, ...] = (7, 5, 5, 5, 5)
    size: int = 96
    compressions: int = 2
    width: int = 0
    hidden: int = 512
    units: int = 4
    kernel: int = 7
    projection: int = 54
    stem: str = "table"
    patch: int = 1
    mask_channel: bool = False
    range_compression: float = 0.01
    multiplier: float = 10.0
    error_floor: float = 0.01
    balance: float = 0.0
    band_dropout: float = 0.0
    band_mixing: float = 0.0
    turn: bool = False
    crop: int = 0
    compat: str = ""

    def __post_init__(self) -> None:
        if not self.bands:
            declared = {name: modality(name).bands for name in self.modalities}
            bands = tuple(f"{name}/{band}" for name, all in declared.items() for band in all)
            object.__setattr__(self, "bands", bands)
        if not self.limits:
            limits = tuple(LIMITS.get(key, DEFAULT_LIMIT) for key in self.keys)
            object.__setattr__(self, "limits", limits)
        if self.width == 0:
            object.__setattr__(self, "width", self.hidden // 2**self.compressions)
        self._check()

    def _check(self) -> None:
        wrong = {
            "modalities must not be empty": not self.modalities,
            "bands must be named modality/band, of the modalities, none twice": (
                {name for name, _ in self.keys} != set(self.modalities)
                or len(set(self.bands)) != len(self.bands)
            ),
            "limits must be positive, one a band": (
                len(self.limits) != len(self.bands) or min(self.limits, default=1) <= 0
            ),
            "size must be a multiple of patch * 2^compressions": (
                bool(self.size % (self.patch * 2**self.compressions))
            ),
            "a table looks at single pixels (patch = 1), metadata at an even number of them": (
                self.patch % 2 != 0 if self.stem == "metadata" else self.patch != 1
            ),
            "crop must be a multiple of patch * 2^compressions, size at most": bool(
                not 0 <= self.crop <= self.size or self.crop % (self.patch * 2**self.compressions)
            ),
            "band_mixing needs stem = 'metadata'": self.band_mixing > 0 and self.stem == "table",
            "band_dropout and band_mixing must lie in 0 … 1, without 1": not (
                0 <= self.band_dropout < 1 and 0 <= self.band_mixing < 1
            ),
            "width must reach hidden by doubling": self.widths[-1] != self.hidden,
            f"compat must be '' or {COMPAT!r}": self.compat not in ("", COMPAT),
            "kernel must be odd": self.kernel % 2 == 0,
        }
        if found := [text for text, is_wrong in wrong.items() if is_wrong]:
            raise ValueError(f"image codec: {'; '.join(found)}; found {self}")

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Known bands as (modality, band)."""
        parts = [band.partition("/") for band in self.bands]
        return tuple((name, band) for name, _, band in parts)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at full resolution and after each halving."""
        return tuple(min(self.width * 2**i, self.hidden) for i in range(self.compressions + 1))

    @classmethod
    def aion(cls, **changes) -> Self:
        """Return the configuration of the image codec of AION-1, with some fields changed."""
        bands = ("hsc_image/g", "hsc_image/r", "hsc_image/i", "hsc_image/z", "hsc_image/y")
        bands += tuple(f"legacysurvey_image/{band}" for band in "griz")
        facts = {"modalities": ("legacysurvey_image", "hsc_image"), "bands": bands}
        return cls(**{**facts, "error_floor": 0.0, **changes})
