"""Measure embedding with a Base-size network against polymathic-aion's; write JSON.

    python perf/model.py --out perf/results/model.json
    python perf/model.py --rounds 1 --cases image

Both have the same random weights, read from one checkpoint, and the same tokens. Contenders take
turns in one process, round by round; ratios are the medians of the ratios of each round:

* peer: polymathic-aion as it is shipped, float32;
* peer autocast: its blocks in bfloat16;
* ours: float32;
* ours bf16: `Model.cast("bfloat16")`.

Cases: images (576 tokens), images with spectra and ten scalars (859), and a mixture in which each
object has another subset, which the peer must pad. All that is visible counts: the peer
is told how many tokens there are, as by default it drops all but 256. The agreement is the least
cosine of an object's mean embedding to float32 of ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from aion.fourm.modality_info import MODALITY_INFO
from aion.model import AION
from torch import Tensor

from omnisky.bench.cards import environment
from omnisky.codecs import Tokens
from omnisky.model import Model
from omnisky.model.aion import DOMAINS

_SCALARS = ("g", "r", "i", "z", "w1", "w2", "w3", "w4")
_TEN = (*(f"tok_flux_{band}" for band in _SCALARS), "tok_ebv", "tok_z")
_CASES: dict[str, tuple[int, tuple[str, ...]]] = {
    "image": (4, ("tok_image",)),
    "image, spectrum, scalars": (4, ("tok_image", "tok_spectrum_desi", *_TEN)),
    "mixture": (16, ("tok_image", "tok_spectrum_desi", "tok_xp_bp", "tok_xp_rp", *_TEN)),
}
_CONFIG = {
    "domains_in": sorted(MODALITY_INFO),
    "domains_out": sorted(MODALITY_INFO),
    "dim": 768,
    "encoder_depth": 12,
    "decoder_depth": 12,
    "num_heads": 12,
    "act_layer": "SiLU",
    "gated_mlp": True,
    "qk_norm": True,
    **{f"{part}_bias": False for part in ("qkv", "proj", "mlp", "norm")},
}


def tokens_of(case: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return ids and masks (True = there) by domain of the release."""
    count, keys = _CASES[case]
    generator = torch.Generator().manual_seed(0)
    ids, masks = {}, {}
    for key in keys:
        shape = (count, DOMAINS[key].grid[0] * DOMAINS[key].grid[1])
        ids[key] = torch.randint(DOMAINS[key].vocabulary, shape, generator=generator)
        masks[key] = torch.ones(shape, dtype=torch.bool)
        if case == "mixture":
            masks[key] &= torch.rand(count, 1, generator=generator) < 0.4
    if case == "mixture":
        masks["tok_z"][:] = True
    return ids, masks


def contenders(folder: Path, ids: dict[str, Tensor], masks: dict[str, Tensor]) -> dict[str, Any]:
    """Return functions that embed the tokens."""
    peer = AION.from_pretrained(folder).eval()
    exact, half = Model.from_pretrained(folder), Model.from_pretrained(folder).cast("bfloat16")
    tokens = Tokens(
        {DOMAINS[key].names[0]: ids[key] for key in ids},
        {DOMAINS[key].names[0]: masks[key] for key in ids},
    )
    total = sum(tensor.shape[1] for tensor in ids.values())
    hidden = {key: ~mask for key, mask in masks.items()}

    def by_peer() -> Tensor:
        with torch.no_grad():
            return peer.encode(ids, input_mask=hidden, num_encoder_tokens=total).mean(1)

    def by_peer_half() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return by_peer()

    return {
        "peer": by_peer,
        "peer autocast": by_peer_half,
        "ours": lambda: torch.from_numpy(exact.embed(tokens).vectors),
        "ours bf16": lambda: torch.from_numpy(half.embed(tokens).vectors),
    }


def measure(works: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, Any]:
    """Return seconds a call, ratios to the peer, and the agreement of ours in bfloat16."""
    results = {name: work() for name, work in works.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    ratio = {
        name: statistics.median(a / b for a, b in zip(seconds["peer"], took, strict=True))
        for name, took in seconds.items()
    }
    one, two = results["ours"], results["ours bf16"]
    return {
        "seconds_median": {name: statistics.median(took) for name, took in seconds.items()},
        "times_the_peer_as_shipped": ratio,
        "least_cosine_of_bf16": float(torch.cosine_similarity(one, two, dim=1).min()),
    }


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Embedding beside the peer.")
    parser.add_argument("--cases", default=",".join(_CASES).replace(", ", "+"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, Any] = {"environment": environment(), "threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        AION(config=dict(_CONFIG)).save_pretrained(folder)
        for case in asked.cases.split(","):
            case = case.replace("+", ", ")
            ids, masks = tokens_of(case)
            found[case] = measure(contenders(Path(folder), ids, masks), asked.rounds)
            found[case]["tokens"] = int(sum(mask.sum() for mask in masks.values()))
            print(case, json.dumps(found[case], indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
