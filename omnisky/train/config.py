"""What a training run may be told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

__all__ = [
    "FREE",
    "STEERING",
    "OptimizerName",
    "Precision",
    "ScheduleName",
    "Sharding",
    "TrainConfig",
    "changes",
]

Precision = Literal["fp32", "bf16"]
OptimizerName = Literal["adamw", "adam", "muon"]
ScheduleName = Literal["cosine", "constant"]
Sharding = Literal["none", "fsdp2"]

# How long, how often, and what lies where: not what is computed. Micro-batches change, as the
# number of processes does, which random numbers an object meets; with one, the other may have to.
FREE = {"steps", "log_every", "checkpoint_every", "keep_checkpoints"} | {
    "accumulate",
    "activation_checkpointing",
    "compile",
    "sharding",
}
# How far each step goes. A run that stopped at numbers that are not finite has no other way on.
STEERING = {"clip_norm", "learning_rate", "warmup_steps"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Say how long, how fast and how precisely to train.

    Parameters
    ----------
    steps : int
        Number of optimizer steps of the whole run.
    batch_size : int
        Objects a step, over all processes and micro-batches together.
    accumulate : int
        Micro-batches a step, one after the other, among which a process's share of the batch is
        divided equally: as many times fewer objects are in memory at once.
    activation_checkpointing : bool
        Compute what lies inside the module's blocks again in the backward pass instead of keeping
        it: a third more arithmetic, a fraction of the memory. The module must know how
        (``set_recompute``).
    compile : bool
        Fuse what lies inside the module's blocks with torch.compile: the same numbers but for
        rounding, after a minute or more at the start. The module must know how (``set_compiled``).
    sharding : {"none", "fsdp2"}
        What several processes hold: each all weights and moments, or each its share of them
        (`torch.distributed.fsdp.fully_shard`), which are put together block by block when needed.
    optimizer : {"adamw", "adam", "muon"}
        ``"adam"`` adds the weight decay to the gradient, as Adam had it first; ``"muon"`` moves the
        hidden matrices that the module names by Muon and the rest by AdamW.
    learning_rate : float
        Peak learning rate.
    warmup_steps : int
        Steps of linear rise to the peak. A run shorter than that ends while still rising.
    schedule : {"cosine", "constant"}
        What follows the warm-up: half a cosine down, or the peak for ever.
    final_learning_rate_fraction : float
        Learning rate of the last step of a cosine, as a fraction of the peak.
    weight_decay : float
        Weight decay of matrices; vectors and scalars have none.
    beta1, beta2 : float
        AdamW decay rates of the two moments.
    clip_norm : float
        Longest allowed gradient; ``inf`` clips nothing.
    ema : float
        Decay rate of the moving average of the weights, which is what is evaluated and what comes
        out in the end; 0 for none. In step n it is at most n / (n + 9), so that the first weights
        are soon forgotten.
    precision : {"fp32", "bf16"}
        Number format of the forward pass; weights and optimizer stay in fp32.
    seed : int
        Seed of the order of the objects and of everything random in a step.
    checkpoint_every, log_every : int
        Steps between checkpoints (with an evaluation) and between log lines.
    keep_checkpoints : int
        How many checkpoints to keep, newest first.

    Raises
    ------
    TypeError
        If a value has another type.
    ValueError
        If a value is out of range.
    """

    steps: int
    batch_size: int
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: ScheduleName = "cosine"
    final_learning_rate_fraction: float = 0.01
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    ema: float = 0.0
    precision: Precision = "fp32"
    accumulate: int = 1
    activation_checkpointing: bool = False
    compile: bool = False
    sharding: Sharding = "none"
    seed: int = 0
    checkpoint_every: int = 1000
    log_every: int = 50
    keep_checkpoints: int = 2

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "accumulate", "checkpoint_every", "log_every")
        for name in (*counts, "keep_checkpoints"):
            self._whole(name, at_least=1)
        for name in ("warmup_steps", "seed"):
            self._whole(name, at_least=0)
        self._between("learning_rate", 0.0, math.inf, open_low=True)
        self._between("final_learning_rate_fraction", 0.0, 1.0)
        self._between("weight_decay", 0.0, math.inf)
        for name in ("beta1", "beta2", "ema"):
            self._between(name, 0.0, 1.0, open_high=True)
        self._between("clip_norm", 0.0, math.inf, open_low=True, allow_infinity=True)
        for name, names in (
            ("precision", Precision),
            ("optimizer", OptimizerName),
            ("schedule", ScheduleName),
            ("sharding", Sharding),
        ):
            if getattr(self, name) not in get_args(names):
                raise ValueError(
                    f"{name} must be one of {', '.join(get_args(names))}; "
                    f"found {getattr(self, name)!r}"
                )
        for name in ("activation_checkpointing", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be true or false; found {getattr(self, name)!r}")

    def _whole(self, name: str, *, at_least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number; found {value!r}")
        if value < at_least:
            raise ValueError(f"{name} must be {at_least} or more; found {value}")

    def _between(
        self,
        name: str,
        low: float,
        high: float,
        *,
        open_low: bool = False,
        open_high: bool = False,
        allow_infinity: bool = False,
    ) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number; found {value!r}")
        good = low < value if open_low else low <= value
        good &= value < high if open_high else value <= high
        # NaN fails both comparisons; infinity is only a value where it has a meaning.
        if not good or (math.isinf(value) and not allow_infinity):
            left, right = "(" if open_low else "[", ")" if open_high or math.isinf(high) else "]"
            raise ValueError(f"{name} must lie in {left}{low:g}, {high:g}{right}; found {value}")


def changes(before: Mapping[str, Any], now: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Return what differs from the settings a run had before, except what is free to.

    Parameters
    ----------
    before : mapping
        Settings of the run, as a checkpoint keeps them. What an earlier omnisky could not be told,
        it did as the defaults say.
    now : TrainConfig
        Settings it shall go on with.

    Returns
    -------
    dict of str to (value, value)
        Before and now, by setting, sorted.
    """
    earlier = {f.name: f.default for f in fields(now)} | dict(before)
    here = asdict(now)
    return {
        name: (earlier.get(name), here.get(name))
        for name in sorted(here.keys() | earlier.keys())
        if name not in FREE and here.get(name) != earlier.get(name)
    }
