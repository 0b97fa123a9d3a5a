"""Scalar codecs of AION-1: magnitudes, fluxes, redshift, XP coefficients.

Their tables say, on a compressed scale, up to which value each token goes. Here they become edges
in the quantity's own unit, placed to the last bit where float32 input crosses into the next token:
the same tokens, without compressing each value anew. What a token decodes to is where the released
codecs are biased: they give the upper end of its interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnisky.codecs.codec import Codec
from omnisky.codecs.quantisers.quantile import means_in_bins
from omnisky.codecs.scalars.coefficients import CoefficientsCodec, CoefficientsCodecConfig
from omnisky.codecs.scalars.scalar import ScalarCodec, ScalarCodecConfig
from omnisky.codecs.scalars.scales import Table
from omnisky.pretrained import NAMES
from omnisky.storage import CheckpointError

__all__ = ["load"]

# Modalities whose tables hold natural logarithms.
_LOG = ("legacysurvey_flux_", "legacysurvey_shape_r", "gaia_flux_", "gaia_parallax")
_MIN_LOG = -3.0
_FUNCTIONS = {"arcsinh": torch.arcsinh, "sinh": torch.sinh}


@dataclass(frozen=True)
class _Compression:
    """A compression that increases, with a floor below which every value counts as the floor."""

    to: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    floor: float = -math.inf

    def floored(self, x: Tensor) -> Tensor:
        floor = torch.tensor(self.floor, dtype=torch.float32)
        return self.to(torch.where(x <= floor, floor, x))


def load(
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    modalities: tuple[str, ...],
    *,
    compat: str | None = None,
) -> Codec:
    """Build a scalar codec from a folder of AION-1.

    Parameters
    ----------
    config : mapping
        Its configuration.
    tensors : mapping of str to Tensor
        Its state. The 100 000 values that a table was made of are used for the means of the bins
        and not kept.
    modalities : tuple of str
        Modalities that it encodes.
    compat : str, optional
        ``"aion-0.0.2"`` decodes to the upper end of each bin and gives missing values the last
        token, as that release does.

    Raises
    ------
    CheckpointError
        If tensors are missing, unknown, of another shape, not finite or not increasing, or the
        configuration is of another modality.
    """
    state = {
        f"_{name}" if name.startswith("quantizer.") else name: t for name, t in tensors.items()
    }
    _check_modality(config, modalities)
    size = int(config["codebook_size"])
    if config["modality"] == "Z":
        _refuse_unknown(state, {"_quantizer.buckets"})
        grid = state["_quantizer.buckets"]
        tables = _tables([grid], None, _PLAIN, size, compat)
        ends = {"scale": "linear", "low": float(grid[0]), "high": float(grid[-1])}
        return _scalar(modalities[0], tables, compat, modalities=modalities, **ends)
    if "num_quantizers" in config:
        return _multiple(config, state, modalities, compat)
    compression = _compression(config, modalities[0])
    tables = _read(state, ["_quantizer."], compression, size, compat)
    return _scalar(modalities[0], tables, compat)


def _scalar(modality: str, tables: Table, compat: str | None, **more: Any) -> ScalarCodec:
    size = tables.means.shape[1]
    config = ScalarCodecConfig(modality=modality, bins=size, compat=compat or "", **more)
    codec = ScalarCodec(config)
    codec.bins.set(tables.edges, tables.means, tables.limits)
    return codec


def _check_modality(config: Mapping[str, Any], modalities: tuple[str, ...]) -> None:
    found = config["modality"]
    if NAMES.get(found) != modalities:
        raise CheckpointError(
            f"the configuration is of AION-1's codec {found!r}; expected that of "
            f"{', '.join(modalities)}. Is the folder in its right place?"
        )


def _compression(config: Mapping[str, Any], modality: str) -> _Compression:
    if "min_log_value" not in config and not modality.startswith(_LOG):
        return _PLAIN
    least = config.get("min_log_value", _MIN_LOG)
    # Without a floor, numbers that are not positive have no logarithm: they count as the least.
    floor = 0.0 if least is None else math.exp(least)
    return _Compression(torch.log, torch.exp, floor)


def _multiple(
    config: Mapping[str, Any],
    state: dict[str, Tensor],
    modalities: tuple[str, ...],
    compat: str | None,
) -> CoefficientsCodec:
    """Build the codec of several numbers that are quantised side by side."""
    count, size = int(config["num_quantizers"]), int(config["codebook_size"])
    to, back = (
        [_FUNCTIONS[name] for name in config[key]]
        for key in ("compression_fns", "decompression_fns")
    )
    compression = _Compression(lambda x: _chain(to, x), lambda x: _chain(back[::-1], x))
    prefixes = [f"_quantizer.quantizers.{i}." for i in range(count)]
    tables = _read(state, prefixes, compression, size, compat)
    codec = CoefficientsCodec(
        CoefficientsCodecConfig(
            modality=modalities[0],
            n_coefficients=count,
            parts=0,
            bins=size,
            scale="quantile",
            compat=compat or "",
        )
    )
    codec.bins.set(tables.edges, tables.means, tables.limits)
    return codec


def _chain(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    for function in functions:
        x = function(x)
    return x


def _refuse_unknown(state: Mapping[str, Tensor], known: set[str]) -> None:
    if unknown := sorted(set(state) - known):
        raise CheckpointError(f"tensors that no such codec has: {', '.join(unknown[:5])}")


def _read(
    state: Mapping[str, Tensor],
    prefixes: Sequence[str],
    compression: _Compression,
    size: int,
    compat: str | None,
) -> Table:
    """Return the tables of quantisers, side by side."""
    tops, samples = (
        [prefix + name for prefix in prefixes] for name in ("_index_to_val", "_reservoir")
    )
    _refuse_unknown(state, {*tops, *samples})
    reservoirs = [state[name] for name in samples] if set(samples) <= set(state) else None
    return _tables([state[name] for name in tops], reservoirs, compression, size, compat)


def _tables(
    given: Sequence[Tensor],
    reservoirs: Sequence[Tensor] | None,
    compression: _Compression,
    size: int,
    compat: str | None,
) -> Table:
    """Return edges, what each bin decodes to and limits, a row a quantiser, in their own unit."""
    for top in given:
        if top.shape != (size,) or not torch.isfinite(top).all() or (top.diff() < 0).any():
            raise CheckpointError(
                f"a table must hold {size} finite numbers that do not decrease; found shape "
                f"{tuple(top.shape)} of {top.dtype}"
            )
    tops = torch.stack(list(given)).float()
    edges = _crossings(compression.floored, tops[:, :-1])
    below = torch.nextafter(tops[:, :1], torch.tensor(-math.inf))
    low = _crossings(compression.to, below)
    high = np.nextafter(_crossings(compression.to, tops[:, -1:]), -np.inf)
    if compat:
        means = compression.back(tops).double().numpy()
    else:
        samples = [None] * len(tops) if reservoirs is None else reservoirs
        means = [_means(t, r, compression) for t, r in zip(tops, samples, strict=True)]
    return Table(edges, np.stack(list(means)), np.concatenate([low, high], axis=1))


def _means(tops: Tensor, reservoir: Tensor | None, compression: _Compression) -> np.ndarray:
    """Return the mean of the sampled values in each bin, the middle of the bin where none is."""
    values = tops.double()
    middle = torch.cat([values[:1], (values[:-1] + values[1:]) / 2])
    means = compression.back(middle).numpy()
    if reservoir is None:
        return means
    ends = torch.stack([reservoir.min(), reservoir.max()]).float()
    if not torch.allclose(ends, tops[[0, -1]], rtol=1e-5):
        return means  # not the sample that the table was made of
    index = torch.searchsorted(tops[:-1].contiguous(), reservoir.float()).numpy()
    sampled = compression.back(reservoir.double()).numpy()
    return means_in_bins(index, sampled, means)


def _crossings(compress: Callable[[Tensor], Tensor], tops: Tensor) -> np.ndarray:
    """Return the least float64 numbers that, as float32, are compressed to more than each top.

    Found by bisection on the bits of float32 numbers, which have the order of the numbers once
    those of negative ones are turned round.
    """
    lowest, highest = -0x7F7FFFFF, 0x7F7FFFFF
    low = torch.full(tops.shape, lowest - 1, dtype=torch.int64)
    high = torch.full(tops.shape, highest + 1, dtype=torch.int64)
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        above = compress(_float32(middle)) > tops
        high, low = torch.where(above, middle, high), torch.where(above, low, middle)
    first = _float32(high.clamp(max=highest)).double()
    last = _float32((high - 1).clamp(min=lowest)).double()
    # Half way between two float32 numbers, float64 rounds to the one with an even last bit.
    half = (first + last) / 2
    up = torch.nextafter(half, torch.tensor(math.inf, dtype=torch.float64))
    found = torch.where(high % 2 == 0, half, up)
    found = torch.where(high <= lowest, -math.inf, found)
    return torch.where(high > highest, math.inf, found).numpy()


def _float32(keys: Tensor) -> Tensor:
    """Return the float32 numbers of keys, which count them from zero upwards and downwards."""
    magnitude = keys.abs().to(torch.int32).view(torch.float32)
    return torch.where(keys < 0, -magnitude, magnitude)


_PLAIN = _Compression(lambda x: x, lambda x: x)
