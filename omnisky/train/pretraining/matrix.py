"""How well is each modality known from each other one? The any-to-any matrix on held-out objects.

What counts is the gain: by how many nats a token the cross-entropy falls below that of somebody who
is given nothing and knows how often each id is met in training, at each place of each modality. 0
means that nothing was learned from what is given; negative values, that the network is surer than
it should be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from omnisky.model.transformer import Selection, Transformer
from omnisky.train.pretraining.marginal import marginal_entropies
from omnisky.train.pretraining.objective import Laid
from omnisky.train.pretraining.tokentable import TokenTable
from omnisky.train.recipe import write_json

__all__ = ["ALL_OTHERS", "AnyToAny", "Entry", "any_to_any"]

ALL_OTHERS = "all others"
# Tokens of a modality that are asked for at a time, evenly spaced: as in training, some of them.
_MOST_ASKED = 48
# Tokens of a batch, which bounds memory.
_TOKENS_AT_ONCE = 24_000
_RESAMPLED = 1000
_INTERVAL = 0.95


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Say how well one modality is known from another one.

    Parameters
    ----------
    given, target : str
        Modalities; `ALL_OTHERS` is all that the object has but the target.
    gain, low, high : float
        Nats a token below `marginal`, with a 95 % interval from bootstrap over objects.
    entropy, marginal : float
        Cross-entropy in nats a token, given this and given nothing.
    objects, tokens : int
        How many objects had both, and how many of their tokens were asked for.
    seen_together : bool
        Whether some training object had both. False is a combination never seen in training.
    sources : tuple of int
        Numbers of the sources the objects are from.
    """

    given: str
    target: str
    gain: float
    low: float
    high: float
    entropy: float
    marginal: float
    objects: int
    tokens: int
    seen_together: bool
    sources: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class AnyToAny:
    """Hold the any-to-any matrix of a network.

    Parameters
    ----------
    modalities : tuple of str
        Those of the network.
    entries : tuple of Entry
        One for each pair that some held-out object has.
    sources : tuple of dict
        ``source``, ``mock``, ``objects`` of each held-out table.
    seed : int
        Seed of the bootstrap.
    unit : str
        Unit of gains and entropies.
    """

    modalities: tuple[str, ...]
    entries: tuple[Entry, ...]
    sources: tuple[dict[str, Any], ...]
    seed: int
    unit: str = "nats a token"
    interval: float = _INTERVAL

    @property
    def mock(self) -> str:
        """``"mock"``, ``"real"`` or ``"real and mock"``: what the held-out objects are."""
        kinds = {bool(source["mock"]) for source in self.sources if source["objects"]}
        return {True: "mock", False: "real"}[kinds.pop()] if len(kinds) == 1 else "real and mock"

    def entry(self, given: str, target: str) -> Entry | None:
        """Return the entry of a pair, if some held-out object has both."""
        return next((e for e in self.entries if (e.given, e.target) == (given, target)), None)

    def table(self) -> np.ndarray:
        """Return the gains, shape (given, target), NaN where there is none; last row all others."""
        rows = {name: i for i, name in enumerate((*self.modalities, ALL_OTHERS))}
        gains = np.full((len(rows), len(self.modalities)), np.nan)
        for entry in self.entries:
            gains[rows[entry.given], rows[entry.target]] = entry.gain
        return gains

    def save(self, folder: Path) -> None:
        """Write ``any_to_any.json`` and ``any_to_any.png`` into a folder."""
        from omnisky.train.pretraining.figure import draw_matrix

        write_json(self, folder / "any_to_any.json")
        draw_matrix(self, folder / "any_to_any.png")


@torch.no_grad()
def any_to_any(
    network: Transformer,
    training: Sequence[TokenTable],
    held_out: Sequence[TokenTable],
    *,
    objects: int = 256,
    visible: int = 0,
    seed: int = 0,
) -> AnyToAny:
    """Measure how well each modality is known from each other one alone, and from all others.

    Parameters
    ----------
    network : Transformer
        In evaluation mode.
    training : sequence of TokenTable
        What it was trained on: how often ids are met, and what was seen together.
    held_out : sequence of TokenTable
        What it was not trained on.
    objects : int
        Most objects of a source, taken evenly through it.
    visible : int
        Most tokens shown of an object, evenly spaced within modalities, short ones whole; 0 for
        all. A network makes little of more than it was shown in training.
    seed : int
        Seed of the bootstrap.

    Raises
    ------
    ValueError
        If there is no held-out object.
    UnknownModalityError
        If the network does not know a modality.
    """
    if objects < 1 or not sum(map(len, held_out)):
        raise ValueError(
            f"an any-to-any matrix needs held-out objects; found {sum(map(len, held_out))}, of "
            f"which at most {objects} a source are wanted"
        )
    seen = [Laid(table, network) for table in training]
    marginal = marginal_entropies(network, seen)
    sums: dict[tuple[int, int], list[np.ndarray]] = {}
    whence: dict[tuple[int, int], set[int]] = {}
    sources = [Laid(table, network) for table in held_out]
    for number, source in enumerate(sources):
        for pair, found in _measured(network, source, marginal, (objects, visible)):
            sums.setdefault(pair, []).append(found)
            whence.setdefault(pair, set()).add(number)
    together = {
        pair
        for source in seen
        for pair in combinations_with_replacement(source.numbers.tolist(), 2)
    }
    names = [*network.names, ALL_OTHERS]
    entries = []
    for given, target in sorted(sums):
        statistics = _statistics(np.concatenate(sums[given, target]), seed)
        both = (min(given, target), max(given, target)) in together
        entries.append(
            Entry(
                given=names[given],
                target=names[target],
                seen_together=both or given == len(network.names),
                sources=tuple(sorted(whence[given, target])),
                **statistics,
            )
        )
    told = [
        {"source": s.table.name, "mock": s.table.mock, "objects": min(objects, len(s))}
        for s in sources
    ]
    return AnyToAny(
        modalities=tuple(network.names), entries=tuple(entries), sources=tuple(told), seed=seed
    )


def _statistics(sums: np.ndarray, seed: int) -> dict[str, Any]:
    """Return an entry's numbers from each object's sums of entropy, marginal and tokens."""
    entropy, marginal, tokens = sums.sum(0)
    draws = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLED, len(sums)))
    gains = (sums[:, 1] - sums[:, 0])[draws].sum(1) / sums[:, 2][draws].sum(1)
    low, high = np.quantile(gains, [(1 - _INTERVAL) / 2, (1 + _INTERVAL) / 2])
    return {
        "gain": float((marginal - entropy) / tokens),
        "low": float(low),
        "high": float(high),
        "entropy": float(entropy / tokens),
        "marginal": float(marginal / tokens),
        "objects": len(sums),
        "tokens": int(tokens),
    }


def _measured(
    network: Transformer, source: Laid, marginal: Tensor, most: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yield (given, target) and, for each object that has both, sums as `_statistics` has them."""
    objects, visible = most
    chosen = source.spread(objects)
    step = max(1, _TOKENS_AT_ONCE // len(source.slots))
    spaced = _spaced(source)
    numbers = source.numbers.tolist()
    for start in range(0, len(chosen), step):
        ids, present = source.take(chosen[start : start + step])
        for place, number in enumerate(numbers):
            mine = source.modality == place
            alone, others = source.thinned(mine, visible), source.thinned(~mine, visible)
            # What all others are, given this one; what this one is, given all others.
            for given, slots in (
                (number, (alone, spaced & ~mine)),
                (len(network.names), (others, spaced & mine)),
            ):
                yield from _asked(network, source, (ids, present), slots, marginal, given=given)


def _spaced(source: Laid) -> Tensor:
    """Return which slots are asked for, BoolTensor (T,): at most so many of each modality."""
    chosen = torch.zeros(len(source.slots), dtype=torch.bool)
    for place in range(len(source.numbers)):
        chosen |= source.thinned(source.modality == place, _MOST_ASKED)
    return chosen


def _asked(
    network: Transformer,
    source: Laid,
    objects: tuple[Tensor, Tensor],
    slots: tuple[Tensor, Tensor],
    marginal: Tensor,
    *,
    given: int,
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Show some slots, ask for others; yield the sums of each pair of modalities."""
    (ids, present), (shown, wanted) = objects, slots
    keep = present[:, shown].any(1) & present[:, wanted].any(1)
    ids, present = ids[keep], present[keep]
    if not len(ids):
        return
    device = network.slot_modality.device
    wide = source.widened(ids, len(network.slot_modality)).to(device)
    visible, asked = (
        Selection(source.slots[s].expand(len(ids), -1).to(device), present[:, s].to(device))
        for s in (shown, wanted)
    )
    targets = torch.gather(wide, 1, asked.slots)
    guessed = marginal.to(device)[asked.slots, targets]
    entropy = torch.zeros(targets.numel(), device=device)
    for _, rows, logits in network(wide, visible, asked):
        entropy[rows] = F.cross_entropy(logits.float(), targets.flatten()[rows], reduction="none")
    entropy = entropy.view_as(guessed).double().cpu().numpy()
    there = asked.mask.cpu().numpy()
    owner = source.modality[wanted].numpy()
    parts = np.stack([entropy, guessed.double().cpu().numpy(), np.ones_like(entropy)], axis=-1)
    parts *= there[..., None]
    for place in np.unique(owner).tolist():
        sums = parts[:, owner == place].sum(1)
        sums = sums[sums[:, 2] > 0]
        if len(sums):
            yield (given, int(source.numbers[place])), sums
