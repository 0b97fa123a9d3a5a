"""The contract every codec keeps, and loading one by its folder."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from omnisky.modalities import Measurement
from omnisky.storage import CheckpointError, read_folder, write_folder

__all__ = ["Codec", "TokenGroup", "load_codec"]


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

    Subclasses set ``kind`` and ``config_class``, take the configuration as their only argument and
    keep everything learned in their state dict. They never change their input.
    """

    kind: ClassVar[str]
    config_class: ClassVar[type]
    config: Any

    @property
    def modality(self) -> str:
        """Name of the modality it encodes."""
        return self.config.modality

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

    @abstractmethod
    def encode(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        """Return ids and mask (True = token exists), both of shape (object, token)."""

    @abstractmethod
    def decode(self, ids: Tensor, present: Tensor | None = None) -> Measurement:
        """Return what the ids, shape (object, token), stand for; absent where not present."""

    @abstractmethod
    def values(self) -> Tensor | None:
        """Return what each ordinal id means, shape (ordinal token, id), or None without any."""

    @abstractmethod
    def count_outside(self, measurement: Measurement) -> int:
        """Return how many present objects lie outside the range seen in training."""

    def save(self, folder: str | os.PathLike, *, overwrite: bool = False) -> Path:
        """Write ``config.json`` and ``model.safetensors``; see `omnisky.storage.write_folder`."""
        tensors = self.state_dict()
        return write_folder(folder, self.kind, asdict(self.config), tensors, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike) -> Codec:
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


def load_codec(folder: str | os.PathLike) -> Codec:
    """Load any codec from its folder; the kind is read from its configuration."""
    import json

    from omnisky.codecs.scalar import ScalarCodec
    from omnisky.codecs.spectrum import SpectrumCodec

    kinds: dict[str, type[Codec]] = {c.kind: c for c in (ScalarCodec, SpectrumCodec)}
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected a codec folder")
    try:
        kind = json.loads(path.read_text()).get("kind")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a JSON object: {error}") from error
    if kind not in kinds:
        raise CheckpointError(f"{folder} holds a {kind!r}; known codecs are {', '.join(kinds)}")
    return kinds[kind].from_pretrained(folder)
