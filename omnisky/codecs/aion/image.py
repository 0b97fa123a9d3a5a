"""The image codec of AION-1, one network for the Legacy Surveys and HSC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from omnisky.codecs.image.codec import ImageCodec
from omnisky.codecs.image.config import ImageCodecConfig
from omnisky.codecs.quantisers.fsq import FSQ
from omnisky.storage import CheckpointError

__all__ = ["load"]

# Field of AION-1's configuration → field here. The latent width is the number of levels.
_FIELDS = {
    "quantizer_levels": "levels",
    "hidden_dims": "hidden",
    "multisurvey_projection_dims": "projection",
    "n_compressions": "compressions",
    "num_consecutive": "units",
    "range_compression_factor": "range_compression",
    "mult_factor": "multiplier",
}
# Part of a tensor's name there → here, one after the other.
_NAMES = (
    (r"^subsample_in\.", "stem."),
    (r"^subsample_out\.", "head."),
    (r"^pre_quant_proj\.", "to_latent."),
    (r"^post_quant_proj\.", "from_latent."),
    (r"^model\.conv_in\.", "encoder.conv_in."),
    (r"^model\.conv_out\.", "decoder.conv_out."),
    (r"^model\.(en|de)coder_layers\.", r"\1coder.layers."),
    (r"\.net\.4\.to_k\.", ".gate.attention."),
    (r"\.net\.4\.net\.0\.", ".gate.squeeze."),
    (r"\.net\.4\.net\.2\.", ".gate.excite."),
    (r"\.net\.0\.conv\.", ".spatial."),
    (r"\.net\.2\.", ".mix."),
    (r"\.net\.0\.", ".expand."),
    (r"\.conv\.", "."),
)


def load(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    modalities: tuple[str, ...],
    *,
    compat: str | None = None,
) -> ImageCodec:
    """Build the codec of a released folder.

    Parameters
    ----------
    config : mapping
        Contents of its ``config.json``.
    tensors : mapping of str to Tensor
        Contents of its ``model.safetensors``.
    modalities : tuple of str
        Modalities it encodes.
    compat : {"aion-0.0.2"}, optional
        Also reproduce what that release does wrong.

    Raises
    ------
    CheckpointError
        If the configuration has a field unknown here, or a tensor is missing, unknown or of
        another shape.
    """
    fields = dict(config)
    dims = fields.pop("embedding_dim", None)
    unknown = fields.keys() - _FIELDS.keys()
    levels = tuple(fields.get("quantizer_levels", ()))
    if unknown or not levels or dims not in (None, len(levels)):
        raise CheckpointError(
            "an AION-1 image codec has quantizer_levels, embedding_dim as many as these, and "
            f"{', '.join(list(_FIELDS)[1:])}; found {dict(config)}"
        )
    known = {_FIELDS[name]: value for name, value in fields.items()}
    fields = {**known, "levels": levels, "modalities": modalities, "compat": compat or ""}
    # The tensors, pages of the file, become the parameters: no second set is made or filled.
    with torch.device("meta"):
        codec = ImageCodec(ImageCodecConfig.aion(**fields))
    codec.load_state_dict(_translated(tensors, codec, levels), assign=True)
    codec.quantiser = FSQ(levels)
    return codec


def _translated(
    tensors: Mapping[str, Tensor], codec: ImageCodec, levels: tuple[int, ...]
) -> dict[str, Tensor]:
    """Return the tensors under our names; `load_state_dict` then checks names and shapes."""
    found: dict[str, Tensor] = {}
    norm = len(codec.encoder.layers) - 1
    for name, tensor in tensors.items():
        ours = re.sub(r"^quantizer\.", "_quantizer.", name)  # in folders of early releases
        if ours == "_quantizer.levels":
            if tensor.tolist() != list(levels):
                raise CheckpointError(
                    f"config.json has levels {list(levels)} but the tensors {tensor.tolist()}"
                )
            continue
        # The norm stands between two steps without weights.
        ours = ours.replace(f"model.encoder_layers.{norm}.1.", f"model.encoder_layers.{norm}.")
        for pattern, replacement in _NAMES:
            ours = re.sub(pattern, replacement, ours)
        found[ours] = tensor.to(torch.float32)
    return found
