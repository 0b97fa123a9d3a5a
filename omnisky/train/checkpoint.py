"""What is kept of a run? Folders that are whole or not there, and hold nothing executable.

A checkpoint is a folder ``checkpoints/step-00001000`` with tensors as safetensors, the rest as
JSON, and a manifest with the sha256 of each file. It is written under another name, flushed to the
disk and then renamed, so that a crash at any moment leaves the earlier ones as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from omnisky.storage import CheckpointError

__all__ = ["FORMAT", "Checkpoint", "DamagedCheckpointError", "clean", "latest", "load", "save"]

FORMAT = 1
_FOLDER = re.compile(r"step-(\d{8,})")
_WRITING = ".writing-"
_TENSOR_FILES = ("model", "optimizer", "average")


class DamagedCheckpointError(CheckpointError):
    """A checkpoint's files are not those that were written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Hold everything a run needs to go on.

    Parameters
    ----------
    step : int
        Steps done.
    model, optimizer : dict of str to Tensor
        Weights and optimizer moments, flat.
    average : dict of str to Tensor
        Moving average of the weights, empty where none is kept.
    state : dict
        What else there is, as JSON: config, fingerprint, sampler position, metrics. Random numbers
        and the learning rate follow from the seed and the step, so they have no state.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    average: dict[str, Tensor] = field(default_factory=dict)


def save(checkpoint: Checkpoint, out: Path, *, keep: int) -> Path:
    """Write a checkpoint, whole or not at all, then remove all but the newest `keep`.

    Parameters
    ----------
    checkpoint : Checkpoint
        What to write.
    out : Path
        Folder of the run.
    keep : int
        How many checkpoints to keep, this one included.

    Returns
    -------
    Path
        The folder written.

    Raises
    ------
    OSError
        If it cannot be written, for example on a full disk; earlier checkpoints are untouched.
    """
    folder = out / "checkpoints"
    final = folder / f"step-{checkpoint.step:08d}"
    temporary = folder / f"{_WRITING}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_files(checkpoint, temporary)
        if final.exists():
            # Only a damaged one can be in the way: a good one would have been resumed from.
            shutil.rmtree(final)
        temporary.rename(final)
        _flush_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        there = ", ".join(p.name for _, p in _folders(out)) or "none"
        raise OSError(
            error.errno,
            f"the checkpoint of step {checkpoint.step} could not be written to {folder}: "
            f"{error.strerror or error}. Whole checkpoints there: {there}. Make room (or check the "
            "permissions) and run the same command again; it goes on from the newest",
        ) from error
    # A later step can only be damaged (see above); it must not take a good one's place.
    for _, path in [f for f in _folders(out) if f[0] <= checkpoint.step][keep:]:
        shutil.rmtree(path)
    return final


def _write_files(checkpoint: Checkpoint, folder: Path) -> None:
    contents = {"state.json": _to_json(checkpoint.state)}
    for name in _TENSOR_FILES:
        # Tied weights share memory, which safetensors refuses; a copy each is always right.
        tensors = getattr(checkpoint, name)
        if name == "average" and not tensors:
            continue
        copies = {key: t.detach().cpu().clone().contiguous() for key, t in tensors.items()}
        contents[f"{name}.safetensors"] = tensors_to_bytes(copies)
    manifest = {
        "format": FORMAT,
        "step": checkpoint.step,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    for name, data in {**contents, "manifest.json": _to_json(manifest)}.items():
        with open(folder / name, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    _flush_folder(folder)


def _to_json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _folders(out: Path) -> list[tuple[int, Path]]:
    """Return (step, folder) of all checkpoints by name, newest first."""
    found = []
    for path in (out / "checkpoints").glob("step-*"):
        match = _FOLDER.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found, reverse=True)


def latest(out: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None if the run has none.

    A damaged one is passed over with a warning that names it.

    Raises
    ------
    DamagedCheckpointError
        If there are checkpoints, and all are damaged.
    CheckpointError
        If the newest is of another format.
    """
    folders = _folders(out)
    for _, path in folders:
        try:
            return load(path)
        except DamagedCheckpointError as error:
            warnings.warn(f"{error}; trying the one before", stacklevel=2)
    if folders:
        raise DamagedCheckpointError(
            f"all {len(folders)} checkpoints in {out / 'checkpoints'} are damaged; move the folder "
            "away, or train with resume=False, which sets it aside and starts anew"
        )
    return None


def load(path: str | os.PathLike) -> Checkpoint:
    """Read one checkpoint folder after checking every file.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    DamagedCheckpointError
        If a file is missing or changed.
    CheckpointError
        If it is of another format, or a pickle (from `torch.save`), which is never read.
    """
    path = Path(path)
    if path.is_file():
        raise CheckpointError(f"{path} is {_kind_of(path)}, not a checkpoint. {_ALLOWED}")
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint {path}. {_ALLOWED}")
    manifest = _read_manifest(path)
    contents = {name: _read_checked(path / name, sha) for name, sha in manifest["files"].items()}
    try:
        there = [n for n in _TENSOR_FILES if n != "average" or f"{n}.safetensors" in contents]
        tensors = {n: tensors_from_bytes(contents[f"{n}.safetensors"]) for n in there}
        state = json.loads(contents["state.json"])
    except (KeyError, SafetensorError, ValueError) as error:
        raise DamagedCheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    return Checkpoint(step=manifest["step"], state=state, **tensors)


_ALLOWED = (
    "Expected a folder step-<number> written by omnisky, with manifest.json, state.json and "
    "*.safetensors; nothing else is ever loaded, because a pickle can run any code"
)


def _kind_of(path: Path) -> str:
    start = path.read_bytes()[:4]
    # torch.save writes a zip of pickles since 1.6, a bare pickle (protocol mark 0x80) before.
    if start == b"PK\x03\x04" or start[:1] == b"\x80":
        return "a pickle file, as torch.save writes"
    return "a single file"


def _read_manifest(path: Path) -> dict[str, Any]:
    if not (path / "manifest.json").is_file():
        others = [p.name for p in sorted(path.iterdir()) if p.is_file()]
        found = ", ".join(others) or "no file"
        raise DamagedCheckpointError(
            f"checkpoint {path} has no manifest.json (found {found}). {_ALLOWED}"
        )
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        version = manifest["format"]
        _ = manifest["step"], manifest["files"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(
            f"checkpoint {path} is damaged: manifest.json cannot be read"
        ) from error
    if version != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {version!r}; this omnisky reads format {FORMAT}. Resume "
            "with the version of omnisky that wrote it, or train in another folder"
        )
    return manifest


def _read_checked(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DamagedCheckpointError(
            f"checkpoint {path.parent} is damaged: {path.name} cannot be read ({error.strerror})"
        ) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedCheckpointError(
            f"checkpoint {path.parent} is damaged: {path.name} is not what was written "
            "(its sha256 differs from the manifest)"
        )
    return data


def clean(out: Path) -> None:
    """Remove what a crash in the middle of `save` left behind."""
    for path in (out / "checkpoints").glob(f"{_WRITING}*"):
        shutil.rmtree(path)
