"""How an image codec is trained: the loss, and what is changed at random before it.

Images are turned and mirrored; bands are hidden from the encoder that must be decoded all the same;
two bands become one in between, so that wavelengths are not only those of a few filters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omnisky.codecs.image.bands import Band, Key, described

if TYPE_CHECKING:
    from omnisky.codecs.image.codec import ImageCodec
    from omnisky.codecs.image.config import ImageCodecConfig

__all__ = ["augmented", "mixed_band", "objective"]

# How many steps look at a part of the images, and how far its middle is from theirs, in crops.
_CROPPED, _AWAY = 0.8, 0.15
# How often the PSF and noise of an object are hidden, so that images without them can be encoded.
_UNKNOWN = 0.3


def objective(codec: ImageCodec, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return half the mean χ² of good pixels, and what to log.

    The negative log-likelihood of Gaussian noise with the given errors (and `error_floor` of the
    flux), in the unit of the measurement: range compression is undone first, on a straight line
    beyond the limit of the band. Pixels that are masked or whose error is unknown do not count.
    Objects may be weighted, see `balance` of the configuration.

    Parameters
    ----------
    codec : ImageCodec
        The codec; in training mode, images are augmented.
    batch : mapping of str to Tensor
        What its `prepare` returns.

    Raises
    ------
    ValueError
        If the batch has other bands than the codec.
    """
    config, keys, seen = codec.config, codec._keys(codec.bands), batch["mask"]
    if batch["flux"].shape[1] != len(keys):
        raise ValueError(
            f"training images of {codec.modality!r} have bands {', '.join(codec.bands)}; found "
            f"{batch['flux'].shape[1]} bands. Put others into the configuration"
        )
    if codec.training:
        batch, seen, keys = augmented(batch, keys, config)
    flux, ivar, mask = batch["flux"], batch["ivar"], batch["mask"]
    compressed = torch.where(seen, codec._compress(flux, keys), 0)
    codes = codec.quantiser(codec._encode_latent(compressed, seen, keys, batch))
    decoded = codec._decode_latent(codes, keys, batch)
    decoded = codec._expand(decoded, keys, codec._limit(keys))
    good = mask & (ivar > 0)
    weight = ivar / (1 + ivar * (config.error_floor * flux).square())
    chi2 = torch.where(good, weight * (decoded - flux).square(), 0)
    of_object = chi2.sum((1, 2, 3)) / good.sum((1, 2, 3)).clamp(min=1)
    if config.balance:
        excess = (of_object.detach() - 1).clamp(min=0)
        mean = (of_object / (config.balance + excess)).mean()
    else:
        mean = chi2.sum() / good.sum().clamp(min=1)
    return 0.5 * mean, {
        "chi2_per_pixel": of_object.detach().median(),
        "codes": codec.quantiser.codes_to_indices(codes.detach()),
    }


def augmented(
    batch: Mapping[str, Tensor], keys: Sequence[Key], config: ImageCodecConfig
) -> tuple[dict[str, Tensor], Tensor, tuple[Key, ...]]:
    """Return a batch changed at random, what the encoder may see of it, and its bands.

    Parameters
    ----------
    batch : mapping of str to Tensor
        What `ImageCodec.prepare` returns.
    keys : sequence of Band or (str, str)
        Its bands.
    config : ImageCodecConfig
        Says what to do: `turn`, `crop`, `band_dropout`, `band_mixing`.

    Returns
    -------
    batch : dict of str to Tensor
        Images turned and mirrored, all of a batch in the same way; perhaps with two bands made one.
    seen : BoolTensor, shape (object, band, y, x)
        Its mask without the bands that are hidden from the encoder; each object keeps one at least.
    keys : tuple of Band or (str, str)
        Its bands.
    """
    changed, bands = dict(batch), tuple(keys)
    if config.band_mixing > float(torch.rand(())) and len(bands) > 1:
        changed, bands = _mix(changed, bands)
    rows, columns = _window(config)
    turns, mirrored = int(torch.randint(4, ())), bool(torch.randint(2, ()))
    for name in ("flux", "ivar", "mask"):
        pixels = changed[name][..., rows, columns]
        if config.turn:
            pixels = torch.rot90(pixels, turns, (2, 3))
            pixels = pixels.flip(3) if mirrored else pixels
        changed[name] = pixels
    if config.stem == "metadata":
        for name in ("psf_fwhm_arcsec", "noise"):
            known = torch.rand(len(changed[name]), 1, device=changed[name].device) >= _UNKNOWN
            changed[name] = changed[name] * known
    mask = changed["mask"]
    there = mask.flatten(2).any(2)
    lot = torch.where(there, torch.rand(there.shape, device=mask.device), -1.0)
    kept = (lot >= config.band_dropout) | (lot == lot.amax(1, keepdim=True))
    return changed, mask & kept[:, :, None, None], bands


def _window(config: ImageCodecConfig) -> tuple[slice, slice]:
    """Return rows and columns of the part of the images that this step looks at."""
    if not config.crop or float(torch.rand(())) >= _CROPPED:
        return slice(None), slice(None)
    free = (config.size - config.crop) // 2
    most = min(free, int(_AWAY * config.crop))
    first = [free + int(torch.randint(-most, most + 1, ())) for _ in range(2)]
    rows, columns = (slice(start, start + config.crop) for start in first)
    return rows, columns


def mixed_band(first: Band, second: Band, weight: float) -> Band:
    """Return what is known of a weighted mean of two bands, in nanomaggies.

    Parameters
    ----------
    first, second : Band
        The bands, of one pixel scale.
    weight : float
        Weight of the second, 0 to 1.

    Notes
    -----
    The mean of fluxes in two filters is, but for their different weights of photons, the flux in a
    filter that passes both. Its width is that of a box with the same variance in wavelength.
    """
    share = (1 - weight, weight)
    pair = (first, second)
    wavelength = sum(s * b.wavelength_nm for s, b in zip(share, pair, strict=True))
    variance = sum(
        s * (b.width_nm**2 / 12 + (b.wavelength_nm - wavelength) ** 2)
        for s, b in zip(share, pair, strict=True)
    )
    fwhm = sum(s * b.psf_fwhm_arcsec for s, b in zip(share, pair, strict=True))
    noise = math.hypot(*(s * b.noise for s, b in zip(share, pair, strict=True)))
    mean = replace(
        first,
        name=f"{first.name}+{second.name}",
        wavelength_nm=wavelength,
        width_nm=math.sqrt(12 * variance),
        psf_fwhm_arcsec=fwhm,
        zero_point=22.5,
        limit=min(first.limit * first.nanomaggies, second.limit * second.nanomaggies),
    )
    return replace(mean, depth_mag=mean.depth_mag - 2.5 * math.log10(noise / mean.noise))


def _mix(
    batch: dict[str, Tensor], keys: tuple[Key, ...]
) -> tuple[dict[str, Tensor], tuple[Key, ...]]:
    """Put the weighted mean of two bands, neighbours in wavelength, in the place of the first."""
    bands = [band for key in keys if (band := described(key)) is not None]
    order = sorted(range(len(bands)), key=lambda number: bands[number].wavelength_nm)
    place = int(torch.randint(len(order) - 1, ()))
    a, b = order[place], order[place + 1]
    weight = float(torch.rand(()))
    flux, ivar, mask = batch["flux"], batch["ivar"], batch["mask"]
    both = mask[:, a] & mask[:, b] & (ivar[:, a] > 0) & (ivar[:, b] > 0)
    variance = sum(
        s**2 / torch.where(both, ivar[:, number], 1) for s, number in ((1 - weight, a), (weight, b))
    )
    mean = (1 - weight) * flux[:, a] + weight * flux[:, b]
    for name, column in (
        ("flux", torch.where(both, mean, 0)),
        ("ivar", torch.where(both, 1 / variance, 0)),
        ("mask", both),
    ):
        batch[name] = batch[name].clone()
        batch[name][:, a] = column
    psf, noise = batch["psf_fwhm_arcsec"].clone(), batch["noise"].clone()
    psf[:, a] = ((1 - weight) * psf[:, a] + weight * psf[:, b]) * (psf[:, [a, b]] > 0).all(1)
    noise[:, a] = torch.hypot((1 - weight) * noise[:, a], weight * noise[:, b]) * (
        noise[:, [a, b]] > 0
    ).all(1)
    batch |= {"psf_fwhm_arcsec": psf, "noise": noise}
    mixed = mixed_band(bands[a], bands[b], weight)
    return batch, (*keys[:a], mixed, *keys[a + 1 :])
