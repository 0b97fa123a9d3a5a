"""Load the codec folders of an AION-1 checkpoint."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from omnisky.codecs.codec import Codec
from omnisky.modalities import UnknownModalityError
from omnisky.pretrained import NAMES, folder_name
from omnisky.storage import CheckpointError, read_tensors

__all__ = ["COMPAT", "load_aion"]

# The release whose behaviour, right or wrong, can be asked for.
COMPAT = "aion-0.0.2"

# Folder → module beside this one whose ``load`` builds the codec; the rest are scalars.
_HOMES = {
    "image": "image",
    "spectrum": "spectrum",
    "segmentation_map": "surroundings",
    "catalog": "surroundings",
}


def load_aion(folder: Path, modality: str | None = None, *, compat: str | None = None) -> Codec:
    """Load a codec folder of AION-1.

    Parameters
    ----------
    folder : Path
        ``config.json`` and ``model.safetensors`` as released.
    modality : str, optional
        Which modality; by default the folder's own name says it.
    compat : {"aion-0.0.2"}, optional
        Also reproduce what that release does wrong.

    Raises
    ------
    FileNotFoundError, CheckpointError
        If a file is missing, damaged, pickled, or its weights do not fit.
    UnknownModalityError
        If neither the name of the folder nor `modality` says what it is.
    """
    name = folder.name if modality is None else folder_name(modality)
    if name not in NAMES:
        raise UnknownModalityError(
            f"{folder} does not say what it encodes; give modality=..., or name the folder as "
            f"AION-1 does: {', '.join(NAMES)}"
        )
    config = json.loads((folder / "config.json").read_text())
    home = import_module(f"omnisky.codecs.aion.{_HOMES.get(name, 'scalars')}")
    try:
        codec = home.load(config, read_tensors(folder), NAMES[name], compat=compat)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        lacks = f"its configuration lacks {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{folder} does not fit AION-1's codec {name!r}: {lacks}") from error
    return codec.eval().of(modality or NAMES[name][0])
