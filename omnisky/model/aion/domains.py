"""AION-1's configurations (arXiv:2510.17960) as ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from omnisky.codecs.codec import TokenGroup
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.pretrained import DOMAINS
from omnisky.storage import CheckpointError

__all__ = ["FIXED", "SIZES", "released_config", "released_layout", "released_modalities"]

# What the network here is made for; anything else in a configuration would be another network.
FIXED: dict[str, Any] = {
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
SIZES = ("dim", "encoder_depth", "decoder_depth", "num_heads")


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
    if lacking := [key for key in (*SIZES, "domains_in", "domains_out") if key not in found]:
        raise CheckpointError(f"the configuration lacks {', '.join(lacking)}")
    other = {k: found[k] for k, v in FIXED.items() if found.get(k, v) != v}
    if other or set(found["domains_in"]) != set(found["domains_out"]):
        raise CheckpointError(
            f"the network of this configuration is not one of AION-1: found {other or 'domains'}; "
            f"expected {({k: FIXED[k] for k in other}) or 'the same domains in and out'}"
        )
    if unknown := sorted(set(found["domains_in"]) - set(DOMAINS)):
        raise CheckpointError(f"unknown domains {', '.join(unknown)}; known: {', '.join(DOMAINS)}")
    return ModelConfig(
        **{key: found[key] for key in SIZES},
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


def released_layout(names: Iterable[str]) -> tuple[ModalityTokens, ...]:
    """Return the domains of the release that these modalities are part of, with its numbers.

    Raises
    ------
    ValueError
        If the release has no such modality.
    """
    wanted = set(names)
    if unknown := wanted.difference(*(domain.names for domain in DOMAINS.values())):
        raise ValueError(
            f"AION-1's layout has no {', '.join(sorted(unknown))}; leave them out, or use the "
            "layout 'own'"
        )
    return released_modalities(k for k, d in DOMAINS.items() if wanted.intersection(d.names))


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
