"""How does training run? One step after the other, so that a killed run goes on as if it had not.

On one machine, with the same number of processes, a run that was killed and started again ends
with the same bits as one that was not: weights, optimizer and the position in the data are
restored; the order of objects, all random numbers and the learning rate follow from the step.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from omnisky.codecs.figures import usage_figures
from omnisky.storage import CheckpointError
from omnisky.train import checkpoint as checkpoints
from omnisky.train.checkpoint import Checkpoint
from omnisky.train.config import TrainConfig
from omnisky.train.log import Averages, ProgressBar, RunLog
from omnisky.train.optim import (
    MovingAverage,
    build_optimizer,
    build_schedule,
    optimizer_tensors,
    restore_optimizer,
)
from omnisky.train.parallel import Processes, join_processes, place, tell, untell, wrap
from omnisky.train.sampler import EpochSampler, MixtureSampler, preserve_random_state
from omnisky.train.sharding import local_part
from omnisky.train.speed import Speed
from omnisky.train.step import Step

__all__ = ["CodeObjective", "MixedObjective", "Objective", "train"]

# How long, how often, and what lies where: not what is computed.
_MAY_CHANGE = {"steps", "log_every", "checkpoint_every", "keep_checkpoints"} | {
    "activation_checkpointing",
    "compile",
    "sharding",
}


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
class CodeObjective(Objective, Protocol):
    """An objective whose module chooses codes."""

    def take_usage(self) -> Tensor:
        """Return how often each code was chosen since the last call, LongTensor (code,)."""
        ...


def train(
    objective: Objective,
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> dict[str, float]:
    """Train an objective's module in place, and leave checkpoints and a log in a folder.

    Parameters
    ----------
    objective : Objective
        What to train, on what.
    config : TrainConfig
        How.
    out : Path
        Folder of the run: ``checkpoints/``, ``log.jsonl``, ``tensorboard/``.
    resume : bool
        Go on from the newest whole checkpoint in `out`, if there is one. If False, an earlier run
        in `out` is moved to ``previous-<n>/`` there, and training starts anew.
    progress : bool
        Show a progress bar.
    device : str or torch.device, optional
        Where to compute; without it, CUDA if there is any, else the CPU.

    Returns
    -------
    dict of str to float
        The last training metrics, and the evaluation's under ``evaluation/``.

    Raises
    ------
    ValueError
        If `out` holds a run of other data or another configuration, or a batch cannot be divided.
    FloatingPointError
        If the loss or its gradient stops being finite: which step, process and objects. The step
        is not taken, and earlier checkpoints are kept.
    OSError
        If a checkpoint cannot be written; earlier ones are kept.
    CheckpointError
        If all checkpoints are damaged, or processes do not see the same ones.
    """
    out = Path(out)
    with join_processes(device) as processes, preserve_random_state():
        if processes.is_main:
            checkpoints.clean(out)
            if not resume:
                _set_aside(out)
        processes.wait()
        run = _Run(objective, config, processes)
        found = checkpoints.latest(out)
        _check_same_folder(found, out, processes)
        if found is not None:
            run.restore(found, out)
        log = RunLog(out, run.step) if processes.is_main else None
        bar = ProgressBar(config.steps, run.step, enabled=progress and processes.is_main)
        try:
            run.go(out, log, bar)
        finally:
            bar.close()
            if log is not None:
                log.close()
        run.finish()
        return run.metrics


class _Run:
    """The moving parts of one training run."""

    def __init__(self, objective: Objective, config: TrainConfig, processes: Processes) -> None:
        self.objective, self.config, self.processes = objective, config, processes
        _check_division(config, processes)
        self.module = objective.module
        tell(self.module, config, processes)
        self.shards = place(self.module, processes, config.sharding, config.seed)
        self.wrapped = self.module if self.shards else wrap(self.module, processes)
        self.optimizer = build_optimizer(self.module, config)
        self.schedule = build_schedule(self.optimizer, config)
        self.sampler = _sampler(objective, config, processes)
        self.average = MovingAverage(self.module, config.ema) if config.ema else None
        self.taker = Step(objective, self.wrapped, self.optimizer, config, processes)
        self.speed = Speed(config, processes)
        self.step = 0
        self.metrics: dict[str, float] = {}

    def go(self, out: Path, log: RunLog | None, bar: ProgressBar) -> None:
        """Train to the end; log and save on the way."""
        config, averages = self.config, Averages()
        self.wrapped.train()
        began, first = time.monotonic(), self.step
        while self.step < config.steps:
            self._advance(averages)
            saves = self.step % config.checkpoint_every == 0 or self.step == config.steps
            # A line at every checkpoint, so that no average spans one and resuming loses none.
            if saves or self.step % config.log_every == 0:
                seconds, count = time.monotonic() - began, self.step - first
                self.metrics = self._report(averages, count, seconds)
                if saves:
                    self.metrics |= self._evaluate()
                if log is not None:
                    log.write(self.step, self.metrics)
                if saves:
                    self._save(out)
                began, first = time.monotonic(), self.step
            bar.update(self.step, self.metrics.get("loss"))

    def _advance(self, averages: Averages) -> None:
        self.taker.take(self.step, self.sampler.next_batch(), averages)
        self.schedule.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)

    def _report(self, averages: Averages, steps: int, seconds: float) -> dict[str, float]:
        means = Averages.merge(self.processes.gather(averages.take()))
        rates = self.speed.rates(means, steps, seconds)
        if isinstance(self.objective, CodeObjective):
            counts = self.processes.gather(self.objective.take_usage())
            means |= usage_figures(torch.stack(counts).sum(0))
        rate = self.optimizer.param_groups[0]["lr"]
        return means | {"learning_rate": rate} | rates

    def _evaluate(self) -> dict[str, float]:
        divided = self.shards is not None and self.shards.divided
        if not self.processes.is_main and not divided:
            return {}
        self.module.eval()
        with torch.no_grad(), self.average.taken() if self.average else nullcontext():
            found = self.objective.evaluate()
        self.wrapped.train()
        return {f"evaluation/{name}": float(value) for name, value in found.items()}

    def _save(self, out: Path) -> None:
        state = {
            "config": dataclasses.asdict(self.config),
            "fingerprint": self.objective.fingerprint,
            "sampler": self.sampler.state_dict(),
            "metrics": self.metrics,
            "world_size": self.processes.world_size,
            "torch": torch.__version__,
        }
        saved = Checkpoint(
            step=self.step,
            model=self.module.state_dict(),
            optimizer=optimizer_tensors(self.optimizer),
            average=self.average.state_dict() if self.average else {},
            state=state,
        )
        keep = self.config.keep_checkpoints
        checkpoints.save(saved, out, keep=keep, processes=self.processes)

    def finish(self) -> None:
        """Leave the weights in the module that were evaluated, whole in the main process."""
        if self.average is not None:
            self.average.take()
        if self.shards is not None:
            self.shards.gather(keep=self.processes.is_main, device=self.processes.device)
        untell(self.module)
        # The wrapping must not outlive the processes' connection: see `Processes.gather`.
        del self.wrapped, self.taker

    def restore(self, found: Checkpoint, out: Path) -> None:
        """Take everything from a checkpoint, after checking that it is of the same run."""
        self._check_same_run(found, out)
        here = self.module.state_dict()
        try:
            weights = {
                name: local_part(here[name], found.model, name) if name in here else torch.empty(0)
                for name in found.model
            }
            self.module.load_state_dict(weights)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint of step {found.step} in {out} is of another model: {error}. "
                f"{_REMEDY}"
            ) from error
        restore_optimizer(self.optimizer, found.optimizer)
        if self.average is not None:
            self.average.load_state_dict(found.average)
        self.sampler.load_state_dict(found.state["sampler"])
        self.step, self.metrics = found.step, found.state["metrics"]
        self.schedule = build_schedule(self.optimizer, self.config, self.step)

    def _check_same_run(self, found: Checkpoint, out: Path) -> None:
        if found.state["fingerprint"] != self.objective.fingerprint:
            raise ValueError(
                f"the run in {out} was trained on other data (or with another tokenizer or model): "
                f"its fingerprint is {found.state['fingerprint']!r}, that of this objective "
                f"{self.objective.fingerprint!r}. {_REMEDY}"
            )
        # What an earlier omnisky could not be told, it did as the defaults say.
        defaults = {f.name: f.default for f in dataclasses.fields(self.config)}
        now, before = dataclasses.asdict(self.config), defaults | found.state["config"]
        changed = [
            f"{name} {before.get(name)!r} there, {now.get(name)!r} here"
            for name in sorted(now.keys() | before.keys())
            if name not in _MAY_CHANGE and now.get(name) != before.get(name)
        ]
        if changed:
            raise ValueError(
                f"the run in {out} has another configuration: {'; '.join(changed)}. Only "
                f"{', '.join(sorted(_MAY_CHANGE))} may change when a run goes on. {_REMEDY}"
            )
        if found.step > self.config.steps:
            raise ValueError(
                f"the run in {out} is at step {found.step} already; steps is {self.config.steps}. "
                f"{_REMEDY}"
            )


_REMEDY = (
    "Train in another folder, or pass resume=False, which sets the earlier run aside and starts "
    "anew"
)


def _check_same_folder(found: Checkpoint | None, out: Path, processes: Processes) -> None:
    steps = processes.gather(None if found is None else found.step)
    if len(set(steps)) > 1:
        said = ", ".join(f"process {rank} {step}" for rank, step in enumerate(steps))
        raise CheckpointError(
            f"the processes do not find the same newest checkpoint in {out}: {said}. All machines "
            "of a run need one and the same folder"
        )


def _check_division(config: TrainConfig, processes: Processes) -> None:
    parts = processes.world_size * config.accumulate
    if config.batch_size % parts:
        raise ValueError(
            f"batch_size must be a multiple of {parts}: the number of processes, "
            f"{processes.world_size}, times accumulate, {config.accumulate}; found "
            f"{config.batch_size}"
        )


def _sampler(
    objective: Objective, config: TrainConfig, processes: Processes
) -> EpochSampler | MixtureSampler:
    place = {"rank": processes.rank, "world_size": processes.world_size}
    if isinstance(objective, MixedObjective) and len(objective.mixture) > 1:
        counts, weights = zip(*objective.mixture, strict=True)
        return MixtureSampler(counts, weights, config.batch_size, config.seed, **place)
    return EpochSampler(objective.n_examples, config.batch_size, config.seed, **place)


def _set_aside(out: Path) -> None:
    """Move an earlier run's files into ``previous-<n>/``; nothing is lost."""
    there = [out / name for name in ("checkpoints", "log.jsonl", "tensorboard")]
    there = [path for path in there if path.exists()]
    if there:
        number = 1
        while (out / f"previous-{number}").exists():
            number += 1
        aside = out / f"previous-{number}"
        aside.mkdir()
        for path in there:
            path.rename(aside / path.name)
