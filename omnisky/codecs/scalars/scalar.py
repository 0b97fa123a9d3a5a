"""Scalars as one token each: quantile bins that decode to their conditional mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from omnisky.codecs.codec import Codec, TokenGroup
from omnisky.codecs.quantisers.quantile import QuantileBins
from omnisky.modalities import Measurement, Scalar

__all__ = ["ScalarCodec", "ScalarCodecConfig"]


@dataclass(frozen=True, kw_only=True)
class ScalarCodecConfig:
    """Configure a scalar codec.

    Parameters
    ----------
    modality : str
        Name of the modality.
    bins : int
        Number of quantile bins, the vocabulary.
    """

    modality: str
    bins: int = 1024


class ScalarCodec(Codec):
    """Encode one number as the index of its quantile bin.

    Bins are fitted on training objects; decoding gives the mean of the training values in the bin,
    which has no half-bin bias. Absent values (mask False) get no token. Values beyond the training
    range fall into the outermost bin and are counted by `count_outside`.
    """

    kind: ClassVar[str] = "scalar-codec"
    config_class: ClassVar[type] = ScalarCodecConfig

    def __init__(self, config: ScalarCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.bins = QuantileBins(1, config.bins)

    @classmethod
    def fit(cls, measurement: Scalar, *, modality: str, bins: int = 1024) -> ScalarCodec:
        """Fit a codec to the present training values.

        Raises
        ------
        ValueError
            If fewer values than bins are present.
        """
        codec = cls(ScalarCodecConfig(modality=modality, bins=bins))
        codec.bins.fit(measurement.value[measurement.mask][:, None])
        return codec.eval()

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        return (TokenGroup(kind="ordinal", n_tokens=1, vocab_size=self.config.bins),)

    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        value, mask = _values_of(measurement, self.modality)
        return torch.where(mask, self.bins.encode(value), 0), mask

    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Scalar:
        if ids.min() < 0 or ids.max() >= self.config.bins:
            raise ValueError(
                f"token ids of {self.modality!r} lie in 0 … {self.config.bins - 1}; found "
                f"{int(ids.min())} … {int(ids.max())}"
            )
        good = None if mask is None else mask[:, 0].numpy()
        return Scalar(self.bins.decode(ids)[:, 0].numpy(), mask=good)

    def values(self) -> Tensor:
        return self.bins.means

    def count_outside(self, measurement: Measurement) -> int:
        value, mask = _values_of(measurement, self.modality)
        return int((self.bins.outside(value) & mask).sum())


def _values_of(measurement: Measurement, modality: str) -> tuple[Tensor, Tensor]:
    if not isinstance(measurement, Scalar):
        raise TypeError(f"modality {modality!r} is a scalar; found a {type(measurement).__name__}")
    mask = torch.from_numpy(np.ascontiguousarray(measurement.mask))[:, None]
    return torch.from_numpy(np.ascontiguousarray(measurement.value))[:, None], mask
