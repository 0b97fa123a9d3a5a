"""The loss of masked modelling on tokens of one or several sources."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.tokens import Tokens
from omnisky.model.masking import MaskingConfig, sample_masks
from omnisky.model.transformer import Selection, Transformer
from omnisky.train.log import Averages
from omnisky.train.pretraining.recipe import EvaluationRecipe
from omnisky.train.pretraining.tokentable import TokenTable
from omnisky.train.speed import work_of

__all__ = ["Laid", "PretrainingObjective", "check_settings"]

# Tokens evaluated at a time, which bounds memory.
_TOKENS_AT_ONCE = 40_000
_EVALUATION = EvaluationRecipe()


def check_settings(
    network: Transformer, masking: MaskingConfig, token_weights: Mapping[str, float]
) -> None:
    """Check that settings by modality are about modalities of a network.

    Raises
    ------
    ValueError
        If one is about another, or a weight is negative or not finite.
    """
    ours = _own_names(network)
    for key, names in (
        ("masking.never_visible", masking.never_visible),
        ("masking.favoured", masking.favoured),
        ("token_weights", token_weights),
    ):
        if unknown := [name for name in names if name not in ours]:
            raise ValueError(
                f"{key} names {', '.join(unknown)}, which is no modality of the model; it has "
                f"{', '.join(ours)}. Correct the name, or add it to modalities"
            )
    if bad := {n: w for n, w in token_weights.items() if not 0 <= w < math.inf}:
        raise ValueError(
            f"token_weights must be finite and at least 0; found "
            f"{', '.join(f'{name} = {weight}' for name, weight in bad.items())}. Use 0 for a "
            "modality whose tokens shall not count"
        )


def _own_names(network: Transformer) -> dict[str, str]:
    """Return the network's own name of a modality under each name that it goes by."""
    return {name: m.name for name, m in network.config.by_name.items()}


class Laid:
    """The tokens of one source, and which slots of a network they fill.

    Parameters
    ----------
    table : TokenTable
        The tokens.
    network : Transformer
        The network.

    Raises
    ------
    UnknownModalityError
        If the network does not know a modality.
    ValueError
        If a modality has another number of tokens there, or ids beyond its vocabulary.
    """

    def __init__(self, table: TokenTable, network: Transformer) -> None:
        self.table = table
        # Objects as bad as the worst of the table, for the network's own checks.
        worst = torch.tensor(table.about["largest"], dtype=torch.long)[None]
        sizes = list(table.modalities.values())
        network.lay_out(Tokens(dict(zip(table.modalities, worst.split(sizes, 1), strict=True))))
        slots = torch.cat([network.slots_of(name).cpu() for name in table.modalities])
        self._order = slots.argsort()
        self.slots = slots[self._order]
        numbers = network.slot_modality.cpu()[self.slots]
        # Modalities numbered through those of the source, and their numbers in the network.
        self.numbers, self.modality = numbers.unique(return_inverse=True)

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: np.ndarray) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Return ids and mask of some objects, a column for each of `slots`."""
        ids, mask = self.table.take(rows)
        return ids[:, self._order], mask[:, self._order]

    def spread(self, most: int) -> np.ndarray:
        """Return rows of at most so many objects, evenly through the source.

        Stores are sorted along the sky: the first objects of one are one corner of it.
        """
        count = len(self)
        if count <= most:
            return np.arange(count)
        return np.linspace(0, count - 1, most).astype(np.int64)

    def local(self, numbers: Sequence[int]) -> tuple[int, ...]:
        """Return the source's numbers of modalities that have a number in the network."""
        mine = self.numbers.tolist()
        return tuple(mine.index(n) for n in numbers if n in mine)

    def thinned(self, chosen: Bool[Tensor, " T"], most: int) -> Bool[Tensor, " T"]:
        """Return some of the slots chosen, evenly spaced within modalities, short ones whole.

        Parameters
        ----------
        chosen : BoolTensor, shape (T,)
            Which slots.
        most : int
            How many at most; 0 for all.
        """
        sizes = torch.bincount(self.modality[chosen], minlength=len(self.numbers))
        if not most or int(sizes.sum()) <= most:
            return chosen
        cap = max(c for c in range(1, most + 1) if c == 1 or int(sizes.clamp(max=c).sum()) <= most)
        kept = torch.zeros_like(chosen)
        for place, size in enumerate(sizes.tolist()):
            slots = (chosen & (self.modality == place)).nonzero()[:, 0]
            kept[slots[torch.linspace(0, max(size - 1, 0), min(size, cap)).long()]] = True
        return kept

    def widened(self, ids: Int[Tensor, "B T"], width: int) -> Int[Tensor, "B S"]:
        """Return a table of all slots of the network."""
        if len(self.slots) == width:
            return ids
        wide = ids.new_zeros(len(ids), width)
        wide[:, self.slots] = ids
        return wide


@dataclass(frozen=True)
class Batch:
    """What the network is given, and what it is asked.

    Parameters
    ----------
    ids : LongTensor, shape (B, S)
        Table of ids.
    visible, asked : Selection
        What is shown, and what is asked for.
    work : mapping of str to float
        How much that is, see `omnisky.train.speed.work_of`; empty where nobody asks.
    """

    ids: Tensor
    visible: Selection
    asked: Selection
    work: Mapping[str, float] = field(default_factory=dict)

    @property
    def targets(self) -> Int[Tensor, " row"]:
        """The id of every asked slot, flattened."""
        return torch.gather(self.ids, 1, self.asked.slots).flatten()


class PretrainingObjective:
    """Cross-entropy of hidden tokens, as the loop of `omnisky.train` wants it.

    The loss is the sum over the tokens asked for of weight × cross-entropy, divided by the number
    of objects: a mean over objects, so that splitting a batch over processes changes nothing.

    Parameters
    ----------
    module : Transformer
        What is trained.
    tokens, held_out : Tokens or sequence of TokenTable
        Training tokens, of one source or of several, and tokens to evaluate on.
    masking : MaskingConfig
        What is hidden.
    token_weights : mapping of str to float
        Weight of one token of a modality.
    weights : sequence of float
        Share of each source in a batch; equal by default.
    evaluation : EvaluationRecipe
        How many held-out objects to evaluate on, and how much they show.

    Raises
    ------
    UnknownModalityError
        If the network does not know a modality.
    ValueError
        If tokens do not fit the network, or settings are about other modalities than its own.
    """

    def __init__(
        self,
        module: Transformer,
        tokens: Tokens | Sequence[TokenTable],
        held_out: Tokens | Sequence[TokenTable],
        masking: MaskingConfig,
        token_weights: Mapping[str, float] | None = None,
        *,
        weights: Sequence[float] = (),
        evaluation: EvaluationRecipe = _EVALUATION,
    ) -> None:
        check_settings(module, masking, token_weights or {})
        ours = _own_names(module)
        self.module: nn.Module = module
        self.transformer = module
        self.masking = masking
        self.evaluation = evaluation
        self.sources = [Laid(table, module) for table in _tables(tokens)]
        self.held_out = [Laid(table, module) for table in _tables(held_out)]
        counts = [len(source) for source in self.sources]
        self.n_examples = sum(counts)
        self.mixture = list(zip(counts, weights or [1.0] * len(counts), strict=True))
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self.weights = dict.fromkeys(module.names, 1.0)
        self.weights |= {ours[name]: weight for name, weight in (token_weights or {}).items()}
        self.hidden, self.favoured = (
            tuple(module.names.index(ours[name]) for name in names)
            for names in (masking.never_visible, masking.favoured)
        )
        masked = asdict(masking)
        if not masking.fill:
            del masked["fill"]  # runs of before there was a choice go on
        network = module.config.to_dict()
        if not module.config.free_rank:
            del network["free_rank"]  # and of this
        about: list = [network, masked, self.weights, self.mixture]
        about.append([source.table.fingerprint for source in self.sources])
        if held := _held_back(module):
            about.append(held)
        self.fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def loss(
        self, module: nn.Module, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Return the loss and the mean cross-entropy a token of each modality asked for."""
        return self.loss_of(module, self.draw(indices, generator))

    def loss_of(self, module: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        """Return what `loss` does, of objects that `draw` read."""
        targets = batch.targets
        total = torch.zeros((), device=targets.device)
        sums: dict[str, Tensor] = {}
        counts: dict[str, int] = {}
        for name, rows, logits in module(batch.ids, batch.visible, batch.asked):
            entropy = F.cross_entropy(logits.float(), targets[rows], reduction="sum")
            total = total + self.weights[name] * entropy
            sums[name] = sums.get(name, 0.0) + entropy.detach().double()
            counts[name] = counts.get(name, 0) + len(rows)
        metrics = {f"entropy/{name}": s / counts[name] for name, s in sums.items()}
        return total / len(batch.ids), {**metrics, **batch.work}

    def describe(self, index: int) -> str:
        """Return the name of a training object, its source, and its row in the table of tokens."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        row, table = index - int(self._starts[number]), self.sources[number].table
        where = f"row {row} of the training tokens of the {table.name}"
        return where if table.objects is None else f"{table.objects[row]}, {where}"

    def draw(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Read objects and draw what they show; those of one source come one after the other."""
        rows = indices.numpy()
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        width = len(self.transformer.slot_modality)
        ids, visible, asked = [], [], []
        for number in np.unique(owner).tolist():
            source = self.sources[number]
            mine, present = source.take(rows[owner == number] - self._starts[number])
            # Slots that the source has not are no part of it: masks of few slots are drawn fast.
            favoured = source.local(self.favoured)
            masking = self.masking if favoured else replace(self.masking, favour=0.0)
            seen, wanted = sample_masks(
                present, source.modality, masking, generator, source.local(self.hidden), favoured
            )
            ids.append(source.widened(mine, width))
            visible.append(Selection(source.slots[seen.slots], seen.mask))
            asked.append(Selection(source.slots[wanted.slots], wanted.mask))
        seen, wanted = _joined(visible), _joined(asked)
        # Here, where it is counted by the processor: an accelerator would be waited for.
        batch = Batch(torch.cat(ids), seen, wanted, work_of(self.transformer, seen, wanted))
        return _moved(batch, self.transformer.slot_modality.device)

    def evaluate(self) -> dict[str, float]:
        """Return the cross-entropy of each modality given all others that may be visible.

        A modality that no object has beside another one is left out: nothing is known of it.
        """
        return Averages.merge([self.evaluate_share(0, 1)])

    @torch.no_grad()
    def evaluate_share(self, rank: int, world_size: int) -> dict[str, tuple[float, int]]:
        """Return sums and numbers of cross-entropies, of one process's share of the objects."""
        totals = dict.fromkeys(self.transformer.names, 0.0)
        counts = dict.fromkeys(self.transformer.names, 0)
        for batch in self._held_out_batches(rank, world_size):
            targets = batch.targets
            for name, rows, logits in self.transformer(batch.ids, batch.visible, batch.asked):
                entropy = F.cross_entropy(logits.float(), targets[rows], reduction="sum")
                totals[name] += float(entropy)
                counts[name] += len(rows)
        return {f"entropy/{n}": (totals[n], counts[n]) for n in totals if counts[n]}

    def _held_out_batches(self, rank: int, world_size: int) -> Iterator[Batch]:
        """Yield a process's held-out objects, asked for one modality after the other."""
        for source in self.held_out:
            rows = source.spread(self.evaluation.objects)
            step = world_size * max(1, _TOKENS_AT_ONCE // len(source.slots))
            for start in range(0, len(rows), step):
                objects = source.take(rows[start : start + step])
                for number in source.numbers.tolist():
                    batch = self._given_others(source, objects, number, (rank, world_size))
                    if batch is not None:
                        yield batch

    def _given_others(
        self, source: Laid, objects: tuple[Tensor, Tensor], number: int, share: tuple[int, int]
    ) -> Batch | None:
        """Ask a process's share of objects for one modality, given all others, if some can tell."""
        (ids, present), (rank, world_size) = objects, share
        mine = source.numbers[source.modality] == number
        others = ~mine & ~torch.isin(
            source.modality, torch.tensor(source.local(self.hidden), dtype=torch.long)
        )
        others = source.thinned(others, self.evaluation.visible)
        having = (present[:, mine].any(1) & present[:, others].any(1)).nonzero()[:, 0]
        if not len(having):
            return None
        own = having[rank::world_size]
        # A process with one object less than others computes another's too, asked for nothing.
        rows = torch.cat([own, having[: -(-len(having) // world_size) - len(own)]])
        ids, present = ids[rows], present[rows]
        wanted = present[:, mine]
        wanted[len(own) :] = False
        visible = Selection(source.slots[others].expand(len(ids), -1), present[:, others])
        asked = Selection(source.slots[mine].expand(len(ids), -1), wanted)
        device = self.transformer.slot_modality.device
        wide = source.widened(ids, len(self.transformer.slot_modality))
        return _moved(Batch(wide, visible, asked), device)


def _held_back(network: Transformer) -> dict[str, Any]:
    """Return what keeps weights from being trained freely, where anything does.

    Nothing is said where nothing does, so that runs of before it was told go on.
    """
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    told = {"dropout": max(block.dropout for block in network.blocks()), "frozen": frozen}
    return {key: value for key, value in told.items() if value}


def _tables(given: Tokens | Sequence[TokenTable]) -> Sequence[TokenTable]:
    return [TokenTable.from_tokens(given)] if isinstance(given, Tokens) else given


def _joined(selections: Sequence[Selection]) -> Selection:
    """Return the selections of all objects, as wide as the widest."""
    if len(selections) == 1:
        return selections[0]
    width = max(s.slots.shape[1] for s in selections)
    wide = [(width - s.slots.shape[1], s) for s in selections]
    return Selection(
        torch.cat([F.pad(s.slots, (0, more)) for more, s in wide]),
        torch.cat([F.pad(s.mask, (0, more)) for more, s in wide]),
    )


def _moved(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on the device that computes."""

    def moved(tensor: Tensor) -> Tensor:
        # What is pinned does not have to be waited for.
        there = tensor.contiguous().pin_memory() if device.type == "cuda" else tensor
        return there.to(device, non_blocking=True)

    visible, asked = (
        Selection(moved(s.slots), moved(s.mask)) for s in (batch.visible, batch.asked)
    )
    return Batch(moved(batch.ids), visible, asked, batch.work)
