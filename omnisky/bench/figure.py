"""Draw scatter against number of labels: a panel a target, a line a method, labelled in place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from omnisky.bench.cards import DEDICATED
from omnisky.bench.methods import BASELINES
from omnisky.bench.task import Task

__all__ = ["draw"]

# Okabe & Ito (2008), told apart with any colour vision; baselines stay in the background.
_OURS = {"linear": "#E69F00", "attentive": "#0072B2", "full": "#D55E00"}
_MARKERS = {"ridge": "s", "trees": "^", "mlp": "D", "convnet": "v"}
_GREY, _BAND, _INK, _GOAL = "#8a8a8a", "#e4e4e4", "#222222", "#009E73"
_TITLES = {
    "apogee_teff": r"Effective temperature",
    "apogee_logg": r"Surface gravity",
    "apogee_fe_h": r"Metallicity [Fe/H]",
}
Row = dict[str, Any]


def draw(rows: Sequence[Row], task: Task, out: Path) -> list[Path]:
    """Write the figure of the dedicated fits with all inputs as PNG and SVG; return the files.

    Parameters
    ----------
    rows : sequence of dict
        From `omnisky.bench.report.summarise`.
    task : Task
        The benchmark.
    out : path
        Folder.
    """
    rows = [r for r in rows if r["input_policy"] == DEDICATED and r["inputs"] == task.all_inputs]
    figure = Figure(figsize=(4.6 * len(task.targets), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1, len(task.targets)))
    for i, (target, unit) in enumerate(zip(task.targets, task.units, strict=True)):
        _panel(axes[i], rows, task, i)
        axes[i].set_title(_TITLES.get(target, target), loc="left", color=_INK, fontsize=11)
        axes[i].set_ylabel(f"robust scatter [{unit}]", color=_INK)
    figure.supxlabel("labelled stars", fontsize=10, color=_INK)
    figure.suptitle(
        f"{task.name} v{task.version}, {task.all_inputs}: test stars, median over seeds\n",
        fontsize=10,
        color=_GREY,
        x=0.01,
        ha="left",
    )
    paths = [out / "scatter.png", out / "scatter.svg"]
    for path in paths:
        figure.savefig(path, dpi=180, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _panel(axis: Axes, rows: Sequence[Row], task: Task, index: int) -> None:
    target = task.targets[index]
    axis.set_xscale("log")
    axis.set_yscale("log")
    lines = {m: _line(rows, m, target) for m in dict.fromkeys(r["method"] for r in rows)}
    _best_baseline(axis, {m: line for m, line in lines.items() if m in BASELINES})
    ends = []
    for method, line in lines.items():
        colour = _draw_line(axis, method, line)
        ends.append((line["median"][-1], line["n"][-1], _short(method), colour))
    _style(axis, rows, task)
    # Room below all lines for what is written there.
    low, high = axis.get_ylim()
    axis.set_ylim(low * (low / high) ** 0.18, high)
    for n, goal in task.goals.items():
        axis.plot(n, goal[index], marker="*", ms=13, color=_GOAL, mec="white", mew=0.8, zorder=6)
        axis.annotate(
            f"goal {goal[index]:g}",
            (n, goal[index]),
            xytext=(-26, -26),
            textcoords="offset points",
            color=_GOAL,
            fontsize=9,
            fontweight="bold",
            ha="right",
            va="center",
            arrowprops={"arrowstyle": "-", "color": _GOAL, "lw": 0.8, "shrinkB": 6},
        )
    _label_ends(axis, ends)


def _draw_line(axis: Axes, method: str, line: dict[str, np.ndarray]) -> str:
    """Draw one method, ours strong and baselines thin and grey; return its colour."""
    family, _, base = method.partition("@")
    ours = family in _OURS
    colour = _OURS.get(family, _GREY)
    axis.plot(
        line["n"],
        line["median"],
        color=colour,
        lw=2.2 if ours else 1.1,
        zorder=4 if ours else 3,
        ls="-" if base in ("", "nano") else (0, (2, 1.2)),
        marker=_MARKERS.get(family, "o"),
        ms=5 if ours else 4,
        mec="white",
        mew=0.8,
    )
    if ours:
        axis.fill_between(line["n"], line["least"], line["most"], color=colour, alpha=0.15, lw=0)
    return colour


def _line(rows: Sequence[Row], method: str, target: str) -> dict[str, np.ndarray]:
    """Return label counts and scatter of one method: median, extremes and bootstrap limits."""
    mine = sorted((r for r in rows if r["method"] == method), key=lambda r: r["n_labels"])
    names = ("median", "least", "most", "low", "high")
    line = {k: np.array([r[target]["robust_scatter"][k] for r in mine]) for k in names}
    return {"n": np.array([r["n_labels"] for r in mine]), **line}


def _best_baseline(axis: Axes, lines: dict[str, dict[str, np.ndarray]]) -> None:
    """Shade the bootstrap interval of the best baseline at each label count."""
    counts = sorted({int(n) for line in lines.values() for n in line["n"]})
    band = []
    for n in counts:
        here = [
            {k: v[line["n"] == n][0] for k, v in line.items()}
            for line in lines.values()
            if n in line["n"]
        ]
        best = min(here, key=lambda point: point["median"])
        band.append((best["low"], best["high"]))
    if band:
        low, high = np.array(band).T
        axis.fill_between(counts, low, high, color=_BAND, lw=0, zorder=1)
        words = "grey band: best baseline, 68 % interval"
        axis.text(0.02, 0.02, words, transform=axis.transAxes, fontsize=7.5, color=_GREY)


def _short(method: str) -> str:
    family, _, base = method.partition("@")
    return family if base in ("", "nano") else f"{family}, {Path(base).name.removeprefix('nano-')}"


def _style(axis: Axes, rows: Sequence[Row], task: Task) -> None:
    counts = sorted({r["n_labels"] for r in rows} | set(task.goals)) or list(task.label_counts)
    # Room to the right for the names of the lines.
    axis.set_xlim(counts[0] * 0.8, counts[-1] * (counts[-1] / counts[0]) ** 0.42)
    axis.xaxis.set_major_locator(FixedLocator(counts))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}".replace(",", "\u2009")))
    axis.xaxis.set_minor_locator(NullLocator())
    low, high = axis.get_ylim()
    steps = [m * 10.0**e for e in range(-3, 4) for m in (1, 1.5, 2, 3, 4, 6, 8)]
    axis.yaxis.set_major_locator(FixedLocator([s for s in steps if low <= s <= high]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(axis="y", color="#eeeeee", lw=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#bbbbbb")
    axis.spines["bottom"].set_bounds(counts[0], counts[-1])
    axis.tick_params(colors="#555555", labelsize=8.5, length=3)


def _label_ends(axis: Axes, ends: list[tuple]) -> None:
    """Write each line's name beside its last point, moved apart where they would overlap."""
    low, high = np.log(axis.get_ylim())
    ends = sorted(ends)
    heights = _apart(np.array([(np.log(end[0]) - low) / (high - low) for end in ends]), gap=0.055)
    right = max((_fraction(axis, end[1]) for end in ends), default=0)
    for (value, n, name, colour), height in zip(ends, heights, strict=True):
        axis.annotate(
            name,
            (n, value),
            xytext=(right + 0.075, height),
            textcoords="axes fraction",
            color=colour,
            fontsize=8.5,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 5,
            },
        )


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """Move sorted heights apart until neighbours keep the gap, each cluster about its centre."""
    heights = heights.copy()
    for _ in range(500):
        lacking = (gap - np.diff(heights)).clip(min=0) / 2
        if lacking.max(initial=0) < 1e-4:
            break
        heights[:-1] -= lacking
        heights[1:] += lacking
    # Names below the axis would run into its numbers.
    return np.maximum(heights, 0.03 + gap * np.arange(len(heights)))


def _fraction(axis: Axes, n: float) -> float:
    """Return where a label count lies along the axis, 0 to 1."""
    left, right = np.log(axis.get_xlim())
    return float((np.log(n) - left) / (right - left))
