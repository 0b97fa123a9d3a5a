"""Configuration of the any-to-any transformer: sizes, and the modalities with explicit ids."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

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
    also : tuple of str
        Other modalities whose tokens mean the same and may be given in its place.
    grid : tuple of int
        Rows and columns of its tokens, for fixed positions; one number for a sequence.
    """

    name: str
    id: int
    groups: tuple[TokenGroup, ...]
    also: tuple[str, ...] = ()
    grid: tuple[int, ...] = ()

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
    positions : {"learned", "fixed"}
        Position vectors: learned, or sines and cosines of the place in each modality's `grid`.
    compat : {"", "aion-0.0.2"}
        A release whose behaviour, right or wrong, is reproduced; see `omnisky.model.aion`.
    free_rank : int
        Numbers that the score of a code's id has of its own, beside what its digits mean, and a
        bias; bins of lists get a bias, single numbers nothing. With 0, nobody gets any, and the
        digits of a code are independent of each other in what is said of one token.
    modalities : tuple of ModalityTokens
        What it reads and writes.

    Raises
    ------
    ValueError
        If the heads do not divide the width, modality ids or names repeat, or a size cannot be.
    """

    dim: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    qk_norm: bool = True
    positions: Literal["learned", "fixed"] = "learned"
    compat: str = ""
    free_rank: int = 0
    modalities: tuple[ModalityTokens, ...] = ()

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or min(self.dim, self.encoder_depth, self.decoder_depth) < 1:
            raise ValueError(
                f"num_heads={self.num_heads} must divide dim={self.dim}, and both depths must be "
                f"at least 1; found {self.encoder_depth} and {self.decoder_depth}"
            )
        names = [name for m in self.modalities for name in (m.name, *m.also)]
        for what, values in (("id", [m.id for m in self.modalities]), ("name", names)):
            if len(set(values)) != len(values):
                raise ValueError(f"modality {what}s must be unique; found {values}")
        if not self.mlp_ratio > 0 or self.free_rank < 0:
            raise ValueError(
                f"mlp_ratio must be positive and free_rank at least 0; found {self.mlp_ratio} and "
                f"{self.free_rank}"
            )
        if self.positions not in ("learned", "fixed"):
            raise ValueError(f"positions are 'learned' or 'fixed'; found {self.positions!r}")
        if self.positions == "fixed" and (bad := [m for m in self.modalities if not _fits(m)]):
            raise ValueError(
                f"fixed positions need a grid of as many places as tokens; {bad[0].name!r} has "
                f"{bad[0].n_tokens} tokens and the grid {bad[0].grid}"
            )

    @property
    def by_name(self) -> dict[str, ModalityTokens]:
        """Its modalities under each name that they go by."""
        return {name: m for m in self.modalities for name in (m.name, *m.also)}

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
        known = self.by_name
        first = 1 + max((m.id for m in self.modalities), default=-1)
        new = [(name, codec) for name, codec in codecs.items() if name not in known]
        appended = tuple(
            ModalityTokens(name=name, id=first + i, groups=codec.groups, grid=_grid(codec.n_tokens))
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
            rest = {key: tuple(modality.get(key, ())) for key in ("also", "grid")}
            listed.append(
                ModalityTokens(name=modality["name"], id=modality["id"], groups=groups, **rest)
            )
        return cls(**{**config, "modalities": tuple(listed)})


def _grid(tokens: int) -> tuple[int, int]:
    """Return a square of that many tokens if there is one, as of an image, else a column."""
    side = math.isqrt(tokens)
    return (side, side) if side**2 == tokens else (tokens, 1)


def _fits(modality: ModalityTokens) -> bool:
    return len(modality.grid) in (1, 2) and math.prod(modality.grid) == modality.n_tokens


def _size(
    dim: int, encoder_depth: int, decoder_depth: int, num_heads: int, free_rank: int = 0
) -> dict[str, int]:
    return {
        "dim": dim,
        "encoder_depth": encoder_depth,
        "decoder_depth": decoder_depth,
        "num_heads": num_heads,
        "free_rank": free_rank,
    }


# The aion sizes are those of the released AION-1 checkpoints (head width 64), whose tables are free
# altogether. `nano` is what its weights were trained as.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": _size(32, 2, 1, 2),
    "nano": _size(96, 5, 2, 3),
    "nano-sky": _size(96, 5, 2, 3, free_rank=24),
    "small": _size(384, 8, 6, 6, free_rank=48),
    "aion-base": _size(768, 12, 12, 12),
    "aion-large": _size(1024, 24, 24, 16),
    "aion-xlarge": _size(2048, 24, 24, 32),
}
