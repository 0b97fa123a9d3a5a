"""With which model, where and in which number format embeddings are computed."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from omnisky.storage import sha256_of

if TYPE_CHECKING:
    from omnisky.model import Model

__all__ = ["Precision", "digest_of", "model_at", "place"]

Precision: TypeAlias = Literal["fp32", "bf16"]
_FORMATS: dict[str, Literal["float32", "bfloat16"]] = {"fp32": "float32", "bf16": "bfloat16"}


def digest_of(folder: Path) -> str:
    """Return the sha256 over a model's weights, configuration and codecs."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")):
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def model_at(folder: Path, digest: str, precision: Precision, device: str | None) -> Model:
    """Return the model of a folder, loaded once a process.

    Parameters
    ----------
    folder : Path
        Folder of a pretrained model.
    digest : str
        What `digest_of` said of it.
    precision : {"fp32", "bf16"}
        Of the transformer's blocks; codecs keep theirs.
    device : str, optional
        Where to compute; on a CUDA device where there is one, without it.

    Raises
    ------
    ValueError
        If the folder holds another model by now, this machine has no such device, or the precision
        is neither.
    """
    from omnisky.model import Model

    model = place(Model.from_pretrained(folder), precision, device)
    if digest_of(folder) != digest:
        raise ValueError(f"{folder} changed while its model was embedding; start again")
    return model


def place(model: Model, precision: Precision, device: str | None) -> Model:
    """Let a model compute somewhere and in some precision, see `model_at`; return it.

    Raises
    ------
    ValueError
        If this machine has no such device, or the precision is neither.
    """
    from omnisky.model.blocks import default_device

    if precision not in _FORMATS:
        raise ValueError(f"precision must be one of {', '.join(_FORMATS)}; found {precision!r}")
    # First the device: what warns of a number format that it lacks should not look at another.
    return model.to(default_device() if device is None else device).cast(_FORMATS[precision])
