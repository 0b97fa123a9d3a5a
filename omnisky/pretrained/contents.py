"""What the folder of a model or codec says about itself, without loading any weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omnisky.pretrained import finding
from omnisky.pretrained.aion import DOMAINS, NAMES
from omnisky.storage import CheckpointError, sha256_of

__all__ = [
    "codec_folders",
    "codec_modalities",
    "config_of",
    "is_own",
    "is_released",
    "modalities_of",
    "referred",
]

# A folder that holds no codec but the name and the sha256 of one that ships: models share codecs.
_REFERENCE = "shipped-codec"


def config_of(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model or codec.

    Raises
    ------
    FileNotFoundError
        If there is none.
    CheckpointError
        If it is not a JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected a model or codec")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not a JSON object: {error}; copy or save it again"
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object; found a {type(config).__name__}")
    return config


def is_released(folder: Path) -> bool:
    """Return True if a folder holds a model in the layout of AION-1's release."""
    try:
        return "domains_in" in config_of(folder)
    except (OSError, ValueError):
        return False


def is_own(folder: Path) -> bool:
    """Return True for a codec in omnisky's layout; AION-1's configurations hold sizes alone.

    Raises
    ------
    FileNotFoundError, CheckpointError
        If its configuration is missing or damaged.
    """
    return not config_of(folder).keys().isdisjoint({"omnisky_format", "kind"})


def codec_folders(folder: Path) -> list[Path]:
    """Return the codec folders in ``<folder>/*/`` or ``<folder>/codecs/*/``, sorted by name."""
    inner = folder / "codecs" if (folder / "codecs").is_dir() else folder
    return sorted(path.parent for path in inner.glob("*/config.json"))


def is_reference(config: dict[str, Any]) -> bool:
    """Return True for the configuration of no codec, but with the name of one that ships."""
    return config.get("kind") == _REFERENCE


def referred(folder: Path) -> Path:
    """Return the folder that holds a codec: that of the shipped one that it refers to, or itself.

    A shipped codec is named as `shipped_codecs` does, or ``<model>/<name>`` if it ships with
    another model.

    Raises
    ------
    FileNotFoundError
        If it has no configuration.
    CheckpointError
        If that is damaged, or refers to a codec that does not ship with this omnisky, or to another
        version.
    """
    config = config_of(folder)
    if not is_reference(config):
        return folder
    *model, name = str(config.get("name")).split("/")
    found = finding.ROOT.joinpath(*model, "codecs", name)
    weights = found / "model.safetensors"
    if len(model) > 1 or ".." in (*model, name) or not weights.is_file():
        raise CheckpointError(
            f"{folder} refers to the codec {config.get('name')!r}, which does not ship with this "
            f"omnisky; it has {', '.join(finding.shipped_codecs())}"
        )
    if sha256_of(weights) != config.get("sha256"):
        raise CheckpointError(
            f"{folder} refers to another version of the codec {found.name!r} than ships with this "
            "omnisky, and its tokens would mean something else; use the omnisky it came with"
        )
    return found


def codec_modalities(folder: Path) -> tuple[str, ...]:
    """Return the modalities that a codec encodes; none if neither it nor its folder's name says so.

    Raises
    ------
    FileNotFoundError, CheckpointError
        If its configuration is missing or damaged, or refers to a codec that is not here.
    """
    if not is_own(folder):
        return NAMES.get(folder.name, ())
    config = config_of(referred(folder))
    listed = (*config.get("modalities", ()), *config.get("untrained", ()))
    return listed or (config.get("modality", folder.name),)


def modalities_of(folder: Path) -> list[str]:
    """Return the modalities that a pretrained model reads and writes, whoever's layout it has.

    Raises
    ------
    FileNotFoundError
        If it is no folder of a model, or has no codecs.
    CheckpointError
        If a configuration is damaged, or refers to a codec that is not here.
    """
    config = config_of(folder)
    of_codecs = {
        name
        for path in folder.glob("codecs/*/config.json")
        for name in codec_modalities(path.parent)
    }
    if not of_codecs:
        raise FileNotFoundError(
            f"no codecs in {folder}, without which a model takes tokens only; put them into "
            "codecs/ beside its config.json"
        )
    # A codec may know more than the model.
    of_network = _modalities_of_network(config)
    if of_network and not of_codecs & of_network:
        raise FileNotFoundError(
            f"the codecs in {folder} are of {', '.join(sorted(of_codecs))}, none of which the "
            f"model has; it has {', '.join(sorted(of_network))}. Put theirs into codecs/"
        )
    return sorted(of_codecs & of_network if of_network else of_codecs)


def _modalities_of_network(config: dict[str, Any]) -> set[str]:
    """Return the modalities that a model's configuration lists; none if it lists nothing known."""
    if isinstance(config.get("domains_in"), list):
        domains = [DOMAINS[key] for key in config["domains_in"] if key in DOMAINS]
        return {name for domain in domains for name in domain.names}
    listed = [m for m in config.get("modalities", ()) if isinstance(m, dict)]
    return {str(name) for m in listed for name in (m.get("name"), *m.get("also", ()))}
