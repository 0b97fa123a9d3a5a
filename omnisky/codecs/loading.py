"""Find and load a codec: ours or one of AION-1, in a folder or on the hub.

A source may be

* a folder of one codec (``config.json`` and ``model.safetensors``), ours or AION-1's;
* a folder with codecs under ``<name>/`` or ``codecs/<name>/``, such as a model or a checkout of
  ``polymathic-ai/aion-base``;
* a hub id ``organisation/name``, of which only the codec's own files are fetched.

Nothing in these files is ever executed: safetensors and JSON only.
"""

from __future__ import annotations

import json
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from omnisky.codecs.aion import COMPAT, folder_name, load_aion
from omnisky.codecs.codec import Codec
from omnisky.storage import CheckpointError

__all__ = ["codec_folders", "fetch", "is_hub_id", "load_codec", "load_pretrained"]

# Kind in the configuration → where its class lives; imported when it is met.
_KINDS = {
    "scalar-codec": "omnisky.codecs.scalars.scalar:ScalarCodec",
    "spectrum-codec": "omnisky.codecs.spectrum.sampled:SampledSpectrumCodec",
}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_codec(folder: str | os.PathLike) -> Codec:
    """Load a codec of ours from its folder; the kind is read from its configuration.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    CheckpointError
        If it is damaged or holds something else.
    """
    kind = _config(Path(folder)).get("kind")
    if kind not in _KINDS:
        raise CheckpointError(f"{folder} holds a {kind!r}; known codecs are {', '.join(_KINDS)}")
    module, _, name = _KINDS[kind].partition(":")
    return getattr(import_module(module), name).from_folder(folder)


def load_pretrained(
    source: str | os.PathLike,
    modality: str | None = None,
    *,
    revision: str | None = None,
    compat: str | None = None,
) -> Codec:
    """Load the codec of a modality; see `omnisky.codecs.Codec.from_pretrained`."""
    if compat not in (None, COMPAT):
        raise ValueError(f"compat must be {COMPAT!r} or left out; found {compat!r}")
    folder = Path(source)
    if not folder.exists() and isinstance(source, str) and is_hub_id(source):
        folder = fetch(source, _wanted(modality), revision)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} is for hub ids; {source} is a folder")
    found = _one_codec(folder, modality)
    if "omnisky_format" in _config(found):
        if compat is not None:
            raise ValueError(
                f"compat={compat!r} is for AION-1 codecs; {found} is a codec of omnisky's own"
            )
        codec = load_codec(found)
        return codec if modality is None else codec.of(modality)
    return load_aion(found, modality, compat=compat)


def codec_folders(folder: Path) -> list[Path]:
    """Return the codec folders in ``<folder>/*/`` or ``<folder>/codecs/*/``, sorted by name."""
    inner = folder / "codecs" if (folder / "codecs").is_dir() else folder
    return sorted(path.parent for path in inner.glob("*/config.json"))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected a codec folder")
    try:
        config = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a JSON object: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object; found a {type(config).__name__}")
    return config


def _one_codec(folder: Path, modality: str | None) -> Path:
    """Return the folder of the codec asked for."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; give a codec's or a model's folder, or a hub id "
            "organisation/name"
        )
    inner = codec_folders(folder)
    if (folder / "config.json").is_file() and not (folder / "codecs").is_dir():
        return folder
    if not inner:
        raise FileNotFoundError(f"{folder} holds no codecs: no config.json in it or below it")
    if modality is None:
        if len(inner) == 1:
            return inner[0]
        raise ValueError(
            f"{folder} holds {len(inner)} codecs; say which with modality=...: "
            f"{', '.join(path.name for path in inner)}"
        )
    for path in inner:
        if path.name == modality or modality in _config(path).get("modalities", ()):
            return path
    there = [path for path in inner if path.name == folder_name(modality)]
    if not there:
        raise FileNotFoundError(
            f"{folder} holds no codec of {modality!r}; there are "
            f"{', '.join(path.name for path in inner)}"
        )
    return there[0]


def _wanted(modality: str | None) -> list[str]:
    """Return patterns of the files of one codec on the hub."""
    files = ("config.json", "model.safetensors")
    if modality is None:
        return [*files, *(f"codecs/*/{name}" for name in files)]
    return [f"codecs/{folder_name(modality)}/{name}" for name in files]


def is_hub_id(source: str) -> bool:
    """Return True for text of the form ``organisation/name``."""
    return _HUB_ID.fullmatch(source) is not None


def fetch(source: str, patterns: list[str], revision: str | None) -> Path:
    """Download files of a hub repository, or find them in the local cache; return their folder.

    Raises
    ------
    FileNotFoundError
        If they are not in the cache and the hub does not give them.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"{source} (revision {revision or 'main'}) is no folder here and could not be fetched "
            f"from the hub: {error}. Offline, give the path of a local copy"
        ) from error
