"""Run benchmark cells: fit on labelled train stars, score on the test stars, write result cards.

Nothing is chosen by what the cards say. Cells whose card is there are skipped, so a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from omnisky.adapt.conformal import labels_to_blend
from omnisky.adapt.metrics import (
    bias,
    bootstrap_interval,
    coverage,
    r2,
    robust_scatter,
    standard_deviation,
)
from omnisky.bench.cards import Cell, environment, find_card, write_card
from omnisky.bench.methods import ADAPTATIONS, BASELINES, method
from omnisky.bench.stars import STARS
from omnisky.bench.task import Task
from omnisky.data import datasets
from omnisky.modalities import Observations

__all__ = ["cells", "run", "score"]

_BOOTSTRAP = 300
_COVERAGE = 0.9
_METHODS = (*BASELINES, *(f"{a}@nano" for a in ADAPTATIONS))


def cells(
    task: Task,
    methods: Sequence[str],
    inputs: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    one_probe: bool = False,
) -> list[list[Cell]]:
    """Return the cells in groups that share one fit, quick ones first.

    Parameters
    ----------
    task : Task
        The benchmark.
    methods : sequence of str
        Names for `omnisky.bench.methods.method`.
    inputs, labels, seeds : sequence, optional
        Parts of the task to run; without them all.
    one_probe : bool
        Fit once with all inputs, predict with each input set.

    Raises
    ------
    ValueError
        If a method or an input set is unknown.
    """
    names = list(inputs or task.inputs)
    unknown = [name for name in names if name not in task.inputs]
    if unknown:
        raise ValueError(
            f"unknown inputs {', '.join(unknown)}; {task.name} has {', '.join(task.inputs)}"
        )
    groups = []
    for n_labels, seed, name in product(
        labels or task.label_counts, task.seeds if seeds is None else seeds, methods
    ):
        group = [
            Cell(method=method(name), inputs=i, n_labels=n_labels, seed=seed, one_probe=one_probe)
            for i in names
        ]
        groups += [group] if one_probe else [[cell] for cell in group]
    return groups


def run(
    task: Task,
    groups: list[list[Cell]],
    out: str | os.PathLike,
    *,
    jobs: int = 1,
    progress: bool = True,
) -> list[Path]:
    """Run the cells that have no card yet; return the files of all cells.

    Parameters
    ----------
    task : Task
        The benchmark.
    groups : list of list of Cell
        From `cells`.
    out : path
        Folder of the cards.
    jobs : int
        Processes, one thread each if there are several.
    progress : bool
        Show a bar.
    """
    folder = Path(out)
    todo = [g for g in groups if any(find_card(cell, folder, task) is None for cell in g)]
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not progress,
    )
    with bar:
        line = bar.add_task(
            f"{task.key}: {len(groups) - len(todo)} of {len(groups)} done before", total=len(todo)
        )
        for _ in _finished(task, todo, folder, jobs):
            bar.advance(line)
    return [cell.path(folder, task) for group in groups for cell in group]


def _finished(task: Task, todo: list[list[Cell]], folder: Path, jobs: int):
    """Yield once for each finished group."""
    if jobs == 1:
        for group in todo:
            yield _run_group(task, group, folder)
        return
    # Threads of several processes would fight for the cores; the setting is read at import.
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            names = [[_portable(cell) for cell in group] for group in todo]
            futures = [pool.submit(_run_portable, task, group, folder) for group in names]
            for future in as_completed(futures):
                yield future.result()
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _portable(cell: Cell) -> dict[str, Any]:
    """Return a cell without its functions, for another process."""
    return {**vars(cell), "method": cell.method.name}


def _run_portable(task: Task, group: list[dict[str, Any]], folder: Path) -> None:
    _run_group(task, [Cell(**{**c, "method": method(c["method"])}) for c in group], folder)


@cache
def _dataset(name: str) -> datasets.Dataset:
    return datasets.load(name)


def _run_group(task: Task, group: list[Cell], folder: Path) -> None:
    """Fit once, predict and write one card for each cell."""
    data, first = _dataset(task.dataset), group[0]
    fitted_on = task.all_inputs if first.one_probe else first.inputs
    labelled = task.labelled(data, first.n_labels, first.seed)
    held, test = _seen(task, data["calibration"], fitted_on), data["test"]
    # Labels that choose the blend count among those that were given.
    blend = labels_to_blend(first.n_labels, len(held[1])) if first.method.blends else 0
    train = data[labelled[: first.n_labels - blend]]
    estimator = first.method.make(first.seed, first.one_probe)
    start = time.perf_counter()
    estimator.fit(train.observations.select(*task.inputs[fitted_on]), train.targets(*task.targets))
    fit_seconds = time.perf_counter() - start
    if hasattr(estimator, "calibrate"):
        # On stars nobody trained on: a base that was pretrained with the labels of train stars errs
        # less on them than on new ones.
        estimator.calibrate(*held, blend=blend / len(held[1]))
    for cell in group:
        observations, truth = _seen(task, test, cell.inputs)
        start = time.perf_counter()
        predicted, *ends = _predict(estimator, observations)
        seconds = {"fit": fit_seconds, "predict": time.perf_counter() - start}
        card = {
            **cell.key(task),
            "config": cell.method.config(one_probe=cell.one_probe),
            "n_blend": blend,
            "n_test": len(truth),
            "metrics": score(task, truth, predicted),
            "interval": _interval(task, truth, ends),
            "seconds": {k: round(v, 3) for k, v in seconds.items()},
            **environment(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_card(card, cell.path(folder, task))


def _seen(task: Task, stars: datasets.Dataset, inputs: str) -> tuple[Observations, np.ndarray]:
    """Return observations and targets of the stars that have any of these inputs.

    A star without one is nobody's to predict.
    """
    observations = stars.observations.select(*task.inputs[inputs])
    seen = np.any([m.present for m in observations.values()], axis=0)
    return observations[seen], stars[seen].targets(*task.targets)


def score(task: Task, truth: np.ndarray, predicted: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return the metrics of each target with 68 % bootstrap intervals over the objects.

    Parameters
    ----------
    task : Task
        Names the targets.
    truth, predicted : array, shape (object, target)
        Labels (NaN where unknown) and predictions.
    """
    scores: dict[str, dict[str, Any]] = {}
    for name, t, p in zip(task.targets, truth.T, predicted.T, strict=True):
        known = np.isfinite(t)
        residual, t = (p - t)[known], t[known]
        scores[name] = {"n": int(known.sum())}
        for metric in (robust_scatter, standard_deviation, bias):
            low, high = bootstrap_interval(metric, residual, n=_BOOTSTRAP)
            scores[name][metric.__name__] = {"value": metric(residual), "low": low, "high": high}
        low, high = bootstrap_interval(r2, residual, t, n=_BOOTSTRAP)
        scores[name]["r2"] = {"value": r2(residual, t), "low": low, "high": high}
    return scores


def _predict(estimator, observations: Observations) -> tuple[np.ndarray, ...]:
    """Return predictions and, of methods that give intervals, their ends."""
    if hasattr(estimator, "predict_with_interval"):
        return estimator.predict_with_interval(observations, _COVERAGE)
    return (estimator.predict(observations),)


def _interval(task: Task, truth: np.ndarray, ends: list[np.ndarray]) -> dict[str, Any] | None:
    """Return coverage and median width of 90 % intervals, if there are some."""
    if not ends:
        return None
    lower, upper = ends
    covered = {
        name: {
            "coverage": coverage(truth[:, i], lower[:, i], upper[:, i]),
            "median_width": float(np.median(upper[:, i] - lower[:, i])),
        }
        for i, name in enumerate(task.targets)
    }
    return {"asked": _COVERAGE, **covered}


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    return [int(word.replace("_", "")) for word in _words(text)]


_OPTIONS: dict[str, dict[str, Any]] = {
    "--methods": {
        "type": _words,
        "default": list(_METHODS),
        "metavar": "A,B",
        "help": f"any of {', '.join(BASELINES)}; {', '.join(ADAPTATIONS)}, with @ and a pretrained "
        "model or its folder: attentive@runs/nano-unlabelled/model (default: all, with nano)",
    },
    "--inputs": {
        "type": _words,
        "metavar": "A,B",
        "help": f"any of {', '.join(STARS.inputs)} (default: all)",
    },
    "--labels": {
        "type": _numbers,
        "metavar": "N,M",
        "help": f"label counts (default: {','.join(map(str, STARS.label_counts))})",
    },
    "--seeds": {
        "type": _numbers,
        "metavar": "I,J",
        "help": "each draws its own labelled stars and seeds the method "
        f"(default: {','.join(map(str, STARS.seeds))})",
    },
    "--one-probe": {
        "action": "store_true",
        "help": "fit once with all inputs and predict with each input set, the others dropped",
    },
    "--out": {
        "type": Path,
        "default": Path("bench/results"),
        "help": "folder of the cards (default: %(default)s)",
    },
    "--jobs": {
        "type": int,
        "default": 1,
        "help": "processes, one thread each if more than 1 (default: 1)",
    },
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m omnisky.bench.run",
        description=f"Run the benchmark {STARS.key}: one JSON result card for each method, input "
        "set, label count and seed. Cells that have a card are skipped; stop and go on as you "
        "like. Then make the table with python -m omnisky.bench.report.",
    )
    for name, option in _OPTIONS.items():
        parser.add_argument(name, **option)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    try:
        groups = cells(
            STARS, asked.methods, asked.inputs, asked.labels, asked.seeds, one_probe=asked.one_probe
        )
        paths = run(STARS, groups, asked.out, jobs=asked.jobs)
    except (ValueError, ImportError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    print(f"{len(paths)} cards in {asked.out}; next: python -m omnisky.bench.report {asked.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
