"""Folders of safetensors and JSON, written whole or not at all, and nothing executable inside.

Every artefact of omnisky (codec, model, fine-tuned model) is a folder with ``config.json`` and
``model.safetensors``. The configuration names the kind of artefact and the format version.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FORMAT_VERSION",
    "CheckpointError",
    "check_replaceable",
    "read_folder",
    "read_tensors",
    "sha256_of",
    "whole_folder",
    "write_folder",
    "write_plain_folder",
]

FORMAT_VERSION = 1
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
# In the configuration: sha256 of the weights.
_SEAL = "weights_sha256"


class CheckpointError(ValueError):
    """A saved folder is missing, corrupt, of another kind or of another format version."""


def sha256_of(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file as a hexadecimal string."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(
    folder: str | os.PathLike,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    extra: Callable[[Path], object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an artefact; after a failure (disk full, kill) the folder is as it was before.

    Parameters
    ----------
    folder : path
        Folder to make.
    kind : str
        Kind of artefact, checked on reading.
    config : mapping
        JSON-serialisable configuration.
    tensors : mapping of str to Tensor
        Weights and buffers.
    extra : callable, optional
        Called with the folder under construction to add files.
    overwrite : bool
        Replace an existing artefact.

    Raises
    ------
    FileExistsError
        If something is there that may not be replaced, see `check_replaceable`.
    OSError
        If it cannot be written; nothing is left behind.
    """

    def described(weights: Path) -> dict[str, Any]:
        head = {"omnisky_format": FORMAT_VERSION, "kind": kind, _SEAL: sha256_of(weights)}
        return {**head, **config}

    return _write(folder, described, tensors, extra, overwrite)


def write_plain_folder(
    folder: str | os.PathLike,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    extra: Callable[[Path], object] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write configuration and tensors as `write_folder` does, without kind, version and sha256.

    For layouts of others; the parameters and errors are those of `write_folder`.
    """
    return _write(folder, lambda _: config, tensors, extra, overwrite)


def _write(
    folder: str | os.PathLike,
    described: Callable[[Path], Mapping[str, Any]],
    tensors: Mapping[str, Tensor],
    extra: Callable[[Path], object] | None,
    overwrite: bool,
) -> Path:
    folder = Path(folder)
    check_replaceable(folder, overwrite)
    try:
        with whole_folder(folder) as work:
            _write_tensors(tensors, work / _WEIGHTS)
            config = dict(described(work / _WEIGHTS))
            (work / _CONFIG).write_text(json.dumps(config, indent=1) + "\n")
            # safetensors lets nobody else read what it writes.
            (work / _WEIGHTS).chmod((work / _CONFIG).stat().st_mode)
            if extra is not None:
                extra(work)
    except OSError as error:
        raise OSError(
            f"could not write {folder}: {error}. Nothing was changed; free some space or choose "
            "another folder"
        ) from error
    return folder


def _write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors from where they lie: a copy of large ones may not fit in memory."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    ready: dict[str, Tensor] = {}
    held: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        # Tensors that share memory are refused.
        ready[name] = tensor.clone() if memory in held else tensor
        held.add(memory)
    try:
        save_file(ready, path)
    except SafetensorError as error:
        # A full disk is an error of its kind to safetensors.
        raise OSError(str(error)) from error


def check_replaceable(folder: Path, overwrite: bool) -> None:
    """Refuse to write where something is that may not be replaced.

    Parameters
    ----------
    folder : Path
        Where an artefact shall be written.
    overwrite : bool
        Whether one that is there may be replaced.

    Raises
    ------
    FileExistsError
        If something is there and may not be replaced, or is no artefact of omnisky.
    """
    if not folder.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{folder} exists; choose another name or allow overwriting")
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another name, or remove it")
    held = sorted(path.name for path in folder.iterdir())
    if held and not _is_artefact(folder):
        shown = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
        raise FileExistsError(
            f"{folder} was not written by omnisky (it holds {shown}) and is not overwritten; "
            "choose another name, or remove it"
        )


def _is_artefact(folder: Path) -> bool:
    try:
        return "omnisky_format" in json.loads((folder / _CONFIG).read_text())
    except (OSError, ValueError, TypeError):
        return False


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder to fill, which becomes the one named if all goes well and is gone if not.

    Parameters
    ----------
    folder : Path
        Where the contents shall be; one that is there is replaced at the end.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    try:
        yield work
        work.chmod(0o755)
        _swap(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _swap(work: Path, folder: Path) -> None:
    """Put the finished folder in its place; the old one is removed only afterwards."""
    if not folder.exists():
        os.replace(work, folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".replaced-"))
    os.replace(folder, old / folder.name)
    try:
        os.replace(work, folder)
    except OSError:
        os.replace(old / folder.name, folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def read_folder(folder: str | os.PathLike, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an artefact's configuration and tensors.

    Parameters
    ----------
    folder : path
        Folder written by `write_folder`.
    kind : str
        Kind of artefact expected.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its two files is missing.
    CheckpointError
        If a file is corrupt or pickled, or kind or format version differ.
    """
    folder = Path(folder)
    _check_there(folder)
    try:
        config = json.loads((folder / _CONFIG).read_text())
        found, version = config.pop("kind", None), config.pop("omnisky_format", None)
        seal = config.pop(_SEAL, None)
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder / _CONFIG} is not a JSON object: {error}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has format version {version!r}; this omnisky reads version "
            f"{FORMAT_VERSION}. Use the omnisky that wrote it, or write it again"
        )
    if found != kind:
        raise CheckpointError(f"{folder} holds a {found!r}; expected a {kind!r}")
    tensors = read_tensors(folder)
    # Folders of earlier versions have no seal.
    if seal is not None and sha256_of(folder / _WEIGHTS) != seal:
        raise CheckpointError(
            f"{folder / _WEIGHTS} is not the file that was written with {folder / _CONFIG}: its "
            "sha256 differs, so it is damaged or of another artefact. Get or save the folder again"
        )
    return config, tensors


def read_tensors(folder: str | os.PathLike) -> dict[str, Tensor]:
    """Read the tensors of a folder of safetensors and JSON, whoever wrote it.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    CheckpointError
        If the tensors are corrupt or pickled.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    _check_there(folder)
    try:
        return load_file(folder / _WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder / _WEIGHTS} is not a readable safetensors file ({error}); it is damaged or "
            "pickled. Pickled files are never loaded: get the file again or convert it"
        ) from error


def _check_there(folder: Path) -> None:
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            pickled = [
                p.name for p in folder.glob("*") if p.suffix in {".pt", ".pth", ".bin", ".pkl"}
            ]
            hint = f"; {', '.join(pickled)} may be pickled and is never loaded" if pickled else ""
            raise FileNotFoundError(
                f"{folder} has no {name}; expected a folder with {_CONFIG} and {_WEIGHTS}{hint}"
            )
