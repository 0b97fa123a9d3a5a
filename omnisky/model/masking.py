"""Which tokens the encoder sees and which the decoder must predict.

The scheme of AION-1 (arXiv:2510.17960, section on masking): for the input pick one modality, take a
random number of its tokens and fill the budget from the others; for the output, pick one modality
to be asked for freely, the others by fractions drawn from a Beta distribution skewed to zero.
Inputs and outputs never overlap. Ours, unless settings say otherwise: each object has a budget of
its own for the input, drawn up to the whole one, and half of them show and hide whole modalities.
A share of the objects may hide the favoured modalities (labels) and be asked for all of them, since
a label drawn like any other token is asked for rarely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from omnisky.model.transformer import Selection

__all__ = ["MaskingConfig", "sample_masks"]

# Favoured objects that show everything else, the situation most predictions are made in.
_COMPLETE = 0.5


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """Configure the masking.

    Parameters
    ----------
    input_budget, output_budget : int
        Most tokens visible, and most tokens asked for, an object.
    alpha, beta : float
        Parameters of the Beta distribution of target fractions.
    fill : bool
        Where single tokens are hidden: True fills the input budget as far as tokens go, as AION-1
        does; False draws one up to it for each object, so that the model also meets objects with
        few tokens.
    whole : float
        Probability that an object shows some modalities whole and hides the others whole, the
        situation met in use; otherwise single tokens are hidden.
    never_visible : tuple of str
        Modalities that are only ever targets.
    favoured : tuple of str
        Modalities, labels say, that `favour` is about.
    favour : float
        Probability that an object hides all favoured modalities and is asked for them first, given
        all its others half of the time.
    """

    input_budget: int
    output_budget: int
    alpha: float = 0.1
    beta: float = 1.0
    fill: bool = False
    whole: float = 0.5
    never_visible: tuple[str, ...] = ()
    favoured: tuple[str, ...] = ()
    favour: float = 0.0

    def __post_init__(self) -> None:
        if self.input_budget < 1 or self.output_budget < 1:
            raise ValueError(
                f"masking needs positive budgets; found {self.input_budget}, {self.output_budget}"
            )
        for name in ("whole", "favour"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"masking: {name} must lie between 0 and 1; found {value!r}")
        if self.favour and not self.favoured:
            raise ValueError(f"masking: favour={self.favour} needs modalities in favoured")
        if not (self.alpha > 0 and self.beta > 0):
            raise ValueError(f"alpha and beta must be positive; found {self.alpha}, {self.beta}")


def sample_masks(
    present: Bool[Tensor, "B S"],
    slot_modality: Int[Tensor, " S"],
    config: MaskingConfig,
    generator: torch.Generator,
    hidden: tuple[int, ...] = (),
    favoured: tuple[int, ...] = (),
) -> tuple[Selection, Selection]:
    """Draw visible and asked slots for each object.

    Parameters
    ----------
    present : BoolTensor, shape (B, S)
        True where the object has the token.
    slot_modality : LongTensor, shape (S,)
        Modality number of each slot.
    config : MaskingConfig
        Budgets and distributions.
    generator : torch.Generator
        Source of all randomness.
    hidden : tuple of int
        Modality numbers that are never visible.
    favoured : tuple of int
        Modality numbers of `config.favoured`.

    Returns
    -------
    visible, asked : Selection
        At most `input_budget` and `output_budget` slots; disjoint. Every object with at least two
        tokens has at least one of each, provided one of them may be visible.
    """
    member = torch.nn.functional.one_hot(slot_modality).bool().T
    allowed = present.clone()
    if hidden:
        allowed &= ~torch.isin(slot_modality, torch.tensor(hidden))
    wanted = _favour(allowed, present, slot_modality, favoured, config, generator)
    allowed &= ~wanted
    seen = _choose_inputs(allowed, member, config, generator)
    if config.favour:
        complete = wanted.any(1) & (_uniform((len(present),), generator) < _COMPLETE)
        everything = _first(allowed, _uniform(allowed.shape, generator), config.input_budget)
        seen = torch.where(complete[:, None], everything, seen)
    # An object that shows all it has could be asked for nothing: take one slot back.
    spare = seen & (seen == present).all(1, keepdim=True) & (seen.sum(1, keepdim=True) > 1)
    returned = _uniform(seen.shape, generator).masked_fill(~spare, 2).argmin(1, keepdim=True)
    seen = seen.scatter(1, returned, seen.gather(1, returned) & ~spare.gather(1, returned))
    asked = _choose_targets(present & ~seen, wanted, member, config, generator)
    return _select(seen), _select(asked)


def _uniform(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def _ranks(scores: Float[Tensor, "B S"]) -> Int[Tensor, "B S"]:
    """Return each slot's place, 0 the smallest score."""
    order = scores.argsort(dim=1)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def _pick_modality(allowed: Tensor, member: Tensor, generator: torch.Generator) -> Tensor:
    """Return one allowed modality an object as one-hot, shape (B, modality)."""
    available = (allowed.float() @ member.float().T) > 0
    scores = _uniform(available.shape, generator).masked_fill(~available, 2)
    return (_ranks(scores) == 0) & available


def _rank_within(member: Tensor, random: Tensor) -> Tensor:
    """Return each slot's random place within its own modality."""
    place = torch.zeros_like(random)
    for slots in member:
        place[:, slots] = _ranks(random[:, slots]).float()
    return place


def _favour(
    allowed: Tensor,
    present: Tensor,
    slot_modality: Tensor,
    favoured: tuple[int, ...],
    config: MaskingConfig,
    generator: torch.Generator,
) -> Bool[Tensor, "B S"]:
    """Return the slots that some objects are asked for first; those objects have others to show."""
    if not config.favour:
        return torch.zeros_like(present)
    mine = torch.isin(slot_modality, torch.tensor(favoured)) & present
    able = (allowed & ~mine).any(1, keepdim=True)
    return mine & able & (_uniform((len(present), 1), generator) < config.favour)


def _first(allowed: Tensor, scores: Tensor, budget: int | Tensor) -> Bool[Tensor, "B S"]:
    """Return the allowed slots, or as many as the budget holds, those of small score first."""
    most = min(int(torch.as_tensor(budget).max()), scores.shape[1])
    # Scores are tiers up to 2 plus a random number.
    order = scores.masked_fill(~allowed, 9).topk(most, dim=1, largest=False).indices
    within = (torch.arange(most, device=scores.device) < budget).expand_as(order)
    return torch.zeros_like(allowed).scatter_(1, order, within) & allowed


def _choose_inputs(
    allowed: Tensor, member: Tensor, config: MaskingConfig, generator: torch.Generator
) -> Bool[Tensor, "B S"]:
    random = _uniform(allowed.shape, generator)
    first = _pick_modality(allowed, member, generator)
    of_first = first.float() @ member.float() > 0
    count = (allowed & of_first).sum(1, keepdim=True)
    wanted = (_uniform((len(allowed), 1), generator) * count).floor() + 1
    # Drawn in any case, so that what is drawn next does not depend on it.
    budget = (_uniform((len(allowed), 1), generator) * config.input_budget).floor() + 1
    if config.fill:
        budget = torch.full_like(budget, config.input_budget)
    drawn = _first(allowed & of_first, random, wanted)
    # Tier 0: the drawn tokens of the first modality; tier 1: all others; its rest stays hidden.
    tier = torch.where(drawn, 0.0, 1.0)
    single = _first(allowed & ~(of_first & ~drawn), tier + random, budget)
    kept = _uniform((len(allowed), len(member)), generator)
    kept = (kept < _uniform((len(allowed), 1), generator)) | first
    showing = _uniform((len(allowed), 1), generator) < config.whole
    if not bool(showing.any()):
        return single
    kept_slots = allowed & (kept.float() @ member.float() > 0)
    return torch.where(showing, _first(kept_slots, random, config.input_budget), single)


def _choose_targets(
    available: Tensor,
    wanted: Tensor,
    member: Tensor,
    config: MaskingConfig,
    generator: torch.Generator,
) -> Bool[Tensor, "B S"]:
    random = _uniform(available.shape, generator)
    first = _pick_modality(available, member, generator).float() @ member.float() > 0
    shape = (len(available), len(member))
    fraction = _beta(config.alpha, config.beta, shape, generator)
    count = available.float() @ member.float().T
    quota = (fraction * count).ceil() @ member.float()
    drawn = _rank_within(member, random.masked_fill(~available, 2)) < quota
    tier = torch.where(first, 0.0, torch.where(drawn, 1.0, 2.0))
    tier = tier.masked_fill(wanted, -1)
    return _first(available, tier + random, config.output_budget)


def _beta(a: float, b: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw from Beta(a, b)."""
    # torch.distributions takes no generator; NumPy does, seeded from ours.
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    draws = np.random.default_rng(seed).beta(a, b, size=shape)
    return torch.from_numpy(draws).float()


def _select(chosen: Bool[Tensor, "B S"]) -> Selection:
    """Turn a table of chosen slots into lists of slot numbers, as long as the longest."""
    count = chosen.sum(1, keepdim=True)
    longest = max(int(count.max()), 1)
    # Chosen ones first, then the others, all as they come.
    place = torch.where(chosen, chosen.cumsum(1) - 1, count + (~chosen).cumsum(1) - 1)
    slots = torch.arange(chosen.shape[1], device=chosen.device).expand_as(place)
    order = torch.empty_like(place).scatter_(1, place, slots)[:, :longest]
    return Selection(order, torch.gather(chosen, 1, order))
