"""AION-1's spectrum codec, shared by DESI and SDSS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnisky.codecs.spectrum.latent import LatentSpectrumCodec
from omnisky.codecs.spectrum.latent_config import LatentSpectrumCodecConfig
from omnisky.storage import CheckpointError

__all__ = ["load", "spectrum_config"]


def spectrum_config(
    config: dict[str, Any], modalities: tuple[str, ...], *, compat: str | None = None
) -> LatentSpectrumCodecConfig:
    """Translate the configuration of a released codec.

    Parameters
    ----------
    config : dict
        Contents of its ``config.json``; all its fields must be there.
    modalities : tuple of str
        Names of the modalities here.
    compat : {"aion-0.0.2"}, optional
        Also reproduce what that release does wrong.

    Raises
    ------
    KeyError
        If a field is missing.
    ValueError
        If there is a field or value that this codec does not know.
    """
    left = dict(config)
    start, step, pixels = (left.pop(k) for k in ("lambda_min", "resolution", "num_pixels"))
    encoder = tuple(left.pop("encoder_depths")), tuple(left.pop("encoder_dims"))
    decoder = tuple(left.pop("decoder_depths")), tuple(left.pop("decoder_dims"))
    bits = left.pop("dim")
    found = (left.pop("codebook_size"), left.pop("embedding_dim"), left.pop("latent_channels"))
    if found != (2**bits, bits, encoder[1][-1]):
        raise ValueError(
            "codebook_size, embedding_dim and latent_channels must be 2^dim, dim and the last of "
            f"encoder_dims; found {found} with dim {bits} and encoder_dims {encoder[1]}"
        )
    translated = LatentSpectrumCodecConfig(
        modalities=modalities,
        # Ångström there, nm here.
        wavelength_nm=(start / 10, step / 10, pixels),
        encoder_depths=encoder[0],
        encoder_dims=encoder[1],
        decoder_depths=decoder[0],
        decoder_dims=decoder[1],
        quantiser="lfq",
        levels=(2,) * bits,
        normalisation="aion",
        log_range=tuple(left.pop("normalization_range")),
        bins=2**bits,
        input_scaling=left.pop("input_scaling"),
        clip_ivar=left.pop("clip_ivar"),
        clip_flux=left.pop("clip_flux"),
        compat=compat or "",
    )
    if left:
        raise ValueError(f"unknown fields {', '.join(sorted(left))}")
    return translated


def load(
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    modalities: tuple[str, ...],
    *,
    compat: str | None,
) -> LatentSpectrumCodec:
    """Build the codec from the contents of a released folder.

    By default pixels under the mask reach neither the level nor the codes, and what lies outside
    the grid is decoded as not good. What the network was trained on stays: the mean over one pixel
    too many, rounding up to the next bin (both cancel in decoding, which multiplies with the level
    that the token says), the inverse error divided by the level, and wavelengths in float32.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unknown or of another shape, or a constant disagrees with the
        configuration.
    KeyError, ValueError
        See `spectrum_config`.
    """
    codec = LatentSpectrumCodec(spectrum_config(config, modalities, compat=compat))
    weights = dict(tensors)
    grid, bits = codec.config.wavelength_nm, len(codec.config.levels)
    index = torch.arange(grid[2])
    constants = {
        "_quantizer._quantizer.mask": 2 ** torch.arange(bits - 1, -1, -1),
        "latent_grid.lambda_min": torch.tensor(config["lambda_min"]),
        "latent_grid.resolution": torch.tensor(config["resolution"]),
        "latent_grid.length": torch.tensor(config["num_pixels"]),
        "latent_grid._wavelength": (index * config["resolution"] + config["lambda_min"])[None],
    }
    for name, expected in constants.items():
        found = weights.pop(name)
        if found.shape != expected.shape or not torch.allclose(found.double(), expected.double()):
            raise CheckpointError(f"the tensor {name} disagrees with the configuration")
    weights["bins.values"] = weights.pop("normalization_quantizer.buckets")
    for name in ("quant_conv.weight", "post_quant_conv.weight"):
        # A convolution of one pixel there, a matrix here.
        weights[name] = weights[name].squeeze(-1)
    codec.load_state_dict(weights)
    return codec
