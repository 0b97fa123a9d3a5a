"""Measure whether torch.compile pays; write JSON.

    python perf/compiling.py --out perf/results/compiling.json

Plain and compiled blocks of the same random weights take turns in one process: the embedding of
four images of 576 tokens by a Base-size network in both number formats, and a training step of a
tiny network (width 256, six blocks each, 8 objects, 256 tokens in, 128 out). Ratios are medians
over rounds of plain by compiled: above 1 compiling pays. The seconds until the first result are
those of compiling, with what the compiler kept on the disk of an earlier run, if there was one. In
bfloat16 only processors that compute in it say anything.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from omnisky.bench.cards import environment
from omnisky.codecs import Tokens
from omnisky.codecs.codec import TokenGroup
from omnisky.model import Model
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.masking import MaskingConfig, sample_masks
from omnisky.model.transformer import Transformer
from omnisky.train import TrainConfig
from omnisky.train.optim import build_optimizer

_SIZES = {"image": (576, 8750), "spectrum": (273, 1024), "redshift": (1, 1024)}
_MODALITIES = tuple(
    ModalityTokens(name=n, id=i, groups=(TokenGroup(kind="code", n_tokens=t, vocab_size=v),))
    for i, (n, (t, v)) in enumerate(_SIZES.items())
)


def embedding(precision: str) -> dict[str, Callable[[], Any]]:
    """Return what embeds four images, plain and compiled."""
    torch.manual_seed(0)
    plain = Model(Transformer(ModelConfig.preset("aion-base", _MODALITIES)).eval(), None)
    plain.cast(precision)  # pyright: ignore[reportArgumentType]
    fused = Model(copy.deepcopy(plain.network), None).compile()
    tokens = Tokens({"image": torch.randint(8750, (4, 576))})
    return {"plain": lambda: plain.embed(tokens), "compiled": lambda: fused.embed(tokens)}


def training(precision: str) -> dict[str, Callable[[], Any]]:
    """Return what takes a training step, plain and compiled."""
    torch.manual_seed(0)
    config = ModelConfig.preset("aion-base", _MODALITIES)
    config = replace(config, dim=256, encoder_depth=6, decoder_depth=6, num_heads=4)
    plain = Transformer(config)
    fused = copy.deepcopy(plain)
    fused.set_compiled(True)
    vocabularies = torch.tensor([size for _, size in _SIZES.values()])
    ids = (torch.rand(8, len(plain.slot_modality)) * vocabularies[plain.slot_modality]).long()
    budgets = MaskingConfig(input_budget=256, output_budget=128, whole=0.0)
    generator = torch.Generator().manual_seed(0)
    given = torch.ones(ids.shape, dtype=torch.bool), plain.slot_modality
    visible, asked = sample_masks(*given, budgets, generator)
    targets = ids.gather(1, asked.slots).flatten()

    def step(network: Transformer, optimizer: torch.optim.Optimizer) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            found = network(ids, visible, asked)
            losses = [F.cross_entropy(logits.float(), targets[rows]) for _, rows, logits in found]
        loss = torch.stack(losses).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    settings = TrainConfig(steps=1, batch_size=1, learning_rate=1e-4)
    moved = {n: (m, build_optimizer(m, settings)) for n, m in (("plain", plain), ("fused", fused))}
    return {"plain": lambda: step(*moved["plain"]), "compiled": lambda: step(*moved["fused"])}


def measure(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Let plain and compiled take turns."""
    first = {name: _seconds(work) for name, work in works.items()}
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            took[name].append(_seconds(work))
    pairs = zip(took["plain"], took["compiled"], strict=True)
    return {
        "seconds_median": {name: statistics.median(all_of) for name, all_of in took.items()},
        "seconds_until_the_first": first["compiled"],
        "times_plain": statistics.median(a / b for a, b in pairs),
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Does torch.compile pay?")
    parser.add_argument("--cases", default="embedding,training")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    made = {"embedding": embedding, "training": training}
    found: dict[str, Any] = {"environment": environment(), "threads": torch.get_num_threads()}
    for case in asked.cases.split(","):
        for precision in asked.precisions.split(","):
            found[f"{case}, {precision}"] = here = measure(made[case](precision), asked.rounds)
            print(case, precision, json.dumps(here), flush=True)
            if asked.out:  # after each, since some take long
                asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
