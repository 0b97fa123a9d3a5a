"""Configuration of the any-to-any transformer: sizes, and the modalities with explicit ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from omnisky.codecs.codec import Codec, TokenGroup

__all__ = ["PRESETS", "ModalityTokens", "ModelConfig"]


@dataclass(frozen=True, kw_only=True)
class ModalityTokens:
    """State how one modality appears to the transformer.

    Parameters
    ----------
    name : str
        Name of the modality.
    id : int
        Its number in this checkpoint: explicit, append-only, never derived from names or order.
    groups : tuple of TokenGroup
        Its tokens, in order.
    """

    name: str
    id: int
    groups: tuple[TokenGroup, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of one object."""
        return sum(group.n_tokens for group in self.groups)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Configure the encoder-decoder transformer.

    Parameters
    ----------
    dim : int
        Width of the token vectors.
    encoder_depth, decoder_depth : int
        Blocks of the encoder and of the decoder.
    num_heads : int
        Attention heads; must divide `dim`.
    mlp_ratio : float
        The gated MLP has ``int(2 * mlp_ratio * dim / 3)`` hidden units.
    qk_norm : bool
        Normalise queries and keys per head.
    modalities : tuple of ModalityTokens
        What it reads and writes.

    Raises
    ------
    ValueError
        If the heads do not divide the width, or modality ids or names repeat.
    """

    dim: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    modalities: tuple[ModalityTokens, ...] = ()

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or min(self.dim, self.encoder_depth, self.decoder_depth) < 1:
            raise ValueError(
                f"num_heads={self.num_heads} must divide dim={self.dim}, and both depths must be "
                f"at least 1; found {self.encoder_depth} and {self.decoder_depth}"
            )
        for what in ("id", "name"):
            values = [getattr(m, what) for m in self.modalities]
            if len(set(values)) != len(values):
                raise ValueError(f"modality {what}s must be unique; found {values}")

    @classmethod
    def preset(cls, name: str, modalities: Iterable[ModalityTokens] = ()) -> ModelConfig:
        """Return a named size for these modalities.

        Raises
        ------
        ValueError
            If the name is unknown.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; known are {', '.join(PRESETS)}")
        return cls(**PRESETS[name], modalities=tuple(modalities))

    def with_codecs(self, codecs: Mapping[str, Codec]) -> ModelConfig:
        """Return the configuration with codecs' modalities appended; ids go on counting."""
        known = {m.name for m in self.modalities}
        first = 1 + max((m.id for m in self.modalities), default=-1)
        new = [(name, codec) for name, codec in codecs.items() if name not in known]
        appended = tuple(
            ModalityTokens(name=name, id=first + i, groups=codec.groups)
            for i, (name, codec) in enumerate(new)
        )
        return replace(self, modalities=self.modalities + appended)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serialisable dictionary; `from_dict` takes it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> ModelConfig:
        """Return the configuration that `to_dict` wrote, after a way through JSON."""
        listed = []
        for modality in config["modalities"]:
            groups = tuple(
                TokenGroup(**{**group, "levels": tuple(group["levels"])})
                for group in modality["groups"]
            )
            listed.append(ModalityTokens(name=modality["name"], id=modality["id"], groups=groups))
        return cls(**{**config, "modalities": tuple(listed)})


def _size(dim: int, encoder_depth: int, decoder_depth: int, num_heads: int) -> dict[str, int]:
    return {
        "dim": dim,
        "encoder_depth": encoder_depth,
        "decoder_depth": decoder_depth,
        "num_heads": num_heads,
    }


# The aion sizes are those of the released AION-1 checkpoints (head width 64).
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": _size(32, 2, 1, 2),
    "nano": _size(96, 5, 2, 3),
    "small": _size(384, 8, 6, 6),
    "aion-base": _size(768, 12, 12, 12),
    "aion-large": _size(1024, 24, 24, 16),
    "aion-xlarge": _size(2048, 24, 24, 32),
}
