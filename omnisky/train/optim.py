"""How are weights moved? AdamW and its learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from omnisky.train.config import TrainConfig

__all__ = [
    "build_optimizer",
    "build_schedule",
    "learning_rate_factor",
    "optimizer_tensors",
    "restore_optimizer",
]


def build_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Build AdamW with weight decay on matrices only.

    Parameters with fewer than two axes (biases, norms, scales), and those named by the module's
    own ``no_weight_decay()``, are not decayed. Frozen parameters are left out.

    Raises
    ------
    ValueError
        If nothing can be trained, or ``no_weight_decay()`` names what the module does not have.
    """
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    if not named:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient")
    declared = getattr(module, "no_weight_decay", None)
    spared = set(declared()) if callable(declared) else set()  # type: ignore[arg-type]
    unknown = spared - {n for n, _ in module.named_parameters()}
    if unknown:
        raise ValueError(
            f"no_weight_decay() of {type(module).__name__} names {', '.join(sorted(unknown))}, "
            "which it does not have; use names from named_parameters()"
        )
    kept = [(n, p) for n, p in named if p.ndim < 2 or n in spared]
    decayed = [(n, p) for n, p in named if p.ndim >= 2 and n not in spared]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
    )


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step (from 0), as a fraction of the peak.

    It rises on a line over `warmup_steps`, then falls on half a cosine, so that the last step has
    `final_learning_rate_fraction`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    length = max(1, config.steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / length)
    low = config.final_learning_rate_fraction
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))


def build_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, step: int = 0
) -> LambdaLR:
    """Build the schedule as it is after `step` steps.

    The rate is a pure function of the step, so the step is all its state.
    """
    for group in optimizer.param_groups:
        group["initial_lr"] = config.learning_rate
    return LambdaLR(optimizer, lambda now: learning_rate_factor(now, config), last_epoch=step - 1)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as flat named tensors, ``"exp_avg/<parameter>"`` and so on."""
    return {
        f"{key}/{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back a state from `optimizer_tensors`.

    Raises
    ------
    ValueError
        If a tensor belongs to no parameter of this optimizer.
    """
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    index = {name: i for i, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for flat, value in tensors.items():
        key, _, name = flat.partition("/")
        if name not in index:
            raise ValueError(
                f"the stored optimizer state has {name!r}, which is no parameter that is trained "
                "here; resume with the former model, or train in another folder"
            )
        state.setdefault(index[name], {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
