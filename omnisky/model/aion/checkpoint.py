"""Checkpoints as AION-1 released them (arXiv:2510.17960), read and written with the network here.

The released network is this room's with plain tables of token vectors and fixed positions, so a
checkpoint is a matter of names. What is dropped on reading: biases of norms (zero, they have none),
position vectors (computed), and the decoder's token vectors of grids, which no prediction uses (36
of 314 million numbers in Base). Those of the catalogue, which the release would use to draw one
token after the other, are kept aside and written again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from omnisky.codecs.aion import COMPAT, load_aion
from omnisky.codecs.codec import Codec
from omnisky.codecs.loading import load_codec
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens
from omnisky.model.aion.domains import FIXED, SIZES, released_config
from omnisky.model.compact import refuse_rounded
from omnisky.model.config import ModelConfig
from omnisky.model.positions import fixed_positions
from omnisky.model.transformer import Selection, Transformer, layout_buffers
from omnisky.pretrained import DOMAINS, NAMES, SEQUENCE, codec_folders, codec_modalities, is_own
from omnisky.storage import CheckpointError, read_tensors, write_plain_folder

__all__ = ["read_released", "released_context", "released_tokenizer", "write_released"]

# Places that the release keeps for a sequence; a catalogue of 20 objects fills 100.
_PLACES = 512
# Tensors named in a message.
_SHOWN = 3
# Default of the release's `encode`.
_RELEASED_BUDGET = 256
# Vectors with which the release's decoder would take drawn tokens of a catalogue.
_DRAWING = f"decoder_embeddings.{SEQUENCE}.token_emb.weight"
# What the release writes down of what is fixed; the rest are its defaults.
_WRITTEN = ("act_layer", "gated_mlp", "mlp_bias", "norm_bias", "proj_bias", "qkv_bias")


def read_released(folder: Path, *, compat: str | None = None) -> Transformer:
    """Read a checkpoint folder of the release: ``config.json`` and ``model.safetensors``.

    Weights of fewer bits come in float32, as positions are computed; `Model.cast` goes back.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    CheckpointError
        If it is damaged, pickled or truncated, or is not a network of AION-1.
    """
    if compat not in (None, COMPAT):
        raise ValueError(f"compat must be {COMPAT!r} or left out; found {compat!r}")
    tensors = read_tensors(folder)
    config = released_config(json.loads((folder / "config.json").read_text()), compat)
    with torch.device("meta"):
        network = Transformer(config)
    network.load_state_dict(_ours(tensors, network), assign=True)
    if _DRAWING in tensors:
        network.released_drawing = tensors[_DRAWING].float()
    # Made on no device along with the weights.
    for name, buffer in layout_buffers(config).items():
        setattr(network, name, buffer)
    return network.eval()


def released_context(network: Transformer, tokens: Tokens) -> Float[Tensor, "object token D"]:
    """Return what AION-1 0.0.2 returns as embeddings: the decoder's context of the first tokens.

    Only the first 256 tokens of each object count, in the order in which modalities are given, and
    rows of tokens that an object lacks are there without a mask. `Model.embed` does neither.
    """
    ids, mask = network.lay_out(tokens)
    slots = torch.cat([network.slots_of(name) for name in tokens])
    order = (~mask[:, slots]).int().argsort(dim=1, stable=True)[:, :_RELEASED_BUDGET]
    visible = Selection(slots[order], mask[:, slots].gather(1, order))
    return network.encode_slots(ids, visible).context


def released_tokenizer(
    folder: Path, modalities: Collection[str], compat: str | None = None
) -> Tokenizer | None:
    """Load codecs of these modalities in ``<folder>/codecs/``, each once; None without any.

    They may be the release's, or those of omnisky that `Model.save_pretrained` wrote beside it.

    Raises
    ------
    CheckpointError
        If a codec is damaged.
    """
    found = {path.name: path for path in codec_folders(folder / "codecs")}
    codecs: dict[str, Codec] = {}
    for name in [*(n for n in NAMES if n in found), *(n for n in found if n not in NAMES)]:
        path = found[name]
        if set(modalities).isdisjoint(codec_modalities(path)):
            continue
        codec = load_codec(path) if is_own(path) else load_aion(path, compat=compat)
        codecs |= {modality: codec.of(modality) for modality in codec.modalities}
    return Tokenizer(codecs) if codecs else None


def _ours(tensors: dict[str, Tensor], network: Transformer) -> dict:
    """Return the release's tensors under our names; every one is used or known to be unused."""
    wanted, left = network.state_dict(), dict(tensors)
    found: dict[str, Tensor] = {}
    for ours, theirs in _names(wanted):
        given = [left.pop(name) for name in theirs if name in left]
        if not given:
            raise CheckpointError(f"the checkpoint lacks {theirs[0]}; is the file complete?")
        if len(given) > 1 and not torch.equal(given[0], given[1]):
            raise CheckpointError(f"{' and '.join(theirs)} differ; AION-1 shares them")
        shape = wanted[ours].shape
        if given[0].numel() != shape.numel():
            raise CheckpointError(
                f"{theirs[0]} has shape {tuple(given[0].shape)}; expected {tuple(shape)}. Is "
                "model.safetensors of another network than config.json?"
            )
        if not bool(torch.isfinite(given[0]).all()):
            raise CheckpointError(
                f"{theirs[0]} holds numbers that are not finite: the network could say nothing. "
                "Take the checkpoint of an earlier step, or get the file again"
            )
        found[ours] = given[0].reshape(shape).float()
    strange = [name for name, tensor in left.items() if not _unused(name, tensor)]
    if strange:
        _check_depth(strange, network.config)
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise CheckpointError(
            f"tensors that no AION-1 network has: {', '.join(strange[:_SHOWN])}{more}; is "
            "model.safetensors of another network than config.json?"
        )
    return found


def _check_depth(names: Iterable[str], config: ModelConfig) -> None:
    """Refuse tensors of blocks beyond the last."""
    for room, depth in (("encoder", config.encoder_depth), ("decoder", config.decoder_depth)):
        numbers = [int(n[1]) for n in (re.match(rf"{room}\.(\d+)\.", n) for n in names) if n]
        if max(numbers, default=0) >= depth:
            raise CheckpointError(
                f"the checkpoint has {room} blocks up to number {max(numbers)}, but its "
                f"config.json has {room}_depth {depth}, which ends at {depth - 1}; get both files "
                "of one network"
            )


def _names(wanted: Mapping[str, Tensor]) -> Iterator[tuple[str, list[str]]]:
    """Yield each name of ours with the names that the release may use for it."""
    keys = {domain.names[0]: key for key, domain in DOMAINS.items()}
    for name in wanted:
        room, _, rest = name.partition(".")
        if room not in ("embeddings", "logits", "modality_vectors"):
            yield name, [name]
            continue
        key = keys[rest.partition(".")[0]]
        if room == "embeddings":
            yield name, [f"encoder_embeddings.{key}.token_emb.weight"]
        elif room == "logits":
            yield name, [f"decoder_embeddings.{key}.to_logits.weight"]
        else:
            # Stored once or twice, under either name.
            yield name, [f"{side}_embeddings.{key}.mod_emb" for side in ("decoder", "encoder")]


def write_released(
    network: Transformer,
    folder: str | os.PathLike,
    *,
    extra: Callable[[Path], object] | None = None,
) -> Path:
    """Write a network in the release's layout, which its own code reads.

    The decoder's token vectors of grids, which no prediction uses, are written as zeros; those of
    the catalogue as they were read from this layout, the only one to keep them, else zeros.

    Parameters
    ----------
    network : Transformer
        Of domains of the release, with fixed positions.
    folder : path
        Folder to make; it must not exist.
    extra : callable, optional
        Called with the folder under construction to add files.

    Raises
    ------
    FileExistsError
        If the folder exists.
    ValueError
        If the network has modalities or parts that the release does not have, or its weights were
        rounded by a cast.
    """
    refuse_rounded(network, "saved as if they were exact", "save")
    config = network.config
    keys = {DOMAINS[key].names[0]: key for key in DOMAINS}
    strange = [m.name for m in config.modalities if keys.get(m.name) is None]
    if strange or config.positions != "fixed":
        raise ValueError(
            f"AION-1's layout has no {', '.join(strange) or 'learned positions'}; save with "
            "layout='own'"
        )
    listed = [keys[m.name] for m in config.modalities]
    tensors = dict(_theirs(network))
    for key in listed:
        grid = (_PLACES,) if len(DOMAINS[key].grid) == 1 else DOMAINS[key].grid
        tokens = tensors[f"encoder_embeddings.{key}.token_emb.weight"]
        unused = torch.zeros_like(tokens)
        kept = network.released_drawing if key == SEQUENCE else None
        tensors[f"decoder_embeddings.{key}.token_emb.weight"] = unused if kept is None else kept
        for side in ("encoder", "decoder"):
            positions = fixed_positions(grid, config.dim)[None]
            tensors[f"{side}_embeddings.{key}.pos_emb"] = positions
    described = {
        **{k: v for k, v in FIXED.items() if k in _WRITTEN},
        **{size: getattr(config, size) for size in (*SIZES, "mlp_ratio", "qk_norm")},
        "domains_in": sorted(listed),
        "domains_out": sorted(listed),
    }
    return write_plain_folder(folder, dict(sorted(described.items())), tensors, extra=extra)


def _theirs(network: Transformer) -> Iterator[tuple[str, Tensor]]:
    wanted = network.state_dict()
    for ours, names in _names(wanted):
        tensor = wanted[ours].float()
        yield names[0], tensor.reshape(1, 1, -1) if names[0].endswith("mod_emb") else tensor
        owner, _, last = names[0].rpartition(".")
        if last == "weight" and "norm" in owner.rpartition(".")[2]:
            yield f"{owner}.bias", torch.zeros_like(tensor)


def _unused(name: str, tensor: Tensor) -> bool:
    """Return True for a tensor that a released checkpoint holds and that says nothing new."""
    rest, _, last = name.rpartition(".")
    owner = rest.rpartition(".")[2]
    if last == "bias" and "norm" in owner:
        return not bool(tensor.any())
    side, _, rest = name.partition("_embeddings.")
    domain = DOMAINS.get(rest.partition(".")[0])
    if domain is None or side not in ("encoder", "decoder"):
        return False
    if last == "pos_emb":
        grid = (_PLACES,) if len(domain.grid) == 1 else domain.grid
        expected = fixed_positions(grid, tensor.shape[-1])
        close = max(1e-4, torch.finfo(tensor.dtype).eps)
        return tensor.numel() == expected.numel() and torch.allclose(
            tensor.reshape(expected.shape).float(), expected, atol=close
        )
    return side == "decoder" and owner == "token_emb"
