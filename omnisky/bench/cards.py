"""Result cards: one JSON file a cell, written whole or not at all, with what made the number."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omnisky.bench.methods import Method, weights_sha256
from omnisky.bench.task import Task

__all__ = ["Cell", "environment", "find_card", "read_cards", "write_card"]

SCHEMA = 1
DEDICATED, DROPPED = "dedicated", "dropped"
# What the cards of one row of the table have in common; they differ in their seeds.
ROW = ("method", "inputs", "input_policy", "n_labels")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Name one number of the table: a method, an input set, a label count and a seed.

    Parameters
    ----------
    method : Method
        What is fitted.
    inputs : str
        Input set of the task that is given at predict time.
    n_labels : int
        Labelled objects.
    seed : int
        Draws the labelled objects and seeds the method.
    one_probe : bool
        Fitted once with all inputs and asked with fewer, rather than fitted for these inputs.
    """

    method: Method
    inputs: str
    n_labels: int
    seed: int
    one_probe: bool = False

    @property
    def policy(self) -> str:
        """Whether "dedicated" to these inputs, or the others "dropped" at predict time."""
        return DROPPED if self.one_probe else DEDICATED

    def path(self, folder: Path, task: Task) -> Path:
        """Return the card's file, readable in a listing and safe on any file system."""
        words = (self.method.name, self.policy, self.inputs, str(self.n_labels), f"seed{self.seed}")
        name = "__".join(words).replace("/", "-").replace("\\", "-")
        return folder / task.key.replace("/", "-") / f"{name}.json"

    def key(self, task: Task) -> dict[str, Any]:
        """Return what must agree for a card on disk to be this cell's."""
        config = self.method.config(one_probe=self.one_probe)
        return {
            "schema": SCHEMA,
            "task": task.name,
            "task_version": task.version,
            "dataset": task.dataset,
            "method": self.method.name,
            "config_sha256": hashlib.sha256(json.dumps(config).encode()).hexdigest(),
            "weights_sha256": weights_sha256(self.method.base),
            "inputs": self.inputs,
            "input_policy": self.policy,
            "n_labels": self.n_labels,
            "seed": self.seed,
        }


def find_card(cell: Cell, folder: Path, task: Task) -> dict[str, Any] | None:
    """Return the cell's card if there is one with the same key; a damaged or stale one is not."""
    try:
        card = json.loads(cell.path(folder, task).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    key = cell.key(task)
    return card if all(card.get(name) == value for name, value in key.items()) else None


def write_card(card: dict[str, Any], path: Path) -> None:
    """Write a card atomically: a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(card, stream, indent=1, allow_nan=False)
            stream.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_cards(folder: Path, task: Task) -> list[dict[str, Any]]:
    """Return the cards of this version of the task, sorted by file name.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If a file is not JSON, naming it; if seeds of one cell have other settings, another revision
        of the method or other weights, naming the files of each kind.
    """
    cards: dict[Path, dict[str, Any]] = {}
    for path in sorted(Path(folder).rglob("*.json")):
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{path} is not JSON ({error}); delete it and run the cell again"
            ) from error
        mine = (SCHEMA, task.name, task.version)
        if isinstance(card, dict) and (
            tuple(card.get(k) for k in ("schema", "task", "task_version")) == mine
        ):
            cards[path] = card
    if not cards:
        raise FileNotFoundError(
            f"no result cards of {task.key} below {folder}; make some with "
            "python -m omnisky.bench.run"
        )
    _refuse_mixed(cards)
    return list(cards.values())


def _refuse_mixed(cards: Mapping[Path, dict[str, Any]]) -> None:
    """Refuse cells whose seeds were not made by one and the same method: they have no median."""
    cells: dict[tuple, dict[tuple, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path, card in cards.items():
        made_by = tuple(card.get(name) for name in ("config_sha256", "weights_sha256"))
        cells[tuple(card[name] for name in ROW)][made_by].append(path)
    for row, kinds in cells.items():
        if len(kinds) > 1:
            told = _differences([cards[paths[0]] for paths in kinds.values()])
            listed = [
                f"{what or 'otherwise the same'} ({', '.join(path.name for path in paths)})"
                for what, paths in zip(told, kinds.values(), strict=True)
            ]
            raise ValueError(
                f"the cards of {', '.join(map(str, row))} labels were not made alike, and have no "
                f"common median: {'; '.join(listed)}. Delete those of one kind, and run "
                "python -m omnisky.bench.run for what is missing then"
            )


def _differences(cards: Sequence[dict[str, Any]]) -> list[str]:
    """Return what of configuration and weights is not the same on all cards, a text for each."""
    of_each = [
        {**card.get("config", {}), "weights": str(card.get("weights_sha256"))[:8]} for card in cards
    ]
    names = list(dict.fromkeys(name for one in of_each for name in one))
    differ = [name for name in names if len({one.get(name) for one in of_each}) > 1]
    return [", ".join(f"{name} {one.get(name)}" for name in differ) for one in of_each]


def environment() -> dict[str, Any]:
    """Return hardware and versions, as far as they matter for seconds and numbers."""
    import torch

    packages = {}
    for name in ("omnisky", "torch", "numpy", "scikit-learn"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:  # run from a checkout
            packages[name] = "unknown"
    return {
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "versions": {"python": platform.python_version(), **packages},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
