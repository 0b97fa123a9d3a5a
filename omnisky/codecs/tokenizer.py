"""A set of codecs, one a modality: typed observations in, tokens out, and back."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch

from omnisky.codecs.codec import Codec, warn_outside
from omnisky.codecs.loading import load_codec
from omnisky.codecs.scalars.bank import ScalarBank
from omnisky.codecs.tokens import Tokens
from omnisky.modalities import Measurement, Observations, UnknownModalityError, refuse_other
from omnisky.storage import CheckpointError

__all__ = ["Tokenizer"]


class Tokenizer:
    """Encode and decode observations with one codec a modality.

    Parameters
    ----------
    codecs : mapping of str to Codec
        Codecs by modality name. One codec may be given for several of its modalities; its weights
        are then held once.

    Raises
    ------
    ValueError
        If it is empty or a codec belongs to another modality than its name says.
    """

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        if not codecs:
            raise ValueError("a tokenizer needs at least one codec; found none")
        for name, codec in codecs.items():
            if name not in codec.modalities:
                raise ValueError(
                    f"codec of {', '.join(codec.modalities)} was given the name {name!r}"
                )
        self.codecs = {name: codec.of(name) for name, codec in codecs.items()}
        self._bank = ScalarBank(self.codecs)

    def __repr__(self) -> str:
        return f"Tokenizer({', '.join(self.codecs)})"

    def limited_to(self, names: Collection[str]) -> Tokenizer:
        """Return it without what shared codecs can encode besides these modalities."""
        return Tokenizer(
            {
                name: codec
                for name, codec in self.codecs.items()
                if name in names or not any(one in names for one in codec.modalities)
            }
        )

    def encode(self, observations: Observations) -> Tokens:
        """Return the tokens of all modalities given; never changes its input.

        Warns
        -----
        UserWarning
            If more than 5 % of the present values of a modality lie outside the range its codec was
            trained on; they get the outermost token.

        Raises
        ------
        UnknownModalityError
            If a modality has no codec here.
        ValueError
            If there are no objects, or a measurement does not fit its codec.
        TypeError
            If they are no Observations.
        """
        if not isinstance(observations, Observations):
            refuse_other(observations, "a tokenizer")
        all_scalars = self._bank.names.issuperset(observations)
        unknown = [] if all_scalars else [name for name in observations if name not in self.codecs]
        if unknown:
            raise UnknownModalityError(
                f"no codec for {', '.join(unknown)}; this tokenizer knows "
                f"{', '.join(self.codecs)}. "
                "Leave them out with observations.drop(...), or train a codec for them"
            )
        if len(observations) == 0:
            raise ValueError("the observations hold no objects; give at least one")
        together = {n: m for n, m in observations.items() if n in self._bank.names}
        ids, masks, outside = self._bank.encode(together) if together else ({}, {}, {})
        others, their_masks = {}, {}
        for name in () if all_scalars else observations:
            if name not in together:
                found = self.codecs[name].encode_counted(observations[name])
                others[name], their_masks[name], outside[name] = found
        for name, count in outside.items():
            warn_outside(name, count, int(observations[name].present.sum()))
        if not others:
            return Tokens.unchecked(ids, masks, len(observations))
        made = Tokens(others, their_masks)
        ids = {n: ids[n] if n in together else made[n] for n in observations}
        masks = {n: masks[n] if n in together else made.mask[n] for n in observations}
        return Tokens.unchecked(ids, masks, len(observations))

    def decode(self, tokens: Tokens) -> Observations:
        """Return what the tokens stand for; objects without tokens come back absent."""
        together, measured = {}, {}
        for name, ids in tokens.items():
            if name in self._bank.names:
                together[name] = ids
            elif name in self.codecs:
                # Tables are on the CPU, and networks fetch what they need.
                given = ids.cpu(), tokens.mask[name].cpu()
                # Only networks need to be told; to tell takes as long as many scalars.
                with torch.no_grad():
                    measured[name] = self.codecs[name].decode(*given)
            else:
                raise UnknownModalityError(
                    f"no codec for {name!r}; this tokenizer knows {', '.join(self.codecs)}"
                )
        if not together:
            return Observations(measured)
        found: dict[str, Measurement] = {**self._bank.decode(together, tokens.mask)}
        if not measured:
            return Observations(found)
        return Observations({n: found[n] if n in found else measured[n] for n in tokens})

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> Tokenizer:
        """Load all codecs of a folder of codec folders.

        A folder has the name of its modality; one codec of several modalities may have any name,
        and serves those that have no codec of their own.

        Raises
        ------
        FileNotFoundError
            If there is no such folder or no codec in it.
        CheckpointError
            If a codec is damaged, its folder has another name than its modality, or two shared ones
            encode the same modality.
        """
        found = sorted(path.parent for path in Path(folder).glob("*/config.json"))
        if not found:
            raise FileNotFoundError(
                f"{folder} holds no codecs; expected one folder a modality, as omnisky train-codec "
                "writes them"
            )
        shared: dict[str, Codec] = {}
        own: dict[str, Codec] = {}
        for path in found:
            codec = load_codec(path)
            if len(codec.modalities) == 1:
                if codec.modality != path.name:
                    raise CheckpointError(f"{path} holds the codec of {codec.modality!r}")
                own[codec.modality] = codec
                continue
            if twice := shared.keys() & set(codec.modalities):
                raise CheckpointError(f"{folder} holds two codecs of {', '.join(sorted(twice))}")
            shared |= dict.fromkeys(codec.modalities, codec)
        return cls(shared | own)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write each codec into its own folder ``<folder>/<modality>/``, shared ones once."""
        written: set[tuple[str, ...]] = set()
        for name, codec in self.codecs.items():
            if codec.modalities not in written:
                codec.save(Path(folder) / (name if len(codec.modalities) == 1 else codec.kind))
            written.add(codec.modalities)
