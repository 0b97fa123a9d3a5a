"""The any-to-any encoder-decoder transformer, single device, no parallelism inside.

All tokens an object can have are laid out in one fixed order of *slots*: modality after modality,
token after token. A batch is a table of ids (B objects, S slots) with a mask; which slots the
encoder sees and which the decoder is asked for are lists of slot numbers. Nothing is truncated: the
slots named are the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.codecs.tokens import Tokens
from omnisky.modalities import UnknownModalityError
from omnisky.model.blocks import DecoderBlock, EncoderBlock, initialise, norm
from omnisky.model.config import ModelConfig
from omnisky.model.embeddings import (
    VECTOR_SCALE,
    Divided,
    TokenEmbedding,
    TokenLogits,
    expected_values,
)
from omnisky.model.fast.grouping import decode_grouped
from omnisky.model.fast.packing import decode_packed, packs
from omnisky.model.positions import fixed_positions
from omnisky.model.training import Trainable

__all__ = ["Encoded", "Selection", "Transformer", "layout_buffers"]


@dataclass(frozen=True)
class Selection:
    """Name some slots of each object.

    Parameters
    ----------
    slots : LongTensor, shape (B, N)
        Slot numbers; any number where the mask is False.
    mask : BoolTensor, shape (B, N)
        True where a slot is named.
    """

    slots: Int[Tensor, "B N"]
    mask: Bool[Tensor, "B N"]

    def __getitem__(self, rows: Tensor) -> Selection:
        """Return the selection of some objects."""
        return Selection(self.slots[rows], self.mask[rows])


@dataclass(frozen=True)
class Encoded:
    """Hold the encoder's result.

    Parameters
    ----------
    tokens : FloatTensor, shape (B, N, D)
        Normalised encoder outputs.
    context : FloatTensor, shape (B, N, D)
        What the decoder attends to: projected outputs plus position and modality vectors.
    mask : BoolTensor, shape (B, N)
        True where a slot was visible.
    """

    tokens: Float[Tensor, "B N D"]
    context: Float[Tensor, "B N D"]
    mask: Bool[Tensor, "B N"]


class Transformer(Trainable):
    """Encode visible slots, decode requested ones.

    Parameters
    ----------
    config : ModelConfig
        Sizes and modalities; at least one modality.
    """

    slot_modality: Tensor
    fixed_positions: Tensor
    # Of a checkpoint of AION-1, for writing one; see `omnisky.model.aion`.
    released_drawing: Tensor | None = None
    # Whether its weights went through fewer bits since they were read or trained.
    rounded = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if not config.modalities:
            raise ValueError(
                "a transformer needs at least one modality; the configuration has none"
            )
        self.config = config
        dim = config.dim
        block = (dim, config.num_heads, config.mlp_ratio, config.qk_norm)
        self.encoder = nn.ModuleList(EncoderBlock(*block) for _ in range(config.encoder_depth))
        hear_mean = bool(config.compat)
        self.decoder = nn.ModuleList(
            DecoderBlock(*block, hear_mean=hear_mean) for _ in range(config.decoder_depth)
        )
        self.encoder_norm, self.decoder_norm = norm(dim), norm(dim)
        self.decoder_proj_context = nn.Linear(dim, dim)
        initialise(self)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * VECTOR_SCALE)
        listed = config.modalities
        self.embeddings = TokenEmbedding(listed, dim)
        self.logits = TokenLogits(listed, dim, config.free_rank)
        self.modality_vectors = nn.ParameterDict(
            {m.name: nn.Parameter(torch.randn(dim) * VECTOR_SCALE) for m in listed}
        )
        learned = listed if config.positions == "learned" else ()
        self.position_vectors = nn.ParameterDict(
            {m.name: nn.Parameter(torch.randn(m.n_tokens, dim) * VECTOR_SCALE) for m in learned}
        )
        for name, buffer in layout_buffers(config).items():
            self.register_buffer(name, buffer, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the blocks; vectors of tokens and places stay in float32."""
        return self.decoder_proj_context.weight.dtype

    def cast(self, dtype: torch.dtype) -> None:
        """Convert the blocks to another number format, in place, for use rather than training.

        What was rounded stays rounded, also in a wider format.
        """
        self.rounded |= torch.finfo(dtype).bits < torch.finfo(self.dtype).bits
        blocks = (self.encoder, self.decoder, self.encoder_norm, self.decoder_norm)
        for part in (*blocks, self.decoder_proj_context):
            part.to(dtype)

    @property
    def names(self) -> list[str]:
        """Modality names in slot order."""
        return [m.name for m in self.config.modalities]

    def lay_out(self, tokens: Tokens) -> tuple[Int[Tensor, "B S"], Bool[Tensor, "B S"]]:
        """Return the table of ids and its mask; modalities not given are masked.

        Raises
        ------
        UnknownModalityError
            If the model does not know a modality.
        ValueError
            If a modality has another number of tokens than the model expects, ids beyond its
            vocabulary, or is given twice, under two names.
        """
        given = self._by_slots(tokens)
        device = self.slot_modality.device
        ids, masks = [], []
        for modality in self.config.modalities:
            shape = (len(tokens), modality.n_tokens)
            name = given.get(modality.name)
            if name is None:
                ids.append(torch.zeros(shape, dtype=torch.long, device=device))
                masks.append(torch.zeros(shape, dtype=torch.bool, device=device))
                continue
            _check_vocabulary(tokens[name], modality)
            ids.append(tokens[name].to(device))
            masks.append(tokens.mask[name].to(device))
        return torch.cat(ids, 1), torch.cat(masks, 1)

    def _by_slots(self, tokens: Tokens) -> dict[str, str]:
        """Return, for each modality of ours that is given, the name it is given under."""
        ours = {name: m.name for name, m in self.config.by_name.items()}
        if unknown := [name for name in tokens if name not in ours]:
            raise UnknownModalityError(
                f"this model does not know {', '.join(unknown)}; it knows {', '.join(ours)}. "
                "Leave out others with drop(...), or add them with Model.extended and train"
            )
        given: dict[str, str] = {}
        for name in tokens:
            if ours[name] in given:
                raise ValueError(
                    f"{given[ours[name]]!r} and {name!r} are one and the same to this model; give "
                    "one of them"
                )
            given[ours[name]] = name
        return given

    def slots_of(self, name: str) -> Int[Tensor, " slot"]:
        """Return the slot numbers of a modality, under any name it goes by."""
        number = [name in (m.name, *m.also) for m in self.config.modalities].index(True)
        return (self.slot_modality == number).nonzero()[:, 0]

    def place_vectors(self, slots: Int[Tensor, ...] | None = None) -> Float[Tensor, "... D"]:
        """Return position plus modality vector of some slots, or of every slot."""
        slots = torch.arange(len(self.slot_modality)) if slots is None else slots
        slots = slots.to(self.slot_modality.device)
        modality = torch.stack([self.modality_vectors[n] for n in self.names])
        if self.config.positions == "fixed":
            positions = self.fixed_positions
        else:
            positions = torch.cat([self.position_vectors[n] for n in self.names])
        # Not by indexing, which adds up the gradients of a vector one after the other.
        return F.embedding(slots, positions) + F.embedding(self.slot_modality[slots], modality)

    def embed_slots(self, ids: Int[Tensor, "B S"], visible: Selection) -> Float[Tensor, "B N D"]:
        """Return the token vectors of some slots, without place vectors; zero where masked."""
        rows = visible.mask.flatten().nonzero()[:, 0]
        shown = ids.gather(1, visible.slots).flatten()[rows], visible.slots.flatten()[rows]
        vectors = self.embeddings(*shown)
        flat = vectors.new_zeros(visible.mask.numel(), self.config.dim).index_copy(0, rows, vectors)
        return flat.view(*visible.mask.shape, -1)

    def encode_slots(self, ids: Int[Tensor, "B S"], visible: Selection) -> Encoded:
        """Encode the visible slots of each object."""
        vectors, place = self.embed_slots(ids, visible), self.place_vectors(visible.slots)
        return self.encode_vectors(vectors, place, visible.mask, whole=bool(visible.mask.all()))

    def encode_vectors(
        self, vectors: Tensor, place: Tensor, visible: Bool[Tensor, "B N"], *, whole: bool
    ) -> Encoded:
        """Encode vectors of tokens and of their places, (B, N, D); whole if all are visible."""
        x, mask = vectors + place, None
        if not whole:
            mask = visible[:, None, :]
            x, place = (torch.where(visible[..., None], v, 0) for v in (x, place))
        x, place = x.to(self.dtype), place.to(self.dtype)
        for block in self.encoder:
            x = block(x, mask)
        x = self.encoder_norm(x)
        return Encoded(x, self.decoder_proj_context(x) + place, visible)

    def decode_slots(self, encoded: Encoded, asked: Selection) -> Float[Tensor, "B M D"]:
        """Return decoder outputs for the asked slots.

        A slot attends to the asked slots of its own modality only, so that what is predicted for
        one modality does not depend on which others are asked for at the same time.
        """
        return self.decode_vectors(encoded, self.place_vectors(asked.slots), asked)

    def decode_vectors(self, encoded: Encoded, place: Tensor, asked: Selection) -> Tensor:
        """Decode slots, given the vectors of their places, shape (B, M, D)."""
        x = (self.mask_token + place).to(self.dtype)
        modality = self.slot_modality[asked.slots]
        self_mask = context_mask = None
        # Without a mask, as when one modality is asked for, attention is faster; what is compiled
        # for training always has one.
        if self.training or not bool(((modality == modality[:, :1]) & asked.mask).all()):
            self_mask = (modality[:, :, None] == modality[:, None, :]) & asked.mask[:, None, :]
        if self.training or not bool(encoded.mask.all()):
            context_mask = encoded.mask[:, None, :]
        for block in self.decoder:
            x = block(x, encoded.context, self_mask, context_mask)
        return self.decoder_norm(x)

    def predict(
        self,
        decoded: Float[Tensor, "B M D"] | Float[Tensor, "row D"],
        asked: Selection,
        rows: Int[Tensor, " row"] | None = None,
        divided: Divided | None = None,
    ) -> list[tuple[str, Tensor, Tensor]]:
        """Return (modality, rows, logits) for each token group asked for.

        Rows number the asked slots in the flattened (B, M) table, and rise; decoded may be these.
        They, and how they are divided among groups, may be known already.
        """
        rows = asked.mask.flatten().nonzero()[:, 0] if rows is None else rows
        there = decoded if decoded.ndim == 2 else decoded.flatten(0, 1).index_select(0, rows)
        divided = divided or self.logits.divided(asked.slots.flatten()[rows])
        found = self.logits(there.to(self.mask_token.dtype), divided)
        return [(name, rows[part], logits) for name, part, logits in found]

    def forward(
        self, ids: Int[Tensor, "B S"], visible: Selection, asked: Selection
    ) -> list[tuple[str, Tensor, Tensor]]:
        """Encode, decode and score; see `predict`.

        Where gradients are wanted on a CPU nothing is padded, see `decode_packed`. Else objects go
        through the blocks in groups, see `decode_grouped`. The result does not depend on it.
        """
        if packs(self):
            return self.predict(decode_packed(self, ids, visible, asked), asked)
        # Before blocks: an accelerator is waited for, while it has little to do.
        rows = asked.mask.flatten().nonzero()[:, 0]
        divided = self.logits.divided(asked.slots.flatten()[rows])
        return self.predict(decode_grouped(self, ids, visible, asked), asked, rows, divided)

    def encode(self, tokens: Tokens) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """Encode all tokens given; differentiable.

        Returns
        -------
        vectors : FloatTensor, shape (B, N, D)
            One vector a slot of the modalities given; zero where the mask is False.
        mask : BoolTensor, shape (B, N)
            True where the object has the token.
        """
        encoded = self._encode_given(tokens)
        return encoded.tokens * encoded.mask[..., None], encoded.mask

    def slices(self, tokens: Tokens) -> dict[str, slice]:
        """Return where the tokens of each modality given are among the vectors of `encode`."""
        ordered = sorted(tokens, key=lambda name: int(self.slots_of(name)[0]))
        ends = torch.tensor([len(self.slots_of(name)) for name in ordered]).cumsum(0).tolist()
        return {
            name: slice(end - len(self.slots_of(name)), end)
            for name, end in zip(ordered, ends, strict=True)
        }

    def can_ask(self, given: Iterable[str]) -> tuple[str, ...]:
        """Return modalities of one ordinal token, quantities, that are not among those given."""
        return tuple(
            m.name
            for m in self.config.modalities
            if m.name not in given and [(g.kind, g.n_tokens) for g in m.groups] == [("ordinal", 1)]
        )

    def encode_and_ask(
        self, tokens: Tokens, asks: Sequence[str]
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"], Float[Tensor, "B A"]]:
        """Encode all tokens given, and say what the quantities asked for are expected to be.

        Parameters
        ----------
        tokens : Tokens
            What is known.
        asks : sequence of str
            Modalities among those of `can_ask`.

        Returns
        -------
        vectors, mask
            As from `encode`.
        answers : FloatTensor, shape (B, ANSWER_NUMBERS * len(asks))
            For each: expected standardised value, expected cosine of its rank, log of its spread.
        """
        encoded = self._encode_given(tokens)
        vectors = encoded.tokens * encoded.mask[..., None]
        if not asks:
            return vectors, encoded.mask, vectors.new_zeros(len(vectors), 0)
        slots = torch.stack([self.slots_of(name)[0] for name in asks])
        asked = slots.expand(len(vectors), -1)
        decoded = self.decode_slots(encoded, Selection(asked, torch.ones_like(asked).bool()))
        decoded = decoded.to(self.mask_token.dtype)
        answers = [expected_values(self.logits[n], decoded[:, i]) for i, n in enumerate(asks)]
        return vectors, encoded.mask, torch.cat(answers, dim=1)

    def select_given(self, tokens: Tokens) -> tuple[Int[Tensor, "B S"], Selection]:
        """Return the table of ids, and all slots of the modalities given that objects have."""
        ids, mask = self.lay_out(tokens)
        slots = torch.cat([self.slots_of(name) for name in tokens]).sort().values
        return ids, Selection(slots.expand(len(ids), -1), mask[:, slots])

    def _encode_given(self, tokens: Tokens) -> Encoded:
        return self.encode_slots(*self.select_given(tokens))


def layout_buffers(config: ModelConfig) -> dict[str, Tensor]:
    """Return what follows from the configuration: each slot's modality and place."""
    listed = config.modalities
    buffers = {
        "slot_modality": torch.cat([torch.full((m.n_tokens,), i) for i, m in enumerate(listed)]),
    }
    if config.positions == "fixed":
        vectors = [fixed_positions(m.grid, config.dim) for m in listed]
        buffers["fixed_positions"] = torch.cat(vectors)
    return buffers


def _check_vocabulary(ids: Tensor, modality) -> None:
    if ids.shape[1] != modality.n_tokens:
        raise ValueError(
            f"modality {modality.name!r} has {modality.n_tokens} tokens in this model; found "
            f"{ids.shape[1]}. Were they made by another codec?"
        )
    first = 0
    for group in modality.groups:
        part = ids[:, first : first + group.n_tokens]
        if part.numel() and int(part.max()) >= group.vocab_size:
            wrong = (part >= group.vocab_size).any(1).nonzero()[:, 0]
            raise ValueError(
                f"modality {modality.name!r}, tokens {first} … {first + group.n_tokens - 1}: ids "
                f"must be below {group.vocab_size}; found {int(part.max())}. The first of "
                f"{len(wrong)} such objects is object {int(wrong[0])}. Were they made by another "
                "codec? Use the one that this model came with"
            )
        first += group.n_tokens
