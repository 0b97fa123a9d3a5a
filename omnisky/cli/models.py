"""Pretrained models as folders: found, and asked what they read, without loading them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from omnisky.modalities import Observations

__all__ = ["bases", "codec_folder", "codecs", "config_of", "folder_of", "modalities_of", "readable"]

_PRETRAINED = Path(__file__).parents[1] / "pretrained"


def bases() -> list[str]:
    """Return the names of the models that ship with omnisky."""
    return sorted(p.parent.name for p in _PRETRAINED.glob("*/config.json"))


def codecs() -> list[str]:
    """Return the names of the codecs that ship with omnisky."""
    return sorted(p.parent.name for p in _PRETRAINED.glob("codecs/*/config.json"))


def codec_folder(codec: str) -> Path | None:
    """Return the folder of a codec: a name that ships with omnisky, or a path; None if neither."""
    folder = Path(codec)
    if not folder.exists() and codec == folder.name:
        folder = _PRETRAINED / "codecs" / codec
    if not (folder / "config.json").is_file():
        return None
    kind = config_of(folder).get("kind")
    return folder if isinstance(kind, str) and kind.endswith("-codec") else None


def folder_of(model: str) -> Path:
    """Return the folder of a model: a name that ships with omnisky, or a path.

    Raises
    ------
    FileNotFoundError
        If it is neither.
    """
    folder = _PRETRAINED / model if model in bases() else Path(model)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no model {model}; give a folder or one that ships with omnisky "
            f"({', '.join(bases()) or 'none'})"
        )
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    """Return the configuration in a model's folder.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected the folder of a model")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); copy or save the model again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object; copy or save the model again")
    return config


def modalities_of(model: str) -> list[str]:
    """Return the modalities a pretrained model reads and writes.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or it has no codecs.
    """
    folder = folder_of(model)
    names: set[str] = set()
    for path in folder.glob("codecs/*/config.json"):
        config = config_of(path.parent)
        if config.get("kind") == "shipped-codec":
            *of, name = str(config.get("name")).split("/")
            config = config_of(_PRETRAINED.joinpath(*of, "codecs", name))
        # A codec of one modality has its name; one of several lists them.
        names |= {*config.get("modalities", ()), *config.get("untrained", ())} or {path.parent.name}
    if not names:
        raise FileNotFoundError(f"no codecs in {folder}; expected the folder of a pretrained model")
    return sorted(names)


def readable(observations: Observations, base: str, *, asked: bool) -> Observations:
    """Return the modalities that a model reads.

    Parameters
    ----------
    observations : Observations
        What the table has.
    base : str
        Name or folder of the model.
    asked : bool
        True if the user named the modalities: then one the model does not read is an error. Else
        it is left out with a `UserWarning`.

    Raises
    ------
    ValueError
        If nothing, or not all that was asked for, can be read.
    """
    known = modalities_of(base)
    others = [name for name in observations if name not in known]
    if len(others) == len(observations) or (others and asked):
        raise ValueError(
            f"the model {base} does not read {', '.join(others)}; it reads {', '.join(known)}"
        )
    if others:
        warnings.warn(f"the model {base} does not read {', '.join(others)}: not used", stacklevel=2)
    return observations.drop(*others)
