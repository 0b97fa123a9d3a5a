"""AION-1's codecs of catalogues and of segmentation maps.

What the release does wrong, and what `compat` does about it:

* its catalogue ids are 204 below those of its transformer, and empty places are 9999, which no
  embedding has: ids are the transformer's here, always; `aion_ids` also gives the released ones;
* shapes decode to the upper edge of their bin: the middle here, the edge with compat;
* codecs encode differently in training mode, where the statistics of the batch at hand replace
  those learned: here the mode makes no difference, with compat neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from omnisky.codecs.codec import Codec, TokenGroup
from omnisky.codecs.surroundings.catalog import CatalogCodec, CatalogCodecConfig
from omnisky.codecs.surroundings.segmentation import SegmentationCodec, SegmentationCodecConfig
from omnisky.modalities import Catalog, Measurement

__all__ = ["AionCatalogCodec", "aion_ids", "from_aion_ids", "load"]

# Ids of the transformer before those of the codec: sentinels, start, end, padding and unknown; its
# embedding takes 0 for padding.
_SPECIALS, _PAD, _EMPTY = 204, 0, 9999
_CELLS, _BINS, _SOURCES = 96, 1024, 20
_SHAPES = ("SHAPE_E1", "SHAPE_E2", "SHAPE_R")
_OFFSETS = (0, _CELLS, 2 * _CELLS, 2 * _CELLS + _BINS, 2 * _CELLS + 2 * _BINS)
_SIZES = (_CELLS, _CELLS, _BINS, _BINS, _BINS)
_VOCABULARY = _SPECIALS + sum(_SIZES)
# How it was trained: of no effect on tokens.
_TRAINING = (
    *("reconstruction_loss", "quantisation_loss_weight", "lr", "lr_warmup"),
    *("begin_cosine_annealing", "lr_cosine_period"),
    *("ema_model_weights", "ema_decay", "ema_update_freq"),
)


class AionCatalogCodec(CatalogCodec):
    """Encode catalogues as AION-1's transformer reads them: all columns in one vocabulary.

    Of 20 sources, 96 cells and 1024 bins, without a token that counts the sources.

    Raises
    ------
    ValueError
        If the configuration has other sizes.
    """

    kind: ClassVar[str] = "aion-catalog-codec"

    def __init__(self, config: CatalogCodecConfig) -> None:
        found = (config.sources, config.cells, config.bins, config.count)
        if found != (expected := (_SOURCES, _CELLS, _BINS, False)):
            raise ValueError(
                f"catalog codec of {config.modality!r}: AION-1's vocabulary has sources, cells, "
                f"bins and count of {expected}; found {found}"
            )
        super().__init__(config)

    @property
    def groups(self) -> tuple[TokenGroup, ...]:
        n_tokens = _SOURCES * len(_SIZES)
        return (TokenGroup(kind="code", n_tokens=n_tokens, vocab_size=_VOCABULARY),)

    def encode_masked(self, measurement: Measurement) -> tuple[Tensor, Tensor]:
        ids, mask = super().encode_masked(measurement)
        return aion_ids(ids, mask), mask

    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Catalog:
        """Return catalogues; sources with an id that is of another column come back absent."""
        mask = self.check_ids(ids, mask)
        own, known = from_aion_ids(ids)
        return super().decode(own, mask & known)

    def values(self) -> None:
        """Return None: an id means a number of another column each."""


def aion_ids(ids: Tensor, mask: Tensor, *, compat: str | None = None) -> Tensor:
    """Return AION-1's ids of catalogue tokens.

    Parameters
    ----------
    ids : LongTensor, shape (object, 100)
        Ids that count from 0 in each column, as those of `CatalogCodec`.
    mask : BoolTensor, shape (object, 100)
        True where the token exists.
    compat : {"aion-0.0.2"}, optional
        Give what the released codec returns, which its transformer cannot take.

    Returns
    -------
    LongTensor, shape (object, 100)
        Ids 204 … 3467 of the transformer's vocabulary of 3468, 0 where there is no token; with
        `compat` ids 0 … 3263, and 9999 where there is none.

    Raises
    ------
    ValueError
        If shapes are others or an id is out of its range.
    """
    columns = _columns(ids, mask)
    offset, size = ids.new_tensor(_OFFSETS), ids.new_tensor(_SIZES)
    here = mask.reshape(columns.shape)
    if (here & ((columns < 0) | (columns >= size))).any():
        raise ValueError(
            f"ids of x, y, e1, e2, r count from 0 to below {_SIZES}; found others. Were they made "
            "by another codec?"
        )
    shifted, empty = (0, _EMPTY) if compat else (_SPECIALS, _PAD)
    return torch.where(here, columns + offset + shifted, empty).reshape(ids.shape)


def from_aion_ids(ids: Tensor, *, compat: str | None = None) -> tuple[Tensor, Tensor]:
    """Return ids that count from 0 in each column, and which exist; `aion_ids` the other way.

    A source is there if all five of its ids are in their ranges.
    """
    columns = _columns(ids, ids)
    offset, size = ids.new_tensor(_OFFSETS), ids.new_tensor(_SIZES)
    own = columns - offset - (0 if compat else _SPECIALS)
    known = ((own >= 0) & (own < size)).all(-1, keepdim=True).expand(own.shape)
    return torch.where(known, own, 0).reshape(ids.shape), known.reshape(ids.shape)


def _columns(ids: Tensor, mask: Tensor) -> Tensor:
    if ids.ndim != 2 or ids.shape[1] % len(_SIZES) or mask.shape != ids.shape:
        raise ValueError(
            "AION-1's catalogues have 5 ids a source, shape (object, 5 * sources), and a mask "
            f"likewise; found {tuple(ids.shape)} and {tuple(mask.shape)}"
        )
    return ids.unflatten(1, (-1, len(_SIZES)))


def load(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    modalities: tuple[str, ...],
    *,
    compat: str | None,
) -> Codec:
    """Return the codec of a folder; see `omnisky.codecs.aion.load_aion`."""
    (modality,) = modalities
    if "mask_value" in config:
        return _catalog(config, dict(tensors), modality, compat or "")
    return _segmentation(config, dict(tensors), modality, compat or "")


def _catalog(
    config: Mapping[str, Any], tensors: dict[str, Tensor], modality: str, compat: str
) -> AionCatalogCodec:
    if config["mask_value"] != _EMPTY or len(config) > 1:
        raise ValueError(f"expected {{'mask_value': {_EMPTY}}}; found {dict(config)}")
    tables = []
    for name in ("X", "Y"):
        cells = int(_take(tensors, f"_quantizer.quantizers.{name}._codebook_size", ()))
        if cells != _CELLS:
            raise ValueError(f"expected {_CELLS} cells in {name}; found {cells}")
    for name in _SHAPES:
        tables.append(_take(tensors, f"_quantizer.quantizers.{name}._index_to_val", (_BINS,)))
        # Only fitting needs it.
        tensors.pop(f"_quantizer.quantizers.{name}._reservoir", None)
    _nothing_else(tensors)
    table = torch.stack(tables).double()
    codec = AionCatalogCodec(
        CatalogCodecConfig(
            modality=modality,
            sources=_SOURCES,
            cells=_CELLS,
            bins=_BINS,
            count=False,
            log_radius=False,
            compat=compat,
        )
    )
    bins = codec.shape_bins
    # A value that equals an edge belongs below it there, above it here.
    edges = np.nextafter(table[:, :-1].numpy(), np.inf)
    bins.edges.copy_(torch.from_numpy(edges))
    middle = torch.cat([table[:, :1], (table[:, :-1] + table[:, 1:]) / 2], dim=1)
    bins.means.copy_(table if compat else middle)
    bins.limits.copy_(table[:, [0, -1]])
    return codec


def _segmentation(
    config: Mapping[str, Any], tensors: dict[str, Tensor], modality: str, compat: str
) -> SegmentationCodec:
    given = {name: value for name, value in config.items() if name not in _TRAINING}
    if given.pop("variational", False) or given.pop("output_activation", None) is not None:
        raise ValueError("a variational codec, or one with another activation, is not known")
    given.pop("output_activation", None)
    levels = tuple(given.pop("levels", (8, 5, 5, 5)))
    if given.pop("embedding_dim", len(levels)) != len(levels):
        raise ValueError(f"embedding_dim must be the number of levels, {len(levels)}")
    own = SegmentationCodecConfig(
        modality=modality,
        width=given.pop("encoder_output_dim"),
        decoder_width=given.pop("decoder_input_dim", None) or 0,
        hidden=given.pop("res_hidden_dims", 64),
        layers=given.pop("num_res_layers", 2),
        steps=given.pop("num_downsamples", 3),
        levels=levels,
        extension=given.pop("output_activation_extension", None) or 0.0,
        compat=compat,
    )
    if given:
        raise ValueError(f"settings {', '.join(given)} are not known")
    stored = _take(tensors, "_quantizer.levels", (len(levels),)).tolist()
    if tuple(stored) != levels:
        raise ValueError(f"levels are {levels} in the configuration, {stored} in the weights")
    codec = SegmentationCodec(own)
    # A moving average of the weights lies beside them in some files.
    codec.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("ema.")})
    return codec


def _take(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Take a tensor out; raises if it is not there or of another shape."""
    # Files of before 0.0.2 spell the first part without its underscore.
    found = tensors.pop(name, None)
    found = tensors.pop(name.removeprefix("_"), None) if found is None else found
    if found is None or tuple(found.shape) != shape:
        has = "nothing" if found is None else str(tuple(found.shape))
        raise ValueError(f"tensor {name!r} must have shape {shape}; found {has}")
    return found


def _nothing_else(tensors: Mapping[str, Tensor]) -> None:
    if tensors:
        raise ValueError(f"tensors {', '.join(tensors)} are not known")
