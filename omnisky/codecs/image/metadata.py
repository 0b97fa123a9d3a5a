"""First and last layer of the image codec, generated from what is known of a band.

A table of learned columns knows the bands it was trained with. Here a small network makes the
column of a band from its wavelength, width, pixels, sharpness and noise, so that bands nobody
trained on can go in and out. Two things are exact and need no learning: the zero point (pixels are
brought to nanomaggies) and the depth (pixels go in and come out in units of the band's typical
noise, see `MetadataStem.units`).

Pixels are looked at in overlapping squares, through a few shapes that are learned and shared by all
bands (a point, its gradients, …); the generated column says how much of which shape of a band goes
to which channel, and may so depend on how wide the point-spread function is in pixels.

Sources: hypernetworks, Ha, Dai & Le 2016, arXiv:1609.09106; kernels from wavelengths, Xiong et al.
2024 (DOFA), arXiv:2403.15356; Fourier features, Tancik et al. 2020, arXiv:2006.10739.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.image.bands import Band, Key, described

__all__ = ["MetadataHead", "MetadataStem"]

# Scale of each number that describes a band (wavelength and width in nm, arcsec a pixel, PSF in
# pixels, noise in nanomaggies, noise relative to the typical one), so that the surveys trained on
# lie within about ±1.
_CENTRE = (700.0, 120.0, 0.21, 4.5, 0.003, 1.0)
_SPREAD = (0.4, 0.4, 0.4, 0.3, 1.5, 0.5)
# What networks are trained with lies inside. Beyond, a number counts as the nearest of these: a
# network says worse about numbers it never met (tried on NIRCam, perf/codecs_held_out_bands.py).
_LOWEST = (430.0, 60.0, 0.1, 2.5, 2e-4, 0.2)
_HIGHEST = (1050.0, 500.0, 0.3, 15.0, 0.05, 4.0)
_FREQUENCIES = (0.5, 1.0, 2.0)
_N_FEATURES = len(_CENTRE) + 2 * len(_FREQUENCIES) + 2 * (len(_CENTRE) - 1)


def _bands(keys: Sequence[Key]) -> list[Band]:
    return [band for key in keys if (band := described(key)) is not None]


def _check(bands: Sequence[Key]) -> None:
    if unknown := [band for band in bands if described(band) is None]:
        raise ValueError(
            f"nothing is known of the bands {unknown}, so no projection can be made for them; "
            "describe them with omnisky.codecs.image.Band and give these to with_bands"
        )


def _features(bands: Sequence[Key], context: Mapping[str, Tensor] | None, like: Tensor) -> Tensor:
    """Return smooth features of bands, shape (object or 1, band, feature).

    Of wavelength, width, pixel scale, PSF width in pixels, noise and noise relative to the typical
    one, all as logarithms; PSF and noise of each object where the context has them (not zero).
    """
    facts = torch.tensor(
        [
            (b.wavelength_nm, b.width_nm, b.pixel_scale_arcsec, b.psf_fwhm_arcsec, b.noise)
            for b in _bands(bands)
        ],
        dtype=torch.float32,
        device=like.device,
    )
    wavelength, width, scale, psf, typical = (column[None] for column in facts.unbind(1))
    noise = typical
    if context is not None:
        given = context["psf_fwhm_arcsec"], context["noise"], context["pixel_scale_arcsec"][:, None]
        psf, noise, scale = (
            torch.where(found > 0, found, usual)
            for found, usual in zip(given, (psf, noise, scale), strict=True)
        )
    numbers = (wavelength, width, scale, psf / scale, noise, noise / typical)
    scales = zip(numbers, _CENTRE, _SPREAD, _LOWEST, _HIGHEST, strict=True)
    logs = [
        (number.clamp(low, high) / centre).log() / spread
        for number, centre, spread, low, high in scales
    ]
    u = torch.stack(torch.broadcast_tensors(*logs), dim=-1)
    waves = [math.pi * f * u[..., :1] for f in _FREQUENCIES] + [math.pi * 0.25 * u[..., 1:]]
    phase = torch.cat(waves, dim=-1)
    return torch.cat([u, phase.sin(), phase.cos()], dim=-1).to(like.dtype)


class _Columns(nn.Sequential):
    """Make a matrix for each band from its features."""

    def __init__(self, hidden: int, rows: int, columns: int) -> None:
        super().__init__(
            nn.Linear(_N_FEATURES, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, rows * columns),
            nn.Unflatten(-1, (rows, columns)),
        )


class MetadataStem(nn.Module):
    """Project bands to shared channels with columns made from what is known of each band.

    Parameters
    ----------
    bands : sequence of (str, str)
        Bands it is trained with; they must be in `omnisky.codecs.image.bands.BANDS`.
    width : int
        Shared channels.
    with_mask : bool
        Also project which pixels are bad.
    patch : int
        Pixels from one square to the next; squares are twice as wide. Even.
    shapes : int
        Learned shapes through which squares are seen.
    hidden : int
        Width of the network that makes the columns.

    Raises
    ------
    ValueError
        If nothing is known of a band.
    """

    def __init__(
        self,
        bands: Sequence[Key],
        width: int,
        *,
        with_mask: bool = False,
        patch: int = 4,
        shapes: int = 16,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        _check(bands)
        self.patch, self.with_mask = patch, with_mask
        # Squares of 2 x 2 patches, whose pixels are put into channels: much faster than a wide
        # convolution of one channel.
        self.look = nn.Conv2d(patch**2, shapes, 2, bias=False)
        # One more row says that the band is there, and one how many of its pixels are bad.
        self.columns = _Columns(hidden, shapes + 1 + with_mask, width)
        self.bias = nn.Parameter(torch.zeros(width))

    def knows(self, band: Key) -> bool:
        """Tell whether the band is described."""
        return described(band) is not None

    def units(self, bands: Sequence[Key]) -> Tensor:
        """Return the typical noise of each band in nanomaggies: the unit of pixels inside."""
        noise = [band.noise for band in _bands(bands)]
        return torch.tensor(noise, dtype=torch.float32, device=self.bias.device)

    def forward(
        self,
        flux: Tensor,
        mask: Tensor,
        bands: Sequence[Key],
        context: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return channels (object, channel, y / patch, x / patch) of compressed flux.

        Parameters
        ----------
        flux : Tensor, shape (object, band, y, x)
            Compressed pixels, zero where they are bad.
        mask : BoolTensor, shape (object, band, y, x)
            True where the pixel is good. Bands without a good pixel do not count.
        bands : sequence of Band or (str, str)
            The bands, or their keys in `omnisky.codecs.image.bands.BANDS`.
        context : mapping, optional
            See `omnisky.codecs.image.pixels.context_of`.
        """
        count, _, height, width = flux.shape
        there = mask.flatten(2).any(2)
        columns = self.columns(_features(bands, context, flux)) * there[..., None, None]
        half = self.patch // 2
        framed = F.pad(flux.reshape(-1, 1, height, width), (half, half, half, half))
        seen = self.look(F.pixel_unshuffle(framed, self.patch))
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
        if self.with_mask:
            bad = F.avg_pool2d((~mask).to(flux.dtype), self.patch).reshape(-1, 1, *seen.shape[2:])
            seen = torch.cat([seen, bad], dim=1)
        seen = seen.reshape(count, -1, *seen.shape[2:])
        # One matrix for all bands and shapes of an object.
        out = columns.flatten(1, 2).transpose(1, 2) @ seen.flatten(2)
        # The mean over bands: bands agree in the main, so that with a sum, or with one divided by
        # the root of their number, more bands would look like more light.
        number = there.sum(1).clamp(min=1)[:, None, None]
        return (out / number + self.bias[:, None]).unflatten(2, seen.shape[2:])


class MetadataHead(nn.Module):
    """Project shared channels to any band, with rows made from what is known of it.

    It goes by the band's typical PSF and noise, never by the object's: tokens alone must say how
    sharp an image is, since they are all that decoding has.

    Parameters
    ----------
    bands, width, patch, shapes, hidden
        As for `MetadataStem`.

    Raises
    ------
    ValueError
        If nothing is known of a band.
    """

    def __init__(
        self,
        bands: Sequence[Key],
        width: int,
        *,
        patch: int = 4,
        shapes: int = 16,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        _check(bands)
        self.rows = _Columns(hidden, shapes, width)
        self.patch = patch
        self.paint = nn.Conv2d(shapes, patch**2, 2, padding=1, bias=False)

    def knows(self, band: Key) -> bool:
        """Tell whether the band is described."""
        return described(band) is not None

    def forward(
        self, hidden: Tensor, bands: Sequence[Key], context: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return compressed pixels (object, band, y, x) from channels (object, channel, y, x)."""
        rows = self.rows(_features(bands, None, hidden))[0] / math.sqrt(hidden.shape[1])
        amounts = torch.einsum("bdhw,nkd->bnkhw", hidden, rows)
        framed = F.pixel_shuffle(self.paint(amounts.flatten(0, 1)), self.patch)
        half = self.patch // 2
        return framed[..., half:-half, half:-half].squeeze(1).unflatten(0, amounts.shape[:2])
