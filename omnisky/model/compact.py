"""Weights in fewer bytes on the disk: half precision, or tables of embeddings in eight bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from omnisky.model.config import ModelConfig
from omnisky.model.training import without_memory
from omnisky.model.transformer import Transformer

__all__ = ["Stored", "compact", "refuse_rounded", "restored"]

Stored: TypeAlias = Literal["float32", "float16", "int8"]

_TABLES = ("embeddings.", "logits.")
_SCALE = ".scale_of_row"
# Tensors that an error names.
_SHOWN = 3


def compact(network: Transformer, stored: Stored) -> dict[str, Tensor]:
    """Return a network's tensors as they are to be stored.

    Parameters
    ----------
    network : Transformer
        Whose tensors.
    stored : {"float32", "float16", "int8"}
        As they are; in half precision; or in half precision with the weights of embeddings and
        logits, the most of a small model, in eight bits and a scale a row, which moves them by up
        to a 254th of the row's largest, and what ids mean in single precision.

    Raises
    ------
    ValueError
        If it is none of them, or the weights were rounded, see `refuse_rounded`.
    """
    if stored not in ("float32", "float16", "int8"):
        raise ValueError(f"weights are stored as float32, float16 or int8; found {stored!r}")
    refuse_rounded(network, "saved as if they were exact", "save")
    tensors = network.state_dict()
    if stored == "float32":
        return tensors
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        table = name.startswith(_TABLES) and tensor.ndim > 1 and tensor.dtype == torch.float32
        if stored == "int8" and table:
            scale = tensor.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
            found[name] = (tensor / scale).round().to(torch.int8)
            found[name + _SCALE] = scale
        elif stored == "int8" and tensor.dtype == torch.float64:
            found[name] = tensor.float()
        else:
            found[name] = tensor.half() if tensor.dtype == torch.float32 else tensor
    return found


def refuse_rounded(network: Transformer, what: str, do: str) -> None:
    """Refuse a network that was cast to fewer bits: its weights are no longer what they were.

    Parameters
    ----------
    network : Transformer
        Which network.
    what, do : str
        What its weights would be, and what to do with one that was not cast.

    Raises
    ------
    ValueError
        If it was cast.
    """
    if network.rounded:
        raise ValueError(
            "the weights of this model were rounded by cast('bfloat16'), which casting back does "
            f"not undo, and would be {what}; load the model again and {do} that"
        )


def restored(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    """Return the network of stored tensors, ready for use.

    Parameters
    ----------
    config : ModelConfig
        Its sizes and modalities.
    tensors : mapping of str to Tensor
        As they were stored.

    Raises
    ------
    ValueError
        If they are not those of such a network.
    """
    network = without_memory(config)
    wanted = network.state_dict()
    _check_fit(tensors, wanted)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_SCALE):
            continue
        if tensor.dtype == torch.int8:
            tensor = tensor.float() * tensors[name + _SCALE].float()
        # A copy: what was read lies in the file, which others may change.
        found[name] = tensor.to(wanted[name].dtype, copy=True)
    network.load_state_dict(found, assign=True)
    return network.eval()


def _check_fit(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` unless stored tensors are those of a network."""
    given = {name for name in tensors if not name.endswith(_SCALE)}
    needed = wanted.keys() | {
        n + _SCALE for n in given & wanted.keys() if tensors[n].dtype == torch.int8
    }
    amiss = [f"{name} is missing" for name in sorted(needed - tensors.keys())]
    amiss += [f"{name} is not in it" for name in sorted(given - wanted.keys())]
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    shapes |= {n: (*shapes[n.removesuffix(_SCALE)][:-1], 1) for n in needed - wanted.keys()}
    amiss += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if amiss:
        more = f" and {len(amiss) - _SHOWN} more" if len(amiss) > _SHOWN else ""
        raise ValueError(
            "the weights are not of the network that config.json tells of: "
            f"{'; '.join(amiss[:_SHOWN])}{more}. Take both files of one model"
        )
