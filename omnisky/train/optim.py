"""How are weights moved? Adam in three ways, the learning rate over time, and their average."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from omnisky.train.config import TrainConfig
from omnisky.train.sharding import divided_like, local_part, rows_here

__all__ = [
    "MovingAverage",
    "MuonWithAdamW",
    "build_optimizer",
    "build_schedule",
    "learning_rate_factor",
    "optimizer_tensors",
    "orthogonalised",
    "restore_optimizer",
]

Named = list[tuple[str, nn.Parameter]]
# Numbers of matrices that Muon works on at once, for memory.
_TOGETHER = 2**24


class MuonWithAdamW(torch.optim.Optimizer):
    """Move some matrices by Muon and all other parameters by AdamW, as one optimizer.

    Muon (Jordan 2024) steps along the nearest orthogonal matrix to the momentum. Its steps are
    scaled to the size that AdamW's have (Liu et al. 2025, arXiv:2502.16982, section 2.2), so that
    one learning rate serves both.

    Of matrices that are divided among processes, each process keeps its rows of the momentum; to
    find the step, all put one matrix after the other together.

    Parameters
    ----------
    matrices : list of (str, Parameter)
        What Muon moves, all with two axes.
    others : list of dict
        Parameter groups for AdamW.
    learning_rate, weight_decay : float
        Of the matrices; the groups of the others bring their own decay.
    betas : (float, float)
        AdamW decay rates; the first is also Muon's momentum, but at least 0.95.
    """

    def __init__(
        self,
        matrices: Named,
        others: list[dict[str, Any]],
        learning_rate: float,
        weight_decay: float,
        betas: tuple[float, float],
    ) -> None:
        self._adamw = torch.optim.AdamW(others, lr=learning_rate, betas=betas, fused=True)
        moved = {
            "params": [parameter for _, parameter in matrices],
            "param_names": [name for name, _ in matrices],
            "lr": learning_rate,
            "weight_decay": weight_decay,
            "momentum": max(betas[0], 0.95),
        }
        super().__init__([moved, *self._adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let AdamW work on this optimizer's own groups and state."""
        self._adamw.param_groups = self.param_groups[1:]
        self._adamw.state = self.state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Put back a state from `state_dict`."""
        super().load_state_dict(dict(state_dict))
        self._share()

    def step(self, closure: Callable | None = None) -> None:  # pyright: ignore
        """Take one step."""
        assert closure is None, "the training loop has none"
        self._move_matrices()
        self._adamw.step()

    @torch.no_grad()
    def _move_matrices(self) -> None:
        group = self.param_groups[0]
        rate, keep = float(group["lr"]), 1 - float(group["lr"]) * group["weight_decay"]
        for matrices in _alike(group["params"]):
            rows, columns = matrices[0].shape
            wanted = torch.stack([self._wanted(matrix) for matrix in matrices])
            step = orthogonalised(wanted).mul_(-0.2 * rate * max(rows, columns) ** 0.5)
            for matrix, own in zip(matrices, step, strict=True):
                if isinstance(matrix, DTensor):
                    matrix.to_local().mul_(keep).add_(own[slice(*rows_here(matrix))])
                else:
                    matrix.mul_(keep).add_(own)

    def _wanted(self, matrix: Tensor) -> Tensor:
        """Return where the momentum points one gradient ahead (Nesterov), of the whole matrix."""
        momentum, state = self.param_groups[0]["momentum"], self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        kept, gradient = state["momentum_buffer"], matrix.grad
        if isinstance(matrix, DTensor):
            rows, own = kept.to_local(), cast(DTensor, gradient).to_local()
            rows.lerp_(own, 1 - momentum)
            return divided_like(matrix, own.lerp(rows, momentum)).full_tensor()
        kept.lerp_(gradient, 1 - momentum)
        return cast(Tensor, gradient).lerp(kept, momentum)


def _alike(matrices: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield matrices that have a gradient, those of one shape together, but not too many."""
    found: dict[torch.Size, list[Tensor]] = {}
    for matrix in matrices:
        if matrix.grad is not None:
            found.setdefault(matrix.shape, []).append(matrix)
    for same in found.values():
        # Divided ones are put together from all processes, one after the other.
        divided = isinstance(same[0], DTensor)
        size = 1 if divided else max(1, _TOGETHER // same[0].numel())
        yield from (same[i : i + size] for i in range(0, len(same), size))


def orthogonalised(matrices: Float[Tensor, "n a b"]) -> Float[Tensor, "n a b"]:
    """Return matrices near the nearest orthogonal ones.

    Singular values above some hundredths of the norm come near 1 (0.65 to 1.25); smaller ones grow
    up to 3.4445 times a step. Five steps of X ← 3.4445 X + (−4.775 A + 2.0315 A²) X with A = X Xᵀ,
    from X of norm 1 (Jordan 2024). In float32 on a CPU: those that have no bfloat16 products take
    12 to 20 times as long for them.

    Parameters
    ----------
    matrices : FloatTensor, shape (matrix, row, column)
        Matrices of one shape.
    """
    on_cpu = matrices.device.type == "cpu"
    found = matrices.float() if on_cpu else matrices.bfloat16()
    high = found.shape[1] > found.shape[2]
    if high:
        found = found.mT
    found = found / found.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
    for _ in range(5):
        product = found @ found.mT
        change = torch.baddbmm(product, product, product, beta=-4.775, alpha=2.0315)
        found = torch.baddbmm(found, change, found, beta=3.4445)
    return (found.mT if high else found).to(matrices.dtype)


def build_optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer with weight decay on matrices only.

    Parameters with fewer than two axes (biases, norms, scales), and those named by the module's
    own ``no_weight_decay()``, are not decayed. Frozen parameters are left out. Muon moves the
    matrices that the module names in its own ``hidden_matrices()``.

    Raises
    ------
    ValueError
        If nothing can be trained, or the module names parameters that it does not have, or the
        configuration asks for Muon and the module names no matrix for it.
    """
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    if not named:
        raise ValueError(f"{type(module).__name__} has no parameter that requires a gradient")
    spared = _declared(module, "no_weight_decay")
    orthogonal: set[str] = set()
    if config.optimizer == "muon":
        orthogonal = _declared(module, "hidden_matrices")
        if not orthogonal:
            raise ValueError(
                f"optimizer='muon' needs {type(module).__name__} to name its matrices in "
                "hidden_matrices(), which it does not; use optimizer='adamw'"
            )
    matrices = [(n, p) for n, p in named if n in orthogonal]
    named = [(n, p) for n, p in named if n not in orthogonal]
    kept = [(n, p) for n, p in named if p.ndim < 2 or n in spared]
    decayed = [(n, p) for n, p in named if p.ndim >= 2 and n not in spared]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    rate, betas = config.learning_rate, (config.beta1, config.beta2)
    if matrices:
        return MuonWithAdamW(matrices, groups, rate, config.weight_decay, betas)
    adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    # One pass over memory: seven times as fast as parameter by parameter on a CPU (dev/LOG.md).
    return adam(groups, lr=rate, betas=betas, fused=True)


def _declared(module: nn.Module, name: str) -> set[str]:
    """Return the parameter names that a method of the module gives; none without the method."""
    method = getattr(module, name, None)
    names = set(method()) if callable(method) else set()  # type: ignore[arg-type]
    unknown = names - {n for n, _ in module.named_parameters()}
    if unknown:
        raise ValueError(
            f"{name}() of {type(module).__name__} names {', '.join(sorted(unknown))}, which it "
            "does not have; use names from named_parameters()"
        )
    return names


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step (from 0), as a fraction of the peak.

    It rises on a line over `warmup_steps`, then stays, or falls on half a cosine, so that the last
    step has `final_learning_rate_fraction`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
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


class MovingAverage:
    """Keep the exponential moving average of a module's parameters.

    Parameters
    ----------
    module : nn.Module
        Its trained parameters are averaged; buffers are as they are.
    decay : float
        Weight of the past in each step; see `TrainConfig`.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._means = {n: p.detach().clone() for n, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        keep = min(self.decay, step / (step + 9))
        for name, mean in self._means.items():
            mean.lerp_(self._parameters[name], 1 - keep)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages by name of the parameter."""
        return dict(self._means)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state_dict` returned.

        Raises
        ------
        ValueError
            If it is of other parameters.
        """
        if state.keys() != self._means.keys():
            other = sorted(state.keys() ^ self._means.keys())
            raise ValueError(
                f"the stored moving average is of other weights than those trained here: "
                f"{', '.join(other[:5])}; train in another folder"
            )
        for name, mean in self._means.items():
            mean.copy_(local_part(mean, state, name))

    @torch.no_grad()
    def take(self) -> None:
        """Give the module its averaged weights, in place."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self._means[name])

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Let the module have its averaged weights for a while."""
        kept = {n: p.detach().clone() for n, p in self._parameters.items()}
        self.take()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(kept[name])


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as flat named tensors, ``"exp_avg/<parameter>"`` and so on."""
    return {
        f"{key}/{name}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back a state from `optimizer_tensors`.

    Raises
    ------
    ValueError
        If a tensor belongs to no parameter of this optimizer.
    """
    trained = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }
    index = {name: i for i, name in enumerate(trained)}
    state: dict[int, dict[str, Tensor]] = {}
    for flat in tensors:
        key, _, name = flat.partition("/")
        if name not in index:
            raise ValueError(
                f"the stored optimizer state has {name!r}, which is no parameter that is trained "
                "here; resume with the former model, or train in another folder"
            )
        # A number of steps is no row of anything.
        divided = key != "step"
        value = local_part(trained[name], tensors, flat) if divided else tensors[flat]
        state.setdefault(index[name], {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
