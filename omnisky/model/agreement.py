"""What a network and the codecs of its modalities must agree on: tokens, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from omnisky.codecs.codec import Codec, LearnedCodec
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.embeddings import has_values, set_values
from omnisky.model.transformer import Transformer

__all__ = ["check_codecs", "check_values", "extended_network", "move", "tell_values"]


def check_codecs(config: ModelConfig, codecs: Mapping[str, Codec]) -> None:
    """Check that codecs make the tokens that a network of this configuration takes.

    Raises
    ------
    ValueError
        If one is of a modality that it does not know, or makes other tokens.
    """
    ours = config.by_name
    if strange := sorted(set(codecs) - set(ours)):
        raise ValueError(
            f"the tokenizer has codecs of {', '.join(strange)}, which the transformer does not "
            f"know; it knows {', '.join(sorted(ours))}"
        )
    for name, codec in codecs.items():
        if not _fits(codec, ours[name], config):
            raise ValueError(
                f"the codec of {name!r} makes {_said(codec.groups)}; the transformer takes "
                f"{_said(ours[name].groups)}. Use the codec that it was trained with"
            )


def _fits(codec: Codec, modality: ModalityTokens, config: ModelConfig) -> bool:
    if codec.groups == modality.groups:
        return True
    # In AION-1's layout ids are plain rows of a table, and some are never used. Those of a sequence
    # say which column they are of.
    plain = all(group.kind == "code" and not group.levels for group in modality.groups)
    rows = min(group.vocab_size for group in modality.groups)
    fixed = config.positions == "fixed" and len(modality.grid) == 2
    return plain and fixed and codec.n_tokens == modality.n_tokens and codec.vocab_size <= rows


def _said(groups: tuple) -> str:
    parts = [
        f"{g.n_tokens} {g.kind} tokens of {g.vocab_size} ids"
        + (f" (levels {', '.join(map(str, g.levels))})" if g.levels else "")
        for g in groups
    ]
    return " and ".join(parts)


def extended_network(network: Transformer, codecs: Mapping[str, Codec]) -> Transformer:
    """Return a network with the modalities of more codecs appended, on the CPU.

    Its number format and mode are those of the one given.

    Parameters
    ----------
    network : Transformer
        What is known is a copy of its weights; the rest is new.
    codecs : mapping of str to Codec
        By modality, old ones and new ones.

    Raises
    ------
    ValueError
        If a codec of an old modality has other tokens, or they mean other numbers.
    """
    larger = Transformer(network.config.with_codecs(codecs))
    check_codecs(larger.config, codecs)
    larger.load_state_dict(network.state_dict(), strict=False)
    larger.released_drawing = network.released_drawing
    new = larger.names[len(network.names) :]
    check_values(larger, {name: codec for name, codec in codecs.items() if name not in new})
    tell_values(larger, {name: codec for name, codec in codecs.items() if name in new})
    larger.cast(network.dtype)
    larger.rounded = network.rounded
    return larger.train(network.training)


def move(network: Transformer, codecs: Mapping[str, Codec], device: torch.device) -> None:
    """Move a network and those of learned codecs; what is looked up in tables stays on the CPU.

    Parameters
    ----------
    network : Transformer
        What takes the tokens; it fetches them from wherever codecs leave them.
    codecs : mapping of str to Codec
        By modality; one may serve several.
    device : torch.device
        Where to.
    """
    network.to(device)
    learned = [codec for codec in codecs.values() if isinstance(codec, LearnedCodec)]
    # The codec of several modalities is there once for each, with the same weights.
    for codec in {id(next(codec.parameters())): codec for codec in learned}.values():
        codec.to(device)


def tell_values(network: Transformer, codecs: Mapping[str, Codec]) -> None:
    """Tell a network what the ids of these modalities mean."""
    for name, values in _meanings(codecs).items():
        set_values(network.embeddings[name], values)
        set_values(network.logits[name], values)


def check_values(network: Transformer, codecs: Mapping[str, Codec]) -> None:
    """Check that ids mean to the codecs what they mean to the network.

    Raises
    ------
    ValueError
        If they do not; the network would read other numbers than were measured.
    """
    ours = network.config.by_name
    for name, values in _meanings(codecs).items():
        if not has_values(network.embeddings[ours[name].name], values):
            raise ValueError(
                f"the codec of {name!r} has other bins than the transformer was trained with: the "
                "same ids would mean other numbers. Use the codec that it was trained with"
            )


def _meanings(codecs: Mapping[str, Codec]) -> dict[str, Tensor]:
    found = {name: codec.values() for name, codec in codecs.items()}
    return {name: values for name, values in found.items() if values is not None}
