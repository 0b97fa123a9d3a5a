"""Tokens of one source on disk: a table of integers that is read by memory mapping.

A folder holds ``ids.npy`` (one row an object, one column a token, in the narrowest type of
integers), ``mask.npy`` (one bit a token), ``objects.npy`` (what the source calls them; may be
missing) and ``about.json``. Columns are those of the modalities that the source has, and of no
others. An object without any token has no row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from omnisky.codecs.tokens import Tokens
from omnisky.storage import CheckpointError, whole_folder

__all__ = ["Block", "TokenTable", "narrowest", "packed", "write_table"]

_ABOUT, _IDS, _MASK, _OBJECTS = "about.json", "ids.npy", "mask.npy", "objects.npy"
_FORMAT = 1
_HASHED_ROWS = 4096

# Ids and packed mask of some objects.
Block = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class TokenTable:
    """Hold the tokens of the objects of one source.

    Parameters
    ----------
    ids : array of unsigned int, shape (object, token)
        Token ids, modality after modality; 0 where the mask is False. May be a memory map.
    mask : array of uint8, shape (object, ceil(token / 8))
        Bits that are 1 where the token exists, as `numpy.packbits` has them.
    modalities : mapping of str to int
        Number of tokens of each modality, in the order of the columns.
    about : mapping
        Where the tokens come from: ``source``, ``split``, ``mock``, ``codecs``, ``fingerprint``,
        the largest id of each column.
    objects : array, shape (object,), optional
        Identifier of each object in its source.
    """

    ids: np.ndarray
    mask: np.ndarray
    modalities: Mapping[str, int]
    about: Mapping[str, Any]
    objects: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"TokenTable({self.name}, {len(self)} objects; {', '.join(self.modalities)})"

    @property
    def name(self) -> str:
        """The source, in words."""
        return self.about["source"]

    @property
    def mock(self) -> bool:
        """True if the objects are of a mock universe."""
        return self.about["mock"]

    @property
    def fingerprint(self) -> str:
        """The sha256 of ids, masks and names of columns."""
        return self.about["fingerprint"]

    def take(self, rows: np.ndarray) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Return ids and mask of some objects."""
        bits = np.unpackbits(self.mask[rows], axis=1, count=self.ids.shape[1])
        return torch.from_numpy(self.ids[rows].astype(np.int64)), torch.from_numpy(bits).bool()

    def tokens(self, rows: np.ndarray | slice = slice(None)) -> Tokens:
        """Return some objects, all by default, as `Tokens`."""
        ids, mask = self.take(np.arange(len(self))[rows])
        sizes = list(self.modalities.values())
        return Tokens(
            dict(zip(self.modalities, ids.split(sizes, dim=1), strict=True)),
            dict(zip(self.modalities, mask.split(sizes, dim=1), strict=True)),
        )

    @classmethod
    def from_tokens(cls, tokens: Tokens, name: str = "tokens", *, mock: bool = False) -> TokenTable:
        """Hold tokens in memory."""
        ids = torch.cat(list(tokens.values()), 1).numpy()
        mask = np.packbits(torch.cat([tokens.mask[n] for n in tokens], 1).numpy(), axis=1)
        modalities = {n: t.shape[1] for n, t in tokens.items()}
        ids = ids.astype(narrowest(int(ids.max(initial=0)) + 1))
        about = {"source": name, "mock": mock, **_described(ids, mask, modalities)}
        return cls(ids=ids, mask=mask, modalities=modalities, about=about)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> TokenTable:
        """Open a table on disk; nothing but its description is read.

        Raises
        ------
        FileNotFoundError
            If there is no such table.
        CheckpointError
            If it is damaged or of another format.
        """
        folder = Path(folder)
        for name in (_ABOUT, _IDS, _MASK):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} has no {name}; expected saved tokens, <run>/tokens/<source>/train"
                )
        try:
            about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            if (about["kind"], about["omnisky_format"]) != ("tokens", _FORMAT):
                raise ValueError(f"it is {about['kind']!r} of format {about['omnisky_format']}")
            ids, mask = (np.load(folder / name, mmap_mode="r") for name in (_IDS, _MASK))
            modalities = {str(name): int(n) for name, n in about["modalities"].items()}
            width = sum(modalities.values())
            shapes = (about["objects"], width), (about["objects"], -(-width // 8))
            if (ids.shape, mask.shape) != shapes or len(about["largest"]) != width:
                raise ValueError(f"tables of {ids.shape} and {mask.shape} instead of {shapes}")
            named = (folder / _OBJECTS).is_file()
            objects = np.load(folder / _OBJECTS, mmap_mode="r") if named else None
            if objects is not None and objects.shape != (len(ids),):
                raise ValueError(f"{len(ids)} objects with {objects.shape} identifiers")
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(
                f"{folder} holds no readable tokens of format {_FORMAT}: {error}. Remove it, and "
                "they are made again"
            ) from error
        return cls(ids=ids, mask=mask, modalities=modalities, about=about, objects=objects)


def narrowest(vocabulary: int) -> np.dtype:
    """Return the narrowest type of unsigned integers below a number."""
    return np.min_scalar_type(max(vocabulary - 1, 0))


def packed(tokens: Mapping[str, Block], vocabulary: int) -> Block:
    """Lay tokens of several modalities side by side.

    Parameters
    ----------
    tokens : mapping of str to (ids, mask)
        Arrays of shape (object, token) by modality.
    vocabulary : int
        Upper bound of the ids.
    """
    ids = np.concatenate([ids for ids, _ in tokens.values()], axis=1)
    mask = np.concatenate([mask for _, mask in tokens.values()], axis=1)
    return ids.astype(narrowest(vocabulary)), np.packbits(mask, axis=1)


def write_table(
    folder: Path,
    modalities: Mapping[str, int],
    blocks: Callable[[], Iterator[Block]],
    about: Mapping[str, Any],
    objects: np.ndarray | None = None,
) -> TokenTable:
    """Write a table, whole or not at all, block by block; return it opened.

    Parameters
    ----------
    folder : Path
        Folder to make; one that is there is replaced.
    modalities : mapping of str to int
        Number of tokens of each modality, in the order of the columns.
    blocks : callable
        Returns the rows, block by block, masks packed; called twice.
    about : mapping
        What else to write down of it: ``source``, ``split``, ``mock``.
    objects : array, shape (object,), optional
        Identifier of each object in its source.

    Raises
    ------
    OSError
        If it cannot be written; nothing is left behind.
    """
    kinds, counts = {np.dtype(np.uint8)}, [0]
    for ids, _ in blocks():
        kinds.add(ids.dtype)
        counts.append(len(ids))
    width = sum(modalities.values())
    with whole_folder(folder) as work:
        ids = _room(work / _IDS, np.result_type(*kinds), (sum(counts), width))
        mask = _room(work / _MASK, np.dtype(np.uint8), (sum(counts), -(-width // 8)))
        first = 0
        for some_ids, some_mask in blocks():
            part = slice(first, first + len(some_ids))
            ids[part], mask[part] = some_ids, some_mask
            first = part.stop
        head = {"omnisky_format": _FORMAT, "kind": "tokens", **about}
        text = json.dumps({**head, **_described(ids, mask, modalities)}, indent=1)
        (work / _ABOUT).write_text(text + "\n", encoding="utf-8")
        del ids, mask  # written to the disk
        if objects is not None:
            np.save(work / _OBJECTS, objects)
    return TokenTable.open(folder)


def _room(path: Path, dtype: np.dtype, shape: tuple[int, int]) -> np.ndarray:
    """Return an array that is a file."""
    if shape[0]:
        return np.lib.format.open_memmap(path, "w+", dtype, shape)
    empty = np.zeros(shape, dtype)  # nothing can be mapped
    np.save(path, empty)
    return empty


def _described(ids: np.ndarray, mask: np.ndarray, modalities: Mapping[str, int]) -> dict[str, Any]:
    """Return what follows from the contents."""
    digest = hashlib.sha256(json.dumps(modalities).encode())
    for start in range(0, len(ids), _HASHED_ROWS):
        part = slice(start, start + _HASHED_ROWS)
        # Widened, so that the type it is stored in does not matter.
        digest.update(
            ids[part].astype("<i8").tobytes() + np.ascontiguousarray(mask[part]).tobytes()
        )
    largest = ids.max(axis=0) if len(ids) else np.zeros(ids.shape[1], int)
    return {
        "objects": len(ids),
        "modalities": dict(modalities),
        "largest": [int(n) for n in largest],
        "fingerprint": digest.hexdigest(),
    }
