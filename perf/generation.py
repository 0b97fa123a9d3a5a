"""Measure generation with a Base-size network against polymathic-aion's; write JSON.

    python perf/generation.py --out perf/results/generation.json
    python perf/generation.py --rounds 1 --steps 4 --depth 2

Both have the same random weights, read from one checkpoint, and one image (576 tokens) of one
object. Contenders take turns in one process, round by round; ratios are medians of the ratios of
each round to the peer as shipped, in float32. "tuned" is the peer's blocks in bfloat16 by autocast;
--malloc keeps freed memory for all of them.

* a further target: the redshift of an object that was read before; the peer has nothing to keep, so
  that it reads again;
* image to spectrum: 273 tokens in equal steps, in random order: reading anew after each step, and
  appending to what was read once; and ROAR and MaskGIT in few steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from aion.fourm.generate import (
    GenerationSampler,
    build_chained_generation_schedules,
    init_empty_target_modality,
    init_full_input_modality,
)
from aion.fourm.modality_info import MODALITY_INFO
from aion.modalities import Z
from aion.model import AION
from machine import tune_malloc
from torch import Tensor

from omnisky.bench.cards import environment
from omnisky.codecs import Tokens
from omnisky.model import Model

IMAGE, SPECTRUM = "tok_image", "tok_spectrum_desi"
OUR_IMAGE, OUR_SPECTRUM, OUR_Z = "legacysurvey_image", "desi_spectrum", "desi_z"
FEW = 8
_CONFIG = {
    "domains_in": sorted(MODALITY_INFO),
    "domains_out": sorted(MODALITY_INFO),
    "dim": 768,
    "num_heads": 12,
    "act_layer": "SiLU",
    "gated_mlp": True,
    "qk_norm": True,
    **{f"{part}_bias": False for part in ("qkv", "proj", "mlp", "norm")},
}
# The processor's is the fairer one where others use the machine.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
Works = dict[str, Callable[[], Any]]


def autocast() -> Any:
    """Return the context in which the peer is tuned."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def sampled(sampler: GenerationSampler, ids: Tensor, scheme: str, steps: int) -> Tensor:
    """Return the peer's spectrum tokens, one image given."""
    state = {IMAGE: {"tensor": ids}}
    state = init_full_input_modality(state, MODALITY_INFO, IMAGE, "cpu")
    state = init_empty_target_modality(state, MODALITY_INFO, SPECTRUM, len(ids), 273, "cpu")
    schedule = build_chained_generation_schedules(
        cond_domains=[IMAGE],
        target_domains=[SPECTRUM],
        tokens_per_target=[273],
        autoregression_schemes=[scheme],
        decoding_steps=[steps],
        token_decoding_schedules=["cosine" if scheme == "maskgit" else "linear"],
        temps=[1.0],
        temp_schedules=["constant"],
        cfg_scales=[1.0],
        cfg_schedules=["constant"],
    )
    with torch.no_grad():
        return sampler.generate(state, schedule, seed=0)[SPECTRUM]["tensor"]


def further_target(peer: AION, ours: dict[str, Model], ids: Tensor) -> Works:
    """Return functions that ask for a redshift; ours of what was read before."""

    def theirs(context: Callable[[], Any]) -> Tensor:
        with torch.no_grad(), context():
            return peer({IMAGE: ids}, target_modality=[Z])["tok_z"].softmax(-1)

    works: Works = {
        "peer": lambda: theirs(contextlib.nullcontext),
        "peer tuned": lambda: theirs(autocast),
    }
    for name, model in ours.items():
        reading = model.read(Tokens({OUR_IMAGE: ids}))
        reading.generate(OUR_Z, n_samples=1)
        works[name] = lambda r=reading: r.generate(OUR_Z, n_samples=1)
    return works


def to_spectrum(peer: AION, ours: dict[str, Model], ids: Tensor, steps: int) -> Works:
    """Return functions that sample a spectrum in equal steps, or in few."""
    sampler = GenerationSampler(peer)

    def tuned() -> Tensor:
        with autocast():
            return sampled(sampler, ids, "roar", steps)

    works: Works = {"peer": lambda: sampled(sampler, ids, "roar", steps), "peer tuned": tuned}
    equal = {"steps": steps, "schedule": "linear"}
    schemes: dict[str, dict[str, Any]] = {
        "": equal,
        " append": {**equal, "context": "append"},
        " roar 4 steps, append": {"steps": 4, "context": "append"},
        f" maskgit {FEW} steps": {"method": "maskgit", "steps": FEW},
        f" maskgit {FEW} steps, append": {"method": "maskgit", "steps": FEW, "context": "append"},
    }
    given = Tokens({OUR_IMAGE: ids})
    for name, model in ours.items():
        for scheme, how in schemes.items():
            works[f"{name}{scheme}"] = lambda m=model, h=how: m.generate(
                given, OUR_SPECTRUM, n_samples=1, **h
            )
    return works


def measure(works: Works, rounds: int) -> dict[str, Any]:
    """Return seconds on the clock and of the processor, and their ratios to the peer."""
    took: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in works} for clock in CLOCKS
    }
    for _ in range(rounds):
        for name, work in works.items():
            before = {clock: now() for clock, now in CLOCKS.items()}
            work()
            for clock, now in CLOCKS.items():
                took[clock][name].append(now() - before[clock])
    return {
        clock: {
            name: {
                "seconds": seconds,
                "median": statistics.median(seconds),
                "times_the_peer_as_shipped": statistics.median(
                    theirs / ours for theirs, ours in zip(each["peer"], seconds, strict=True)
                ),
            }
            for name, seconds in each.items()
        }
        for clock, each in took.items()
    }


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Generation beside the peer.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25, help="for the spectrum (25)")
    parser.add_argument("--depth", type=int, default=12, help="blocks; 12 is Base (12)")
    parser.add_argument("--malloc", action="store_true", help="keep freed memory")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.malloc:
        tune_malloc()
    torch.manual_seed(0)
    depth = {"encoder_depth": asked.depth, "decoder_depth": asked.depth}
    ids = torch.randint(4375, (1, 576), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        AION(config={**_CONFIG, **depth}).save_pretrained(folder)
        peer = AION.from_pretrained(folder).eval()
        ours = {
            "ours": Model.from_pretrained(folder),
            "ours bf16": Model.from_pretrained(folder).cast("bfloat16"),
        }
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "threads": torch.get_num_threads(),
        "asked": {key: str(value) for key, value in vars(asked).items()},
    }
    cases = {
        "a further target": (further_target(peer, ours, ids), 3 * asked.rounds),
        f"image to spectrum, {asked.steps} steps": (
            to_spectrum(peer, ours, ids, asked.steps),
            asked.rounds,
        ),
    }
    for case, (works, rounds) in cases.items():
        found[case] = measure(works, rounds)
        for name in works:
            wall, cpu = (found[case][clock][name] for clock in CLOCKS)
            times = (one["times_the_peer_as_shipped"] for one in (wall, cpu))
            print(case, name, f"{cpu['median']:.3f} s of CPU; {[round(t, 2) for t in times]} x")
        if asked.out:
            asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
