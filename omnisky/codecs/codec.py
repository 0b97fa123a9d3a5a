"""The contract every codec keeps."""

from __future__ import annotations

import copy
import os
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from omnisky.modalities import (
    Catalog,
    Coefficients,
    Measurement,
    Scalar,
    SegmentationMap,
    Spectrum,
    UnknownModalityError,
)
from omnisky.storage import CheckpointError, read_folder, write_folder

__all__ = ["Codec", "LearnedCodec", "TokenGroup", "warn_outside"]

Kind = TypeVar("Kind", bound=Measurement)
_IN_WORDS: dict[type, str] = {
    Scalar: "a scalar",
    Spectrum: "a spectrum",
    Coefficients: "coefficients",
    Catalog: "a catalog",
    SegmentationMap: "a map",
}
# Beyond this fraction outside the training range a user should know.
_TELL_OUTSIDE = 0.05


@dataclass(frozen=True, kw_only=True)
class TokenGroup:
    """Describe consecutive tokens of one modality that share a meaning.

    Parameters
    ----------
    kind : {"ordinal", "code"}
        Ordinal ids are ordered bins of a number; codes are an unordered vocabulary.
    n_tokens : int
        Number of tokens.
    vocab_size : int
        Ids are 0 … vocab_size - 1.
    levels : tuple of int
        FSQ levels of a code, whose digits then carry meaning; empty for others.
    """

    kind: str
    n_tokens: int
    vocab_size: int
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ("ordinal", "code") or self.n_tokens < 1 or self.vocab_size < 2:
            raise ValueError(
                "a token group has kind 'ordinal' or 'code', at least one token and two ids; "
                f"found {self}"
            )


class Codec(nn.Module):
    """Turn measurements of one modality into token ids and back.

    One network may serve several modalities (the images of several surveys): `of` gives a view for
    each, which shares all weights. Subclasses set ``kind`` and ``config_class``, take the
    configuration as their only argument, keep everything learned in their state dict, and never
    change their input.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type]
    config: Any
    _modality: str | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities it encodes."""
        return (self.config.modality,)

    @property
    def modality(self) -> str:
        """Name of the modality that `encode` and `decode` are about."""
        return self._modality or self.modalities[0]

    def of(self, modality: str) -> Self:
        """Return this codec for another of its modalities; weights are shared, not copied.

        Raises
        ------
        UnknownModalityError
            If it does not encode that modality.
        """
        if modality not in self.modalities:
            raise UnknownModalityError(
                f"this {self.kind} encodes {', '.join(self.modalities)}; found {modality!r}. "
                "Load or train a codec for it"
            )
        # A shallow copy: parameters, buffers and submodules are the same objects.
        view = copy.copy(self)
        view._modality = modality
        return view

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        """Token groups of one object, in order."""
        raise NotImplementedError

    @property
    def n_tokens(self) -> int:
        """Tokens of one object."""
        return sum(group.n_tokens for group in self.groups)

    @property
    def vocab_size(self) -> int:
        """Largest vocabulary of its groups."""
        return max(group.vocab_size for group in self.groups)

    def encode(self, measurement: Measurement) -> Int[Tensor, "object token"]:
        """Return the ids of objects that all have this measurement.

        Raises
        ------
        TypeError, ValueError
            If the measurement is of another kind or does not fit.
        ValueError
            If an object has no such measurement: an id would be made up. `encode_masked` tells
            which tokens exist.

        Warns
        -----
        UserWarning
            If more than 5 % of the objects lie outside the range of training, see `warn_outside`.
        """
        ids, mask, outside = self.encode_counted(measurement)
        warn_outside(self.modality, outside, len(ids))
        absent = ~mask.any(1)
        if absent.any():
            raise ValueError(
                f"{int(absent.sum())} of {len(ids)} objects have no {self.modality}; the first is "
                f"object {int(absent.nonzero()[0])}. Leave them out (measurement[measurement."
                "present]), or use encode_masked, which also says which tokens exist"
            )
        return ids

    def encode_counted(self, measurement: Measurement) -> tuple[Tensor, Tensor, int]:
        """Return what `encode_masked` and `count_outside` do; in one pass where that is faster."""
        return *self.encode_masked(measurement), self.count_outside(measurement)

    def expect(self, measurement: object, kind: type[Kind]) -> Kind:
        """Return a measurement if it is of a kind; else raise `TypeError`."""
        if not isinstance(measurement, kind):
            raise TypeError(
                f"modality {self.modality!r} is {_IN_WORDS[kind]}; found a "
                f"{type(measurement).__name__}"
            )
        return measurement

    def check_ids(self, ids: Tensor, mask: Tensor | None = None) -> Bool[Tensor, "object token"]:
        """Check ids that are to be decoded; return which exist, by `existing` without a mask.

        Raises
        ------
        ValueError
            If they are no integers, of another shape, or one that exists is not in the vocabulary.
        """
        shaped = isinstance(ids, Tensor) and ids.ndim == 2 and ids.shape[1] == self.n_tokens
        there = self.existing(ids) if shaped and mask is None else mask
        if not shaped or ids.is_floating_point() or there is None or there.shape != ids.shape:
            found = f"{ids.dtype} {tuple(ids.shape)}" if isinstance(ids, Tensor) else type(ids)
            raise ValueError(
                f"token ids of {self.modality!r} must be integers in a tensor of shape (object, "
                f"{self.n_tokens}), with a mask of the same shape; found {found}, mask "
                f"{None if mask is None else tuple(mask.shape)}"
            )
        first = 0
        for group in self.groups:
            last = first + group.n_tokens
            part, exist = ids[:, first:last], there[:, first:last]
            if bool((((part < 0) | (part >= group.vocab_size)) & exist).any()):
                part = part[exist]
                where = "" if len(self.groups) == 1 else f", tokens {first} … {last - 1},"
                raise ValueError(
                    f"token ids of {self.modality!r}{where} lie in 0 … {group.vocab_size - 1}; "
                    f"found {int(part.min())} … {int(part.max())}, which mean nothing. Were they "
                    "made by another codec?"
                )
            first = last
        return there

    @abstractmethod
    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        """Return ids and mask (True = token exists), both of shape (object, token)."""

    @abstractmethod
    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Measurement:
        """Return what the ids stand for; objects without all their tokens come back absent.

        Parameters
        ----------
        ids : LongTensor, shape (object, token)
            Token ids.
        mask : BoolTensor, shape (object, token), optional
            True where the token exists; by default as `existing` says.

        Raises
        ------
        ValueError
            If an id that exists is not in the vocabulary.
        """

    def existing(self, ids: Tensor) -> Tensor:
        """Return which tokens there are, shape (object, token), as far as the ids themselves say.

        All, but for codecs whose first tokens say how many follow, or whose survey does not reach
        all that the tokens can describe.
        """
        return torch.ones_like(ids, dtype=torch.bool)

    @abstractmethod
    def values(self) -> Tensor | None:
        """Return what each ordinal id means, shape (ordinal token, id), or None without any.

        Where vocabularies differ, `id` counts to the largest; ends of shorter rows mean nothing.
        """

    @abstractmethod
    def count_outside(self, measurement: Measurement) -> int:
        """Return how many present objects lie outside the range seen in training."""

    def save(
        self,
        folder: str | os.PathLike,
        *,
        overwrite: bool = False,
        extra: Callable[[Path], object] | None = None,
    ) -> Path:
        """Write ``config.json`` and ``model.safetensors``; see `omnisky.storage.write_folder`."""
        config, tensors = asdict(self.config), self.state_dict()
        return write_folder(folder, self.kind, config, tensors, extra=extra, overwrite=overwrite)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> Self:
        """Load a codec of this class from its folder.

        Raises
        ------
        FileNotFoundError, CheckpointError
            See `omnisky.storage.read_folder`; also if the weights do not fit the configuration.
        """
        config, tensors = read_folder(folder, cls.kind)
        try:
            # JSON has no tuples.
            known = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
            codec = cls(cls.config_class(**known))
            codec.load_state_dict(tensors)
        except (TypeError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{folder} does not fit a {cls.kind}: {error}") from error
        return codec.eval()

    @staticmethod
    def from_pretrained(
        source: str | os.PathLike,
        modality: str | None = None,
        *,
        revision: str | None = None,
        compat: str | None = None,
    ) -> Codec:
        """Load the codec of a modality from a folder or the hub; see `omnisky.codecs.loading`.

        Parameters
        ----------
        source : path or str
            Folder of a codec or of a model with codecs, ours or of AION-1; or a hub id
            ``organisation/name``, which may say its revision: ``organisation/name@revision``.
        modality : str, optional
            Which modality, for example ``"legacysurvey_image"``; needed where the source holds
            several.
        revision : str, optional
            Commit, tag or branch of a hub id.
        compat : {"aion-0.0.2"}, optional
            For AION-1 codecs: also reproduce what that release does wrong.

        Raises
        ------
        FileNotFoundError
            If there is no such folder, or no codec of that modality in it.
        CheckpointError
            If it is damaged, pickled, or of a kind unknown here.
        UnknownModalityError
            If the codec does not encode that modality.
        """
        from omnisky.codecs.loading import load_pretrained

        return load_pretrained(source, modality, revision=revision, compat=compat)


def warn_outside(modality: str, outside: int, present: int) -> None:
    """Warn if more than 5 % of the measurements given lie outside the range a codec was trained on.

    Parameters
    ----------
    modality : str
        What was encoded.
    outside, present : int
        How many objects lie outside, of how many that have the measurement.
    """
    if outside > _TELL_OUTSIDE * present:
        warnings.warn(
            f"{modality}: {outside} of {present} values lie outside the range this codec was "
            "trained on and get the outermost token; are the units right?",
            UserWarning,
            stacklevel=3,
        )


class LearnedCodec(Codec):
    """A codec with a network that is trained to reconstruct."""

    @property
    @abstractmethod
    def n_codes(self) -> int:
        """Size of the vocabulary whose usage training watches."""

    @property
    def trained_modalities(self) -> tuple[str, ...]:
        """Modalities that training needs objects of; others are encoded without."""
        return self.modalities

    def fit(self, samples: Mapping[str, Measurement]) -> None:
        """Fit what has a closed form (bins, scales) to training samples, by modality name."""
        return

    def augment(self, measurement: Measurement, generator: torch.Generator) -> Measurement:
        """Return training objects as they might as well have been seen, such as mirrored images.

        Parameters
        ----------
        measurement : Measurement
            Objects, which must not be changed.
        generator : torch.Generator
            Source of all randomness, on the CPU.
        """
        return measurement

    @abstractmethod
    def prepare(self, measurement: Measurement) -> dict[str, Tensor]:
        """Return the tensors, one row an object, that `loss` needs of measurements."""

    @abstractmethod
    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean training loss of a batch, and what to log.

        Returns
        -------
        loss : Tensor, shape ()
            To be minimised.
        metrics : dict of str to Tensor
            Numbers to log, and under ``"codes"`` the ids chosen, of any shape.
        """

    @abstractmethod
    def report(self, measurement: Measurement) -> dict[str, float]:
        """Return reconstruction figures through the token ids; needs objects never trained on."""
