"""Where a pretrained model or codec is: one that ships, a folder, or a repository of the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

from omnisky.pretrained.hub import fetch, hub_id

__all__ = [
    "codec_folder",
    "pinned",
    "pretrained_folder",
    "shipped_codecs",
    "shipped_models",
    "source_of",
]

ROOT = Path(__file__).parent
Part: TypeAlias = Literal["words", "codecs", "all"]
# What to fetch of a model on the hub: what tells what it is, also its codecs, also its weights.
_WORDS = ("config.json", "README.md", "codecs/*/config.json")
_FILES: dict[Part, tuple[str, ...]] = {
    "words": _WORDS,
    "codecs": (*_WORDS, "codecs/*"),
    "all": (*_WORDS, "codecs/*", "model.safetensors"),
}


def shipped_models() -> dict[str, Path]:
    """Return the folders of the models that ship with omnisky, by name."""
    return {path.parent.name: path.parent for path in sorted(ROOT.glob("*/config.json"))}


def shipped_codecs() -> dict[str, Path]:
    """Return the folders of the codecs that ship with omnisky by themselves, by name."""
    return {path.parent.name: path.parent for path in sorted(ROOT.glob("codecs/*/config.json"))}


def codec_folder(source: str | os.PathLike) -> Path:
    """Return the folder of a codec, or of a model with codecs, that ships; else the path itself."""
    folder = Path(source)
    known = {**shipped_models(), **shipped_codecs()}
    return folder if folder.exists() else known.get(str(source), folder)


def pretrained_folder(
    name: str | os.PathLike, revision: str | None = None, *, part: Part = "all"
) -> Path:
    """Return the folder of a pretrained model: a name that ships, a path, or a hub id.

    Parameters
    ----------
    name : str or path
        Name of a model that ships, its folder, or ``organisation/name`` on the hub, of which
        ``organisation/name@revision`` is a certain revision.
    revision : str, optional
        Commit, tag or branch of a hub id, if its name does not say it.
    part : {"words", "codecs", "all"}
        What to fetch of a hub id: configurations and cards, also its codecs, also its weights.

    Raises
    ------
    FileNotFoundError
        If it is none of them, or the hub cannot be reached.
    ValueError
        If a revision is given for what is not on the hub.
    """
    found = hub_id(name, revision)
    if found is not None:
        return _fetched(*found, part)
    known = shipped_models()
    folder = known.get(str(name), Path(name))
    if folder.is_file():
        raise FileNotFoundError(
            f"{folder} is a file; a model is a folder with config.json and model.safetensors. "
            "Pickles (.bin, .pt, .ckpt) are never read, as they can run code"
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no pretrained model {str(name)!r}: it is neither a folder, nor a hub id "
            f"organisation/name, nor one of those that ship with omnisky "
            f"({', '.join(known) or 'none'})"
        )
    return folder


def _fetched(source: str, revision: str | None, part: Part) -> Path:
    from omnisky.pretrained.contents import config_of, is_reference

    folder = fetch(source, _FILES[part], revision)
    needed = ["config.json", *(["model.safetensors"] if part == "all" else [])]
    if part != "words":
        codecs = [path.parent for path in sorted(folder.glob("codecs/*/config.json"))]
        own = [f"codecs/{codec.name}" for codec in codecs if not is_reference(config_of(codec))]
        needed += [f"{name}/model.safetensors" for name in own]
    for file in needed:
        # Offline, whatever part of it was fetched before is all that is found.
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{source} (revision {revision or 'main'}) has no {file}: either it is no model, "
                "or only a part of it was fetched before. Go online once, or give the path of a "
                "whole copy"
            )
    return folder


def source_of(name: str | os.PathLike, revision: str | None, folder: Path) -> str:
    """Return what names a model for ever: a hub id with the commit of its folder, or its name."""
    found = hub_id(name, revision)
    return str(name) if found is None else f"{found[0]}@{folder.name}"


def pinned(name: str | os.PathLike, revision: str | None = None) -> str:
    """Return a model's name, with the commit it stands for now if it is on the hub.

    Parameters
    ----------
    name : str or path
        As for `pretrained_folder`.
    revision : str, optional
        As for `pretrained_folder`.

    Returns
    -------
    str
        ``organisation/name@commit`` of a hub id; anything else that is there as it is.

    Raises
    ------
    FileNotFoundError, ValueError
        As `pretrained_folder` does.
    """
    # Also of a path: one that is not there must not become a hub id.
    return source_of(name, revision, pretrained_folder(name, revision, part="words"))
