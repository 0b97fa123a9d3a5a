"""Tokens of many objects: integer ids by modality, with a mask where an object has none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, overload

import numpy as np
import torch
from torch import Tensor

from omnisky.modalities import UnknownModalityError

__all__ = ["Rows", "Tokens"]

Index: TypeAlias = int | slice | Sequence[int] | np.ndarray | Tensor


class Rows(Mapping[str, Tensor]):
    """Give the rows of one array as tensors by name, each made when it is first asked for.

    Making a tensor takes longer than encoding a number.

    Parameters
    ----------
    place : mapping of str to int
        Names of the rows and where each is.
    block : array, shape (name, object)
        The rows; as tensors they have the shape (object, 1) and share its memory.
    """

    def __init__(self, place: Mapping[str, int], block: np.ndarray) -> None:
        self._place = place
        self._block = block
        self._made: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._made:
            row = self._block[self._place[name]]
            self._made[name] = torch.from_numpy(row).unsqueeze(-1)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, name: object) -> bool:
        return name in self._place


class Tokens(Mapping[str, Tensor]):
    """Hold token ids of several modalities of the same objects.

    A read-only mapping from modality name to ids. Like `Observations`, indexing with integers, a
    slice or a boolean array gives other objects, so that scikit-learn's splitters work on it.

    Parameters
    ----------
    ids : mapping of str to LongTensor, shape (object, token)
        Token ids by modality; 0 where the mask is False.
    mask : mapping of str to BoolTensor, shape (object, token), optional
        True where the token exists. Without it, all exist.

    Raises
    ------
    ValueError
        If it is empty, shapes disagree, ids are not integers or are negative.
    """

    def __init__(self, ids: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None) -> None:
        if not ids:
            raise ValueError("Tokens need at least one modality; found none")
        ids_of: dict[str, Tensor] = {}
        mask_of: dict[str, Tensor] = {}
        for name, tokens in ids.items():
            here = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask[name]
            if tokens.ndim != 2 or tokens.dtype != torch.long or here.shape != tokens.shape:
                raise ValueError(
                    f"tokens of {name!r} must be a LongTensor of shape (object, token) with a mask "
                    f"of the same shape; found {tokens.dtype} {tuple(tokens.shape)}, mask "
                    f"{tuple(here.shape)}"
                )
            if bool((tokens[here] < 0).any()):
                raise ValueError(f"tokens of {name!r} hold negative ids; hide them with the mask")
            ids_of[name] = torch.where(here, tokens, 0)
            mask_of[name] = here
        lengths = {name: len(t) for name, t in ids_of.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all modalities need one row an object; found lengths {lengths}")
        self._ids: Mapping[str, Tensor] = ids_of
        self.mask: Mapping[str, Tensor] = mask_of
        self._length = next(iter(lengths.values()))

    @classmethod
    def unchecked(
        cls, ids: Mapping[str, Tensor], mask: Mapping[str, Tensor], length: int
    ) -> Tokens:
        """Hold tokens that codecs made, without looking at them again.

        Parameters
        ----------
        ids, mask : mapping of str to Tensor, shape (object, token)
            As the class takes them; ids are 0 where the mask is False.
        length : int
            Number of objects.
        """
        tokens = object.__new__(cls)
        tokens._ids, tokens.mask, tokens._length = ids, mask, length
        return tokens

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __contains__(self, key: object) -> bool:
        return key in self._ids

    @overload
    def __getitem__(self, key: str) -> Tensor: ...

    @overload
    def __getitem__(self, key: Index) -> Tokens: ...

    def __getitem__(self, key: str | Index) -> Tensor | Tokens:
        if isinstance(key, str):
            if key not in self._ids:
                raise UnknownModalityError(
                    f"no tokens of {key!r} here; these objects have {', '.join(self)}"
                )
            return self._ids[key]
        if isinstance(key, (int, np.integer)):
            key = [int(key)]
        if isinstance(key, np.ndarray):
            key = torch.from_numpy(np.ascontiguousarray(key))
        ids = {name: t[key] for name, t in self._ids.items()}
        return Tokens(ids, {name: m[key] for name, m in self.mask.items()})

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name} {t.shape[1]}×{int(self.mask[name].any(1).sum())}"
            for name, t in self._ids.items()
        )
        return f"Tokens({len(self)} objects; tokens×present: {parts})"

    def keys(self):
        """Return the modality names."""
        return self._ids.keys()

    def items(self):
        """Return (modality name, ids) pairs."""
        return self._ids.items()

    @property
    def shape(self) -> tuple[int, int]:
        """(objects, tokens an object); lets scikit-learn index it like an array."""
        return len(self), sum(t.shape[1] for t in self._ids.values())

    def select(self, *names: str) -> Tokens:
        """Return the same objects with only these modalities."""
        return Tokens({n: self[n] for n in names}, {n: self.mask[n] for n in names})

    def drop(self, *names: str) -> Tokens:
        """Return the same objects without these modalities; each must be there."""
        for name in names:
            self[name]
        return self.select(*(n for n in self._ids if n not in names))
