"""The token domains of AION-1 (arXiv:2510.17960), and its configurations as ours."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from omnisky.codecs.codec import TokenGroup
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.pretrained import NAMES
from omnisky.storage import CheckpointError

__all__ = [
    "DOMAINS",
    "FIXED",
    "SEQUENCE",
    "SIZES",
    "Domain",
    "released_config",
    "released_layout",
    "released_modalities",
]

# The catalogue's domain, the only sequence.
SEQUENCE = "catalog"


@dataclass(frozen=True)
class Domain:
    """Describe one of the release's token domains.

    Parameters
    ----------
    codec : str
        Folder of its codec.
    modality : int
        Which of the modalities of that codec (`omnisky.pretrained.NAMES`) it is.
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
        SEQUENCE: Domain("catalog", vocabulary=3468, grid=(100,)),
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
