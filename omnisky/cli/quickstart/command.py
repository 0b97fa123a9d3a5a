"""``omnisky quickstart``: observations, tokens, embeddings, predictions and generation on stars."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from omnisky.adapt import FineTunedModel
from omnisky.adapt.conformal import labels_to_blend
from omnisky.adapt.metrics import coverage, robust_scatter
from omnisky.cli.quickstart import figures
from omnisky.cli.quickstart.galaxies import show_galaxies
from omnisky.codecs.tokens import Tokens
from omnisky.data import datasets
from omnisky.model import Model, pretrained_folder
from omnisky.storage import sha256_of

if TYPE_CHECKING:
    from omnisky.data.datasets import Dataset

__all__ = ["quickstart"]

PHOTOMETRY = ("gaia_g", "gaia_bp", "gaia_rp", "twomass_j", "twomass_h", "twomass_k")
XP = ("gaia_xp",)
TARGETS = ("apogee_teff", "apogee_logg", "apogee_fe_h")
_UNITS = ("K", "dex", "dex")
_INPUTS = {"XP + photometry": (*XP, *PHOTOMETRY), "XP": XP, "photometry": PHOTOMETRY}
_COVERAGE = 0.9


def quickstart(
    *,
    out: Path = Path("omnisky-quickstart"),
    dataset: str = "gaia-apogee",
    labels: int = 5000,
    base: str = "nano",
    galaxies: str = "nano-sky",
) -> None:
    """Show the whole chain on real stars and mock galaxies.

    Loads stars, turns their spectra and photometry into tokens, adapts the pretrained model with a
    few thousand labels, predicts the test stars with calibrated intervals, and samples
    measurements from each other. Then redshifts and spectra of mock galaxies from their images,
    images from spectra, and spectra from images of a survey that training never showed together
    with them. A second run re-uses the fitted model and the results.

    Parameters
    ----------
    out : path
        Folder for figures, table and fitted model.
    dataset : str
        Data set to use; gaia-apogee-mini needs no extra package.
    labels : int
        Labelled stars to adapt with.
    base : str
        Pretrained model for the stars.
    galaxies : str
        Pretrained model for the galaxies; empty leaves them out.
    """
    console = Console()
    began = monotonic()
    key = {
        "dataset": dataset,
        "labels": labels,
        "weights": _weights(base),
        "galaxies": _weights(galaxies) if galaxies else "",
        "format": 5,
    }
    stored = _stored(out, key)
    if stored is None:
        with _stages(console, total=7 + bool(galaxies)) as stage:
            stored = _run(stage, out, key, base, galaxies)
    else:
        console.print(f"Re-using the results of an earlier run in {out}.")
    _show(console, stored, out, base)
    console.print(f"[dim]{monotonic() - began:.0f} s in all[/dim]")


def _weights(model: str) -> str:
    return sha256_of(pretrained_folder(model) / "model.safetensors")


def _run(stage: Any, out: Path, key: dict[str, Any], base: str, galaxies: str) -> dict[str, Any]:
    stage("loading stars and model")
    stars = datasets.load(key["dataset"])
    model = Model.from_pretrained(base)
    parts, blend = _parts(stars, key["labels"])
    stage("turning observations into tokens")
    tokens = {n: model.tokenize(p.observations.select(*XP, *PHOTOMETRY)) for n, p in parts.items()}
    stage(f"adapting with {len(parts['train']) + blend} labels")
    adapted = _adapted(out / "model", model, tokens, parts, {**key, "blend": blend})
    stage("predicting test stars")
    rows, predicted = _predict(adapted, tokens["test"], parts["test"])
    out.mkdir(parents=True, exist_ok=True)
    figures.predictions(
        out / "1_predictions.png", parts["test"].targets(*TARGETS), predicted, TARGETS, _UNITS
    )
    stage("generating spectra from photometry")
    _generate_spectra(out, model, tokens["test"], parts["test"])
    stage("sampling posteriors of [Fe/H] and photometry")
    _generate_scalars(out, model, tokens["test"], parts["test"])
    counts = {"blend": blend, **{n: len(p) for n, p in parts.items()}}
    result = {"key": key, "stars": counts, "rows": rows}
    if galaxies:
        stage("images, redshifts and spectra of mock galaxies")
        result["galaxies"] = show_galaxies(out, galaxies)
    stage("writing results")
    (out / "results.json").write_text(json.dumps(result, indent=1))
    return result


def _parts(stars: Dataset, labels: int) -> tuple[dict[str, Dataset], int]:
    """Return the parts, and how many calibration stars choose the blend of the head's parts."""
    train = stars["train"]
    known = np.flatnonzero(np.isfinite(train.targets(*TARGETS)).any(axis=1))
    labels = min(labels, len(known))
    # Labels that choose the blend count among those that were asked for.
    blend = labels_to_blend(labels, len(stars["calibration"]))
    chosen = np.random.default_rng(0).permutation(known)[: labels - blend]
    parts = {"train": train[chosen], "calibration": stars["calibration"], "test": stars["test"]}
    return parts, blend


def _adapted(
    folder: Path,
    model: Model,
    tokens: dict[str, Tokens],
    parts: dict[str, Dataset],
    key: dict[str, Any],
) -> FineTunedModel:
    """Return the adapted model: the stored one if it was fitted to the same stars and weights."""
    note = folder.with_suffix(".json")
    key = {name: key[name] for name in ("dataset", "labels", "weights", "format", "blend")}
    if folder.is_dir() and note.is_file() and json.loads(note.read_text()) == key:
        return FineTunedModel.load(folder, base=model)
    adapted = FineTunedModel(base=model, adaptation="attentive")
    adapted.fit(tokens["train"], parts["train"].targets(*TARGETS))
    # The pretrained model knows labels of train stars: only stars that are new to it can say how
    # much its own answers are worth.
    held = parts["calibration"].targets(*TARGETS)
    adapted.calibrate(tokens["calibration"], held, blend=key["blend"] / len(held))
    adapted.save(folder, overwrite=True)
    note.write_text(json.dumps(key))
    return adapted


def _predict(
    adapted: FineTunedModel, tokens: Tokens, test: Dataset
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return one table row an input set, and the predictions from everything."""
    truth = test.targets(*TARGETS)
    rows, everything = [], np.empty(0)
    for name, inputs in _INPUTS.items():
        given = tokens.select(*inputs)
        predicted, low, high = adapted.predict_with_interval(given, _COVERAGE)
        if not rows:
            everything = predicted
        scatter = [robust_scatter(p - t) for p, t in zip(predicted.T, truth.T, strict=True)]
        inside = [coverage(truth[:, i], low[:, i], high[:, i]) for i in range(len(TARGETS))]
        rows.append({"inputs": name, "scatter": scatter, "coverage": inside})
    return rows, everything


def _generate_spectra(out: Path, model: Model, tokens: Tokens, test: Dataset) -> None:
    chosen = _cool_to_hot(test, 4)
    given = tokens[chosen].select(*PHOTOMETRY)
    samples = model.generate(given, "gaia_xp", n_samples=24)["gaia_xp"]
    figures.generated_spectra(out / "2_spectra_from_photometry.png", test[chosen], samples)


def _generate_scalars(out: Path, model: Model, tokens: Tokens, test: Dataset) -> None:
    if "apogee_fe_h" in model.network.names:
        chosen = _cool_to_hot(test, 4)
        posteriors = {
            name: model.generate(tokens[chosen].select(*inputs), "apogee_fe_h")["apogee_fe_h"]
            for name, inputs in _INPUTS.items()
        }
        figures.posteriors(out / "3_iron_posteriors.png", test[chosen], posteriors)
    some = np.arange(min(len(test), 500))
    generated = {
        band: model.generate(tokens[some].select(*XP), band, n_samples=1)[band]
        for band in ("gaia_g", "twomass_j", "twomass_k")
    }
    figures.photometry(out / "4_photometry_from_spectrum.png", test[some], generated)


def _cool_to_hot(test: Dataset, count: int) -> np.ndarray:
    """Return test stars with known labels, spread evenly in temperature."""
    known = np.flatnonzero(np.isfinite(test.targets(*TARGETS)).all(axis=1))
    order = known[test.targets("apogee_teff")[known, 0].argsort()]
    return order[(np.linspace(0.05, 0.95, count) * (len(order) - 1)).astype(int)]


def _stored(out: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return results of an earlier run with the same stars, labels and weights."""
    try:
        found = json.loads((out / "results.json").read_text())
    except (OSError, ValueError):
        return None
    return found if found.get("key") == key else None


@contextmanager
def _stages(console: Console, total: int) -> Iterator[Any]:
    """Show one bar over all stages, with elapsed and remaining time."""
    columns = (
        TextColumn("{task.description:<44}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)
        count = -1

        def stage(text: str) -> None:
            nonlocal count
            count += 1
            progress.update(task, description=text, completed=count)
            if not console.is_terminal:
                console.print(text)

        yield stage
        progress.update(task, description="done", completed=total)


def _show(console: Console, result: dict[str, Any], out: Path, base: str) -> None:
    counts = result["stars"]
    labels, blend = counts["train"] + counts["blend"], counts["blend"]
    caption = (
        "robust scatter 1.4826·MAD; in brackets the part of the truth inside the 90 % interval. "
        "One model for all three rows"
    )
    if blend:
        caption += f"; {blend} labels, of stars new to the pretrained model, choose the blend"
    title = f"{counts['test']} test stars, adapted with {labels} labels"
    table = Table(title=title, caption=f"{caption}.")
    table.add_column("inputs")
    for name, unit in zip(("Teff", "log g", "[Fe/H]"), _UNITS, strict=True):
        table.add_column(f"{name} / {unit}", justify="right")
    for row in result["rows"]:
        cells = [
            f"{s:.0f} ({c:.1%})" if s > 5 else f"{s:.3f} ({c:.1%})"
            for s, c in zip(row["scatter"], row["coverage"], strict=True)
        ]
        table.add_row(row["inputs"], *cells)
    console.print(table)
    for given, name in (("legacysurvey_image", "Legacy Survey image"), ("hsc_image", "HSC image")):
        for row in result.get("galaxies", {}).get(f"redshift_given_{given}", ()):
            console.print(
                f"mock galaxy, redshift given its {name}: {row['median']:.3f} "
                f"({row['low']:.3f} … {row['high']:.3f}), true {row['true']:.3f}"
            )
    console.print(f"Figures, table and fitted model are in [bold]{out}[/bold]. Next:")
    for command in (
        f"omnisky info {base}",
        f"omnisky predict gaia-apogee-mini:test --model {out}/model --out predictions.ecsv",
        "omnisky generate gaia-apogee-mini:test --given photometry --target apogee_fe_h "
        "--out iron.ecsv",
        f"omnisky cite --model {base}",
    ):
        console.print(f"  {command}", soft_wrap=True)
