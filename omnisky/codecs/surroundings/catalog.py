"""The sources about an object as a sequence: how many there are, then five tokens each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from omnisky.codecs.codec import Codec, TokenGroup
from omnisky.codecs.quantisers.quantile import QuantileBins
from omnisky.modalities import Catalog, Measurement
from omnisky.modalities.surroundings import CATALOG_COLUMNS

__all__ = ["CatalogCodec", "CatalogCodecConfig"]

_SHAPES = ("e1", "e2", "r")
_PER_SOURCE = len(CATALOG_COLUMNS)
# Radii below this are those of point sources, arcsec.
_POINT = 0.01


@dataclass(frozen=True, kw_only=True)
class CatalogCodecConfig:
    """Configure a catalog codec.

    Parameters
    ----------
    modality : str
        Name of the modality.
    sources : int
        Most sources of an object.
    cells : int
        Cells that x and y are divided into, each.
    span_arcsec : float
        Side of the square that the cells cover, about the object.
    bins : int
        Bins of each of e1, e2 and r.
    count : bool
        Whether the first token says how many sources there are. Without it a model cannot tell
        where a catalogue that it generates ends.
    log_radius : bool
        Whether radii are binned by their logarithm.
    compat : str
        Release of AION-1 whose decoding is reproduced, empty for none.
    """

    modality: str
    sources: int = 20
    cells: int = 96
    span_arcsec: float = 96 * 0.262
    bins: int = 1024
    count: bool = True
    log_radius: bool = True
    compat: str = ""

    def __post_init__(self) -> None:
        if min(self.sources, self.cells) < 2 or self.bins < 4 or not self.span_arcsec > 0:
            raise ValueError(
                f"catalog codec of {self.modality!r}: needs at least 2 sources and cells, 4 bins "
                f"and a positive span; found {self}"
            )


class CatalogCodec(Codec):
    """Encode up to 20 sources: offsets as cells of a grid, shapes as quantile bins.

    Tokens are the number of sources, then x, y, e1, e2, r of one source after the other, as far as
    there are sources; places behind the last one have no tokens. Cells and bins decode to the mean
    of the training values in them, so the object itself stays at the origin. Exact zeros (round and
    point sources) have a bin of their own. What lies beyond the grid or the training range gets the
    outermost token and is counted by `count_outside`.
    """

    kind: ClassVar[str] = "catalog-codec"
    config_class: ClassVar[type] = CatalogCodecConfig
    places: Tensor

    def __init__(self, config: CatalogCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.shape_bins = QuantileBins(len(_SHAPES), config.bins)
        middle = (torch.arange(config.cells).double() + 0.5 - config.cells / 2) * self._cell
        # What the cells of x and of y decode to.
        self.register_buffer("places", middle.repeat(2, 1))

    @classmethod
    def fit(cls, measurement: Catalog, *, modality: str, **settings: Any) -> CatalogCodec:
        """Return a codec that is fitted to the sources of training objects: bins, and all means.

        Parameters
        ----------
        measurement : Catalog
            Training objects.
        modality : str
            Name of the modality.
        **settings
            Others of `CatalogCodecConfig`, such as ``bins``.

        Raises
        ------
        ValueError
            If there are fewer extended sources than bins.
        """
        codec = cls(CatalogCodecConfig(modality=modality, **settings))
        columns = codec._shapes(measurement)[torch.from_numpy(measurement.mask)].numpy()
        atoms = (0.0, 0.0, float(codec._radius_scale(torch.zeros(1))))
        bins = codec.shape_bins
        for i, (values, atom) in enumerate(zip(columns.T, atoms, strict=True)):
            edges, means = _table(values, atom, codec.config.bins)
            bins.edges[i], bins.means[i] = torch.from_numpy(edges), torch.from_numpy(means)
            bins.limits[i] = torch.tensor([values.min(), values.max()]).double()
        for places, offset in zip(codec.places, (measurement.x, measurement.y), strict=True):
            cells = codec._cells(offset).clamp(0, codec.config.cells - 1).numpy()
            cells, offset = cells[measurement.mask], offset[measurement.mask]
            count = np.bincount(cells, minlength=len(places))
            total = np.bincount(cells, weights=offset, minlength=len(places))
            filled = count > 0
            places[torch.from_numpy(filled)] = torch.from_numpy(total[filled] / count[filled])
        return codec.eval()

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        config = self.config
        parts = [(2, config.cells), (3, config.bins)] * config.sources
        if config.cells == config.bins:
            parts = [(_PER_SOURCE * config.sources, config.bins)]
        if config.count:
            parts = [(1, config.sources), *parts]
        return tuple(TokenGroup(kind="ordinal", n_tokens=n, vocab_size=v) for n, v in parts)

    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        catalog = self._checked(measurement)
        cells = torch.stack([self._cells(catalog.x), self._cells(catalog.y)], dim=-1)
        shapes = self._shapes(catalog).flatten(0, 1)
        bins = self.shape_bins.encode(shapes).unflatten(0, catalog.mask.shape)
        ids = torch.cat([cells.clamp(0, self.config.cells - 1), bins], dim=-1).flatten(1)
        mask = torch.from_numpy(catalog.mask.copy()).repeat_interleave(_PER_SOURCE, dim=1)
        if self.config.count:
            count = torch.from_numpy(catalog.mask.sum(1))[:, None]
            ids = torch.cat([count - 1, ids], dim=1)
            mask = torch.cat([count > 0, mask], dim=1)
        return torch.where(mask, ids, 0), mask

    def existing(self, ids: Tensor) -> Tensor:
        if not self.config.count:
            return super().existing(ids)
        place = torch.arange(_PER_SOURCE * self.config.sources, device=ids.device) // _PER_SOURCE
        return torch.cat([torch.ones_like(ids[:, :1]).bool(), place <= ids[:, :1]], dim=1)

    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Catalog:
        """Return catalogues; sources without all their tokens come back absent."""
        mask = self.check_ids(ids, mask)
        mask = mask & self.existing(ids)
        first = int(self.config.count)
        shape = (len(ids), self.config.sources, _PER_SOURCE)
        known = mask[:, first:].reshape(shape).all(-1) & mask[:, :1]
        tokens = torch.where(known[..., None], ids[:, first:].reshape(shape), 0)
        shapes = self.shape_bins.decode(tokens[..., 2:].flatten(0, 1)).unflatten(0, shape[:2])
        offsets = [self.places[i][tokens[..., i]] for i in range(2)]
        columns = [*offsets, *shapes.unbind(-1)]
        columns[4] = self._radius(columns[4])
        return Catalog(*(c.numpy() for c in columns), mask=known.numpy())

    def values(self) -> Tensor | None:
        """Return what each id means: a number of sources, arcsec or ellipticities.

        Rows of smaller vocabularies end in copies of their last value.
        """
        e1, e2, r = self.shape_bins.means
        rows = [*self.places, e1, e2, self._radius(r)] * self.config.sources
        if self.config.count:
            rows = [torch.arange(1, self.config.sources + 1).double(), *rows]
        longest = max(len(row) for row in rows)
        return torch.stack([torch.cat([r, r[-1:].expand(longest - len(r))]) for r in rows])

    def count_outside(self, measurement: Measurement) -> int:
        catalog = self._checked(measurement)
        place = torch.stack([self._cells(catalog.x), self._cells(catalog.y)])
        wrong = ((place < 0) | (place >= self.config.cells)).any(0)
        shapes = self._shapes(catalog)
        beyond = self.shape_bins.outside(shapes.flatten(0, 1)).any(-1).unflatten(0, wrong.shape)
        return int(((wrong | beyond) & torch.from_numpy(catalog.mask)).any(1).sum())

    def _checked(self, measurement: Measurement) -> Catalog:
        """Return the catalogue with as many places as there are tokens for."""
        measurement = self.expect(measurement, Catalog)
        known = measurement.mask
        if (known[:, 1:] & ~known[:, :-1]).any():
            row = int(np.argmax((known[:, 1:] & ~known[:, :-1]).any(1)))
            raise ValueError(
                f"modality {self.modality!r}: the sources of an object stand in front, empty "
                f"places behind them; object {row} has a gap. Move its sources to the front"
            )
        most = self.config.sources
        if known[:, most:].any():
            row = int(np.argmax(known[:, most:].any(1)))
            raise ValueError(
                f"modality {self.modality!r}: this codec has tokens for {most} sources; object "
                f"{row} has {int(known[row].sum())}. Keep the nearest {most}"
            )
        wide = ((0, 0), (0, max(0, most - known.shape[1])))
        columns = (getattr(measurement, name)[:, :most] for name in (*CATALOG_COLUMNS, "mask"))
        return Catalog(*(np.pad(column, wide) for column in columns))

    @property
    def _cell(self) -> float:
        """Side of a cell, arcsec."""
        return self.config.span_arcsec / self.config.cells

    def _cells(self, offset: np.ndarray) -> Int[Tensor, "object source"]:
        """Return the cells of offsets, unlimited."""
        scaled = torch.from_numpy(offset).double() / self._cell
        return (scaled + self.config.cells / 2).floor().long()

    def _shapes(self, catalog: Catalog) -> Float[Tensor, "object source 3"]:
        """Return e1, e2 and the radius as it is binned."""
        columns = [torch.from_numpy(getattr(catalog, name)).double() for name in _SHAPES]
        return torch.stack([*columns[:2], self._radius_scale(columns[2])], dim=-1)

    def _radius_scale(self, radius: Tensor) -> Tensor:
        return radius.clamp(min=_POINT).log() if self.config.log_radius else radius

    def _radius(self, scaled: Tensor) -> Tensor:
        if not self.config.log_radius:
            return scaled
        # A little room: the bin of point sources decodes to its mean, near the logarithm.
        return torch.where(scaled < np.log(_POINT) + 1e-3, 0.0, scaled.exp())


def _table(values: np.ndarray, atom: float, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Return edges and conditional means of quantile bins, one of which holds the atom alone.

    A third of all sources are points, with exact zeros: quantiles of all values would spend a third
    of the bins on one number.
    """
    step = 1e-6
    rest = values[np.abs(values - atom) > step]
    if len(rest) < bins or not np.isfinite(values).all():
        raise ValueError(
            f"fitting {bins} bins needs at least as many finite values other than {atom:.3g}; "
            f"found {len(rest)}. Use fewer bins or more objects"
        )
    inner = np.quantile(rest, np.arange(1, bins - 2) / (bins - 2))
    edges = np.sort(np.concatenate([inner, [atom - step, atom + step]]))
    index = np.searchsorted(edges, values, side="right")
    count = np.bincount(index, minlength=bins)
    total = np.bincount(index, weights=values, minlength=bins)
    border = np.concatenate([[min(values.min(), edges[0])], edges, [max(values.max(), edges[-1])]])
    middle = (border[:-1] + border[1:]) / 2
    return edges, np.where(count > 0, total / np.maximum(count, 1), middle)
