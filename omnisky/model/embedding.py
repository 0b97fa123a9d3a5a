"""Embedding without padding: all objects' tokens in one row of vectors, for use, not training.

A survey's objects have different subsets of modalities. Laid out as a table, most of it would be
padding (60 % in a mixture of images, spectra and photometry). Here everything but attention works
on the tokens that exist, and attention on groups of objects with equally many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from omnisky.codecs.tokens import Tokens
from omnisky.model.blocks import EncoderBlock, SelfAttention, compiled
from omnisky.model.fast import (
    add_mlp,
    add_product,
    attend_normed_densely,
    attends_by_object,
    product,
)
from omnisky.model.transformer import Selection, Transformer

__all__ = ["Embedding", "Packed", "Pooling", "embed_tokens", "encode_packed", "tokens_at_once"]

Pooling: TypeAlias = Literal["mean", "tokens"]
# Tokens embedded at a time: what is worked on takes some 15 times the memory of their vectors.
_TOKENS, _TOKENS_ON_ACCELERATOR = 1 << 15, 1 << 17
_NO_NORM = nn.Identity()


@dataclass(frozen=True)
class Embedding:
    """Hold one vector an object, or one a token.

    Parameters
    ----------
    vectors : array of float32, shape (object, dim) or (object, token, dim)
        Mean of the encoder outputs over the tokens the object has, or the outputs themselves; 0
        where there are none.
    valid : array of bool, shape (object,) or (object, token)
        False for objects without a single token, or for tokens an object lacks.
    slices : mapping of str to slice
        Where the tokens of each modality are; empty for one vector an object.
    """

    vectors: np.ndarray
    valid: np.ndarray
    slices: Mapping[str, slice] = field(default_factory=dict)


@dataclass(frozen=True)
class Packed:
    """Hold encoder outputs without padding.

    Parameters
    ----------
    vectors : FloatTensor, shape (token, D)
        Outputs of all objects' tokens, those of one object together, in slot order.
    objects : LongTensor, shape (token,)
        Which object each token is of.
    """

    vectors: Float[Tensor, "token D"]
    objects: Int[Tensor, " token"]

    def mean(self, n_objects: int) -> tuple[Float[Tensor, "B D"], Bool[Tensor, " B"]]:
        """Return the mean over each object's tokens, and which objects have any."""
        sums = torch.zeros(n_objects, self.vectors.shape[1], dtype=torch.float32)
        sums = sums.to(self.vectors.device).index_add_(0, self.objects, self.vectors.float())
        count = torch.bincount(self.objects, minlength=n_objects)
        return sums / count.clamp(min=1)[:, None], count > 0


@torch.no_grad()
def embed_tokens(
    network: Transformer, tokens: Tokens, pooling: Pooling = "mean", batch_size: int = 512
) -> Embedding:
    """Return the embedding of objects; see `omnisky.model.Model.embed`.

    Raises
    ------
    ValueError
        If there are no objects, or pooling or batch size are not possible.
    """
    if pooling not in ("mean", "tokens") or batch_size < 1:
        raise ValueError(
            "pooling must be 'mean' or 'tokens' and batch_size at least 1; found "
            f"{pooling!r} and {batch_size!r}"
        )
    if not len(tokens):
        raise ValueError("there are no objects to embed; give at least one")
    as_released = bool(network.config.compat)
    packed = pooling == "mean" and not as_released
    pool = partial(_mean, network) if packed else network.encode
    if as_released:
        pool = partial(_as_released, network, pooling)
    vectors, valid = [], []
    most = tokens_at_once(network.slot_modality.device)
    for some in _batches(tokens, batch_size, most, packed=packed):
        x, mask = pool(tokens[some])
        vectors.append(x.float().cpu())
        valid.append(mask.cpu())
    slices = {} if pooling == "mean" or as_released else network.slices(tokens)
    return Embedding(torch.cat(vectors).numpy(), torch.cat(valid).numpy(), slices)


def tokens_at_once(device: torch.device) -> int:
    """Return how many tokens are embedded at a time on a device."""
    return _TOKENS if device.type == "cpu" else _TOKENS_ON_ACCELERATOR


def _mean(network: Transformer, tokens: Tokens) -> tuple[Tensor, Tensor]:
    ids, visible = network.select_given(tokens)
    return encode_packed(network, ids, visible).mean(len(tokens))


def _as_released(network: Transformer, pooling: Pooling, tokens: Tokens) -> tuple[Tensor, Tensor]:
    from omnisky.model.aion import released_context

    x = released_context(network, tokens)
    x = x.mean(1) if pooling == "mean" else x
    return x, torch.ones(x.shape[:-1], dtype=torch.bool)


def _batches(tokens: Tokens, batch_size: int, most: int, *, packed: bool) -> Iterator[slice]:
    """Yield slices of objects whose tokens, or table of tokens, are at most so many."""
    width = sum(ids.shape[1] for ids in tokens.values())
    count = torch.full((len(tokens),), width)
    if packed:
        count = torch.stack([mask.sum(1) for mask in tokens.mask.values()]).sum(0)
    total = np.concatenate([[0], count.cpu().cumsum(0).numpy()])
    start = 0
    while start < len(tokens):
        end = int(np.searchsorted(total, total[start] + most, side="right")) - 1
        end = min(max(end, start + 1), start + batch_size, len(tokens))
        yield slice(start, end)
        start = end


@torch.no_grad()
def encode_packed(network: Transformer, ids: Int[Tensor, "B S"], visible: Selection) -> Packed:
    """Encode the visible slots of each object; the result does not depend on the batch.

    Parameters
    ----------
    network : Transformer
        In evaluation mode.
    ids : LongTensor, shape (B, S)
        Table of ids, as from `Transformer.lay_out`.
    visible : Selection
        Which slots each object shows.
    """
    count = visible.mask.sum(1)
    # Objects of equal length lie together, so that attention takes them in one piece.
    order = count.argsort(stable=True)
    mask = visible.mask[order]
    rows, columns = mask.nonzero(as_tuple=True)
    objects, slots = order[rows], visible.slots[order][rows, columns]
    x = network.embeddings(ids[objects, slots], slots) + network.place_vectors(slots)
    x = x.to(network.dtype)
    lengths, repeats = count[order].unique_consecutive(return_counts=True)
    groups = [(int(r), int(n)) for n, r in zip(lengths, repeats, strict=True) if n]
    for block in network.encoder:
        assert isinstance(block, EncoderBlock)
        if block.compiled:
            q, k, v = compiled(_ask)(block, x)
            x = compiled(_answer)(block, x, _attention(q, k, v, groups))
            continue
        q, k, v = _heads(block.attn, product(x, block.attn.qkv, block.norm1))
        norms = block.attn.q_norm, block.attn.k_norm
        x = add_product(x, _attention(q, k, v, groups, norms), block.attn.proj)
        x = add_mlp(x, block.mlp, block.norm2)
    return Packed(network.encoder_norm(x), objects)


def _heads(
    attention: SelfAttention, qkv: Float[Tensor, "token E"]
) -> tuple[Float[Tensor, "token H d"], ...]:
    """Return queries, keys and values."""
    return qkv.unflatten(-1, (3, attention.num_heads, -1)).unbind(1)


def _ask(block: EncoderBlock, x: Float[Tensor, "token D"]) -> tuple[Tensor, Tensor, Tensor]:
    """Do what a compiler can see of a block before tokens hear each other."""
    q, k, v = _heads(block.attn, block.attn.qkv(block.norm1(x)))
    return block.attn.q_norm(q), block.attn.k_norm(k), v


def _answer(
    block: EncoderBlock, x: Float[Tensor, "token D"], heard: Float[Tensor, "token D"]
) -> Float[Tensor, "token D"]:
    x = x + block.attn.proj(heard)
    return x + block.mlp(block.norm2(x))


def _attention(
    q: Float[Tensor, "token H d"],
    k: Float[Tensor, "token H d"],
    v: Float[Tensor, "token H d"],
    groups: list[tuple[int, int]],
    norms: tuple[nn.Module, nn.Module] = (_NO_NORM, _NO_NORM),
) -> Float[Tensor, "token D"]:
    """Let the tokens of each object hear each other; groups are numbers of objects and tokens."""
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not attends_by_object(q):
        # All at once: there may be many groups.
        (q, k), norms = (norms[0](q), norms[1](k)), (_NO_NORM, _NO_NORM)
    first = 0
    for objects, length in groups:
        part = slice(first, first + objects * length)
        here = (t[part].unflatten(0, (objects, length)) for t in (q, k, v))
        out[part] = attend_normed_densely(*here, norms).flatten(0, 1)
        first = part.stop
    return out.flatten(1)
