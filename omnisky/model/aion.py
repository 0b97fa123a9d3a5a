"""Checkpoints as AION-1 released them (arXiv:2510.17960), read and written with the network here.

The released network is this room's with plain tables of token vectors and fixed positions, so a
checkpoint is a matter of names. What is dropped on reading: biases of norms (zero, they have none),
position vectors (computed), and the decoder's token vectors of grids, which no prediction uses (36
of 314 million numbers in Base).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from omnisky.codecs.aion import COMPAT, NAMES, load_aion
from omnisky.codecs.codec import Codec, TokenGroup
from omnisky.codecs.tokenizer import Tokenizer
from omnisky.codecs.tokens import Tokens
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.positions import fixed_positions
from omnisky.model.transformer import Selection, Transformer, layout_buffers
from omnisky.storage import CheckpointError, read_tensors, write_plain_folder

__all__ = [
    "DOMAINS",
    "Domain",
    "is_released",
    "read_released",
    "released_config",
    "released_context",
    "released_modalities",
    "released_tokenizer",
    "write_released",
]

_SEQUENCE = "catalog"
# Places that the release keeps for a sequence; a catalogue of 20 objects fills 100.
_PLACES = 512
# Default of the release's `encode`.
_RELEASED_BUDGET = 256


@dataclass(frozen=True)
class Domain:
    """Describe one of the release's token domains.

    Parameters
    ----------
    codec : str
        Folder of its codec.
    modality : int
        Which of the modalities of that codec (`omnisky.codecs.aion.NAMES`) it is.
    vocabulary : int
        Number of ids.
    grid : tuple of int
        Rows and columns of tokens; one number for a sequence.
    """

    codec: str
    modality: int = 0
    vocabulary: int = 1024
    grid: tuple[int, ...] = (1, 1)

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities here: the first names it, others mean the same."""
        every = NAMES[self.codec]
        return every if self.codec == "Z" else (every[self.modality],)


def _domains() -> dict[str, Domain]:
    image, spectrum = (4375, (24, 24)), (1024, (273, 1))
    named = {
        "tok_image": Domain("image", 0, *image),
        "tok_image_hsc": Domain("image", 1, *image),
        "tok_segmap": Domain("segmentation_map", vocabulary=1000, grid=(12, 12)),
        _SEQUENCE: Domain("catalog", vocabulary=3468, grid=(100,)),
        "tok_spectrum_desi": Domain("spectrum", 0, *spectrum),
        "tok_spectrum_sdss": Domain("spectrum", 1, *spectrum),
        "tok_z": Domain("Z", vocabulary=1025),
        "tok_xp_bp": Domain("bp_coefficients", grid=(55, 1)),
        "tok_xp_rp": Domain("rp_coefficients", grid=(55, 1)),
    }
    scalars = {
        **{f"tok_flux_{b}": f"FLUX_{b.upper()}" for b in "g r i z w1 w2 w3 w4".split()},
        **{f"tok_shape_{what}": f"SHAPE_{what.upper()}" for what in ("r", "e1", "e2")},
        "tok_ebv": "EBV",
        **{f"tok_a_{band}": f"a_{band}" for band in "grizy"},
        **{f"tok_mag_{band}": f"{band}_cmodel_mag" for band in "grizy"},
        **{f"tok_shape{ij}": f"i_sdssshape_shape{ij}" for ij in ("11", "22", "12")},
        **{f"tok_flux_{band}_gaia": f"phot_{band}_mean_flux" for band in ("g", "bp", "rp")},
        "tok_parallax": "parallax",
        "tok_ra": "ra",
        "tok_dec": "dec",
    }
    return named | {key: Domain(codec) for key, codec in scalars.items()}


# Token key of the release → what it is. 40 of them.
DOMAINS = _domains()

# What the network here is made for; anything else in a configuration would be another network.
_FIXED: dict[str, Any] = {
    "act_layer": "SiLU",
    "gated_mlp": True,
    "mlp_bias": False,
    "norm_bias": False,
    "proj_bias": False,
    "qkv_bias": False,
    "decoder_causal_mask": False,
    "decoder_sep_mask": True,
    "num_register_tokens": 0,
    "share_modality_embeddings": True,
}
# Those that the release writes down; the rest are its defaults.
_WRITTEN = ("act_layer", "gated_mlp", "mlp_bias", "norm_bias", "proj_bias", "qkv_bias")
_SIZES = ("dim", "encoder_depth", "decoder_depth", "num_heads")


def is_released(folder: Path) -> bool:
    """Return True if a folder holds a checkpoint in the release's layout."""
    try:
        found = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "domains_in" in found


def released_config(found: Mapping[str, Any], compat: str | None = None) -> ModelConfig:
    """Return our configuration for one of the release.

    Parameters
    ----------
    found : mapping
        The release's ``config.json``.
    compat : {"aion-0.0.2"}, optional
        Also reproduce what that release does wrong.

    Raises
    ------
    CheckpointError
        If it asks for a network of another kind, names an unknown domain, or lacks a size.
    """
    if lacking := [key for key in (*_SIZES, "domains_in", "domains_out") if key not in found]:
        raise CheckpointError(f"the configuration lacks {', '.join(lacking)}")
    other = {k: found[k] for k, v in _FIXED.items() if found.get(k, v) != v}
    if other or set(found["domains_in"]) != set(found["domains_out"]):
        raise CheckpointError(
            f"the network of this configuration is not one of AION-1: found {other or 'domains'}; "
            f"expected {({k: _FIXED[k] for k in other}) or 'the same domains in and out'}"
        )
    if unknown := sorted(set(found["domains_in"]) - set(DOMAINS)):
        raise CheckpointError(f"unknown domains {', '.join(unknown)}; known: {', '.join(DOMAINS)}")
    return ModelConfig(
        **{key: found[key] for key in _SIZES},
        mlp_ratio=found.get("mlp_ratio", 4.0),
        qk_norm=found.get("qk_norm", False),
        positions="fixed",
        compat=compat or "",
        modalities=released_modalities(found["domains_in"]),
    )


def released_modalities(keys: Iterable[str] = DOMAINS) -> tuple[ModalityTokens, ...]:
    """Return domains of the release, all 40 by default, as modalities with its numbers."""
    wanted = set(keys)
    return tuple(_modality(key) for key in DOMAINS if key in wanted)


def _modality(key: str) -> ModalityTokens:
    domain = DOMAINS[key]
    tokens = domain.grid[0] if len(domain.grid) == 1 else domain.grid[0] * domain.grid[1]
    return ModalityTokens(
        name=domain.names[0],
        # The release numbers domains by a hash of their key; its masks hold these numbers.
        id=int(hashlib.sha256(key.encode()).hexdigest(), 16) % 2**15,
        groups=(TokenGroup(kind="code", n_tokens=tokens, vocab_size=domain.vocabulary),),
        also=domain.names[1:],
        grid=domain.grid,
    )


def read_released(folder: Path, *, compat: str | None = None) -> Transformer:
    """Read a checkpoint folder of the release: ``config.json`` and ``model.safetensors``.

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
    network.load_state_dict(_ours(tensors, config, network), assign=True)
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


def released_tokenizer(folder: Path, compat: str | None = None) -> Tokenizer | None:
    """Load the codecs in ``<folder>/codecs/``, each once for all its modalities; None without any.

    Raises
    ------
    CheckpointError
        If a codec is damaged.
    """
    codecs: dict[str, Codec] = {}
    for name, modalities in NAMES.items():
        if (folder / "codecs" / name / "config.json").is_file():
            codec = load_aion(folder / "codecs" / name, compat=compat)
            codecs |= {modality: codec.of(modality) for modality in modalities}
    return Tokenizer(codecs) if codecs else None


def _ours(tensors: dict[str, Tensor], config: ModelConfig, network: Transformer) -> dict:
    """Return the release's tensors under our names; every one is used or known to be unused."""
    wanted, left = network.state_dict(), dict(tensors)
    found: dict[str, Tensor] = {}
    for ours, theirs in _names(wanted, config):
        given = [left.pop(name) for name in theirs if name in left]
        if not given:
            raise CheckpointError(f"the checkpoint lacks {theirs[0]}; is the file complete?")
        if len(given) > 1 and not torch.equal(given[0], given[1]):
            raise CheckpointError(f"{' and '.join(theirs)} differ; AION-1 shares them")
        shape = wanted[ours].shape
        if given[0].numel() != shape.numel():
            raise CheckpointError(
                f"{theirs[0]} has shape {tuple(given[0].shape)}; expected {tuple(shape)}"
            )
        found[ours] = given[0].reshape(shape)
    strange = [name for name, tensor in left.items() if not _unused(name, tensor)]
    if strange:
        raise CheckpointError(f"tensors that no AION-1 network has: {', '.join(strange)}")
    return found


def _names(wanted: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, list[str]]]:
    """Yield each name of ours with the names that the release may use for it."""
    keys = {modality.name: key for key in DOMAINS for modality in [_modality(key)]}
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


def write_released(network: Transformer, folder: str | os.PathLike) -> Path:
    """Write a network in the release's layout, which its own code reads.

    The decoder's token vectors of grids, which no prediction uses, are written as zeros.

    Parameters
    ----------
    network : Transformer
        Of domains of the release, with fixed positions.
    folder : path
        Folder to make; it must not exist.

    Raises
    ------
    FileExistsError
        If the folder exists.
    ValueError
        If the network has modalities or parts that the release does not have.
    """
    config = network.config
    keys = {DOMAINS[key].names[0]: key for key in DOMAINS}
    strange = [m.name for m in config.modalities if keys.get(m.name) is None]
    if strange or config.positions != "fixed":
        raise ValueError(
            f"AION-1's layout has no {', '.join(strange) or 'learned positions'}; use "
            "save_pretrained"
        )
    listed = [keys[m.name] for m in config.modalities]
    tensors = dict(_theirs(network))
    for key in listed:
        grid = (_PLACES,) if len(DOMAINS[key].grid) == 1 else DOMAINS[key].grid
        tokens = tensors[f"encoder_embeddings.{key}.token_emb.weight"]
        tensors[f"decoder_embeddings.{key}.token_emb.weight"] = torch.zeros_like(tokens)
        for side in ("encoder", "decoder"):
            positions = fixed_positions(grid, config.dim)[None]
            tensors[f"{side}_embeddings.{key}.pos_emb"] = positions
    described = {
        **{k: v for k, v in _FIXED.items() if k in _WRITTEN},
        **{size: getattr(config, size) for size in (*_SIZES, "mlp_ratio", "qk_norm")},
        "domains_in": sorted(listed),
        "domains_out": sorted(listed),
    }
    return write_plain_folder(folder, dict(sorted(described.items())), tensors)


def _theirs(network: Transformer) -> Iterator[tuple[str, Tensor]]:
    wanted = network.state_dict()
    for ours, names in _names(wanted, network.config):
        tensor = wanted[ours]
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
        return tensor.numel() == expected.numel() and torch.allclose(
            tensor.reshape(expected.shape).float(), expected, atol=1e-4
        )
    return side == "decoder" and owner == "token_emb"
