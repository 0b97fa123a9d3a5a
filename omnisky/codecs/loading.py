"""Find and load a codec: ours or one of AION-1, in a folder or on the hub.

A source may be

* a folder of one codec (``config.json`` and ``model.safetensors``), ours or AION-1's;
* a folder with codecs under ``<name>/`` or ``codecs/<name>/``, such as a model or a checkout of
  ``polymathic-ai/aion-base``;
* the name of a codec that ships with omnisky;
* a hub id ``organisation/name``, or ``organisation/name@revision``, of which only the codec's own
  files are fetched.

Nothing in these files is ever executed: safetensors and JSON only.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from omnisky.codecs.aion import COMPAT, load_aion
from omnisky.codecs.codec import Codec
from omnisky.pretrained import (
    NAMES,
    codec_folder,
    codec_folders,
    codec_modalities,
    config_of,
    fetch,
    folder_name,
    hub_id,
    is_own,
    referred,
    shipped_codecs,
)
from omnisky.storage import CheckpointError

__all__ = ["codec_class", "load_codec", "load_pretrained"]

# Kind in the configuration → where its class lives; imported when it is met.
_KINDS = {
    "image-codec": "omnisky.codecs.image.codec:ImageCodec",
    "scalar-codec": "omnisky.codecs.scalars.scalar:ScalarCodec",
    "catalog-codec": "omnisky.codecs.surroundings.catalog:CatalogCodec",
    "aion-catalog-codec": "omnisky.codecs.aion.surroundings:AionCatalogCodec",
    "segmentation-codec": "omnisky.codecs.surroundings.segmentation:SegmentationCodec",
    "coefficients-codec": "omnisky.codecs.scalars.coefficients:CoefficientsCodec",
    "native-spectrum-codec": "omnisky.codecs.spectrum.native:NativeSpectrumCodec",
    "spectrum-codec": "omnisky.codecs.spectrum.sampled:SampledSpectrumCodec",
    "latent-spectrum-codec": "omnisky.codecs.spectrum.latent:LatentSpectrumCodec",
}
_OF_AION = {modality for modalities in NAMES.values() for modality in modalities}
_WEIGHTS = "model.safetensors"


def load_codec(folder: str | os.PathLike) -> Codec:
    """Load a codec of ours from its folder; the kind is read from its configuration.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    CheckpointError
        If it is damaged or holds something else.
    """
    folder = referred(Path(folder))
    kind = config_of(folder).get("kind")
    if kind not in _KINDS:
        raise CheckpointError(f"{folder} holds a {kind!r}; known codecs are {', '.join(_KINDS)}")
    return codec_class(kind).from_folder(folder)


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
    on_hub = hub_id(source, revision)
    folder = codec_folder(source) if on_hub is None else _fetch_codec(*on_hub, modality)
    found = _one_codec(folder, modality)
    if is_own(found):
        if compat is not None:
            raise ValueError(
                f"compat={compat!r} is for AION-1 codecs; {found} is a codec of omnisky's own"
            )
        codec = load_codec(found)
        return codec if modality is None else codec.of(modality)
    return load_aion(found, modality, compat=compat)


def _one_codec(folder: Path, modality: str | None) -> Path:
    """Return the folder of the codec asked for."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; give a codec's or a model's folder, a codec that ships "
            f"with omnisky ({', '.join(shipped_codecs()) or 'none'}), or a hub id organisation/name"
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
        if modality in codec_modalities(path):
            return path
    raise FileNotFoundError(
        f"{folder} holds no codec of {modality!r}; there are "
        f"{', '.join(path.name for path in inner)}"
    )


def _fetch_codec(source: str, revision: str | None, modality: str | None) -> Path:
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
    if config_of(found).get("kind", "") in kinds:
        # The name of the snapshot is its commit: what is fetched now is of the same one.
        fetch(source, [(found.relative_to(folder) / _WEIGHTS).as_posix()], folder.name)
    return folder
