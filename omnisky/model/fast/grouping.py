"""Groups of similar length: a batch goes through the blocks in tables with little padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from omnisky.model.transformer import Selection, Transformer

__all__ = ["decode_grouped"]

# Groups of a batch; more of them save little and cost calls. On an accelerator calls cost more than
# padding, unless objects times width are many.
_GROUPS, _MANY = 4, 1 << 17


def decode_grouped(
    network: Transformer, ids: Int[Tensor, "B S"], visible: Selection, asked: Selection
) -> Float[Tensor, "B M D"]:
    """Return decoder outputs for slots that are asked for.

    Objects are divided by the numbers of slots that they show. In training, what the host has to
    know of a batch is asked of an accelerator before the blocks: it would be waited for in between.

    Parameters
    ----------
    network : Transformer
        Whose blocks.
    ids : LongTensor, shape (B, S)
        Token ids by slot.
    visible, asked : Selection
        What is shown, and what is to be told.
    """
    order, widths, counts = _sorted_by_width(visible.mask)
    vectors, place = network.embed_slots(ids, visible), network.place_vectors(visible.slots)
    wanted, decoded = network.place_vectors(asked.slots), []
    # Whatever objects show: where weights are divided, processes call blocks equally often.
    few = vectors.device.type != "cpu" and len(order) * network.config.dim < _MANY
    end = 0
    for rows in order.chunk(1 if few else _GROUPS):
        start, end = end, end + len(rows)
        width = widths[end - 1] if end else 0
        x, where = (t.index_select(0, rows)[:, :width] for t in (vectors, place))
        # A mask of other strides would be compiled for anew.
        shown = visible.mask.index_select(0, rows)[:, :width].contiguous()
        whole = all(count == width for count in counts[start:end])
        encoded = network.encode_vectors(x, where, shown, whole=whole)
        decoded.append(network.decode_vectors(encoded, wanted.index_select(0, rows), asked[rows]))
    return torch.cat(decoded).index_select(0, order.argsort())


def _sorted_by_width(mask: Bool[Tensor, "B N"]) -> tuple[Int[Tensor, " B"], list[int], list[int]]:
    """Return the order that sorts objects by where their last visible slot is.

    Of each object in that order: that place, and how many slots are visible.
    """
    numbers = torch.arange(mask.shape[1] + 1, device=mask.device)
    last = (F.pad(mask, (1, 0)) * numbers).amax(1).clamp(min=min(1, mask.shape[1]))
    width, order = last.sort(stable=True)
    width, count = torch.stack([width, mask.sum(1)[order]]).tolist()
    return order, width, count
