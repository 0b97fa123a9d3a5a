"""What the network has read of some objects, kept so that the decoder can be asked again and again.

The decoder hears the encoder through keys and values that do not depend on what is asked, so they
are computed once for all targets, steps and samples. What is drawn meanwhile can be appended: new
tokens read the objects and each other, while what was read before does not hear of them. That is
an approximation, as the network was trained to read all tokens together; to read anew is exact.

Shapes: B objects, S samples of each, N tokens read, n tokens appended, M tokens asked for, H heads
of width d, T slots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.model.blocks import DecoderBlock, EncoderBlock, SelfAttention
from omnisky.model.fast import add_mlp, add_product, attend_densely, product
from omnisky.model.transformer import Selection, Transformer

__all__ = ["Read", "read"]


@dataclass(frozen=True)
class _Heard:
    """Keys and values of a block, shape (..., H, token, d)."""

    keys: Tensor
    values: Tensor

    def __getitem__(self, rows: slice) -> _Heard:
        return _Heard(self.keys[rows], self.values[rows])

    def joined(self, other: _Heard | None) -> _Heard:
        if other is None:
            return self
        return _Heard(
            torch.cat([other.keys, self.keys], -2), torch.cat([other.values, self.values], -2)
        )


@dataclass(frozen=True)
class _Layers:
    """What each block of encoder and decoder can be asked to hear, and which tokens count.

    The encoder's are empty where nothing will be appended. Without a mask, all tokens count.
    """

    encoder: tuple[_Heard, ...]
    decoder: tuple[_Heard, ...]
    mask: Tensor | None

    def __getitem__(self, rows: slice) -> _Layers:
        return _Layers(
            tuple(heard[rows] for heard in self.encoder),
            tuple(heard[rows] for heard in self.decoder),
            None if self.mask is None else self.mask[rows],
        )


@dataclass(frozen=True)
class Read:
    """Hold what was read of B objects, and of what was appended to S samples of each.

    Parameters
    ----------
    network : Transformer
        Which read it, in evaluation mode.
    place : FloatTensor, shape (T, D)
        Position plus modality vectors of all slots.
    shared : object
        Keys and values of the objects.
    own : object, optional
        Keys and values of what was appended to each sample.
    """

    network: Transformer
    place: Float[Tensor, "T D"]
    shared: _Layers
    own: _Layers | None = None

    def of(self, objects: slice) -> Read:
        """Return what was read of some objects, without anything appended; nothing is copied."""
        return replace(self, shared=self.shared[objects], own=None)

    def ask(
        self, slots: Int[Tensor, "B S M"], there: Bool[Tensor, "B S M"]
    ) -> Float[Tensor, "B S M D"]:
        """Return decoder outputs for slots of one modality; each hears the others.

        Those of a network under ``compat="aion-0.0.2"`` do as well: that release's sampler, unlike
        its ``forward``, lets them.
        """
        network = self.network
        x = (network.mask_token[0] + self.place[slots]).to(network.dtype)
        own = (None,) * len(network.decoder) if self.own is None else self.own.decoder
        for block, shared, mine in zip(network.decoder, self.shared.decoder, own, strict=True):
            assert isinstance(block, DecoderBlock)
            x = _hear_each_other(block, x, there)
            query = _queries(block, x)
            x = add_product(x, self._hear(query, shared, mine), block.cross_attn.proj)
            x = add_mlp(x, block.mlp, block.norm2)
        return network.decoder_norm(x)

    def append(
        self,
        vectors: Float[Tensor, "B S n D"],
        slots: Int[Tensor, "B S n"],
        there: Bool[Tensor, "B S n"],
    ) -> Read:
        """Return this with more tokens read, which hear what was read before and each other.

        Parameters
        ----------
        vectors : FloatTensor, shape (B, S, n, D)
            Token vectors, without those of their places.
        slots, there : Tensor, shape (B, S, n)
            Where they are, and which exist.
        """
        network, place = self.network, self.place[slots]
        before = self.own
        mask = there if before is None else torch.cat([_mask_of(before), there], -1)
        old = (None,) * len(network.encoder) if before is None else before.encoder
        x, encoder = (vectors + place).to(network.dtype), []
        growing = replace(self, own=_Layers((), (), mask))
        for block, shared, earlier in zip(network.encoder, self.shared.encoder, old, strict=True):
            assert isinstance(block, EncoderBlock)
            query, heard = _read_each_other(block.attn, block.norm1, x)
            encoder.append(heard.joined(earlier))
            x = add_product(x, growing._hear(query, shared, encoder[-1]), block.attn.proj)
            x = add_mlp(x, block.mlp, block.norm2)
        context = network.decoder_proj_context(network.encoder_norm(x)) + place.to(network.dtype)
        old = (None,) * len(network.decoder) if before is None else before.decoder
        decoder = [h.joined(o) for h, o in zip(_heard(network, context), old, strict=True)]
        return replace(self, own=_Layers(tuple(encoder), tuple(decoder), mask))

    def _hear(
        self, query: Float[Tensor, "B S H M d"], shared: _Heard, own: _Heard | None
    ) -> Float[Tensor, "B S M D"]:
        """Attend to what was read of the object and to what was appended to the sample."""
        samples = query.shape[1]
        mask = self.shared.mask
        folded = _fold(query)
        if own is None:
            heard = _attend(folded, shared, mask)
            return _unfold(heard, samples).transpose(2, 3).flatten(3)
        assert self.own is not None
        near = query @ own.keys.transpose(-1, -2)
        near = near.masked_fill(~_mask_of(self.own)[:, :, None, None], torch.finfo(near.dtype).min)
        far = folded @ shared.keys.transpose(-1, -2)
        if mask is not None:
            far = far.masked_fill(~mask[:, None, None], torch.finfo(far.dtype).min)
        scores = torch.cat([_unfold(far, samples), near], -1) * query.shape[-1] ** -0.5
        far, near = scores.softmax(-1).split([far.shape[-1], near.shape[-1]], -1)
        heard = _unfold(_fold(far) @ shared.values, samples) + near @ own.values
        return heard.transpose(2, 3).flatten(3)


def read(
    network: Transformer,
    place: Float[Tensor, "T D"],
    ids: Int[Tensor, "B T"],
    visible: Bool[Tensor, "B T"],
    *,
    append: bool = False,
) -> Read:
    """Read objects; those of equal numbers of visible tokens together need no padding.

    Parameters
    ----------
    network : Transformer
        In evaluation mode.
    place : FloatTensor, shape (T, D)
        As from `Transformer.place_vectors`.
    ids, visible : Tensor, shape (B, T)
        Table of ids, and what the encoder sees. Nothing at all is allowed: the decoder then hears
        nothing.
    append : bool
        Whether tokens will be appended, for which more has to be kept.
    """
    count = visible.sum(1)
    width = int(count.max())
    slots = (~visible).int().argsort(dim=1, stable=True)[:, :width]
    mask = None if bool((count == width).all()) else visible.gather(1, slots)
    every = torch.ones_like(slots, dtype=torch.bool) if mask is None else mask
    embedded = network.embed_slots(ids, Selection(slots, every)) if width else place[slots]
    where, encoder = place[slots].to(network.dtype), []
    x = (embedded + place[slots]).to(network.dtype)
    for block in network.encoder:
        assert isinstance(block, EncoderBlock)
        query, heard = _read_each_other(block.attn, block.norm1, x)
        if append:
            encoder.append(heard)
        said = _attend(query, heard, mask).transpose(1, 2).flatten(2)
        x = add_product(x, said, block.attn.proj)
        x = add_mlp(x, block.mlp, block.norm2)
    context = network.decoder_proj_context(network.encoder_norm(x)) + where
    return Read(network, place, _Layers(tuple(encoder), tuple(_heard(network, context)), mask))


def _heard(network: Transformer, context: Tensor) -> list[_Heard]:
    """Return what each decoder block hears of a context of shape (..., token, D)."""
    found = []
    for block in network.decoder:
        assert isinstance(block, DecoderBlock)
        attention = block.cross_attn
        pair = product(context, attention.kv, block.context_norm)
        pair = pair.unflatten(-1, (2, attention.num_heads, -1))
        keys, values = pair.transpose(-4, -2).unbind(-3)
        found.append(_Heard(attention.k_norm(keys), values.contiguous()))
    return found


def _queries(block: DecoderBlock, x: Tensor) -> Float[Tensor, "B S H M d"]:
    attention = block.cross_attn
    query = product(x, attention.q, block.query_norm)
    return attention.q_norm(query.unflatten(-1, (attention.num_heads, -1)).transpose(-3, -2))


def _read_each_other(attention: SelfAttention, norm: nn.Module, x: Tensor) -> tuple[Tensor, _Heard]:
    """Return queries, and keys and values, of vectors of shape (..., token, D)."""
    parts = product(x, attention.qkv, norm).unflatten(-1, (3, attention.num_heads, -1))
    query, keys, values = parts.transpose(-4, -2).unbind(-3)
    return attention.q_norm(query), _Heard(attention.k_norm(keys), values.contiguous())


def _hear_each_other(
    block: DecoderBlock, x: Float[Tensor, "B S M D"], there: Bool[Tensor, "B S M"]
) -> Float[Tensor, "B S M D"]:
    attention = block.self_attn
    if x.shape[2] == 1:  # it hears itself, and values are the last third of the weights
        values = product(x, attention.qkv, block.norm1, slice(-x.shape[-1], None))
        return add_product(x, values, attention.proj)
    query, heard = _read_each_other(attention, block.norm1, x)
    flat = _Heard(heard.keys.flatten(0, 1), heard.values.flatten(0, 1))
    mask = None if bool(there.all()) else there.flatten(0, 1)
    out = _attend(query.flatten(0, 1), flat, mask)
    said = out.transpose(1, 2).flatten(2).unflatten(0, x.shape[:2])
    return add_product(x, said, attention.proj)


def _attend(
    query: Float[Tensor, "B H M d"], heard: _Heard, mask: Bool[Tensor, "B N"] | None
) -> Float[Tensor, "B H M d"]:
    """Attend; where nothing is to be heard, the answer is 0."""
    if not heard.keys.shape[-2]:
        return torch.zeros_like(query)
    if mask is None:
        return attend_densely(query, heard.keys, heard.values)
    some = mask.any(1)[:, None]
    allowed = (mask | ~some)[:, None, None]
    out = F.scaled_dot_product_attention(query, heard.keys, heard.values, attn_mask=allowed)
    return out * some[:, :, None, None]


def _mask_of(layers: _Layers) -> Tensor:
    assert layers.mask is not None
    return layers.mask


def _fold(x: Float[Tensor, "B S H M e"]) -> Float[Tensor, "B H K e"]:
    """Lay samples behind each other: they attend to the same tokens."""
    return x.transpose(1, 2).flatten(2, 3)


def _unfold(x: Float[Tensor, "B H K e"], samples: int) -> Float[Tensor, "B S H M e"]:
    return x.unflatten(2, (samples, -1)).transpose(1, 2)
