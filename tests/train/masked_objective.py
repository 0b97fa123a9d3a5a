"""A transformer without memory, asked for hidden tokens; a program that trains it on processes."""

import json
import sys
import warnings
from pathlib import Path

import torch
from torch.nn import functional as F

from omnisky.codecs.codec import TokenGroup
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.training import without_memory
from omnisky.model.transformer import Selection
from omnisky.train import TrainConfig, train
from omnisky.train.parallel import join_processes
from omnisky.train.speed import work_of

GROUPS = {
    "image": TokenGroup(kind="code", n_tokens=9, vocab_size=20),
    "spectrum": TokenGroup(kind="code", n_tokens=5, vocab_size=12, levels=(4, 3)),
    "redshift": TokenGroup(kind="ordinal", n_tokens=1, vocab_size=16),
}
CONFIG = ModelConfig(
    dim=24,
    encoder_depth=2,
    decoder_depth=2,
    num_heads=2,
    free_rank=2,
    modalities=tuple(
        ModalityTokens(name=name, id=i, groups=(group,))
        for i, (name, group) in enumerate(GROUPS.items())
    ),
)


class MaskedObjective:
    """Every object hides one modality, its number modulo three, and shows the others."""

    fingerprint = "masked"
    n_examples = 60

    def __init__(self):
        self.module = without_memory(CONFIG)
        generator = torch.Generator().manual_seed(0)
        highest = torch.tensor([g.vocab_size for g in GROUPS.values()])
        uniform = torch.rand(60, len(self.module.slot_modality), generator=generator)
        self.ids = (uniform * highest[self.module.slot_modality]).long()

    def loss(self, module, indices, generator):
        ids = self.ids[indices]
        hidden = self.module.slot_modality == (indices % 3)[:, None]
        order = hidden.int().argsort(dim=1, stable=True)
        visible = Selection(order, ~hidden.gather(1, order))
        order = order.flip(1)
        asked = Selection(order, hidden.gather(1, order))
        targets = ids.gather(1, asked.slots).flatten()
        total = torch.zeros(())
        for _, rows, logits in module(ids, visible, asked):
            total = total + F.cross_entropy(logits.float(), targets[rows], reduction="sum")
        return total / len(indices), work_of(self.module, visible, asked)

    def evaluate(self):
        with torch.no_grad():
            loss, _ = self.loss(self.module, torch.arange(30), torch.Generator())
        return {"loss": float(loss)}


def run(out, **changes):
    settings = {
        "steps": 8,
        "batch_size": 12,
        "checkpoint_every": 4,
        "log_every": 1,
        "clip_norm": 0.5,
    }
    objective = MaskedObjective()
    train(objective, TrainConfig(**(settings | changes)), out, progress=False, device="cpu")
    return objective


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    warnings.filterwarnings("ignore", "this processor has no bfloat16 arithmetic")
    with join_processes("cpu") as processes:
        objective = run(folder / "divided", sharding="fsdp2", activation_checkpointing=True)
        run(folder / "copied")
        run(folder / "half", sharding="fsdp2", activation_checkpointing=True, precision="bf16")
        told = {
            "meta": all(p.is_meta for p in objective.module.parameters()),
            "kind": type(objective.module).__name__,
        }
        if processes.is_main:
            weights = {name: t.tolist() for name, t in objective.module.state_dict().items()}
            (folder / "weights.json").write_text(json.dumps(weights))
        (folder / f"told-{processes.rank}.json").write_text(json.dumps(told))
