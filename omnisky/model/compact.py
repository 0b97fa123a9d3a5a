"""Weights in fewer bytes on the disk: half precision, or tables of embeddings in eight bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

__all__ = ["Stored", "compact", "restored"]

Stored: TypeAlias = Literal["float32", "float16", "int8"]

_TABLES = ("embeddings.", "logits.")
_SCALE = ".scale_of_row"


def compact(tensors: Mapping[str, Tensor], stored: Stored) -> dict[str, Tensor]:
    """Return a network's tensors as they are to be stored.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Its state.
    stored : {"float32", "float16", "int8"}
        As they are; in half precision; or in half precision with the weights of embeddings and
        logits, the most of a small model, in eight bits and a scale a row, which moves them by up
        to a 254th of the row's largest, and what ids mean in single precision.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if stored not in ("float32", "float16", "int8"):
        raise ValueError(f"weights are stored as float32, float16 or int8; found {stored!r}")
    if stored == "float32":
        return dict(tensors)
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if stored == "int8" and name.startswith(_TABLES) and tensor.dtype == torch.float32:
            scale = tensor.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
            found[name] = (tensor / scale).round().to(torch.int8)
            found[name + _SCALE] = scale
        elif stored == "int8" and tensor.dtype == torch.float64:
            found[name] = tensor.float()
        else:
            found[name] = tensor.half() if tensor.dtype == torch.float32 else tensor
    return found


def restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return stored tensors as a network takes them.

    Raises
    ------
    KeyError
        If a scale is missing.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_SCALE):
            continue
        if tensor.dtype == torch.int8:
            found[name] = tensor.float() * tensors[name + _SCALE].float()
        else:
            found[name] = tensor.float() if tensor.dtype == torch.float16 else tensor
    return found
