"""Measure a training step beside polymathic-aion's modules; write JSON.

    python perf/training.py --out perf/results/training.json
    python perf/training.py --cases tiny --rounds 3

Both have the same random weights, read from one checkpoint, the same tokens of an image, a spectrum
and ten scalars, the same masks (256 tokens in, 128 out) and the same loss, the mean over modalities
of cross-entropy a token; that they agree is checked first. The peer has no training loop and its
`AION.forward` is not the one it was trained with: what is measured is `FM.forward` of its modules.
A step is forward, backward and AdamW. Contenders take turns in one process, round by round; ratios
are medians of the ratios of each round:

* peer: as it is shipped, float32; peer autocast: in bfloat16;
* ours: float32; ours bf16; ours bf16, recomputed: with activation checkpointing.

Memory: the tensors that are kept between forward and backward, weights aside, each once.
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
from aion.fourm.fm import FM
from aion.model import AION
from machine import gemm_gflops
from torch import Tensor, nn
from torch.nn import functional as F

from omnisky.bench.cards import environment
from omnisky.model.aion import read_released
from omnisky.model.masking import MaskingConfig, sample_masks
from omnisky.model.transformer import Selection, Transformer
from omnisky.pretrained import DOMAINS
from omnisky.train import TrainConfig
from omnisky.train.optim import build_optimizer
from omnisky.train.speed import work_of

_KEYS = (
    "tok_image",
    "tok_spectrum_desi",
    *(f"tok_flux_{band}" for band in ("g", "r", "i", "z", "w1", "w2", "w3", "w4")),
    "tok_ebv",
    "tok_z",
)
# Objects a step, and sizes.
_CASES: dict[str, tuple[int, dict[str, int]]] = {
    "tiny": (8, {"dim": 256, "encoder_depth": 6, "decoder_depth": 6, "num_heads": 4}),
    "base": (2, {"dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12}),
}
_FIXED = {
    "domains_in": sorted(_KEYS),
    "domains_out": sorted(_KEYS),
    "act_layer": "SiLU",
    "gated_mlp": True,
    "qk_norm": True,
    **{f"{part}_bias": False for part in ("qkv", "proj", "mlp", "norm")},
}
_MASKING = MaskingConfig(input_budget=256, output_budget=128, whole=0.0)


class Batch:
    """Tokens and masks of some objects, as ours and as the peer take them."""

    def __init__(self, network: Transformer, n_objects: int) -> None:
        generator = torch.Generator().manual_seed(0)
        slots = network.slot_modality
        sizes = torch.tensor([DOMAINS[key].vocabulary for key in self.keys(network)])
        uniform = torch.rand(n_objects, len(slots), generator=generator)
        self.ids = (uniform * sizes[slots]).long()
        present = torch.ones(self.ids.shape, dtype=torch.bool)
        self.visible, self.asked = sample_masks(present, slots, _MASKING, generator)
        self._network = network

    @staticmethod
    def keys(network: Transformer) -> list[str]:
        """Return the release's names of the modalities, in order."""
        return [key for name in network.names for key in _KEYS if DOMAINS[key].names[0] == name]

    def of_peer(self) -> dict[str, dict[str, Tensor]]:
        """Return what `FM.forward` takes; True is what is hidden. It is written into, so fresh."""
        seen, wanted = (self._table(s) for s in (self.visible, self.asked))
        found = {}
        for key, name in zip(self.keys(self._network), self._network.names, strict=True):
            mine = self._network.slots_of(name)
            # All targets of a modality attend to each other: their number stands at the first.
            target = wanted[:, mine]
            first = target & (target.cumsum(1) == 1)
            attention = torch.where(first, target.sum(1, keepdim=True), 0)
            found[key] = {
                "tensor": self.ids[:, mine],
                "input_mask": ~seen[:, mine],
                "target_mask": ~target,
                "decoder_attention_mask": attention,
            }
        return found

    def _table(self, selection: Selection) -> Tensor:
        table = torch.zeros(self.ids.shape, dtype=torch.bool)
        rows = torch.arange(len(table))[:, None].expand_as(selection.slots)
        table[rows[selection.mask], selection.slots[selection.mask]] = True
        return table


def loss_of_peer(peer: nn.Module, batch: Batch) -> Tensor:
    """Return the peer's own loss."""
    width = batch.visible.slots.shape[1], batch.asked.slots.shape[1]
    loss, _ = FM.forward(peer, batch.of_peer(), *width)
    return loss.sum()


def loss_of_ours(network: nn.Module, batch: Batch) -> Tensor:
    """Return the same, by our network."""
    targets = torch.gather(batch.ids, 1, batch.asked.slots).flatten()
    found = network(batch.ids, batch.visible, batch.asked)
    losses = [F.cross_entropy(logits.float(), targets[rows]) for _, rows, logits in found]
    return torch.stack(losses).sum() / len(_KEYS)


class Contender:
    """A network with its optimizer."""

    def __init__(
        self, module: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], *, half: bool = False
    ) -> None:
        self.module, self._loss, self._half = module.train(), loss, half
        settings = TrainConfig(steps=1, batch_size=1, learning_rate=1e-4)
        if isinstance(module, Transformer):
            self.optimizer = build_optimizer(module, settings)
        else:
            self.optimizer = torch.optim.AdamW(module.parameters(), 1e-4, (0.9, 0.95))

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss, ready to go backward."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._half):
            return self._loss(self.module, batch)

    def step(self, batch: Batch) -> float:
        """Take one step and return the seconds that it took."""
        began = time.perf_counter()
        self.loss(batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began

    def kept_mb(self, batch: Batch) -> float:
        """Return the MB kept for the backward pass."""
        weights = {p.untyped_storage().data_ptr() for p in self.module.parameters()}
        kept: dict[int, tuple[int, Tensor]] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                # Held, so that no other tensor gets the same address.
                kept[storage.data_ptr()] = storage.nbytes(), tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss(batch)
        total = sum(size for size, _ in kept.values()) / 2**20
        del loss
        return total


def contenders(folder: Path, names: list[str]) -> dict[str, Contender]:
    """Return those of these names, all with the weights in a folder."""

    def ours(*, half: bool = False, again: bool = False) -> Contender:
        network = read_released(folder)
        network.set_recompute(again)
        return Contender(network, loss_of_ours, half=half)

    made: dict[str, Callable[[], Contender]] = {
        "peer": lambda: Contender(AION.from_pretrained(folder), loss_of_peer),
        "peer autocast": lambda: Contender(AION.from_pretrained(folder), loss_of_peer, half=True),
        "ours": ours,
        "ours bf16": lambda: ours(half=True),
        "ours bf16, recomputed": lambda: ours(half=True, again=True),
    }
    return {name: made[name]() for name in names or made}


def measure(case: str, rounds: int, names: list[str], untimed: list[str]) -> dict[str, Any]:
    """Return seconds a step, ratios to the peer, memory and utilisation of one case."""
    n_objects, sizes = _CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        AION(config={**_FIXED, **sizes}).save_pretrained(folder)
        batch = Batch(read_released(Path(folder)), n_objects)
        works = contenders(Path(folder), names)
    losses = {name: float(work.loss(batch).detach()) for name, work in works.items()}
    kept = {name: work.kept_mb(batch) / n_objects for name, work in works.items()}
    timed = {name: work for name, work in works.items() if name not in untimed}
    for work in timed.values():
        work.step(batch)
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, work in timed.items():
            seconds[name].append(work.step(batch))
    ratio = {
        name: statistics.median(a / b for a, b in zip(seconds["peer"], took, strict=True))
        for name, took in seconds.items()
        if "peer" in seconds
    }
    network = next(w.module for w in works.values() if isinstance(w.module, Transformer))
    flops = work_of(network, batch.visible, batch.asked)["flops"]
    medians = {name: statistics.median(took) for name, took in seconds.items()}
    found = {
        "objects": n_objects,
        "losses": losses,
        "seconds_median": medians,
        "objects_per_second": {name: n_objects / took for name, took in medians.items()},
        "times_the_peer_as_shipped": ratio,
        "kept_mb_an_object": kept,
        "gflop_an_object": flops / n_objects / 1e9,
    }
    for name, dtype in (("ours", torch.float32), ("ours bf16", torch.bfloat16)):
        if name in medians:
            products = gemm_gflops(dtype)
            share = flops / medians[name] / 1e9 / products
            found[name] = {"gemm_gflops": products, "mfu": share}
    return found


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="A training step beside the peer's.")
    parser.add_argument("--cases", default=",".join(_CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", default="", help="contenders to leave out, as 'a;b'")
    parser.add_argument("--untimed", default="", help="of these only the memory, as 'a;b'")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    names = ["peer", "peer autocast", "ours", "ours bf16", "ours bf16, recomputed"]
    names = [name for name in names if name not in asked.without.split(";")]
    found: dict[str, Any] = {"environment": environment(), "threads": torch.get_num_threads()}
    for case in asked.cases.split(","):
        found[case] = measure(case, asked.rounds, names, asked.untimed.split(";"))
        print(case, json.dumps(found[case], indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
