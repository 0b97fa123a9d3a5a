"""Scalars as one token each: bins on a scale that suits, decoded to their conditional mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from omnisky.codecs.codec import Codec, TokenGroup
from omnisky.codecs.quantisers.quantile import QuantileBins
from omnisky.codecs.scalars.scales import Scale, Table, fit_table, grid_table
from omnisky.codecs.scalars.streaming import Chunks, store_chunks
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
        Number of bins, the vocabulary.
    tokens : {1, 2}
        With two, the second token says in which of as many equal parts of its bin a value lies: for
        photometry, whose errors are smaller than a thousandth of its range.
    scale : {"quantile", "error", "log", "linear", "circular"}
        Where the bins lie; see `omnisky.codecs.scalars.scales.Scale`, also for the next four.
    low, high : float
        Ends of a linear grid.
    softening : float
        Where a log scale turns linear, as fitted.
    period : float
        Length of the circle of a circular scale.
    modalities : tuple of str
        Where one codec is of several surveys: all of their modalities, `modality` first.
    compat : str
        ``"aion-0.0.2"`` for a codec that does as that release does, right or wrong.
    """

    modality: str
    bins: int = 1024
    scale: str = "quantile"
    low: float = 0.0
    high: float = 0.0
    softening: float = 0.0
    period: float = 360.0
    modalities: tuple[str, ...] = ()
    compat: str = ""
    tokens: int = 1

    def __post_init__(self) -> None:
        self.where()
        if self.tokens not in (1, 2) or (self.tokens == 2 and self.compat):
            raise ValueError(f"a scalar has one token or two, with compat one; found {self.tokens}")
        if self.modalities and self.modalities[0] != self.modality:
            raise ValueError(
                f"modalities must begin with {self.modality!r}; found {self.modalities}"
            )

    def where(self) -> Scale:
        """Return where the bins lie."""
        return Scale(
            kind=self.scale,
            bins=self.bins,
            low=self.low,
            high=self.high,
            softening=self.softening,
            period=self.period,
        )


class ScalarCodec(Codec):
    """Encode one number as the index of its bin.

    Bins are fitted on training objects; decoding gives the mean of the training values in the bin,
    which has no half-bin bias. Absent values (mask False) get no token. Values beyond the training
    range fall into the outermost bin and are counted by `count_outside`. On a circle nothing is
    outside: values are taken modulo the period, and what is decoded lies from 0 to it.
    """

    kind: ClassVar[str] = "scalar-codec"
    config_class: ClassVar[type] = ScalarCodecConfig

    def __init__(self, config: ScalarCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.bins = QuantileBins(1, config.bins)

    @classmethod
    def fit(cls, measurement: Scalar, *, modality: str, **settings: Any) -> ScalarCodec:
        """Fit a codec to the present training values.

        Parameters
        ----------
        measurement : Scalar
            Training values; their errors matter to the scales "log" and "error".
        modality : str
            Name of the modality.
        **settings
            Fields of `ScalarCodecConfig`: bins, scale and what the scale needs.

        Raises
        ------
        ValueError
            If fewer values than bins are present, or the scale does not suit them.
        """
        part = measurement.value[measurement.mask], measurement.ivar[measurement.mask]
        return cls._fitted(lambda: [part], ScalarCodecConfig(modality=modality, **settings))

    @classmethod
    def fit_store(
        cls, store: Any, modality: str, *, where: Callable | None = None, **settings: Any
    ) -> ScalarCodec:
        """Fit a codec to a sky store of any size, a partition in memory at a time.

        The bins are exactly those that all values at once would give.

        Parameters
        ----------
        store : Store
            What `omnisky.open` returns.
        modality : str
            Name of a scalar in it.
        where : callable, optional
            Takes identifiers, shape (object,), and returns one bool each: the training objects.
        **settings
            As for `fit`.

        Raises
        ------
        ValueError
            If the store has no such scalar, or as `fit`.
        """
        chunks = store_chunks(store, modality, where)
        return cls._fitted(chunks, ScalarCodecConfig(modality=modality, **settings))

    @classmethod
    def grid(cls, modality: str, low: float, high: float, bins: int = 1024) -> ScalarCodec:
        """Make a linear grid from low to high without data: codes decode to themselves."""
        config = ScalarCodecConfig(modality=modality, bins=bins, scale="linear", low=low, high=high)
        return cls.of_table(config, grid_table(config.where()))

    @classmethod
    def _fitted(cls, chunks: Chunks, config: ScalarCodecConfig) -> ScalarCodec:
        table = fit_table(chunks, config.where())
        return cls.of_table(replace(config, softening=table.softening), table)

    @classmethod
    def of_table(cls, config: ScalarCodecConfig, table: Table) -> ScalarCodec:
        """Make a codec of bins fitted elsewhere."""
        codec = cls(config)
        codec.bins.set(table.edges[None], table.means[None], table.limits[None])
        return codec.eval()

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.config.modalities or (self.config.modality,)

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        n_tokens, bins = self.config.tokens, self.config.bins
        return (TokenGroup(kind="ordinal", n_tokens=n_tokens, vocab_size=bins),)

    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        value, mask = _values_of(measurement, self.modality)
        if self.config.scale == "circular":
            origin = self.bins.limits[0, 0]
            value = origin + torch.remainder(value - origin, self.config.period)
        ids = self.bins.encode(value)
        if self.config.compat:
            # Released behaviour: what is missing gets the last token.
            return torch.where(mask, ids, self.config.bins - 1), torch.ones_like(mask)
        if self.config.tokens == 2:
            low, width = self._bounds(ids)
            part = (value - low) / torch.where(width > 0, width, 1.0) * self.config.bins
            fine = part.long().clamp(0, self.config.bins - 1)
            ids, mask = torch.cat([ids, fine], dim=1), mask.repeat(1, 2)
        return torch.where(mask, ids, 0), mask

    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Scalar:
        self.check_ids(ids, mask)
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        ids = torch.where(mask, ids, 0)
        value = self.bins.decode(ids[:, :1])
        if self.config.tokens == 2:
            low, width = self._bounds(ids[:, :1])
            fine = low + (ids[:, 1:] + 0.5) / self.config.bins * width
            # Without its second token a value is only known to be in the bin.
            value = torch.where(mask[:, 1:], fine, value)
            if self.config.scale == "circular":
                value = torch.remainder(value, self.config.period)
        return Scalar(value[:, 0].numpy(), mask=mask[:, 0].numpy())

    def _bounds(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the bins of some ids begin, and their widths, shape (object, 1)."""
        limits, edges = self.bins.limits[0], self.bins.edges[0]
        border = torch.cat([limits[:1], edges, limits[1:]])
        return border[ids], border[ids + 1] - border[ids]

    def values(self) -> Tensor:
        """Return what each id means, shape (token, id); of a second token the place in the bin.

        On a circle the numbers of the ids next to zero may lie at either end of it.
        """
        if self.config.tokens == 1:
            return self.bins.means
        place = (torch.arange(self.config.bins, dtype=torch.float64) + 0.5) / self.config.bins
        return torch.cat([self.bins.means, place[None]])

    def count_outside(self, measurement: Measurement) -> int:
        value, mask = _values_of(measurement, self.modality)
        if self.config.scale == "circular":
            return 0
        return int((self.bins.outside(value) & mask).sum())


def _values_of(measurement: Measurement, modality: str) -> tuple[Tensor, Tensor]:
    if not isinstance(measurement, Scalar):
        raise TypeError(f"modality {modality!r} is a scalar; found a {type(measurement).__name__}")
    mask = torch.from_numpy(np.ascontiguousarray(measurement.mask))[:, None]
    return torch.from_numpy(np.ascontiguousarray(measurement.value))[:, None], mask
