"""What is one step? Micro-batches of an objective, a clipped gradient, moved weights.

A step that does not give finite numbers is not taken: it says which objects it was about, and
weights and metrics stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from omnisky.model.fast import warn_if_imitated
from omnisky.train.config import TrainConfig
from omnisky.train.log import Averages
from omnisky.train.parallel import Processes
from omnisky.train.sampler import seed_all, step_generator

__all__ = [
    "CodeObjective",
    "DescribedObjective",
    "DrawingObjective",
    "MixedObjective",
    "Objective",
    "SharedObjective",
    "Step",
]

# Objects named in a message, and those of them that are described.
_SHOWN, _DESCRIBED = 50, 5
# Batches made ready while an accelerator computes, each in a thread of its own.
_AHEAD = 4


@runtime_checkable
class Objective(Protocol):
    """What the loop needs to know of a task: a module, its data and its loss.

    Attributes
    ----------
    module : nn.Module
        What is trained. The loop moves it to the device, in place; in the end it is whole and
        trained in the main process, which is the only one sure to have it.
    n_examples : int
        Number of objects to train on.
    fingerprint : str
        sha256 of the data and of whatever else must agree when a run is resumed.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def n_examples(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def loss(
        self, module: nn.Module, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return the mean loss over some objects, and metrics to log.

        Parameters
        ----------
        module : nn.Module
            The module to call: the objective's own, or the same wrapped for several processes.
        indices : LongTensor, shape (object,)
            Which objects, on the CPU.
        generator : torch.Generator
            Source of everything random in this step, on the CPU.

        Returns
        -------
        loss : Tensor
            A mean over the objects, so that dividing a batch changes nothing.
        metrics : mapping
            To be averaged. ``tokens`` and ``flops`` (of these objects, forward and backward) are
            logged as tokens a second and as a share of what the machine can do.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """Return metrics on held-out objects; empty if there is nothing to say.

        Where weights are divided, all processes evaluate together: the module must be called as a
        whole, and equally often in each.
        """
        ...


@runtime_checkable
class MixedObjective(Objective, Protocol):
    """An objective with objects of several sources.

    Attributes
    ----------
    mixture : list of (int, float)
        Number of objects and weight of each source. Objects are numbered through the sources.
    """

    @property
    def mixture(self) -> list[tuple[int, float]]: ...


@runtime_checkable
class SharedObjective(Objective, Protocol):
    """An objective whose held-out objects processes can share among them."""

    def evaluate_share(self, rank: int, world_size: int) -> dict[str, tuple[float, int]]:
        """Return (sum, count) by metric over a process's share; those that are unknown left out.

        Sums and counts of all processes together are what `evaluate` makes its means of. Each
        process must call the module equally often and with equally many objects: parts of divided
        weights are put together meanwhile.

        Parameters
        ----------
        rank, world_size : int
            Which process asks, of how many.
        """
        ...


@runtime_checkable
class CodeObjective(Objective, Protocol):
    """An objective whose module chooses codes."""

    def take_usage(self) -> Tensor:
        """Return how often each code was chosen since the last call, LongTensor (code,)."""
        ...


@runtime_checkable
class DescribedObjective(Objective, Protocol):
    """An objective that can say what an object is, for messages."""

    def describe(self, index: int) -> str:
        """Return in a few words where the object of an index is found."""
        ...


@runtime_checkable
class DrawingObjective(Objective, Protocol):
    """An objective that can make a batch ready before its weights are what they shall be.

    While an accelerator computes a step, the processor makes the next batches ready in threads;
    then `loss` is not called, and must be `loss_of` of what `draw` returns.
    """

    def draw(self, indices: Tensor, generator: torch.Generator) -> Any:
        """Return a batch of some objects on the device that computes.

        Global state is not used. Several are drawn at once.
        """
        ...

    def loss_of(self, module: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Return what `loss` does, for what `draw` returned."""
        ...


def _computes_elsewhere(processes: Processes) -> bool:
    """Tell whether an accelerator computes, so that the processor has time to spare."""
    return processes.device.type != "cpu"


def _threads_of(device: torch.device) -> ThreadPoolExecutor:
    """Return threads whose current accelerator is that of a process, and that share no work.

    Threads of theirs would be in the way of the one that tells the accelerator what to do.
    """

    def begin() -> None:
        torch.set_num_threads(1)
        if device.type == "cuda":
            torch.cuda.set_device(device)

    return ThreadPoolExecutor(_AHEAD, "omnisky-draw", begin)


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
        drawing = isinstance(objective, DrawingObjective) and _computes_elsewhere(processes)
        # Batches that are to be known before their step.
        self.ahead = _AHEAD if drawing else 0
        self._threads = _threads_of(processes.device) if drawing else None
        self._coming: dict[int, Future[list[Any]]] = {}
        if processes.is_main and config.precision == "bf16":
            warn_if_imitated(processes.device, torch.bfloat16, "fp32")

    def take(
        self, step: int, indices: Tensor, averages: Averages, coming: Sequence[Tensor] = ()
    ) -> str:
        """Take one step and count its metrics, or say in all processes why it was not taken.

        Parameters
        ----------
        step : int
            Steps done before it.
        indices : LongTensor, shape (object,)
            This process's objects.
        averages : Averages
            Where to count.
        coming : sequence of LongTensor, shape (object,), optional
            Its objects of the next steps, which are made ready meanwhile.

        Returns
        -------
        str
            Empty, unless the loss or the gradient of a process is not finite: then what was met,
            in which objects.
        """
        generator = self._generator(step)
        self.optimizer.zero_grad(set_to_none=True)
        parts, count = self._parts(indices), self.config.accumulate
        ready = self._ready(step, parts, generator)
        self._begin(step + 1, coming)
        losses, counted = [], []
        for number, part in enumerate(parts, 1):
            # Gradients of several processes are averaged once, with the last micro-batch. Where
            # they are divided, each time: whole ones of all weights would have to be kept.
            waits = isinstance(self.wrapped, DistributedDataParallel) and number < count
            with self.wrapped.no_sync() if waits else nullcontext():  # type: ignore[operator]
                if ready is None:
                    loss, metrics = self._loss(part, generator)
                else:
                    loss, metrics = self._loss_of(ready[number - 1])
                # Exact for one micro-batch.
                (loss / count).backward()
            losses.append(loss.detach())
            counted.append({"loss": losses[-1].double(), **metrics})
        norm = self._clip()
        finite = torch.isfinite(torch.stack([*losses, norm.to(losses[0])])).all()
        if self.processes.any(not finite):
            return self._explanation(step, parts, losses, norm)
        for one in (*counted, {"gradient_norm": norm}):
            averages.add(one)
        self.optimizer.step()
        return ""

    def _parts(self, indices: Tensor) -> list[Tensor]:
        """Return the objects of each micro-batch."""
        # In strides: objects of several sources lie source by source.
        count = self.config.accumulate
        return [indices[first::count] for first in range(count)]

    def _draw(self, parts: list[Tensor], generator: torch.Generator) -> list[Any]:
        """Make all micro-batches of a step ready."""
        assert isinstance(self.objective, DrawingObjective)
        return [self.objective.draw(part, generator) for part in parts]

    def _begin(self, step: int, coming: Sequence[Tensor]) -> None:
        """Let threads make the batches of this step and of those after it ready."""
        if self._threads is None:
            return
        for number, indices in enumerate(coming, step):
            if number not in self._coming:
                its_own = step_generator(self.config.seed, number, self.processes.rank)
                drawn = self._threads.submit(self._draw, self._parts(indices), its_own)
                self._coming[number] = drawn

    def _ready(
        self, step: int, parts: list[Tensor], generator: torch.Generator
    ) -> list[Any] | None:
        """Return the micro-batches of a step, as a run that draws ahead takes them."""
        if not self.ahead:
            return None
        drawn = self._coming.pop(step, None)
        return self._draw(parts, generator) if drawn is None else drawn.result()

    def close(self) -> None:
        """End the threads that draw ahead, and forget what they drew."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
            # Threads that begin now share work again, as many as this one.
            torch.set_num_threads(torch.get_num_threads())
        self._coming = {}

    def _generator(self, step: int) -> torch.Generator:
        """Return the step's generator, after seeding the global ones alike."""
        stream = (self.config.seed, step, self.processes.rank)
        seed_all(*stream)
        return step_generator(*stream)

    def autocast(self) -> torch.autocast:
        """Return the context in which the module computes in the precision of the run."""
        device, bf16 = self.processes.device, self.config.precision == "bf16"
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)

    def _loss(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Any]:
        with self.autocast():
            return self.objective.loss(self.wrapped, indices, generator)

    def _loss_of(self, batch: Any) -> tuple[Tensor, Any]:
        """Return loss and metrics of a batch that is ready."""
        assert isinstance(self.objective, DrawingObjective)
        with self.autocast():
            return self.objective.loss_of(self.wrapped, batch)

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
        found = f"micro-batch {number + 1} of {len(parts)}: loss {float(losses[number])}, "
        if alone:
            which = f"{self._listed(alone)} of {len(parts[number])}"
            found += f"not finite by themselves are objects {which}"
        elif bad:
            found += f"no object is so by itself; there are objects {self._listed(parts[number])}"
        else:
            found = ""
        said = self._by_process(found)
        if not said:
            objects = self._by_process(f"objects {self._listed(torch.cat(parts))}")
            length = f"all losses are finite, the length of the gradient is {float(norm)}"
            said = f"{length}; {objects}"
        remedy = (
            "Lower learning_rate or clip_norm, or lengthen warmup_steps, as a run that goes on may"
        )
        # If all are, it is not the objects.
        if self.processes.any(0 < len(alone) < len(parts[number])):
            remedy = "Leave those objects out or correct them, and train in another folder"
        return (
            f"the loss or its gradient is not finite in step {step + 1}: {said}. The step was not "
            f"taken. {remedy}."
        )

    def _by_process(self, text: str) -> str:
        """Return, in all processes, what each of them has to say."""
        told = enumerate(self.processes.gather(text))
        return "; ".join(f"process {rank}, {one}" for rank, one in told if one)

    def _listed(self, indices: Iterable[int] | Tensor) -> str:
        """Return the numbers of some objects, what the first are in words."""
        numbers = [int(index) for index in indices]
        words = list(map(str, numbers[:_SHOWN]))
        if isinstance(self.objective, DescribedObjective):
            for place, number in enumerate(numbers[:_DESCRIBED]):
                words[place] += f" ({self.objective.describe(number)})"
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        return ", ".join(words) + more

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
