"""A tiny network and random tokens, for runs of the training loop that take a second."""

import json
import threading
from dataclasses import replace

import torch

from omnisky.codecs import Tokens
from omnisky.codecs.codec import TokenGroup
from omnisky.model.config import ModalityTokens, ModelConfig
from omnisky.model.masking import MaskingConfig
from omnisky.model.transformer import Transformer
from omnisky.train import TrainConfig, train
from omnisky.train.pretraining import PretrainingObjective
from omnisky.train.step import Step

# Every kind of token group; two ordinal tokens and digits of codes have paths of their own.
GROUPS = {
    "image": (TokenGroup(kind="code", n_tokens=16, vocab_size=60, levels=(5, 4, 3)),),
    "spectrum": (
        TokenGroup(kind="ordinal", n_tokens=3, vocab_size=12),
        TokenGroup(kind="code", n_tokens=9, vocab_size=32),
    ),
    "flux": (TokenGroup(kind="ordinal", n_tokens=2, vocab_size=16),),
    "redshift": (TokenGroup(kind="ordinal", n_tokens=1, vocab_size=24),),
}
MASKING = MaskingConfig(input_budget=12, output_budget=10)


class RandomObjective(PretrainingObjective):
    """Pretraining on 64 random objects, with which threads drew the batches."""

    def __init__(self, dropout: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(0)
        ids, mask, listed = {}, {}, []
        for number, (name, groups) in enumerate(GROUPS.items()):
            listed.append(ModalityTokens(name=name, id=number, groups=groups))
            parts = [
                torch.randint(g.vocab_size, (64, g.n_tokens), generator=generator) for g in groups
            ]
            ids[name] = torch.cat(parts, 1)
            has = (torch.rand(64, 1, generator=generator) < 0.8) | (number == 0)
            mask[name] = has.expand(ids[name].shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            config = replace(ModelConfig.preset("tiny", tuple(listed)), free_rank=3)
            network = Transformer(config)
        network.set_dropout(dropout)
        tokens = Tokens(ids, mask)
        super().__init__(network, tokens, tokens[:8], MASKING, {"image": 0.5})
        self.threads: list[str] = []

    def draw(self, indices, generator):
        self.threads.append(threading.current_thread().name)
        return super().draw(indices, generator)


def run(out, device, objective=None, **changes):
    """Train six steps of a run, or what is left of them; return the objective."""
    objective = objective or RandomObjective()
    settings = {"steps": 6, "batch_size": 16, "warmup_steps": 2, "learning_rate": 3e-3}
    settings |= {"checkpoint_every": 3, "log_every": 1}
    train(objective, TrainConfig(**(settings | changes)), out, progress=False, device=device)
    return objective


def interrupt(patched, number):
    """Let runs stop as by Ctrl-C when so many steps are done; later ones draw nothing more."""
    take = Step.take

    def dies(self, step, *given):
        if step == number:
            raise KeyboardInterrupt
        return take(self, step, *given)

    patched.setattr(Step, "take", dies)


def logged(out):
    """Return the lines of a run's log, without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    clock = ("per_second", "mfu")
    return [{k: v for k, v in line.items() if not any(c in k for c in clock)} for line in lines]


def losses(out):
    """Return the loss of each step."""
    return [line["loss"] for line in logged(out)]


def differences(one, two, *, within=0.0):
    """Return in words which weights of two objectives differ by more, and how far."""
    other = two.module.state_dict()
    found = {
        name: float((tensor.double() - other[name].double()).abs().max())
        for name, tensor in one.module.state_dict().items()
        if not torch.equal(tensor, other[name])
    }
    found = {name: size for name, size in found.items() if size > within}
    worst = sorted(found.items(), key=lambda item: -item[1])[:5]
    listed = ", ".join(f"{name} by {size:.1e}" for name, size in worst)
    return f"{len(found)} of {len(other)} tensors differ: {listed}" if found else ""
