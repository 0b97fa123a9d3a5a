"""What is one step? Micro-batches forward and backward, a clipped gradient, moved weights.

A step that does not give finite numbers is not taken: it says which objects it was about, and the
weights stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from omnisky.train.config import TrainConfig
from omnisky.train.log import Averages
from omnisky.train.parallel import Processes
from omnisky.train.sampler import seed_all, step_generator

if TYPE_CHECKING:
    from omnisky.train.loop import Objective

__all__ = ["Step"]

# Objects named in a message.
_SHOWN = 50


class Step:
    """Take steps of one run.

    Parameters
    ----------
    objective : Objective
        Whose loss goes down.
    wrapped : nn.Module
        Its module, as it is called in this process.
    optimizer : torch.optim.Optimizer
        What moves the weights.
    config : TrainConfig
        Micro-batches, precision, clipping, seed.
    processes : Processes
        Which process this is.
    """

    def __init__(
        self,
        objective: Objective,
        wrapped: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        processes: Processes,
    ) -> None:
        self.objective, self.wrapped, self.optimizer = objective, wrapped, optimizer
        self.config, self.processes = config, processes

    def take(self, step: int, indices: Tensor, averages: Averages) -> None:
        """Take one step and count its metrics.

        Parameters
        ----------
        step : int
            Steps done before it.
        indices : LongTensor, shape (object,)
            This process's objects.
        averages : Averages
            Where to count.

        Raises
        ------
        FloatingPointError
            In all processes, if the loss or the gradient of any of them is not finite.
        """
        generator = self._generator(step)
        self.optimizer.zero_grad(set_to_none=True)
        # In strides: objects of several sources lie source by source.
        count = self.config.accumulate
        parts = [indices[first::count] for first in range(count)]
        losses = []
        for number, part in enumerate(parts, 1):
            # Gradients of several processes are averaged once, with the last micro-batch. Where
            # they are divided, each time: whole ones of all weights would have to be kept.
            waits = isinstance(self.wrapped, DistributedDataParallel) and number < count
            with self.wrapped.no_sync() if waits else nullcontext():  # type: ignore[operator]
                loss, metrics = self._loss(part, generator)
                # Exact for one micro-batch.
                (loss / count).backward()
            losses.append(loss.detach())
            averages.add({"loss": losses[-1].double(), **metrics})
        norm = self._clip()
        finite = torch.isfinite(torch.stack([*losses, norm.to(losses[0])])).all()
        if self.processes.any(not finite):
            raise FloatingPointError(self._explanation(step, parts, losses, norm))
        averages.add({"gradient_norm": norm})
        self.optimizer.step()

    def _generator(self, step: int) -> torch.Generator:
        """Return the step's generator, after seeding the global ones alike."""
        stream = (self.config.seed, step, self.processes.rank)
        seed_all(*stream)
        return step_generator(*stream)

    def _loss(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Any]:
        device, bf16 = self.processes.device, self.config.precision == "bf16"
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            return self.objective.loss(self.wrapped, indices, generator)

    def _clip(self) -> Tensor:
        """Shorten the gradient if it is too long, and return its length before."""
        parameters = self.objective.module.parameters()
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm).detach()
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _explanation(
        self, step: int, parts: list[Tensor], losses: list[Tensor], norm: Tensor
    ) -> str:
        bad = [n for n, loss in enumerate(losses) if not bool(torch.isfinite(loss))]
        number = bad[0] if bad else 0
        alone = self._not_finite_alone(step, parts[number])
        place = f"micro-batch {number + 1} of {len(parts)}"
        found = (bool(bad), place, float(losses[number]), parts[number].tolist(), alone)
        told = [_account(rank, *one) for rank, one in enumerate(self.processes.gather(found))]
        said = [account for account in told if account]
        if not said:
            said = [f"all losses are finite, the length of the gradient is {float(norm)}"]
        return (
            f"the loss or its gradient is not finite in step {step + 1}: {'; '.join(said)}. "
            "The step was not taken and earlier checkpoints are kept. Look for NaN in those "
            "objects (numbered as the objective does); else lower learning_rate or clip_norm, or "
            "lengthen warmup_steps"
        )

    def _not_finite_alone(self, step: int, indices: Tensor) -> list[int]:
        """Return the objects that give no finite loss one by one."""
        # Nothing is normalised over a batch of one in evaluation.
        self.wrapped.eval()
        generator = self._generator(step)
        found = []
        with torch.no_grad():
            for index in indices:
                loss, _ = self._loss(index[None], generator)
                if not bool(torch.isfinite(loss)):
                    found.append(int(index))
        return found


def _account(rank: int, bad: bool, place: str, loss: float, batch: list, alone: list) -> str:
    """Say what one process met; nothing if all was well."""
    if not (bad or alone):
        return ""
    if alone:
        which = f"not finite by themselves are objects {_listed(alone)} of {len(batch)}"
    else:
        which = f"no object is so by itself; there are objects {_listed(batch)}"
    return f"process {rank}, {place}: loss {loss}, {which}"


def _listed(numbers: Iterable[int]) -> str:
    numbers = list(numbers)
    more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
    return ", ".join(map(str, numbers[:_SHOWN])) + more
