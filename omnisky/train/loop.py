"""How does training run? One step after the other, so that a killed run goes on as if it had not.

On the CPU of one machine, with the same number of processes, a run that was killed and started
again ends with the same bits as one that was not (accelerators may round otherwise): weights,
optimizer and the position in the data are restored; the order of objects, all random numbers and
the learning rate follow from the step.
"""

from __future__ import annotations

import dataclasses
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from omnisky.codecs.figures import usage_figures
from omnisky.storage import CheckpointError
from omnisky.train import checkpoint as checkpoints
from omnisky.train.checkpoint import Checkpoint
from omnisky.train.config import FREE, STEERING, TrainConfig, changes
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
from omnisky.train.step import CodeObjective, MixedObjective, Objective, SharedObjective, Step

__all__ = ["train"]


def train(
    objective: Objective,
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = True,
    progress: bool = True,
    device: str | torch.device | None = None,
    accepted: Callable[[], object] | None = None,
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
    accepted : callable, optional
        Called in the main process before the first step, once this run may go on from what is in
        `out`: what it writes does not replace what a run of other settings wrote.

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
        is not taken, and what there was before it is kept in a checkpoint, beside earlier ones.
    OSError
        If a checkpoint cannot be written; earlier ones are kept.
    CheckpointError
        If all checkpoints are damaged, or processes do not see the same ones.

    Warns
    -----
    UserWarning
        If a run goes on with another learning_rate, clip_norm or warmup_steps.
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
            if processes.is_main and accepted is not None:
                accepted()
            with closing(run.taker):
                run.go(out, log, bar)
        except FloatingPointError:
            run.unwrap()
            raise
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
        # Where the sampler is after the steps done; it may be some further, see `_advance`.
        self.position = self.sampler.state_dict()
        self.upcoming: deque[tuple[Tensor, dict]] = deque()
        self.taker = Step(objective, self.wrapped, self.optimizer, config, processes)
        self.speed = Speed(config, processes)
        self.averages = Averages()
        # What a checkpoint holds of the module; more than weights may change in a forward pass.
        fixed = getattr(self.module, "buffers_are_fixed", False)
        self.held = set() if fixed else set(self.module.state_dict())
        # Steps done, those of the newest checkpoint, and those of the last report with its time.
        self.step, self.kept, self.told = 0, 0, (0, 0.0)
        self.metrics: dict[str, float] = {}

    def go(self, out: Path, log: RunLog | None, bar: ProgressBar) -> None:
        """Train to the end; log and save on the way."""
        config = self.config
        self.wrapped.train()
        self.told = self.step, time.monotonic()
        while self.step < config.steps:
            if problem := self._advance():
                raise FloatingPointError(f"{problem} {self._rescue(out, log)}")
            saves = self.step % config.checkpoint_every == 0 or self.step == config.steps
            # A line at every checkpoint, so that no average spans one and resuming loses none.
            if saves or self.step % config.log_every == 0:
                self.metrics = self._report()
                if saves:
                    self.metrics |= self._evaluate()
                if log is not None:
                    log.write(self.step, self.metrics)
                if saves:
                    self._save(out, config.keep_checkpoints)
                self.told = self.step, time.monotonic()
            bar.update(self.step, self.metrics.get("loss"))

    def _advance(self) -> str:
        """Take a step, or say why it was not taken and be as before it, but for the sampler."""
        buffers = {n: b.clone() for n, b in self.module.named_buffers() if n in self.held}
        upcoming, last = self.upcoming, self.config.steps - 1
        while len(upcoming) <= min(self.taker.ahead, last - self.step):
            upcoming.append(self._next_batch())
        indices, position = upcoming.popleft()
        coming = [its for its, _ in upcoming]
        problem = self.taker.take(self.step, indices, self.averages, coming)
        if problem:
            for name, buffer in self.module.named_buffers():
                if name in buffers:
                    buffer.copy_(buffers[name])
            return problem
        self.position = position
        self.schedule.step()
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        return ""

    def _next_batch(self) -> tuple[Tensor, dict]:
        """Return objects, and where the sampler is after them."""
        return self.sampler.next_batch(), self.sampler.state_dict()

    def _rescue(self, out: Path, log: RunLog | None) -> str:
        """Keep what there was before a step that was not taken, and say where."""
        if not self.step:
            return "No step was taken before it, so that nothing is lost."
        if self.kept < self.step:
            good = all(bool(torch.isfinite(_own(p)).all()) for p in self.module.parameters())
            if self.processes.any(not good):
                return "Weights were not finite before it; earlier checkpoints are kept."
            if self.told[0] < self.step:
                self.metrics = self._report(usage=False)
            try:
                # What spoilt this step may have begun earlier: no earlier one is removed.
                self._save(out, keep=sys.maxsize)
            except OSError as error:
                return f"What there was before it is lost: {error.strerror}"
            if log is not None and self.told[0] < self.step:
                log.write(self.step, self.metrics)
        return (
            f"What there was before it is kept in {checkpoints.folder_of(out, self.step)}, where "
            "the same run goes on. If it stops there again, whatever is set, and no single object "
            "is at fault, weights were spoilt before: remove that folder to go on from the "
            "checkpoint before it, or train in another folder"
        )

    def _report(self, *, usage: bool = True) -> dict[str, float]:
        """Return metrics since the last report; of codes without those of a step not taken."""
        steps, seconds = self.step - self.told[0], time.monotonic() - self.told[1]
        means = Averages.merge(self.processes.gather(self.averages.take()))
        rates = self.speed.rates(means, steps, seconds)
        if usage and isinstance(self.objective, CodeObjective):
            counts = self.processes.gather(self.objective.take_usage())
            means |= usage_figures(torch.stack(counts).sum(0))
        rate = self.optimizer.param_groups[0]["lr"]
        return means | {"learning_rate": rate} | rates

    def _evaluate(self) -> dict[str, float]:
        objective, processes = self.objective, self.processes
        divided = self.shards is not None and self.shards.divided
        shared = isinstance(objective, SharedObjective)
        if not (shared or divided or processes.is_main):
            return {}
        self.module.eval()
        with torch.no_grad(), self.average.taken() if self.average else nullcontext():
            if shared:
                with self.taker.autocast():
                    share = objective.evaluate_share(processes.rank, processes.world_size)
                found = Averages.merge(processes.gather(share))
            else:
                found = objective.evaluate()
        self.wrapped.train()
        return {f"evaluation/{name}": float(value) for name, value in found.items()}

    def _save(self, out: Path, keep: int) -> None:
        state = {
            "config": dataclasses.asdict(self.config),
            "fingerprint": self.objective.fingerprint,
            "sampler": self.position,
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
        checkpoints.save(saved, out, keep=keep, processes=self.processes)
        self.kept = self.step

    def finish(self) -> None:
        """Leave the weights in the module that were evaluated, whole in the main process."""
        if self.average is not None:
            self.average.take()
        if self.shards is not None:
            self.shards.gather(keep=self.processes.is_main, device=self.processes.device)
        untell(self.module)
        self.unwrap()

    def unwrap(self) -> None:
        """Let go of the wrapping, which must not outlive the connection: see `Processes.gather`."""
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
        self.position = self.sampler.state_dict()
        self.step = self.kept = found.step
        self.metrics = found.state["metrics"]
        self.schedule = build_schedule(self.optimizer, self.config, self.step)

    def _check_same_run(self, found: Checkpoint, out: Path) -> None:
        if found.state["fingerprint"] != self.objective.fingerprint:
            raise ValueError(
                f"the run in {out} was trained on other data (or with another tokenizer or model, "
                "or other settings of its recipe, as of masking, token weights, dropout, frozen; "
                "or by an older omnisky that did not tell the last two): "
                f"its fingerprint is {found.state['fingerprint']!r}, that of this objective "
                f"{self.objective.fingerprint!r}. {_REMEDY}"
            )
        changed = changes(found.state["config"], self.config)
        refused = [
            f"{name} {before!r} there, {now!r} here"
            for name, (before, now) in changed.items()
            if name not in STEERING
        ]
        if refused:
            raise ValueError(
                f"the run in {out} has another configuration: {'; '.join(refused)}. Only "
                f"{', '.join(sorted(FREE | STEERING))} may change when a run goes on. {_REMEDY}"
            )
        if found.step > self.config.steps:
            raise ValueError(
                f"the run in {out} is at step {found.step} already; steps is {self.config.steps}. "
                f"{_REMEDY}"
            )
        if changed and self.processes.is_main:
            told = [f"{name} {now!r} instead of {was!r}" for name, (was, now) in changed.items()]
            warnings.warn(
                f"the run in {out} goes on from step {found.step} with {', '.join(told)}",
                stacklevel=2,
            )


_REMEDY = (
    "Train in another folder, or pass resume=False, which sets the earlier run aside and starts "
    "anew"
)


def _own(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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
