"""Many scalar codecs at once: one search and one look-up instead of one a modality.

Encoding one number takes nanoseconds; what costs is everything around it, once a modality. A bank
stacks the tables of the codecs and pays once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, itemgetter

import numpy as np
import torch
from torch import Tensor

from omnisky.codecs.codec import Codec
from omnisky.codecs.quantisers.quantile import find_bins, padded
from omnisky.codecs.scalars.scalar import ScalarCodec
from omnisky.codecs.tokens import Rows
from omnisky.modalities import Measurement, Scalar

__all__ = ["ScalarBank"]

# Subsets of modalities, in an order, that tables are kept for.
_MOST_TABLES = 64
_BINS = itemgetter("bins")
_BUFFERS = itemgetter("edges", "means", "limits")
_VERSION = attrgetter("_version")


class _Held:
    """Tell whether the tables of some codecs are still those that were there before.

    Asked at every call, so all of it runs in C: as a loop in Python it took twice as long as the
    encoding.
    """

    def __init__(self, codecs: Mapping[str, ScalarCodec]) -> None:
        self._modules = [codec._modules for codec in codecs.values()]
        self._bins = [codec.bins for codec in codecs.values()]
        self._buffers = [bins._buffers for bins in self._bins]
        self._tensors = list(chain.from_iterable(map(_BUFFERS, self._buffers)))
        # Tensors of inference mode cannot be written to outside of it, and count no versions.
        self._counted = tuple(t for t in self._tensors if not t.is_inference())
        self._versions = list(map(_VERSION, self._counted))

    def unchanged(self) -> bool:
        """Return True if no table was replaced or written to."""
        try:
            # Lists compare what is not the same object by value, which tensors refuse.
            return (
                list(map(_BINS, self._modules)) == self._bins
                and list(chain.from_iterable(map(_BUFFERS, self._buffers))) == self._tensors
                and list(map(_VERSION, self._counted)) == self._versions
            )
        except RuntimeError:
            return False


@dataclass(frozen=True)
class _Tables:
    """The tables of some codecs, stacked; `held` tells whether they are still those.

    ``first`` is where the means of each codec begin, counted through all of them.
    """

    place: dict[str, int]
    held: _Held
    edges: np.ndarray
    low: np.ndarray
    high: np.ndarray
    means: np.ndarray
    first: np.ndarray
    vocabulary: np.ndarray


class ScalarBank:
    """Encode and decode several scalars together, with the very results of their own codecs.

    Parameters
    ----------
    codecs : mapping of str to Codec
        Codecs by modality. Those that a bank cannot take (other kinds, circles, two tokens,
        ``compat``) are left out.

    Attributes
    ----------
    names : frozenset of str
        Modalities that it takes.
    """

    def __init__(self, codecs: Mapping[str, Codec]) -> None:
        self._codecs = {n: c for n, c in codecs.items() if isinstance(c, ScalarCodec) and _plain(c)}
        self.names = frozenset(self._codecs)
        self._stacked: dict[tuple[str, ...], _Tables] = {}

    def encode(self, measurements: Mapping[str, Measurement]) -> tuple[Rows, Rows, dict[str, int]]:
        """Return ids and masks, shape (object, 1), and how many values are outside, by modality.

        Parameters
        ----------
        measurements : mapping of str to Scalar
            Scalars of the same objects.

        Returns
        -------
        ids, masks : Rows
            Tensors of shape (object, 1) by modality, in the order given.
        outside : dict of str to int
            How many values are beyond the training range, of modalities that have such values.

        Raises
        ------
        TypeError
            If a measurement is no scalar.
        """
        scalars = [m for m in measurements.values() if isinstance(m, Scalar)]
        if len(scalars) < len(measurements):
            for name, measurement in measurements.items():
                self._codecs[name].expect(measurement, Scalar)
        names = tuple(measurements)
        tables = self._tables(names)
        shape = len(names), len(scalars[0])
        value = np.concatenate([scalar.value for scalar in scalars]).reshape(shape)
        mask = np.concatenate([scalar.mask for scalar in scalars]).reshape(shape)
        ids = find_bins(tables.edges, value) * mask
        beyond = ((value < tables.low) | (value > tables.high)) & mask
        outside = {}
        if np.count_nonzero(beyond):
            counts = np.count_nonzero(beyond, axis=1).tolist()
            outside = {n: c for n, c in zip(names, counts, strict=True) if c}
        return Rows(tables.place, ids), Rows(tables.place, mask), outside

    def decode(self, ids: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Scalar]:
        """Return what the ids of each modality stand for.

        Parameters
        ----------
        ids, masks : mapping of str to Tensor, shape (object, 1)
            Ids by modality, and which exist.

        Raises
        ------
        ValueError
            If an id that exists is not in the vocabulary, or a scalar has more than one token.
        """
        tables = self._tables(tuple(ids))
        for name, of_one in ids.items():
            if of_one.shape[1] != 1:
                self._codecs[name].check_ids(of_one, masks[name])
        shape = len(ids), -1
        given = torch.cat(list(ids.values())).cpu().numpy().reshape(shape)
        mask = torch.cat([masks[name] for name in ids]).cpu().numpy().reshape(shape)
        wrong = ((given < 0) | (given >= tables.vocabulary)) & mask
        if np.count_nonzero(wrong):
            for name, of_one in ids.items():
                self._codecs[name].check_ids(of_one, masks[name])
        value = tables.means.take(given * mask + tables.first) * mask
        nothing = np.zeros_like(value)
        rows = zip(value, nothing, mask, strict=True)
        return {name: _scalar(*row) for name, row in zip(ids, rows, strict=True)}

    def _tables(self, names: tuple[str, ...]) -> _Tables:
        tables = self._stacked.get(names)
        if tables is None or not tables.held.unchanged():
            if len(self._stacked) >= _MOST_TABLES:
                self._stacked.clear()
            codecs = {name: self._codecs[name] for name in names}
            tables = self._stacked[names] = _stack(codecs)
        return tables


def _plain(codec: ScalarCodec) -> bool:
    config = codec.config
    return config.scale != "circular" and config.tokens == 1 and not config.compat


def _stack(by_name: Mapping[str, ScalarCodec]) -> _Tables:
    codecs = list(by_name.values())
    most = max(codec.config.bins for codec in codecs)
    edges = np.full((len(codecs), most - 1), np.inf)
    means = np.zeros((len(codecs), most))
    for i, codec in enumerate(codecs):
        edges[i, : codec.config.bins - 1] = codec.bins.edges[0].numpy()
        means[i, : codec.config.bins] = codec.bins.means[0].numpy()
    limits = np.stack([codec.bins.limits[0].numpy() for codec in codecs])
    return _Tables(
        place={name: i for i, name in enumerate(by_name)},
        held=_Held(by_name),
        edges=padded(edges),
        low=limits[:, :1].copy(),
        high=limits[:, 1:].copy(),
        means=means,
        first=most * np.arange(len(codecs))[:, None],
        vocabulary=np.array([[codec.config.bins] for codec in codecs]),
    )


def _scalar(value: np.ndarray, ivar: np.ndarray, mask: np.ndarray) -> Scalar:
    """Return a scalar without the checks of its constructor, which take longer than decoding."""
    scalar = object.__new__(Scalar)
    scalar.__dict__.update(value=value, ivar=ivar, mask=mask)
    return scalar
