"""Scalar codecs of the peer with realistic tables, and its folders."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

LOG = {"SHAPE_R", "parallax"} | {f"phot_{b}_mean_flux" for b in ("g", "bp", "rp")}
LOG |= {f"FLUX_{b}" for b in ("G", "R", "I", "Z", "W1", "W2", "W3", "W4")}
XP = {"bp_coefficients", "rp_coefficients"}
RESERVOIR = 10_000


def values_of(name, count, rng):
    """Return values such as the quantity has, float32."""
    if name in XP:
        slope = 10.0 ** (3 - 3 * np.arange(55) / 54)
        flux = rng.lognormal(0, 1.5, size=(count, 1))
        values = flux * slope * (0.3 + rng.normal(size=(count, 55)))
    elif name in LOG:
        values = rng.lognormal(1, 1.5, size=count) - 0.3
    elif name == "Z":
        values = rng.gamma(2, 0.2, size=count)
    elif name in ("ra", "dec"):
        values = rng.uniform(0 if name == "ra" else -90, 360 if name == "ra" else 90, size=count)
    else:
        values = rng.normal(20, 2, size=count)
    return torch.from_numpy(values.astype(np.float32))


def config_of(name):
    if name == "Z":
        return {"codebook_size": 1024, "modality": name}
    config = {"codebook_size": 1024, "modality": name, "reservoir_size": RESERVOIR}
    if name in XP:
        functions = {"compression_fns": ["arcsinh"] * 2, "decompression_fns": ["sinh"] * 2}
        return config | functions | {"num_quantizers": 55}
    return config | ({"min_log_value": -3} if name in LOG else {})


def build(name, seed=0):
    """Return the peer's codec with a table of realistic values."""
    from aion.codecs import scalar as peer

    if name == "Z":
        return peer.GridScalarCodec(**config_of(name)).eval()
    kind = peer.ScalarCodec
    if name in LOG:
        kind = peer.LogScalarCodec
    if name in XP:
        kind = peer.MultiScalarCodec
    codec = kind(**config_of(name)).eval()
    values = values_of(name, RESERVOIR, np.random.default_rng(seed))
    codec.quantizer._update_reservoirs(values)
    return codec


def write(folder: Path, name, codec, *, old_names=False):
    """Write the folder of a codec as it was released."""
    home = folder / "codecs" / name
    home.mkdir(parents=True)
    (home / "config.json").write_text(json.dumps(config_of(name)))
    state = {k: v.contiguous() for k, v in codec.state_dict().items()}
    if old_names:
        state = {k.removeprefix("_"): v for k, v in state.items()}
    save_file(state, home / "model.safetensors")
    return folder
