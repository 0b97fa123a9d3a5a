"""Measure training and embedding on an accelerator; write JSON.

    python perf/accelerator.py --out perf/results/accelerator.json
    python perf/accelerator.py --cases base,embed

Training: steps of the loop's own kind (`omnisky.train.step.Step`, with the next batch drawn
meanwhile) in the network, with the masking, the mixture and the optimizer of the published recipes;
tokens are random. Utilisation is the arithmetic that the model requires over the fastest product of
large random matrices here, measured before and after; and over what the vendor names for bfloat16,
where that is known. Embedding: `Model.embed` of tokens that lie in main memory, results returned
there, beside polymathic-aion's encoder with the same weights, on the same device, in turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from turns import in_turns

from omnisky.bench.cards import environment
from omnisky.codecs import Tokens
from omnisky.model import Model
from omnisky.model.config import ModelConfig
from omnisky.model.embedding import tokens_at_once
from omnisky.model.transformer import Transformer
from omnisky.train.log import Averages
from omnisky.train.optim import build_optimizer
from omnisky.train.parallel import Processes
from omnisky.train.pretraining import PretrainingObjective, PretrainingRecipe, TokenTable
from omnisky.train.recipe import read_recipe
from omnisky.train.sampler import MixtureSampler
from omnisky.train.speed import matmul_flops_per_second
from omnisky.train.step import Step

_ROOT = Path(__file__).resolve().parents[1]
# Dense bfloat16 products, in FLOPs a second, as the vendor's data sheets have them.
_NAMED = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
_OBJECTS = 2048
# What objects of a store have, beside modalities that begin with its name.
_ALSO = {"sdss": ("desi_z",), "gaia": ("gaia_xp_bp", "gaia_xp_rp")}


@dataclass(frozen=True)
class Case:
    """Say how one network is trained."""

    recipe: str
    batch: int
    steps: int
    warmup: int = 4
    compile: bool = False
    checkpointing: bool = False


_CASES = {
    "base": Case("aion-base", batch=192, steps=20),
    "base compiled": Case("aion-base", batch=320, steps=30, warmup=6, compile=True),
    "large compiled": Case("aion-large", batch=128, steps=12, warmup=6, compile=True),
    "xlarge": Case("aion-xlarge", batch=64, steps=6, warmup=2, checkpointing=True),
}


def objective_of(recipe: PretrainingRecipe, device: torch.device) -> PretrainingObjective:
    """Return the objective of a recipe, on random tokens of the sources that it names."""
    from omnisky.model.aion import released_layout

    listed = released_layout(recipe.modalities)
    config = replace(ModelConfig.preset(recipe.preset, listed), positions="fixed")
    with device:
        torch.manual_seed(0)
        network = Transformer(config)
    generator = torch.Generator().manual_seed(0)
    tables = []
    for source in recipe.data.sources:
        names = source.modalities or tuple(
            name
            for name in config.by_name
            if any(name.startswith(s) or name in _ALSO.get(s, ()) for s in source.stores)
        )
        own = {config.by_name[name].name: config.by_name[name] for name in names}
        ids = {
            name: torch.randint(m.groups[0].vocab_size, (_OBJECTS, m.n_tokens), generator=generator)
            for name, m in own.items()
        }
        tables.append(TokenTable.from_tokens(Tokens(ids), str(source), mock=True))
    weights = [source.weight for source in recipe.data.sources]
    return PretrainingObjective(
        network, tables, [], recipe.masking, recipe.token_weights, weights=weights
    )


def train(case: Case, device: torch.device) -> dict[str, Any]:
    """Take steps, and return rates."""
    recipe = read_recipe(_ROOT / "recipes" / "pretrain" / f"{case.recipe}.toml", PretrainingRecipe)
    config = replace(recipe.train, batch_size=case.batch, accumulate=1, sharding="none")
    objective = objective_of(recipe, device)
    network = objective.transformer
    network.set_recompute(case.checkpointing)
    network.set_compiled(case.compile, device)
    processes = Processes(rank=0, world_size=1, device=device)
    optimizer = build_optimizer(network, config)
    counts, weights = zip(*objective.mixture, strict=True)
    sampler = MixtureSampler(counts, weights, case.batch, 0)
    taker = Step(objective, network, optimizer, config, processes)
    torch.cuda.reset_peak_memory_stats(device)
    peak = matmul_flops_per_second(device, torch.bfloat16)
    first, seconds, means = _timed(case, taker, sampler)
    peak = (peak + matmul_flops_per_second(device, torch.bfloat16)) / 2
    median = statistics.median(seconds)
    named = _NAMED.get(torch.cuda.get_device_name(device))
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "objects_a_step": case.batch,
        "compiled": case.compile,
        "activation_checkpointing": case.checkpointing,
        "seconds_a_step": {"median": median, "least": min(seconds), "most": max(seconds)},
        "seconds_of_the_first_steps": first,
        "objects_per_second": case.batch / median,
        "tokens_per_second": means["tokens"] / median,
        "tflops": means["flops"] / median / 1e12,
        "gemm_tflops": peak / 1e12,
        "mfu": means["flops"] / median / peak,
        "mfu_of_the_named_peak": named and means["flops"] / median / named,
        "peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9,
        "loss": means["loss"],
    }


def _timed(
    case: Case, taker: Step, sampler: MixtureSampler
) -> tuple[float, list[float], dict[str, float]]:
    """Return the seconds of the first steps, of each that counts, and means of what is told."""
    averages, coming, seconds, first = Averages(), deque[Tensor](), [], 0.0
    began = time.perf_counter()
    for step in range(case.warmup + case.steps):
        if step == case.warmup:
            first, averages = time.perf_counter() - began, Averages()
        started = time.perf_counter()
        while len(coming) <= taker.ahead:
            coming.append(sampler.next_batch())
        here = coming.popleft()
        if problem := taker.take(step, here, averages, coming):
            raise FloatingPointError(problem)
        torch.cuda.synchronize()
        if step >= case.warmup:
            seconds.append(time.perf_counter() - started)
    taker.close()
    return first, seconds, Averages.merge([averages.take()])


# Tasks of perf/model.py, and how many objects of them.
_EMBEDDED = {"image": 1024, "all": 768}


def embed(device: torch.device, rounds: int, release: Path | None) -> dict[str, Any]:
    """Return the speed of embedding with AION-1 Base, beside the peer's."""
    from aion.model import AION
    from model import TASKS, flops_of, tokens_of, write_release

    from omnisky.pretrained import DOMAINS

    with tempfile.TemporaryDirectory() as made:
        if release is None:
            write_release(Path(made))
        folder = release or Path(made)
        ours = {p: Model.from_pretrained(folder).to(device) for p in ("float32", "bfloat16")}
        peer: Any = AION.from_pretrained(folder).eval().to(device)
    ours["bfloat16"].cast("bfloat16")
    found: dict[str, Any] = {}
    for task, count in _EMBEDDED.items():
        ids, _ = tokens_of(task, count)
        tokens = Tokens({DOMAINS[key].names[0]: t for key, t in ids.items()})
        works: dict[str, Callable[[], Tensor]] = {
            f"ours, {name}": partial(_we_embed, model, tokens) for name, model in ours.items()
        }
        for name, half in (("peer", False), ("peer, autocast", True)):
            works[name] = partial(_peer_embeds, peer, ids, device, half)
        found[task] = _compared(works, count, rounds)
        gflop = flops_of(task) / TASKS[task][0]
        peak = matmul_flops_per_second(device, torch.bfloat16) / 1e9
        rate = found[task]["objects_per_second"]["ours, bfloat16"]
        found[task] |= {"gflop_an_object": gflop, "fraction_of_gemm_bf16": rate * gflop / peak}
    return found


def _we_embed(model: Model, tokens: Tokens) -> Tensor:
    return torch.from_numpy(model.embed(tokens).vectors)


@torch.inference_mode()
def _peer_embeds(peer: Any, ids: dict[str, Tensor], device: torch.device, half: bool) -> Tensor:
    """Return the peer's mean vectors, batches of about as many tokens as ours."""
    count, width = len(next(iter(ids.values()))), sum(t.shape[1] for t in ids.values())
    vectors = []
    for start in range(0, count, size := max(1, tokens_at_once(device) // width)):
        part = {key: t[start : start + size].to(device) for key, t in ids.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            vectors.append(peer.encode(part, num_encoder_tokens=width).mean(1).float().cpu())
    return torch.cat(vectors)


def _compared(works: dict[str, Callable[[], Tensor]], count: int, rounds: int) -> dict[str, Any]:
    """Let all take turns; return objects a second, ratios, and how alike the vectors are."""
    vectors = {name: work() for name, work in works.items()}
    took = in_turns(works, rounds)
    exact = vectors["peer"]
    return {
        "objects_per_second": {n: count / statistics.median(t) for n, t in took.items()},
        "times_the_peer": {
            name: statistics.median(a / b for a, b in zip(took["peer"], t, strict=True))
            for name, t in took.items()
        },
        "times_the_peer_in_autocast": {
            name: statistics.median(a / b for a, b in zip(took["peer, autocast"], t, strict=True))
            for name, t in took.items()
        },
        "least_cosine_to_the_peer": {
            name: float(torch.cosine_similarity(v, exact, dim=1).min())
            for name, v in vectors.items()
        },
    }


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Training and embedding on an accelerator.")
    parser.add_argument("--cases", default=",".join([*_CASES, "embed"]))
    parser.add_argument("--rounds", type=int, default=3, help="of embedding (3)")
    parser.add_argument("--release", type=Path, help="a checkpoint that perf/model.py wrote")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        print("this machine has no CUDA device, and this measures one", file=sys.stderr)
        return 1
    device = torch.device("cuda", 0)
    found: dict[str, Any] = {"environment": environment()}
    for name in asked.cases.split(","):
        if name == "embed":
            found[name] = embed(device, asked.rounds, asked.release)
        else:
            found[name] = train(_CASES[name], device)
        print(name, json.dumps(found[name], indent=1), flush=True)
        if asked.out:
            asked.out.write_text(json.dumps(found, indent=1) + "\n")
        gc.collect()
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
