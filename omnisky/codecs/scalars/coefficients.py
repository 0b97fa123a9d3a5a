"""Coefficients of an expansion as ordinal tokens, one each: for Gaia XP spectra without resampling.

Stars of one kind have the same ratios of coefficients, however bright. So each part of the vector
(the BP arm, the RP arm) is divided by its first coefficient, which follows the flux, before it is
binned: the first coefficient is a token of its own on a logarithmic scale, and faint and bright
stars share the codes of the others. The first ratio, which is near one, refines that token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from omnisky.codecs.codec import Codec, TokenGroup
from omnisky.codecs.quantisers.quantile import QuantileBins
from omnisky.codecs.scalars.scales import Scale, Table, fit_table
from omnisky.modalities import Coefficients, Measurement

__all__ = ["CoefficientsCodec", "CoefficientsCodecConfig"]

# Share of an object's coefficients that may be beyond the range of training.
_TOLERATED = 0.05


@dataclass(frozen=True, kw_only=True)
class CoefficientsCodecConfig:
    """Configure a codec of coefficients.

    Parameters
    ----------
    modality : str
        Name of the modality.
    n_coefficients : int
        Coefficients of an object.
    parts : int
        Parts of equal length that are divided by their own first coefficient, each of which gets a
        token more; 0 bins the coefficients as they are, as AION-1 does.
    bins : int
        Bins of each token, the vocabulary.
    scale : {"error", "quantile"}
        Where the bins lie; see `omnisky.codecs.scalars.scales.Scale`.
    compat : str
        ``"aion-0.0.2"`` for a codec that does as that release does, right or wrong.

    Raises
    ------
    ValueError
        If the parts are not of equal length, or the scale is another one.
    """

    modality: str
    n_coefficients: int = 110
    parts: int = 2
    bins: int = 1024
    scale: str = "error"
    compat: str = ""

    def __post_init__(self) -> None:
        if self.scale not in ("error", "quantile"):
            raise ValueError(f"scale must be 'error' or 'quantile'; found {self.scale!r}")
        if self.parts < 0 or self.n_coefficients < 1 or self.n_coefficients % max(1, self.parts):
            raise ValueError(
                f"{self.n_coefficients} coefficients have no {self.parts} parts of equal length"
            )


class CoefficientsCodec(Codec):
    """Encode each coefficient as a bin of its own, relative to the first of its part.

    Tokens are, part by part, that of the first coefficient (the norm) and one for each coefficient
    over the norm as decoded. Absent coefficients have no token; where the first one of a part is
    absent, the part has none. Bins decode to their conditional mean. A first coefficient that is
    not positive, as noise makes them of very faint stars, counts as the smallest norm.
    """

    kind: ClassVar[str] = "coefficients-codec"
    config_class: ClassVar[type] = CoefficientsCodecConfig

    def __init__(self, config: CoefficientsCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.bins = QuantileBins(config.n_coefficients, config.bins)
        if config.parts:
            self.norms = QuantileBins(config.parts, config.bins)

    @classmethod
    def fit(cls, measurement: Coefficients, *, modality: str, **settings: Any) -> CoefficientsCodec:
        """Fit a codec to training objects.

        Parameters
        ----------
        measurement : Coefficients
            Training objects; their errors matter to the scale "error".
        modality : str
            Name of the modality.
        **settings
            Fields of `CoefficientsCodecConfig`; the number of coefficients is that given.

        Raises
        ------
        ValueError
            If some coefficient is present in fewer objects than there are bins.
        """
        settings.setdefault("parts", 2 if measurement.value.shape[1] == 110 else 1)
        size = measurement.value.shape[1]
        codec = cls(CoefficientsCodecConfig(modality=modality, n_coefficients=size, **settings))
        value, ivar = measurement.value.astype(np.float64), measurement.ivar
        mask, bins = measurement.mask, codec.config.bins
        if codec.config.parts:
            first, there = value[:, :: codec.width], mask[:, :: codec.width]
            # A plain logarithm: its errors are not given.
            scale = Scale(kind="log", bins=bins)
            nothing = np.zeros_like(first)
            _set(codec.norms, first, nothing, there & (first > 0), scale)
        ratio, norm, good = codec._relative(measurement)
        _set(codec.bins, ratio.numpy(), ivar * norm.numpy() ** 2, good.numpy(), codec._scale)
        return codec.eval()

    @property
    def _scale(self) -> Scale:
        return Scale(kind=self.config.scale, bins=self.config.bins)

    @property
    def width(self) -> int:
        """Coefficients of a part."""
        return self.config.n_coefficients // max(1, self.config.parts)

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        count = self.config.n_coefficients + self.config.parts
        return (TokenGroup(kind="ordinal", n_tokens=count, vocab_size=self.config.bins),)

    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        given = self._checked(measurement)
        ratio, _, good = self._relative(given)
        ids = self.bins.encode(ratio)
        if self.config.compat:
            # Released behaviour: what is missing gets the last token.
            return torch.where(good, ids, self.config.bins - 1), torch.ones_like(good)
        if self.config.parts:
            first, there = self._first(given)
            ids = self._with_norms(self.norms.encode(first), ids)
            good = self._with_norms(there, good)
        return torch.where(good, ids, 0), good

    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Coefficients:
        self.check_ids(ids, mask)
        good = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        ids = torch.where(good, ids, 0)
        norm = torch.ones(())
        if self.config.parts:
            (norm_ids, ids), (norm_good, good) = self._without_norms(ids), self._without_norms(good)
            norm = self.norms.decode(norm_ids).repeat_interleave(self.width, dim=1)
            good = good & norm_good.repeat_interleave(self.width, dim=1)
        value = (self.bins.decode(ids) * norm).float()
        return Coefficients(value.numpy(), mask=good.numpy())

    def values(self) -> Tensor:
        """Return what each id means, shape (token, id): of norms the norm, of others the ratio."""
        if not self.config.parts:
            return self.bins.means
        parts = self.bins.means.split(self.width)
        norms = self.norms.means.split(1)
        pairs = zip(norms, parts, strict=True)
        return torch.cat([rows for pair in pairs for rows in pair])

    def count_outside(self, measurement: Measurement) -> int:
        """Return how many objects are beyond the range seen in training.

        Of so many coefficients one may well be the largest yet: an object counts if a norm is
        beyond, or more than one in twenty of its coefficients.
        """
        given = self._checked(measurement)
        ratio, _, good = self._relative(given)
        beyond = (self.bins.outside(ratio) & good).sum(1) > _TOLERATED * good.sum(1)
        if self.config.parts:
            first, there = self._first(given)
            beyond |= (self.norms.outside(first) & there).any(1)
        return int(beyond.sum())

    def _checked(self, measurement: Measurement) -> Coefficients:
        if not isinstance(measurement, Coefficients):
            raise TypeError(
                f"modality {self.modality!r} is coefficients; found a {type(measurement).__name__}"
            )
        if measurement.value.shape[1] != self.config.n_coefficients:
            raise ValueError(
                f"{self.modality} has {self.config.n_coefficients} coefficients; found "
                f"{measurement.value.shape[1]}. See omnisky.surveys.gaia.arms for those of BP or RP"
            )
        return measurement

    def _first(self, measurement: Coefficients) -> tuple[Tensor, Tensor]:
        """Return the first coefficient of each part and whether it is there."""
        first = measurement.value[:, :: self.width].astype(np.float64)
        there = np.ascontiguousarray(measurement.mask[:, :: self.width])
        return torch.from_numpy(first), torch.from_numpy(there)

    def _relative(self, measurement: Coefficients) -> tuple[Tensor, Tensor, Tensor]:
        """Return coefficients over the decoded norm, the norm, and which are good."""
        value = torch.from_numpy(measurement.value.astype(np.float64))
        good = torch.from_numpy(np.ascontiguousarray(measurement.mask))
        if not self.config.parts:
            return value, torch.ones(()), good
        first, there = self._first(measurement)
        norm = self.norms.decode(self.norms.encode(first)).repeat_interleave(self.width, dim=1)
        return value / norm, norm, good & there.repeat_interleave(self.width, dim=1)

    def _with_norms(self, norms: Tensor, others: Tensor) -> Tensor:
        parts = others.reshape(len(others), self.config.parts, self.width)
        return torch.cat([norms[..., None], parts], dim=2).flatten(1)

    def _without_norms(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        parts = tokens.reshape(len(tokens), self.config.parts, self.width + 1)
        return parts[..., 0], parts[..., 1:].flatten(1)


def _set(
    bins: QuantileBins, value: np.ndarray, ivar: np.ndarray, mask: np.ndarray, scale: Scale
) -> None:
    """Fit the bins of each column to its good values."""
    tables: list[Table] = []
    for column, weight, good in zip(
        value.T, np.broadcast_to(ivar, value.shape).T, mask.T, strict=True
    ):
        part = column[good], weight[good]
        tables.append(fit_table(lambda part=part: [part], scale))
    bins.set(
        *(np.stack([getattr(t, name) for t in tables]) for name in ("edges", "means", "limits"))
    )
