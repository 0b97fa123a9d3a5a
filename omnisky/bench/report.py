"""Result cards to a table, a summary, a figure and the sentences that may be claimed."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnisky.bench.cards import DEDICATED, ROW, read_cards
from omnisky.bench.figure import draw
from omnisky.bench.methods import BASELINES
from omnisky.bench.stars import STARS
from omnisky.bench.task import Task

__all__ = ["claims", "markdown", "report", "summarise"]

_METRICS = ("robust_scatter", "standard_deviation", "bias", "r2")
Row = dict[str, Any]


def summarise(cards: Sequence[dict[str, Any]], task: Task) -> list[Row]:
    """Return one row a method, input set, policy and label count: medians over seeds.

    Each metric has the median over seeds, the smallest and largest seed, and the median of the
    bootstrap limits over seeds.
    """
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for card in cards:
        groups[tuple(card[k] for k in ROW)].append(card)
    inputs, rows = list(task.inputs), []
    for name, members in groups.items():
        row: Row = dict(zip(ROW, name, strict=True))
        row["seeds"] = sorted(card["seed"] for card in members)
        row["seconds"] = float(np.median([card["seconds"]["fit"] for card in members]))
        for target in task.targets:
            row[target] = {
                m: _over_seeds([c["metrics"][target][m] for c in members]) for m in _METRICS
            }
            covered = [c["interval"][target]["coverage"] for c in members if c["interval"]]
            row[target]["coverage"] = float(np.median(covered)) if covered else None
        rows.append(row)
    order = {name: i for i, name in enumerate(BASELINES)}
    return sorted(
        rows,
        key=lambda r: (
            r["input_policy"],
            -inputs.index(r["inputs"]),
            r["n_labels"],
            order.get(r["method"], len(order)),
            r["method"],
        ),
    )


def _over_seeds(values: list[dict[str, float]]) -> dict[str, float]:
    middle = [v["value"] for v in values]
    return {
        "median": float(np.median(middle)),
        "least": min(middle),
        "most": max(middle),
        "low": float(np.median([v["low"] for v in values])),
        "high": float(np.median([v["high"] for v in values])),
    }


def _digits(unit: str) -> int:
    return 0 if unit == "K" else 3


def markdown(rows: Sequence[Row], task: Task) -> str:
    """Return the tables: one an input set and policy, best value of each label count in bold."""
    parts = []
    for policy, inputs in dict.fromkeys((r["input_policy"], r["inputs"]) for r in rows):
        those = [r for r in rows if (r["input_policy"], r["inputs"]) == (policy, inputs)]
        said = (
            "fitted for these inputs"
            if policy == DEDICATED
            else (f"fitted once with {task.all_inputs}, the rest dropped at predict time")
        )
        heads = [f"{_short(t)} [{u}]" for t, u in zip(task.targets, task.units, strict=True)]
        spread = [f"{h} {w}" for h in heads for w in ("σ", "s.d.", "bias", "R²")]
        names = ["labels", "method", *spread, "coverage", "seeds", "fit s"]
        lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
        lines += [_line(row, those, task) for row in those]
        parts.append(f"## Inputs {inputs} ({said})\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _line(row: Row, rows: Sequence[Row], task: Task) -> str:
    """Return one table line; robust scatter as median over seeds with the bootstrap interval."""
    fields = [f"{row['n_labels']}", row["method"]]
    for target, unit in zip(task.targets, task.units, strict=True):
        d, score = _digits(unit), row[target]
        sigma = score["robust_scatter"]
        rivals = [
            r[target]["robust_scatter"]["median"] for r in rows if r["n_labels"] == row["n_labels"]
        ]
        text = f"{sigma['median']:.{d}f}"
        text = f"**{text}**" if sigma["median"] == min(rivals) else text
        fields += [
            f"{text} ({sigma['low']:.{d}f}–{sigma['high']:.{d}f})",
            f"{score['standard_deviation']['median']:.{d}f}",
            f"{score['bias']['median']:+.{d}f}",
            f"{score['r2']['median']:.3f}",
        ]
    covered = [row[t]["coverage"] for t in task.targets]
    shown = "" if covered[0] is None else " / ".join(f"{c:.2f}" for c in covered)
    return (
        "| " + " | ".join([*fields, shown, str(len(row["seeds"])), f"{row['seconds']:.0f}"]) + " |"
    )


def claims(rows: Sequence[Row], task: Task) -> list[dict[str, Any]]:
    """Return what the numbers say about goals and baselines, with all inputs, as data and text.

    The adapted model is the one with the smallest mean of scatter relative to the baselines; each
    target has its own best baseline, which favours the baselines.
    """
    said: list[dict[str, Any]] = []
    full = [r for r in rows if r["inputs"] == task.all_inputs and r["input_policy"] == DEDICATED]
    for n in task.label_counts:
        here = [r for r in full if r["n_labels"] == n]
        rivals = [r for r in here if r["method"] in BASELINES]
        for base in sorted({r["method"].partition("@")[2] for r in here} - {""}):
            ours = [r for r in here if r["method"].endswith("@" + base)]
            said += _claims_of(ours, rivals, n, task)
    return said


def _sigma(row: Row, task: Task) -> np.ndarray:
    return np.array([row[target]["robust_scatter"]["median"] for target in task.targets])


def _claims_of(ours: list[Row], rivals: list[Row], n: int, task: Task) -> list[dict[str, Any]]:
    reference = np.min([_sigma(r, task) for r in (rivals or ours)], axis=0)
    best = min(ours, key=lambda r: float(np.mean(_sigma(r, task) / reference)))
    found, where = _sigma(best, task), f"At {n} labels, {task.all_inputs}, {best['method']}"
    said = [_goal_claim(found, task, n, where)] if n in task.goals else []
    if rivals:
        closest = [rivals[i] for i in np.argmin([_sigma(r, task) for r in rivals], axis=0)]
        said.append(_baseline_claim(best, closest, task, where))
    return [{"n_labels": n, "method": best["method"], **claim} for claim in said]


def _goal_claim(found: np.ndarray, task: Task, n: int, where: str) -> dict[str, Any]:
    goal = np.array(task.goals[n])
    verdicts = [
        f"{_short(t)} " + ("met" if f <= g else f"missed by {100 * (f / g - 1):.0f} %")
        for t, f, g in zip(task.targets, found, goal, strict=True)
    ]
    met = bool((found <= goal).all())
    text = f"{where}: {_listed(found, task)}; the goals ({_listed(goal, task)}) "
    text += "are met." if met else f"are not all met: {', '.join(verdicts)}."
    return {"kind": "goal", "met": met, "found": found.tolist(), "goal": list(goal), "text": text}


def _baseline_claim(best: Row, rivals: list[Row], task: Task, where: str) -> dict[str, Any]:
    """Compare our row with the best baseline of each target."""
    ours = [best[target]["robust_scatter"] for target in task.targets]
    theirs = [r[t]["robust_scatter"] for r, t in zip(rivals, task.targets, strict=True)]
    both = list(zip(ours, theirs, strict=True))
    gain = [100 * (1 - our["median"] / their["median"]) for our, their in both]
    within = [o["low"] <= t["high"] and t["low"] <= o["high"] for o, t in both]
    names = [rival["method"] for rival in rivals]
    parts = [
        f"{_short(t)} {abs(g):.0f} % {'below' if g >= 0 else 'above'} {b}"
        + (" (within the intervals)" if w else "")
        for t, g, b, w in zip(task.targets, gain, names, within, strict=True)
    ]
    return {
        "kind": "baseline",
        "percent_below": gain,
        "within_intervals": within,
        "best_baselines": names,
        "text": f"{where} against the best baseline: {', '.join(parts)}.",
    }


def _short(target: str) -> str:
    return target.partition("_")[2] or target


def _listed(values: np.ndarray, task: Task) -> str:
    return " / ".join(f"{v:.{_digits(u)}f} {u}" for v, u in zip(values, task.units, strict=True))


def report(task: Task, results: Path, out: Path) -> str:
    """Write ``table.md``, ``summary.json`` and ``scatter.{png,svg}`` to a folder; return the table.

    Parameters
    ----------
    task : Task
        The benchmark.
    results, out : path
        Folder of the cards, and where to write.
    """
    rows = summarise(read_cards(Path(results), task), task)
    said = claims(rows, task)
    text = f"# {task.name}, version {task.version}\n\n"
    text += (
        "σ = 1.4826·MAD of the test stars, median over seeds (68 % bootstrap interval); coverage "
    )
    text += "of intervals that should hold 90 %. Best σ of each label count in bold. Within the "
    text += f"intervals: those of both σ overlap. {task.caveat}\n\n"
    text += "".join(f"- {claim['text']}\n" for claim in said) + "\n" + markdown(rows, task)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text, encoding="utf-8")
    summary = {"task": task.name, "task_version": task.version, "claims": said, "rows": rows}
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    draw(rows, task, out)
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m omnisky.bench.report",
        description=f"Make table, summary and figure of {STARS.key} from its result cards.",
    )
    parser.add_argument("results", type=Path, help="folder of the cards")
    parser.add_argument("--out", type=Path, help="where to write (default: beside the cards)")
    asked = parser.parse_args(arguments)
    try:
        print(report(STARS, asked.results, asked.out or asked.results))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
