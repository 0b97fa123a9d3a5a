"""Measure embedding with a Base-size network against polymathic-aion's; write JSON.

    python perf/model.py --out perf/results/model.json
    python perf/model.py --rounds 1 --tasks image,scalars

Four contenders with the same random weights and the same inputs, each in a process of its own that
only works when it is its turn, one after the other in every round: the peer as shipped; the peer
tuned (malloc without mmap, autocast to bfloat16 in network and codec); ours in float32; ours with
`Model.cast("bfloat16")`, whose codec stays in float32. Ratios are medians of the ratios of rounds.
`times_peer` is of wall time, `times_peer_cpu` of processor time. The speed of matrix products is
measured in every round.

Tasks: four galaxy images from pixels to embedding; the tokens of four images (576 each); of four
images with spectra and ten scalars (859); of eight objects of which each has another subset,
which the peer must pad; ten scalars of one object. All that is visible counts: the peer is told how
many tokens there are, as by default it drops all but 256.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codecs_image import galaxies, load_peer, peer_image, write_codec
from machine import tune_malloc
from torch import Tensor
from turns import contenders, gemm_speeds, ratios

from omnisky.bench.cards import environment
from omnisky.codecs import Tokens
from omnisky.modalities import Image, Observations
from omnisky.model import Model
from omnisky.pretrained import DOMAINS

CONTENDERS = ("peer", "peer_tuned", "ours", "ours_bf16")
_TEN = tuple(f"tok_flux_{b}" for b in ("g", "r", "i", "z", "w1", "w2", "w3", "w4"))
_TEN = (*_TEN, "tok_ebv", "tok_z")
TASKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "pixels": (4, ("tok_image",)),
    "image": (4, ("tok_image",)),
    "all": (4, ("tok_image", "tok_spectrum_desi", *_TEN)),
    "mixture": (8, ("tok_image", "tok_spectrum_desi", "tok_xp_bp", "tok_xp_rp", *_TEN)),
    "scalars": (1, _TEN),
}
_DEPTH, _DIM, _HIDDEN = 12, 768, 2048
_CONFIG = {
    "dim": _DIM,
    "encoder_depth": _DEPTH,
    "decoder_depth": _DEPTH,
    "num_heads": 12,
    "act_layer": "SiLU",
    "gated_mlp": True,
    "qk_norm": True,
    **{f"{part}_bias": False for part in ("qkv", "proj", "mlp", "norm")},
}


def write_release(folder: Path) -> None:
    """Write a checkpoint of the peer with random weights, and its image codec."""
    from aion.fourm.modality_info import MODALITY_INFO
    from aion.model import AION

    torch.manual_seed(0)
    domains = sorted(MODALITY_INFO)
    config = {**_CONFIG, "domains_in": domains, "domains_out": domains}
    AION(config=config).save_pretrained(folder)
    write_codec(folder / "codecs" / "image")


def tokens_of(task: str, count: int | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return ids and masks (True = there) by domain of the release, of a task's own count."""
    count, keys = count or TASKS[task][0], TASKS[task][1]
    generator = torch.Generator().manual_seed(0)
    ids, masks = {}, {}
    for key in keys:
        shape = (count, DOMAINS[key].grid[0] * DOMAINS[key].grid[1])
        ids[key] = torch.randint(DOMAINS[key].vocabulary, shape, generator=generator)
        masks[key] = torch.ones(shape, dtype=torch.bool)
        if task == "mixture":
            masks[key] &= torch.rand(count, 1, generator=generator) < 0.4
    if task == "mixture":
        masks["tok_z"][:] = True
    return ids, masks


def flops_of(task: str) -> float:
    """Return the network's operations on the tokens that are there, in GFLOP a call."""
    total = 0.0
    for visible in torch.cat([*tokens_of(task)[1].values()], 1).sum(1).tolist():
        products = 4 * _DIM**2 + 3 * _DIM * _HIDDEN
        total += 2e-9 * _DEPTH * visible * (products + 2 * visible * _DIM)
    return total


def peer_works(folder: Path, tuned: bool) -> dict[str, Callable[[], Tensor]]:
    """Return the peer's embedding by task."""
    from aion.model import AION

    model = AION.from_pretrained(folder).eval()
    codec: Any = load_peer(folder / "codecs" / "image")
    flux = galaxies(4, "griz")

    def embed(ids: dict[str, Tensor], masks: dict[str, Tensor]) -> Tensor:
        hidden = {key: ~mask for key, mask in masks.items()}
        total = int(torch.cat([*masks.values()], 1).sum(1).max())
        return model.encode(ids, input_mask=hidden, num_encoder_tokens=total).mean(1)

    def work(task: str) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=tuned):
            ids, masks = tokens_of(task)
            if task == "pixels":
                ids = {"tok_image": codec.encode(peer_image(flux, "legacysurvey_image")).flatten(1)}
            return embed(ids, masks).float()

    return {task: lambda task=task: work(task) for task in TASKS}


def our_works(folder: Path, bf16: bool) -> dict[str, Callable[[], Tensor]]:
    """Return our embedding by task."""
    model = Model.from_pretrained(folder)
    if bf16:
        model.cast("bfloat16")
    image = Image(galaxies(4, "griz"), bands=tuple("griz"), pixel_scale_arcsec=0.262)

    def work(task: str) -> Tensor:
        if task == "pixels":
            given = Observations({"legacysurvey_image": image})
        else:
            ids, masks = tokens_of(task)
            names = {key: DOMAINS[key].names[0] for key in ids}
            given = Tokens(
                {names[key]: ids[key] for key in ids}, {names[key]: masks[key] for key in ids}
            )
        return torch.from_numpy(model.embed(given).vectors)

    return {task: lambda task=task: work(task) for task in TASKS}


def serve(name: str, folder: Path, threads: int, pipe: Connection) -> None:
    """Build a contender and do what is asked for, until None is."""
    torch.set_num_threads(threads)
    if name == "peer_tuned":
        tune_malloc()
    if name.startswith("peer"):
        works = peer_works(folder, name == "peer_tuned")
    else:
        works = our_works(folder, name == "ours_bf16")
    pipe.send("ready")
    while (asked := pipe.recv()) is not None:
        if asked == "gemm":
            pipe.send(gemm_speeds())
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        result = works[asked]()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        pipe.send((wall, cpu, result.numpy()))


def take_turns(
    folder: Path, tasks: list[str], names: list[str], threads: int, rounds: int
) -> dict[str, Any]:
    """Return seconds of all rounds, results and the speed of matrix products."""
    seconds: dict[str, Any] = {task: {name: [] for name in names} for task in tasks}
    results: dict[str, Any] = {task: {} for task in tasks}
    gemm = []
    with contenders(names, serve, folder, threads) as pipes:
        for turn in range(rounds + 1):
            for task in tasks:
                for name, pipe in pipes.items():
                    pipe.send(task)
                    *took, results[task][name] = pipe.recv()
                    if turn:  # the first warms up
                        seconds[task][name].append(took)
            pipes["ours"].send("gemm")
            gemm.append(pipes["ours"].recv())
    return {"seconds": seconds, "results": results, "gemm": gemm}


def summary(task: str, measured: dict[str, Any], gemm: dict[str, float]) -> dict[str, Any]:
    """Return speeds, ratios, the fraction of the machine, and agreement of bfloat16 with float32.

    That ours in float32 is the peer's is tested in `tests/model/test_aion.py`; the vectors here are
    not the same ones, as the peer's `encode` returns what its decoder is given.
    """
    seconds, results = measured["seconds"][task], measured["results"][task]
    exact = results["ours"]
    peers = {name: seconds[name] for name in ("peer", "peer_tuned") if name in seconds}
    found: dict[str, Any] = {"objects": TASKS[task][0], "gflop": flops_of(task)}
    for name, rounds in seconds.items():
        median = statistics.median(wall for wall, _ in rounds)
        kind = "float32" if name in ("peer", "ours") else "bf16"
        found[name] = {
            "objects_per_second": TASKS[task][0] / median,
            **ratios(rounds, peers),
        }
        if name == "ours_bf16":
            found[name]["least_cosine_to_float32"] = float(_cosine(results[name], exact).min())
        if task != "pixels":  # its codec works besides
            found[name]["fraction_of_gemm"] = flops_of(task) / median / gemm[kind]
    return found


def _cosine(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    return (one * two).sum(1) / norms


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--tasks", default=",".join(TASKS), help="which, separated by commas")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="ours is one of them")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (all)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    names = asked.contenders.split(",")
    if "ours" not in names or set(names) - {*CONTENDERS}:
        parser.error(f"--contenders: ours and others of {', '.join(CONTENDERS)}; found {names}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "base"
        write_release(folder)
        measured = take_turns(folder, asked.tasks.split(","), names, asked.threads, asked.rounds)
    gemm = {k: statistics.median(g[k] for g in measured["gemm"]) for k in ("float32", "bf16")}
    found = {
        "rounds": asked.rounds,
        "threads": asked.threads,
        "gemm_gflop_per_second": gemm,
        **{task: summary(task, measured, gemm) for task in asked.tasks.split(",")},
        "load_average": os.getloadavg(),
        **environment(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(found, indent=1)
    print(text)
    if asked.out:
        asked.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
