"""What is kept of a run? Folders that are whole or not there, and hold nothing executable.

A checkpoint is a folder ``checkpoints/step-00001000`` with tensors as safetensors, the rest as
JSON, and a manifest with the sha256 of each file. It is written under another name, flushed to the
disk and then renamed, so that a crash at any moment leaves the earlier ones as they were.

Where weights are divided among processes, each writes its rows into a file of its own (format 2),
so that nothing is ever whole in memory; any number of processes reads them again. Not
`torch.distributed.checkpoint`, whose list of contents is a pickle.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor
from torch.distributed.tensor import DTensor

from omnisky.storage import CheckpointError, sha256_of
from omnisky.train.sharding import Parts, rows_here

if TYPE_CHECKING:
    from omnisky.train.parallel import Processes

__all__ = [
    "DIVIDED_FORMAT",
    "FORMAT",
    "Checkpoint",
    "DamagedCheckpointError",
    "clean",
    "folder_of",
    "latest",
    "load",
    "save",
]

T = TypeVar("T")

FORMAT, DIVIDED_FORMAT = 1, 2
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
    model, optimizer : mapping of str to Tensor
        Weights and optimizer moments, flat.
    average : mapping of str to Tensor
        Moving average of the weights, empty where none is kept.
    state : dict
        What else there is, as JSON: config, fingerprint, sampler position, metrics. Random numbers
        and the learning rate follow from the seed and the step, so they have no state.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: dict[str, Any]
    average: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def divided(self) -> bool:
        """True if this process holds some rows of the tensors only."""
        return any(isinstance(tensor, DTensor) for tensor in self.model.values())


def folder_of(out: Path, step: int) -> Path:
    """Return the folder of a step's checkpoint, there or not."""
    return out / "checkpoints" / f"step-{step:08d}"


def save(
    checkpoint: Checkpoint, out: Path, *, keep: int, processes: Processes | None = None
) -> Path:
    """Write a checkpoint, whole or not at all, then remove all but the newest `keep`.

    Parameters
    ----------
    checkpoint : Checkpoint
        What to write; in several processes, what each of them holds.
    out : Path
        Folder of the run, the same to all processes.
    keep : int
        How many checkpoints to keep, this one included.
    processes : Processes, optional
        All that call this together; without it, this one alone.

    Returns
    -------
    Path
        `folder_of` the step.

    Raises
    ------
    OSError
        In all processes, if it cannot be written, for example on a full disk; earlier checkpoints
        are untouched.
    """
    final = folder_of(out, checkpoint.step)
    folder = final.parent
    temporary = folder / f"{_WRITING}{final.name}"
    is_main = processes is None or processes.is_main

    def begin() -> None:
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()

    try:
        _together(processes, begin)
        files = _together(processes, lambda: _write_tensors(checkpoint, temporary, processes))
        _together(processes, lambda: _publish(checkpoint, files, final) if is_main else None)
    except OSError as error:
        if is_main:
            shutil.rmtree(temporary, ignore_errors=True)
        there = ", ".join(p.name for _, p in _folders(out)) or "none"
        raise OSError(
            error.errno,
            f"the checkpoint of step {checkpoint.step} could not be written to {folder}: "
            f"{error.strerror or error}. Whole checkpoints there: {there}. Make room (or check the "
            "permissions) and run the same command again; it goes on from the newest",
        ) from error
    # A later step can only be damaged (see `_publish`); it must not take a good one's place.
    for _, path in [f for f in _folders(out) if f[0] <= checkpoint.step][keep:] if is_main else ():
        shutil.rmtree(path)
    return final


def _together(processes: Processes | None, work: Callable[[], T]) -> list[T]:
    """Return what the work gives in each process, or raise in all what one of them met."""
    result, failure = None, None
    try:
        result = work()
    except OSError as error:
        failure = error
    outcomes = [(result, failure)] if processes is None else processes.gather((result, failure))
    if failures := [failure for _, failure in outcomes if failure is not None]:
        raise failures[0]
    return [result for result, _ in outcomes]  # type: ignore[misc]


def _write_tensors(
    checkpoint: Checkpoint, folder: Path, processes: Processes | None
) -> dict[str, str]:
    """Write what is this process's to write; return the sha256 of each file."""
    rank, count = (processes.rank, processes.world_size) if processes is not None else (0, 1)
    written: dict[str, str] = {}
    for name in _TENSOR_FILES:
        tensors = getattr(checkpoint, name)
        if name == "average" and not tensors:
            continue
        mine = {}
        for key, tensor in tensors.items():
            part = _rows_to_write(tensor, rank)
            if part is not None:
                # Tied weights share memory, which safetensors refuses; a copy each is right.
                mine[key] = part.detach().cpu().clone().contiguous()
        suffix = f"-{rank:05d}-of-{count:05d}" if checkpoint.divided else ""
        # One file after the other: a copy of the moments would be twice that of the weights.
        if mine or rank == 0:
            file = f"{name}{suffix}.safetensors"
            written[file] = _write(folder / file, tensors_to_bytes(mine))
    return written


def _rows_to_write(tensor: Tensor, rank: int) -> Tensor | None:
    """Return what a process writes of a tensor: its rows, or the whole if it is the main one."""
    if not isinstance(tensor, DTensor):
        return tensor if rank == 0 else None
    start, stop = rows_here(tensor)
    return tensor.to_local() if start < stop else None


def _publish(checkpoint: Checkpoint, files: list[dict[str, str]], final: Path) -> None:
    """Add what is said once, and give the folder its name."""
    folder = final.with_name(f"{_WRITING}{final.name}")
    hashes = {name: sha for part in files for name, sha in part.items()}
    if lacking := [name for name in hashes if not (folder / name).is_file()]:
        raise OSError(
            errno.ENOENT,
            f"{lacking[0]}, written by another process, is not there; all machines of a run need "
            "one and the same folder",
        )
    hashes["state.json"] = _write(folder / "state.json", _to_json(checkpoint.state))
    version = DIVIDED_FORMAT if checkpoint.divided else FORMAT
    manifest = {"format": version, "step": checkpoint.step, "files": hashes}
    _write(folder / "manifest.json", _to_json(manifest))
    _flush_folder(folder)
    if final.exists():
        # Only a damaged one can be in the way: a good one would have been resumed from.
        shutil.rmtree(final)
    folder.rename(final)
    _flush_folder(final.parent)


def _write(path: Path, data: bytes) -> str:
    """Write a file through to the disk and return its sha256."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(data).hexdigest()


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
    there = ((_FOLDER.fullmatch(p.name), p) for p in (out / "checkpoints").glob("step-*"))
    return sorted(((int(match[1]), path) for match, path in there if match), reverse=True)


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

    Tensors that were divided among processes are read from the disk when asked for.

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
    try:
        if manifest["format"] == DIVIDED_FORMAT:
            tensors, state = _read_divided(path, manifest["files"])
        else:
            tensors, state = _read_whole(path, manifest["files"])
    except (KeyError, SafetensorError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise DamagedCheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    return Checkpoint(step=manifest["step"], state=state, **tensors)


def _read_whole(path: Path, files: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    contents = {name: _read_checked(path / name, sha) for name, sha in files.items()}
    there = [n for n in _TENSOR_FILES if n != "average" or f"{n}.safetensors" in contents]
    tensors = {n: tensors_from_bytes(contents[f"{n}.safetensors"]) for n in there}
    return tensors, json.loads(contents["state.json"])


def _read_divided(path: Path, files: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    for name, sha in files.items():
        _check(path / name, sha)
    state = json.loads((path / "state.json").read_bytes())
    paths = {
        kind: sorted(path / name for name in files if name.startswith(f"{kind}-"))
        for kind in _TENSOR_FILES
    }
    return {kind: Parts(found) for kind, found in paths.items()}, state


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
    if version not in (FORMAT, DIVIDED_FORMAT):
        raise CheckpointError(
            f"checkpoint {path} has format {version!r}; this omnisky reads format {FORMAT} and "
            f"{DIVIDED_FORMAT}. Resume with the version of omnisky that wrote it, or train in "
            "another folder"
        )
    return manifest


def _read_checked(path: Path, sha256: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _changed(path)
    return data


def _check(path: Path, sha256: str) -> None:
    """Check a file without holding it in memory."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if found != sha256:
        raise _changed(path)


def _unreadable(path: Path, error: OSError) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"checkpoint {path.parent} is damaged: {path.name} cannot be read ({error.strerror})"
    )


def _changed(path: Path) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"checkpoint {path.parent} is damaged: {path.name} is not what was written "
        "(its sha256 differs from the manifest)"
    )


def clean(out: Path) -> None:
    """Remove what a crash in the middle of `save` left behind."""
    for path in (out / "checkpoints").glob(f"{_WRITING}*"):
        shutil.rmtree(path)
