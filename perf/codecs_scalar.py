"""Measure how fast scalars become tokens and back, beside polymathic-aion; write JSON.

    python perf/codecs_scalar.py --out perf/results/codecs_scalar.json

Both sides have the same tables and the same values, take turns, and the median of all turns counts;
the least time stands beside it, for busy machines.
Nine scalars of photometry go from typed observations to tokens and back: ours through `Tokenizer`,
which also checks for absent values and for values outside the trained range; "encode and read"
also takes the tensor of every modality and its mask out of the tokens. The peer as shipped is its
CodecManager, with the codecs given to it, since there is no network; tuned is a bare loop over its
codecs without any checks. 55 XP coefficients go through the codec of one modality on both sides.
Tokens are compared: those that differ are counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aion import modalities as peer_modalities
from aion.codecs import scalar as peer
from aion.codecs.manager import CodecManager
from safetensors.torch import save_file

from omnisky.bench.cards import environment
from omnisky.codecs import Codec, Tokenizer
from omnisky.modalities import Coefficients, Observations, Scalar

RESERVOIR = 100_000
FLUXES = ("G", "R", "I", "Z", "W1", "W2", "W3", "W4")
# Ours → folder of the peer and its class of modality.
NAMES = {
    **{
        f"legacysurvey_flux_{b.lower()}": (f"FLUX_{b}", f"LegacySurveyFlux{b.title()}")
        for b in FLUXES
    },
    "legacysurvey_ebv": ("EBV", "LegacySurveyEBV"),
}
XP = ("gaia_xp_bp", "bp_coefficients", "GaiaXpBp")


def values(folder: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return such values as the quantity has, float32; no negative fluxes."""
    if folder == XP[1]:
        slope = 10.0 ** (3 - 3 * np.arange(55) / 54)
        drawn = rng.lognormal(0, 1.5, (count, 1)) * slope * (0.3 + rng.normal(size=(count, 55)))
    elif folder == "EBV":
        drawn = rng.lognormal(-3.0, 0.6, count)
    else:
        drawn = rng.lognormal(1.0, 1.5, count)
    return drawn.astype(np.float32)


def build(folder: str, rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """Return the peer's codec, with a table of such values, and its configuration."""
    config: dict[str, Any] = {
        "codebook_size": 1024,
        "modality": folder,
        "reservoir_size": RESERVOIR,
    }
    kind = peer.ScalarCodec
    if folder.startswith("FLUX"):
        kind, config = peer.LogScalarCodec, config | {"min_log_value": -3}
    if folder == XP[1]:
        kind = peer.MultiScalarCodec
        functions = {"compression_fns": ["arcsinh"] * 2, "decompression_fns": ["sinh"] * 2}
        config |= functions | {"num_quantizers": 55}
    codec = kind(**config).eval()
    codec.quantizer._update_reservoirs(torch.from_numpy(values(folder, RESERVOIR, rng)))
    return codec, config


def ours(folder: str, codec: Any, config: dict[str, Any], name: str, root: Path) -> Codec:
    """Return our codec of the peer's folder."""
    home = root / "codecs" / folder
    home.mkdir(parents=True)
    (home / "config.json").write_text(json.dumps(config))
    save_file(codec.state_dict(), home / "model.safetensors")
    return Codec.from_pretrained(root, modality=name)


def turns(tasks: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Return median and least microseconds of tasks that take turns, ten calls each."""
    found: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        for _ in range(3):
            task()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, task in tasks.items():
            for _ in range(10):
                start = time.perf_counter()
                task()
                found[name].append(time.perf_counter() - start)
    median = {name: 1e6 * statistics.median(taken) for name, taken in found.items()}
    return median | {f"{name}_least": 1e6 * min(taken) for name, taken in found.items()}


def read_all(tokens: Any) -> list[Any]:
    """Take every tensor out of tokens."""
    return [(ids, tokens.mask[name]) for name, ids in tokens.items()]


def photometry(count: int, tokenizer: Tokenizer, peers: dict[str, Any], seconds: float) -> dict:
    """Measure nine scalars of so many objects."""
    rng = np.random.default_rng(count)
    drawn = {name: values(folder, count, rng) for name, (folder, _) in NAMES.items()}
    observations = Observations({n: Scalar(v.astype(np.float64)) for n, v in drawn.items()})
    typed = [
        getattr(peer_modalities, kind)(value=torch.from_numpy(drawn[name]))
        for name, (_, kind) in NAMES.items()
    ]
    codecs = {type(m): peers[name] for name, m in zip(NAMES, typed, strict=True)}
    manager = CodecManager()
    manager._load_codec = codecs.__getitem__
    tokens, theirs = tokenizer.encode(observations), manager.encode(*typed)
    keys = [type(m).token_key for m in typed]

    def bare_loop() -> list[Any]:
        with torch.no_grad():
            return [codecs[type(m)].encode(m) for m in typed]

    encode = turns(
        {
            "omnisky": lambda: tokenizer.encode(observations),
            "omnisky_and_read": lambda: read_all(tokenizer.encode(observations)),
            "aion": lambda: manager.encode(*typed),
            "aion_tuned": bare_loop,
        },
        seconds,
    )
    decode = turns(
        {
            "omnisky": lambda: tokenizer.decode(tokens),
            "aion": lambda: [manager.decode(theirs, type(m)) for m in typed],
            "aion_tuned": lambda: [
                codecs[type(m)].decode(theirs[key]) for m, key in zip(typed, keys, strict=True)
            ],
        },
        seconds,
    )
    different = sum(
        int((tokens[name][:, 0] != theirs[key]).sum())
        for name, key in zip(NAMES, keys, strict=True)
    )
    return {"encode": encode, "decode": decode, "different_tokens": different}


def coefficients(count: int, codec: Codec, theirs: Any, seconds: float) -> dict:
    """Measure 55 XP coefficients of so many objects."""
    drawn = values(XP[1], count, np.random.default_rng(count))
    measurement = Coefficients(drawn)
    typed = getattr(peer_modalities, XP[2])(value=torch.from_numpy(drawn))
    ids, of_peer = codec.encode(measurement), theirs.encode(typed)
    with torch.no_grad():
        encode = turns(
            {
                "omnisky": lambda: codec.encode(measurement),
                "aion": lambda: theirs.encode(typed),
            },
            seconds,
        )
        decode = turns(
            {"omnisky": lambda: codec.decode(ids), "aion": lambda: theirs.decode(of_peer)}, seconds
        )
    return {"encode": encode, "decode": decode, "different_tokens": int((ids != of_peer).sum())}


def state_bytes(module: torch.nn.Module) -> int:
    """Return the bytes of a module's state."""
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def main() -> int:
    """Measure, print, write; return 1 if tokens differ or a target is missed."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of turns for each number (5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch, both sides (1)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rng = np.random.default_rng(0)
    peers, mine = {}, {}
    with tempfile.TemporaryDirectory() as root:
        for name, folder in [(n, f) for n, (f, _) in NAMES.items()] + [XP[:2]]:
            peers[name], config = build(folder, rng)
            mine[name] = ours(folder, peers[name], config, name, Path(root))
    tokenizer = Tokenizer({name: mine[name] for name in NAMES})
    rows: dict[str, Any] = {}
    for count in (1, 64, 4096):
        rows[f"9 scalars, {count} objects"] = photometry(count, tokenizer, peers, asked.seconds)
        rows[f"55 XP coefficients, {count} objects"] = coefficients(
            count, mine[XP[0]], peers[XP[0]], asked.seconds
        )
    state = {"omnisky": 0, "aion": 0}
    for name in peers:
        state["omnisky"] += state_bytes(mine[name])
        state["aion"] += state_bytes(peers[name])
    for what, row in rows.items():
        for way in ("encode", "decode"):
            row[f"{way}_times_aion"] = row[way]["aion"] / row[way]["omnisky"]
            row[f"{way}_times_aion_least"] = row[way]["aion_least"] / row[way]["omnisky_least"]
            print(
                f"{what:34s} {way} {row[way]['omnisky']:9.1f} us, aion {row[way]['aion']:9.1f} us: "
                f"{row[f'{way}_times_aion']:6.1f} times "
                f"(least {row[f'{way}_times_aion_least']:.1f}); "
                f"{row['different_tokens']} tokens differ"
            )
    found = {"threads": asked.threads, "microseconds": rows, "state_bytes": state}
    found |= {**environment(), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    one, many = (rows[f"9 scalars, {count} objects"]["encode_times_aion"] for count in (1, 4096))
    wrong = sum(row["different_tokens"] for row in rows.values())
    if wrong or one < 10 or many < 1.1:
        print(f"{wrong} tokens differ; {one:.1f} and {many:.1f} times", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
