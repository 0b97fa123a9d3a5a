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

from omnisky.codecs.tokens import Tokens
from omnisky.modalities import UnknownModalityError
from omnisky.model.blocks import DecoderBlock, EncoderBlock, initialise, norm
from omnisky.model.config import ModelConfig
from omnisky.model.embeddings import (
    ModalityEmbedding,
    ModalityLogits,
    expected_values,
)

__all__ = ["Encoded", "Selection", "Transformer"]

# Groups of similar length a batch is encoded in; more of them save little and cost calls.
_GROUPS = 4


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

    def trimmed(self, rows: Tensor) -> Selection:
        """Return the selection of some objects, as wide as they need.

        Selections made by `sample_masks` name their slots first and pad behind.
        """
        here = self[rows]
        width = max(int(here.mask.any(0).nonzero().max()) + 1, 1) if bool(here.mask.any()) else 1
        return Selection(here.slots[:, :width], here.mask[:, :width])


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


class Transformer(nn.Module):
    """Encode visible slots, decode requested ones.

    Parameters
    ----------
    config : ModelConfig
        Sizes and modalities; at least one modality.
    """

    slot_modality: Tensor
    slot_position: Tensor

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
        self.decoder = nn.ModuleList(DecoderBlock(*block) for _ in range(config.decoder_depth))
        self.encoder_norm, self.decoder_norm = norm(dim), norm(dim)
        self.decoder_proj_context = nn.Linear(dim, dim)
        initialise(self)
        self.mask_token = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        listed = config.modalities
        self.embeddings = nn.ModuleDict({m.name: ModalityEmbedding(m, dim) for m in listed})
        self.logits = nn.ModuleDict({m.name: ModalityLogits(m, dim) for m in listed})
        n_slots = sum(m.n_tokens for m in listed)
        self.modality_vectors = nn.ParameterDict(
            {m.name: nn.Parameter(torch.randn(dim) * 0.02) for m in listed}
        )
        self.position_vectors = nn.ParameterDict(
            {m.name: nn.Parameter(torch.randn(m.n_tokens, dim) * 0.02) for m in listed}
        )
        modality = torch.cat([torch.full((m.n_tokens,), i) for i, m in enumerate(listed)])
        position = torch.cat([torch.arange(m.n_tokens) for m in listed])
        assert len(modality) == n_slots
        self.register_buffer("slot_modality", modality, persistent=False)
        self.register_buffer("slot_position", position, persistent=False)

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
            If a modality has another number of tokens than the model expects, or ids beyond its
            vocabulary.
        """
        unknown = [name for name in tokens if name not in self.names]
        if unknown:
            raise UnknownModalityError(
                f"this model does not know {', '.join(unknown)}; it knows {', '.join(self.names)}"
            )
        ids, masks = [], []
        for modality in self.config.modalities:
            shape = (len(tokens), modality.n_tokens)
            if modality.name not in tokens:
                ids.append(torch.zeros(shape, dtype=torch.long))
                masks.append(torch.zeros(shape, dtype=torch.bool))
                continue
            given = tokens[modality.name]
            _check_vocabulary(given, modality)
            ids.append(given)
            masks.append(tokens.mask[modality.name])
        device = self.slot_modality.device
        return torch.cat(ids, 1).to(device), torch.cat(masks, 1).to(device)

    def place_vectors(self) -> Float[Tensor, "S D"]:
        """Return position plus modality vector of every slot."""
        return torch.cat([self.position_vectors[n] + self.modality_vectors[n] for n in self.names])

    def embed_slots(self, ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """Return the token vectors of all slots, without place vectors."""
        parts = ids.split([m.n_tokens for m in self.config.modalities], dim=1)
        return torch.cat(
            [self.embeddings[name](part) for name, part in zip(self.names, parts, strict=True)], 1
        )

    def encode_slots(self, ids: Int[Tensor, "B S"], visible: Selection) -> Encoded:
        """Encode the visible slots of each object."""
        place = self.place_vectors()[visible.slots]
        vectors = self.embed_slots(ids)
        x = torch.gather(vectors, 1, visible.slots[..., None].expand(-1, -1, vectors.shape[-1]))
        x = x + place
        mask = None if bool(visible.mask.all()) else visible.mask[:, None, :]
        for block in self.encoder:
            x = block(x, mask)
        x = self.encoder_norm(x)
        return Encoded(x, self.decoder_proj_context(x) + place, visible.mask)

    def decode_slots(self, encoded: Encoded, asked: Selection) -> Float[Tensor, "B M D"]:
        """Return decoder outputs for the asked slots.

        A slot attends to the asked slots of its own modality only, so that what is predicted for
        one modality does not depend on which others are asked for at the same time.
        """
        x = self.mask_token + self.place_vectors()[asked.slots]
        modality = self.slot_modality[asked.slots]
        self_mask = (modality[:, :, None] == modality[:, None, :]) & asked.mask[:, None, :]
        context_mask = encoded.mask[:, None, :]
        for block in self.decoder:
            x = block(x, encoded.context, self_mask, context_mask)
        return self.decoder_norm(x)

    def predict(
        self, decoded: Float[Tensor, "B M D"], asked: Selection
    ) -> list[tuple[str, Tensor, Tensor]]:
        """Return (modality, rows, logits) for each token group asked for.

        Rows number the asked slots in the flattened (B, M) table.
        """
        flat, kept = decoded.flatten(0, 1), asked.mask.flatten()
        modality = self.slot_modality[asked.slots].flatten()
        position = self.slot_position[asked.slots].flatten()
        found = []
        for number, name in enumerate(self.names):
            rows = ((modality == number) & kept).nonzero()[:, 0]
            if len(rows):
                for part, logits in self.logits[name](flat[rows], position[rows]):
                    found.append((name, rows[part], logits))
        return found

    def forward(
        self, ids: Int[Tensor, "B S"], visible: Selection, asked: Selection
    ) -> list[tuple[str, Tensor, Tensor]]:
        """Encode, decode and score; see `predict`.

        Objects are encoded in groups of similar numbers of visible slots, so that little padding
        is computed; the result does not depend on it.
        """
        order = visible.mask.sum(1).argsort()
        decoded = []
        for rows in order.chunk(_GROUPS):
            group = visible.trimmed(rows)
            decoded.append(self.decode_slots(self.encode_slots(ids[rows], group), asked[rows]))
        return self.predict(torch.cat(decoded)[order.argsort()], asked)

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
        numbers = [self.names.index(name) for name in asks]
        slots = torch.stack([(self.slot_modality == i).nonzero()[0, 0] for i in numbers])
        asked = slots.expand(len(vectors), -1)
        decoded = self.decode_slots(encoded, Selection(asked, torch.ones_like(asked).bool()))
        answers = [expected_values(self.logits[n], decoded[:, i]) for i, n in enumerate(asks)]
        return vectors, encoded.mask, torch.cat(answers, dim=1)

    def _encode_given(self, tokens: Tokens) -> Encoded:
        ids, mask = self.lay_out(tokens)
        given = [i for i, name in enumerate(self.names) if name in tokens]
        slots = torch.isin(self.slot_modality, torch.tensor(given, device=ids.device)).nonzero()[
            :, 0
        ]
        visible = Selection(slots.expand(len(ids), -1), mask[:, slots])
        return self.encode_slots(ids, visible)

    def set_dropout(self, rate: float) -> None:
        """Leave out this share of what each part of each block says, in training mode only."""
        for block in (*self.encoder, *self.decoder):
            assert isinstance(block, (EncoderBlock, DecoderBlock))
            block.dropout = rate

    def hidden_matrices(self) -> set[str]:
        """Return names of the square-ish matrices inside the blocks, which Muon may move."""
        return {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim == 2 and name.startswith(("encoder.", "decoder."))
        }

    def no_weight_decay(self) -> set[str]:
        """Return parameters that the optimizer must not decay: vectors, not matrices."""
        return {
            name
            for name, _ in self.named_parameters()
            if name == "mask_token" or name.startswith(("modality_vectors", "position_vectors"))
        }


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
            raise ValueError(
                f"modality {modality.name!r}, tokens {first} … {first + group.n_tokens - 1}: ids "
                f"must be below {group.vocab_size}; found {int(part.max())}"
            )
        first += group.n_tokens
