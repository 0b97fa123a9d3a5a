"""Find and load a codec: ours or one of AION-1, in a folder or on the hub.

A source may be

* a folder of one codec (``config.json`` and ``model.safetensors``), ours or AION-1's;
* a folder with codecs under ``<name>/`` or ``codecs/<name>/``, such as a model or a checkout of
  ``polymathic-ai/aion-base``;
* the name of a codec that ships with omnisky;
* a hub id ``organisation/name``, of which only the codec's own files are fetched.

Nothing in these files is ever executed: safetensors and JSON only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from omnisky.codecs.aion import COMPAT, NAMES, folder_name, load_aion
from omnisky.codecs.codec import Codec
from omnisky.storage import CheckpointError, sha256_of

__all__ = [
    "codec_class",
    "codec_folders",
    "fetch",
    "is_hub_id",
    "load_codec",
    "load_pretrained",
    "shipped",
]

# Kind in the configuration → where its class lives; imported when it is met.
_KINDS = {
    "image-codec": "omnisky.codecs.image.codec:ImageCodec",
    "scalar-codec": "omnisky.codecs.scalars.scalar:ScalarCodec",
    "catalog-codec": "omnisky.codecs.surroundings.catalog:CatalogCodec",
    "segmentation-codec": "omnisky.codecs.surroundings.segmentation:SegmentationCodec",
    "coefficients-codec": "omnisky.codecs.scalars.coefficients:CoefficientsCodec",
    "native-spectrum-codec": "omnisky.codecs.spectrum.native:NativeSpectrumCodec",
    "spectrum-codec": "omnisky.codecs.spectrum.sampled:SampledSpectrumCodec",
    "latent-spectrum-codec": "omnisky.codecs.spectrum.latent:LatentSpectrumCodec",
}
_SHIPPED = Path(__file__).parents[1] / "pretrained" / "codecs"
# A folder that holds no codec but the name and the sha256 of one that ships: models share codecs.
_REFERENCE = "shipped-codec"
_OF_AION = {modality for modalities in NAMES.values() for modality in modalities}
_WEIGHTS = "model.safetensors"
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
    config = _config(Path(folder))
    kind = config.get("kind")
    if kind == _REFERENCE:
        return load_codec(_referred(Path(folder), config))
    if kind not in _KINDS:
        raise CheckpointError(f"{folder} holds a {kind!r}; known codecs are {', '.join(_KINDS)}")
    return codec_class(kind).from_folder(folder)


def _referred(folder: Path, config: Mapping[str, Any]) -> Path:
    """Return the folder of the shipped codec that a model's folder refers to.

    It is named as `shipped` does, or ``<model>/<name>`` if it ships with another model.
    """
    *model, name = str(config.get("name")).split("/")
    found = _SHIPPED.parent.joinpath(*model, "codecs", name)
    strange = len(model) > 1 or ".." in (*model, name)
    if strange or not (found / _WEIGHTS).is_file():
        raise CheckpointError(
            f"{folder} refers to the codec {config.get('name')!r}, which does not ship with this "
            f"omnisky; it has {', '.join(shipped())}"
        )
    if sha256_of(found / _WEIGHTS) != config.get("sha256"):
        raise CheckpointError(
            f"{folder} refers to another version of the codec {found.name!r} than ships with this "
            "omnisky, and its tokens would mean something else; use the omnisky it came with"
        )
    return found


def codec_class(kind: str) -> type[Codec]:
    """Return the class of a kind of codec, such as ``"image-codec"``.

    Raises
    ------
    ValueError
        If there is no such kind; the message lists those that are.
    """
    if kind not in _KINDS:
        raise ValueError(f"no codec of kind {kind!r}; there are {', '.join(_KINDS)}")
    module, _, name = _KINDS[kind].partition(":")
    return getattr(import_module(module), name)


def shipped() -> list[str]:
    """Return the names of the codecs that ship with omnisky."""
    return sorted(path.parent.name for path in _SHIPPED.glob("*/config.json"))


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
    if not folder.exists() and str(source) in shipped():
        folder = _SHIPPED / folder
    if not folder.exists() and isinstance(source, str) and is_hub_id(source):
        folder = _fetch_codec(source, modality, revision)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} is for hub ids; {source} is a folder")
    found = _one_codec(folder, modality)
    # Only ours name a kind; AION-1's configurations hold sizes alone.
    if _config(found).keys() & {"omnisky_format", "kind"}:
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
            f"there is no folder {folder}; give a codec's or a model's folder, a codec that ships "
            f"with omnisky ({', '.join(shipped()) or 'none'}), or a hub id organisation/name"
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
    names = {modality} | ({folder_name(modality)} if modality in _OF_AION else set())
    for path in inner:
        config = _config(path)
        if config.get("kind") == _REFERENCE:
            config = _config(_referred(path, config))
        known = {config.get("modality"), *config.get("modalities", ())}
        known |= {*config.get("untrained", ())}
        if path.name in names or modality in known:
            return path
    raise FileNotFoundError(
        f"{folder} holds no codec of {modality!r}; there are "
        f"{', '.join(path.name for path in inner)}"
    )


def _fetch_codec(source: str, modality: str | None, revision: str | None) -> Path:
    """Download the files of one codec, or find them in the local cache, and return their folder."""
    files = ("config.json", _WEIGHTS)
    if modality is None:
        folder = fetch(source, ["config.json", "codecs/*/config.json"], revision)
        return _with_weights(source, folder, _one_codec(folder, None), {"", *_KINDS})
    names = {modality} | ({folder_name(modality)} if modality in _OF_AION else set())
    places = [f"{place}{name}/" for place in ("codecs/", "") for name in sorted(names)]
    folder = fetch(source, [place + file for place in places for file in files], revision)
    try:
        _one_codec(folder, modality)
    except FileNotFoundError:
        # A codec of several modalities may have any name, which only its configuration tells. The
        # name of the snapshot is its commit: what is fetched now is of the same one.
        fetch(source, ["config.json", "codecs/*/config.json", "*/config.json"], folder.name)
        _with_weights(source, folder, _one_codec(folder, modality), {*_KINDS})
    return folder


def _with_weights(source: str, folder: Path, found: Path, kinds: set[str]) -> Path:
    """Fetch the weights of a codec of these kinds, never those of a whole model."""
    if _config(found).get("kind", "") in kinds:
        # The name of the snapshot is its commit: what is fetched now is of the same one.
        fetch(source, [(found.relative_to(folder) / _WEIGHTS).as_posix()], folder.name)
    return folder


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
