"""Kill a small pretraining with SIGKILL at random moments, also inside saves; write JSON.

    python perf/kill_resume.py --kills 50 --out perf/results/kill_resume.json

A tiny transformer learns the tokens of the stars that ship with the package. One run is left alone
and keeps all its checkpoints. Others are killed after a random time and started again, until they
end; then the next begins. After each kill the newest checkpoint must be whole and have the bits of
the undisturbed run's at that step, in weights, moments, average and position; in the end log and
checkpoint must agree. Runs are forked from one process, which never trains, so that starting takes
no time. Every second kill waits, after its random time, for the next save to begin and then for up
to ten milliseconds. A kill counts as inside a save if it left an unfinished checkpoint behind.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from omnisky.bench.cards import environment
from omnisky.data import datasets
from omnisky.modalities import Observations
from omnisky.model import Model
from omnisky.model.masking import MaskingConfig
from omnisky.train import TrainConfig, train
from omnisky.train import checkpoint as checkpoints
from omnisky.train.pretraining import PretrainingObjective

_EVERY = 2
# Most seconds after a save has begun.
_INTO_SAVE = 0.01
_TIMES = ("examples_per_second", "tokens_per_second", "mfu")


def load_what_is_loaded_late() -> None:
    """Import what the first step of a run would: half a run's time, in which little can happen."""
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    torch.optim.AdamW([weight]).step()
    with contextlib.suppress(ImportError):
        importlib.import_module("torch.utils.tensorboard")


def objective() -> PretrainingObjective:
    """Return a tiny transformer with the stars that ship, tokenised."""
    tokenizer = Model.from_pretrained("nano").tokenizer
    stars = datasets.load("gaia-apogee-mini")
    names = list(tokenizer.codecs)
    observed = Observations({**stars.observations, **stars.labels})
    tokens = tokenizer.encode(observed.select(*[n for n in names if n in observed]))
    torch.manual_seed(0)
    network = Model.from_preset("tiny", tokenizer).network
    network.set_dropout(0.1)
    masking = MaskingConfig(input_budget=40, output_budget=20)
    return PretrainingObjective(network, tokens, tokens[:20], masking)


def started(made: PretrainingObjective, out: Path, steps: int, keep: int) -> int:
    """Start a run in a process of its own, and return its number."""
    number = os.fork()
    if number:
        return number
    try:
        settings = TrainConfig(
            steps=steps,
            batch_size=16,
            warmup_steps=5,
            ema=0.9,
            checkpoint_every=_EVERY,
            log_every=1,
            keep_checkpoints=keep,
        )
        train(made, settings, out, progress=False, device="cpu")
    except BaseException as error:
        print(f"a run failed: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def ended_within(number: int, seconds: float) -> bool:
    """Wait for a run; return True if it ended by itself in that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            if status:
                raise RuntimeError(f"a run ended with status {status}")
            return True
        time.sleep(0.001)
    return False


def same_checkpoint(out: Path, alone: Path) -> tuple[int, bool]:
    """Return the newest step of a run, and whether it has the bits of the one left alone."""
    with warnings.catch_warnings():
        # A damaged checkpoint would be passed over with a warning.
        warnings.simplefilter("error")
        found = checkpoints.latest(out)
    if found is None:
        return 0, True
    whole = checkpoints.load(alone / "checkpoints" / f"step-{found.step:08d}")
    same = found.state["sampler"] == whole.state["sampler"]
    for part in ("model", "optimizer", "average"):
        one, two = getattr(found, part), getattr(whole, part)
        same &= one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    return found.step, same


def log_of(out: Path) -> list[dict[str, Any]]:
    """Return the lines of a log but for what depends on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in _TIMES} for line in lines]


def killed_runs(
    folder: Path, kills: int, seed: int, steps: int, limit_seconds: float
) -> dict[str, Any]:
    """Return what became of runs that were killed."""
    load_what_is_loaded_late()
    made, alone = objective(), folder / "alone"
    began = time.monotonic()
    while not ended_within(started(made, alone, steps, keep=steps), 600):
        raise RuntimeError("the run left alone takes over ten minutes")
    duration = time.monotonic() - began
    source, told, ends = random.Random(seed), [], []
    while len(told) < kills and time.monotonic() - began < limit_seconds:
        out = folder / f"run-{len(ends)}"

        most = kills - len(told)
        waits = [source.uniform(0, 0.5 * duration) for _ in range(most)]
        into = [source.uniform(0, _INTO_SAVE) if n % 2 else None for n in range(most)]
        start = partial(started, made, out, steps, 2)
        told += _kills_of_one(start, out, alone, list(zip(waits, into, strict=True)))
        ends.append(same_checkpoint(out, alone) == (steps, True) and log_of(out) == log_of(alone))
    return {
        "kills": len(told),
        "exact": sum(one["exact"] for one in told),
        "inside_a_save": sum(one["inside_a_save"] for one in told),
        "runs": len(ends),
        "runs_that_ended_alike": sum(ends),
        "steps": steps,
        "seconds_of_the_run_left_alone": duration,
        "newest_steps": [one["step"] for one in told],
    }


def _kills_of_one(
    start: Callable[[], int], out: Path, alone: Path, moments: list[tuple[float, float | None]]
) -> list[dict[str, Any]]:
    """Start a run again and again until it ends, killing it at these moments at most."""
    told: list[dict[str, Any]] = []
    while True:
        before = unfinished(out)
        number = start()
        wait, into = moments[len(told)] if len(told) < len(moments) else (600.0, None)
        if ended_within(number, wait) or (
            into is not None and not in_save(number, out, before, into)
        ):
            return told
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        inside = bool(unfinished(out) - before)
        step, exact = same_checkpoint(out, alone)
        told.append({"step": step, "exact": exact, "inside_a_save": inside})


def unfinished(out: Path) -> set[int]:
    """Return the checkpoints that are being written, or were; two of one step are told apart."""
    found = set()
    for path in (out / "checkpoints").glob(".writing-*"):
        with contextlib.suppress(FileNotFoundError):
            found.add(path.stat().st_ctime_ns)
    return found


def in_save(number: int, out: Path, before: set[int], seconds: float) -> bool:
    """Wait until so long after a save has begun; return False if the run ended before."""
    while not unfinished(out) - before:
        if ended_within(number, 1e-4):
            return False
    time.sleep(seconds)
    return True


def main() -> int:
    """Run the measurement of the command line."""
    parser = argparse.ArgumentParser(description="Kills at random moments.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=60, help="of each run (default: 60)")
    parser.add_argument("--limit-seconds", type=float, default=480.0)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = killed_runs(Path(folder), asked.kills, asked.seed, asked.steps, asked.limit_seconds)
    found = {"environment": environment(), "seed": asked.seed, **found}
    print(json.dumps(found, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    good = found["exact"] == found["kills"] and found["runs"] == found["runs_that_ended_alike"]
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
