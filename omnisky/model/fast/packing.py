"""One row of vectors for all objects of a batch: nothing is padded.

Products, normalisations and gates do not ask which object a vector is of; attention does, and goes
through objects one by one, each with as many vectors as it has. So a training step on a CPU
computes on the tokens that exist, with one product a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from omnisky.model.transformer import Selection, Transformer

__all__ = ["Packed", "decode_packed", "packs"]


@dataclass(frozen=True)
class Packed:
    """Say which vectors of a row belong to which object, of those that ask and those heard.

    Attributes
    ----------
    asking, heard : sequence of int
        Number of vectors of each object, in the order of the row.
    masks : sequence of BoolTensor, shape (1, asking, heard), or None, optional
        Of each object, True where something may be heard; None where everything may.
    """

    asking: Sequence[int]
    heard: Sequence[int]
    masks: Sequence[Tensor | None] = ()

    def objects(self) -> Iterator[tuple[slice, slice, Tensor | None]]:
        """Yield where the vectors of each object are that ask and are heard, and its mask."""
        spans = (pairwise(accumulate(lengths, initial=0)) for lengths in (self.asking, self.heard))
        masks = self.masks or [None] * len(self.asking)
        for asking, heard, mask in zip(*spans, masks, strict=True):
            yield slice(*asking), slice(*heard), mask


def packs(network: Transformer) -> bool:
    """Tell whether objects shall go through the blocks in one row: for gradients, on a CPU.

    Compiled blocks have graphs of batches, and AION-1's own decoder averages over one.
    """
    plain = not network.config.compat and not any(block.compiled for block in network.blocks())
    return plain and network.slot_modality.device.type == "cpu" and torch.is_grad_enabled()


def decode_packed(
    network: Transformer, ids: Int[Tensor, "B S"], visible: Selection, asked: Selection
) -> Float[Tensor, "row D"]:
    """Return decoder outputs for the slots that are asked for and exist, object after object.

    Parameters
    ----------
    network : Transformer
        Whose decoder lets each slot hear those of its own modality.
    ids : LongTensor, shape (B, S)
        Token ids by slot.
    visible, asked : Selection
        What is shown, and what is to be told.
    """
    shown, wanted = (s.mask.flatten().nonzero()[:, 0] for s in (visible, asked))
    seen, told = (s.mask.sum(1).tolist() for s in (visible, asked))
    slots = visible.slots.flatten()[shown]
    place = network.place_vectors(slots)
    x = network.embeddings(ids.gather(1, visible.slots).flatten()[shown], slots) + place
    x, place = x.to(network.dtype)[None], place.to(network.dtype)[None]
    among = Packed(seen, seen)
    for block in network.encoder:
        x = block(x, among)
    context = network.decoder_proj_context(network.encoder_norm(x)) + place
    if not all(seen):
        # Who is shown nothing hears what the decoder makes of nothing, as in a padded table.
        nothing = network.decoder_proj_context(x.new_zeros(1, 1, x.shape[-1]))
        parts = zip(context.split(seen, 1), seen, strict=True)
        context = torch.cat([part if n else nothing for part, n in parts], 1)
        seen = [max(n, 1) for n in seen]
    slots = asked.slots.flatten()[wanted]
    y = (network.mask_token.flatten() + network.place_vectors(slots)).to(network.dtype)[None]
    alike = [_of_one_modality(m) for m in network.slot_modality[slots].split(told)]
    own, heard = Packed(told, told, alike), Packed(told, seen)
    for block in network.decoder:
        y = block(y, context, own, heard)
    return network.decoder_norm(y)[0]


def _of_one_modality(numbers: Int[Tensor, " M"]) -> Bool[Tensor, "1 M M"] | None:
    """Return where two slots are of one modality, or None if all are."""
    alike = numbers[:, None] == numbers
    return None if bool(torch.all(alike)) else alike[None]
